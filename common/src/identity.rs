//! Keys: the Ed25519 identity of a node or signer, and the X25519 key of its tunnels.
//!
//! The two are never converted into each other; the identity key signs the tunnel key.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::id::{NodeId, OrgId, PublicKey};

/// An Ed25519 secret key. Wiped on drop, never printed.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// A new key from the operating system's random numbers.
    ///
    /// # Errors
    /// When the system has none to give.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        Ok(Self::from_seed(&seed))
    }

    /// The key of a 32-byte seed (RFC 8032, section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The seed, for the key file and for libp2p.
    #[must_use]
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half, as the id of a node.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// The public half, as the key of a signer.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `domain ‖ 0x00 ‖ parts`.
    #[must_use]
    pub fn sign(&self, domain: &str, parts: &[&[u8]]) -> [u8; 64] {
        self.0.sign(&message(domain, parts)).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.node_id().short())
    }
}

fn message(domain: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut out =
        Vec::with_capacity(domain.len() + 1 + parts.iter().map(|p| p.len()).sum::<usize>());
    out.extend_from_slice(domain.as_bytes());
    out.push(0);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// Checks a signature over `domain ‖ 0x00 ‖ parts`, strictly: no small-order keys, no second encoding.
#[must_use]
pub fn verify(key: &[u8; 32], domain: &str, parts: &[&[u8]], sig: &[u8; 64]) -> bool {
    let Ok(key) = VerifyingKey::from_bytes(key) else {
        return false;
    };
    key.verify_strict(&message(domain, parts), &Signature::from_bytes(sig))
        .is_ok()
}

/// The tunnel key of a node and its identity's word for it.
///
/// `sig` is made with the identity key under [`TunnelKey::DOMAIN`] over `org id (32) ‖ serial (8, big endian) ‖ key (32)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TunnelKey {
    /// X25519 public key.
    pub key: PublicKey,
    /// Rises with every new key; a peer never accepts a lower one.
    pub serial: u64,
    /// Ed25519 by the node's identity.
    #[serde(with = "serde_bytes")]
    pub sig: [u8; 64],
}

impl TunnelKey {
    /// Domain tag of the signature.
    pub const DOMAIN: &'static str = "kanpachi/tunnel-key/v1";

    /// Vouches for a tunnel key.
    #[must_use]
    pub fn sign(identity: &SecretKey, org: &OrgId, serial: u64, key: [u8; 32]) -> Self {
        let sig = identity.sign(Self::DOMAIN, &[&org.0, &serial.to_be_bytes(), &key]);
        Self {
            key: PublicKey(key),
            serial,
            sig,
        }
    }

    /// Did `node` vouch for this key, for this organisation?
    #[must_use]
    pub fn verify(&self, node: &NodeId, org: &OrgId) -> bool {
        verify(
            &node.0,
            Self::DOMAIN,
            &[&org.0, &self.serial.to_be_bytes(), &self.key.0],
            &self.sig,
        )
    }
}

/// The X25519 public key of a secret.
#[must_use]
pub fn x25519_public(secret: &[u8; 32]) -> [u8; 32] {
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(*secret)).to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_key_counts_only_for_its_node_and_organisation() {
        let identity = SecretKey::from_seed(&[1; 32]);
        let org = OrgId([2; 32]);
        let key = TunnelKey::sign(&identity, &org, 3, [4; 32]);
        assert!(key.verify(&identity.node_id(), &org));
        assert!(!key.verify(&identity.node_id(), &OrgId([3; 32])));
        assert!(!key.verify(&SecretKey::from_seed(&[2; 32]).node_id(), &org));
        assert!(!TunnelKey { serial: 4, ..key }.verify(&identity.node_id(), &org));
        assert!(
            !TunnelKey {
                key: PublicKey([5; 32]),
                ..key
            }
            .verify(&identity.node_id(), &org)
        );
    }
}
