//! Where a peer is, in the routing table of the DHT: what it says itself, and not too much of that.
//!
//! A question to the DHT is answered with all addresses of twenty peers, and an answer longer than 16 KiB is not read
//! by whoever asked. A peer that announced addresses without end, or a few long ones, would make worthless every answer
//! that it is named in. And the table forgets no address by itself.

use libp2p::{
    Multiaddr, PeerId,
    kad::{self, store::RecordStore},
};

/// Bytes of addresses of one peer at the most: eight of the usual length. With twenty peers and a record it stays
/// below what an answer may hold.
pub const MAX_BYTES: usize = 512;
/// What the encoding adds to each address.
const FRAME: usize = 3;

/// Adds addresses of a peer. Where that are too many, those that were known before go first, then the last ones.
pub fn add<S: RecordStore + Send + 'static>(
    kad: &mut kad::Behaviour<S>,
    peer: &PeerId,
    addresses: impl IntoIterator<Item = Multiaddr>,
) {
    let known = known(kad, peer);
    let addresses = full(peer, addresses).chain(known.clone());
    set(kad, peer, &known, addresses);
}

/// Puts addresses of a peer in place of those that were known.
pub fn replace<S: RecordStore + Send + 'static>(
    kad: &mut kad::Behaviour<S>,
    peer: &PeerId,
    addresses: impl IntoIterator<Item = Multiaddr>,
) {
    let known = known(kad, peer);
    set(kad, peer, &known, full(peer, addresses));
}

fn full(
    peer: &PeerId,
    addresses: impl IntoIterator<Item = Multiaddr>,
) -> impl Iterator<Item = Multiaddr> {
    let addresses = addresses.into_iter();
    addresses.filter_map(|address| address.with_p2p(*peer).ok())
}

fn set<S: RecordStore + Send + 'static>(
    kad: &mut kad::Behaviour<S>,
    peer: &PeerId,
    known: &[Multiaddr],
    addresses: impl Iterator<Item = Multiaddr>,
) {
    // A peer that waits for a place cannot be looked at; it comes with these addresses alone.
    if known.is_empty() {
        kad.remove_peer(peer);
    }
    let kept = within(addresses);
    for address in &kept {
        kad.add_address(peer, address.clone());
    }
    for address in known.iter().filter(|address| !kept.contains(address)) {
        kad.remove_address(peer, address);
    }
}

/// Addresses of a peer in the table.
pub fn known<S: RecordStore + Send + 'static>(
    kad: &mut kad::Behaviour<S>,
    peer: &PeerId,
) -> Vec<Multiaddr> {
    let Some(bucket) = kad.kbucket(*peer) else {
        return Vec::new();
    };
    let entry = bucket.iter().find(|e| e.node.key.preimage() == peer);
    entry.map_or_else(Vec::new, |e| e.node.value.iter().cloned().collect())
}

/// Each address once, as many of the first as there is room for.
pub fn within(addresses: impl Iterator<Item = Multiaddr>) -> Vec<Multiaddr> {
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for address in addresses {
        let length = address.len() + FRAME;
        if bytes + length <= MAX_BYTES && !kept.contains(&address) {
            bytes += length;
            kept.push(address);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use libp2p::{StreamProtocol, identity::Keypair, kad::store::MemoryStore};

    use super::*;

    fn peer() -> PeerId {
        Keypair::generate_ed25519().public().to_peer_id()
    }

    fn kad() -> kad::Behaviour<MemoryStore> {
        let (me, name) = (peer(), StreamProtocol::new("/test/kad/1"));
        kad::Behaviour::with_config(me, MemoryStore::new(me), kad::Config::new(name))
    }

    fn address(port: u16) -> Multiaddr {
        format!("/ip6/2001:db8::1/udp/{port}/quic-v1")
            .parse()
            .unwrap()
    }

    fn bytes(kad: &mut kad::Behaviour<MemoryStore>, peer: &PeerId) -> usize {
        known(kad, peer).iter().map(|a| a.len() + FRAME).sum()
    }

    #[test]
    fn addresses_without_end_leave_the_newest_and_no_more_than_there_is_room_for() {
        let (mut kad, peer) = (kad(), peer());
        for round in 0..50 {
            add(&mut kad, &peer, (0..40).map(|n| address(round * 40 + n)));
            assert!(bytes(&mut kad, &peer) <= MAX_BYTES, "round {round}");
        }
        let known = known(&mut kad, &peer);
        let newest = address(49 * 40).with_p2p(peer).unwrap();
        assert!(known.len() >= 7 && known.contains(&newest), "{known:?}");
    }

    #[test]
    fn long_addresses_are_left_out_and_do_not_crowd_out_the_others() {
        let (mut kad, peer) = (kad(), peer());
        let name = "a".repeat(MAX_BYTES);
        let long: Multiaddr = format!("/dns4/{name}/udp/1/quic-v1").parse().unwrap();
        add(&mut kad, &peer, [long, address(1)]);
        assert_eq!(known(&mut kad, &peer), [address(1).with_p2p(peer).unwrap()]);
    }

    #[test]
    fn what_two_say_of_a_peer_is_kept_together_while_there_is_room() {
        let (mut kad, peer) = (kad(), peer());
        add(&mut kad, &peer, [address(1)]);
        add(&mut kad, &peer, [address(2), address(1)]);
        assert_eq!(known(&mut kad, &peer).len(), 2);
    }

    #[test]
    fn what_is_put_in_place_of_others_leaves_none_of_them() {
        let (mut kad, peer) = (kad(), peer());
        add(&mut kad, &peer, [address(1), address(2)]);
        replace(&mut kad, &peer, [address(3), address(2)]);
        let known = known(&mut kad, &peer);
        let full = |port| address(port).with_p2p(peer).unwrap();
        assert_eq!(known.len(), 2, "{known:?}");
        assert!(known.contains(&full(2)) && known.contains(&full(3)));
    }

    #[test]
    fn twenty_peers_and_a_record_fit_into_an_answer() {
        // Twenty peers, each with its id and state, and the longest value with its key.
        let answer = 20 * (MAX_BYTES + 38 + 8) + kanpachi_common::record::MAX_OUTER + 128;
        assert!(answer < 16 * 1024, "{answer}");
    }
}
