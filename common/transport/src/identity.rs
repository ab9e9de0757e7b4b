//! Keys and PeerIds: a node's id is its raw Ed25519 key, and libp2p's PeerId holds the same 32 bytes.

use kanpachi_common::NodeId;
use libp2p::{PeerId, identity::Keypair};

/// The libp2p identity of a node, from the 32 secret bytes of its Ed25519 key (RFC 8032 §5.1.5).
#[must_use]
pub fn keypair_from_seed(seed: &[u8; 32]) -> Keypair {
    // The library wipes what it is given, so it gets a copy.
    let mut copy = *seed;
    Keypair::ed25519_from_bytes(&mut copy).expect("any 32 bytes are an Ed25519 secret")
}

/// The PeerId that holds this Ed25519 public key.
#[must_use]
pub fn peer_id_from_ed25519(key: &[u8; 32]) -> PeerId {
    peer_id(NodeId(*key))
}

/// The Ed25519 public key in a PeerId; `None` for other kinds of key.
#[must_use]
pub fn ed25519_from_peer_id(peer: &PeerId) -> Option<[u8; 32]> {
    node_id(peer).map(|node| node.0)
}

/// The PeerId of a node.
#[must_use]
pub fn peer_id(node: NodeId) -> PeerId {
    PeerId::from_bytes(&node.to_peer_id_bytes()).expect("an identity multihash of 36 bytes")
}

/// The node behind a PeerId; `None` for other kinds of key.
#[must_use]
pub fn node_id(peer: &PeerId) -> Option<NodeId> {
    NodeId::from_peer_id_bytes(&peer.to_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_peer_ids_convert_both_ways() {
        let keypair = keypair_from_seed(&[7; 32]);
        let public = keypair.public();
        let raw = public.clone().try_into_ed25519().unwrap().to_bytes();
        let peer = public.to_peer_id();
        assert_eq!(ed25519_from_peer_id(&peer), Some(raw));
        assert_eq!(peer_id_from_ed25519(&raw), peer);
        assert_eq!(NodeId(raw).to_string(), peer.to_string());
        // A PeerId by hash, as of an RSA key.
        assert_eq!(ed25519_from_peer_id(&PeerId::random()), None);
        // Bytes that are no point on the curve are still somebody's id, whom nobody can be.
        assert_eq!(
            ed25519_from_peer_id(&peer_id_from_ed25519(&[2; 32])),
            Some([2; 32])
        );
    }
}
