//! Nodes: their tunnel keys, and what the organisation knows of them.

use kanpachi_common::{
    NetworkId, NodeId, TunnelKey, UnixTime, addr::ipv6_of, cbor, wire::control::Registration,
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{addresses, members, networks, rows};
use crate::{
    org::Signer,
    store::{LoggedIn, Login, Refusal, Result},
};

/// Longest CBOR of a tunnel key in bytes.
const MAX_TUNNEL: usize = 512;

pub(super) fn login(tx: &Transaction<'_>, signer: &Signer, login: &Login) -> Result<LoggedIn> {
    if known_key(tx, login.node)?.is_none() {
        return Ok(LoggedIn {
            registration: None,
            changed: vec![],
        });
    }
    let changed = take_key(tx, signer, login.node, &login.tunnel, login.now)?;
    Ok(LoggedIn {
        registration: Some(registration(tx, signer, login.node)?),
        changed,
    })
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
    match known {
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
    let networks = networks::of_node(tx, node)?;
    for network in &networks {
        let stored = networks::require(tx, signer, *network)?;
        members::rewrite(tx, signer, &stored, node, now, |private| {
            private.tunnel = *tunnel;
        })?;
    }
    Ok(networks)
}

fn known_key(conn: &Connection, node: NodeId) -> Result<Option<TunnelKey>> {
    let tunnel: Option<Vec<u8>> = conn
        .prepare_cached("SELECT tunnel FROM node WHERE node = $1")?
        .query_row([node.0], |row| row.get(0))
        .optional()?;
    tunnel
        .map(|bytes| rows::object(&bytes, MAX_TUNNEL))
        .transpose()
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
        networks: networks::of_node(conn, node)?,
        client_id: None,
        waiting: vec![],
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
