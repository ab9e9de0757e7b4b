//! Peer records on disk, and the number of the last one that this node published.

use kanpachi_common::{NetworkId, NodeId, UnixTime};
use kanpachi_proto::records::{Kept, Stored, Update};
use rusqlite::params;

use super::db::{Database, Result, id, put_meta, signed, unsigned};

/// In `meta`: the number of the last record.
const SEQ: &str = "record_seq";

impl Database {
    /// What is kept of records.
    ///
    /// # Errors
    /// One sentence.
    pub fn records(&self) -> Result<Stored> {
        let counter = self
            .blob(SEQ)?
            .and_then(|b| Some(u64::from_be_bytes(b.try_into().ok()?)))
            .unwrap_or(0);
        let kept = self.rows(
            "SELECT network, node, day, received, value FROM records ORDER BY received DESC LIMIT 8192",
            |r| {
                Ok(Kept {
                    network: NetworkId(id(r, 0)?),
                    node: NodeId(id(r, 1)?),
                    day: unsigned(r.get(2)?),
                    received: UnixTime(unsigned(r.get(3)?)),
                    value: r.get(4)?,
                })
            },
        )?;
        Ok(Stored { counter, kept })
    }

    /// Writes news of records.
    ///
    /// # Errors
    /// One sentence; nothing was written.
    pub fn save_records(&mut self, update: &Update) -> Result<()> {
        self.write(|tx| match update {
            Update::Counter(counter) => put_meta(tx, SEQ, &counter.to_be_bytes()),
            Update::Cache { keep, forget } => {
                for kept in keep {
                    tx.execute(
                        "INSERT OR REPLACE INTO records (network, node, day, received, value) VALUES (?1, ?2, ?3, ?4, ?5)",
                        params![
                            kept.network.0,
                            kept.node.0,
                            signed(kept.day),
                            signed(kept.received.0),
                            kept.value
                        ],
                    )?;
                }
                for (network, node) in forget {
                    tx.execute(
                        "DELETE FROM records WHERE network = ?1 AND node = ?2",
                        params![network.0, node.0],
                    )?;
                }
                Ok(())
            }
        })
    }
}
