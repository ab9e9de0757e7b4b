//! What all parts of Kanpachi agree on: identities, overlay addresses, signed objects and wire types.
//!
//! No sockets, no clocks, no async runtime: bytes in, checked values out. Three habits hold everywhere here:
//!
//! - *Bytes are signed, never values* ([`signed::Signed`]): a signature is checked over the bytes that arrived,
//!   and only then are they decoded. Nothing is encoded again to verify it.
//! - *Bounded before parsed*: every decoder has a byte limit, and every list a count limit.
//! - *Checked once*: what comes out of `verify` or `open` is a type that only they can make.

pub mod addr;
pub mod candidate;
pub mod cbor;
pub mod client_id;
pub mod id;
pub mod identity;
pub mod invite;
pub mod merkle;
pub mod name;
pub mod nat;
pub mod org;
pub mod password;
pub mod record;
pub mod roster;
pub mod secret;
pub mod signed;
pub mod time;
pub mod wire;

pub use addr::{MacAddr, Pool, Prefix};
pub use candidate::{Candidate, CandidateKind};
pub use client_id::ClientId;
pub use id::{Hash, MemberId, NetworkId, NodeId, OrgId, PublicKey};
pub use identity::{SecretKey, TunnelKey};
pub use nat::NatBehaviour;
pub use password::Password;
pub use signed::{Signed, Verified};
pub use time::UnixTime;
