//! How ids and signed objects look in columns.

use kanpachi_common::{cbor, id::Hash};
use rusqlite::Row;
use serde::de::DeserializeOwned;

use crate::store::{Result, StoreError};

/// Reads a 32-byte column as an id.
pub(super) fn id<T: From<[u8; 32]>>(row: &Row<'_>, column: usize) -> rusqlite::Result<T> {
    row.get::<_, [u8; 32]>(column).map(T::from)
}

/// Reads CBOR that this program wrote.
pub(super) fn object<T: DeserializeOwned>(bytes: &[u8], max: usize) -> Result<T> {
    cbor::decode(bytes, max).map_err(StoreError::damaged)
}

/// A position column. SQLite's integers have a sign; epochs of this program stay far below it.
pub(super) fn number(value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| StoreError::Failed("a number is out of range".to_owned()))
}

/// A root that no roster has: before the first.
pub(super) const NO_ROOT: Hash = Hash([0; 32]);

/// Reads a column that never holds less than zero.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, value))
}
