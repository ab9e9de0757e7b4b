//! Membership proofs: a head, one entry, and the audit path between them.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    entry::{self, Entry, EntryError, Member, Public},
    head::Head,
};
use crate::{
    cbor::DecodeError,
    id::{Hash, NodeId},
    merkle,
    org::Manifest,
    signed::{Signed, Verified, VerifyError},
};

/// The private half, as much of it as the reader may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Half {
    /// For members.
    Open {
        #[serde(with = "serde_bytes")]
        salt: [u8; 16],
        #[serde(with = "serde_bytes")]
        private: Vec<u8>,
    },
    /// For relays and strangers: `SHA-256(salt ‖ private)`.
    Hidden(Hash),
}

/// Shows that a node is a member under a signed head, without the rest of the roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// The head.
    pub head: Signed<Head>,
    #[serde(with = "serde_bytes")]
    public: Vec<u8>,
    private: Half,
    index: u64,
    path: Vec<Hash>,
}

/// Why a proof is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ProofError {
    /// The head is not.
    #[error(transparent)]
    Head(#[from] VerifyError),
    /// Entry and path do not lead to the head's root.
    #[error("the entry is not under the signed root")]
    NotInTree,
    /// It speaks of another node than the one that shows it.
    #[error("it is somebody else's")]
    WrongNode,
    /// Too long, or not readable.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The private half is not in order.
    #[error(transparent)]
    Entry(#[from] EntryError),
}

/// What a proof shows.
#[derive(Clone, Debug)]
pub struct Proved {
    /// The head, verified.
    pub head: Verified<Head>,
    /// The public half.
    pub public: Public,
    /// The whole entry, when the proof holds the private half.
    pub member: Option<Member>,
}

impl Proof {
    /// Longest encoding in bytes.
    pub const MAX_LEN: usize = 8 * 1024;
    /// Longest audit path: 4,097 leaves make 13 steps.
    const MAX_PATH: usize = 16;

    /// The proof for a node, out of a verified roster; `None` when it is no member.
    #[must_use]
    pub fn of(roster: &super::VerifiedRoster, node: &NodeId, with_private: bool) -> Option<Self> {
        let body = roster.body();
        let at = body
            .entries
            .iter()
            .position(|e| Public::decode(&e.public).is_ok_and(|p| p.node == *node))?;
        let entry: &Entry = body.entries.get(at)?;
        let private = if with_private {
            Half::Open {
                salt: entry.salt,
                private: entry.private.clone(),
            }
        } else {
            Half::Hidden(entry.private_hash())
        };
        Some(Self {
            head: roster.head().signed().clone(),
            public: entry.public.clone(),
            private,
            index: at as u64 + 1,
            path: merkle::audit_path(&body.leaves(), at + 1)?,
        })
    }

    /// Checks signature, path and whose proof it is.
    ///
    /// # Errors
    /// [`ProofError`]
    pub fn verify(&self, manifest: &Manifest, bearer: &NodeId) -> Result<Proved, ProofError> {
        if self.path.len() > Self::MAX_PATH
            || self.public.len() > Public::MAX_LEN
            || self.index == 0
        {
            return Err(ProofError::NotInTree);
        }
        let head = Head::verify(&self.head, manifest)?;
        let entry = match &self.private {
            Half::Open { salt, private } => Some(Entry {
                public: self.public.clone(),
                salt: *salt,
                private: private.clone(),
            }),
            Half::Hidden(_) => None,
        };
        let leaf = match (&entry, &self.private) {
            (Some(e), _) if !e.within_limits() => return Err(ProofError::NotInTree),
            (Some(e), _) => e.leaf(),
            (None, Half::Hidden(hash)) => entry::leaf(&self.public, hash),
            (None, Half::Open { .. }) => return Err(ProofError::NotInTree),
        };
        if merkle::root_from_path(leaf, self.index, head.size, &self.path) != Some(head.root) {
            return Err(ProofError::NotInTree);
        }
        let public = Public::decode(&self.public)?;
        if public.node != *bearer {
            return Err(ProofError::WrongNode);
        }
        let member = entry.map(|e| e.open(&head.org)).transpose()?;
        Ok(Proved {
            head,
            public,
            member,
        })
    }
}
