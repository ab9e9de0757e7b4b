//! The newest valid record of each co-member, from wherever it came.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use kanpachi_common::{
    NetworkId, NodeId, UnixTime,
    record::{Opened, open},
};

use super::{
    Found, Group, Now, Source, Update,
    index::{Place, secret_of},
};

/// Records of all networks together at the most.
const MAX_HELD: usize = 8192;
/// Their bytes at the most.
const MAX_BYTES: usize = 8 << 20;
/// Records given to a member at the most.
pub(super) const MAX_GIVEN: usize = 256;
/// The cache is written this long after the first change.
const WRITE: Duration = Duration::from_secs(5);

/// A record in the cache on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The network whose secret opens it.
    pub network: NetworkId,
    /// Whose it is.
    pub node: NodeId,
    /// The day that it was sealed for.
    pub day: u64,
    /// When it came, by the wall clock.
    pub received: UnixTime,
    /// As it lies in the DHT.
    pub value: Vec<u8>,
}

/// What a record is beside the one that is held.
#[derive(Debug)]
pub(super) enum Fresh {
    Newer(Box<Found>),
    Known,
    Older,
    Invalid,
}

#[derive(Debug)]
struct Held {
    opened: Opened,
    value: Vec<u8>,
    day: u64,
    source: Source,
    received: UnixTime,
    /// When it came; `None` if it was on disk and that is not known.
    at: Option<Instant>,
}

impl Held {
    fn found(&self, node: NodeId) -> Found {
        Found {
            node,
            candidates: self.opened.record.candidates.clone(),
            nat: self.opened.record.nat,
            relays: self.opened.record.relays.clone(),
            source: self.source,
            received: self.received,
        }
    }

    fn freshness(&self) -> (u64, u64) {
        (self.opened.record.boot, self.opened.record.seq)
    }
}

/// When something came, by the clock that this process goes by.
fn came(received: UnixTime, now: Now) -> Option<Instant> {
    let age = now.wall.0.checked_sub(received.0)?;
    now.instant.checked_sub(Duration::from_secs(age))
}

#[derive(Debug)]
pub(super) struct Hold {
    /// From disk, until the secrets are known that open them.
    stored: Vec<Kept>,
    held: BTreeMap<(NetworkId, NodeId), Held>,
    bytes: usize,
    dirty: BTreeSet<(NetworkId, NodeId)>,
    gone: BTreeSet<(NetworkId, NodeId)>,
    write_at: Option<Instant>,
}

impl Hold {
    pub(super) fn new(mut stored: Vec<Kept>) -> Self {
        stored.truncate(MAX_HELD);
        Self {
            stored,
            held: BTreeMap::new(),
            bytes: 0,
            dirty: BTreeSet::new(),
            gone: BTreeSet::new(),
            write_at: None,
        }
    }

    /// Drops the records of whoever is no member any more; takes up what is on disk of those who are.
    pub(super) fn set_groups(&mut self, groups: &[Group], now: Now) -> Vec<Found> {
        let is_member = |network: &NetworkId, node: &NodeId| {
            let group = groups.iter().find(|g| g.network == *network);
            group.is_some_and(|g| g.members.contains(node))
        };
        let gone = self
            .held
            .keys()
            .filter(|(network, node)| !is_member(network, node));
        for place in gone.copied().collect::<Vec<_>>() {
            self.remove(&place);
            self.dirty.remove(&place);
            self.gone.insert(place);
            self.write_soon(now.instant);
        }
        let mut found = Vec::new();
        let (ready, wait) = std::mem::take(&mut self.stored)
            .into_iter()
            .partition::<Vec<_>, _>(|kept| groups.iter().any(|g| g.network == kept.network));
        self.stored = wait;
        for kept in ready {
            let secrets = groups.iter().filter(|g| g.network == kept.network);
            let mut secrets = secrets
                .filter(|g| g.members.contains(&kept.node))
                .flat_map(|g| &g.secrets);
            let opened = secrets.find_map(|s| open(&kept.value, s, &kept.node, kept.day).ok());
            let place = (kept.network, kept.node);
            match opened {
                Some(opened) if !self.held.contains_key(&place) => {
                    let held = Held {
                        opened,
                        value: kept.value,
                        day: kept.day,
                        source: Source::Disk,
                        received: kept.received,
                        at: came(kept.received, now),
                    };
                    found.push(held.found(kept.node));
                    self.insert(place, held);
                }
                Some(_) => {}
                None => {
                    self.gone.insert(place);
                    self.write_soon(now.instant);
                }
            }
        }
        found
    }

    /// A record of a member: taken if the member signed it and it is newer than what is held.
    pub(super) fn offer(
        &mut self,
        groups: &[Group],
        place: &Place,
        value: &[u8],
        source: Source,
        now: Now,
    ) -> Fresh {
        let opened = secret_of(groups, place)
            .and_then(|secret| open(value, secret, &place.node, place.day).ok());
        let Some(opened) = opened else {
            return Fresh::Invalid;
        };
        let key = (place.network, place.node);
        let fresh = (opened.record.boot, opened.record.seq);
        if let Some(held) = self.held.get_mut(&key) {
            match fresh.cmp(&held.freshness()) {
                std::cmp::Ordering::Less => return Fresh::Older,
                std::cmp::Ordering::Equal => {
                    // What was on disk is passed on when its owner shows it again.
                    if source == Source::Dht {
                        held.at.get_or_insert(now.instant);
                    }
                    return Fresh::Known;
                }
                std::cmp::Ordering::Greater => {}
            }
        }
        let held = Held {
            opened,
            value: value.to_vec(),
            day: place.day,
            source,
            received: now.wall,
            at: Some(now.instant),
        };
        let found = held.found(place.node);
        self.insert(key, held);
        self.gone.remove(&key);
        self.dirty.insert(key);
        self.write_soon(now.instant);
        Fresh::Newer(Box::new(found))
    }

    pub(super) fn given(&self, network: &NetworkId, now: Now) -> impl Iterator<Item = Vec<u8>> {
        let range = (*network, NodeId([0; 32]))..=(*network, NodeId([0xff; 32]));
        let young = self.held.range(range).filter(move |(_, held)| {
            let life = Duration::from_secs(held.opened.ttl.into());
            held.at.is_some_and(|at| now.instant < at + life)
        });
        young.map(|(_, held)| held.value.clone())
    }

    /// What is to be written, once it is time.
    pub(super) fn take_dirty(&mut self, now: Instant) -> Option<Update> {
        self.write_at.filter(|at| *at <= now)?;
        self.write_at = None;
        let dirty = std::mem::take(&mut self.dirty);
        let keep = dirty.into_iter().filter_map(|place| {
            let held = self.held.get(&place)?;
            Some(Kept {
                network: place.0,
                node: place.1,
                day: held.day,
                received: held.received,
                value: held.value.clone(),
            })
        });
        let keep = keep.collect();
        let forget = std::mem::take(&mut self.gone).into_iter().collect();
        Some(Update::Cache { keep, forget })
    }

    pub(super) const fn poll_timeout(&self) -> Option<Instant> {
        self.write_at
    }

    fn write_soon(&mut self, now: Instant) {
        self.write_at.get_or_insert(now + WRITE);
    }

    fn insert(&mut self, place: (NetworkId, NodeId), held: Held) {
        self.remove(&place);
        self.bytes += held.value.len();
        self.held.insert(place, held);
        while self.held.len() > MAX_HELD || self.bytes > MAX_BYTES {
            let oldest = self.held.iter().filter(|(p, _)| **p != place);
            let Some(oldest) = oldest.min_by_key(|(_, h)| h.received).map(|(p, _)| *p) else {
                return;
            };
            self.remove(&oldest);
            self.gone.insert(oldest);
        }
    }

    fn remove(&mut self, place: &(NetworkId, NodeId)) {
        if let Some(held) = self.held.remove(place) {
            self.bytes -= held.value.len();
        }
    }
}
