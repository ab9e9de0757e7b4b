//! IPv4 addresses: given out once, kept for life, left to rest when they are free again.

use std::net::Ipv4Addr;

use kanpachi_common::{NodeId, Pool, UnixTime, time::DAY};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::rows;
use crate::store::{Refusal, Result, StoreError};

/// How long a freed address rests before somebody else gets it, in seconds.
pub(super) const REST: u64 = 30 * DAY;
/// Addresses that follow from the key are tried this often; in a pool that is nearly full a search is cheaper.
const TRIES: usize = 32;

/// The address that a node has.
pub(super) fn of_node(conn: &Connection, node: NodeId) -> Result<Option<Ipv4Addr>> {
    let address: Option<u32> = conn
        .prepare_cached("SELECT ipv4 FROM address WHERE node = $1")?
        .query_row([node.0], |row| row.get(0))
        .optional()?;
    Ok(address.map(Ipv4Addr::from_bits))
}

/// The node's address, or a new one: the one it had before, else the first free one of its sequence, else any.
pub(super) fn allocate(
    tx: &Transaction<'_>,
    pool: Pool,
    node: NodeId,
    now: UnixTime,
) -> Result<Ipv4Addr> {
    if let Some(address) = of_node(tx, node)? {
        return Ok(address);
    }
    let mut before = tx.prepare_cached(
        "SELECT ipv4 FROM address WHERE last_node = $1 AND node IS NULL ORDER BY freed_at DESC LIMIT 1",
    )?;
    let before: Option<u32> = before.query_row([node.0], |row| row.get(0)).optional()?;
    if let Some(bits) = before {
        return take_resting(tx, bits, node);
    }
    let rested = rows::number(now.0.saturating_sub(REST))?;
    for address in pool.candidates(&node).take(TRIES) {
        if take(tx, address.to_bits(), node, rested)? {
            return Ok(address);
        }
    }
    let found = match gap(tx, pool)? {
        Some(bits) => Some(bits),
        None => longest_rested(tx, pool, rested)?,
    };
    let bits = found.ok_or(Refusal::PoolEmpty)?;
    if take(tx, bits, node, rested)? {
        Ok(Ipv4Addr::from_bits(bits))
    } else {
        // The search ran in this transaction, which holds the write lock.
        Err(StoreError::damaged("a free address is not free"))
    }
}

/// Sets the address of a node to rest.
pub(super) fn free(tx: &Transaction<'_>, node: NodeId, now: UnixTime) -> Result<()> {
    tx.execute(
        "UPDATE address SET node = NULL, freed_at = $1 WHERE node = $2",
        params![rows::number(now.0)?, node.0],
    )?;
    Ok(())
}

/// Sets every free address to rest from now on: nobody can say who had it lately.
pub(super) fn rest_all(tx: &Transaction<'_>, now: UnixTime) -> Result<()> {
    tx.execute(
        "UPDATE address SET freed_at = $1 WHERE node IS NULL",
        [rows::number(now.0)?],
    )?;
    Ok(())
}

/// Takes an address that nobody has or that has rested; the primary key decides.
fn take(tx: &Transaction<'_>, bits: u32, node: NodeId, rested: i64) -> Result<bool> {
    let taken = tx
        .prepare_cached(
            "INSERT INTO address (ipv4, node, last_node) VALUES ($1, $2, $2)
             ON CONFLICT (ipv4) DO UPDATE SET node = excluded.node, last_node = excluded.last_node, freed_at = NULL
             WHERE address.node IS NULL AND address.freed_at <= $3",
        )?
        .execute(params![bits, node.0, rested])?;
    Ok(taken == 1)
}

fn take_resting(tx: &Transaction<'_>, bits: u32, node: NodeId) -> Result<Ipv4Addr> {
    tx.execute(
        "UPDATE address SET node = $1, freed_at = NULL WHERE ipv4 = $2 AND node IS NULL",
        params![node.0, bits],
    )?;
    Ok(Ipv4Addr::from_bits(bits))
}

/// The lowest address that was never given out.
fn gap(tx: &Transaction<'_>, pool: Pool) -> Result<Option<u32>> {
    let (Some(first), Some(last)) = (pool.host(0), pool.host(pool.capacity() - 1)) else {
        return Ok(None);
    };
    let (first, last) = (first.to_bits(), last.to_bits());
    let found = tx.query_row(
        "SELECT min(candidate) FROM (
                 SELECT $1 AS candidate
                 UNION ALL
                 SELECT ipv4 + 1 FROM address WHERE ipv4 BETWEEN $1 AND $2 - 1
             ) WHERE candidate NOT IN (SELECT ipv4 FROM address)",
        [first, last],
        |row| row.get(0),
    )?;
    Ok(found)
}

fn longest_rested(tx: &Transaction<'_>, pool: Pool, rested: i64) -> Result<Option<u32>> {
    let (Some(first), Some(last)) = (pool.host(0), pool.host(pool.capacity() - 1)) else {
        return Ok(None);
    };
    Ok(tx
        .query_row(
            "SELECT ipv4 FROM address WHERE node IS NULL AND freed_at <= $1 AND ipv4 BETWEEN $2 AND $3
             ORDER BY freed_at LIMIT 1",
            params![rested, first.to_bits(), last.to_bits()],
            |row| row.get(0),
        )
        .optional()?)
}
