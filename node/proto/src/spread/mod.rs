//! How news of the organisation spread from member to member: whom this node asks, and when.
//!
//! Epochs ride in the tunnels' handshakes and keepalives, so a member that is behind knows at once; what follows goes
//! over a libp2p stream ([`kanpachi_common::wire::member`]). Three things make this node ask a member:
//! - its tunnel came up; after that one member after the other is asked once in a while, so that nothing is lost for
//!   good;
//! - it said that it holds something newer;
//! - it should be there and its tunnel does not come up: one of the two may not know the other yet, or where it is.
//!
//! A question says what the asker holds. So asking is telling, too: when something changed here that the tunnels do not
//! carry, every member with a tunnel is asked, and asks back when it is behind.

mod exchange;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use kanpachi_common::{NetworkId, NodeId, roster::Position};

pub use exchange::{answer, ask, check, done, is_behind, newer_proofs};

use crate::roster::Rosters;

/// Members that are told of a rumour.
const RUMOUR: usize = 8;
/// Questions under way at once.
pub const MAX_ASKING: usize = 16;
/// Members that are asked at once for the same news.
const MAX_SAME: usize = 2;
/// A tunnel that does not come up within this makes the member be asked by other ways.
const PATIENCE: Duration = Duration::from_millis(700);
/// Between two questions to members with a tunnel, when nothing happens.
const REFRESH: Duration = Duration::from_secs(600);
/// First pause after a question that failed; it doubles.
const RETRY: Duration = Duration::from_secs(1);
/// Longest such pause, and longest one after an answer that did not bring what was claimed.
const MAX_RETRY: Duration = Duration::from_secs(30);
const MAX_RETRY_CLAIMED: Duration = Duration::from_secs(300);
/// Whoever takes longer to answer is not waited for: others are asked for the same news.
const SLOW: Duration = Duration::from_secs(5);
/// While others are asked for the same news.
const WAIT: Duration = Duration::from_secs(1);
/// When nothing happens, all but one of so many times it is somebody who is connected by libp2p anyway that is asked. A
/// connection of its own costs more than everything else that a node does at rest; but those who are always asked
/// could agree to say nothing.
const FARTHER: u32 = 3;

/// What is known of one member.
#[derive(Debug, Default)]
struct Peer {
    /// Its tunnel is up.
    live: bool,
    /// Its tunnel should be up.
    wanted: bool,
    /// That is so only because nobody says that it is not there.
    sought: bool,
    asking: bool,
    asked_at: Option<Instant>,
    /// To be asked again when the question under way has ended.
    again: bool,
    failures: u32,
    /// Its last answer did not bring what it claims to hold, or did not come: who else claims it is asked as well.
    doubtful: bool,
    /// Its claims change nothing before.
    not_before: Option<Instant>,
    due: Option<Instant>,
    /// It is to be asked whatever comes from elsewhere meanwhile: to tell it something, or to hear what tunnels do not
    /// carry. Otherwise it is asked for the news that it claims to hold, if they are any still.
    needed: bool,
    /// The question under way was.
    asked_needed: bool,
    /// It is to be asked only because nothing happened.
    resting: bool,
    /// Rosters that it said it holds.
    told: BTreeMap<NetworkId, Position>,
}

/// Whom to ask, and when.
#[derive(Debug, Default)]
pub struct Spread {
    peers: BTreeMap<NodeId, Peer>,
    /// Who was the last of those that were asked because somebody had to be.
    cursor: Option<NodeId>,
    /// The same of those who are asked when nothing happens and are not near.
    far_cursor: Option<NodeId>,
    /// Who was asked last: the next is somebody behind it.
    turn: Option<NodeId>,
    /// When the next one is asked although nothing happened, and how often that was done.
    refresh: Option<Instant>,
    refreshed: u32,
    /// How much earlier the first time is.
    early: Duration,
    /// Members with a connection that lasts.
    near: BTreeSet<NodeId>,
    /// When somebody else is asked for a secret that is lacking, and how often that was done.
    lacking: Option<Instant>,
    lacked: u32,
}

impl Spread {
    /// Who the members are. Whoever is none any more is not asked.
    pub fn set_peers(&mut self, peers: &BTreeSet<NodeId>) {
        self.peers.retain(|node, _| peers.contains(node));
        for node in peers {
            self.peers.entry(*node).or_default();
        }
    }

    /// A member's tunnel is up.
    pub fn handle_up(&mut self, node: &NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(node)
            && !peer.live
        {
            peer.live = true;
            peer.sought = false;
            (peer.failures, peer.not_before) = (0, None);
            peer.need_at(now);
        }
    }

    /// Is a member's tunnel up?
    #[must_use]
    pub fn is_live(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.live)
    }

    /// A member's tunnel should be up, and is being tried.
    pub fn handle_wanted(&mut self, node: &NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(node)
            && !peer.live
        {
            (peer.wanted, peer.sought) = (true, false);
            peer.need_at(now + PATIENCE);
        }
    }

    /// The members whose tunnels should be up, whether anybody knows where they are or not: those that nothing is known
    /// of are asked as well, by whoever can pass that on.
    pub fn set_sought(&mut self, sought: &BTreeSet<NodeId>, now: Instant) {
        for (node, peer) in &mut self.peers {
            if peer.live {
                peer.sought = false;
            } else if sought.contains(node) && !peer.wanted {
                (peer.wanted, peer.sought) = (true, true);
                peer.need_at(now + PATIENCE);
            } else if !sought.contains(node) && peer.sought {
                (peer.wanted, peer.sought) = (false, false);
                (peer.due, peer.needed) = (None, false);
            }
        }
    }

    /// A member's tunnel is down that should be up.
    pub fn handle_down(&mut self, node: &NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(node) {
            (peer.live, peer.wanted, peer.sought) = (false, true, false);
            peer.need_at(now);
        }
    }

    /// Nobody keeps a tunnel to this member any more.
    pub fn handle_unwanted(&mut self, node: &NodeId) {
        if let Some(peer) = self.peers.get_mut(node) {
            (peer.live, peer.wanted) = (false, false);
            (peer.due, peer.needed) = (None, false);
        }
    }

    /// A member said which rosters it holds.
    pub fn handle_epochs(
        &mut self,
        node: &NodeId,
        generation: u64,
        epochs: &[(NetworkId, u64)],
        rosters: &Rosters,
        now: Instant,
    ) {
        let Some(peer) = self.peers.get_mut(node) else {
            return;
        };
        let position = |epoch| Position { generation, epoch };
        peer.told = epochs.iter().map(|(n, e)| (*n, position(*e))).collect();
        if peer.is_ahead(rosters) {
            let at = peer.not_before.map_or(now, |before| before.max(now));
            peer.ask_at(at);
        }
    }

    /// A member's question shows that it holds something that this node lacks.
    pub fn handle_ahead(&mut self, node: &NodeId, now: Instant) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.need_at(now);
        }
    }

    /// Something changed here that the tunnels do not tell: a suspension, a secret.
    pub fn handle_changed(&mut self, now: Instant) {
        for peer in self.peers.values_mut().filter(|p| p.live || p.wanted) {
            peer.need_at(now);
        }
    }

    /// This node heard of something that the tunnels do not tell. A few are told, who tell a few others.
    pub fn handle_rumour(&mut self, now: Instant) {
        self.ask_some(RUMOUR, now);
    }

    /// What members said could not be written to disk and does not count: a few are asked to say it again.
    pub fn handle_unsaved(&mut self, now: Instant) {
        self.ask_some(RUMOUR, now);
    }

    /// A secret is lacking that any member may have: two are asked, then two others, less and less often.
    fn ask_for_secrets(&mut self, rosters: &Rosters, now: Instant) {
        if !rosters.lacks_secret() {
            (self.lacking, self.lacked) = (None, 0);
            return;
        }
        match self.lacking {
            // It mostly comes by itself, right behind the roster.
            None => self.lacking = Some(now + WAIT),
            Some(due) if due <= now => {
                let pause = WAIT.saturating_mul(1 << self.lacked.min(8)).min(MAX_RETRY);
                self.lacked = self.lacked.saturating_add(1);
                self.lacking = Some(now + pause);
                self.ask_some(MAX_SAME, now);
            }
            Some(_) => {}
        }
    }

    /// Says who this node is. Nodes that started together do not all ask at one moment: each begins earlier by a share of its own,
    /// up to half of the pause.
    pub fn set_own(&mut self, me: &NodeId) {
        let [first, ..] = me.0;
        self.early = REFRESH * u32::from(first) / 512;
    }

    /// The members with which this node keeps a libp2p connection, so that it costs little to ask them.
    pub fn set_near(&mut self, near: BTreeSet<NodeId>) {
        self.near = near;
    }

    /// Nothing happened for a while: a member is asked, and the next time another one; nobody where it is the turn of those who
    /// are connected and there are none.
    fn ask_at_rest(&mut self, now: Instant) {
        if !self.peers.values().any(|p| p.live) {
            self.refresh = None;
        } else if *self.refresh.get_or_insert(now + REFRESH - self.early) <= now {
            self.refresh = Some(now + REFRESH);
            self.refreshed = self.refreshed.wrapping_add(1);
            // Who is asked anyway, or has to wait because it did not bring what it claims, is left to that.
            let at_rest = self.peers.iter().filter(|(_, peer)| peer.is_at_rest());
            let at_rest = at_rest.map(|(node, _)| *node);
            let (near, far): (Vec<_>, Vec<_>) = at_rest.partition(|node| self.near.contains(node));
            let farther = self.refreshed.is_multiple_of(FARTHER);
            let chosen = if farther && !far.is_empty() {
                next_of(far, 1, &mut self.far_cursor)
            } else {
                next_of(near, 1, &mut self.cursor)
            };
            self.ask_those(&chosen, now);
            for node in chosen.iter().filter(|_| !farther) {
                if let Some(peer) = self.peers.get_mut(node) {
                    peer.resting = true;
                }
            }
        }
    }

    /// Is this member to be asked for peer records as well? Those of everybody are most of an answer, and a node at rest
    /// looks for nobody.
    #[must_use]
    pub fn takes_records(&self, node: &NodeId) -> bool {
        self.peers.get(node).is_none_or(|peer| !peer.resting)
    }

    /// Asks the next few members with a tunnel, another few each time.
    fn ask_some(&mut self, count: usize, now: Instant) {
        let live = self.peers.iter().filter(|(_, peer)| peer.live);
        let live = live.map(|(node, _)| *node).collect();
        let chosen = next_of(live, count, &mut self.cursor);
        self.ask_those(&chosen, now);
    }

    fn ask_those(&mut self, nodes: &[NodeId], now: Instant) {
        for node in nodes {
            self.handle_ahead(node, now);
        }
    }

    /// A question ended, answered in full or not. An answer that does not bring what the member claims to hold is as good as
    /// none.
    pub fn handle_ended(
        &mut self,
        node: &NodeId,
        answered: bool,
        rosters: &mut Rosters,
        now: Instant,
    ) {
        rosters.end_pages(node);
        let Some(peer) = self.peers.get_mut(node) else {
            return;
        };
        let behind = peer.is_ahead(rosters);
        peer.doubtful = behind || !answered;
        peer.asking = false;
        let again = std::mem::take(&mut peer.again);
        if peer.doubtful {
            let longest = if answered && !again {
                MAX_RETRY_CLAIMED
            } else {
                MAX_RETRY
            };
            let pause = RETRY.saturating_mul(1 << peer.failures.min(9)).min(longest);
            // Something happened meanwhile. That is worth one more question at once.
            let pause = pause * u32::from(!again || peer.failures > 0);
            peer.failures = peer.failures.saturating_add(1);
            peer.not_before = Some(now + pause);
            // Whoever broke off may not have heard what it was to be told.
            peer.needed |= !(behind && peer.live) || (peer.asked_needed && !answered);
            peer.due = (peer.live || peer.wanted || again).then(|| now + pause);
            return;
        }
        (peer.failures, peer.not_before) = (0, None);
        peer.resting = false;
        peer.due = again.then_some(now);
        if !again && peer.wanted && !peer.live {
            // A tunnel that still does not come up: the answer may have told the other side who this node is.
            peer.need_at(now + MAX_RETRY);
        }
    }

    /// When [`Spread::poll_ask`] has something to say, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.asking() >= MAX_ASKING {
            return None;
        }
        let waiting = self.peers.values().filter(|p| !p.asking);
        let due = waiting.filter_map(|p| p.due);
        due.chain(self.lacking).chain(self.refresh).min()
    }

    fn asking(&self) -> usize {
        self.peers.values().filter(|p| p.asking).count()
    }

    /// The next member to be asked. Whoever takes it asks it, and says how that ended.
    pub fn poll_ask(&mut self, rosters: &Rosters, now: Instant) -> Option<NodeId> {
        self.ask_for_secrets(rosters, now);
        self.ask_at_rest(now);
        if self.asking() >= MAX_ASKING {
            return None;
        }
        let busy = |doubtful: bool| {
            let same = |p: &&Peer| p.is_busy(now) && p.doubtful == doubtful && p.is_ahead(rosters);
            self.peers.values().filter(same).count()
        };
        let busy = [busy(false), busy(true)];
        for node in self.due_in_turn(now) {
            let Some(peer) = self.peers.get_mut(&node) else {
                continue;
            };
            if !peer.needed && !peer.is_ahead(rosters) {
                // The news came from somebody else.
                peer.due = None;
            } else if !peer.needed && busy[usize::from(peer.doubtful)] >= MAX_SAME {
                peer.due = Some(now + WAIT);
            } else {
                (peer.asking, peer.asked_at) = (true, Some(now));
                peer.due = None;
                peer.asked_needed = std::mem::take(&mut peer.needed);
                self.turn = Some(node);
                return Some(node);
            }
        }
        None
    }

    /// The members that are due, beginning behind the one that was asked last.
    fn due_in_turn(&self, now: Instant) -> Vec<NodeId> {
        let due = |p: &Peer| !p.asking && p.due.is_some_and(|due| due <= now);
        let due = self.peers.iter().filter(|(_, p)| due(p)).map(|(n, _)| *n);
        let (before, mut order): (Vec<_>, Vec<_>) =
            due.partition(|node| self.turn.is_some_and(|turn| *node <= turn));
        order.extend(before);
        order
    }
}

/// The next few behind the cursor, and round again to the first.
fn next_of(those: Vec<NodeId>, count: usize, cursor: &mut Option<NodeId>) -> Vec<NodeId> {
    let passed = |node: &NodeId| cursor.is_some_and(|cursor| *node <= cursor);
    let (before, mut next): (Vec<_>, Vec<_>) = those.into_iter().partition(passed);
    next.extend(before);
    next.truncate(count);
    *cursor = next.last().copied().or(*cursor);
    next
}

impl Peer {
    fn need_at(&mut self, at: Instant) {
        (self.needed, self.resting) = (true, false);
        self.ask_at(at);
    }

    fn ask_at(&mut self, at: Instant) {
        if self.asking {
            self.again = true;
        } else {
            self.due = Some(self.due.map_or(at, |due| due.min(at)));
        }
    }

    const fn is_at_rest(&self) -> bool {
        self.live && !self.asking && self.due.is_none()
    }

    /// Is it asked, and may it still answer soon?
    fn is_busy(&self, now: Instant) -> bool {
        self.asking && self.asked_at.is_some_and(|at| now < at + SLOW)
    }

    fn is_ahead(&self, rosters: &Rosters) -> bool {
        self.told.iter().any(|(network, theirs)| {
            let ours = rosters.roster(network).map(|r| r.head().position());
            ours.is_some_and(|ours| *theirs > ours)
        })
    }
}

#[cfg(test)]
mod situations;
#[cfg(test)]
mod tests;
