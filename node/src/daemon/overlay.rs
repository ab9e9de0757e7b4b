//! The address ranges of the overlay. Nothing inside them is ever dialled, announced or believed to be a way to a
//! peer: that would be a tunnel in the tunnel.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use kanpachi_common::Prefix;
use kanpachi_transport::AddressFilter;
use tokio::sync::watch;

/// The ranges, shared with whoever dials. They become known when the node joins.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay {
    own: Arc<ArcSwap<Vec<Prefix>>>,
    /// Those of other nodes on this machine: what goes there goes through their tunnels.
    others: Option<watch::Receiver<Arc<[Prefix]>>>,
}

impl Overlay {
    /// Of a node beside others.
    pub(super) fn beside(others: Option<watch::Receiver<Arc<[Prefix]>>>) -> Self {
        Self {
            others,
            ..Self::default()
        }
    }

    /// Sets the ranges.
    pub(super) fn set(&self, prefixes: Vec<Prefix>) {
        self.own.store(Arc::new(prefixes));
    }

    /// Is this address inside the overlay?
    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        let others = self.others.as_ref().map(watch::Receiver::borrow);
        let mut others = others.iter().flat_map(|others| others.iter());
        self.own.load().iter().any(|prefix| prefix.contains(addr))
            || others.any(|prefix| prefix.contains(addr))
    }

    /// May a packet be sent there to reach a peer? A LAN address of a peer may be anywhere outside the overlay; nothing
    /// that stays on this machine, and nothing that reaches many at once.
    pub(super) fn is_underlay(&self, addr: &SocketAddr) -> bool {
        let candidate = kanpachi_common::Candidate {
            addr: *addr,
            kind: kanpachi_common::CandidateKind::Host,
        };
        candidate.is_plausible() && !self.contains(addr.ip())
    }

    /// The same, as what libp2p asks before it dials or announces.
    pub(super) fn filter(&self) -> AddressFilter {
        let this = self.clone();
        AddressFilter::new(move |ip| !this.contains(ip))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_this_overlay_nor_another_nodes_is_a_way_to_anybody() {
        let prefix = |text: &str| text.parse::<Prefix>().unwrap();
        let (sender, others) = watch::channel(Arc::from([prefix("fd00:1::/48")]));
        let overlay = Overlay::beside(Some(others));
        overlay.set(vec![prefix("198.18.0.0/15")]);
        for (addr, way) in [
            ("198.18.0.1:1", false),
            ("[::ffff:198.18.0.1]:1", false),
            ("[fd00:1::7]:1", false),
            ("[fd00:2::7]:1", true),
            ("192.0.2.1:1", true),
        ] {
            assert_eq!(overlay.is_underlay(&addr.parse().unwrap()), way, "{addr}");
        }
        sender.send_replace(Arc::from([]));
        assert!(overlay.is_underlay(&"[fd00:1::7]:1".parse().unwrap()));
    }
}
