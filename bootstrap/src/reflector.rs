//! The reflector: tells whoever asks from which address its packet came.
//!
//! Stateless and never more bytes out than came in. All other datagrams are dropped in silence: nothing
//! unauthenticated is ever answered.
//!
//! A second socket answers too, and sends the answers that are wished from the other port: by what comes through of
//! those, a node finds out what its NAT lets in. Where the machine has several public addresses, answers can come from
//! another one as well.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, OnceLock},
};

use kanpachi_common::org::Address;
use kanpachi_transport::{
    DatagramHandler, Reader, SharedSocket,
    reflect::{Other, Request, Response, Via},
};

/// From the port of the bootstrap to the one that is tried first for the second socket: the next is a node's.
const DISTANCE: u16 = 2;
/// Addresses to answer from, at the most.
const MAX_ADDRESSES: usize = 4;

/// Handler of the bootstrap's socket, and of the second one.
pub(crate) struct Reflector {
    socket: SharedSocket,
    beside: Arc<Beside>,
}

/// What there is to answer from beside the socket that is asked.
#[derive(Debug, Default)]
pub(crate) struct Beside {
    port: Option<SharedSocket>,
    /// One socket for each public address of this machine. They only send.
    addresses: OnceLock<Vec<(IpAddr, SharedSocket)>>,
}

impl Beside {
    /// Opens the second socket next to the first, on the same addresses and a port near by or else any.
    pub(crate) fn open(first: &SharedSocket) -> Self {
        let local = first.local_addr();
        let near = first.port().checked_add(DISTANCE).unwrap_or(0);
        let bind = |port| SharedSocket::bind(SocketAddr::new(local.ip(), port));
        let port = bind(near)
            .or_else(|_| bind(0))
            .inspect_err(|error| tracing::debug!(%error, "no second port for the reflector"));
        Self {
            port: port.ok(),
            addresses: OnceLock::new(),
        }
    }

    /// Starts the reader of the second socket.
    pub(crate) fn spawn_reader(self: &Arc<Self>) -> io::Result<Option<Reader>> {
        let spawn = |socket: &SharedSocket| {
            socket.spawn_reader(Reflector::new(socket.clone(), Arc::clone(self)))
        };
        self.port.as_ref().map(spawn).transpose()
    }

    /// The addresses of this machine are known now.
    pub(crate) fn set_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let public = |ip: &IpAddr| Address::new(ip.to_string(), 1).is_public();
        let mut sockets: Vec<(IpAddr, SharedSocket)> = Vec::new();
        for ip in addresses.into_iter().map(|ip| ip.to_canonical()) {
            if sockets.len() < MAX_ADDRESSES
                && public(&ip)
                && !sockets.iter().any(|(known, _)| *known == ip)
                && let Ok(socket) = SharedSocket::bind(SocketAddr::new(ip, 0))
            {
                sockets.push((ip, socket));
            }
        }
        // They are told once; a machine that gets another address answers from it after its next start.
        let _ = self.addresses.set(sockets);
    }

    fn addresses(&self) -> &[(IpAddr, SharedSocket)] {
        self.addresses.get().map_or(&[], Vec::as_slice)
    }

    fn has_several(&self, family: IpAddr) -> bool {
        let alike = |(ip, _): &&(IpAddr, _)| ip.is_ipv4() == family.is_ipv4();
        self.addresses().iter().filter(alike).count() > 1
    }

    /// The socket of an address that is not the one that was asked, as long as this one is ours: behind a NAT that
    /// hides which is which, every answer would look as if it came from elsewhere.
    fn other_than(&self, asked: IpAddr) -> Option<&SharedSocket> {
        let all = self.addresses();
        let ours = all.iter().any(|(ip, _)| *ip == asked);
        let other = |(ip, _): &&(IpAddr, _)| *ip != asked && ip.is_ipv4() == asked.is_ipv4();
        let other = all.iter().find(other).filter(|_| ours);
        other.map(|(_, socket)| socket)
    }
}

impl Reflector {
    pub(crate) const fn new(socket: SharedSocket, beside: Arc<Beside>) -> Self {
        Self { socket, beside }
    }
}

impl DatagramHandler for Reflector {
    fn handle(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        let Some(request) = Request::decode(datagram) else {
            return;
        };
        let socket = match request.via {
            Via::Same => Some(&self.socket),
            Via::OtherPort => self.beside.port.as_ref(),
            Via::OtherAddress(asked) => self.beside.other_than(asked),
        };
        let response = Response {
            id: request.id,
            observed: from,
            other: Other {
                port: self.beside.port.as_ref().map(SharedSocket::port),
                address: self.beside.has_several(from.ip()),
            },
        };
        if let Some(socket) = socket {
            // A lost answer is asked for again.
            let _ = socket.send(from, &response.encode(), None);
        }
    }
}
