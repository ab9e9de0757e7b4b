//! What somebody wants of this machine until they say otherwise: to be logged in, and there in which networks.

use kanpachi_common::NetworkId;
use rusqlite::params;

use super::db::{Database, Result, id};

/// In `meta` while the machine is logged out.
const LOGGED_OUT: &str = "logged_out";

impl Database {
    /// Is the machine to be logged in?
    ///
    /// # Errors
    /// One sentence.
    pub fn is_logged_in(&self) -> Result<bool> {
        Ok(self.blob(LOGGED_OUT)?.is_none())
    }

    /// Keeps whether it is.
    ///
    /// # Errors
    /// One sentence; nothing was written.
    pub fn set_logged_in(&mut self, logged_in: bool) -> Result<()> {
        if !logged_in {
            return self.set_blob(LOGGED_OUT, &[1]);
        }
        self.write(|tx| {
            tx.execute("DELETE FROM meta WHERE key = ?1", [LOGGED_OUT])
                .map(drop)
        })
    }

    /// Keeps whether the machine is to be there in a network.
    ///
    /// # Errors
    /// One sentence; nothing was written.
    pub fn set_online(&mut self, network: &NetworkId, online: bool) -> Result<()> {
        let sql = if online {
            "DELETE FROM offline WHERE network = ?1"
        } else {
            "INSERT OR IGNORE INTO offline (network) VALUES (?1)"
        };
        self.write(|tx| tx.execute(sql, params![network.0]).map(drop))
    }

    /// Networks that it is not to be there in.
    pub(super) fn offline(&self) -> Result<Vec<NetworkId>> {
        self.rows("SELECT network FROM offline ORDER BY network", |r| {
            Ok(NetworkId(id(r, 0)?))
        })
    }
}
