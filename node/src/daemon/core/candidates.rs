//! Where this node is, and where its peers may be.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use kanpachi_common::{Candidate, CandidateKind, NodeId, candidate::MAX_CANDIDATES};

use super::{Core, engine};
use crate::{daemon::clock, platform::LocalAddress};

/// Addresses that others see this node at, at the most.
const MAX_OBSERVED: usize = 4;
/// Addresses of one peer that are remembered from each source, at the most.
const MAX_HEARD: usize = 8;

/// Link-local IPv6 addresses need an interface to mean anything.
fn is_portable(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => !a.is_loopback(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    }
}

impl Core {
    /// Where this node may be reached, best first.
    pub(super) fn own_candidates(&self) -> Vec<Candidate> {
        let port = self.socket.port();
        let host = self
            .local
            .iter()
            .map(|l| l.address)
            .filter(|a| is_portable(*a))
            .map(|a| (SocketAddr::new(a, port), CandidateKind::Host));
        let observed = self
            .state
            .observed
            .iter()
            .map(|a| (*a, CandidateKind::Reflexive));
        let mut out: Vec<Candidate> = Vec::new();
        for (addr, kind) in host.chain(observed) {
            if self.overlay.is_underlay(&addr)
                && self.socket.speaks(addr.ip())
                && !out.iter().any(|c| c.addr == addr)
            {
                out.push(Candidate { addr, kind });
            }
        }
        out.truncate(MAX_CANDIDATES);
        out
    }

    /// The addresses of this machine changed.
    pub(super) fn set_local(&mut self, local: Arc<[LocalAddress]>) {
        if self.local == local {
            return;
        }
        self.local = local;
        if let Some(session) = &mut self.state.session {
            session
                .login
                .handle_network_change(std::time::Instant::now());
        }
        self.announce();
        self.ask_reflectors();
    }

    /// Somebody sees this node's packets come from here.
    pub(super) fn note_observed(&mut self, addr: SocketAddr) {
        let known = self.state.observed.contains(&addr)
            || self.local.iter().any(|l| l.address == addr.ip());
        if known || !self.overlay.is_underlay(&addr) {
            return;
        }
        tracing::debug!(%addr, "seen from outside");
        self.state.observed.insert(0, addr);
        self.state.observed.truncate(MAX_OBSERVED);
        self.announce();
    }

    /// The local network or a node itself says where it is.
    pub(super) async fn note_heard(&mut self, node: NodeId, addrs: Vec<SocketAddr>) {
        if !self.state.peers.contains_key(&node) {
            return;
        }
        let heard = self.state.heard.entry(node).or_default();
        let before = heard.len();
        for addr in addrs.into_iter().take(MAX_HEARD) {
            if self.overlay.is_underlay(&addr) && !heard.contains(&addr) {
                heard.insert(0, addr);
            }
        }
        let changed = heard.len() != before;
        heard.truncate(MAX_HEARD);
        if changed {
            self.tell_candidates(&node).await;
            self.engine.send(engine::Command::Connect(node)).await;
        }
    }

    /// Where a peer may be, from all sources, best first.
    pub(super) fn candidates_of(&self, node: &NodeId) -> Vec<kanpachi_proto::path::Candidate> {
        let told = self.state.online.get(node).into_iter().flatten().copied();
        let as_host = |addr: &SocketAddr| Candidate {
            addr: *addr,
            kind: CandidateKind::Host,
        };
        let heard = self
            .state
            .heard
            .get(node)
            .into_iter()
            .flatten()
            .map(as_host);
        let known = self
            .state
            .known
            .get(node)
            .into_iter()
            .flatten()
            .map(as_host);
        let mut out: Vec<Candidate> = Vec::new();
        for candidate in told.chain(heard).chain(known) {
            let fresh = !out.iter().any(|c| c.addr == candidate.addr);
            if fresh
                && self.overlay.is_underlay(&candidate.addr)
                && self.socket.speaks(candidate.addr.ip())
            {
                out.push(candidate);
            }
        }
        out.truncate(MAX_CANDIDATES);
        out.into_iter().map(Into::into).collect()
    }

    /// Tells the engine where a peer may be.
    pub(super) async fn tell_candidates(&mut self, node: &NodeId) {
        let candidates = self.candidates_of(node);
        if !candidates.is_empty() {
            self.engine
                .send(engine::Command::Candidates(*node, candidates))
                .await;
        }
    }

    /// Remembers where a peer is, for a start with nobody to ask.
    pub(super) fn remember(&mut self, node: &NodeId, addrs: &[SocketAddr]) {
        let known = self.state.known.entry(*node).or_default();
        let new: Vec<SocketAddr> = addrs
            .iter()
            .filter(|a| !known.contains(a))
            .copied()
            .collect();
        if new.is_empty() {
            return;
        }
        known.splice(0..0, new.iter().copied());
        known.truncate(MAX_CANDIDATES);
        if let Err(error) = self.db.remember(node, &new, clock::wall()) {
            tracing::warn!(%error, "an address was not remembered");
        }
    }
}
