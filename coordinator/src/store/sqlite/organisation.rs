//! The organisation's own rows: manifest, keys, directory.

use kanpachi_common::{
    Pool, Signed, UnixTime, Verified, cbor,
    org::{Directory, Manifest, Server},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};
use zeroize::Zeroizing;

use super::{recovery, rows};
use crate::{
    org::{SealedRoot, Signer},
    store::{JUMP, Refusal, Result, StoreError},
};

/// Longest CBOR of signed objects in bytes: their payload and some room.
const MAX_SIGNED_MANIFEST: usize = 8 * 1024;
const MAX_SIGNED_DIRECTORY: usize = 68 * 1024;

/// Everything about the organisation that is in the database and is no roster.
#[derive(Debug)]
pub struct OrgRow {
    /// Names the signing key.
    pub manifest: Signed<Manifest>,
    /// Seed of the signing key.
    pub signing_seed: Zeroizing<[u8; 32]>,
    /// Seed of this process's libp2p identity.
    pub server_seed: Zeroizing<[u8; 32]>,
    /// The root key under the recovery phrase.
    pub sealed_root: SealedRoot,
    /// The IPv4 pool.
    pub pool: Pool,
}

pub(super) fn load(conn: &Connection) -> Result<Option<OrgRow>> {
    let row = conn
        .query_row(
            "SELECT manifest, signing_seed, sealed_root, pool, seed FROM organisation JOIN server ON server.one = organisation.one",
            [],
            |row| {
                Ok((
                    row.get::<_, Vec<u8>>(0)?,
                    Zeroizing::new(row.get::<_, [u8; 32]>(1)?),
                    row.get::<_, Vec<u8>>(2)?,
                    row.get::<_, String>(3)?,
                    Zeroizing::new(row.get::<_, [u8; 32]>(4)?),
                ))
            },
        )
        .optional()?;
    let Some((manifest, signing_seed, sealed_root, pool, server_seed)) = row else {
        // Networks without an organisation are no first start.
        let networks: i64 = conn.query_row("SELECT count(*) FROM network", [], |row| row.get(0))?;
        return if networks == 0 {
            Ok(None)
        } else {
            Err(StoreError::damaged("the organisation is gone"))
        };
    };
    Ok(Some(OrgRow {
        manifest: rows::object(&manifest, MAX_SIGNED_MANIFEST)?,
        signing_seed,
        server_seed,
        sealed_root: rows::object(&sealed_root, SealedRoot::MAX_LEN)?,
        pool: pool.parse().map_err(StoreError::damaged)?,
    }))
}

pub(super) fn create(tx: &Transaction<'_>, row: &OrgRow, now: UnixTime) -> Result<()> {
    tx.execute(
        "INSERT INTO organisation (one, manifest, signing_seed, sealed_root, pool, created_at) VALUES (1, $1, $2, $3, $4, $5)",
        params![
            cbor::encode(&row.manifest),
            *row.signing_seed,
            cbor::encode(&row.sealed_root),
            row.pool.to_string(),
            rows::number(now.0)?
        ],
    )?;
    tx.execute(
        "INSERT INTO server (one, seed) VALUES (1, $1)",
        [*row.server_seed],
    )?;
    Ok(())
}

/// The newest directory of this generation.
pub(super) fn directory(conn: &Connection, signer: &Signer) -> Result<Option<Signed<Directory>>> {
    let signed: Option<Vec<u8>> = conn
        .query_row(
            "SELECT signed FROM directory WHERE generation = $1 ORDER BY seq DESC LIMIT 1",
            [rows::number(signer.generation())?],
            |row| row.get(0),
        )
        .optional()?;
    signed
        .map(|signed| rows::object(&signed, MAX_SIGNED_DIRECTORY))
        .transpose()
}

fn newest(conn: &Connection, signer: &Signer) -> Result<Option<Verified<Directory>>> {
    directory(conn, signer)?
        .map(|old| Directory::verify(&old, signer.manifest()).map_err(StoreError::damaged))
        .transpose()
}

/// Signs the newest directory again, far above all that may have been published since a backup.
pub(super) fn jump(tx: &Transaction<'_>, signer: &Signer, now: UnixTime) -> Result<()> {
    let Some(old) = newest(tx, signer)? else {
        return Ok(());
    };
    let floor = old.seq.saturating_add(JUMP);
    let (coordinators, bootstraps) = (old.coordinators.clone(), old.bootstraps.clone());
    publish(tx, signer, coordinators, bootstraps, floor, now).map(drop)
}

pub(super) fn publish(
    tx: &Transaction<'_>,
    signer: &Signer,
    coordinators: Vec<Server>,
    bootstraps: Vec<Server>,
    floor: u64,
    now: UnixTime,
) -> Result<Signed<Directory>> {
    let old = newest(tx, signer)?;
    if recovery::is_frozen(tx)? {
        // What the members have already is good enough.
        let old = old.map(|old| old.signed().clone());
        return old.ok_or(Refusal::Recovery.into());
    }
    if let Some(old) = &old
        && old.coordinators == coordinators
        && old.bootstraps == bootstraps
        && old.seq >= floor
    {
        return Ok(old.signed().clone());
    }
    let newest = old.as_ref().map_or(0, |old| old.seq).max(floor);
    let seq = newest.saturating_add(1);
    let now = old.as_ref().map_or(now, |old| now.max(old.issued_at));
    let signed = signer.directory(seq, coordinators, bootstraps, now);
    // Never hand out what its readers would refuse.
    Directory::verify(&signed, signer.manifest())
        .map_err(|e| StoreError::Failed(format!("the directory cannot be published: {e}")))?;
    tx.execute(
        "INSERT INTO directory (generation, seq, signed) VALUES ($1, $2, $3)",
        params![
            rows::number(signer.generation())?,
            rows::number(seq)?,
            cbor::encode(&signed)
        ],
    )?;
    Ok(signed)
}
