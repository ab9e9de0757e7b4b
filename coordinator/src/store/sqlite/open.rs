//! Opening the database: settings of the engine, check of the file, migrations.

use std::{path::Path, time::Duration};

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::{files::StateDir, nodes};
use crate::store::{Result, StoreError};

/// Marks the file as a coordinator's: "KPCo".
const APPLICATION_ID: i32 = 0x4b50_436f;
/// How long a statement waits for another program's lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The migrations, by number from 1. Only ever appended to: a database remembers how many it has seen.
pub(super) const MIGRATIONS: &[Migration] = &[
    Migration::sql(include_str!("migrations/0001-initial.sql")),
    Migration {
        sql: include_str!("migrations/0002-passwords.sql"),
        fill: nodes::fill_client_ids,
    },
    Migration::sql(include_str!("migrations/0003-recovery.sql")),
];

/// A step from one schema to the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Migration {
    /// What changes.
    sql: &'static str,
    /// Computes what SQL cannot.
    fill: fn(&Transaction<'_>) -> Result<()>,
}

impl Migration {
    /// A step in SQL alone.
    pub(super) const fn sql(sql: &'static str) -> Self {
        Self {
            sql,
            fill: |_| Ok(()),
        }
    }
}

/// An open database at the newest schema.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) conn: Connection,
    // Dropped after the connection: fields are dropped in order.
    pub(super) _dir: Option<StateDir>,
}

/// Opens or makes the database in a state directory.
pub(super) fn open(dir: &Path) -> Result<Opened> {
    let dir = StateDir::take(dir)?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(&dir.database, flags)?;
    prepare(conn, Some(dir))
}

/// A database that lives as long as the value.
pub(super) fn open_in_memory() -> Result<Opened> {
    prepare(Connection::open_in_memory()?, None)
}

fn prepare(mut conn: Connection, dir: Option<StateDir>) -> Result<Opened> {
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_transaction_behavior(TransactionBehavior::Immediate);
    // WAL: readers do not wait for the writer. FULL: what was acknowledged survives a power cut.
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get::<_, String>(0))?;
    conn.pragma_update(None, "synchronous", "FULL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cell_size_check", true)?;
    conn.pragma_update(None, "secure_delete", true)?;
    quick_check(&conn)?;
    migrate(&mut conn, MIGRATIONS)?;
    Ok(Opened { conn, _dir: dir })
}

fn quick_check(conn: &Connection) -> Result<()> {
    let verdict: String = conn.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if verdict == "ok" {
        Ok(())
    } else {
        Err(StoreError::Damaged(verdict.chars().take(120).collect()))
    }
}

/// Brings the schema to the newest version, all of it or nothing.
pub(super) fn migrate(conn: &mut Connection, migrations: &[Migration]) -> Result<()> {
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let tx = conn.transaction()?;
    let id: i32 = tx.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    let tables: u32 = tx.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if id != APPLICATION_ID {
        if id != 0 || tables != 0 {
            return Err(StoreError::Damaged(
                "the file is the database of another program".to_owned(),
            ));
        }
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.execute_batch(
            "CREATE TABLE schema_version (version INTEGER PRIMARY KEY, applied_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP) STRICT",
        )?;
    }
    let found: u32 = tx.query_row(
        "SELECT coalesce(max(version), 0) FROM schema_version",
        [],
        |row| row.get(0),
    )?;
    if found > known {
        return Err(StoreError::Newer { found, known });
    }
    for (version, migration) in (1..).zip(migrations).skip(found as usize) {
        tx.execute_batch(migration.sql)?;
        (migration.fill)(&tx)?;
        tx.execute(
            "INSERT INTO schema_version (version) VALUES ($1)",
            [version as u32],
        )?;
    }
    tx.commit()?;
    Ok(())
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        use rusqlite::{Error, ErrorCode};
        match &error {
            Error::SqliteFailure(failure, text) => match failure.code {
                ErrorCode::DiskFull => Self::Full,
                // The index of the WAL could not grow: what a full disk looks like to a mapped file.
                ErrorCode::SystemIoFailure
                    if failure.extended_code == rusqlite::ffi::SQLITE_IOERR_SHMSIZE =>
                {
                    Self::Full
                }
                ErrorCode::ReadOnly | ErrorCode::PermissionDenied => Self::ReadOnly,
                ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Self::Busy,
                ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => {
                    Self::damaged(text.as_deref().unwrap_or("the file cannot be read"))
                }
                _ => Self::Failed(error.to_string()),
            },
            // A value of another type than the schema promises, or a row that must be there and is not.
            Error::QueryReturnedNoRows
            | Error::FromSqlConversionFailure(..)
            | Error::IntegralValueOutOfRange(..)
            | Error::InvalidColumnType(..) => Self::damaged(error),
            _ => Self::Failed(error.to_string()),
        }
    }
}
