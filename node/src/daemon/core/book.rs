//! Where each address of a peer came from, and when: for the dialling order, and for people who ask.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use kanpachi_common::{
    Candidate, CandidateKind, NatBehaviour, NodeId, UnixTime,
    nat::{Filtering, Mapping},
};

/// Addresses of one peer from one source at the most.
const MAX_EACH: usize = 16;

/// How an address became known, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    /// A tunnel was up there.
    Tunnel,
    /// A coordinator says that the peer is there now.
    Coordinator,
    /// The local network, or the peer itself over libp2p.
    Heard,
    /// A record of the peer, found in the DHT.
    Dht,
    /// The peer itself, over a relay that another member or a server is.
    Introduced,
    /// A record of the peer, from another member.
    Member,
    /// It was on disk when the daemon started.
    Disk,
}

/// An address and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sighting {
    pub(super) candidate: Candidate,
    pub(super) origin: Origin,
    pub(super) at: UnixTime,
}

/// All that is known of where peers are.
#[derive(Debug, Default)]
pub(super) struct Book {
    peers: BTreeMap<NodeId, Vec<Sighting>>,
    nats: BTreeMap<NodeId, NatBehaviour>,
    relays: BTreeMap<NodeId, Vec<NodeId>>,
}

/// An address of which only the place is known.
pub(super) const fn plain(addr: SocketAddr) -> Candidate {
    Candidate {
        addr,
        kind: CandidateKind::Host,
    }
}

impl Book {
    /// Notes addresses; `true` if one is new from this source, or of another kind than before.
    pub(super) fn note(
        &mut self,
        node: NodeId,
        origin: Origin,
        candidates: impl IntoIterator<Item = Candidate>,
        at: UnixTime,
    ) -> bool {
        let sightings = self.peers.entry(node).or_default();
        let before = sightings.len();
        let mut new = false;
        for candidate in candidates.into_iter().take(MAX_EACH) {
            let same = |s: &&mut Sighting| s.origin == origin && s.candidate.addr == candidate.addr;
            if let Some(known) = sightings.iter_mut().find(same) {
                known.at = known.at.max(at);
                // What a coordinator saw first may be what a reflector says now.
                new |= known.candidate.kind != candidate.kind;
                known.candidate.kind = candidate.kind;
            } else {
                new = true;
                sightings.push(Sighting {
                    candidate,
                    origin,
                    at,
                });
            }
        }
        if sightings.len() > before {
            sightings.sort_by_key(|s| (s.origin, std::cmp::Reverse(s.at)));
            let mut count = BTreeMap::new();
            sightings.retain(|s| {
                let n: &mut usize = count.entry(s.origin).or_default();
                *n += 1;
                *n <= MAX_EACH
            });
        }
        new
    }

    /// Replaces what one source says of a peer; `true` if one is new from it.
    pub(super) fn replace(
        &mut self,
        node: NodeId,
        origin: Origin,
        candidates: &[Candidate],
        at: UnixTime,
    ) -> bool {
        let fits = |s: &Sighting| {
            s.origin != origin || candidates.iter().any(|c| c.addr == s.candidate.addr)
        };
        self.peers.entry(node).or_default().retain(fits);
        self.note(node, origin, candidates.iter().copied(), at)
    }

    /// The coordinator says nothing of a peer any more: what it said is on disk, and no better than what else is there.
    pub(super) fn demote(&mut self, node: &NodeId) {
        let said = self
            .of(node)
            .iter()
            .filter(|s| s.origin == Origin::Coordinator);
        let said: Vec<Sighting> = said.copied().collect();
        if let Some(sightings) = self.peers.get_mut(node) {
            sightings.retain(|s| s.origin != Origin::Coordinator);
        }
        for sighting in said {
            self.note(*node, Origin::Disk, [sighting.candidate], sighting.at);
        }
    }

    /// The coordinator says nothing any more.
    pub(super) fn demote_all(&mut self) {
        for node in self.peers.keys().copied().collect::<Vec<_>>() {
            self.demote(&node);
        }
    }

    /// What a peer says of its NAT now. Whoever says nothing has not measured it, or has another one than before.
    pub(super) fn set_nat(&mut self, node: NodeId, nat: Option<NatBehaviour>) {
        match nat {
            Some(nat) => drop(self.nats.insert(node, nat)),
            None => drop(self.nats.remove(&node)),
        }
    }

    /// What a peer said last of its NAT.
    pub(super) fn nat(&self, node: &NodeId) -> Option<NatBehaviour> {
        self.nats.get(node).copied()
    }

    /// By whom a peer says that it may be reached now.
    pub(super) fn set_relays(&mut self, node: NodeId, relays: Vec<NodeId>) {
        if relays.is_empty() {
            self.relays.remove(&node);
        } else {
            self.relays.insert(node, relays);
        }
    }

    /// By whom a peer said last that it may be reached.
    pub(super) fn relays(&self, node: &NodeId) -> &[NodeId] {
        self.relays.get(node).map_or(&[], Vec::as_slice)
    }

    /// Can anybody reach this peer, by what it says of itself?
    pub(super) fn is_open(&self, node: &NodeId) -> bool {
        let nat = self.nat(node);
        if nat.is_some_and(|nat| nat.mapping == Mapping::Blocked) {
            return false;
        }
        if nat.is_some_and(|nat| nat.filtering == Filtering::EndpointIndependent) {
            return true;
        }
        let said = self.of(node).iter().filter(|sighting| {
            let origins = [Origin::Coordinator, Origin::Dht, Origin::Member];
            origins.contains(&sighting.origin)
        });
        said.map(|sighting| sighting.candidate).any(|candidate| {
            let own = candidate.kind == CandidateKind::Host && is_public(candidate.addr.ip());
            own || candidate.kind == CandidateKind::Mapped
        })
    }

    /// Where a peer is by what it says now, or if it says nothing, where it may be.
    pub(super) fn now(&self, node: &NodeId) -> Vec<Candidate> {
        let all = self.of(node).iter();
        // What a coordinator says replaces what it said before, and so do records from the same source; whatever else is here may
        // be of last year.
        let newest = |origin| {
            all.clone()
                .filter(move |s| s.origin == origin)
                .map(|s| s.at)
                .max()
        };
        let record = if newest(Origin::Member) > newest(Origin::Dht) {
            Origin::Member
        } else {
            Origin::Dht
        };
        let of = |origins: &[Origin]| -> Vec<Candidate> {
            let those = all.clone().filter(|s| origins.contains(&s.origin));
            those.map(|s| s.candidate).collect()
        };
        let said = [
            &[Origin::Coordinator][..],
            &[record],
            &[
                Origin::Tunnel,
                Origin::Heard,
                Origin::Introduced,
                Origin::Disk,
            ],
        ];
        let said = said.into_iter().map(of);
        { said }.find(|said| !said.is_empty()).unwrap_or_default()
    }

    /// What is known of a peer, best source first.
    pub(super) fn of(&self, node: &NodeId) -> &[Sighting] {
        self.peers.get(node).map_or(&[], Vec::as_slice)
    }
}

/// An IPv4 address that routers of the Internet know. What has one has no NAT in front of it; a public IPv6 address says
/// nothing, since most routers let nothing in to those.
const fn is_public(addr: IpAddr) -> bool {
    let IpAddr::V4(addr) = addr else {
        return false;
    };
    let [a, b, ..] = addr.octets();
    let shared = a == 100 && b & 0xc0 == 64;
    !(shared || addr.is_private() || addr.is_loopback() || addr.is_link_local())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Candidate {
        plain(([198, 51, 100, 7], port).into())
    }

    #[test]
    fn each_source_keeps_its_own_word_and_the_newest_time() {
        let (node, mut book) = (NodeId([1; 32]), Book::default());
        assert!(book.note(node, Origin::Disk, [at(1)], UnixTime(5)));
        assert!(book.note(node, Origin::Dht, [at(1)], UnixTime(9)));
        assert!(!book.note(node, Origin::Disk, [at(1)], UnixTime(7)));
        assert!(!book.note(node, Origin::Disk, [at(1)], UnixTime(6)));
        let seen: Vec<_> = book.of(&node).iter().map(|s| (s.origin, s.at.0)).collect();
        assert_eq!(seen, [(Origin::Dht, 9), (Origin::Disk, 7)]);
        assert!(book.replace(node, Origin::Dht, &[at(2)], UnixTime(10)));
        let ports: Vec<_> = book
            .of(&node)
            .iter()
            .map(|s| s.candidate.addr.port())
            .collect();
        assert_eq!(ports, [2, 1]);
        book.note(node, Origin::Coordinator, [at(3)], UnixTime(11));
        book.demote(&node);
        let seen: Vec<_> = book.of(&node).iter().map(|s| (s.origin, s.at.0)).collect();
        assert_eq!(
            seen,
            [(Origin::Dht, 10), (Origin::Disk, 11), (Origin::Disk, 7)]
        );
    }

    #[test]
    fn the_kind_of_an_address_is_what_was_said_last() {
        let (node, mut book) = (NodeId([1; 32]), Book::default());
        let kinds = [CandidateKind::Observed, CandidateKind::Reflexive];
        let said = kinds.map(|kind| Candidate { kind, ..at(1) });
        for candidate in said {
            assert!(book.replace(node, Origin::Coordinator, &[candidate], UnixTime(5)));
            assert!(!book.replace(node, Origin::Coordinator, &[candidate], UnixTime(6)));
            assert_eq!(book.of(&node)[0].candidate, candidate);
        }
    }

    #[test]
    fn where_a_peer_is_now_is_what_it_said_last() {
        let (node, mut book) = (NodeId([1; 32]), Book::default());
        assert!(book.now(&node).is_empty());
        book.note(node, Origin::Disk, [at(1)], UnixTime(5));
        assert_eq!(book.now(&node), [at(1)]);
        book.replace(node, Origin::Dht, &[at(2)], UnixTime(6));
        assert_eq!(book.now(&node), [at(2)]);
        book.replace(node, Origin::Member, &[at(4)], UnixTime(7));
        assert_eq!(book.now(&node), [at(4)], "a newer record");
        book.replace(node, Origin::Coordinator, &[at(3)], UnixTime(7));
        assert_eq!(book.now(&node), [at(3)]);
        book.demote(&node);
        assert_eq!(book.now(&node), [at(4)]);
    }

    #[test]
    fn a_peer_is_open_by_its_own_word_only() {
        let node = NodeId([1; 32]);
        let said = |kind, addr: &str, origin| {
            let mut book = Book::default();
            let addr = addr.parse().unwrap();
            book.note(node, origin, [Candidate { addr, kind }], UnixTime(5));
            book
        };
        let (host, seen) = (CandidateKind::Host, CandidateKind::Reflexive);
        let public = "198.51.100.7:1";
        assert!(said(host, public, Origin::Dht).is_open(&node));
        assert!(said(CandidateKind::Mapped, public, Origin::Coordinator).is_open(&node));
        assert!(!said(seen, public, Origin::Dht).is_open(&node));
        // Where a tunnel was up may be the outside of a NAT.
        assert!(!said(host, public, Origin::Tunnel).is_open(&node));
        for private in ["192.168.1.2:1", "100.64.0.9:1", "[2001:db8::1]:1"] {
            assert!(
                !said(host, private, Origin::Dht).is_open(&node),
                "{private}"
            );
        }
        let mut book = said(seen, public, Origin::Dht);
        let nat = |mapping, filtering| Some(NatBehaviour { mapping, filtering });
        let everybody = Filtering::EndpointIndependent;
        book.set_nat(node, nat(Mapping::EndpointIndependent, everybody));
        assert!(book.is_open(&node));
        let mut book = said(host, public, Origin::Dht);
        book.set_nat(node, nat(Mapping::Blocked, Filtering::Unknown));
        assert!(!book.is_open(&node));
    }

    #[test]
    fn a_peer_that_is_everywhere_fills_no_memory() {
        let (node, mut book) = (NodeId([1; 32]), Book::default());
        for port in 1..1000 {
            book.note(node, Origin::Heard, [at(port)], UnixTime(port.into()));
        }
        assert_eq!(book.of(&node).len(), MAX_EACH);
        assert_eq!(book.of(&node)[0].candidate.addr.port(), 999);
    }
}
