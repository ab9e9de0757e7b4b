//! Nodes: their tunnel keys, and what the organisation knows of them.

use kanpachi_common::{
    ClientId, NetworkId, NodeId, TunnelKey, UnixTime,
    addr::ipv6_of,
    cbor::{self, Ext},
    wire::control::{MAX_NETWORKS, Registration},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    addresses, members, networks,
    recovery::{self, Standing},
    rows,
};
use crate::{
    org::Signer,
    store::{LoggedIn, Login, Refusal, Result, StoreError},
};

/// Longest CBOR of a tunnel key in bytes.
const MAX_TUNNEL: usize = 512;
/// Rosters of a stranger that are compared with what is stored.
const MAX_OF_STRANGERS: usize = 16;
/// Client ids that are tried for one node. With a million nodes one try in a thousand meets a taken one.
const MAX_TRIES: u32 = 64;

pub(super) fn login(tx: &Transaction<'_>, signer: &Signer, login: &Login) -> Result<LoggedIn> {
    let known = known_key(tx, login.node)?;
    // A stranger may be somebody who was forgotten; it is heard, and not for long.
    let heard = if known.is_some() {
        MAX_NETWORKS
    } else {
        MAX_OF_STRANGERS
    };
    let (mut ahead, mut agrees) = (Vec::new(), Vec::new());
    for held in login.held.iter().take(heard) {
        match recovery::standing(tx, held.network, held.position, held.root)? {
            Standing::Ahead => ahead.push(held.network),
            Standing::Same => agrees.push(held.network),
            Standing::Behind => {}
        }
    }
    let mut out = LoggedIn {
        registration: None,
        changed: vec![],
        ahead,
        agrees,
        key_waits: false,
    };
    let Some(known) = known else {
        return Ok(out);
    };
    if known.serial < login.tunnel.serial
        && (!login.may_sign || !out.ahead.is_empty() || recovery::is_frozen(tx)?)
    {
        out.key_waits = true;
    } else {
        out.changed = take_key(tx, signer, login.node, &login.tunnel, login.now)?;
    }
    out.registration = Some(registration(tx, signer, login.node)?);
    Ok(out)
}

/// Registers a node, or takes its newer tunnel key into every roster that it is in. A lower serial is refused,
/// and so is another key under the serial that is known.
pub(super) fn take_key(
    tx: &Transaction<'_>,
    signer: &Signer,
    node: NodeId,
    tunnel: &TunnelKey,
    now: UnixTime,
) -> Result<Vec<NetworkId>> {
    let known = known_key(tx, node)?;
    match &known {
        Some(known) if known.serial > tunnel.serial => return Err(Refusal::OldKey.into()),
        Some(known) if known.serial == tunnel.serial => {
            return if known.key == tunnel.key {
                Ok(vec![])
            } else {
                Err(Refusal::OldKey.into())
            };
        }
        _ => {}
    }
    let serial = i64::try_from(tunnel.serial).map_err(|_| Refusal::OldKey)?;
    tx.execute(
        "INSERT INTO node (node, tunnel, serial, registered_at) VALUES ($1, $2, $3, $4)
         ON CONFLICT (node) DO UPDATE SET tunnel = excluded.tunnel, serial = excluded.serial",
        params![node.0, cbor::encode(tunnel), serial, rows::number(now.0)?],
    )?;
    if known.is_none() {
        take_client_id(tx, node)?;
    }
    let networks = networks::of_node(tx, node)?;
    for network in &networks {
        let stored = networks::require(tx, signer, *network)?;
        members::rewrite(tx, signer, &stored, node, now, |private| {
            private.tunnel = *tunnel;
        })?;
    }
    Ok(networks)
}

/// The tunnel key of a registered node.
pub(super) fn known_key(conn: &Connection, node: NodeId) -> Result<Option<TunnelKey>> {
    let tunnel: Option<Vec<u8>> = conn
        .prepare_cached("SELECT tunnel FROM node WHERE node = $1")?
        .query_row([node.0], |row| row.get(0))
        .optional()?;
    tunnel
        .map(|bytes| rows::object(&bytes, MAX_TUNNEL))
        .transpose()
}

/// Gives a node its client id: the first of its sequence that nobody else has. The index decides.
fn take_client_id(tx: &Transaction<'_>, node: NodeId) -> Result<()> {
    let mut take = tx.prepare_cached("UPDATE OR IGNORE node SET client_id = $1 WHERE node = $2")?;
    for tries in 0..MAX_TRIES {
        if take.execute(params![ClientId::of(&node, tries).get(), node.0])? == 1 {
            return Ok(());
        }
    }
    Err(StoreError::Failed("no client id is free".to_owned()))
}

/// Gives a node the client id that a roster says. Whoever else has it gets another.
pub(super) fn set_client_id(tx: &Transaction<'_>, node: NodeId, id: ClientId) -> Result<()> {
    let other: Option<NodeId> = tx
        .query_row(
            "SELECT node FROM node WHERE client_id = $1 AND node <> $2",
            params![id.get(), node.0],
            |row| rows::id(row, 0),
        )
        .optional()?;
    if let Some(other) = other {
        tx.execute(
            "UPDATE node SET client_id = NULL WHERE node = $1",
            [other.0],
        )?;
    }
    tx.execute(
        "UPDATE node SET client_id = $1 WHERE node = $2",
        params![id.get(), node.0],
    )?;
    other.map_or(Ok(()), |other| take_client_id(tx, other))
}

/// Gives every node a client id that came before there were any, in the order in which they came.
pub(super) fn fill_client_ids(tx: &Transaction<'_>) -> Result<()> {
    let mut statement =
        tx.prepare("SELECT node FROM node WHERE client_id IS NULL ORDER BY registered_at, node")?;
    let nodes = statement.query_map([], |row| rows::id(row, 0))?;
    let nodes: Vec<NodeId> = nodes.collect::<rusqlite::Result<_>>()?;
    nodes
        .into_iter()
        .try_for_each(|node| take_client_id(tx, node))
}

fn client_id(conn: &Connection, node: NodeId) -> Result<Option<ClientId>> {
    let id: Option<u32> = conn
        .prepare_cached("SELECT client_id FROM node WHERE node = $1")?
        .query_row([node.0], |row| row.get(0))?;
    Ok(id.and_then(ClientId::new))
}

/// What the entries of a node say about its client id: nothing when it follows from the key.
pub(super) fn client_id_ext(conn: &Connection, node: NodeId) -> Result<Option<Ext>> {
    let id = client_id(conn, node)?;
    Ok(id
        .filter(|id| *id != ClientId::of(&node, 0))
        .map(ClientId::to_ext))
}

/// What the organisation knows of a registered node.
pub(super) fn registration(
    conn: &Connection,
    signer: &Signer,
    node: NodeId,
) -> Result<Registration> {
    Ok(Registration {
        ipv4: addresses::of_node(conn, node)?,
        ipv6: ipv6_of(&signer.org(), &node),
        networks: networks::active_of_node(conn, node)?,
        client_id: client_id(conn, node)?,
        waiting: networks::waiting_of_node(conn, node)?,
    })
}

pub(super) fn find(
    conn: &Connection,
    signer: &Signer,
    node: NodeId,
) -> Result<Option<Registration>> {
    match known_key(conn, node)? {
        Some(_) => registration(conn, signer, node).map(Some),
        None => Ok(None),
    }
}
