//! Suspensions on disk, and the number of the next one that this node makes.

use kanpachi_common::{
    MemberId, NetworkId, Signed, UnixTime, Verified, cbor,
    roster::{Suspend, VerifiedRoster},
};
use kanpachi_proto::roster::stands;
use rusqlite::{Transaction, params};

use super::db::{Database, Result, id};

/// In `meta`: the number of the last suspension that this node signed.
const SEQ: &str = "suspend_seq";
/// Longest one in bytes.
const MAX_LEN: usize = 4096;

impl Database {
    /// A number for a new suspension, higher than any before; on disk before it is returned.
    ///
    /// # Errors
    /// One sentence.
    pub fn next_suspend(&mut self, wall: UnixTime) -> Result<u64> {
        let stored = self
            .blob(SEQ)?
            .and_then(|b| Some(u64::from_be_bytes(b.try_into().ok()?)))
            .unwrap_or(0);
        let seq = stored.saturating_add(1).max(wall.0);
        self.set_blob(SEQ, &seq.to_be_bytes())?;
        Ok(seq)
    }

    /// All suspensions that stood when they were written. One that cannot be read is dropped: it is held elsewhere, too.
    pub(super) fn suspends(&self) -> Result<Vec<Signed<Suspend>>> {
        let rows = self.rows("SELECT suspend FROM suspends", |r| r.get::<_, Vec<u8>>(0))?;
        let read = |bytes: Vec<u8>| cbor::decode(&bytes, MAX_LEN).ok();
        Ok(rows.into_iter().filter_map(read).collect())
    }
}

pub(super) fn put(tx: &Transaction<'_>, suspend: &Verified<Suspend>) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT OR IGNORE INTO suspends (network, member, by, suspend) VALUES (?1, ?2, ?3, ?4)",
        params![
            suspend.network.0,
            suspend.member.0,
            suspend.by.0,
            cbor::encode(suspend.signed())
        ],
    )
    .map(drop)
}

/// What a roster settles is over.
pub(super) fn settle(tx: &Transaction<'_>, roster: &VerifiedRoster) -> rusqlite::Result<()> {
    let network = roster.head().network;
    let mut select = tx.prepare("SELECT member, by FROM suspends WHERE network = ?1")?;
    let rows = select.query_map(params![network.0], |r| {
        Ok((MemberId(id(r, 0)?), MemberId(id(r, 1)?)))
    })?;
    for row in rows {
        let (member, by) = row?;
        if !stands(roster, &member, &by) {
            tx.execute(
                "DELETE FROM suspends WHERE network = ?1 AND member = ?2",
                params![network.0, member.0],
            )?;
        }
    }
    Ok(())
}

pub(super) fn forget(tx: &Transaction<'_>, network: &NetworkId) -> rusqlite::Result<()> {
    tx.execute(
        "DELETE FROM suspends WHERE network = ?1",
        params![network.0],
    )
    .map(drop)
}
