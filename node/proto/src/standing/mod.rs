//! Standing connections: the few co-members at which this node can be found when every server is dead.
//!
//! Every member passes signals on for its co-members (circuit relay v2), and has others do so for it: it keeps a direct
//! libp2p connection and a reservation at [`STANDING`] members of each network. Which ones follows from a hash of both
//! ids, so whoever looks for a node knows where to ask without being told, and nobody is everybody's relay.
//! [`Standing`] says where to stand, and by whom another member may be reached.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use kanpachi_common::{Hash, NetworkId, NodeId};

/// Members of each network that this node keeps a reservation at.
pub const STANDING: usize = 3;
/// Reservations of all networks together at the most. A record names no more than 8 of them.
pub const MAX_STANDING: usize = 8;
/// Members by which another one is looked for at once, at the most.
pub const MAX_WAYS: usize = 8;
/// Members that are being tried at once.
const MAX_TRYING: usize = 3;
/// Before the first is chosen: tunnels come up, and say who is there.
const START: Duration = Duration::from_secs(1);
/// A member that does not give a reservation within this is passed over.
const PATIENCE: Duration = Duration::from_secs(6);
/// For this long, and for twice as long each time.
const REST: Duration = Duration::from_secs(5);
/// And at the longest for this.
const MAX_REST: Duration = Duration::from_secs(600);
/// A reservation that held for this long makes up for what failed before.
const SETTLED: Duration = Duration::from_secs(600);
/// Reservations are given up for better ones no oftener than this, and then all together: each change is one of this
/// node's record, which goes to many.
const CHANGE: Duration = Duration::from_secs(60);

/// A co-member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fellow {
    /// The member.
    pub node: NodeId,
    /// The networks in common.
    pub networks: BTreeSet<NetworkId>,
    /// Anybody can reach it: nothing filters what comes to it, or its router forwards its port.
    pub open: bool,
    /// This node has a tunnel to it.
    pub up: bool,
    /// It may be there.
    pub there: bool,
}

/// What the shell is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect directly to this member and ask it for a reservation. Report with [`Standing::handle_stands`] or
    /// [`Standing::handle_ended`].
    Stand(NodeId),
    /// Give up the reservation there, or the attempt.
    Leave(NodeId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    Trying { until: Instant },
    Held { since: Instant },
}

#[derive(Debug)]
struct Place {
    fellow: Fellow,
    /// Where it stands among those who may stand for this node.
    rank: Hash,
    state: State,
    failures: u32,
    /// Not tried again before.
    rest: Option<Instant>,
}

impl Place {
    const fn is_held(&self) -> bool {
        matches!(self.state, State::Held { .. })
    }

    const fn is_trying(&self) -> bool {
        matches!(self.state, State::Trying { .. })
    }

    fn rests(&self, now: Instant) -> bool {
        self.state == State::Idle && self.rest.is_some_and(|rest| rest > now)
    }

    /// Smallest first: those that were reached, then those that anybody can reach.
    fn order(&self) -> (bool, bool, Hash) {
        let reached = self.fellow.up || self.is_held();
        (!reached, !self.fellow.open, self.rank)
    }

    fn fail(&mut self, now: Instant) {
        if let State::Held { since } = self.state
            && now.saturating_duration_since(since) >= SETTLED
        {
            self.failures = 0;
        }
        let rest = REST.saturating_mul(1 << self.failures.min(8)).min(MAX_REST);
        self.failures = self.failures.saturating_add(1);
        (self.state, self.rest) = (State::Idle, Some(now + rest));
    }
}

/// How early a member comes among those at whom a node may stand: smallest first. The same for everybody.
#[must_use]
pub fn rank(of: &NodeId, member: &NodeId) -> Hash {
    Hash::of(&[b"kanpachi/standing/v1", &of.0, &member.0])
}

/// Where this node stands.
#[derive(Debug)]
pub struct Standing {
    me: NodeId,
    start: Instant,
    places: BTreeMap<NodeId, Place>,
    last_change: Option<Instant>,
    /// Of members that are none any more.
    leaving: Vec<NodeId>,
    /// Something happened since nothing was to be done.
    dirty: bool,
    /// Without that, nothing is before this.
    due: Option<Instant>,
}

impl Standing {
    /// Knows nobody yet.
    #[must_use]
    pub const fn new(me: NodeId, now: Instant) -> Self {
        Self {
            me,
            start: now,
            places: BTreeMap::new(),
            last_change: None,
            leaving: Vec::new(),
            dirty: true,
            due: None,
        }
    }

    /// Who the co-members are, and what is known of them.
    pub fn set_fellows(&mut self, fellows: Vec<Fellow>) {
        self.dirty = true;
        let nodes: BTreeSet<NodeId> = fellows.iter().map(|fellow| fellow.node).collect();
        let leaving = &mut self.leaving;
        self.places.retain(|node, place| {
            let stays = nodes.contains(node);
            if !stays && place.state != State::Idle {
                leaving.push(*node);
            }
            stays
        });
        for fellow in fellows {
            let node = fellow.node;
            if let Some(place) = self.places.get_mut(&node) {
                if fellow.up && !place.fellow.up {
                    // It could not be reached, and now it can.
                    place.rest = None;
                }
                place.fellow = fellow;
            } else if node != self.me {
                let place = Place {
                    rank: rank(&self.me, &node),
                    fellow,
                    state: State::Idle,
                    failures: 0,
                    rest: None,
                };
                self.places.insert(node, place);
            }
        }
    }

    /// A member gave this node a reservation.
    pub fn handle_stands(&mut self, node: &NodeId, now: Instant) {
        if let Some(place) = self.places.get_mut(node)
            && place.is_trying()
        {
            (place.state, place.rest) = (State::Held { since: now }, None);
            self.dirty = true;
        }
    }

    /// There is no reservation at a member any more, or it gave none.
    pub fn handle_ended(&mut self, node: &NodeId, now: Instant) {
        if let Some(place) = self.places.get_mut(node)
            && place.state != State::Idle
        {
            place.fail(now);
            self.dirty = true;
        }
    }

    /// The next thing to do.
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if !self.dirty && self.due.is_none_or(|due| due > now) {
            return None;
        }
        let action = self.next_action(now);
        self.dirty = action.is_some();
        if action.is_none() {
            self.due = self.next_due(now);
        }
        action
    }

    /// When [`Standing::poll_action`] has something to say, if nothing happens before.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        if self.dirty {
            Some(self.start)
        } else {
            self.due
        }
    }

    fn next_action(&mut self, now: Instant) -> Option<Action> {
        if let Some(node) = self.leaving.pop() {
            return Some(Action::Leave(node));
        }
        if now < self.start + START {
            return None;
        }
        let late = |place: &Place| matches!(place.state, State::Trying { until } if until <= now);
        if let Some((node, place)) = self.places.iter_mut().find(|(_, place)| late(place)) {
            place.fail(now);
            return Some(Action::Leave(*node));
        }
        let wanted = self.wanted(now);
        let trying = self.places.values().filter(|place| place.is_trying());
        if trying.count() < MAX_TRYING {
            let idle = wanted.iter().find(|node| self.is_idle(node)).copied();
            if let Some(node) = idle {
                let until = now + PATIENCE;
                self.places.get_mut(&node)?.state = State::Trying { until };
                return Some(Action::Stand(node));
            }
        }
        if self.last_change.is_some_and(|last| last + CHANGE > now) {
            return None;
        }
        while let Some(node) = self.superfluous(&wanted) {
            self.last_change = Some(now);
            self.places.get_mut(&node)?.state = State::Idle;
            self.leaving.push(node);
        }
        self.leaving.pop().map(Action::Leave)
    }

    fn next_due(&self, now: Instant) -> Option<Instant> {
        let start = self.start + START;
        if now < start {
            return Some(start);
        }
        let trying = self.places.values().filter_map(|place| match place.state {
            State::Trying { until } => Some(until),
            _ => None,
        });
        let superfluous = self.superfluous(&self.wanted(now));
        let change = superfluous.and(self.last_change).map(|last| last + CHANGE);
        trying.chain(self.better(now)).chain(change).min()
    }

    fn is_idle(&self, node: &NodeId) -> bool {
        let place = self.places.get(node);
        place.is_some_and(|place| place.state == State::Idle)
    }

    /// Those of a network, best first.
    fn sorted(&self) -> Vec<&Place> {
        let there = self.places.values().filter(|place| place.fellow.there);
        let mut there: Vec<&Place> = there.collect();
        there.sort_by_key(|place| place.order());
        there
    }

    fn networks(&self) -> BTreeSet<NetworkId> {
        let places = self.places.values();
        places
            .flat_map(|place| &place.fellow.networks)
            .copied()
            .collect()
    }

    /// The members at which this node should stand, as far as they may be tried now.
    fn wanted(&self, now: Instant) -> BTreeSet<NodeId> {
        let sorted = self.sorted();
        let mut wanted = BTreeSet::new();
        for network in self.networks() {
            let in_it = sorted
                .iter()
                .filter(|p| p.fellow.networks.contains(&network));
            let usable = in_it.filter(|place| !place.rests(now)).take(STANDING);
            for node in usable.map(|place| place.fellow.node) {
                if wanted.len() < MAX_STANDING {
                    wanted.insert(node);
                }
            }
        }
        wanted
    }

    /// When those may be tried again that would be chosen before the ones that are.
    fn better(&self, now: Instant) -> Option<Instant> {
        let sorted = self.sorted();
        let of = |network: NetworkId| {
            let in_it = sorted
                .iter()
                .filter(move |p| p.fellow.networks.contains(&network));
            let mut left = STANDING;
            in_it
                .take_while(move |place| {
                    let more = left > 0;
                    left -= usize::from(more && !place.rests(now));
                    more
                })
                .filter(|place| place.rests(now))
                .filter_map(|place| place.rest)
        };
        self.networks().into_iter().flat_map(of).min()
    }

    /// A reservation that is not wanted any more, once all are held that are.
    fn superfluous(&self, wanted: &BTreeSet<NodeId>) -> Option<NodeId> {
        let held = |node: &NodeId| self.places.get(node).is_some_and(Place::is_held);
        if !wanted.iter().all(held) {
            return None;
        }
        let places = self.places.iter();
        let more = places.filter(|(node, place)| place.is_held() && !wanted.contains(node));
        more.max_by_key(|(_, place)| place.order())
            .map(|(node, _)| *node)
    }

    /// Where this node has a reservation, best first.
    #[must_use]
    pub fn relays(&self) -> Vec<NodeId> {
        let mut held: Vec<&Place> = self.places.values().filter(|p| p.is_held()).collect();
        held.sort_by_key(|place| (!place.fellow.open, place.rank));
        let nodes = held.iter().map(|place| place.fellow.node);
        nodes.take(MAX_STANDING).collect()
    }

    /// By whom a member may be reached, best first: those that it names, those to whom this node has a tunnel, those
    /// that anybody reaches, and among equals in the order in which the member itself chooses.
    #[must_use]
    pub fn ways_to(&self, target: &NodeId, named: &[NodeId]) -> Vec<NodeId> {
        let Some(sought) = self.places.get(target) else {
            return Vec::new();
        };
        let common = &sought.fellow.networks;
        let places = self.places.values().filter(|place| {
            let fellow = &place.fellow;
            fellow.node != *target && fellow.there && !fellow.networks.is_disjoint(common)
        });
        // Whom this node has no tunnel to and hardly anybody reaches is not dialled for the sake of somebody else.
        let places = places.filter(|place| {
            let fellow = &place.fellow;
            fellow.up || fellow.open || named.contains(&fellow.node)
        });
        let mut ways: Vec<_> = places
            .map(|place| {
                let fellow = &place.fellow;
                let named = named.contains(&fellow.node);
                let rank = rank(target, &fellow.node);
                (!named, !fellow.up, !fellow.open, rank, fellow.node)
            })
            .collect();
        ways.sort_unstable();
        ways.truncate(MAX_WAYS);
        ways.into_iter().map(|(.., node)| node).collect()
    }
}

#[cfg(test)]
mod tests;
