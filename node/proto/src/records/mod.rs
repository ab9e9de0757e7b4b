//! Peer records: where this node is, told to the DHT, and where its peers are, learnt from it and from each other.
//!
//! Three parts under one roof: [`publish`] keeps this node's own record in the DHT, one for each network; [`lookup`]
//! looks for peers that are wanted, a few at a time; [`hold`] keeps the newest valid record of each co-member, from
//! wherever it came. What is stored for others, whose records this node may not be able to read, goes by
//! [`shelf`](kanpachi_common::record::shelf).
//!
//! The shell writes [`Update`]s to disk and gives them back to [`Records::commit`]: no record goes out before its number
//! is on disk. [`Action`]s are carried out.

mod hold;
mod index;
mod lookup;
mod publish;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

use kanpachi_common::{
    Candidate, Hash, NatBehaviour, NetworkId, NodeId, SecretKey, UnixTime,
    record::{
        OuterRecord,
        shelf::{self, Limits, Offer, Shelf},
    },
    roster::Position,
    secret::NetworkSecret,
    time::DAY,
};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use self::{
    hold::{Fresh, Hold},
    index::{Index, Whose},
    lookup::Lookups,
    publish::Publisher,
};
pub use hold::Kept;
pub use lookup::Query;
pub use publish::{MAX_REPUBLISH, PACE};

/// What this node stores for others: at most 8 MiB, and of one bearer what it needs in some dozen networks.
const SHELF: Limits = Limits {
    records: 4096,
    per_source: 128,
    bytes: 8 << 20,
};
/// How often expired records are dropped.
const EXPIRE: Duration = Duration::from_secs(60);

/// The time, by both clocks: what is waited for goes by the first, numbers and days by the second.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Never goes back.
    pub instant: Instant,
    /// The wall clock, as far as it is believed.
    pub wall: UnixTime,
}

impl Now {
    const fn day(&self) -> u64 {
        self.wall.0 / DAY
    }
}

/// A network that this node is there in, with what records need of it.
#[derive(Clone, Debug)]
pub struct Group {
    /// The network.
    pub network: NetworkId,
    /// Where its roster stands.
    pub position: Position,
    /// Its secrets, newest first.
    pub secrets: Vec<NetworkSecret>,
    /// The members that this node may talk to.
    pub members: BTreeSet<NodeId>,
}

/// How a record came here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// From the DHT: looked up, or stored here.
    Dht,
    /// From another member that holds it.
    Member,
    /// From the disk.
    Disk,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Store a record of this node in the DHT, and keep it here under the same key. Report with
    /// [`Records::handle_put`].
    Put {
        /// Names it in the report.
        query: Query,
        /// Under which key.
        key: Hash,
        /// The bytes.
        value: Vec<u8>,
        /// For how long it lives.
        life: Duration,
        /// Nothing is new in it: only some servers are to have it at once.
        gently: bool,
    },
    /// One server more is to have the records under these keys that were put before, whichever lacks them and had one the
    /// longest ago. Those under other keys are not this node's any more.
    PutOne(Vec<Hash>),
    /// A server is connected: it is given those of the records under these keys that it misses, of what was put before.
    Give {
        /// Which server.
        server: NodeId,
        /// It may have lost what it took, so it is given all.
        lost: bool,
        /// This node's, as in [`Action::PutOne`].
        keys: Vec<Hash>,
    },
    /// Look a key up in the DHT. Report values with [`Records::handle_value`], the end with
    /// [`Records::handle_finished`].
    Get {
        /// Names it in the reports.
        query: Query,
        /// Which key.
        key: Hash,
        /// The bootstraps alone are asked.
        gently: bool,
    },
    /// Nobody waits for this look-up any more.
    Stop(Query),
    /// Keep a record for others, so that it is given to whoever asks.
    Keep {
        /// Under which key.
        key: Hash,
        /// The bytes.
        value: Vec<u8>,
        /// For how long.
        life: Duration,
    },
    /// Give these up.
    Drop(Vec<Hash>),
    /// Here a peer says that it is.
    Found(Found),
}

/// Where a peer says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The peer.
    pub node: NodeId,
    /// Its addresses.
    pub candidates: Vec<Candidate>,
    /// What it says of its NAT.
    pub nat: Option<NatBehaviour>,
    /// Members that pass signals on for it, as it says.
    pub relays: Vec<NodeId>,
    /// How the record came here.
    pub source: Source,
    /// When it came.
    pub received: UnixTime,
}

/// What is to be written to disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// Numbers up to this one are used. Records wait for it to be written.
    Counter(u64),
    /// Records that came in, for a start with nobody to ask. A cache: a failure to write it is no harm.
    Cache {
        /// New, or newer than before.
        keep: Vec<Kept>,
        /// Of those who are no members any more.
        forget: Vec<(NetworkId, NodeId)>,
    },
}

/// What was on disk.
#[derive(Clone, Debug, Default)]
pub struct Stored {
    /// The highest number used.
    pub counter: u64,
    /// Records of others.
    pub kept: Vec<Kept>,
}

/// What happened so far, by name as in the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Records of this node that went out.
    pub published: u64,
    /// Those of them that a server took, itself not counted.
    pub taken: u64,
    /// Look-ups begun.
    pub lookups: u64,
    /// Those of them that found a valid record.
    pub found: u64,
    /// Values under the key of a peer that were not signed by it.
    pub invalid: u64,
    /// Records to be stored that were refused.
    pub refused: u64,
}

/// Peer records of one organisation, as one node sees them.
#[derive(Debug)]
pub struct Records {
    rng: ChaCha20Rng,
    groups: Vec<Group>,
    index: Index,
    publisher: Publisher,
    lookups: Lookups,
    hold: Hold,
    shelf: Shelf,
    next_expiry: Instant,
    next_query: u64,
    actions: VecDeque<Action>,
    updates: VecDeque<Update>,
    counters: Counters,
}

impl Records {
    /// What is on disk is taken up when the networks are known, by the first [`Records::set_groups`].
    #[must_use]
    pub fn new(identity: SecretKey, boot: u64, stored: Stored, seed: [u8; 32], now: Now) -> Self {
        Self {
            rng: ChaCha20Rng::from_seed(seed),
            groups: Vec::new(),
            index: Index::new(identity.node_id()),
            publisher: Publisher::new(identity, boot, stored.counter),
            lookups: Lookups::new(now.instant),
            hold: Hold::new(stored.kept),
            shelf: Shelf::new(SHELF),
            next_expiry: now.instant + EXPIRE,
            next_query: 1,
            actions: VecDeque::new(),
            updates: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// What happened so far.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    /// The networks, their secrets or their members changed, or may have.
    pub fn set_groups(&mut self, groups: Vec<Group>, now: Now) {
        self.index.set_groups(&groups, now.day());
        for found in self.hold.set_groups(&groups, now) {
            self.actions.push_back(Action::Found(found));
        }
        self.publisher.set_groups(&groups, now);
        self.groups = groups;
        self.handle_timeout(now);
    }

    /// Where this node may be reached, directly and over whom, changed, or may have.
    pub fn set_own(&mut self, candidates: Vec<Candidate>, relays: Vec<NodeId>, now: Now) {
        self.publisher.set_own(candidates, relays, now);
        self.handle_timeout(now);
    }

    /// What is known of this node's NAT changed, or may have.
    pub fn set_nat(&mut self, nat: Option<NatBehaviour>, now: Now) {
        self.publisher.set_nat(nat, now);
        self.handle_timeout(now);
    }

    /// The peers that should be found: all others are let be.
    pub fn set_wanted(&mut self, wanted: &BTreeSet<NodeId>, now: Now) {
        let stopped = self.lookups.set_wanted(wanted, now.instant);
        self.stop(stopped);
        self.handle_timeout(now);
    }

    /// A server of the DHT can be reached that could not be before: it is given what it misses, and what failed is tried again.
    /// The directory's servers are `lasting`, members are not.
    pub fn handle_server(&mut self, server: NodeId, lasting: bool, now: Now) {
        let give = self.publisher.handle_server(server, lasting, now);
        self.actions.extend(give);
        self.lookups.handle_server(now.instant);
        self.handle_timeout(now);
    }

    /// A record went out to this many servers.
    pub fn handle_put(&mut self, query: Query, servers: usize, now: Now) {
        let own = self.publisher.handle_put(query, servers, now);
        self.counters.taken += u64::from(own && servers > 0);
    }

    /// A look-up found a value.
    pub fn handle_value(&mut self, query: Query, value: &[u8], now: Now) {
        if self.publisher.is_check(query) {
            return self.see_own(value, now);
        }
        let Some(node) = self.lookups.node_of(query) else {
            return;
        };
        let found = self.claimed(value).and_then(|key| self.index.whose(&key));
        let Some(Whose::Member(place)) = found.filter(|whose| whose.is_of(&node)) else {
            self.counters.invalid += 1;
            return;
        };
        let fresh = self
            .hold
            .offer(&self.groups, &place, value, Source::Dht, now);
        match fresh {
            Fresh::Invalid => self.counters.invalid += 1,
            // Of an earlier start, perhaps; others may know better.
            Fresh::Older => {}
            // It says nothing new, as this node's own store may; others may know better.
            Fresh::Known => self.note_found(&node),
            Fresh::Newer(found) => {
                self.note_found(&node);
                let stopped = self.lookups.finish(&node, now.instant);
                self.stop(stopped);
                self.actions.push_back(Action::Found(*found));
            }
        }
        self.handle_timeout(now);
    }

    fn note_found(&mut self, node: &NodeId) {
        self.counters.found += u64::from(self.lookups.mark_found(node));
    }

    /// A look-up has no more answers.
    pub fn handle_finished(&mut self, query: Query, now: Now) {
        self.lookups.handle_finished(query);
        self.handle_timeout(now);
    }

    /// Somebody wants a record stored here. Whether the bearer may is the shell's to say.
    pub fn handle_offered(&mut self, source: NodeId, key: &[u8], value: &[u8], now: Now) {
        if self.keep(source, key, value, now).is_none() {
            self.counters.refused += 1;
        }
        self.handle_timeout(now);
    }

    fn keep(&mut self, source: NodeId, key: &[u8], value: &[u8], now: Now) -> Option<()> {
        let claimed = self.claimed(value).filter(|claimed| claimed.0 == key)?;
        match self.index.whose(&claimed) {
            Some(Whose::Own) => {
                self.see_own(value, now);
                return None;
            }
            // The record of a co-member goes by what the member signed, not by the number that anybody who knows the
            // secret can write: nobody keeps it from renewing its own.
            Some(Whose::Member(place)) => {
                match self
                    .hold
                    .offer(&self.groups, &place, value, Source::Dht, now)
                {
                    Fresh::Newer(found) => {
                        self.shelf.forget(&claimed);
                        self.actions.push_back(Action::Found(*found));
                    }
                    Fresh::Known => {}
                    Fresh::Invalid | Fresh::Older => return None,
                }
            }
            None => {}
        }
        let offer = Offer { source, key, value };
        let taken = self.shelf.offer(&offer, now.instant).ok()?;
        if !taken.dropped.is_empty() {
            self.actions.push_back(Action::Drop(taken.dropped));
        }
        self.actions.push_back(Action::Keep {
            key: taken.key,
            value: value.to_vec(),
            life: taken.life,
        });
        Some(())
    }

    /// The records held of a network, as they lie in the DHT, to be given to a member of it: this node's own, and those
    /// of others that came lately. Old ones are not passed on, or they would go round for ever.
    #[must_use]
    pub fn held_for(&self, network: &NetworkId, now: Now) -> Vec<Vec<u8>> {
        let own = self.publisher.value(network).map(<[u8]>::to_vec);
        own.into_iter()
            .chain(self.hold.given(network, now))
            .take(hold::MAX_GIVEN)
            .collect()
    }

    /// A member gave a record of the network. It may be anybody's; `true` if it was news.
    pub fn handle_given(&mut self, network: &NetworkId, value: &[u8], now: Now) -> bool {
        let whose = self.claimed(value).and_then(|key| self.index.whose(&key));
        let news = match whose {
            Some(Whose::Own) => {
                self.see_own(value, now);
                false
            }
            Some(Whose::Member(place)) if place.network == *network => {
                match self
                    .hold
                    .offer(&self.groups, &place, value, Source::Member, now)
                {
                    Fresh::Newer(found) => {
                        self.actions.push_back(Action::Found(*found));
                        true
                    }
                    Fresh::Invalid => {
                        self.counters.invalid += 1;
                        false
                    }
                    Fresh::Known | Fresh::Older => false,
                }
            }
            _ => false,
        };
        self.handle_timeout(now);
        news
    }

    /// The place in the DHT that a value claims.
    fn claimed(&self, value: &[u8]) -> Option<Hash> {
        let key = shelf::claimed_key(value).ok()?;
        Some(OuterRecord::dht_key(&key))
    }

    /// Somebody shows this node a record of its own.
    fn see_own(&mut self, value: &[u8], now: Now) {
        self.publisher.see(&self.groups, value, now);
        self.handle_timeout(now);
    }

    /// Something is due.
    pub fn handle_timeout(&mut self, now: Now) {
        self.index.work(&self.groups, now.day());
        if self.next_expiry <= now.instant {
            self.next_expiry = now.instant + EXPIRE;
            let expired = self.shelf.expire(now.instant);
            if !expired.is_empty() {
                self.actions.push_back(Action::Drop(expired));
            }
        }
        if let Some(counter) = self.publisher.handle_timeout(now) {
            self.updates.push_back(Update::Counter(counter));
        }
        self.actions
            .extend(self.publisher.take_one(now).map(Action::PutOne));
        if let Some(check) = self.publisher.take_check(&mut self.next_query, now) {
            self.actions.push_back(check);
        }
        if let Some(update) = self.hold.take_dirty(now.instant) {
            self.updates.push_back(update);
        }
        self.look_up(now);
    }

    fn look_up(&mut self, now: Now) {
        let stopped = self.lookups.give_up(now.instant);
        self.stop(stopped);
        while let Some(node) = self.lookups.next_due(now.instant) {
            self.counters.lookups += 1;
            let keys = lookup::keys(&self.groups, &node, now.day());
            self.lookups.start(node, keys, now.instant);
        }
        while let Some((query, key)) = self.lookups.next_get(&mut self.next_query, now.instant) {
            let gently = false;
            self.actions.push_back(Action::Get { query, key, gently });
        }
    }

    fn stop(&mut self, queries: Vec<Query>) {
        let stops = queries.into_iter().map(Action::Stop);
        self.actions.extend(stops);
    }

    /// Takes up an update that is on disk.
    pub fn commit(&mut self, update: &Update, now: Now) {
        if let Update::Counter(counter) = update {
            let (rng, next) = (&mut self.rng, &mut self.next_query);
            let puts = self
                .publisher
                .commit(*counter, &self.groups, rng, next, now);
            self.counters.published += puts.len() as u64;
            self.actions.extend(puts);
        }
    }

    /// What to write next.
    pub fn poll_update(&mut self) -> Option<Update> {
        self.updates.pop_front()
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When something is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            Some(self.next_expiry),
            self.publisher.poll_timeout(),
            self.hold.poll_timeout(),
            self.lookups.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// Is there something to be done at once that is too long for one go?
    #[must_use]
    pub fn has_work(&self) -> bool {
        self.index.has_work()
    }
}
