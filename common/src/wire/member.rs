//! What members tell each other: `/kanpachi/member/1`, a libp2p stream for one question.
//!
//! Whoever opened the stream sends one [`Ask`], which says what it holds; the other answers with whatever is newer
//! there, as far as the asker may know it, and ends with `Done`. Nothing is believed because of who says it: rosters,
//! suspensions and records are signed, secrets are named by the signed head. A receiver that sees in the question that
//! it is the one behind asks back.

use serde::{Deserialize, Serialize};

use super::{
    control::{Body, Nonce, SecretIs, read},
    frame::{Frame, MAX_REPLY},
};
use crate::{
    cbor::{self, DecodeError, Ext, check_ext, check_len},
    id::{Hash, NetworkId},
    org::{Directory, Manifest},
    record::MAX_OUTER,
    roster::{Head, Page, Position, Proof, Suspend},
    signed::Signed,
    time::UnixTime,
};

/// Name of the libp2p protocol.
pub const PROTOCOL: &str = "/kanpachi/member/1";
/// Networks in one question at the most: those that both are members of.
pub const MAX_COMMON: usize = 256;
/// Suspensions in one question at the most; an answer holds as many as there are.
pub const MAX_SUSPENDS: usize = 64;
/// Proofs in one question at the most.
pub const MAX_PROOFS: usize = 16;
/// Longest question in bytes.
pub const MAX_ASK: usize = 256 * 1024;

/// What is new? Names only networks in which the asker takes the other for a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Generation of the manifest that the asker goes by; 0 for none.
    pub generation: u64,
    /// Number of the directory that the asker goes by; 0 for none.
    pub directory: u64,
    /// The rosters that it holds.
    pub held: Vec<Holds>,
    /// The suspensions that it holds.
    pub suspends: Vec<Signed<Suspend>>,
    /// Its own membership under the first of these rosters, in the same order, for somebody whose roster does not name
    /// it yet.
    pub proofs: Vec<Proof>,
    /// It would take peer records.
    pub records: bool,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

/// A roster that a node holds, and what it lacks beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holds {
    /// The network.
    pub network: NetworkId,
    /// Where its roster stands.
    pub position: Position,
    /// Its root.
    pub root: Hash,
    /// When its head was signed.
    pub issued_at: UnixTime,
    /// The newest secret that is there.
    pub secret: Option<u32>,
}

/// A value of the DHT, with the network whose secret opens it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordIs {
    /// The network.
    pub network: NetworkId,
    /// CBOR of the signed outer record.
    #[serde(with = "serde_bytes")]
    pub value: Vec<u8>,
}

/// The asker is no member under the newest head of a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// That head.
    pub head: Signed<Head>,
}

impl Body for Ask {
    fn check(&self) -> Result<(), DecodeError> {
        check_len(&self.held, MAX_COMMON, "too many networks")?;
        check_len(&self.suspends, MAX_SUSPENDS, "too many suspensions")?;
        check_len(&self.proofs, MAX_PROOFS, "too many proofs")?;
        check_ext(&self.ext)
    }
}

impl Body for RecordIs {
    fn check(&self) -> Result<(), DecodeError> {
        if self.value.len() > MAX_OUTER {
            Err(DecodeError::Invalid("a record that is too long"))
        } else {
            Ok(())
        }
    }
}

impl Body for Gone {}
impl Body for Box<Ask> {
    fn check(&self) -> Result<(), DecodeError> {
        self.as_ref().check()
    }
}
impl Body for Box<Signed<Manifest>> {}
impl Body for Box<Signed<Directory>> {}
impl Body for Box<Signed<Suspend>> {}

super::control::messages! {
    /// Between members.
    MemberMessage up to MAX_REPLY {
        /// The question.
        48 Ask(Box<Ask>),
        /// Newer keys.
        49 Manifest(Box<Signed<Manifest>>),
        /// Newer servers.
        50 Directory(Box<Signed<Directory>>),
        /// A part of a newer roster.
        51 Page(Box<Page>),
        /// The secret that the newest head names.
        52 Secret(SecretIs),
        /// An owner put somebody out.
        53 Suspend(Box<Signed<Suspend>>),
        /// Where somebody is.
        54 Record(RecordIs),
        /// The asker is no member any more.
        55 Gone(Gone),
        /// That is all.
        56 Done(Nonce),
    }
}
