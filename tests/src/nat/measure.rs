//! What a NAT does, found out as RFC 5780 does it: by sockets on two public hosts that say where packets came from.

use std::collections::BTreeSet;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::behaviour::Dependence;
use crate::lab::Host;
use crate::netns::Netns;
use crate::wait::quietly;

/// How long a packet that comes may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// How much longer a packet is waited for that should have come before another.
const GRACE: Duration = Duration::from_millis(100);

/// Two sockets on one public host and one on another.
#[derive(Debug)]
pub struct Servers {
    first: UdpSocket,
    other_port: UdpSocket,
    other_host: UdpSocket,
}

/// What was seen of the NATs before a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observed {
    pub mapping: Dependence,
    pub filtering: Dependence,
    /// The first mapping has the port of the socket.
    pub keeps_port: bool,
}

/// A UDP socket in a namespace that does not wait for ever.
pub fn socket(ns: &Netns, address: SocketAddr) -> Result<UdpSocket> {
    let socket = ns.run(|| UdpSocket::bind(address).with_context(|| format!("bind {address}")))?;
    socket.set_read_timeout(Some(GRACE))?;
    Ok(socket)
}

impl Servers {
    pub fn new(one: &Host, other: &Host) -> Result<Self> {
        Ok(Self {
            first: socket(&one.ns, (one.v4, 0).into())?,
            other_port: socket(&one.ns, (one.v4, 0).into())?,
            other_host: socket(&other.ns, (other.v4, 0).into())?,
        })
    }

    /// Where the first server sees a socket.
    pub fn reflect(&self, socket: &UdpSocket) -> Result<SocketAddr> {
        seen_by(&self.first, socket)
    }

    /// Measures filtering, then mapping, of a socket that has sent nothing yet.
    pub fn observe(&self, socket: &UdpSocket) -> Result<Observed> {
        let outside = self.reflect(socket)?;
        let filtering = self.filtering(socket, outside)?;
        let elsewhere = [&self.other_port, &self.other_host].map(|server| seen_by(server, socket));
        let [other_port, other_host] = elsewhere;
        let mapping = match (other_port? == outside, other_host? == outside) {
            (true, true) => Dependence::EndpointIndependent,
            (true, false) => Dependence::Address,
            (false, _) => Dependence::AddressAndPort,
        };
        Ok(Observed {
            mapping,
            filtering,
            keeps_port: outside.port() == socket.local_addr()?.port(),
        })
    }

    /// Which servers get through to a mapping that has sent to the first alone.
    fn filtering(&self, socket: &UdpSocket, outside: SocketAddr) -> Result<Dependence> {
        self.other_port.send_to(b"other port", outside)?;
        self.other_host.send_to(b"other host", outside)?;
        self.first.send_to(b"end", outside)?;
        let heard = until_end(socket)?;
        Ok(
            match (heard.contains("other port"), heard.contains("other host")) {
                (_, true) => Dependence::EndpointIndependent,
                (true, false) => Dependence::Address,
                (false, false) => Dependence::AddressAndPort,
            },
        )
    }

    /// Does the first server get through to this address? Asked without opening anything.
    pub fn gets_through(&self, socket: &UdpSocket, outside: SocketAddr) -> Result<bool> {
        self.first.send_to(b"end", outside)?;
        Ok(receive(socket).is_some())
    }
}

/// Do two sockets behind NATs hear each other when each sends to where the first server sees the other?
pub fn punch(servers: &Servers, one: &UdpSocket, other: &UdpSocket) -> Result<bool> {
    let (at_one, at_other) = (servers.reflect(one)?, servers.reflect(other)?);
    // The first may come before the other end has opened its filter.
    for _ in 0..3 {
        one.send_to(b"from one", at_other)?;
        other.send_to(b"from other", at_one)?;
        if receive(one).is_some() && receive(other).is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Where a server sees a socket. What is lost is sent again.
fn seen_by(server: &UdpSocket, socket: &UdpSocket) -> Result<SocketAddr> {
    let mut buffer = [0u8; 64];
    let name: [u8; 2] = socket.local_addr()?.port().to_be_bytes();
    quietly(PATIENCE, || {
        socket.send_to(&name, server.local_addr()?)?;
        let (length, from) = server.recv_from(&mut buffer).context("no packet came")?;
        ensure!(buffer[..length] == name, "a packet of somebody else");
        Ok(from)
    })
}

fn until_end(socket: &UdpSocket) -> Result<BTreeSet<String>> {
    let mut heard = BTreeSet::new();
    quietly(PATIENCE, || {
        heard.extend(receive(socket));
        ensure!(heard.contains("end"), "heard {heard:?}");
        Ok(())
    })?;
    // Packets from different hosts may overtake each other by a little.
    while let Some(text) = receive(socket) {
        heard.insert(text);
    }
    Ok(heard)
}

/// What comes within [`GRACE`].
fn receive(socket: &UdpSocket) -> Option<String> {
    let mut buffer = [0u8; 64];
    let length = socket.recv(&mut buffer).ok()?;
    Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
