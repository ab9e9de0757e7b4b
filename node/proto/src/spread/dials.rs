//! At which addresses libp2p may dial a member: it may have told of addresses of somebody else.
//!
//! A dial is some datagrams of 1200 bytes, and a member that does not answer is dialled again and again. Where its tunnel was
//! up it is surely itself; of what it only tells of, so many addresses are dialled at once, and then one after the other.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::NodeId;

use crate::path::budget::{Budget, Rate};

/// Dials of addresses at which a member was never met.
const UNMET: Rate = Rate {
    most: 32,
    every: Duration::from_secs(10),
};

#[derive(Debug, Default)]
struct Member {
    unmet: Budget,
    /// How many of its addresses were dialled the last time, when that was not all.
    turn: usize,
}

/// What may be dialled of each member.
#[derive(Debug, Default)]
pub struct Dials {
    members: BTreeMap<NodeId, Member>,
}

impl Dials {
    /// Forgets whoever is no member any more.
    pub fn retain(&mut self, is_member: impl Fn(&NodeId) -> bool) {
        self.members.retain(|node, _| is_member(node));
    }

    /// Those of the addresses that a member tells of that are dialled now: as many as there is room for, others each time.
    pub fn admit(&mut self, node: NodeId, told: &[SocketAddr], now: Instant) -> Vec<SocketAddr> {
        if told.is_empty() {
            return Vec::new();
        }
        let member = self.members.entry(node).or_default();
        let begin = member.turn % told.len();
        let in_turn = told.iter().cycle().skip(begin).take(told.len());
        let room = |_: &&SocketAddr| member.unmet.take(UNMET, now);
        let out: Vec<_> = in_turn.take_while(room).copied().collect();
        member.turn = if out.len() == told.len() {
            0
        } else {
            begin + out.len()
        };
        out
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const NODE: NodeId = NodeId([2; 32]);

    fn addrs(from: u16) -> Vec<SocketAddr> {
        let at = |port| SocketAddr::from(([203, 0, 113, 9], port));
        (from..from + 16).map(at).collect()
    }

    #[test]
    fn whoever_tells_of_other_addresses_all_the_time_has_few_dialled() {
        let (mut dials, start) = (Dials::default(), Instant::now());
        let mut dialled = 0;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            let told = addrs(16 * (second % 100) as u16);
            dialled += dials.admit(NODE, &told, now).len();
        }
        assert_eq!(dialled, 32 + 359);
        // Others are not concerned.
        let now = start + Duration::from_secs(3600);
        let all = addrs(1);
        let other = NodeId([3; 32]);
        assert_eq!(dials.admit(other, &all, now), all);
        dials.retain(|_| false);
        assert_eq!(dials.admit(NODE, &all, now), all);
    }

    #[test]
    fn every_address_has_its_turn() {
        let (mut dials, mut now) = (Dials::default(), Instant::now());
        let all = addrs(1);
        for _ in 0..2 {
            assert_eq!(dials.admit(NODE, &all, now), all);
        }
        let mut seen = BTreeSet::new();
        for _ in 0..6 {
            now += Duration::from_secs(30);
            let some = dials.admit(NODE, &all, now);
            assert_eq!(some.len(), 3);
            seen.extend(some);
        }
        assert_eq!(seen.len(), 16);
    }
}
