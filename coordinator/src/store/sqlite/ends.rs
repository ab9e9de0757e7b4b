//! Endings: members are removed, leave or are evicted; networks are deleted.

use kanpachi_common::{MemberId, NetworkId, NodeId, UnixTime, roster::Caps, secret::NetworkSecret};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    addresses, invites, members, networks, owners,
    rosters::{self, Stored},
    rows,
};
use crate::{
    org::Signer,
    store::{DeleteNetwork, Evict, Evicted, Leave, Refusal, RemoveMember, Result, StoreError},
};

pub(super) fn remove(tx: &Transaction<'_>, signer: &Signer, remove: &RemoveMember) -> Result<()> {
    let network = remove.network;
    let stored = networks::require(tx, signer, network)?;
    if let Some(by) = remove.by
        && by != remove.node
    {
        members::require_caps(tx, network, by, Caps::OWNER)?;
    }
    let member = members::of_node(tx, network, remove.node)?.ok_or(Refusal::NoNetwork)?;
    invites::revoke_of(tx, network, remove.node, remove.now)?;
    take_out(tx, &stored, member, remove.node)?;
    let secret = next_secret(tx, &stored, remove.secret, remove.now)?;
    rosters::advance(tx, signer, &stored, &secret, remove.now)?;
    release(tx, remove.node, remove.now)
}

pub(super) fn evict(tx: &Transaction<'_>, signer: &Signer, evict: &Evict) -> Result<Evicted> {
    let network = evict.network;
    members::require_caps(tx, network, evict.by, Caps::OWNER)?;
    let stored = networks::require(tx, signer, network)?;
    let mut evicted = Evicted {
        changed: vec![],
        revoked_invites: 0,
        password_known: evict.password.is_none() && has_password(tx, network)?,
    };
    if evict.password.is_some() {
        owners::write_password(tx, network, evict.password.as_ref())?;
    }
    let Some(found) = members::find(tx, network, evict.member)? else {
        // Gone before: the request came twice, or the member was faster. It stays out all the same.
        let node = removed(tx, network, evict.member)?.ok_or(Refusal::NoMember)?;
        if members::of_node(tx, network, node)?.is_none() {
            ban(tx, network, node, evict.now)?;
        }
        return Ok(evicted);
    };
    evicted.revoked_invites = invites::revoke_of(tx, network, found.node, evict.now)?;
    take_out(tx, &stored, evict.member, found.node)?;
    if !members::has_owner(tx, network)? {
        return Err(Refusal::LastOwner.into());
    }
    ban(tx, network, found.node, evict.now)?;
    let secret = next_secret(tx, &stored, evict.secret, evict.now)?;
    rosters::advance(tx, signer, &stored, &secret, evict.now)?;
    release(tx, found.node, evict.now)?;
    evicted.changed.push(network);
    Ok(evicted)
}

pub(super) fn leave(
    tx: &Transaction<'_>,
    signer: &Signer,
    leave: &Leave,
) -> Result<Vec<NetworkId>> {
    let (network, node) = (leave.network, leave.node);
    let Some(member) = members::of_node(tx, network, node)? else {
        // Left before: the request came twice.
        return match was_member(tx, network, node)? {
            true => Ok(vec![]),
            false => Err(Refusal::NoNetwork.into()),
        };
    };
    let stored = networks::require(tx, signer, network)?;
    let own = members::find(tx, network, member)?.ok_or(Refusal::NoMember)?;
    if own.caps.has(Caps::PENDING) {
        take_out(tx, &stored, member, node)?;
        rosters::advance(tx, signer, &stored, &stored.secret, leave.now)?;
        release(tx, node, leave.now)?;
        return Ok(vec![network]);
    }
    if own.caps.has(Caps::OWNER) && stored.rows.len() == 1 {
        return end(tx, signer, stored, node, leave.now);
    }
    if let Some(heir) = leave.heir.filter(|heir| *heir != member) {
        members::require_caps(tx, network, node, Caps::OWNER)?;
        let found = members::find(tx, network, heir)?.ok_or(Refusal::NoMember)?;
        if found.caps.has(Caps::PENDING) {
            return Err(Refusal::NoMember.into());
        }
        owners::write_caps(tx, &stored, heir, found.caps.with(Caps::OWNER))?;
    }
    // What it gave others goes with it; an invite that it came by may be theirs as well.
    invites::revoke_made_by(tx, network, member, leave.now)?;
    take_out(tx, &stored, member, node)?;
    if own.caps.has(Caps::OWNER) && !members::has_owner(tx, network)? {
        return Err(Refusal::LastOwner.into());
    }
    let secret = next_secret(tx, &stored, leave.secret, leave.now)?;
    rosters::advance(tx, signer, &stored, &secret, leave.now)?;
    release(tx, node, leave.now)?;
    Ok(vec![network])
}

pub(super) fn delete(
    tx: &Transaction<'_>,
    signer: &Signer,
    delete: &DeleteNetwork,
) -> Result<Vec<NetworkId>> {
    let by: Option<NodeId> = tx
        .query_row(
            "SELECT deleted_by FROM network WHERE network = $1 AND deleted_by IS NOT NULL",
            [delete.network.0],
            |row| rows::id(row, 0),
        )
        .optional()?;
    if by == Some(delete.by) {
        // The request came twice.
        return Ok(vec![]);
    }
    members::require_caps(tx, delete.network, delete.by, Caps::OWNER)?;
    let stored = networks::require(tx, signer, delete.network)?;
    end(tx, signer, stored, delete.by, delete.now)
}

/// Ends a network: its last head has no members, so that whoever holds an older one learns of it.
fn end(
    tx: &Transaction<'_>,
    signer: &Signer,
    stored: Stored,
    by: NodeId,
    now: UnixTime,
) -> Result<Vec<NetworkId>> {
    let network = stored.network;
    let members = stored.members()?;
    invites::revoke_all(tx, network, now)?;
    for member in &members {
        take_out(tx, &stored, member.member, member.node)?;
    }
    rosters::advance(tx, signer, &stored, &stored.secret, now)?;
    for member in &members {
        release(tx, member.node, now)?;
    }
    // A colon is in no name.
    tx.execute(
        "UPDATE network SET folded = 'deleted:' || hex(network), password = NULL, deleted_at = $1, deleted_by = $2
         WHERE network = $3",
        params![rows::number(now.0)?, by.0, network.0],
    )?;
    Ok(vec![network])
}

/// Takes a member out of the tables, as of the next epoch.
pub(super) fn take_out(
    tx: &Transaction<'_>,
    stored: &Stored,
    member: MemberId,
    node: NodeId,
) -> Result<()> {
    tx.execute("DELETE FROM member WHERE member = $1", [member.0])?;
    tx.execute(
        "INSERT INTO removed (member, network, node, removed_at) VALUES ($1, $2, $3, $4)",
        params![
            member.0,
            stored.network.0,
            node.0,
            rows::number(stored.next_epoch()?)?
        ],
    )?;
    Ok(())
}

/// Sets the address of a node to rest that is in no network any more.
pub(super) fn release(tx: &Transaction<'_>, node: NodeId, now: UnixTime) -> Result<()> {
    if networks::of_node(tx, node)?.is_empty() {
        addresses::free(tx, node, now)?;
    }
    Ok(())
}

fn next_secret(
    tx: &Transaction<'_>,
    stored: &Stored,
    bytes: [u8; 32],
    now: UnixTime,
) -> Result<NetworkSecret> {
    let id = stored
        .secret
        .id
        .checked_add(1)
        .ok_or_else(|| StoreError::Failed("the secrets of a network are used up".to_owned()))?;
    let secret = NetworkSecret::new(id, bytes);
    networks::insert_secret(tx, stored.network, &secret, now)?;
    tx.execute(
        "UPDATE network SET secret_id = $1 WHERE network = $2",
        params![id, stored.network.0],
    )?;
    Ok(secret)
}

fn has_password(conn: &Connection, network: NetworkId) -> Result<bool> {
    Ok(conn.query_row(
        "SELECT password IS NOT NULL FROM network WHERE network = $1",
        [network.0],
        |row| row.get(0),
    )?)
}

/// The node of a membership that has ended.
pub(super) fn removed(
    conn: &Connection,
    network: NetworkId,
    member: MemberId,
) -> Result<Option<NodeId>> {
    Ok(conn
        .query_row(
            "SELECT node FROM removed WHERE network = $1 AND member = $2",
            [network.0, member.0],
            |row| rows::id(row, 0),
        )
        .optional()?)
}

fn was_member(conn: &Connection, network: NetworkId, node: NodeId) -> Result<bool> {
    Ok(conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM removed WHERE network = $1 AND node = $2)",
        [network.0, node.0],
        |row| row.get(0),
    )?)
}

/// Keeps a node out: by password for good, by invites up to the newest of now. A ban that stands is left as it is, or a
/// request that came twice would take back an invite that was meant to lift it.
pub(super) fn ban(
    tx: &Transaction<'_>,
    network: NetworkId,
    node: NodeId,
    now: UnixTime,
) -> Result<()> {
    tx.execute(
        "INSERT INTO ban (network, node, last_invite, banned_at)
         VALUES ($1, $2, (SELECT coalesce(max(invite), 0) FROM invite), $3) ON CONFLICT (network, node) DO NOTHING",
        params![network.0, node.0, rows::number(now.0)?],
    )?;
    Ok(())
}

/// Refuses whoever is kept out; an invite that was made after the eviction lifts the ban.
pub(super) fn check_ban(
    tx: &Transaction<'_>,
    network: NetworkId,
    node: NodeId,
    invite: Option<i64>,
) -> Result<()> {
    let last: Option<i64> = tx
        .query_row(
            "SELECT last_invite FROM ban WHERE network = $1 AND node = $2",
            [network.0, node.0],
            |row| row.get(0),
        )
        .optional()?;
    match (last, invite) {
        (None, _) => Ok(()),
        (Some(last), Some(invite)) if invite > last => {
            tx.execute(
                "DELETE FROM ban WHERE network = $1 AND node = $2",
                [network.0, node.0],
            )?;
            Ok(())
        }
        (Some(_), _) => Err(Refusal::Evicted.into()),
    }
}
