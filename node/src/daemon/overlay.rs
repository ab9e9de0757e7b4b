//! The address ranges of the overlay. Nothing inside them is ever dialled, announced or believed to be a way to a
//! peer: that would be a tunnel in the tunnel.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use kanpachi_common::Prefix;
use kanpachi_transport::AddressFilter;

/// The ranges, shared with whoever dials. They become known when the node joins.
#[derive(Clone, Debug, Default)]
pub(super) struct Overlay(Arc<ArcSwap<Vec<Prefix>>>);

impl Overlay {
    /// Sets the ranges.
    pub(super) fn set(&self, prefixes: Vec<Prefix>) {
        self.0.store(Arc::new(prefixes));
    }

    /// Is this address inside the overlay?
    pub(super) fn contains(&self, addr: IpAddr) -> bool {
        let addr = addr.to_canonical();
        self.0.load().iter().any(|prefix| prefix.contains(addr))
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
