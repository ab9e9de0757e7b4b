//! Recovery: a database out of an old backup takes over what its members prove, and goes on above it.
//!
//! What a member shows was signed by this organisation's own key, so it is true; what the database holds is only older.
//! Which invites were used and which passwords were changed since the backup, nobody can show: they end.

use std::net::Ipv4Addr;

use kanpachi_common::{NetworkId, NodeId, UnixTime, id::Hash, roster::Position};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{addresses, members, networks, organisation, rosters, rows, suspensions, takeover};
use crate::{
    org::Signer,
    store::{
        Adopt, Adopted, EndRecovery, JUMP, Recovered, Recovery, Refusal, Result, Seen,
        ShownNetwork, StoreError,
    },
};

/// Stands for mirrors where a node stands otherwise.
const MIRROR: &[u8] = &[];

/// How something that was shown stands to what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// The same roster.
    Same,
    /// Older, or abandoned.
    Behind,
    /// Newer, or something that this database has never signed.
    Ahead,
}

/// Is the store in recovery?
pub(super) fn is_frozen(conn: &Connection) -> Result<bool> {
    Ok(conn
        .prepare_cached("SELECT EXISTS (SELECT 1 FROM recovery)")?
        .query_row([], |row| row.get(0))?)
}

/// Refuses while the store is in recovery: before anything is signed or given out.
pub(super) fn check(conn: &Connection) -> Result<()> {
    if is_frozen(conn)? {
        Err(Refusal::Recovery.into())
    } else {
        Ok(())
    }
}

/// Compares a position and root with what is stored.
pub(super) fn standing(
    conn: &Connection,
    network: NetworkId,
    at: Position,
    root: Hash,
) -> Result<Standing> {
    let (Ok(generation), Ok(epoch)) = (rows::number(at.generation), rows::number(at.epoch)) else {
        // No head of such an epoch was ever signed.
        return Ok(Standing::Behind);
    };
    let abandoned: bool = conn
        .prepare_cached(
            "SELECT EXISTS (SELECT 1 FROM abandoned WHERE network = $1 AND generation = $2 AND epoch = $3 AND root = $4)",
        )?
        .query_row(params![network.0, generation, epoch, root.0], |row| row.get(0))?;
    if abandoned {
        return Ok(Standing::Behind);
    }
    let Some(newest) = newest(conn, network)? else {
        return Ok(Standing::Ahead);
    };
    if (at, root) == newest {
        return Ok(Standing::Same);
    }
    if at > newest.0 {
        return Ok(Standing::Ahead);
    }
    // Another root for an epoch of which this database knows one: it was signed by another copy of it.
    let ours = rosters::root_at(conn, network, at)?;
    Ok(match ours {
        Some(ours) if ours != root => Standing::Ahead,
        _ => Standing::Behind,
    })
}

fn newest(conn: &Connection, network: NetworkId) -> Result<Option<(Position, Hash)>> {
    Ok(conn
        .prepare_cached(
            "SELECT generation, epoch, root FROM head WHERE network = $1 ORDER BY generation DESC, epoch DESC LIMIT 1",
        )?
        .query_row([network.0], |row| {
            let at = Position {
                generation: rows::unsigned(row, 0)?,
                epoch: rows::unsigned(row, 1)?,
            };
            Ok((at, rows::id(row, 2)?))
        })
        .optional()?)
}

/// A head that nobody has shown the roster of yet.
pub(super) fn see(tx: &Transaction<'_>, seen: &Seen) -> Result<bool> {
    let head = &seen.head;
    let standing = standing(tx, head.network, head.position(), head.root)?;
    if standing == Standing::Ahead {
        enter(tx, seen.now)?;
    }
    let frozen = is_frozen(tx)?;
    if frozen && standing != Standing::Behind {
        note(tx, head.network, seen.by, head.position(), head.root)?;
    }
    Ok(frozen)
}

/// A roster that a member showed: taken over when it is newer than what is stored.
pub(super) fn adopt(tx: &Transaction<'_>, signer: &Signer, adopt: &Adopt) -> Result<Adopted> {
    let head = adopt.roster.head();
    let (network, at) = (head.network, head.position());
    let before = newest(tx, network)?;
    let standing = standing(tx, network, at, head.root)?;
    // What was taken over already gives way to what is above it, and to nothing else.
    let settled = match before {
        Some((position, root)) => position >= at && was_shown(tx, network, position, root)?,
        None => false,
    };
    let seen = Seen {
        head: head.clone(),
        by: Some(adopt.by),
        now: adopt.now,
    };
    let recovery = see(tx, &seen)?;
    let secret = adopt.secret.as_ref();
    let secret = secret.filter(|s| s.matches(head.secret_id, &head.secret_hash));
    let mut changed = Vec::new();
    if standing == Standing::Ahead
        && !settled
        && let Some(secret) = secret
    {
        takeover::write(tx, signer, &adopt.roster, secret, adopt.now)?;
        changed.push(network);
    }
    Ok(Adopted { changed, recovery })
}

fn enter(tx: &Transaction<'_>, now: UnixTime) -> Result<()> {
    tx.execute(
        "INSERT INTO recovery (one, since) VALUES (1, $1) ON CONFLICT (one) DO NOTHING",
        [rows::number(now.0)?],
    )?;
    Ok(())
}

/// Remembers the highest head that each node, and the mirrors, showed.
fn note(
    tx: &Transaction<'_>,
    network: NetworkId,
    by: Option<NodeId>,
    at: Position,
    root: Hash,
) -> Result<()> {
    let node = by.as_ref().map_or(MIRROR, |node| &node.0[..]);
    tx.execute(
        "INSERT INTO shown (network, node, generation, epoch, root) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (network, node) DO UPDATE
         SET generation = excluded.generation, epoch = excluded.epoch, root = excluded.root
         WHERE (excluded.generation, excluded.epoch) > (generation, epoch)",
        params![
            network.0,
            node,
            rows::number(at.generation)?,
            rows::number(at.epoch)?,
            root.0
        ],
    )?;
    Ok(())
}

fn was_shown(conn: &Connection, network: NetworkId, at: Position, root: Hash) -> Result<bool> {
    Ok(conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM shown WHERE network = $1 AND generation = $2 AND epoch = $3 AND root = $4)",
        params![
            network.0,
            rows::number(at.generation)?,
            rows::number(at.epoch)?,
            root.0
        ],
        |row| row.get(0),
    )?)
}

/// The recovery as it stands; `None` when there is none.
pub(super) fn report(conn: &Connection) -> Result<Option<Recovery>> {
    let since = conn
        .query_row("SELECT since FROM recovery", [], |row| {
            rows::unsigned(row, 0)
        })
        .optional()?;
    let Some(since) = since else {
        return Ok(None);
    };
    let mut statement = conn.prepare_cached(
        "SELECT network, max(generation), sum(length(node) > 0), sum(length(node) = 0) > 0,
                (SELECT name FROM network n WHERE n.network = shown.network),
                (SELECT count(*) FROM member m WHERE m.network = shown.network)
         FROM shown GROUP BY network ORDER BY network",
    )?;
    let shown = statement.query_map([], |row| {
        Ok(ShownNetwork {
            network: rows::id(row, 0)?,
            newest: Position {
                generation: rows::unsigned(row, 1)?,
                epoch: 0,
            },
            shown_by: rows::unsigned(row, 2)?,
            mirrored: row.get(3)?,
            name: row.get(4)?,
            members: rows::unsigned(row, 5)?,
            held: None,
        })
    })?;
    let mut networks: Vec<ShownNetwork> = shown.collect::<rusqlite::Result<_>>()?;
    for shown in &mut networks {
        shown.newest.epoch = highest_shown(conn, shown.network, shown.newest.generation)?;
        shown.held = newest(conn, shown.network)?.map(|(at, _)| at);
    }
    Ok(Some(Recovery {
        since: UnixTime(since),
        networks,
        displaced: displaced(conn)?,
        suspensions: suspensions::count(conn)?,
    }))
}

fn highest_shown(conn: &Connection, network: NetworkId, generation: u64) -> Result<u64> {
    let highest: i64 = conn.query_row(
        "SELECT coalesce(max(epoch), 0) FROM shown WHERE network = $1 AND generation = $2",
        params![network.0, rows::number(generation)?],
        |row| row.get(0),
    )?;
    Ok(u64::try_from(highest).unwrap_or(0))
}

fn displaced(conn: &Connection) -> Result<Vec<(NodeId, Ipv4Addr)>> {
    let mut statement = conn.prepare_cached("SELECT node, ipv4 FROM displaced ORDER BY node")?;
    let displaced = statement.query_map([], |row| {
        Ok((rows::id(row, 0)?, Ipv4Addr::from_bits(row.get(1)?)))
    })?;
    Ok(displaced.collect::<rusqlite::Result<_>>()?)
}

/// Goes on above everything that was shown: suspensions first, then a new head for every network.
pub(super) fn end(tx: &Transaction<'_>, signer: &Signer, end: &EndRecovery) -> Result<Recovered> {
    let report = report(tx)?.ok_or(Refusal::NoRecovery)?;
    let incomplete = !report.networks.iter().all(ShownNetwork::is_complete);
    if incomplete && !end.incomplete {
        return Err(Refusal::RecoveryIncomplete.into());
    }
    raise_floors(tx, signer)?;
    void_invites(tx, end.now)?;
    addresses::rest_all(tx, end.now)?;
    let evicted = suspensions::carry_out(tx, signer, &end.seed, end.now)?;
    let moved = move_displaced(tx, signer, &report, end.now)?;
    let changed = networks::ids(tx)?;
    for network in &changed {
        let stored = networks::require(tx, signer, *network)?;
        if stored.head.epoch < stored.epoch_floor {
            rosters::advance(tx, signer, &stored, &stored.secret, end.now)?;
        }
    }
    for table in ["recovery", "shown", "abandoned", "displaced", "suspension"] {
        tx.execute(&format!("DELETE FROM {table}"), [])?;
    }
    organisation::jump(tx, signer, end.now)?;
    Ok(Recovered {
        changed,
        evicted,
        moved,
    })
}

/// No network goes on below what anybody showed of it, or what was signed here.
fn raise_floors(tx: &Transaction<'_>, signer: &Signer) -> Result<()> {
    let mut statement = tx.prepare_cached("SELECT network, epoch_floor FROM network")?;
    let all = statement.query_map([], |row| Ok((rows::id(row, 0)?, rows::unsigned(row, 1)?)))?;
    let all: Vec<(NetworkId, u64)> = all.collect::<rusqlite::Result<_>>()?;
    for (network, floor) in all {
        let held = newest(tx, network)?.map_or(0, |(at, _)| at.epoch);
        let shown = highest_shown(tx, network, signer.generation())?;
        let floor = held
            .max(shown)
            .max(floor)
            .checked_add(JUMP)
            .ok_or_else(|| StoreError::Failed("the epochs of a network are used up".to_owned()))?;
        tx.execute(
            "UPDATE network SET epoch_floor = $1 WHERE network = $2",
            params![rows::number(floor)?, network.0],
        )?;
        // Ids of memberships that ended are not forgotten by the leap.
        tx.execute(
            "UPDATE removed SET removed_at = $1 WHERE network = $2",
            params![rows::number(floor)?, network.0],
        )?;
    }
    Ok(())
}

/// Nobody can say which of them were used or revoked since the backup.
fn void_invites(tx: &Transaction<'_>, now: UnixTime) -> Result<()> {
    tx.execute(
        "UPDATE invite SET revoked_at = $1 WHERE revoked_at IS NULL",
        [rows::number(now.0)?],
    )?;
    Ok(())
}

/// Gives new addresses to those whose address is another's, in every roster that they are in.
fn move_displaced(
    tx: &Transaction<'_>,
    signer: &Signer,
    report: &Recovery,
    now: UnixTime,
) -> Result<Vec<(NodeId, Ipv4Addr)>> {
    let mut moved = Vec::new();
    for (node, _) in &report.displaced {
        let networks = networks::of_node(tx, *node)?;
        if networks.is_empty() {
            // It gets an address when it joins something again.
            continue;
        }
        let address = addresses::allocate(tx, signer.pool(), *node, now)?;
        for network in networks {
            let stored = networks::require(tx, signer, network)?;
            members::rewrite(tx, signer, &stored, *node, now, |private| {
                private.ipv4 = Some(address);
            })?;
        }
        moved.push((*node, address));
    }
    Ok(moved)
}
