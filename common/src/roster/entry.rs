//! A member entry: what everybody may see, and what members see.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{
    addr::{MacAddr, Prefix, ipv6_of},
    cbor::{self, DecodeError, Ext, check_ext, check_len},
    client_id::ClientId,
    id::{Hash, MemberId, NodeId, OrgId},
    identity::TunnelKey,
    merkle, name,
};

/// Prefixes behind one member at the most.
pub const MAX_PREFIXES: usize = 16;

/// Capabilities of a member; bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Caps(pub u32);

impl Caps {
    /// May change the network: invite, evict, suspend.
    pub const OWNER: Self = Self(1);
    /// Relays data for other members.
    pub const RELAY: Self = Self(1 << 1);
    /// Bridges a physical Ethernet: learned MAC addresses count as its own.
    pub const BRIDGE: Self = Self(1 << 2);
    /// Hub or gateway of the network.
    pub const HUB: Self = Self(1 << 3);
    /// Awaits approval: listed, and nothing else.
    pub const PENDING: Self = Self(1 << 4);

    /// Are all bits of `other` set?
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The half that relays and DHT nodes see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Public {
    /// This membership.
    pub member: MemberId,
    /// The node.
    pub node: NodeId,
    /// What it may do.
    pub caps: Caps,
}

/// The half that only members see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Private {
    /// Its tunnel key, with its identity's word for it.
    pub tunnel: TunnelKey,
    /// Its IPv4 address in the pool, if it has one.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address, which follows from its key.
    pub ipv6: Ipv6Addr,
    /// Its Ethernet address, which follows from its key.
    pub mac: MacAddr,
    /// Its name, unique in the network.
    pub name: String,
    /// Networks behind it.
    #[serde(default)]
    pub prefixes: Vec<Prefix>,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

/// An entry as it is hashed, stored and sent: opaque bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// CBOR of [`Public`].
    #[serde(with = "serde_bytes")]
    pub public: Vec<u8>,
    /// Random: without it nobody can test guesses about the private half against its hash.
    #[serde(with = "serde_bytes")]
    pub salt: [u8; 16],
    /// CBOR of [`Private`].
    #[serde(with = "serde_bytes")]
    pub private: Vec<u8>,
}

/// Why an entry of a properly signed roster is not acted on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EntryError {
    /// Not readable, or unknown critical extensions.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The node did not vouch for the tunnel key.
    #[error("its identity did not sign its tunnel key")]
    TunnelKey,
    /// An address does not follow from the key.
    #[error("its address does not follow from its key")]
    Address,
    /// Not a name.
    #[error("its name is not one")]
    Name,
}

impl Public {
    /// Longest encoding in bytes.
    pub const MAX_LEN: usize = 256;

    /// Reads a public half.
    ///
    /// # Errors
    /// [`DecodeError`]
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        cbor::decode(bytes, Self::MAX_LEN)
    }
}

impl Private {
    /// Longest encoding in bytes.
    pub const MAX_LEN: usize = 4096;
}

/// The leaf of an entry: `SHA-256(0x00 ‖ "kanpachi/member/v1" ‖ 0x00 ‖ public ‖ private hash)`.
#[must_use]
pub(super) fn leaf(public: &[u8], private_hash: &Hash) -> Hash {
    merkle::leaf(&[b"kanpachi/member/v1\0", public, &private_hash.0])
}

impl Entry {
    /// Encodes both halves.
    #[must_use]
    pub fn new(public: &Public, private: &Private, salt: [u8; 16]) -> Self {
        Self {
            public: cbor::encode(public),
            salt,
            private: cbor::encode(private),
        }
    }

    /// `SHA-256(salt ‖ private)`.
    #[must_use]
    pub fn private_hash(&self) -> Hash {
        Hash::of(&[&self.salt, &self.private])
    }

    /// The leaf of this entry.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        leaf(&self.public, &self.private_hash())
    }

    /// Are both halves within their limits? Before anything is hashed.
    #[must_use]
    pub fn within_limits(&self) -> bool {
        self.public.len() <= Public::MAX_LEN && self.private.len() <= Private::MAX_LEN
    }

    /// Reads the entry and checks what a signature of the coordinator cannot make true: that the node owns the
    /// tunnel key, and that its addresses follow from its own key.
    ///
    /// # Errors
    /// [`EntryError`]
    pub fn open(&self, org: &OrgId) -> Result<Member, EntryError> {
        let Public { member, node, caps } = Public::decode(&self.public)?;
        let p: Private = cbor::decode(&self.private, Private::MAX_LEN)?;
        check_len(&p.prefixes, MAX_PREFIXES, "too many prefixes")?;
        check_ext(&p.ext)?;
        if !p.tunnel.verify(&node, org) {
            return Err(EntryError::TunnelKey);
        }
        if p.ipv6 != ipv6_of(org, &node) || p.mac != MacAddr::of(&node) {
            return Err(EntryError::Address);
        }
        if name::check(&p.name).as_ref() != Ok(&p.name) {
            return Err(EntryError::Name);
        }
        Ok(Member {
            member,
            node,
            caps,
            client_id: ClientId::in_entry(&node, &p.ext),
            tunnel: p.tunnel,
            ipv4: p.ipv4,
            ipv6: p.ipv6,
            mac: p.mac,
            name: p.name,
            prefixes: p.prefixes,
        })
    }
}

/// A member, checked: only [`Entry::open`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Member {
    /// This membership.
    pub member: MemberId,
    /// The node.
    pub node: NodeId,
    /// What it may do.
    pub caps: Caps,
    /// Nine digits, for people.
    pub client_id: ClientId,
    /// Its tunnel key.
    pub tunnel: TunnelKey,
    /// Its IPv4 address.
    pub ipv4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub ipv6: Ipv6Addr,
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Its name.
    pub name: String,
    /// Networks behind it.
    pub prefixes: Vec<Prefix>,
}
