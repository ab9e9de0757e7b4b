//! What one `listen_on` stands for: a set of local addresses of the one socket.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    task::{Context, Poll},
};

use futures::Stream;
use if_watch::{IfEvent, tokio::IfWatcher};
use libp2p::{Multiaddr, core::transport::ListenerId};
use std::pin::Pin;

use super::address::to_multiaddr;

/// A listener. All of them share the endpoint; they differ in the addresses that they announce.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) id: ListenerId,
    ip: IpAddr,
    port: u16,
    /// For `0.0.0.0` and `::`: the addresses of this machine, as they come and go.
    watcher: Option<IfWatcher>,
    addresses: HashSet<IpAddr>,
}

/// A change of the addresses that a listener has.
pub(super) enum Change {
    New(Multiaddr),
    Expired(Multiaddr),
    Failed(io::Error),
}

impl Listener {
    pub(super) fn new(id: ListenerId, ip: IpAddr, port: u16) -> io::Result<Self> {
        let watcher = ip.is_unspecified().then(IfWatcher::new).transpose()?;
        Ok(Self {
            id,
            ip,
            port,
            watcher,
            addresses: HashSet::new(),
        })
    }

    /// The fixed address, if the listener has one.
    pub(super) fn fixed(&self) -> Option<Multiaddr> {
        let addr = SocketAddr::new(self.ip, self.port);
        self.watcher.is_none().then(|| to_multiaddr(addr))
    }

    /// Does a packet to this local address belong here?
    pub(super) fn takes(&self, local: IpAddr) -> bool {
        self.ip == local || (self.ip.is_unspecified() && self.ip.is_ipv4() == local.is_ipv4())
    }

    /// The next change of addresses.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Change> {
        while let Some(watcher) = &mut self.watcher {
            let event = match Pin::new(watcher).poll_next(cx) {
                Poll::Ready(Some(Ok(event))) => event,
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Change::Failed(e)),
                Poll::Ready(None) => {
                    self.watcher = None;
                    break;
                }
                Poll::Pending => break,
            };
            let change = match event {
                IfEvent::Up(net) if self.announces(net.addr()) => self
                    .addresses
                    .insert(net.addr())
                    .then(|| Change::New(self.multiaddr(net.addr()))),
                IfEvent::Down(net) => self
                    .addresses
                    .remove(&net.addr())
                    .then(|| Change::Expired(self.multiaddr(net.addr()))),
                IfEvent::Up(_) => None,
            };
            if let Some(change) = change {
                return Poll::Ready(change);
            }
        }
        Poll::Pending
    }

    fn announces(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.ip.is_ipv4()
    }

    fn multiaddr(&self, ip: IpAddr) -> Multiaddr {
        to_multiaddr(SocketAddr::new(ip, self.port))
    }
}
