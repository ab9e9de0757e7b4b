//! Members: they join, change their name, leave.

use kanpachi_common::{
    MacAddr, MemberId, NetworkId, NodeId, UnixTime,
    addr::ipv6_of,
    cbor, name,
    roster::{Caps, Entry, MAX_MEMBERS, Private, Public},
    secret::NetworkSecret,
    wire::control::MAX_NETWORKS,
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{addresses, invites, networks, nodes, rosters, rosters::Stored, rows};
use crate::{
    org::Signer,
    store::{
        JoinNetwork, JoinedNetwork, NamesSet, Refusal, RemoveMember, Result, SetName, StoreError,
    },
};

pub(super) fn join(
    tx: &Transaction<'_>,
    signer: &Signer,
    join: &JoinNetwork,
) -> Result<JoinedNetwork> {
    let invite = invites::find(tx, &join.token_hash)?;
    let stored = networks::require(tx, signer, invite.network)?;
    let network = stored.network;
    if let Some(name) = name_of(tx, network, join.node)? {
        // A member already: the request came twice, or the machine was invited twice. Nothing is used up.
        return Ok(JoinedNetwork {
            network,
            network_name: stored.name,
            name,
            registration: nodes::registration(tx, signer, join.node)?,
            changed: vec![],
        });
    }
    invite.consume(tx, join.now)?;
    if stored.rows.len() >= MAX_MEMBERS {
        return Err(Refusal::NetworkFull.into());
    }
    if networks::of_node(tx, join.node)?.len() >= MAX_NETWORKS {
        return Err(Refusal::TooManyNetworks.into());
    }
    let mut changed = nodes::take_key(tx, signer, join.node, &join.tunnel, join.now)?;
    let ipv4 = addresses::allocate(tx, signer.pool(), join.node, join.now)?;
    let name = free_name(tx, network, &join.name, join.node)?;
    let caps = if invite.founder && !has_owner(tx, network)? {
        Caps::OWNER
    } else {
        Caps::default()
    };
    let public = Public {
        member: join.member,
        node: join.node,
        caps,
    };
    let private = Private {
        tunnel: join.tunnel,
        ipv4: Some(ipv4),
        ipv6: ipv6_of(&signer.org(), &join.node),
        mac: MacAddr::of(&join.node),
        name: name.clone(),
        prefixes: vec![],
        ext: vec![],
    };
    let entry = Entry::new(&public, &private, join.salt);
    insert(
        tx,
        &stored,
        &public,
        &name,
        &entry,
        Some(invite.id),
        join.now,
    )?;
    rosters::advance(tx, signer, &stored, &stored.secret, join.now)?;
    changed.push(network);
    Ok(JoinedNetwork {
        network,
        network_name: stored.name,
        name,
        registration: nodes::registration(tx, signer, join.node)?,
        changed,
    })
}

fn insert(
    tx: &Transaction<'_>,
    stored: &Stored,
    public: &Public,
    name: &str,
    entry: &Entry,
    came_by: Option<i64>,
    now: UnixTime,
) -> Result<()> {
    let returns: bool = tx.query_row(
        "SELECT EXISTS (SELECT 1 FROM removed WHERE member = $1)",
        [public.member.0],
        |row| row.get(0),
    )?;
    if returns {
        return Err(StoreError::Failed("a member id came twice".to_owned()));
    }
    tx.prepare_cached(
        "INSERT INTO member (member, network, node, folded, caps, public, salt, private, changed_at, came_by, joined_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
    )?
    .execute(params![
        public.member.0,
        stored.network.0,
        public.node.0,
        name::fold(name),
        public.caps.0,
        entry.public,
        entry.salt,
        entry.private,
        rows::number(stored.next_epoch()?)?,
        came_by,
        rows::number(now.0)?
    ])?;
    Ok(())
}

/// Changes the private half of a node's entry and carries the roster to its next epoch.
pub(super) fn rewrite(
    tx: &Transaction<'_>,
    signer: &Signer,
    stored: &Stored,
    node: NodeId,
    now: UnixTime,
    change: impl FnOnce(&mut Private),
) -> Result<()> {
    let mut private = private_of(tx, stored.network, node)?.ok_or(Refusal::NoNetwork)?;
    change(&mut private);
    tx.execute(
        "UPDATE member SET private = $1, folded = $2, changed_at = $3 WHERE network = $4 AND node = $5",
        params![
            cbor::encode(&private),
            name::fold(&private.name),
            rows::number(stored.next_epoch()?)?,
            stored.network.0,
            node.0
        ],
    )?;
    rosters::advance(tx, signer, stored, &stored.secret, now)?;
    Ok(())
}

fn private_of(conn: &Connection, network: NetworkId, node: NodeId) -> Result<Option<Private>> {
    let bytes: Option<Vec<u8>> = conn
        .prepare_cached("SELECT private FROM member WHERE network = $1 AND node = $2")?
        .query_row([network.0, node.0], |row| row.get(0))
        .optional()?;
    bytes
        .map(|bytes| rows::object(&bytes, Private::MAX_LEN))
        .transpose()
}

fn name_of(conn: &Connection, network: NetworkId, node: NodeId) -> Result<Option<String>> {
    Ok(private_of(conn, network, node)?.map(|private| private.name))
}

/// The name, or its first variant (`lamp-2`, `lamp-3`, …) that nobody else in the network has.
fn free_name(conn: &Connection, network: NetworkId, wanted: &str, node: NodeId) -> Result<String> {
    let mut taken = conn.prepare_cached(
        "SELECT EXISTS (SELECT 1 FROM member WHERE network = $1 AND folded = $2 AND node <> $3)",
    )?;
    let variants = (2..).map(|n| name::variant(wanted, n));
    for candidate in std::iter::once(wanted.to_owned()).chain(variants) {
        let taken: bool = taken
            .query_row(params![network.0, name::fold(&candidate), node.0], |row| {
                row.get(0)
            })?;
        if !taken {
            return Ok(candidate);
        }
    }
    // A network has fewer members than there are variants.
    Err(StoreError::Failed(
        "no variant of the name is free".to_owned(),
    ))
}

fn has_owner(conn: &Connection, network: NetworkId) -> Result<bool> {
    Ok(conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM member WHERE network = $1 AND caps & $2 <> 0)",
        params![network.0, Caps::OWNER.0],
        |row| row.get(0),
    )?)
}

/// The membership of a node, if it has these capabilities. To a stranger the network does not exist.
pub(super) fn require_caps(
    conn: &Connection,
    network: NetworkId,
    node: NodeId,
    caps: Caps,
) -> Result<MemberId> {
    let found = conn
        .query_row(
            "SELECT member, caps FROM member WHERE network = $1 AND node = $2",
            [network.0, node.0],
            |row| Ok((rows::id(row, 0)?, Caps(row.get(1)?))),
        )
        .optional()?;
    match found {
        None => Err(Refusal::NoNetwork.into()),
        Some((member, has)) if has.has(caps) && !has.has(Caps::PENDING) => Ok(member),
        Some(_) => Err(Refusal::NotAllowed.into()),
    }
}

pub(super) fn set_name(tx: &Transaction<'_>, signer: &Signer, set: &SetName) -> Result<NamesSet> {
    let networks = match set.network {
        Some(network) => vec![network],
        None => networks::of_node(tx, set.node)?,
    };
    let (mut names, mut changed) = (Vec::new(), Vec::new());
    for network in networks {
        let old = name_of(tx, network, set.node)?.ok_or(Refusal::NoNetwork)?;
        let name = free_name(tx, network, &set.name, set.node)?;
        if name != old {
            let stored = networks::require(tx, signer, network)?;
            rewrite(tx, signer, &stored, set.node, set.now, |private| {
                private.name.clone_from(&name);
            })?;
            changed.push(network);
        }
        names.push((network, name));
    }
    Ok(NamesSet { names, changed })
}

pub(super) fn remove(tx: &Transaction<'_>, signer: &Signer, remove: &RemoveMember) -> Result<()> {
    let network = remove.network;
    let stored = networks::require(tx, signer, network)?;
    if let Some(by) = remove.by
        && by != remove.node
    {
        require_caps(tx, network, by, Caps::OWNER)?;
    }
    let member = require_caps(tx, network, remove.node, Caps::default());
    let member = match member {
        // Whoever awaits approval can be removed as well.
        Err(StoreError::Refused(Refusal::NotAllowed)) => member_id(tx, network, remove.node)?,
        other => other?,
    };
    invites::revoke_of(tx, network, remove.node, remove.now)?;
    tx.execute("DELETE FROM member WHERE member = $1", [member.0])?;
    tx.execute(
        "INSERT INTO removed (member, network, node, removed_at) VALUES ($1, $2, $3, $4)",
        params![
            member.0,
            network.0,
            remove.node.0,
            rows::number(stored.next_epoch()?)?
        ],
    )?;
    let id = stored
        .secret
        .id
        .checked_add(1)
        .ok_or_else(|| StoreError::Failed("the secrets of a network are used up".to_owned()))?;
    let secret = NetworkSecret::new(id, remove.secret);
    networks::insert_secret(tx, network, &secret, remove.now)?;
    tx.execute(
        "UPDATE network SET secret_id = $1 WHERE network = $2",
        params![id, network.0],
    )?;
    rosters::advance(tx, signer, &stored, &secret, remove.now)?;
    if networks::of_node(tx, remove.node)?.is_empty() {
        addresses::free(tx, remove.node, remove.now)?;
    }
    Ok(())
}

fn member_id(conn: &Connection, network: NetworkId, node: NodeId) -> Result<MemberId> {
    Ok(conn.query_row(
        "SELECT member FROM member WHERE network = $1 AND node = $2",
        [network.0, node.0],
        |row| rows::id(row, 0),
    )?)
}
