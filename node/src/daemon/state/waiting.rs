//! Networks in which this machine awaits approval, as the coordinator said last.

use kanpachi_common::{
    cbor,
    wire::{control::MAX_NETWORKS, membership::Waiting},
};

use super::db::{Database, Result, damaged};

/// In `meta`.
const WAITING: &str = "waiting";
/// Bytes of an entry at the most: an id and a name.
const MAX_ENTRY: usize = 512;

impl Database {
    /// What the machine waits for.
    ///
    /// # Errors
    /// One sentence.
    pub fn waiting(&self) -> Result<Vec<Waiting>> {
        let Some(bytes) = self.blob(WAITING)? else {
            return Ok(vec![]);
        };
        cbor::decode(&bytes, MAX_NETWORKS * MAX_ENTRY)
            .map_err(|e| damaged(self.path(), &e.to_string()))
    }

    /// Keeps it.
    ///
    /// # Errors
    /// One sentence; nothing was written.
    pub fn set_waiting(&mut self, waiting: &[Waiting]) -> Result<()> {
        self.set_blob(WAITING, &cbor::encode(&waiting))
    }
}
