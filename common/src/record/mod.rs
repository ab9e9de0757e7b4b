//! What a node tells the DHT: where it is, for members only.
//!
//! [`seal`] makes the value that is published, [`open`] reads it again, [`shelf`] decides for those who store it and
//! cannot read it.

mod seal;
pub mod shelf;

use serde::{Deserialize, Serialize};

use crate::{
    candidate::{Candidate, MAX_CANDIDATES},
    cbor::{DecodeError, check_len},
    id::{Hash, NetworkId, NodeId, PublicKey},
    nat::NatBehaviour,
    roster::Position,
    signed::SignedObject,
};

/// Longest life of a record in seconds, counted from its receipt.
pub const MAX_TTL: u32 = 2 * 3600;
/// Longest value in the DHT in bytes: an outer record with its key and signature.
pub const MAX_OUTER: usize = 4096;

pub use seal::{OpenError, Opened, Sealing, enclose, open, seal};

/// Where a node is. Signed by its identity key, encrypted under the network secret.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerRecord {
    /// The node, whose key signs.
    pub node: NodeId,
    /// Counts its starts.
    pub boot: u64,
    /// Counts its records within a start. Freshness is `(boot, seq)`, never a clock.
    pub seq: u64,
    /// Where it may be reached.
    pub candidates: Vec<Candidate>,
    /// Members that relay signals for it.
    pub relays: Vec<NodeId>,
    /// The rosters it holds.
    pub epochs: Vec<(NetworkId, Position)>,
    /// Life in seconds from receipt.
    pub ttl: u32,
    /// What its NAT does; `None` while it has not measured that, and from one that does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<NatBehaviour>,
}

impl SignedObject for PeerRecord {
    const DOMAIN: &'static str = "kanpachi/peer-record/v1";
    const MAX_LEN: usize = 3072;

    fn check(&self) -> Result<(), DecodeError> {
        check_len(&self.candidates, MAX_CANDIDATES, "too many candidates")?;
        check_len(&self.relays, 8, "too many relays")?;
        check_len(&self.epochs, 16, "too many networks")?;
        if self.ttl > MAX_TTL {
            Err(DecodeError::Invalid("a record that lives too long"))
        } else {
            Ok(())
        }
    }
}

/// What a storing node sees: a key that names nobody, and ciphertext. Signed by that key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OuterRecord {
    /// The day's record key of the publisher ([`crate::secret::NetworkSecret::record_key`]).
    pub key: PublicKey,
    /// Only rises for a key.
    pub seq: u64,
    /// Life in seconds from receipt.
    pub ttl: u32,
    /// Nonce (12 bytes) and ChaCha20-Poly1305 of the CBOR of `Signed<PeerRecord>`.
    #[serde(with = "serde_bytes")]
    pub ciphertext: Vec<u8>,
}

impl SignedObject for OuterRecord {
    const DOMAIN: &'static str = "kanpachi/outer-record/v1";
    /// Key and signature stand beside it in the value.
    const MAX_LEN: usize = MAX_OUTER - 256;

    fn check(&self) -> Result<(), DecodeError> {
        if self.ttl > MAX_TTL {
            Err(DecodeError::Invalid("a record that lives too long"))
        } else {
            Ok(())
        }
    }
}

impl OuterRecord {
    /// The DHT key of a record key: `SHA-256(key)`.
    #[must_use]
    pub fn dht_key(key: &PublicKey) -> Hash {
        Hash::of(&[&key.0])
    }
}
