//! Looking up peers in the DHT: a few at a time, each a few times, and ever more rarely.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use kanpachi_common::{Hash, NodeId};

use super::{
    Group,
    index::{Place, key_of},
};

/// Peers looked up at once.
pub(super) const PARALLEL: usize = 8;
/// Keys of one peer that are looked up at the most.
const MAX_KEYS: usize = 16;
/// Queries of one peer at once.
const MAX_QUERIES: usize = 4;
/// The likeliest key gets this much of a start.
const STAGGER: Duration = Duration::from_millis(300);
/// A look-up ends after this, found or not.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// The same peer is looked up again after this, and after twice as long each time: two that start together miss each
/// other's first record.
pub(super) const AGAIN: Duration = Duration::from_secs(3);
/// And at the latest after this.
pub(super) const MAX_AGAIN: Duration = Duration::from_secs(300);
/// Nobody is looked up for so long after the start. All tunnels are down then, most come up by themselves or by the word of
/// the coordinator, and to look everybody up would keep this node, and all that start with it, from just that.
pub(super) const HEAD_START: Duration = Duration::from_secs(3);
/// News of servers count once in this time.
const SERVERS: Duration = Duration::from_secs(2);

/// Names a query or a put. Never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Query(pub u64);

impl Query {
    pub(super) const fn take(next: &mut u64) -> Self {
        let query = Self(*next);
        *next += 1;
        query
    }
}

/// The keys under which a peer's record may lie, likeliest first.
pub(super) fn keys(groups: &[Group], node: &NodeId, day: u64) -> Vec<Hash> {
    let mut out = Vec::new();
    for (rank, day) in [
        (0, day),
        (0, day.saturating_sub(1)),
        (1, day),
        (1, day.saturating_sub(1)),
    ] {
        for group in groups.iter().filter(|g| g.members.contains(node)) {
            let place = group.secrets.get(rank).map(|secret| Place {
                network: group.network,
                secret: secret.id,
                node: *node,
                day,
            });
            out.extend(place.and_then(|place| key_of(groups, &place)));
        }
    }
    out.truncate(MAX_KEYS);
    out
}

#[derive(Clone, Copy, Debug)]
struct Wish {
    next: Instant,
    wait: Duration,
}

#[derive(Debug)]
struct Lookup {
    deadline: Instant,
    /// Keys after the first wait until then.
    more_at: Instant,
    started: bool,
    found: bool,
    left: VecDeque<Hash>,
    queries: BTreeSet<Query>,
}

#[derive(Debug)]
pub(super) struct Lookups {
    /// Not before this.
    begin: Instant,
    wishes: BTreeMap<NodeId, Wish>,
    running: BTreeMap<NodeId, Lookup>,
    queries: BTreeMap<Query, NodeId>,
    last_server: Option<Instant>,
}

impl Lookups {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            begin: now + HEAD_START,
            wishes: BTreeMap::new(),
            running: BTreeMap::new(),
            queries: BTreeMap::new(),
            last_server: None,
        }
    }

    pub(super) fn set_wanted(&mut self, wanted: &BTreeSet<NodeId>, now: Instant) -> Vec<Query> {
        self.wishes.retain(|node, _| wanted.contains(node));
        for node in wanted {
            self.wishes.entry(*node).or_insert(Wish {
                next: now,
                wait: AGAIN,
            });
        }
        let gone = self.running.keys().filter(|node| !wanted.contains(node));
        let gone: Vec<NodeId> = gone.copied().collect();
        gone.iter().flat_map(|node| self.end(node)).collect()
    }

    /// What found nothing may find something now. Whoever is being looked up starts over too: the new server was not
    /// asked.
    pub(super) fn handle_server(&mut self, now: Instant) {
        let earliest = self.last_server.map(|last| last + SERVERS);
        let at = now.max(earliest.unwrap_or(now));
        if at == now {
            self.last_server = Some(now);
        }
        for wish in self.wishes.values_mut() {
            wish.next = wish.next.min(at);
            wish.wait = AGAIN;
        }
    }

    pub(super) fn next_due(&self, now: Instant) -> Option<NodeId> {
        if self.running.len() >= PARALLEL || now < self.begin {
            return None;
        }
        let idle = self
            .wishes
            .iter()
            .filter(|(n, _)| !self.running.contains_key(n));
        let due = idle.filter(|(_, wish)| wish.next <= now);
        due.min_by_key(|(_, wish)| wish.next).map(|(node, _)| *node)
    }

    pub(super) fn start(&mut self, node: NodeId, keys: Vec<Hash>, now: Instant) {
        if let Some(wish) = self.wishes.get_mut(&node) {
            wish.next = now + wish.wait;
            wish.wait = (wish.wait * 2).min(MAX_AGAIN);
        }
        if keys.is_empty() {
            return;
        }
        let lookup = Lookup {
            deadline: now + PATIENCE,
            more_at: now + STAGGER,
            started: false,
            found: false,
            left: keys.into(),
            queries: BTreeSet::new(),
        };
        self.running.insert(node, lookup);
    }

    pub(super) fn next_get(&mut self, next: &mut u64, now: Instant) -> Option<(Query, Hash)> {
        for (node, lookup) in &mut self.running {
            let ready = !lookup.started || lookup.more_at <= now || lookup.queries.is_empty();
            if !ready || lookup.queries.len() >= MAX_QUERIES {
                continue;
            }
            let Some(key) = lookup.left.pop_front() else {
                continue;
            };
            let query = Query::take(next);
            lookup.started = true;
            lookup.queries.insert(query);
            self.queries.insert(query, *node);
            return Some((query, key));
        }
        None
    }

    pub(super) fn node_of(&self, query: Query) -> Option<NodeId> {
        self.queries.get(&query).copied()
    }

    pub(super) fn handle_finished(&mut self, query: Query) {
        let Some(node) = self.queries.remove(&query) else {
            return;
        };
        if let Some(lookup) = self.running.get_mut(&node) {
            lookup.queries.remove(&query);
            if lookup.queries.is_empty() && lookup.left.is_empty() {
                self.running.remove(&node);
            }
        }
    }

    /// Found: the rest is not waited for.
    pub(super) fn finish(&mut self, node: &NodeId, now: Instant) -> Vec<Query> {
        if let Some(wish) = self.wishes.get_mut(node) {
            wish.next = wish.next.max(now + AGAIN);
        }
        self.end(node)
    }

    /// Notes that a look-up has an answer; `true` for the first one.
    pub(super) fn mark_found(&mut self, node: &NodeId) -> bool {
        let lookup = self.running.get_mut(node);
        lookup.is_some_and(|lookup| !std::mem::replace(&mut lookup.found, true))
    }

    fn end(&mut self, node: &NodeId) -> Vec<Query> {
        let Some(lookup) = self.running.remove(node) else {
            return Vec::new();
        };
        for query in &lookup.queries {
            self.queries.remove(query);
        }
        lookup.queries.into_iter().collect()
    }

    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Query> {
        let late = self.running.iter().filter(|(_, l)| l.deadline <= now);
        let late: Vec<NodeId> = late.map(|(node, _)| *node).collect();
        late.iter().flat_map(|node| self.end(node)).collect()
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let running = self.running.values().flat_map(|lookup| {
            let more = (!lookup.left.is_empty() && lookup.queries.len() < MAX_QUERIES)
                .then_some(lookup.more_at);
            [Some(lookup.deadline), more]
        });
        let idle = self
            .wishes
            .iter()
            .filter(|(n, _)| !self.running.contains_key(n));
        let next = idle.map(|(_, wish)| wish.next.max(self.begin)).min();
        let next = next.filter(|_| self.running.len() < PARALLEL);
        running.flatten().chain(next).min()
    }
}
