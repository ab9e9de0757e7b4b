//! Where this node is, and where its peers may be.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use kanpachi_common::{Candidate, CandidateKind, NatBehaviour, NodeId, candidate::MAX_CANDIDATES};

use super::{
    Core,
    book::{Origin, plain},
    engine, swarm,
};
use crate::{clock, platform::LocalAddress};

/// Addresses of one peer that are remembered from each source, at the most.
const MAX_HEARD: usize = 8;
/// Addresses of one peer without a tunnel that the DHT's table has, at the most.
const MAX_UNMET: usize = 4;

/// A machine that was away for less has lost nothing.
const SLEEP: Duration = Duration::from_secs(2);

/// Link-local IPv6 addresses need an interface to mean anything.
pub(super) fn is_portable(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => !a.is_loopback(),
        IpAddr::V6(a) => !a.is_loopback() && !a.is_unicast_link_local(),
    }
}

/// What the DHT's table is told. Whoever asks the DHT for something dials these, and whether a member without a tunnel is
/// there only it says itself: so few, and those first that may be reached from anywhere.
fn for_the_dht(
    candidates: &[kanpachi_proto::path::Candidate],
    has_tunnel: bool,
) -> Vec<SocketAddr> {
    let mut addrs: Vec<SocketAddr> = candidates.iter().map(|c| c.addr).collect();
    if !has_tunnel {
        addrs.sort_by_key(|addr| is_private(addr.ip()));
        addrs.truncate(MAX_UNMET);
    }
    addrs
}

fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(a) => a.is_private() || a.is_link_local() || a.is_loopback(),
        IpAddr::V6(a) => a.is_unique_local() || a.is_unicast_link_local() || a.is_loopback(),
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
        let observed = self.state.netcheck.observed();
        let mut out: Vec<Candidate> = Vec::new();
        let mapped = self.mapped().map(|a| (a, CandidateKind::Mapped));
        for (addr, kind) in host.chain(mapped).chain(observed) {
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

    /// What the NAT in front of this node does; `None` until that was measured.
    pub(super) fn nat(&self) -> Option<NatBehaviour> {
        self.state.nat
    }

    /// The addresses of this machine changed.
    pub(super) fn set_local(&mut self, local: Arc<[LocalAddress]>) {
        if self.local == local {
            return;
        }
        self.local = local;
        self.move_network();
    }

    /// The machine has slept. Nothing of what was known about the network is to be relied on.
    pub(super) async fn wake(&mut self, slept: Duration) {
        let before = clock::now();
        clock::set_slept(slept);
        let length = clock::since(before);
        // The wall clock was set, and that is all.
        if length < SLEEP {
            return;
        }
        tracing::info!("the machine has slept for {} s", length.as_secs());
        self.move_network();
        self.engine.send(engine::Command::NetworkChanged).await;
    }

    /// This machine may be elsewhere: asks everybody anew.
    fn move_network(&mut self) {
        if let Some(session) = &mut self.state.session {
            session.login.handle_network_change(clock::now());
        }
        self.network_moved();
        self.announce();
        self.ask_reflectors();
        self.check_network();
    }

    /// The local network or a node itself says where it is.
    pub(super) async fn note_heard(
        &mut self,
        node: NodeId,
        addrs: Vec<SocketAddr>,
        origin: Origin,
    ) {
        if !self.state.peers.contains_key(&node) {
            return;
        }
        let addrs = addrs.into_iter().take(MAX_HEARD);
        let usable = addrs.filter(|addr| self.overlay.is_underlay(addr));
        let usable: Vec<Candidate> = usable.map(plain).collect();
        let wall = self.wall();
        let changed = self.state.book.note(node, origin, usable, wall);
        if changed {
            self.tell_candidates(&node).await;
            self.connect(node).await;
        }
    }

    /// Where a peer may be, from all sources, best first.
    pub(super) fn candidates_of(&self, node: &NodeId) -> Vec<kanpachi_proto::path::Candidate> {
        let mut out: Vec<Candidate> = Vec::new();
        for sighting in self.state.book.of(node) {
            let candidate = sighting.candidate;
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

    /// Tells the engine what the NAT here does, when that is news.
    pub(super) async fn tell_nat(&mut self) {
        let nat = self.nat();
        if self.state.told_nat != nat {
            self.state.told_nat = nat;
            self.engine.send(engine::Command::Nat(nat)).await;
        }
    }

    /// Tells the engine where a peer may be, and behind what.
    pub(super) async fn tell_candidates(&mut self, node: &NodeId) {
        let candidates = self.candidates_of(node);
        if !candidates.is_empty() {
            tracing::trace!(peer = %node, ?candidates, nat = ?self.state.book.nat(node), "where a peer may be");
            if let Some(session) = &self.state.session {
                let addrs = for_the_dht(&candidates, self.state.spread.is_live(node));
                let command = swarm::Command::Addresses(*node, addrs);
                session.swarm.send(command).await;
            }
            self.engine
                .send(engine::Command::Candidates(*node, candidates))
                .await;
            let nat = self.state.book.nat(node);
            self.engine.send(engine::Command::PeerNat(*node, nat)).await;
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
