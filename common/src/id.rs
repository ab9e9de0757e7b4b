//! Identifiers: 32-byte newtypes that cannot be mixed up.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Base32 (RFC 4648) in lower case without padding: what identifiers look like in protocol names and on a screen.
fn base32(bytes: &[u8]) -> String {
    BASE32_NOPAD.encode(bytes).to_ascii_lowercase()
}

/// Reads what [`base32`] wrote; letters in either case.
fn from_base32(text: &str) -> Option<[u8; 32]> {
    // 32 bytes are 52 characters; anything longer is not looked at.
    if text.len() != 52 {
        return None;
    }
    BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .ok()?
        .try_into()
        .ok()
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(#[serde(with = "serde_bytes")] pub [u8; 32]);

        impl $name {
            /// The raw bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
    };
}

macro_rules! base32_text {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&base32(&self.0))
            }
        }

        impl $name {
            /// The first ten characters: enough for a person to tell two apart, never enough to authenticate.
            #[must_use]
            pub fn short(&self) -> String {
                base32(&self.0)[..10].to_owned()
            }

            /// Reads the text form.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                from_base32(text).map(Self)
            }
        }
    };
}

id! {
    /// A node: its raw Ed25519 public key. Its text form is the libp2p PeerId, which holds the same 32 bytes.
    NodeId
}
id! {
    /// An organisation: `SHA-256(root public key)`.
    OrgId
}
id! {
    /// A network: 32 random bytes.
    NetworkId
}
id! {
    /// A membership: 32 random bytes, never used again. Evicting is by member id, so a node that is let in
    /// again is somebody new.
    MemberId
}
id! {
    /// A SHA-256 digest.
    Hash
}
id! {
    /// A raw Ed25519 public key that is not a node's: root and signing keys.
    PublicKey
}
base32_text!(OrgId);
base32_text!(NetworkId);
base32_text!(MemberId);
base32_text!(Hash);
base32_text!(PublicKey);

/// What precedes the 32 key bytes in a libp2p PeerId of an Ed25519 key: identity multihash (0x00, length 36)
/// of the protobuf `PublicKey { Type: Ed25519, Data: 32 bytes }`.
/// Source: libp2p specs, `peer-ids/peer-ids.md`.
const PEER_ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl NodeId {
    /// The 38 bytes of the libp2p PeerId.
    #[must_use]
    pub fn to_peer_id_bytes(self) -> [u8; 38] {
        let mut out = [0; 38];
        out[..6].copy_from_slice(&PEER_ID_PREFIX);
        out[6..].copy_from_slice(&self.0);
        out
    }

    /// Reads the bytes of a libp2p PeerId; `None` unless it holds an Ed25519 key inline.
    #[must_use]
    pub fn from_peer_id_bytes(bytes: &[u8]) -> Option<Self> {
        bytes
            .strip_prefix(&PEER_ID_PREFIX)?
            .try_into()
            .ok()
            .map(Self)
    }

    /// Reads the text form (base58, `12D3KooW…`).
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        // A PeerId of this kind is 52 characters; decoding base58 is quadratic, so longer text is not tried.
        if text.len() > 64 {
            return None;
        }
        Self::from_peer_id_bytes(&bs58::decode(text).into_vec().ok()?)
    }

    /// The last eight characters of the text form: the first ones are the same for everybody.
    #[must_use]
    pub fn short(&self) -> String {
        let text = self.to_string();
        text[text.len() - 8..].to_owned()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&bs58::encode(self.to_peer_id_bytes()).into_string())
    }
}

impl Hash {
    /// SHA-256 over the parts, one after the other.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update(part);
        }
        Self(digest.finalize().into())
    }
}

impl OrgId {
    /// The organisation of a root key.
    #[must_use]
    pub fn of_root(root: &PublicKey) -> Self {
        Self(Hash::of(&[&root.0]).0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_forms_read_back() {
        let node = NodeId([7; 32]);
        assert!(node.to_string().starts_with("12D3KooW"));
        assert_eq!(NodeId::parse(&node.to_string()), Some(node));
        let org = OrgId([9; 32]);
        assert_eq!(OrgId::parse(&org.to_string()), Some(org));
        assert_eq!(OrgId::parse(&org.to_string().to_uppercase()), Some(org));
        for bad in ["", "12D3KooW", "öäü", &"a".repeat(53), &"a".repeat(100_000)] {
            assert_eq!(NodeId::parse(bad), None);
            assert_eq!(OrgId::parse(bad), None);
        }
    }
}
