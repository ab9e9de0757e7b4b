//! Suspensions: what owners signed while no coordinator was there becomes evictions, at once or when a recovery ends.

use kanpachi_common::{
    MemberId, NetworkId, NodeId, UnixTime, Verified,
    id::Hash,
    roster::{Caps, Suspend},
};
use rusqlite::{Connection, Transaction, params};

use super::{ends, members, recovery, rows};
use crate::{
    org::Signer,
    store::{BringSuspends, Evict, Result, StoreError},
};

/// Suspensions that wait for the end of a recovery, at the most.
const MAX_WAITING: u64 = 1024;

/// What counts: signed with the key of a member that is an owner, of a member that is there. `s` is the suspension.
const COUNTS: &str =
    "EXISTS (SELECT 1 FROM member o WHERE o.member = s.by_member AND o.network = s.network
     AND o.node = s.key AND o.caps & 1 <> 0 AND o.caps & 16 = 0)";
const _: () = assert!(Caps::OWNER.0 == 1 && Caps::PENDING.0 == 16);

/// Takes what a member brought. Returns the networks that are not what they were.
pub(super) fn bring(
    tx: &Transaction<'_>,
    signer: &Signer,
    brought: &BringSuspends,
) -> Result<Vec<NetworkId>> {
    let frozen = recovery::is_frozen(tx)?;
    let mut changed = Vec::new();
    for suspend in &brought.suspends {
        if suspend.org != signer.org() {
            continue;
        }
        let did = if frozen {
            keep(tx, suspend, brought.now)?
        } else {
            let key = NodeId(suspend.signed().key.0);
            let of = (suspend.network, suspend.member, suspend.by);
            evict(tx, signer, of, key, &brought.seed, brought.now)?
        };
        if did && !changed.contains(&suspend.network) {
            changed.push(suspend.network);
        }
    }
    Ok(changed)
}

/// Keeps one for later; whether it counts is decided by the roster that stands then.
fn keep(tx: &Transaction<'_>, suspend: &Verified<Suspend>, now: UnixTime) -> Result<bool> {
    if count(tx)? >= MAX_WAITING {
        return Ok(false);
    }
    let kept = tx.execute(
        "INSERT INTO suspension (network, member, by_member, key, seq, brought_at) VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT DO NOTHING",
        params![
            suspend.network.0,
            suspend.member.0,
            suspend.by.0,
            suspend.signed().key.0,
            // Of no use here but to whoever looks: a number that is too large for a column is as good as the largest.
            i64::try_from(suspend.seq).unwrap_or(i64::MAX),
            rows::number(now.0)?
        ],
    )?;
    Ok(kept == 1)
}

/// How many wait.
pub(super) fn count(conn: &Connection) -> Result<u64> {
    Ok(
        conn.query_row("SELECT count(*) FROM suspension", [], |row| {
            rows::unsigned(row, 0)
        })?,
    )
}

/// Nodes of a network that are out although the roster has them still.
pub(super) fn suspended(conn: &Connection, network: NetworkId) -> Result<Vec<NodeId>> {
    let mut statement = conn.prepare_cached(&format!(
        "SELECT DISTINCT m.node FROM suspension s JOIN member m ON m.member = s.member AND m.network = s.network
         WHERE s.network = $1 AND {COUNTS}"
    ))?;
    let nodes = statement.query_map([network.0], |row| rows::id(row, 0))?;
    Ok(nodes.collect::<rusqlite::Result<_>>()?)
}

/// Makes evictions of all that wait, in the order in which they came. Returns how many there were.
pub(super) fn carry_out(
    tx: &Transaction<'_>,
    signer: &Signer,
    seed: &[u8; 32],
    now: UnixTime,
) -> Result<u64> {
    let mut statement = tx.prepare_cached(
        "SELECT network, member, by_member, key FROM suspension ORDER BY brought_at, rowid",
    )?;
    let all = statement.query_map([], |row| {
        let of = (rows::id(row, 0)?, rows::id(row, 1)?, rows::id(row, 2)?);
        Ok((of, rows::id(row, 3)?))
    })?;
    let all: Vec<((NetworkId, MemberId, MemberId), NodeId)> =
        all.collect::<rusqlite::Result<_>>()?;
    let mut evicted = 0;
    for (of, key) in all {
        evicted += u64::from(evict(tx, signer, of, key, seed, now)?);
    }
    Ok(evicted)
}

/// Does what the owner would have asked for, if it is one still and there is something left to do.
fn evict(
    tx: &Transaction<'_>,
    signer: &Signer,
    (network, member, by): (NetworkId, MemberId, MemberId),
    key: NodeId,
    seed: &[u8; 32],
    now: UnixTime,
) -> Result<bool> {
    let owner = members::find(tx, network, by)?;
    if owner.is_none_or(|owner| owner.node != key) || members::find(tx, network, member)?.is_none()
    {
        return Ok(false);
    }
    let evict = Evict {
        network,
        by: key,
        member,
        password: None,
        secret: Hash::of(&[b"kanpachi/suspension-secret\0", seed, &member.0]).0,
        now,
    };
    match ends::evict(tx, signer, &evict) {
        Ok(evicted) => Ok(!evicted.changed.is_empty()),
        // No owner any more, a network that ended: decided before anything was written.
        Err(StoreError::Refused(_)) => Ok(false),
        Err(error) => Err(error),
    }
}
