//! The organisation: made at the first start, found again at every later one.
//!
//! The database holds all of it. The root key is in it only under the recovery phrase, which is shown once and
//! kept by a person; the signing key and the identity of this process lie there in clear, in a file that only
//! its owner may read.

mod root;
mod signer;
#[cfg(test)]
mod tests;

use kanpachi_common::{
    OrgId, Pool, Prefix, SecretKey, Signed, UnixTime, Verified, addr::ipv6_prefix, org::Manifest,
};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::store::{
    StoreError,
    sqlite::{Database, OrgRow},
};

pub use root::{RecoveryPhrase, SealError, SealedRoot};
pub use signer::Signer;

/// Why there is no organisation to serve.
#[derive(Debug, Error)]
pub enum OrgError {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// The root key could not be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The recovery phrase could not be shown, so nothing was made.
    #[error("the recovery phrase could not be shown: {0}")]
    Show(std::io::Error),
    /// Asked for another pool than the one that addresses were given from.
    #[error(
        "this organisation gives addresses from {stored}, and they stay for life: leave out --pool {asked}, or start a new organisation in another state directory"
    )]
    Pool {
        /// What the database says.
        stored: Pool,
        /// What was asked for.
        asked: Pool,
    },
}

/// The organisation that this coordinator serves.
#[derive(Debug)]
pub struct Organisation {
    /// Signs heads and directories.
    pub signer: Signer,
    /// The libp2p identity of this coordinator.
    pub identity: SecretKey,
    /// The root key under the recovery phrase.
    pub sealed_root: SealedRoot,
    /// At the very first start only: the phrase to show to the operator, once.
    pub phrase: Option<RecoveryPhrase>,
}

impl Organisation {
    /// The organisation in the database, or a new one, whose phrase is in the result and has to be shown.
    /// `pool` is for a new one; asking an existing one for another pool is an error.
    ///
    /// # Errors
    /// [`OrgError`]
    pub fn open(
        database: &mut Database,
        pool: Option<Pool>,
        now: UnixTime,
    ) -> Result<Self, OrgError> {
        Self::open_showing(database, pool, now, |_| Ok(()))
    }

    /// The same, with the phrase of a new organisation shown before anything is written: a start that ends in
    /// between leaves no organisation behind whose phrase nobody has seen.
    ///
    /// # Errors
    /// [`OrgError`]
    pub fn open_showing(
        database: &mut Database,
        pool: Option<Pool>,
        now: UnixTime,
        show: impl FnOnce(&RecoveryPhrase) -> std::io::Result<()>,
    ) -> Result<Self, OrgError> {
        if let Some(row) = database.organisation()? {
            return match pool {
                Some(asked) if asked != row.pool => Err(OrgError::Pool {
                    stored: row.pool,
                    asked,
                }),
                _ => Ok(Self::load(&row)?),
            };
        }
        let (row, phrase) = found(pool.unwrap_or_default(), now)?;
        show(&phrase).map_err(OrgError::Show)?;
        database.create_organisation(&row, now)?;
        // What is served is what was read back.
        let row = database
            .organisation()?
            .ok_or_else(|| StoreError::damaged("the organisation is gone"))?;
        let mut organisation = Self::load(&row)?;
        organisation.phrase = Some(phrase);
        Ok(organisation)
    }

    fn load(row: &OrgRow) -> Result<Self, StoreError> {
        let org = OrgId::of_root(&row.manifest.key);
        let manifest: Verified<Manifest> =
            Manifest::verify(&row.manifest, &org).map_err(StoreError::damaged)?;
        let key = SecretKey::from_seed(&row.signing_seed);
        let signer = Signer::new(key, manifest, row.pool)
            .ok_or_else(|| StoreError::damaged("the manifest does not name the signing key"))?;
        Ok(Self {
            signer,
            identity: SecretKey::from_seed(&row.server_seed),
            sealed_root: row.sealed_root.clone(),
            phrase: None,
        })
    }

    /// The addresses of its overlay, which are never a way to anybody.
    #[must_use]
    pub fn overlay(&self) -> [Prefix; 2] {
        [self.signer.pool().prefix(), ipv6_prefix(&self.org())]
    }

    /// Its id.
    #[must_use]
    pub fn org(&self) -> OrgId {
        self.signer.org()
    }
}

/// A new organisation: root key, signing key, manifest of generation 1.
fn found(pool: Pool, now: UnixTime) -> Result<(OrgRow, RecoveryPhrase), OrgError> {
    let (root, signing, server) = (
        SecretKey::generate()?,
        SecretKey::generate()?,
        SecretKey::generate()?,
    );
    let (mut salt, mut nonce) = ([0; 16], [0; 12]);
    let mut entropy = Zeroizing::new([0; 16]);
    getrandom::fill(&mut salt)?;
    getrandom::fill(&mut nonce)?;
    getrandom::fill(&mut *entropy)?;
    let phrase = RecoveryPhrase::from_entropy(&entropy)?;
    let manifest = Manifest {
        root: root.public_key(),
        generation: 1,
        signing_keys: vec![signing.public_key()],
        issued_at: now,
        ext: vec![],
    };
    let row = OrgRow {
        manifest: Signed::sign(&manifest, &root),
        signing_seed: signing.seed(),
        server_seed: server.seed(),
        sealed_root: SealedRoot::seal(&root, &phrase, salt, nonce)?,
        pool,
    };
    Ok((row, phrase))
}
