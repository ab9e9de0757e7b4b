//! Standing connections and introductions: the swarm carries out what [`kanpachi_proto::standing`] wants.

use std::time::Instant;

use kanpachi_common::{Candidate, CandidateKind, NodeId};
use kanpachi_proto::standing::{Action, Fellow, Standing};

use super::{Core, swarm};
use crate::clock;

/// Addresses that peers are told over libp2p at the most. Whoever stands here names each of them once more, and all that a
/// node tells has to fit into 4 KiB.
const MAX_OWN: usize = 3;

impl Core {
    pub(super) fn start_standing(&mut self) {
        self.state.standing = Some(Standing::new(self.me(), clock::now()));
        self.state.told_own.clear();
        self.state.introduced.clear();
    }

    /// Who the members are, who is there or has a tunnel changed, or may have.
    pub(super) fn tell_fellows(&mut self) {
        let peers = self.state.peers.values().filter(|peer| peer.may_open);
        let fellows = peers.map(|peer| Fellow {
            node: peer.node,
            networks: peer.networks.iter().map(|n| n.network).collect(),
            open: self.state.book.is_open(&peer.node),
            up: self.state.up.contains(&peer.node),
            there: self.may_be_there(&peer.node),
        });
        let fellows = fellows.collect();
        if let Some(standing) = &mut self.state.standing {
            standing.set_fellows(fellows);
        }
        let (peers, up) = (&self.state.peers, &self.state.up);
        let waits = |node: &NodeId| peers.contains_key(node) && !up.contains(node);
        self.state.introduced.retain(waits);
    }

    /// Tells the swarm where this node is, when that is news.
    pub(super) async fn tell_own(&mut self) {
        let Some(session) = &self.state.session else {
            return;
        };
        // Those that the swarm does not know by itself. If there are none, this machine's own serve all who reach it.
        let candidates = self.own_candidates();
        let (host, seen): (Vec<Candidate>, Vec<Candidate>) = candidates
            .iter()
            .partition(|c| c.kind == CandidateKind::Host);
        let best = if seen.is_empty() { host } else { seen };
        let own: Vec<_> = best.iter().map(|c| c.addr).take(MAX_OWN).collect();
        if own != self.state.told_own {
            let swarm = session.swarm.clone();
            self.state.told_own.clone_from(&own);
            swarm.send(swarm::Command::Own(own)).await;
        }
    }

    /// Carries out what the standing connections want, until they want nothing more.
    pub(super) async fn drive_standing(&mut self) {
        loop {
            let (Some(standing), Some(session)) = (&mut self.state.standing, &self.state.session)
            else {
                return;
            };
            let Some(action) = standing.poll_action(clock::now()) else {
                return;
            };
            let swarm = session.swarm.clone();
            let command = match action {
                Action::Stand(node) => {
                    let at = self.addresses_of(&node);
                    swarm::Command::Stand { node, at }
                }
                Action::Leave(node) => swarm::Command::Leave(node),
            };
            swarm.send(command).await;
            if matches!(action, Action::Leave(_)) {
                self.own_changed();
            }
        }
    }

    pub(super) fn standing_timeout(&self) -> Option<Instant> {
        self.state.session.as_ref()?;
        self.state.standing.as_ref()?.poll_timeout()
    }

    /// Where this node stands, for its record.
    pub(super) fn standing_at(&self) -> Vec<NodeId> {
        let standing = self.state.standing.as_ref();
        standing.map(Standing::relays).unwrap_or_default()
    }

    pub(super) fn note_stands(&mut self, node: &NodeId) {
        if let Some(standing) = &mut self.state.standing {
            standing.handle_stands(node, clock::now());
        }
        self.own_changed();
    }

    pub(super) fn note_stand_ended(&mut self, node: &NodeId) {
        if let Some(standing) = &mut self.state.standing {
            standing.handle_ended(node, clock::now());
        }
        self.own_changed();
    }

    /// By whom a member may be reached, with where those may be.
    pub(super) fn ways_to(&self, node: &NodeId) -> Vec<swarm::Way> {
        let named = self.state.book.relays(node);
        let standing = self.state.standing.as_ref();
        let ways = standing.map(|standing| standing.ways_to(node, named));
        let ways = ways.into_iter().flatten();
        ways.map(|relay| (relay, self.addresses_of(&relay)))
            .collect()
    }

    /// Lets relays bring a member and this node together.
    pub(super) async fn introduce(&mut self, node: NodeId) {
        let ways = self.ways_to(&node);
        if let Some(session) = &self.state.session {
            let command = swarm::Command::Introduce { node, ways };
            session.swarm.send(command).await;
        }
    }

    /// A relay brought a member here. Each asks the other where it is, over the relay: then both can punch.
    pub(super) async fn note_introduced(&mut self, node: NodeId) {
        if !self.state.peers.contains_key(&node) {
            return;
        }
        self.state.introduced.insert(node);
        if self.state.up.contains(&node) {
            return self.end_introduction(node).await;
        }
        self.state.introductions += 1;
        self.state.spread.handle_ahead(&node, clock::now());
    }

    /// Whoever was introduced has a tunnel now.
    pub(super) async fn end_introduction(&mut self, node: NodeId) {
        if self.state.introduced.remove(&node)
            && let Some(session) = &self.state.session
        {
            session.swarm.send(swarm::Command::Met(node)).await;
        }
    }
}
