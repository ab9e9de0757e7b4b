//! A drill: coordinators and bootstraps are as good as dead to this node, until it is over.

use std::time::Duration;

use kanpachi_proto::login::Attempt;
use libp2p::PeerId;

use super::{Dialled, Later, Task};

/// What an attempt to log in is told meanwhile.
const WHY: &str = "a drill cuts this node off";

impl Task {
    /// Cuts the servers off, or takes them back. Connections to them end, and none is made in either direction.
    pub(super) fn set_cut_off(&mut self, cut_off: bool) {
        if std::mem::replace(&mut self.cut_off, cut_off) == cut_off {
            return;
        }
        if !cut_off {
            for peer in std::mem::take(&mut self.shunned) {
                self.swarm.behaviour_mut().shunned.unblock_peer(peer);
            }
            // Their reservations are gone.
            for relay in self.bootstraps.keys().copied().collect::<Vec<_>>() {
                self.reserve(relay);
            }
            return;
        }
        self.seek_no_servers();
        self.shun_servers();
        for attempt in self.attempts.keys().copied().collect::<Vec<_>>() {
            self.fail_attempt(attempt);
        }
    }

    /// Blocks whoever is known to be a server, if a drill is on: bootstraps, and coordinators by their streams.
    pub(super) fn shun_servers(&mut self) {
        if !self.cut_off {
            return;
        }
        let local = *self.swarm.local_peer_id();
        let coordinators = self.control_connections.values().map(|(peer, _)| peer);
        let servers = self.bootstraps.keys().chain(coordinators).copied();
        for peer in servers.collect::<Vec<PeerId>>() {
            if peer != local && !self.shunned.contains(&peer) {
                self.swarm.behaviour_mut().shunned.block_peer(peer);
                self.shunned.push(peer);
            }
        }
    }

    /// Ends an attempt as if nobody answered; its dials under way find that nobody waits for them.
    pub(super) fn fail_attempt(&mut self, attempt: Attempt) {
        if let Some(dialled) = self.attempts.insert(attempt, Dialled::default()) {
            dialled.stop.cancel();
        }
        self.dials.retain(|_, a| *a != attempt);
        let reason = WHY.to_owned();
        self.later(Duration::ZERO, Later::Failed { attempt, reason });
    }
}
