//! The signed head of a roster.

use serde::{Deserialize, Serialize};

use crate::{
    cbor::{DecodeError, Ext, check_ext},
    id::{Hash, NetworkId, OrgId},
    org::Manifest,
    signed::{Signed, SignedObject, Verified, VerifyError},
    time::{DAY, UnixTime},
};

/// Default time until a head that was not renewed is warned about, in seconds.
pub const SOFT_SECONDS: u64 = 7 * DAY;
/// Default time until a head that was not renewed opens no new session, in seconds.
pub const HARD_SECONDS: u64 = 30 * DAY;

/// Where a roster stands: generations outweigh epochs.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Position {
    /// Generation of the manifest.
    pub generation: u64,
    /// Rises with every change, within a generation.
    pub epoch: u64,
}

/// What a signing key vouches for: the state of one network at one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The organisation.
    pub org: OrgId,
    /// The network.
    pub network: NetworkId,
    /// Generation of the manifest that names the signer.
    pub generation: u64,
    /// Rises with every change.
    pub epoch: u64,
    /// Merkle root over settings (leaf 0) and member entries in member id order (leaves 1 and up).
    pub root: Hash,
    /// Leaves under `root`: members and 1 for the settings.
    pub size: u64,
    /// Root of the epoch before, zeros for the first.
    pub prev_root: Hash,
    /// Number of the current network secret.
    pub secret_id: u32,
    /// Commitment to it ([`crate::secret::NetworkSecret::hash`]).
    pub secret_hash: Hash,
    /// When it was signed. The same root with a later time renews an expiring head.
    pub issued_at: UnixTime,
    /// From here on members are warned.
    pub soft_expires_at: UnixTime,
    /// From here on no new session is opened; `None` for never.
    pub hard_expires_at: Option<UnixTime>,
    /// Later additions.
    #[serde(default)]
    pub ext: Vec<Ext>,
}

/// How old a head is, as people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Freshness {
    /// Under a day.
    Green,
    /// Up to the soft expiry.
    Yellow,
    /// After the soft expiry.
    Red,
    /// After the hard expiry: no new session.
    Expired,
}

impl SignedObject for Head {
    const DOMAIN: &'static str = "kanpachi/head/v1";
    const MAX_LEN: usize = 1024;

    fn check(&self) -> Result<(), DecodeError> {
        if self.size == 0 || self.size > super::MAX_MEMBERS as u64 + 1 {
            return Err(DecodeError::Invalid("a head of no or too many members"));
        }
        if self.soft_expires_at < self.issued_at
            || self
                .hard_expires_at
                .is_some_and(|hard| hard < self.soft_expires_at)
        {
            return Err(DecodeError::Invalid("a head that expires before it begins"));
        }
        check_ext(&self.ext)
    }
}

impl Head {
    /// Checks a head against a manifest that was verified before.
    ///
    /// # Errors
    /// [`VerifyError`]
    pub fn verify(
        signed: &Signed<Self>,
        manifest: &Manifest,
    ) -> Result<Verified<Self>, VerifyError> {
        let head = signed.verify(&manifest.signing_keys)?;
        if head.org != manifest.org() || head.generation != manifest.generation {
            return Err(
                DecodeError::Invalid("a head of another organisation or generation").into(),
            );
        }
        Ok(head)
    }

    /// Generation and epoch.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position {
            generation: self.generation,
            epoch: self.epoch,
        }
    }

    /// How old it is at `now`, which counts as at least `issued_at`.
    #[must_use]
    pub fn freshness(&self, now: UnixTime) -> Freshness {
        let now = now.max(self.issued_at);
        if self.hard_expires_at.is_some_and(|hard| now >= hard) {
            Freshness::Expired
        } else if now >= self.soft_expires_at {
            Freshness::Red
        } else if now.since(self.issued_at) >= DAY {
            Freshness::Yellow
        } else {
            Freshness::Green
        }
    }
}
