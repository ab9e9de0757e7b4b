//! Rosters as they are stored: read back, checked against their signed head, and carried to the next epoch.

use kanpachi_common::{
    MemberId, NetworkId, Signed, UnixTime, Verified,
    id::Hash,
    merkle,
    roster::{Entry, Head, MAX_MEMBERS, Position, Public, Roster, Settings},
    secret::NetworkSecret,
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::rows;
use crate::{
    org::Signer,
    store::{Result, StoreError},
};

/// Epochs for which a delta can be made; whoever is further behind gets the whole roster.
pub(super) const KEPT_EPOCHS: u64 = 1000;
/// Longest CBOR of a signed head in bytes.
const MAX_SIGNED_HEAD: usize = 2048;

/// A network, read back whole. Only [`load`] makes one, and only when everything fits the signed head.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) network: NetworkId,
    pub(super) name: String,
    pub(super) settings: Vec<u8>,
    pub(super) settings_at: u64,
    pub(super) head: Verified<Head>,
    pub(super) secret: NetworkSecret,
    pub(super) rows: Vec<MemberRow>,
    /// The network has ended.
    pub(super) deleted: bool,
    /// No head below is signed any more.
    pub(super) epoch_floor: u64,
    validity: Validity,
}

/// How long heads of a network live, in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Validity {
    pub(super) soft: u64,
    pub(super) hard: Option<u64>,
}

/// An entry with the epoch in which it changed last.
#[derive(Debug)]
pub(super) struct MemberRow {
    pub(super) entry: Entry,
    pub(super) changed_at: u64,
}

impl Stored {
    /// The epoch after this one.
    pub(super) fn next_epoch(&self) -> Result<u64> {
        let next = self.head.epoch.checked_add(1);
        let next = next.map(|next| next.max(self.epoch_floor));
        next.ok_or_else(|| StoreError::Failed("the epochs of a network are used up".to_owned()))
    }

    /// Everything the head commits to.
    pub(super) fn roster(&self) -> Roster {
        Roster {
            settings: self.settings.clone(),
            entries: self.rows.iter().map(|r| r.entry.clone()).collect(),
        }
    }

    /// The public halves.
    pub(super) fn members(&self) -> Result<Vec<Public>> {
        let public = |row: &MemberRow| Public::decode(&row.entry.public);
        self.rows
            .iter()
            .map(public)
            .collect::<std::result::Result<_, _>>()
            .map_err(StoreError::damaged)
    }
}

/// Reads a network back; `None` when there is none of that id.
pub(super) fn load(
    conn: &Connection,
    signer: &Signer,
    network: NetworkId,
) -> Result<Option<Stored>> {
    let row = conn
        .prepare_cached(
            "SELECT name, settings, settings_at, secret_id, soft_seconds, hard_seconds, deleted_at IS NOT NULL,
                    epoch_floor
             FROM network WHERE network = $1",
        )?
        .query_row([network.0], |row| {
            Ok((
                row.get::<_, String>(0)?,
                row.get::<_, Vec<u8>>(1)?,
                rows::unsigned(row, 2)?,
                row.get::<_, u32>(3)?,
                Validity {
                    soft: rows::unsigned(row, 4)?,
                    hard: hard_seconds(row)?,
                },
                row.get::<_, bool>(6)?,
                rows::unsigned(row, 7)?,
            ))
        })
        .optional()?;
    let Some((name, settings, settings_at, secret_id, validity, deleted, epoch_floor)) = row else {
        return Ok(None);
    };
    let head = newest_head(conn, signer, network)?;
    let rows = member_rows(conn, network)?;
    let (root, size) = commitment(&settings, &rows);
    if head.root != root || head.size != size {
        return Err(StoreError::damaged(
            "the members of a network do not match its signed head",
        ));
    }
    let bytes = conn
        .prepare_cached("SELECT bytes FROM secret WHERE network = $1 AND secret_id = $2")?
        .query_row(params![network.0, secret_id], |row| row.get(0))?;
    let secret = NetworkSecret::new(secret_id, bytes);
    if !secret.matches(head.secret_id, &head.secret_hash) {
        return Err(StoreError::damaged(
            "the secret of a network does not match its signed head",
        ));
    }
    Ok(Some(Stored {
        network,
        name,
        settings,
        settings_at,
        head,
        secret,
        rows,
        deleted,
        epoch_floor,
        validity,
    }))
}

fn hard_seconds(row: &rusqlite::Row<'_>) -> rusqlite::Result<Option<u64>> {
    match row.get::<_, Option<i64>>(5)? {
        Some(_) => rows::unsigned(row, 5).map(Some),
        None => Ok(None),
    }
}

/// The newest head of a network. Every network has one from its creation on, so none is damage.
pub(super) fn newest_head(
    conn: &Connection,
    signer: &Signer,
    network: NetworkId,
) -> Result<Verified<Head>> {
    let signed: Vec<u8> = conn
        .prepare_cached(
            "SELECT signed FROM head WHERE network = $1 ORDER BY generation DESC, epoch DESC LIMIT 1",
        )?
        .query_row([network.0], |row| row.get(0))?;
    let signed: Signed<Head> = rows::object(&signed, MAX_SIGNED_HEAD)?;
    let head = Head::verify(&signed, signer.manifest()).map_err(StoreError::damaged)?;
    if head.network == network {
        Ok(head)
    } else {
        Err(StoreError::damaged("a head of another network"))
    }
}

/// The root that was signed at a position; `None` when that is too long ago or never was.
pub(super) fn root_at(conn: &Connection, network: NetworkId, at: Position) -> Result<Option<Hash>> {
    let (Ok(generation), Ok(epoch)) = (rows::number(at.generation), rows::number(at.epoch)) else {
        return Ok(None);
    };
    Ok(conn
        .prepare_cached(
            "SELECT root FROM head WHERE network = $1 AND generation = $2 AND epoch = $3",
        )?
        .query_row(params![network.0, generation, epoch], |row| {
            rows::id(row, 0)
        })
        .optional()?)
}

/// Members whose membership ended after an epoch.
pub(super) fn removed_since(
    conn: &Connection,
    network: NetworkId,
    epoch: u64,
) -> Result<Vec<MemberId>> {
    let mut statement = conn.prepare_cached(
        "SELECT member FROM removed WHERE network = $1 AND removed_at > $2 ORDER BY member",
    )?;
    let members = statement.query_map(params![network.0, rows::number(epoch)?], |row| {
        rows::id(row, 0)
    })?;
    Ok(members.collect::<rusqlite::Result<_>>()?)
}

fn member_rows(conn: &Connection, network: NetworkId) -> Result<Vec<MemberRow>> {
    let mut statement = conn.prepare_cached(
        "SELECT public, salt, private, changed_at FROM member WHERE network = $1 ORDER BY member",
    )?;
    let rows = statement.query_map([network.0], |row| {
        let entry = Entry {
            public: row.get(0)?,
            salt: row.get(1)?,
            private: row.get(2)?,
        };
        Ok(MemberRow {
            entry,
            changed_at: rows::unsigned(row, 3)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Root and number of leaves over settings and entries.
fn commitment(settings: &[u8], rows: &[MemberRow]) -> (Hash, u64) {
    let mut leaves = Vec::with_capacity(rows.len() + 1);
    leaves.push(Settings::leaf(settings));
    leaves.extend(rows.iter().map(|row| row.entry.leaf()));
    (merkle::root(&leaves), leaves.len() as u64)
}

/// Signs and writes the first head of a network without members.
pub(super) fn begin(
    tx: &Transaction<'_>,
    signer: &Signer,
    network: NetworkId,
    settings: &[u8],
    secret: &NetworkSecret,
    validity: Validity,
    now: UnixTime,
) -> Result<Position> {
    let (root, size) = commitment(settings, &[]);
    let head = head_of(
        signer,
        network,
        1,
        root,
        size,
        rows::NO_ROOT,
        secret,
        validity,
        now,
    );
    write_head(tx, signer, &head)
}

/// Signs and writes the head of what stands in the tables now, as the epoch after `before`.
pub(super) fn advance(
    tx: &Transaction<'_>,
    signer: &Signer,
    before: &Stored,
    secret: &NetworkSecret,
    now: UnixTime,
) -> Result<Position> {
    let epoch = before.next_epoch()?;
    // Read back instead of computed: the signature covers what the transaction leaves behind.
    let rows = member_rows(tx, before.network)?;
    if rows.len() > MAX_MEMBERS {
        return Err(crate::store::Refusal::NetworkFull.into());
    }
    let (root, size) = commitment(&before.settings, &rows);
    // A clock that went back must not make the new head look older than the one it replaces.
    let now = now.max(before.head.issued_at);
    let prev = before.head.root;
    let head = head_of(
        signer,
        before.network,
        epoch,
        root,
        size,
        prev,
        secret,
        before.validity,
        now,
    );
    let position = write_head(tx, signer, &head)?;
    let oldest = rows::number(epoch.saturating_sub(KEPT_EPOCHS))?;
    tx.prepare_cached("DELETE FROM head WHERE network = $1 AND epoch < $2")?
        .execute(params![before.network.0, oldest])?;
    tx.prepare_cached("DELETE FROM removed WHERE network = $1 AND removed_at < $2")?
        .execute(params![before.network.0, oldest])?;
    Ok(position)
}

#[expect(clippy::too_many_arguments, reason = "one call per field of a head")]
fn head_of(
    signer: &Signer,
    network: NetworkId,
    epoch: u64,
    root: Hash,
    size: u64,
    prev_root: Hash,
    secret: &NetworkSecret,
    validity: Validity,
    now: UnixTime,
) -> Head {
    Head {
        org: signer.org(),
        network,
        generation: signer.generation(),
        epoch,
        root,
        size,
        prev_root,
        secret_id: secret.id,
        secret_hash: secret.hash(),
        issued_at: now,
        soft_expires_at: now.plus(validity.soft),
        hard_expires_at: validity.hard.map(|hard| now.plus(hard)),
        ext: vec![],
    }
}

fn write_head(tx: &Transaction<'_>, signer: &Signer, head: &Head) -> Result<Position> {
    let signed = kanpachi_common::cbor::encode(&signer.head(head));
    tx.prepare_cached(
        "INSERT INTO head (network, generation, epoch, root, issued_at, signed) VALUES ($1, $2, $3, $4, $5, $6)",
    )?
    .execute(params![
        head.network.0,
        rows::number(head.generation)?,
        rows::number(head.epoch)?,
        head.root.0,
        rows::number(head.issued_at.0)?,
        signed
    ])?;
    Ok(head.position())
}

/// Signs the newest head again with a later time. The row keeps its key and its root: it is the same epoch.
pub(super) fn renew(
    tx: &Transaction<'_>,
    signer: &Signer,
    stored: &Stored,
    now: UnixTime,
) -> Result<()> {
    let mut head = Head::clone(&stored.head);
    head.issued_at = now.max(head.issued_at.plus(1));
    head.soft_expires_at = head.issued_at.plus(stored.validity.soft);
    head.hard_expires_at = stored.validity.hard.map(|hard| head.issued_at.plus(hard));
    let signed = kanpachi_common::cbor::encode(&signer.head(&head));
    let changed = tx.execute(
        "UPDATE head SET issued_at = $1, signed = $2 WHERE network = $3 AND generation = $4 AND epoch = $5 AND root = $6",
        params![
            rows::number(head.issued_at.0)?,
            signed,
            head.network.0,
            rows::number(head.generation)?,
            rows::number(head.epoch)?,
            head.root.0
        ],
    )?;
    if changed == 1 {
        Ok(())
    } else {
        Err(StoreError::damaged("the newest head is gone"))
    }
}
