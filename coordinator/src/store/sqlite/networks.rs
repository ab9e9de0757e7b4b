//! Networks: created, listed, their rosters read, their heads renewed.

use kanpachi_common::{
    NetworkId, NodeId, UnixTime, Verified, cbor, name,
    roster::{Caps, Delta, Head, NetworkType, Page, PublicRoster, Settings, VerifiedRoster},
    wire::{control::Held, frame::MAX_REPLY, membership::Waiting},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    rosters::{self, Stored, Validity},
    rows, suspensions,
};
use crate::{
    org::Signer,
    store::{Change, Changes, NetworkSummary, NewNetwork, Refusal, Result, StoreError},
};

/// A longer delta goes as pages. Leaves room for the envelope.
const MAX_DELTA: usize = MAX_REPLY - 4096;

pub(super) fn create(
    tx: &Transaction<'_>,
    signer: &Signer,
    new: &NewNetwork,
) -> Result<NetworkSummary> {
    let folded = name::fold(&new.name);
    let settings = cbor::encode(&Settings {
        name: new.name.clone(),
        kind: NetworkType::Mesh,
        rules: vec![],
        ext: vec![],
    });
    let taken: Option<[u8; 32]> = tx
        .query_row(
            "SELECT network FROM network WHERE folded = $1",
            [&folded],
            |row| row.get(0),
        )
        .optional()?;
    match taken {
        // The same request again.
        Some(network) if network == new.network.0 => return summary(tx, signer, new.network),
        Some(_) => return Err(Refusal::NetworkExists.into()),
        None => {}
    }
    let created_at = rows::number(new.now.0)?;
    let hard = new.hard_seconds.map(rows::number).transpose()?;
    tx.execute(
        "INSERT INTO network (network, folded, name, settings, settings_at, secret_id, soft_seconds, hard_seconds, created_at)
         VALUES ($1, $2, $3, $4, 1, $5, $6, $7, $8)",
        params![new.network.0, folded, new.name, settings, new.secret.id, rows::number(new.soft_seconds)?, hard, created_at],
    )?;
    insert_secret(tx, new.network, &new.secret, new.now)?;
    let validity = Validity {
        soft: new.soft_seconds,
        hard: new.hard_seconds,
    };
    rosters::begin(
        tx,
        signer,
        new.network,
        &settings,
        &new.secret,
        validity,
        new.now,
    )?;
    summary(tx, signer, new.network)
}

pub(super) fn insert_secret(
    tx: &Transaction<'_>,
    network: NetworkId,
    secret: &kanpachi_common::secret::NetworkSecret,
    now: UnixTime,
) -> Result<()> {
    tx.execute(
        "INSERT INTO secret (network, secret_id, bytes, created_at) VALUES ($1, $2, $3, $4)",
        params![network.0, secret.id, secret.expose(), rows::number(now.0)?],
    )?;
    Ok(())
}

fn summary(conn: &Connection, signer: &Signer, network: NetworkId) -> Result<NetworkSummary> {
    let stored = require(conn, signer, network)?;
    let members = stored.members()?;
    Ok(NetworkSummary {
        network,
        name: stored.name,
        position: stored.head.position(),
        members: members.len() as u64,
        owners: members.iter().filter(|m| m.caps.has(Caps::OWNER)).count() as u64,
    })
}

/// Reads a network that must be there, for a change of it.
pub(super) fn require(conn: &Connection, signer: &Signer, network: NetworkId) -> Result<Stored> {
    let stored = require_any(conn, signer, network)?;
    if stored.deleted {
        return Err(Refusal::NoNetwork.into());
    }
    Ok(stored)
}

/// The same, deleted or not: its last head is news to whoever holds an older one.
fn require_any(conn: &Connection, signer: &Signer, network: NetworkId) -> Result<Stored> {
    rosters::load(conn, signer, network)?.ok_or(Refusal::NoNetwork.into())
}

pub(super) fn list(conn: &Connection, signer: &Signer) -> Result<Vec<NetworkSummary>> {
    ids(conn)?
        .into_iter()
        .map(|network| summary(conn, signer, network))
        .collect()
}

pub(super) fn ids(conn: &Connection) -> Result<Vec<NetworkId>> {
    let mut statement = conn
        .prepare_cached("SELECT network FROM network WHERE deleted_at IS NULL ORDER BY folded")?;
    let ids = statement.query_map([], |row| rows::id(row, 0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Networks that were deleted.
pub(super) fn ended(conn: &Connection) -> Result<Vec<NetworkId>> {
    let mut statement = conn.prepare_cached(
        "SELECT network FROM network WHERE deleted_at IS NOT NULL ORDER BY deleted_at, network",
    )?;
    let ids = statement.query_map([], |row| rows::id(row, 0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Networks that a node is a member of, or awaits approval in.
pub(super) fn of_node(conn: &Connection, node: NodeId) -> Result<Vec<NetworkId>> {
    let mut statement =
        conn.prepare_cached("SELECT network FROM member WHERE node = $1 ORDER BY network")?;
    let ids = statement.query_map([node.0], |row| rows::id(row, 0))?;
    Ok(ids.collect::<rusqlite::Result<_>>()?)
}

/// Networks that a node is a member of, and nothing less.
pub(super) fn active_of_node(conn: &Connection, node: NodeId) -> Result<Vec<NetworkId>> {
    let mut statement = conn.prepare_cached(
        "SELECT network FROM member WHERE node = $1 AND caps & $2 = 0 ORDER BY network",
    )?;
    let pending = Caps::PENDING.0;
    let ids = statement.query_map(params![node.0, pending], |row| rows::id(row, 0))?;
    let ids: Vec<NetworkId> = ids.collect::<rusqlite::Result<_>>()?;
    let mut active = Vec::with_capacity(ids.len());
    for network in ids {
        if !suspensions::suspended(conn, network)?.contains(&node) {
            active.push(network);
        }
    }
    Ok(active)
}

/// Networks in which a node awaits approval.
pub(super) fn waiting_of_node(conn: &Connection, node: NodeId) -> Result<Vec<Waiting>> {
    let mut statement = conn.prepare_cached(
        "SELECT network, name FROM member JOIN network USING (network)
         WHERE node = $1 AND caps & $2 <> 0 ORDER BY network",
    )?;
    let waiting = statement.query_map(params![node.0, Caps::PENDING.0], |row| {
        Ok(Waiting {
            network: rows::id(row, 0)?,
            name: row.get(1)?,
        })
    })?;
    Ok(waiting.collect::<rusqlite::Result<_>>()?)
}

pub(super) fn roster(
    conn: &Connection,
    signer: &Signer,
    network: NetworkId,
) -> Result<VerifiedRoster> {
    let stored = require_any(conn, signer, network)?;
    let roster = stored.roster();
    roster.verify(stored.head).map_err(StoreError::damaged)
}

pub(super) fn head(
    conn: &Connection,
    signer: &Signer,
    network: NetworkId,
) -> Result<Option<Verified<Head>>> {
    Ok(rosters::load(conn, signer, network)?.map(|stored| stored.head))
}

pub(super) fn public_roster(
    conn: &Connection,
    signer: &Signer,
    network: NetworkId,
) -> Result<PublicRoster> {
    let stored = require_any(conn, signer, network)?;
    let public = |row: &rosters::MemberRow| {
        let public = serde_bytes::ByteBuf::from(row.entry.public.clone());
        (public, row.entry.private_hash())
    };
    Ok(PublicRoster {
        head: stored.head.signed().clone(),
        settings: Settings::leaf(&stored.settings),
        entries: stored.rows.iter().map(public).collect(),
    })
}

pub(super) fn changes_since(
    conn: &Connection,
    signer: &Signer,
    network: NetworkId,
    held: &[Held],
) -> Result<Changes> {
    let stored = require_any(conn, signer, network)?;
    let answers: Vec<Change> = held
        .iter()
        .map(|held| change(conn, &stored, held))
        .collect::<Result<_>>()?;
    let whole = answers.iter().any(|a| matches!(a, Change::Whole));
    let pages = if whole {
        Page::split(network, stored.head.signed(), &stored.roster())
    } else {
        vec![]
    };
    Ok(Changes {
        network,
        head: stored.head.signed().clone(),
        position: stored.head.position(),
        root: stored.head.root,
        issued_at: stored.head.issued_at,
        members: stored.members()?,
        suspended: suspensions::suspended(conn, network)?,
        secret: stored.secret,
        pages,
        answers,
    })
}

/// The way from what somebody holds to what is stored.
fn change(conn: &Connection, stored: &Stored, held: &Held) -> Result<Change> {
    let newest = stored.head.position();
    if held.position > newest {
        return Ok(Change::Ahead);
    }
    if held.position == newest && held.root == stored.head.root {
        return Ok(Change::Current);
    }
    let same_generation = held.position.generation == newest.generation;
    let base = rosters::root_at(conn, stored.network, held.position)?;
    if !same_generation || held.position == newest || base != Some(held.root) {
        return Ok(Change::Whole);
    }
    let since = held.position.epoch;
    let delta = Delta {
        network: stored.network,
        base: held.position,
        base_root: held.root,
        head: stored.head.signed().clone(),
        settings: (stored.settings_at > since).then(|| stored.settings.clone().into()),
        upserts: stored
            .rows
            .iter()
            .filter(|row| row.changed_at > since)
            .map(|row| row.entry.clone())
            .collect(),
        removed: rosters::removed_since(conn, stored.network, since)?,
    };
    if cbor::encode(&delta).len() > MAX_DELTA {
        return Ok(Change::Whole);
    }
    Ok(Change::Delta(Box::new(delta)))
}

pub(super) fn renew(
    tx: &Transaction<'_>,
    signer: &Signer,
    older_than: UnixTime,
    now: UnixTime,
) -> Result<Vec<NetworkId>> {
    let mut renewed = Vec::new();
    for network in ids(tx)? {
        let stored = require(tx, signer, network)?;
        if stored.head.issued_at < older_than {
            rosters::renew(tx, signer, &stored, now)?;
            renewed.push(network);
        }
    }
    Ok(renewed)
}
