//! Who is a member, and where members may be: as `core/rosters.rs` and `core/candidates.rs` of the daemon.

use std::{collections::BTreeMap, net::SocketAddr, time::Instant};

use kanpachi_common::{
    Candidate, CandidateKind, NetworkId, NodeId,
    addr::{ipv6_of, ipv6_prefix},
    candidate::MAX_CANDIDATES,
    wire::control::{ClientMessage, Pull},
};
use kanpachi_proto::{
    login::State,
    roster::{Peer, Refusal, Update},
    tunnel::PeerConfig,
};

use super::{Node, Own};

/// Addresses that others see a node at, at the most.
const MAX_OBSERVED: usize = 4;

impl Node {
    /// Takes up something verified: disk first.
    pub(super) fn take_up(&mut self, update: Update) -> bool {
        if self.disk.save(&update).is_err() {
            self.note("cannot write what it was told");
            if let Some(process) = &mut self.process {
                process.unsaved = true;
            }
            return false;
        }
        if let Some(session) = self.process.as_mut().and_then(|p| p.session.as_mut()) {
            session.rosters.commit(update);
        }
        true
    }

    /// Takes up the outcome of a check; `true` when something changed.
    pub(super) fn settle(&mut self, outcome: Result<Option<Update>, Refusal>) -> bool {
        match outcome {
            Ok(Some(update)) => self.take_up(update),
            Ok(None) => false,
            Err(error) => {
                self.note(format_args!("refuses: {error}"));
                false
            }
        }
    }

    /// Who is a member changed, or may have: everybody who acts on it is told.
    pub(super) fn members_changed(&mut self, now: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        let Some(session) = &process.session else {
            return;
        };
        let wall = process.wall(now);
        let peers = session.rosters.peers(wall);
        let generation = session.rosters.manifest().map_or(0, |m| m.generation);
        let epochs: Vec<(NetworkId, u64)> = session
            .rosters
            .rosters()
            .map(|r| (r.head().network, r.head().epoch))
            .collect();
        let open = peers.values().filter(|peer| peer.may_open);
        let members: BTreeMap<NodeId, PeerConfig> = open
            .map(|peer| {
                let config = PeerConfig {
                    node_id: peer.node,
                    tunnel_key: peer.tunnel_key.0,
                    networks: peer.networks.iter().map(|n| n.network).collect(),
                };
                (peer.node, config)
            })
            .collect();
        let gone: Vec<NodeId> = process
            .tunnels
            .peers()
            .filter(|peer| !members.contains_key(peer))
            .collect();
        for peer in gone {
            process.tunnels.remove_peer(&peer, now);
        }
        let open = peers.values().filter(|peer| peer.may_open);
        process
            .packets
            .set_members(open.map(|p| (p.node, p.ipv4, p.ipv6)));
        for config in members.into_values() {
            process.tunnels.set_peer(config, now);
        }
        process.tunnels.set_epochs(generation, epochs, now);
        let ids = peers.keys().copied().collect();
        process.spread.set_peers(&ids);
        let opened = |peer: &&Peer| {
            peer.may_open && !process.peers.get(&peer.node).is_some_and(|p| p.may_open)
        };
        let new: Vec<NodeId> = peers.values().filter(opened).map(|p| p.node).collect();
        process.peers = peers;
        for node in new {
            self.tell_candidates(&node, now);
            let known = self.disk.known().contains_key(&node);
            let online = |p: &super::Process| p.online.contains_key(&node);
            if known || self.process.as_ref().is_some_and(online) {
                self.connect(&node, now);
            }
        }
        self.refresh_hello();
    }

    /// The adapter comes up once the node knows its addresses, and stays as it is until the process ends.
    pub(super) fn bring_adapter_up(&mut self) {
        let (me, ipv4) = (self.id(), self.disk.ipv4());
        let Some(process) = &mut self.process else {
            return;
        };
        if let (Some(session), Some(ipv4), None) = (&process.session, ipv4, process.packets.own) {
            let ipv6 = ipv6_of(&session.rosters.org(), &me);
            process.packets.own = Some(Own { ipv4, ipv6 });
            self.note(format_args!("has addresses {ipv4:?} and {ipv6}"));
        }
    }

    /// A peer knows a newer roster than the one here: the coordinator will have it too.
    pub(super) fn compare_epochs(
        &mut self,
        peer: &NodeId,
        generation: u64,
        epochs: &[(NetworkId, u64)],
        now: Instant,
    ) {
        let Some(process) = &mut self.process else {
            return;
        };
        let Some(session) = &mut process.session else {
            return;
        };
        let (spread, rosters) = (&mut process.spread, &session.rosters);
        spread.handle_epochs(peer, generation, epochs, rosters, now);
        let behind = epochs.iter().any(|(network, epoch)| {
            session
                .rosters
                .roster(network)
                .is_some_and(|r| (r.head().generation, r.head().epoch) < (generation, *epoch))
        });
        if behind {
            let held = session.rosters.held();
            let _ = session.login.request(&ClientMessage::Pull(Pull { held }));
        }
    }

    /// A tunnel that should be up is not. There are no relays here to be introduced by.
    pub(super) fn handle_down(&mut self, peer: NodeId, now: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        let Some(session) = &process.session else {
            return;
        };
        let connected = matches!(session.login.state(), State::Connected { .. });
        if connected && !process.online.contains_key(&peer) {
            process.spread.handle_unwanted(&peer);
            process.tunnels.disconnect(&peer, now);
        } else {
            process.spread.handle_down(&peer, now);
        }
    }

    /// Somebody sees this node's packets come from here.
    pub(super) fn note_observed(&mut self, addr: SocketAddr, now: Instant) {
        let own = self.addr.ip();
        let Some(process) = &mut self.process else {
            return;
        };
        if process.observed.contains(&addr) || addr.ip() == own {
            return;
        }
        process.observed.insert(0, addr);
        process.observed.truncate(MAX_OBSERVED);
        self.announce(now);
    }

    /// Where this node may be reached, best first.
    pub(super) fn own_candidates(&self) -> Vec<Candidate> {
        let host = Candidate {
            addr: self.addr,
            kind: CandidateKind::Host,
        };
        let seen = self.process.iter().flat_map(|p| &p.observed);
        let observed = seen.map(|addr| Candidate {
            addr: *addr,
            kind: CandidateKind::Reflexive,
        });
        std::iter::once(host).chain(observed).collect()
    }

    /// Is this an address outside of the overlay?
    pub(super) fn is_underlay(&self, addr: &SocketAddr) -> bool {
        let candidate = Candidate {
            addr: *addr,
            kind: CandidateKind::Host,
        };
        let rosters = self.process.as_ref().and_then(|p| p.rosters());
        let overlay = rosters.is_some_and(|r| {
            let pool = r.directory().map(|d| d.pool).unwrap_or_default();
            pool.prefix().contains(addr.ip()) || ipv6_prefix(&r.org()).contains(addr.ip())
        });
        candidate.is_plausible() && !overlay
    }

    /// Where a peer may be, from all sources.
    pub(super) fn candidates_of(&self, node: &NodeId) -> Vec<Candidate> {
        let told = self.process.iter().flat_map(|p| p.online.get(node));
        let known = self.disk.known().get(node).into_iter().flatten();
        let known = known.map(|addr| Candidate {
            addr: *addr,
            kind: CandidateKind::Host,
        });
        let mut all: Vec<Candidate> = Vec::new();
        for candidate in told.flatten().copied().chain(known) {
            if self.is_underlay(&candidate.addr) && !all.iter().any(|c| c.addr == candidate.addr) {
                all.push(candidate);
            }
        }
        all.truncate(MAX_CANDIDATES);
        all
    }

    /// Tells the tunnels where a peer may be.
    pub(super) fn tell_candidates(&mut self, node: &NodeId, now: Instant) {
        let all = self.candidates_of(node);
        if let Some(process) = self.process.as_mut().filter(|_| !all.is_empty()) {
            let all: Vec<_> = all.into_iter().map(Into::into).collect();
            process.tunnels.set_candidates(node, &all, now);
        }
    }

    /// Remembers where a peer is, for a start with nobody to ask.
    pub(super) fn remember(&mut self, node: NodeId, addrs: &[SocketAddr]) {
        let known = self.disk.known().get(&node);
        let new: Vec<SocketAddr> = addrs
            .iter()
            .filter(|a| known.is_none_or(|k| !k.contains(a)))
            .copied()
            .collect();
        if !new.is_empty() {
            // An address that is not remembered is asked for again.
            let _ = self.disk.remember(node, &new);
        }
    }
}
