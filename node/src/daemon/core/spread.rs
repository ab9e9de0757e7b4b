//! What members tell each other: asking them, answering them, and an owner's word while there is no coordinator.

use std::{collections::BTreeSet, time::Duration};

use kanpachi_common::{
    MemberId, NetworkId, NodeId, Signed,
    roster::Suspend,
    wire::{
        control::ClientMessage,
        member::{Ask, MAX_SUSPENDS, MemberMessage},
        membership::Suspended,
    },
};
use kanpachi_proto::{roster::Refusal, spread};

use super::{
    Core,
    book::Origin,
    engine,
    refusals::{not_joined, not_suspended},
    swarm,
};
use crate::{clock, ipc::error::ApiError};

/// A member's question that shows this node to be behind is answered first; then it is asked back.
const ASK_BACK: Duration = Duration::from_millis(50);

impl Core {
    /// Keeps a tunnel to a member from now on, and asks it by other ways when none comes up.
    pub(super) async fn connect(&mut self, node: NodeId) {
        self.state.spread.handle_wanted(&node, clock::now());
        self.engine.send(engine::Command::Connect(node)).await;
    }

    /// Nobody says any more who is online: every member that may be found is tried.
    pub(super) async fn connect_all(&mut self) {
        let peers: Vec<NodeId> = self.state.peers.keys().copied().collect();
        for node in peers {
            if !self.state.spread.is_live(&node) && !self.candidates_of(&node).is_empty() {
                self.connect(node).await;
            }
        }
    }

    /// Asks whoever is to be asked.
    pub(super) async fn ask_members(&mut self) {
        let near = self.standing_at().into_iter().collect();
        self.state.spread.set_near(near);
        self.state.spread.set_own(&self.keys.identity.node_id());
        loop {
            let Some(session) = &mut self.state.session else {
                return;
            };
            let due = self.state.spread.poll_ask(&session.rosters, clock::now());
            let Some(node) = due else {
                return;
            };
            let records = self.state.spread.takes_records(&node);
            let mut ask = Box::new(spread::ask(&session.rosters, &node, records));
            if !records {
                // Whoever passes signals on for this node knows that it is a member.
                ask.proofs.clear();
            }
            let swarm = session.swarm.clone();
            let at = self.addresses_of(&node);
            let ways = self.ways_to(&node);
            let command = swarm::Command::Ask {
                node,
                at,
                ways,
                ask,
            };
            swarm.send(command).await;
        }
    }

    /// Where libp2p may dial a member.
    pub(super) fn addresses_of(&self, node: &NodeId) -> swarm::Whereabouts {
        let candidates = self.candidates_of(node);
        let tunnels = self.state.book.of(node).iter();
        let tunnels = tunnels.filter(|s| s.origin == Origin::Tunnel);
        let tunnels: BTreeSet<_> = tunnels.map(|s| s.candidate.addr).collect();
        let addrs = candidates.iter().map(|c| c.addr);
        let (met, mut told): (Vec<_>, Vec<_>) = addrs.partition(|addr| tunnels.contains(addr));
        if self.state.spread.is_live(node) && !met.is_empty() {
            told.clear();
        }
        swarm::Whereabouts { met, told }
    }

    /// A member asks. What it brings along counts as far as it is signed; then it gets what it may know.
    pub(super) async fn handle_asked(&mut self, node: NodeId, ask: &Ask) -> Vec<MemberMessage> {
        let mut changed = false;
        let Some(rosters) = self.rosters() else {
            return vec![];
        };
        for proof in spread::newer_proofs(rosters, ask) {
            let Some(rosters) = self.rosters_mut() else {
                break;
            };
            let outcome = rosters.check_bearer(&proof, &node);
            changed |= self.settle("the proof of a newcomer", outcome);
        }
        let known = self
            .rosters()
            .is_some_and(|r| r.common(&node).next().is_some());
        for suspend in ask.suspends.iter().filter(|_| known) {
            changed |= self.take_suspend(suspend);
        }
        if changed {
            self.members_changed().await;
        }
        let Some(rosters) = self.rosters() else {
            return vec![];
        };
        if spread::is_behind(rosters, ask) {
            let at = clock::now() + ASK_BACK;
            self.state.spread.handle_ahead(&node, at);
        }
        let Some(rosters) = self.rosters() else {
            return vec![];
        };
        let mut out = spread::answer(rosters, &node, ask, self.wall());
        if ask.records {
            out.extend(self.records_for(&node));
        }
        out.push(spread::done());
        out
    }

    /// A member answers.
    pub(super) async fn handle_answer(&mut self, node: NodeId, message: MemberMessage) {
        if let MemberMessage::Record(record) = &message {
            return self.handle_given(record);
        }
        let Some(rosters) = self.rosters_mut() else {
            return;
        };
        let servers = matches!(
            message,
            MemberMessage::Manifest(_) | MemberMessage::Directory(_)
        );
        let changed = match message {
            MemberMessage::Suspend(suspend) => self.take_suspend(&suspend),
            MemberMessage::Gone(_) => {
                tracing::info!(%node, "a member says that this machine is none any more");
                false
            }
            message => {
                let outcome = spread::check(rosters, &node, message);
                self.settle("what a member says", outcome)
            }
        };
        if !changed {
            return;
        }
        if servers {
            self.servers_changed();
        }
        self.members_changed().await;
    }

    pub(super) fn handle_ask_ended(&mut self, node: &NodeId, answered: bool) {
        if let Some(session) = &mut self.state.session {
            let (spread, rosters) = (&mut self.state.spread, &mut session.rosters);
            spread.handle_ended(node, answered, rosters, clock::now());
        }
    }

    /// Takes an owner's word up that a member is out. Whoever else should know is told.
    fn take_suspend(&mut self, suspend: &Signed<Suspend>) -> bool {
        let Some(rosters) = self.rosters_mut() else {
            return false;
        };
        let outcome = rosters.check_suspend(suspend);
        // Known under a roster that is not here yet: it comes again with the roster.
        if matches!(outcome, Err(Refusal::NotHeld)) {
            return false;
        }
        let changed = self.settle("a suspension", outcome);
        if changed {
            tracing::warn!("an owner put a member out; the coordinator makes it final");
            self.state.spread.handle_rumour(clock::now());
            self.tell_suspends();
        }
        changed
    }

    /// Tells the coordinator whom owners put out while it was away. It forgets nothing that it has signed, so this may
    /// be said again.
    pub(super) fn tell_suspends(&mut self) {
        let suspends: Vec<_> = self
            .rosters()
            .into_iter()
            .flat_map(|r| r.suspends())
            .take(MAX_SUSPENDS)
            .map(|s| s.signed().clone())
            .collect();
        if !suspends.is_empty() {
            let _ = self.ask(&ClientMessage::Suspended(Suspended { suspends }));
        }
    }

    /// Puts a member out by this owner's own word.
    pub(super) async fn suspend(
        &mut self,
        network: NetworkId,
        member: MemberId,
    ) -> Result<(), ApiError> {
        let me = self.me();
        let roster = self.rosters().and_then(|r| r.roster(&network));
        let (by, head) = roster
            .and_then(|r| Some((r.member(&me)?.member, r.head())))
            .ok_or_else(not_joined)?;
        let (org, epoch) = (head.org, head.epoch);
        let seq = self.db.next_suspend(clock::wall())?;
        let suspend = Suspend {
            org,
            network,
            member,
            by,
            seq,
            epoch,
        };
        let signed = Signed::sign(&suspend, &self.keys.identity);
        self.state.not_stored = None;
        self.take_suspend(&signed);
        let rosters = self.rosters();
        if rosters.is_none_or(|r| r.suspension(&network, &member).is_none()) {
            // What is not on disk does not count, and nobody may be told that it does.
            return Err(self.state.not_stored.take().unwrap_or_else(not_suspended));
        }
        // Whoever is reachable hears it from the owner, not only by rumour.
        self.state.spread.handle_changed(clock::now());
        self.members_changed().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{Alone, Org};

    #[tokio::test]
    async fn an_eviction_that_the_disk_did_not_take_is_not_acknowledged() {
        let mut alone = Alone::new().await;
        let (network, member) = (Org::network("lan"), super::MemberId([2; 32]));
        let full = "CREATE TRIGGER full BEFORE INSERT ON suspends BEGIN SELECT RAISE(FAIL, 'no room'); END";
        alone.database().execute_batch(full).unwrap();
        let error = alone.core.suspend(network, member).await.unwrap_err();
        assert!(error.message.contains("no room"), "{}", error.message);
        alone.database().execute_batch("DROP TRIGGER full").unwrap();
        alone.core.suspend(network, member).await.unwrap();
        let rosters = alone.core.rosters().unwrap();
        assert!(rosters.suspension(&network, &member).is_some());
    }
}
