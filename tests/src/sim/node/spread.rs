//! What members tell each other: as `core/spread.rs` of the daemon, with letters instead of streams.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{
    MemberId, NetworkId, NodeId, Signed,
    roster::Suspend,
    wire::{
        control::ClientMessage,
        member::{Ask, MAX_SUSPENDS, MemberMessage},
        membership::Suspended,
    },
};
use kanpachi_proto::spread;

use super::{Node, Out};

/// A question that nobody answers has failed after this.
const PATIENCE: Duration = Duration::from_secs(5);
/// As in the daemon.
const ASK_BACK: Duration = Duration::from_millis(50);

/// A question that is not answered yet.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) peer: NodeId,
    pub(super) deadline: Instant,
}

impl Node {
    /// Keeps a tunnel to a member from now on, and asks it by other ways when none comes up.
    pub(super) fn connect(&mut self, peer: &NodeId, now: Instant) {
        if let Some(process) = &mut self.process {
            process.spread.handle_wanted(peer, now);
            process.tunnels.connect(peer, now);
        }
    }

    /// Nobody says any more who is online: every member that may be found is tried.
    pub(super) fn connect_all(&mut self, now: Instant) {
        let peers = self.process.iter().flat_map(|p| p.peers.keys().copied());
        for peer in peers.collect::<Vec<_>>() {
            let live = self
                .process
                .as_ref()
                .is_some_and(|p| p.spread.is_live(&peer));
            if !live && !self.candidates_of(&peer).is_empty() {
                self.connect(&peer, now);
            }
        }
    }

    /// Asks whoever is to be asked.
    pub(super) fn ask_members(&mut self, now: Instant) {
        loop {
            let Some(process) = &mut self.process else {
                return;
            };
            let Some(session) = &process.session else {
                return;
            };
            let Some(peer) = process.spread.poll_ask(&session.rosters, now) else {
                return;
            };
            let ask = spread::ask(&session.rosters, &peer, false);
            let number = process.next_question;
            process.next_question += 1;
            let deadline = now + PATIENCE;
            process.asking.insert(number, Asking { peer, deadline });
            let to = self.addresses_of(&peer);
            let ask = Box::new(ask);
            self.outs.push_back(Out::Ask {
                number,
                peer,
                to,
                ask,
            });
        }
    }

    fn addresses_of(&self, peer: &NodeId) -> Vec<SocketAddr> {
        self.candidates_of(peer).iter().map(|c| c.addr).collect()
    }

    /// Questions that nobody answered.
    pub(super) fn expire_questions(&mut self, now: Instant) {
        let Some(process) = &mut self.process else {
            return;
        };
        let late = process.asking.iter().filter(|(_, a)| a.deadline <= now);
        let late: Vec<u64> = late.map(|(number, _)| *number).collect();
        for number in late {
            self.end_question(number, false, now);
        }
    }

    fn end_question(&mut self, number: u64, answered: bool, now: Instant) {
        if let Some(process) = &mut self.process
            && let Some(asking) = process.asking.remove(&number)
            && let Some(session) = &mut process.session
        {
            let rosters = &mut session.rosters;
            (process.spread).handle_ended(&asking.peer, answered, rosters, now);
        }
    }

    /// A member asks.
    pub fn handle_asked(&mut self, peer: NodeId, ask: &Ask, now: Instant) -> Vec<MemberMessage> {
        let mut changed = false;
        let Some(rosters) = self.process.as_ref().and_then(|p| p.rosters()) else {
            return vec![];
        };
        for proof in spread::newer_proofs(rosters, ask) {
            if let Some(session) = self.session_mut() {
                let outcome = session.rosters.check_bearer(&proof, &peer);
                changed |= self.settle(outcome);
            }
        }
        let rosters = self.process.as_ref().and_then(|p| p.rosters());
        let known = rosters.is_some_and(|r| r.common(&peer).next().is_some());
        for suspend in ask.suspends.iter().filter(|_| known) {
            changed |= self.take_suspend(suspend, now);
        }
        if changed {
            self.members_changed(now);
        }
        let Some(process) = &mut self.process else {
            return vec![];
        };
        let wall = process.wall(now);
        let Some(session) = &process.session else {
            return vec![];
        };
        if spread::is_behind(&session.rosters, ask) {
            process.spread.handle_ahead(&peer, now + ASK_BACK);
        }
        let mut out = spread::answer(&session.rosters, &peer, ask, wall);
        out.push(spread::done());
        self.drive(now);
        out
    }

    /// A member answers.
    pub fn handle_answers(&mut self, number: u64, answers: Vec<MemberMessage>, now: Instant) {
        let asked = |p: &super::Process| p.asking.get(&number).map(|a| a.peer);
        let Some(from) = self.process.as_ref().and_then(asked) else {
            return;
        };
        let mut changed = false;
        for message in answers {
            let Some(session) = self.session_mut() else {
                return;
            };
            changed |= match message {
                MemberMessage::Suspend(suspend) => self.take_suspend(&suspend, now),
                MemberMessage::Gone(_) => {
                    self.note("hears from a member that it is none any more");
                    false
                }
                message => {
                    let outcome = spread::check(&mut session.rosters, &from, message);
                    self.settle(outcome)
                }
            };
        }
        if changed {
            self.members_changed(now);
        }
        self.end_question(number, true, now);
        self.drive(now);
    }

    fn take_suspend(&mut self, suspend: &Signed<Suspend>, now: Instant) -> bool {
        let Some(session) = self.session_mut() else {
            return false;
        };
        let outcome = session.rosters.check_suspend(suspend);
        let changed = self.settle(outcome);
        if changed {
            self.note("obeys a suspension");
            if let Some(process) = &mut self.process {
                process.spread.handle_rumour(now);
            }
            self.tell_suspends();
        }
        changed
    }

    /// Tells the coordinator whom owners put out while it was away.
    pub(super) fn tell_suspends(&mut self) {
        let Some(session) = self.session_mut() else {
            return;
        };
        let suspends = session.rosters.suspends().take(MAX_SUSPENDS);
        let suspends: Vec<_> = suspends.map(|s| s.signed().clone()).collect();
        if !suspends.is_empty() {
            let told = ClientMessage::Suspended(Suspended { suspends });
            let _ = session.login.request(&told);
        }
    }

    /// The owner here puts a member out by its own word.
    pub fn suspend(&mut self, network: NetworkId, member: MemberId, now: Instant) -> bool {
        let me = self.id();
        let rosters = self.process.as_ref().and_then(|p| p.rosters());
        let roster = rosters.and_then(|r| r.roster(&network));
        let Some(own) = roster.and_then(|r| r.member(&me)) else {
            return false;
        };
        let head = roster.expect("it names this node").head();
        let suspend = Suspend {
            org: head.org,
            network,
            member,
            by: own.member,
            seq: 1,
            epoch: head.epoch,
        };
        let signed = Signed::sign(&suspend, &self.disk.identity);
        let changed = self.take_suspend(&signed, now);
        if let Some(process) = &mut self.process {
            process.spread.handle_changed(now);
        }
        self.members_changed(now);
        self.drive(now);
        changed
    }
}
