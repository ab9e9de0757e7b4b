//! Whose record lies under which key: the keys of all co-members, under both secrets, today and yesterday.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use kanpachi_common::{Hash, NetworkId, NodeId, record::OuterRecord};

use super::Group;

/// Keys derived in one go; each takes some ten microseconds.
const WORK: usize = 256;
/// Keys at the most: 4,096 members, two secrets and two days, and some more networks beside.
const MAX_KEYS: usize = 32_768;

/// One key's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) network: NetworkId,
    pub(super) secret: u32,
    pub(super) node: NodeId,
    pub(super) day: u64,
}

/// Whose record a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Own,
    Member(Place),
}

impl Whose {
    pub(super) fn is_of(&self, node: &NodeId) -> bool {
        matches!(self, Self::Member(place) if place.node == *node)
    }
}

#[derive(Debug)]
pub(super) struct Index {
    me: NodeId,
    day: u64,
    keys: BTreeMap<Hash, Place>,
    known: BTreeMap<Place, Hash>,
    missing: VecDeque<Place>,
}

impl Index {
    pub(super) const fn new(me: NodeId) -> Self {
        Self {
            me,
            day: 0,
            keys: BTreeMap::new(),
            known: BTreeMap::new(),
            missing: VecDeque::new(),
        }
    }

    pub(super) fn whose(&self, key: &Hash) -> Option<Whose> {
        let place = self.keys.get(key)?;
        if place.node == self.me {
            Some(Whose::Own)
        } else {
            Some(Whose::Member(*place))
        }
    }

    pub(super) fn set_groups(&mut self, groups: &[Group], day: u64) {
        self.day = day;
        let wanted: BTreeSet<Place> = groups
            .iter()
            .flat_map(|group| self.places(group))
            .take(MAX_KEYS)
            .collect();
        let gone = self.known.keys().filter(|place| !wanted.contains(place));
        for place in gone.copied().collect::<Vec<_>>() {
            if let Some(key) = self.known.remove(&place) {
                self.keys.remove(&key);
            }
        }
        let missing = wanted.into_iter().filter(|p| !self.known.contains_key(p));
        self.missing = missing.collect();
    }

    fn places<'a>(&self, group: &'a Group) -> impl Iterator<Item = Place> + use<'a> {
        let (me, day) = (self.me, self.day);
        let days = [day, day.saturating_sub(1)];
        let nodes = group.members.iter().copied().chain([me]);
        nodes.flat_map(move |node| {
            group.secrets.iter().flat_map(move |secret| {
                days.into_iter().map(move |day| Place {
                    network: group.network,
                    secret: secret.id,
                    node,
                    day,
                })
            })
        })
    }

    /// Derives keys that are missing, a bounded number of them.
    pub(super) fn work(&mut self, groups: &[Group], day: u64) {
        if self.day != day {
            self.set_groups(groups, day);
        }
        for _ in 0..WORK {
            let Some(place) = self.missing.pop_front() else {
                return;
            };
            if let Some(key) = key_of(groups, &place) {
                self.keys.insert(key, place);
                self.known.insert(place, key);
            }
        }
    }

    pub(super) fn has_work(&self) -> bool {
        !self.missing.is_empty()
    }
}

/// The secret of a place.
pub(super) fn secret_of<'a>(
    groups: &'a [Group],
    place: &Place,
) -> Option<&'a kanpachi_common::secret::NetworkSecret> {
    let group = groups.iter().find(|g| g.network == place.network)?;
    group.secrets.iter().find(|s| s.id == place.secret)
}

/// The key of a place.
pub(super) fn key_of(groups: &[Group], place: &Place) -> Option<Hash> {
    let secret = secret_of(groups, place)?;
    let key = secret.record_key(&place.node, place.day).public_key();
    Some(OuterRecord::dht_key(&key))
}
