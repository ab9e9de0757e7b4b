//! The signing key at work: manifest, heads, directories.

use kanpachi_common::{
    OrgId, Pool, SecretKey, Signed, UnixTime, Verified,
    org::{Directory, Manifest, Server},
    roster::Head,
};

/// Signs for the organisation. Lives where transactions run, so that nothing is signed that was not written.
#[derive(Clone, Debug)]
pub struct Signer {
    key: SecretKey,
    manifest: Verified<Manifest>,
    pool: Pool,
}

impl Signer {
    /// A signer; `None` when the manifest does not name its key.
    #[must_use]
    pub fn new(key: SecretKey, manifest: Verified<Manifest>, pool: Pool) -> Option<Self> {
        manifest
            .signing_keys
            .contains(&key.public_key())
            .then_some(Self {
                key,
                manifest,
                pool,
            })
    }

    /// The manifest that speaks for the key.
    #[must_use]
    pub const fn manifest(&self) -> &Verified<Manifest> {
        &self.manifest
    }

    /// The organisation.
    #[must_use]
    pub fn org(&self) -> OrgId {
        self.manifest.org()
    }

    /// The generation that everything signed belongs to.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.manifest.generation
    }

    /// The IPv4 pool of the organisation.
    #[must_use]
    pub const fn pool(&self) -> Pool {
        self.pool
    }

    /// Signs a head.
    #[must_use]
    pub fn head(&self, head: &Head) -> Signed<Head> {
        Signed::sign(head, &self.key)
    }

    /// Signs a directory.
    #[must_use]
    pub fn directory(
        &self,
        seq: u64,
        coordinators: Vec<Server>,
        bootstraps: Vec<Server>,
        now: UnixTime,
    ) -> Signed<Directory> {
        let directory = Directory {
            org: self.org(),
            generation: self.generation(),
            seq,
            issued_at: now,
            pool: self.pool,
            coordinators,
            bootstraps,
            ext: vec![],
        };
        Signed::sign(&directory, &self.key)
    }
}
