//! Takes a roster that a member showed into the tables, in place of what was there of its network.

use std::net::Ipv4Addr;

use kanpachi_common::{
    MemberId, NetworkId, NodeId, UnixTime, cbor, name,
    roster::{Entry, Head, Member, Settings, VerifiedRoster},
    secret::NetworkSecret,
};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{addresses, ends, nodes, rosters, rows};
use crate::{
    org::Signer,
    store::{Result, StoreError},
};

/// Writes everything, in the transaction of the caller.
pub(super) fn write(
    tx: &Transaction<'_>,
    signer: &Signer,
    roster: &VerifiedRoster,
    secret: &NetworkSecret,
    now: UnixTime,
) -> Result<()> {
    if !roster.unusable().is_empty() {
        // This program signs none such; whatever did is not to be built upon.
        return Err(StoreError::Failed(
            "a roster that was shown has an entry that cannot be used".to_owned(),
        ));
    }
    let head = roster.head();
    let network = head.network;
    write_network(tx, roster, secret, now)?;
    write_head(tx, head)?;
    let before = take_members_out(tx, network)?;
    for member in roster.members() {
        register(tx, member, now)?;
    }
    take_addresses(tx, roster, now)?;
    for entry in &roster.body().entries {
        let member = entry.open(&head.org).map_err(StoreError::damaged)?;
        insert_member(tx, network, head.epoch, &member, entry, now)?;
    }
    for (member, node) in before {
        // Gone by eviction or otherwise: nobody can tell, so it comes back by a new invite only.
        if roster.member(&node).is_none() {
            bury(tx, network, member, node, head.epoch)?;
            ends::ban(tx, network, node, now)?;
            ends::release(tx, node, now)?;
        }
    }
    // Read back as everything is, or not written at all.
    match rosters::load(tx, signer, network)? {
        Some(stored) if stored.head.root == head.root => Ok(()),
        _ => Err(StoreError::damaged(
            "a roster that was taken over is not what was shown",
        )),
    }
}

fn write_network(
    tx: &Transaction<'_>,
    roster: &VerifiedRoster,
    secret: &NetworkSecret,
    now: UnixTime,
) -> Result<()> {
    let (head, settings) = (roster.head(), roster.settings());
    let network = head.network;
    let lifetime = |until: UnixTime| until.0.saturating_sub(head.issued_at.0);
    let hard = head.hard_expires_at.map(lifetime).map(rows::number);
    // The password may be one that was changed since; an owner sets it again.
    tx.execute(
        "INSERT INTO network (network, folded, name, settings, settings_at, secret_id, soft_seconds, hard_seconds, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (network) DO UPDATE SET folded = excluded.folded, name = excluded.name, settings = excluded.settings,
             settings_at = excluded.settings_at, secret_id = excluded.secret_id, soft_seconds = excluded.soft_seconds,
             hard_seconds = excluded.hard_seconds, password = NULL, deleted_at = NULL, deleted_by = NULL",
        params![
            network.0,
            free_folded(tx, network, settings)?,
            settings.name,
            roster.body().settings,
            rows::number(head.epoch)?,
            secret.id,
            rows::number(lifetime(head.soft_expires_at))?,
            hard.transpose()?,
            rows::number(now.0)?
        ],
    )?;
    tx.execute(
        "INSERT INTO secret (network, secret_id, bytes, created_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (network, secret_id) DO UPDATE SET bytes = excluded.bytes",
        params![network.0, secret.id, secret.expose(), rows::number(now.0)?],
    )?;
    Ok(())
}

/// The name that the network is found by: its own, unless another network took that since.
fn free_folded(tx: &Transaction<'_>, network: NetworkId, settings: &Settings) -> Result<String> {
    let variants = (2..).map(|n| name::variant(&settings.name, n));
    for candidate in std::iter::once(settings.name.clone()).chain(variants) {
        let folded = name::fold(&candidate);
        let taken: bool = tx.query_row(
            "SELECT EXISTS (SELECT 1 FROM network WHERE folded = $1 AND network <> $2)",
            params![folded, network.0],
            |row| row.get(0),
        )?;
        if !taken {
            return Ok(folded);
        }
    }
    Err(StoreError::Failed(
        "no variant of the name is free".to_owned(),
    ))
}

/// The shown head in place of all that were signed here: what others hold is compared with nothing older any more.
fn write_head(tx: &Transaction<'_>, head: &kanpachi_common::Verified<Head>) -> Result<()> {
    let (network, epoch) = (head.network, rows::number(head.epoch)?);
    let generation = rows::number(head.generation)?;
    tx.execute(
        "INSERT INTO abandoned (network, generation, epoch, root)
         SELECT network, generation, epoch, root FROM head
         WHERE network = $1 AND (generation, epoch) >= ($2, $3) AND true
         ON CONFLICT DO NOTHING",
        params![network.0, generation, epoch],
    )?;
    // Nothing is signed again that was signed here, whichever of the two is the higher.
    tx.execute(
        "UPDATE network SET epoch_floor = max(epoch_floor, $2,
             (SELECT coalesce(max(epoch), 0) FROM head WHERE network = $1)) WHERE network = $1",
        params![network.0, epoch],
    )?;
    tx.execute("DELETE FROM head WHERE network = $1", [network.0])?;
    tx.execute(
        "INSERT INTO head (network, generation, epoch, root, issued_at, signed) VALUES ($1, $2, $3, $4, $5, $6)",
        params![
            network.0,
            generation,
            epoch,
            head.root.0,
            rows::number(head.issued_at.0)?,
            cbor::encode(head.signed())
        ],
    )?;
    Ok(())
}

/// Who was in, before.
fn take_members_out(tx: &Transaction<'_>, network: NetworkId) -> Result<Vec<(MemberId, NodeId)>> {
    let mut statement = tx.prepare_cached("SELECT member, node FROM member WHERE network = $1")?;
    let before = statement.query_map([network.0], |row| {
        Ok((rows::id(row, 0)?, rows::id(row, 1)?))
    })?;
    let before = before.collect::<rusqlite::Result<_>>()?;
    tx.execute("DELETE FROM member WHERE network = $1", [network.0])?;
    Ok(before)
}

/// The node of an entry is registered, with the newer of the two tunnel keys and the client id of the entry.
fn register(tx: &Transaction<'_>, member: &Member, now: UnixTime) -> Result<()> {
    let serial = i64::try_from(member.tunnel.serial)
        .map_err(|_| StoreError::Failed("a tunnel key has a serial out of range".to_owned()))?;
    tx.execute(
        "INSERT INTO node (node, tunnel, serial, registered_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (node) DO UPDATE SET tunnel = excluded.tunnel, serial = excluded.serial
         WHERE excluded.serial > node.serial",
        params![
            member.node.0,
            cbor::encode(&member.tunnel),
            serial,
            rows::number(now.0)?
        ],
    )?;
    nodes::set_client_id(tx, member.node, member.client_id)
}

/// Addresses are as the roster says. Whoever else had one loses it and is remembered.
fn take_addresses(tx: &Transaction<'_>, roster: &VerifiedRoster, now: UnixTime) -> Result<()> {
    let with_address = || roster.members().filter_map(|m| Some((m.node, m.ipv4?)));
    for (node, ipv4) in with_address() {
        if addresses::of_node(tx, node)?.is_some_and(|has| has != ipv4) {
            addresses::free(tx, node, now)?;
        }
    }
    for (node, ipv4) in with_address() {
        take_address(tx, node, ipv4)?;
    }
    Ok(())
}

fn take_address(tx: &Transaction<'_>, node: NodeId, ipv4: Ipv4Addr) -> Result<()> {
    let other: Option<NodeId> = tx
        .query_row(
            "SELECT node FROM address WHERE ipv4 = $1 AND node IS NOT NULL AND node <> $2",
            params![ipv4.to_bits(), node.0],
            |row| rows::id(row, 0),
        )
        .optional()?;
    if let Some(other) = other {
        tx.execute(
            "INSERT INTO displaced (node, ipv4) VALUES ($1, $2) ON CONFLICT (node) DO NOTHING",
            params![other.0, ipv4.to_bits()],
        )?;
    }
    tx.execute(
        "INSERT INTO address (ipv4, node, last_node) VALUES ($1, $2, $2)
         ON CONFLICT (ipv4) DO UPDATE SET node = excluded.node, last_node = excluded.last_node, freed_at = NULL",
        params![ipv4.to_bits(), node.0],
    )?;
    tx.execute("DELETE FROM displaced WHERE node = $1", [node.0])?;
    Ok(())
}

fn insert_member(
    tx: &Transaction<'_>,
    network: NetworkId,
    epoch: u64,
    member: &Member,
    entry: &Entry,
    now: UnixTime,
) -> Result<()> {
    tx.execute("DELETE FROM removed WHERE member = $1", [member.member.0])?;
    tx.execute(
        "DELETE FROM ban WHERE network = $1 AND node = $2",
        params![network.0, member.node.0],
    )?;
    tx.execute(
        "INSERT INTO member (member, network, node, folded, caps, public, salt, private, changed_at, joined_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        params![
            member.member.0,
            network.0,
            member.node.0,
            name::fold(&member.name),
            member.caps.0,
            entry.public,
            entry.salt,
            entry.private,
            rows::number(epoch)?,
            rows::number(now.0)?
        ],
    )?;
    Ok(())
}

fn bury(
    tx: &Transaction<'_>,
    network: NetworkId,
    member: MemberId,
    node: NodeId,
    epoch: u64,
) -> Result<()> {
    tx.execute(
        "INSERT INTO removed (member, network, node, removed_at) VALUES ($1, $2, $3, $4) ON CONFLICT (member) DO NOTHING",
        params![member.0, network.0, node.0, rows::number(epoch)?],
    )?;
    Ok(())
}
