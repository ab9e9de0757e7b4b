//! Which addresses a swarm may use at all.
//!
//! The overlay's own addresses must be neither announced nor dialled: a tunnel inside the tunnel would work until
//! the outer one fails. Nor is any address of the swarm's own dialled: homes have the same few addresses, so that many a
//! peer has the one that this machine has, and a handshake with oneself costs twice as much as one with a peer.
//! [`Filtered`] wraps the whole transport, so no part below has to remember that.

use std::{
    collections::HashSet,
    fmt, io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent},
    multiaddr::Protocol,
};

use crate::quic::address::is_link_local;

/// Says of each IP address whether the swarm may listen on, announce or dial it.
#[derive(Clone)]
pub struct AddressFilter(Arc<dyn Fn(IpAddr) -> bool + Send + Sync>);

impl AddressFilter {
    /// A filter that allows what `allow` says yes to. It gets canonical addresses, and is asked often: be quick.
    #[must_use]
    pub fn new(allow: impl Fn(IpAddr) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(allow))
    }

    /// A filter that allows everything.
    #[must_use]
    pub fn allow_all() -> Self {
        Self::new(|_| true)
    }

    /// May this address be used?
    #[must_use]
    pub fn allows_ip(&self, ip: IpAddr) -> bool {
        (self.0)(ip.to_canonical())
    }

    /// May every IP address in this multiaddr be used? Of a circuit those of the relay count too.
    #[must_use]
    pub fn allows(&self, addr: &Multiaddr) -> bool {
        ips(addr).all(|ip| self.allows_ip(ip))
    }
}

impl Default for AddressFilter {
    fn default() -> Self {
        Self::allow_all()
    }
}

impl fmt::Debug for AddressFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressFilter")
    }
}

/// The IP addresses in a multiaddr.
fn ips(addr: &Multiaddr) -> impl Iterator<Item = IpAddr> + '_ {
    addr.iter().filter_map(|protocol| match protocol {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// Link-local IPv6 means nothing without the interface, for which our addresses have no room.
fn means_something_elsewhere(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => !is_link_local(&ip),
    }
}

/// A transport that knows nothing of addresses outside its filter.
pub(crate) struct Filtered<T> {
    inner: T,
    filter: AddressFilter,
    /// Announced so far: an address that was allowed once also expires, whatever the filter says by then.
    announced: HashSet<(ListenerId, Multiaddr)>,
}

impl<T> Filtered<T> {
    pub(crate) fn new(inner: T, filter: AddressFilter) -> Self {
        Self {
            inner,
            filter,
            announced: HashSet::new(),
        }
    }
}

impl<T> Transport for Filtered<T>
where
    T: Transport<Error = io::Error> + Unpin,
{
    type Output = T::Output;
    type Error = io::Error;
    type ListenerUpgrade = T::ListenerUpgrade;
    type Dial = T::Dial;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        if !self.filter.allows(&addr) {
            return Err(refused(&addr));
        }
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        if !self.filter.allows(&addr) {
            return Err(refused(&addr));
        }
        if self.is_own(&addr) {
            return Err(own(&addr));
        }
        self.inner.dial(addr, opts)
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        loop {
            let event = match Pin::new(&mut self.inner).poll(cx) {
                Poll::Ready(event) => event,
                Poll::Pending => return Poll::Pending,
            };
            if self.keep(&event) {
                return Poll::Ready(event);
            }
        }
    }
}

impl<T> Filtered<T> {
    /// Does this swarm listen there, whoever is looked for?
    fn is_own(&self, addr: &Multiaddr) -> bool {
        let first = addr.iter().take_while(|p| !matches!(p, Protocol::P2p(_)));
        let first: Multiaddr = first.collect();
        self.announced.iter().any(|(_, own)| *own == first)
    }

    /// Is this event for those above?
    fn keep<U>(&mut self, event: &TransportEvent<U, io::Error>) -> bool {
        match event {
            TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            } => {
                self.filter.allows(listen_addr)
                    && ips(listen_addr).all(means_something_elsewhere)
                    && self.announced.insert((*listener_id, listen_addr.clone()))
            }
            TransportEvent::AddressExpired {
                listener_id,
                listen_addr,
            } => self.announced.remove(&(*listener_id, listen_addr.clone())),
            // Dropping the event drops the connection that it offers.
            TransportEvent::Incoming {
                local_addr,
                send_back_addr,
                ..
            } => self.filter.allows(local_addr) && self.filter.allows(send_back_addr),
            TransportEvent::ListenerClosed { listener_id, .. } => {
                self.announced.retain(|(id, _)| id != listener_id);
                true
            }
            TransportEvent::ListenerError { .. } => true,
        }
    }
}

fn refused(addr: &Multiaddr) -> TransportError<io::Error> {
    TransportError::Other(io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("{addr} is inside the virtual network or otherwise not to be used"),
    ))
}

fn own(addr: &Multiaddr) -> TransportError<io::Error> {
    TransportError::Other(io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("{addr} is an address of this node itself"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ip_in_an_address_counts() {
        let filter = AddressFilter::new(|ip| ip != IpAddr::from([198, 19, 0, 1]));
        let allowed = |text: &str| filter.allows(&text.parse().unwrap());
        assert!(allowed("/ip4/192.0.2.1/udp/1/quic-v1"));
        assert!(!allowed("/ip4/198.19.0.1/udp/1/quic-v1"));
        assert!(!allowed("/ip6/::ffff:198.19.0.1/tcp/1"));
        let peer = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
        assert!(!allowed(&format!(
            "/ip4/198.19.0.1/udp/1/quic-v1/p2p/{peer}/p2p-circuit"
        )));
        assert!(allowed(&format!("/p2p/{peer}/p2p-circuit")));
    }

    #[test]
    fn an_address_is_its_own_as_long_as_it_listens_there_whoever_is_looked_for() {
        let mut filtered = Filtered::new((), AddressFilter::allow_all());
        let (listener_id, peer) = (
            ListenerId::next(),
            "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA",
        );
        let home = "/ip4/192.168.1.2/udp/12976/quic-v1";
        // A reservation: a circuit leads here, and the relay is somebody else.
        let relay = "/ip4/192.0.2.1/udp/12975/quic-v1";
        for text in [home.to_owned(), format!("{relay}/p2p/{peer}/p2p-circuit")] {
            let listen_addr = text.parse().unwrap();
            filtered.keep::<()>(&TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            });
        }
        let is_own = |filtered: &Filtered<()>, text: &str| filtered.is_own(&text.parse().unwrap());
        assert!(is_own(&filtered, home));
        assert!(is_own(&filtered, &format!("{home}/p2p/{peer}")));
        assert!(is_own(
            &filtered,
            &format!("{home}/p2p/{peer}/p2p-circuit/p2p/{peer}")
        ));
        assert!(!is_own(&filtered, "/ip4/192.168.1.2/udp/12975/quic-v1"));
        assert!(!is_own(
            &filtered,
            &format!("/ip4/192.168.1.3/udp/12976/quic-v1/p2p/{peer}")
        ));
        assert!(!is_own(&filtered, &format!("{relay}/p2p/{peer}")));
        assert!(!is_own(
            &filtered,
            &format!("{relay}/p2p/{peer}/p2p-circuit/p2p/{peer}")
        ));
        filtered.keep::<()>(&TransportEvent::AddressExpired {
            listener_id,
            listen_addr: home.parse().unwrap(),
        });
        assert!(!is_own(&filtered, home));
    }

    #[test]
    fn link_local_addresses_are_listened_on_but_not_announced() {
        let mut filtered = Filtered::new((), AddressFilter::allow_all());
        let listener_id = ListenerId::next();
        let mut announced = |text: &str| {
            let listen_addr = text.parse().unwrap();
            filtered.keep::<()>(&TransportEvent::NewAddress {
                listener_id,
                listen_addr,
            })
        };
        assert!(announced("/ip6/2001:db8::1/tcp/1"));
        assert!(announced("/ip4/192.0.2.1/tcp/1"));
        for own_link_only in ["fe80::1", "fe80::1:2:3:4", "febf::1"] {
            assert!(!announced(&format!("/ip6/{own_link_only}/tcp/1")));
            assert!(!announced(&format!("/ip6/{own_link_only}/udp/1/quic-v1")));
        }
        // What was never announced does not expire either.
        let listen_addr = "/ip6/fe80::1/tcp/1".parse().unwrap();
        assert!(!filtered.keep::<()>(&TransportEvent::AddressExpired {
            listener_id,
            listen_addr,
        }));
    }
}
