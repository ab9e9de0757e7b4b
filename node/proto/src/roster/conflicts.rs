//! One IPv4 address, claimed by two: a coordinator never does that, and two of them, or one out of a backup, may have.
//!
//! The claim with the lower serial loses. Where they are equal the larger node id does, so that everybody who sees both
//! claims decides alike. IPv6 addresses follow from keys, and cannot be in conflict.

use std::{cmp::Reverse, collections::BTreeMap, net::Ipv4Addr};

use kanpachi_common::{NodeId, UnixTime};

use super::{Peer, Rosters};

/// An address that more than one member has been given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    /// The address.
    pub address: Ipv4Addr,
    /// Who has it.
    pub keeps: NodeId,
    /// Who goes without; with three claims there are two such conflicts.
    pub loses: NodeId,
}

/// A claim, the better one being greater.
type Claim = (u64, Reverse<NodeId>);

impl Rosters {
    /// All addresses that more than one has been given, this node among them.
    #[must_use]
    pub fn conflicts(&self, clock: UnixTime) -> Vec<Conflict> {
        self.conflicts_of(&self.claimed(clock))
    }

    pub(super) fn conflicts_of(&self, peers: &BTreeMap<NodeId, Peer>) -> Vec<Conflict> {
        let claims = || {
            let peers = peers.values().map(|p| (p.ipv4, p.serial, p.node));
            let own = self.rosters().filter_map(|roster| roster.member(&self.me));
            let own = own.max_by_key(|me| me.tunnel.serial);
            let own = own.map(|me| (me.ipv4, me.tunnel.serial, me.node));
            let all = peers.chain(own);
            all.filter_map(|(ipv4, serial, node)| Some((ipv4?, (serial, Reverse(node)))))
        };
        let mut best: BTreeMap<Ipv4Addr, Claim> = BTreeMap::new();
        for (address, claim) in claims() {
            let held = best.entry(address).or_insert(claim);
            *held = claim.max(*held);
        }
        let beaten = claims().filter_map(|(address, claim)| {
            let best = best.get(&address).filter(|best| **best != claim)?;
            Some(Conflict {
                address,
                keeps: best.1.0,
                loses: claim.1.0,
            })
        });
        beaten.collect()
    }
}

#[cfg(test)]
mod tests {
    use kanpachi_common::{SecretKey, roster::Roster};

    use super::*;
    use crate::roster::tests::Org;

    const NOW: UnixTime = UnixTime(1000);
    const HOST: u8 = 77;

    fn id(n: u8) -> NodeId {
        SecretKey::from_seed(&[n; 32]).node_id()
    }

    /// Node `me`, with a roster of members of these numbers, serials, and last bytes of their addresses.
    fn node(me: u8, members: &[(u8, u64, u8)]) -> Rosters {
        let org = Org::new();
        let mut rosters = Rosters::new(org.id(), id(me));
        let update = rosters.check_manifest(&org.manifest()).unwrap();
        rosters.commit(update);
        let entries = members.iter();
        let roster = Roster {
            entries: entries
                .map(|(n, serial, host)| org.entry_at(*n, *serial, *host))
                .collect(),
            ..org.roster(&[])
        };
        let update = rosters.check_roster(&org.head(&roster, 5, 1000), roster);
        rosters.commit(update.unwrap().unwrap());
        rosters
    }

    fn address(rosters: &Rosters, n: u8) -> Option<Ipv4Addr> {
        rosters.peers(NOW)[&id(n)].ipv4
    }

    fn conflict(keeps: u8, loses: u8) -> Conflict {
        Conflict {
            address: [198, 19, 0, HOST].into(),
            keeps: id(keeps),
            loses: id(loses),
        }
    }

    #[test]
    fn of_two_with_one_address_the_lower_serial_loses_and_both_are_named() {
        for (lower, higher) in [(2, 3), (3, 2)] {
            let mut members = [(1, 1, 1), (lower, 4, HOST), (higher, 5, HOST)];
            members.sort_unstable();
            let rosters = node(1, &members);
            assert_eq!(address(&rosters, lower), None);
            assert_eq!(address(&rosters, higher), Some([198, 19, 0, HOST].into()));
            assert_eq!(rosters.conflicts(NOW), [conflict(higher, lower)]);
        }
    }

    #[test]
    fn equal_serials_are_settled_alike_by_everybody_who_sees_them() {
        let members = [(1, 1, 1), (2, 1, HOST), (3, 1, HOST), (4, 1, 4)];
        let (keeps, loses) = if id(2) < id(3) { (2, 3) } else { (3, 2) };
        for me in [1, 2, 3, 4] {
            let rosters = node(me, &members);
            assert_eq!(rosters.conflicts(NOW), [conflict(keeps, loses)], "{me}");
            if me != loses {
                assert_eq!(address(&rosters, loses), None, "{me}");
            }
        }
    }

    #[test]
    fn this_node_goes_by_the_same_rule() {
        let rosters = node(1, &[(1, 2, HOST), (2, 1, HOST)]);
        assert_eq!(rosters.conflicts(NOW), [conflict(1, 2)]);
        assert_eq!(address(&rosters, 2), None);
        let rosters = node(1, &[(1, 1, HOST), (2, 2, HOST)]);
        assert_eq!(rosters.conflicts(NOW), [conflict(2, 1)]);
        assert_eq!(address(&rosters, 2), Some([198, 19, 0, HOST].into()));
    }

    #[test]
    fn of_three_one_has_it_and_where_there_is_no_conflict_none_is_told() {
        let rosters = node(1, &[(1, 1, 1), (2, 1, HOST), (3, 3, HOST), (4, 2, HOST)]);
        let mut expected = [conflict(3, 2), conflict(3, 4)];
        expected.sort_unstable();
        let mut conflicts = rosters.conflicts(NOW);
        conflicts.sort_unstable();
        assert_eq!(conflicts, expected);
        assert!(node(1, &[(1, 1, 1), (2, 1, 2)]).conflicts(NOW).is_empty());
    }
}
