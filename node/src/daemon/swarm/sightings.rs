//! Where mDNS saw nodes: it says so once, which may be before the node is known to be a member.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use libp2p::PeerId;

/// Nodes that are remembered, if they are no members, and addresses of each.
const MAX: usize = 1024;
pub(super) const MAX_OF_ONE: usize = 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Sightings(BTreeMap<PeerId, Vec<SocketAddr>>);

impl Sightings {
    /// A node is at this address.
    pub(super) fn note(&mut self, peer: PeerId, addr: SocketAddr, members: &BTreeSet<PeerId>) {
        if self.0.len() >= MAX && !self.0.contains_key(&peer) {
            // Anybody on the LAN may fill it. Members go before them.
            self.0.retain(|peer, _| members.contains(peer));
        }
        let of_peer = self.0.entry(peer).or_default();
        of_peer.retain(|known| *known != addr);
        of_peer.insert(0, addr);
        of_peer.truncate(MAX_OF_ONE);
    }

    /// Was it seen?
    pub(super) fn has(&self, peer: &PeerId) -> bool {
        self.0.contains_key(peer)
    }

    /// It is there no more.
    pub(super) fn forget(&mut self, peer: &PeerId, addr: SocketAddr) {
        if let Some(of_peer) = self.0.get_mut(peer) {
            of_peer.retain(|known| *known != addr);
            if of_peer.is_empty() {
                self.0.remove(peer);
            }
        }
    }

    /// Where those were seen who are members now and were not before.
    pub(super) fn of_new(
        &self,
        members: &BTreeSet<PeerId>,
        before: &BTreeSet<PeerId>,
    ) -> Vec<(PeerId, SocketAddr)> {
        let new = (self.0.iter()).filter(|(p, _)| members.contains(*p) && !before.contains(*p));
        new.flat_map(|(peer, of_peer)| of_peer.iter().map(|addr| (*peer, *addr)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(n: u16) -> PeerId {
        let mut seed = [0; 32];
        seed[..2].copy_from_slice(&n.to_be_bytes());
        let keys = kanpachi_transport::keypair_from_seed(&seed);
        keys.public().to_peer_id()
    }

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn who_becomes_a_member_was_seen_before() {
        let mut sightings = Sightings::default();
        let nobody = BTreeSet::new();
        sightings.note(peer(1), addr(1), &nobody);
        sightings.note(peer(2), addr(2), &nobody);
        sightings.note(peer(3), addr(3), &nobody);
        sightings.forget(&peer(3), addr(3));
        let before = BTreeSet::from([peer(2)]);
        let members = BTreeSet::from([peer(1), peer(2), peer(3)]);
        let new = sightings.of_new(&members, &before);
        assert_eq!(new, [(peer(1), addr(1))]);
    }

    #[test]
    fn a_crowd_on_the_lan_takes_no_members_place() {
        let mut sightings = Sightings::default();
        let members = BTreeSet::from([peer(0)]);
        sightings.note(peer(0), addr(1), &members);
        for n in 1..=3 * u16::try_from(MAX).unwrap() {
            sightings.note(peer(n), addr(n), &members);
            assert!(sightings.0.len() <= MAX);
        }
        for port in 1..100 {
            sightings.note(peer(0), addr(port), &members);
        }
        let seen = sightings.of_new(&members, &BTreeSet::new());
        assert_eq!(seen.len(), MAX_OF_ONE);
        assert_eq!(seen[0], (peer(0), addr(99)));
    }
}
