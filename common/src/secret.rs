//! The network secret: what lets members read each other's records in the DHT.

use std::fmt;

use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::{
    id::{Hash, NodeId},
    identity::SecretKey,
};

/// 32 random bytes made by the coordinator at creation and at every eviction. Never printed, wiped on drop.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct NetworkSecret {
    /// Counts the secrets of a network; the head names the current one.
    pub id: u32,
    #[serde(with = "serde_bytes")]
    bytes: [u8; 32],
}

impl NetworkSecret {
    /// A secret of given bytes.
    #[must_use]
    pub const fn new(id: u32, bytes: [u8; 32]) -> Self {
        Self { id, bytes }
    }

    /// What the head says of it: `SHA-256("kanpachi/secret/v1" ‖ 0x00 ‖ id (4, big endian) ‖ bytes)`.
    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&[b"kanpachi/secret/v1\0", &self.id.to_be_bytes(), &self.bytes])
    }

    /// Is it the secret that a head names? Compared in constant time.
    #[must_use]
    pub fn matches(&self, id: u32, hash: &Hash) -> bool {
        self.id == id && bool::from(self.hash().0.ct_eq(&hash.0))
    }

    /// The raw bytes, for the state file and the wire.
    #[must_use]
    pub const fn expose(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The signing key of a node's record on a day (days since 1970): HKDF-SHA-256 (RFC 5869) without salt,
    /// info `"kanpachi/record-key/v1" ‖ 0x00 ‖ node id ‖ day (8, big endian)`. Its public half names the record
    /// in the DHT and nobody without the secret can tell whose it is.
    #[must_use]
    pub fn record_key(&self, node: &NodeId, day: u64) -> SecretKey {
        SecretKey::from_seed(&self.derive(b"kanpachi/record-key/v1\0", node, day))
    }

    /// The key that the inner record is encrypted under (ChaCha20-Poly1305), derived in the same way with
    /// `"kanpachi/record-cipher/v1"`.
    #[must_use]
    pub fn record_cipher(&self, node: &NodeId, day: u64) -> [u8; 32] {
        self.derive(b"kanpachi/record-cipher/v1\0", node, day)
    }

    fn derive(&self, label: &[u8], node: &NodeId, day: u64) -> [u8; 32] {
        let mut out = [0; 32];
        let hk = Hkdf::<Sha256>::new(None, &self.bytes);
        // 32 bytes are far below the 8160 that HKDF-SHA-256 can give: this cannot fail.
        hk.expand_multi_info(&[label, &node.0, &day.to_be_bytes()], &mut out)
            .expect("32 bytes are within HKDF's reach");
        out
    }
}

impl fmt::Debug for NetworkSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkSecret({})", self.id)
    }
}
