//! Members: they join, and change their name.

use kanpachi_common::{
    MacAddr, MemberId, NetworkId, NodeId, UnixTime,
    addr::ipv6_of,
    cbor, client_id, name,
    roster::{Caps, Entry, MAX_MEMBERS, Private, Public},
    wire::control::MAX_NETWORKS,
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    addresses, ends, invites, networks, nodes, owners,
    rosters::{self, Stored},
    rows,
};
use crate::{
    org::Signer,
    store::{
        CreateNetwork, JoinByPassword, JoinNetwork, JoinedNetwork, NamesSet, Newcomer, Refusal,
        Result, SetName, StoreError,
    },
};

pub(super) fn join(
    tx: &Transaction<'_>,
    signer: &Signer,
    join: &JoinNetwork,
) -> Result<JoinedNetwork> {
    let invite = invites::find(tx, &join.token_hash)?;
    let stored = networks::require(tx, signer, invite.network)?;
    if let Some(joined) = joined_before(tx, signer, &stored, join.node)? {
        // The request came twice, or the machine was invited twice. Nothing is used up.
        return Ok(joined);
    }
    ends::check_ban(tx, stored.network, join.node, Some(invite.id))?;
    invite.consume(tx, join.now)?;
    let caps = if invite.founder && !has_owner(tx, stored.network)? {
        // Nobody could unlock the network, nor approve the owner that it needs.
        Caps::OWNER
    } else {
        caps_by_access(&stored)?
    };
    let changed = nodes::take_key(tx, signer, join.node, &join.tunnel, join.now)?;
    let newcomer = Newcomer {
        node: join.node,
        name: join.name.clone(),
        member: join.member,
        salt: join.salt,
    };
    let invite = Some(invite.id);
    let mut joined = admit(tx, signer, &stored, &newcomer, caps, invite, join.now)?;
    joined.changed.splice(0..0, changed);
    Ok(joined)
}

pub(super) fn join_by_password(
    tx: &Transaction<'_>,
    signer: &Signer,
    join: &JoinByPassword,
) -> Result<JoinedNetwork> {
    if !owners::has_password(tx, &join.verified)? {
        // Changed while it was verified.
        return Err(Refusal::WrongPassword.into());
    }
    let stored = networks::require(tx, signer, join.verified.network)?;
    if let Some(joined) = joined_before(tx, signer, &stored, join.newcomer.node)? {
        return Ok(joined);
    }
    ends::check_ban(tx, stored.network, join.newcomer.node, None)?;
    let caps = caps_by_access(&stored)?;
    admit(tx, signer, &stored, &join.newcomer, caps, None, join.now)
}

pub(super) fn create_network(
    tx: &Transaction<'_>,
    signer: &Signer,
    create: &CreateNetwork,
) -> Result<JoinedNetwork> {
    let (new, owner) = (&create.new, &create.owner);
    if let Some(stored) = rosters::load(tx, signer, new.network)? {
        let same = !stored.deleted && name::fold(&stored.name) == name::fold(&new.name);
        let joined = joined_before(tx, signer, &stored, owner.node)?.filter(|_| same);
        return joined.ok_or(Refusal::NetworkExists.into());
    }
    networks::create(tx, signer, new)?;
    owners::write_password(tx, new.network, create.password.as_ref())?;
    let stored = networks::require(tx, signer, new.network)?;
    admit(tx, signer, &stored, owner, Caps::OWNER, None, new.now)
}

/// The membership that a node has already.
fn joined_before(
    conn: &Connection,
    signer: &Signer,
    stored: &Stored,
    node: NodeId,
) -> Result<Option<JoinedNetwork>> {
    let Some(name) = name_of(conn, stored.network, node)? else {
        return Ok(None);
    };
    let registration = nodes::registration(conn, signer, node)?;
    Ok(Some(JoinedNetwork {
        network: stored.network,
        network_name: stored.name.clone(),
        name,
        waiting: !registration.networks.contains(&stored.network),
        registration,
        changed: vec![],
    }))
}

/// What whoever joins now may do, if anybody may join.
fn caps_by_access(stored: &Stored) -> Result<Caps> {
    let access = owners::settings_of(stored)?.access();
    if access.locked {
        Err(Refusal::Locked.into())
    } else if access.approval {
        Ok(Caps::PENDING)
    } else {
        Ok(Caps::default())
    }
}

/// Makes a registered node a member and carries the roster to its next epoch.
fn admit(
    tx: &Transaction<'_>,
    signer: &Signer,
    stored: &Stored,
    new: &Newcomer,
    caps: Caps,
    came_by: Option<i64>,
    now: UnixTime,
) -> Result<JoinedNetwork> {
    let (network, node) = (stored.network, new.node);
    if stored.rows.len() >= MAX_MEMBERS {
        return Err(Refusal::NetworkFull.into());
    }
    if networks::of_node(tx, node)?.len() >= MAX_NETWORKS {
        return Err(Refusal::TooManyNetworks.into());
    }
    let tunnel = nodes::known_key(tx, node)?.ok_or(Refusal::NotRegistered)?;
    let ipv4 = addresses::allocate(tx, signer.pool(), node, now)?;
    let name = free_name(tx, network, &new.name, node)?;
    let public = Public {
        member: new.member,
        node,
        caps,
    };
    let private = Private {
        tunnel,
        ipv4: Some(ipv4),
        ipv6: ipv6_of(&signer.org(), &node),
        mac: MacAddr::of(&node),
        name: name.clone(),
        prefixes: vec![],
        ext: nodes::client_id_ext(tx, node)?.into_iter().collect(),
    };
    let entry = Entry::new(&public, &private, new.salt);
    insert(tx, stored, &public, &name, &entry, came_by, now)?;
    rosters::advance(tx, signer, stored, &stored.secret, now)?;
    Ok(JoinedNetwork {
        network,
        network_name: stored.name.clone(),
        name,
        registration: nodes::registration(tx, signer, node)?,
        changed: vec![network],
        waiting: caps.has(Caps::PENDING),
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
    private.ext.retain(|ext| ext.id != client_id::EXT);
    private.ext.extend(nodes::client_id_ext(tx, node)?);
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

/// Is there an owner?
pub(super) fn has_owner(conn: &Connection, network: NetworkId) -> Result<bool> {
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
        None => networks::active_of_node(tx, set.node)?,
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

/// A member by its id.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) node: NodeId,
    pub(super) caps: Caps,
}

pub(super) fn find(
    conn: &Connection,
    network: NetworkId,
    member: MemberId,
) -> Result<Option<Found>> {
    Ok(conn
        .query_row(
            "SELECT node, caps FROM member WHERE network = $1 AND member = $2",
            [network.0, member.0],
            |row| {
                Ok(Found {
                    node: rows::id(row, 0)?,
                    caps: Caps(row.get(1)?),
                })
            },
        )
        .optional()?)
}

/// The membership of a node, whatever it may do.
pub(super) fn of_node(
    conn: &Connection,
    network: NetworkId,
    node: NodeId,
) -> Result<Option<MemberId>> {
    Ok(conn
        .query_row(
            "SELECT member FROM member WHERE network = $1 AND node = $2",
            [network.0, node.0],
            |row| rows::id(row, 0),
        )
        .optional()?)
}
