//! The database: organisation, rosters, addresses, where peers were last.

use std::net::{Ipv4Addr, SocketAddr};

use kanpachi_common::{
    Hash, NetworkId, NodeId, OrgId, Signed, UnixTime, cbor,
    org::{Directory, Manifest},
    roster::{Head, Position, Roster},
    secret::NetworkSecret,
};
use kanpachi_proto::roster::{Stored, Update};
use rusqlite::{
    Connection, OptionalExtension as _, Transaction, TransactionBehavior, params, types::ValueRef,
};

use super::{StateDir, suspends};
use crate::ipc::error::{ApiError, code};

/// Migrations, applied in order. Append only: what is here has been on somebody's disk.
const MIGRATIONS: &[&str] = &[
    include_str!("0001-start.sql"),
    include_str!("0002-wishes.sql"),
    include_str!("0003-suspends.sql"),
    include_str!("0004-records.sql"),
];
/// Longest value read back, in bytes: a roster of 4,096 members.
const MAX_ROSTER: usize = 32 * 1024 * 1024;
/// Addresses remembered per peer.
const MAX_KNOWN: u32 = 16;

/// Where a peer was reached, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownCandidate {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub addr: SocketAddr,
    /// When it last worked or was told.
    pub seen: UnixTime,
}

/// The open database.
#[derive(Debug)]
pub struct Database {
    conn: Connection,
    path: String,
}

pub(super) type Result<T> = std::result::Result<T, ApiError>;

/// The sentence for an error of the database.
fn explain(path: &str, error: &rusqlite::Error) -> ApiError {
    use rusqlite::ErrorCode as E;
    // The index of the write-ahead log could not grow: what a full disk looks like to a mapped file.
    let mapped = error
        .sqlite_error()
        .is_some_and(|e| e.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE);
    if mapped {
        return disk_full(path);
    }
    match error.sqlite_error_code() {
        Some(E::DiskFull) => disk_full(path),
        Some(E::NotADatabase | E::DatabaseCorrupt) => damaged(path, &error.to_string()),
        Some(E::CannotOpen | E::PermissionDenied | E::ReadOnly) => ApiError::no_permission(
            code::STATE_UNREADABLE,
            format_args!("cannot open {path}: {error}"),
        )
        .hint("check who owns it, and its mode"),
        _ => ApiError::failed(code::FAILED, format_args!("{path}: {error}")),
    }
}

fn disk_full(path: &str) -> ApiError {
    ApiError::failed(
        code::DISK_FULL,
        format_args!("cannot write {path}: the disk is full"),
    )
    .hint("make room and start again; nothing was lost")
}

pub(super) fn damaged(path: &str, why: &str) -> ApiError {
    ApiError::failed(code::STATE_DAMAGED, format_args!("the state file {path} is damaged: {why}")).hint(format_args!(
        "move {path} and its -wal and -shm files away and join again; the key beside it keeps the addresses of this machine"
    ))
}

/// SQLite opens its own files beside the database, and would follow a link.
fn no_links_beside(dir: &StateDir) -> Result<()> {
    for name in ["node.db-wal", "node.db-shm", "node.db-journal"] {
        let path = dir.file(name);
        if std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink()) {
            return Err(super::is_a_link(&path));
        }
    }
    Ok(())
}

impl Database {
    /// Opens it, or makes it.
    ///
    /// # Errors
    /// One sentence.
    pub fn open(dir: &StateDir) -> Result<Self> {
        let file = dir.file("node.db");
        let path = file.display().to_string();
        // Made here, so that it is never readable by others, not even for a moment, and is no symbolic link.
        super::options()
            .create(true)
            .truncate(false)
            .open(&file)
            .map_err(|e| super::io_error("open", &file, &e))?;
        no_links_beside(dir)?;
        let conn = Connection::open(&file).map_err(|e| explain(&path, &e))?;
        let mut this = Self { conn, path };
        this.prepare().map_err(|e| this.error(e))?;
        this.check()?;
        this.migrate()?;
        Ok(this)
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    fn error(&self, error: rusqlite::Error) -> ApiError {
        explain(&self.path, &error)
    }

    fn prepare(&self) -> rusqlite::Result<()> {
        self.conn.busy_timeout(std::time::Duration::from_secs(10))?;
        self.conn
            .pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
        self.conn.pragma_update(None, "synchronous", "full")?;
        self.conn.pragma_update(None, "foreign_keys", true)
    }

    fn check(&self) -> Result<()> {
        let word: String = self
            .conn
            .query_row("PRAGMA quick_check(1)", [], |r| r.get(0))
            .map_err(|e| self.error(e))?;
        if word == "ok" {
            Ok(())
        } else {
            Err(damaged(&self.path, &word))
        }
    }

    fn migrate(&mut self) -> Result<()> {
        let have: i64 = self
            .conn
            .query_row("PRAGMA user_version", [], |r| r.get(0))
            .map_err(|e| self.error(e))?;
        let have = usize::try_from(have).unwrap_or(usize::MAX);
        if have > MIGRATIONS.len() {
            return Err(ApiError::refused(
                code::STATE_UNREADABLE,
                format_args!(
                    "{} was written by a newer Kanpachi (format {have}, this program knows {})",
                    self.path,
                    MIGRATIONS.len()
                ),
            )
            .hint("update Kanpachi on this machine"));
        }
        for (version, sql) in (1i64..).zip(MIGRATIONS).skip(have) {
            self.write(|tx| {
                tx.execute_batch(sql)?;
                tx.pragma_update(None, "user_version", version)
            })?;
        }
        Ok(())
    }

    pub(super) fn write<T>(
        &mut self,
        body: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T> {
        let path = &self.path;
        let run = |conn: &mut Connection| {
            let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let out = body(&tx)?;
            tx.commit()?;
            Ok(out)
        };
        run(&mut self.conn).map_err(|e| explain(path, &e))
    }

    pub(super) fn blob(&self, key: &str) -> Result<Option<Vec<u8>>> {
        let get = |r: &rusqlite::Row<'_>| r.get(0);
        self.conn
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], get)
            .optional()
            .map_err(|e| self.error(e))
    }

    pub(super) fn set_blob(&mut self, key: &str, value: &[u8]) -> Result<()> {
        self.write(|tx| put_meta(tx, key, value))
    }

    /// A new number for this start, higher than any before; on disk before it is returned.
    ///
    /// # Errors
    /// One sentence.
    pub fn next_boot(&mut self, wall: UnixTime) -> Result<u64> {
        let stored = self
            .blob("boot")?
            .and_then(|b| Some(u64::from_be_bytes(b.try_into().ok()?)))
            .unwrap_or(0);
        let boot = stored.saturating_add(1).max(wall.0);
        self.set_blob("boot", &boot.to_be_bytes())?;
        Ok(boot)
    }

    /// The organisation that this node belongs to.
    ///
    /// # Errors
    /// One sentence.
    pub fn org(&self) -> Result<Option<OrgId>> {
        let Some(bytes) = self.blob("org")? else {
            return Ok(None);
        };
        let bytes: [u8; 32] = bytes
            .try_into()
            .map_err(|_| damaged(&self.path, "the organisation id"))?;
        Ok(Some(OrgId(bytes)))
    }

    /// Takes an organisation up, with the addresses where its coordinators were said to be.
    ///
    /// # Errors
    /// One sentence.
    pub fn set_org(
        &mut self,
        org: &OrgId,
        addresses: &[kanpachi_common::org::Address],
    ) -> Result<()> {
        self.write(|tx| {
            put_meta(tx, "org", &org.0)?;
            put_meta(tx, "hints", &cbor::encode(&addresses))
        })
    }

    /// Addresses of coordinators that an invite told.
    ///
    /// # Errors
    /// One sentence.
    pub fn hints(&self) -> Result<Vec<kanpachi_common::org::Address>> {
        let Some(bytes) = self.blob("hints")? else {
            return Ok(vec![]);
        };
        cbor::decode(&bytes, 64 * 1024).map_err(|e| damaged(&self.path, &e.to_string()))
    }

    /// The IPv4 address of this node; the outer `None` before it is registered.
    ///
    /// # Errors
    /// One sentence.
    pub fn ipv4(&self) -> Result<Option<Option<Ipv4Addr>>> {
        let Some(bytes) = self.blob("ipv4")? else {
            return Ok(None);
        };
        if bytes.is_empty() {
            return Ok(Some(None));
        }
        let octets: [u8; 4] = bytes
            .try_into()
            .map_err(|_| damaged(&self.path, "the IPv4 address"))?;
        Ok(Some(Some(octets.into())))
    }

    /// Keeps the IPv4 address.
    ///
    /// # Errors
    /// One sentence.
    pub fn set_ipv4(&mut self, addr: Option<Ipv4Addr>) -> Result<()> {
        self.set_blob(
            "ipv4",
            &addr.map(|a| a.octets().to_vec()).unwrap_or_default(),
        )
    }

    /// The port that was listened on, so that a restart finds the same mapping in the router.
    ///
    /// # Errors
    /// One sentence.
    pub fn port(&self) -> Result<Option<u16>> {
        Ok(self
            .blob("port")?
            .and_then(|b| Some(u16::from_be_bytes(b.try_into().ok()?))))
    }

    /// Keeps the port.
    ///
    /// # Errors
    /// One sentence.
    pub fn set_port(&mut self, port: u16) -> Result<()> {
        self.set_blob("port", &port.to_be_bytes())
    }

    /// A network below which nothing is believed.
    ///
    /// # Errors
    /// One sentence.
    pub fn set_floor(&mut self, network: &NetworkId, floor: Position) -> Result<()> {
        self.write(|tx| {
            tx.execute(
                "INSERT INTO floors (network, generation, epoch) VALUES (?1, ?2, ?3) ON CONFLICT (network) DO UPDATE
                 SET generation = excluded.generation, epoch = excluded.epoch
                 WHERE (excluded.generation, excluded.epoch) > (generation, epoch)",
                params![network.0, signed(floor.generation), signed(floor.epoch)],
            )
        })?;
        Ok(())
    }

    /// Writes verified news. What it says may be acted on after this returns.
    ///
    /// # Errors
    /// One sentence; nothing was written.
    pub fn save(&mut self, update: &Update) -> Result<()> {
        self.write(|tx| match update {
            Update::Manifest(manifest) => put_meta(tx, "manifest", &cbor::encode(manifest.signed())),
            Update::Directory(directory) => put_meta(tx, "directory", &cbor::encode(directory.signed())),
            Update::Roster(roster) => {
                let head = roster.head();
                put_seen(tx, &head.network, head.position(), &head.root)?;
                for member in roster.members() {
                    tx.execute(
                        "INSERT INTO serials (node, serial) VALUES (?1, ?2) ON CONFLICT (node) DO UPDATE SET serial = MAX(serial, excluded.serial)",
                        params![member.node.0, signed(member.tunnel.serial)],
                    )?;
                }
                tx.execute(
                    "INSERT OR REPLACE INTO held (network, manifest, head, roster)
                     VALUES (?1, (SELECT value FROM meta WHERE key = 'manifest'), ?2, ?3)",
                    params![head.network.0, cbor::encode(head.signed()), cbor::encode(roster.body())],
                )?;
                suspends::settle(tx, roster)
            }
            Update::Suspend(suspend) => suspends::put(tx, suspend),
            Update::Seen { network, position, root, .. } => put_seen(tx, network, *position, root),
            Update::Secret { network, secret } => {
                tx.execute(
                    "INSERT OR REPLACE INTO secrets (network, id, secret) VALUES (?1, ?2, ?3)",
                    params![network.0, secret.id, secret.expose()],
                )?;
                tx.execute(
                    "DELETE FROM secrets WHERE network = ?1 AND id NOT IN (SELECT id FROM secrets WHERE network = ?1 ORDER BY id DESC LIMIT 2)",
                    params![network.0],
                )?;
                Ok(())
            }
            Update::Equivocation { network, position, root } => {
                tx.execute(
                    "INSERT OR IGNORE INTO equivocations (network, generation, epoch, root) VALUES (?1, ?2, ?3, ?4)",
                    params![network.0, signed(position.generation), signed(position.epoch), root.0],
                )?;
                Ok(())
            }
            Update::Removed(network) => {
                tx.execute("DELETE FROM held WHERE network = ?1", params![network.0])?;
                tx.execute("DELETE FROM secrets WHERE network = ?1", params![network.0])?;
                tx.execute("DELETE FROM offline WHERE network = ?1", params![network.0])?;
                suspends::forget(tx, network)
            }
        })
    }

    /// Everything signed that is on disk, to be verified again.
    ///
    /// # Errors
    /// One sentence.
    pub fn stored(&self) -> Result<Stored> {
        let bad = |e: cbor::DecodeError| damaged(&self.path, &e.to_string());
        let manifest: Option<Signed<Manifest>> = self
            .blob("manifest")?
            .map(|b| cbor::decode(&b, 64 * 1024))
            .transpose()
            .map_err(bad)?;
        let directory: Option<Signed<Directory>> = self
            .blob("directory")?
            .map(|b| cbor::decode(&b, 256 * 1024))
            .transpose()
            .map_err(bad)?;
        let blobs = self.rows(
            "SELECT manifest, head, roster FROM held ORDER BY network",
            |r| {
                Ok((
                    r.get::<_, Vec<u8>>(0)?,
                    r.get::<_, Vec<u8>>(1)?,
                    r.get::<_, Vec<u8>>(2)?,
                ))
            },
        )?;
        let decode = |(manifest, head, roster): (Vec<u8>, Vec<u8>, Vec<u8>)| {
            Ok((
                cbor::decode::<Signed<Manifest>>(&manifest, 64 * 1024)?,
                cbor::decode::<Signed<Head>>(&head, 64 * 1024)?,
                cbor::decode::<Roster>(&roster, MAX_ROSTER)?,
            ))
        };
        let held = blobs
            .into_iter()
            .map(decode)
            .collect::<std::result::Result<_, _>>()
            .map_err(bad)?;
        let position = |r: &rusqlite::Row<'_>| -> rusqlite::Result<Position> {
            Ok(Position {
                generation: unsigned(r.get(1)?),
                epoch: unsigned(r.get(2)?),
            })
        };
        Ok(Stored {
            manifest,
            directory,
            held,
            seen: self.rows("SELECT network, generation, epoch, root FROM seen", |r| {
                Ok((NetworkId(id(r, 0)?), position(r)?, Hash(id(r, 3)?)))
            })?,
            floors: self.rows("SELECT network, generation, epoch FROM floors", |r| {
                Ok((NetworkId(id(r, 0)?), position(r)?))
            })?,
            serials: self.rows("SELECT node, serial FROM serials", |r| {
                Ok((NodeId(id(r, 0)?), unsigned(r.get(1)?)))
            })?,
            secrets: self.rows(
                "SELECT network, id, secret FROM secrets ORDER BY id DESC",
                |r| {
                    Ok((
                        NetworkId(id(r, 0)?),
                        NetworkSecret::new(r.get(1)?, id(r, 2)?),
                    ))
                },
            )?,
            equivocations: self.rows(
                "SELECT network, generation, epoch FROM equivocations",
                |r| Ok((NetworkId(id(r, 0)?), position(r)?)),
            )?,
            offline: self.offline()?,
            suspends: self.suspends()?,
        })
    }

    /// Where peers were last, newest first.
    ///
    /// # Errors
    /// One sentence.
    pub fn known_candidates(&self) -> Result<Vec<KnownCandidate>> {
        let rows = self.rows(
            "SELECT node, addr, seen FROM candidates ORDER BY seen DESC",
            |r| {
                Ok((
                    NodeId(id(r, 0)?),
                    r.get::<_, String>(1)?,
                    UnixTime(unsigned(r.get(2)?)),
                ))
            },
        )?;
        // A row that is no address is dropped: this table is a cache.
        Ok(rows
            .into_iter()
            .filter_map(|(node, addr, seen)| {
                Some(KnownCandidate {
                    node,
                    addr: addr.parse().ok()?,
                    seen,
                })
            })
            .collect())
    }

    /// Remembers where a peer is.
    ///
    /// # Errors
    /// One sentence.
    pub fn remember(&mut self, node: &NodeId, addrs: &[SocketAddr], now: UnixTime) -> Result<()> {
        self.write(|tx| {
            for addr in addrs.iter().take(MAX_KNOWN as usize) {
                tx.execute("INSERT OR REPLACE INTO candidates (node, addr, seen) VALUES (?1, ?2, ?3)", params![node.0, addr.to_string(), signed(now.0)])?;
            }
            tx.execute(
                "DELETE FROM candidates WHERE node = ?1 AND addr NOT IN (SELECT addr FROM candidates WHERE node = ?1 ORDER BY seen DESC, addr LIMIT ?2)",
                params![node.0, MAX_KNOWN],
            )?;
            Ok(())
        })
    }

    pub(super) fn rows<T>(
        &self,
        sql: &str,
        row: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> Result<Vec<T>> {
        let run = || -> rusqlite::Result<Vec<T>> {
            self.conn.prepare(sql)?.query_map([], row)?.collect()
        };
        run().map_err(|e| self.error(e))
    }
}

pub(super) fn put_meta(tx: &Transaction<'_>, key: &str, value: &[u8]) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT OR REPLACE INTO meta (key, value) VALUES (?1, ?2)",
        params![key, value],
    )
    .map(drop)
}

fn put_seen(
    tx: &Transaction<'_>,
    network: &NetworkId,
    position: Position,
    root: &Hash,
) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO seen (network, generation, epoch, root) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (network) DO UPDATE
         SET generation = excluded.generation, epoch = excluded.epoch, root = excluded.root
         WHERE (excluded.generation, excluded.epoch) >= (generation, epoch)",
        params![network.0, signed(position.generation), signed(position.epoch), root.0],
    )
    .map(drop)
}

/// SQLite has signed integers only. What goes in here is far below 2^63; more would stop there rather than wrap.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

pub(super) fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

pub(super) fn id(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<[u8; 32]> {
    match row.get_ref(column)? {
        ValueRef::Blob(bytes) => bytes.try_into().map_err(|_| {
            rusqlite::Error::InvalidColumnType(column, "id".into(), rusqlite::types::Type::Blob)
        }),
        other => Err(rusqlite::Error::InvalidColumnType(
            column,
            "id".into(),
            other.data_type(),
        )),
    }
}
