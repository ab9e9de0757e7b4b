//! What the thread of the tunnels tells when it is asked how everything is.

use std::collections::BTreeMap;

use kanpachi_common::NodeId;
use kanpachi_proto::{
    relay::RelayStatus,
    tunnel::{Counters, PeerStatus, Session},
};

/// How every peer is.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) peers: BTreeMap<NodeId, PeerStatus>,
    pub(super) counters: Counters,
    pub(super) traffic: BTreeMap<NodeId, Traffic>,
    /// Relays that this node has, and which of them data to a peer takes.
    pub(super) relays: Vec<RelayStatus>,
    pub(super) via: BTreeMap<NodeId, NodeId>,
}

/// Bytes of tunnel datagrams since the daemon started.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) rx_bytes: u64,
    pub(super) tx_bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, session: &Session) {
        let stats = session.stats();
        self.rx_bytes += stats.rx_bytes;
        self.tx_bytes += stats.tx_bytes;
    }
}
