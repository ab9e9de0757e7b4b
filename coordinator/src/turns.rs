//! Networks that wait for something, by who asked for it: whoever asks for many waits behind those who ask for few.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use kanpachi_common::NetworkId;

/// What waits. Everybody who asks has a turn before anybody has a second one.
#[derive(Debug)]
pub(crate) struct Turns<K> {
    waiting: BTreeMap<K, BTreeSet<NetworkId>>,
    /// Who had the last turn.
    last: Option<K>,
}

impl<K: Ord + Copy> Turns<K> {
    pub(crate) const fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            last: None,
        }
    }

    /// Adds a network to what somebody asks for.
    pub(crate) fn insert(&mut self, who: K, network: NetworkId) {
        self.waiting.entry(who).or_default().insert(network);
    }

    /// How much of somebody's waits.
    pub(crate) fn of(&self, who: &K) -> usize {
        self.waiting.get(who).map_or(0, BTreeSet::len)
    }

    /// How many ask for something.
    pub(crate) fn askers(&self) -> usize {
        self.waiting.len()
    }

    /// Nothing that somebody asked for is wanted any more.
    pub(crate) fn forget(&mut self, who: &K) {
        self.waiting.remove(who);
    }

    /// Takes out the next, of those who may have a turn, for a network for which they may.
    pub(crate) fn next(
        &mut self,
        may: impl Fn(&K) -> bool,
        fits: impl Fn(&NetworkId) -> bool,
    ) -> Option<(K, NetworkId)> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut keys = self
            .waiting
            .range((after, Bound::Unbounded))
            .chain(&self.waiting);
        let (who, network) = keys.find_map(|(who, networks)| {
            let network = may(who).then(|| networks.iter().find(|n| fits(n)))??;
            Some((*who, *network))
        })?;
        let networks = self.waiting.get_mut(&who)?;
        networks.remove(&network);
        if networks.is_empty() {
            self.waiting.remove(&who);
        }
        self.last = Some(who);
        Some((who, network))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_has_a_turn_before_anybody_has_a_second_one() {
        let mut turns = Turns::new();
        for n in 0..100 {
            turns.insert(1, NetworkId([n; 32]));
        }
        turns.insert(2, NetworkId([7; 32]));
        turns.insert(3, NetworkId([8; 32]));
        let who: Vec<_> = (0..5)
            .filter_map(|_| turns.next(|_| true, |_| true))
            .collect();
        let who: Vec<i32> = who.into_iter().map(|(who, _)| who).collect();
        assert_eq!(who, [1, 2, 3, 1, 1]);
        assert_eq!((turns.of(&1), turns.of(&2), turns.askers()), (97, 0, 1));
        assert_eq!(turns.next(|who| *who != 1, |_| true), None);
        let late = |n: &NetworkId| n.0[0] > 90;
        assert_eq!(turns.next(|_| true, late), Some((1, NetworkId([91; 32]))));
        turns.forget(&1);
        assert_eq!(turns.next(|_| true, |_| true), None);
    }
}
