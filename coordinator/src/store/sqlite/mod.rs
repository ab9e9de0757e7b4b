//! The store on SQLite: one file, one writer thread, one transaction per intent.
//!
//! [`Database`] is an open file, before anybody knows who signs. [`Database::into_store`] hands it to a thread
//! that owns it from then on; [`SqliteStore`] is the queue to that thread.

mod addresses;
mod ends;
mod files;
mod invites;
mod members;
mod networks;
mod nodes;
mod open;
mod organisation;
mod owners;
mod recovery;
mod rosters;
mod rows;
mod suspensions;
mod takeover;
mod thread;

#[cfg(test)]
mod tests;

use std::path::Path;

use kanpachi_common::{Signed, UnixTime, org::Directory};
use rusqlite::{Connection, Transaction};

use self::open::Opened;
use super::Result;
use crate::org::Signer;

pub use files::{DATABASE, LOCK};
pub use organisation::OrgRow;
pub use thread::SqliteStore;

/// An open database at the newest schema, locked against other coordinators.
#[derive(Debug)]
pub struct Database {
    opened: Opened,
}

impl Database {
    /// Opens or makes the database in a state directory.
    ///
    /// # Errors
    /// [`super::StoreError`], each with what to do about it.
    pub fn open(state_dir: &Path) -> Result<Self> {
        Ok(Self {
            opened: open::open(state_dir)?,
        })
    }

    /// A database that is gone when the value is.
    ///
    /// # Errors
    /// [`super::StoreError`]
    pub fn in_memory() -> Result<Self> {
        Ok(Self {
            opened: open::open_in_memory()?,
        })
    }

    /// The organisation, if there was a first start.
    ///
    /// # Errors
    /// [`super::StoreError`]
    pub fn organisation(&self) -> Result<Option<OrgRow>> {
        organisation::load(&self.opened.conn)
    }

    /// Writes a new organisation.
    ///
    /// # Errors
    /// [`super::StoreError`]; also when there is one already.
    pub fn create_organisation(&mut self, row: &OrgRow, now: UnixTime) -> Result<()> {
        let tx = self.opened.conn.transaction()?;
        organisation::create(&tx, row, now)?;
        tx.commit()?;
        Ok(())
    }

    /// The newest directory.
    ///
    /// # Errors
    /// [`super::StoreError`]
    pub fn directory(&self, signer: &Signer) -> Result<Option<Signed<Directory>>> {
        organisation::directory(&self.opened.conn, signer)
    }

    /// Starts the writer thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn into_store(self, signer: Signer) -> Result<SqliteStore> {
        SqliteStore::start(Engine {
            opened: self.opened,
            signer,
        })
    }
}

/// What the writer thread owns.
#[derive(Debug)]
struct Engine {
    opened: Opened,
    signer: Signer,
}

impl Engine {
    /// Runs one intent in one transaction. Whatever it returns early leaves the database as it was.
    fn write<T>(
        &mut self,
        intent: impl FnOnce(&Transaction<'_>, &Signer) -> Result<T>,
    ) -> Result<T> {
        let tx = self.opened.conn.transaction()?;
        let out = intent(&tx, &self.signer)?;
        tx.commit()?;
        Ok(out)
    }

    /// The same for an intent that signs or gives something out: refused during a recovery.
    fn change<T>(
        &mut self,
        intent: impl FnOnce(&Transaction<'_>, &Signer) -> Result<T>,
    ) -> Result<T> {
        self.write(|tx, signer| {
            recovery::check(tx)?;
            intent(tx, signer)
        })
    }

    /// Runs one reading intent on one state of the database.
    fn read<T>(&mut self, intent: impl FnOnce(&Connection, &Signer) -> Result<T>) -> Result<T> {
        let tx = self
            .opened
            .conn
            .transaction_with_behavior(rusqlite::TransactionBehavior::Deferred)?;
        let out = intent(&tx, &self.signer)?;
        tx.finish()?;
        Ok(out)
    }
}
