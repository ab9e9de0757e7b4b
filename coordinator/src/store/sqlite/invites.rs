//! Invites: stored as hashes, checked and used in one transaction.

use kanpachi_common::{MemberId, NetworkId, NodeId, UnixTime, id::Hash, roster::Caps};
use rusqlite::{OptionalExtension as _, Transaction, params};

use super::{members, networks, rows};
use crate::{
    org::Signer,
    store::{InviteStored, NewInvite, Refusal, Result},
};

/// An invite as it is stored.
#[derive(Debug)]
pub(super) struct Invite {
    pub(super) id: i64,
    pub(super) network: NetworkId,
    pub(super) founder: bool,
    uses_left: Option<u32>,
    expires_at: UnixTime,
}

pub(super) fn create(
    tx: &Transaction<'_>,
    signer: &Signer,
    new: &NewInvite,
) -> Result<InviteStored> {
    let stored = networks::require(tx, signer, new.network)?;
    let made_by = match new.by {
        Some(node) => Some(members::require_caps(tx, new.network, node, Caps::OWNER)?.0),
        None => None,
    };
    tx.execute(
        "INSERT INTO invite (token_hash, network, uses_left, founder, made_by, expires_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (token_hash) DO NOTHING",
        params![
            new.token_hash.0,
            new.network.0,
            new.uses,
            new.founder,
            made_by,
            rows::number(new.expires_at.0)?,
            rows::number(new.now.0)?
        ],
    )?;
    Ok(InviteStored {
        network_name: stored.name,
        floor: stored.head.position(),
    })
}

/// Looks an invite up. Revoked ones are not found: whoever holds one learns no more than a stranger.
///
/// Of the 256-bit hash of a 256-bit token nothing can be learned by how long the index search takes.
pub(super) fn find(tx: &Transaction<'_>, token_hash: &Hash) -> Result<Invite> {
    let invite = tx
        .prepare_cached(
            "SELECT invite, network, founder, uses_left, expires_at FROM invite
             WHERE token_hash = $1 AND revoked_at IS NULL",
        )?
        .query_row([token_hash.0], |row| {
            Ok(Invite {
                id: row.get(0)?,
                network: rows::id(row, 1)?,
                founder: row.get(2)?,
                uses_left: row.get(3)?,
                expires_at: UnixTime(rows::unsigned(row, 4)?),
            })
        })
        .optional()?;
    invite.ok_or(Refusal::InviteUnknown.into())
}

impl Invite {
    /// Uses it once.
    pub(super) fn consume(&self, tx: &Transaction<'_>, now: UnixTime) -> Result<()> {
        if self.uses_left == Some(0) {
            return Err(Refusal::InviteUsed.into());
        }
        if now >= self.expires_at {
            return Err(Refusal::InviteExpired.into());
        }
        let used = tx.execute(
            "UPDATE invite SET uses_left = uses_left - 1 WHERE invite = $1 AND (uses_left IS NULL OR uses_left > 0)",
            [self.id],
        )?;
        if used == 1 {
            Ok(())
        } else {
            Err(Refusal::InviteUsed.into())
        }
    }
}

/// Revokes what a member could come back by: the invite it came by and those it made; all of the network when
/// it was an owner, who could have made or seen any. Counted are those that somebody could still have used.
pub(super) fn revoke_of(
    tx: &Transaction<'_>,
    network: NetworkId,
    node: NodeId,
    now: UnixTime,
) -> Result<u32> {
    let mut revoke = tx.prepare_cached(
        "UPDATE invite SET revoked_at = $1 WHERE network = $2 AND revoked_at IS NULL AND EXISTS (
             SELECT 1 FROM member WHERE member.network = $2 AND member.node = $3 AND (
                 member.came_by = invite.invite OR member.member = invite.made_by OR member.caps & $4 <> 0))
         RETURNING (uses_left IS NULL OR uses_left > 0) AND expires_at > $1",
    )?;
    let revoked = params![rows::number(now.0)?, network.0, node.0, Caps::OWNER.0];
    let mut good = 0;
    for was_good in revoke.query_map(revoked, |row| row.get::<_, bool>(0))? {
        good += u32::from(was_good?);
    }
    Ok(good)
}

/// Revokes what a member made.
pub(super) fn revoke_made_by(
    tx: &Transaction<'_>,
    network: NetworkId,
    member: MemberId,
    now: UnixTime,
) -> Result<()> {
    tx.execute(
        "UPDATE invite SET revoked_at = $1 WHERE network = $2 AND made_by = $3 AND revoked_at IS NULL",
        params![rows::number(now.0)?, network.0, member.0],
    )?;
    Ok(())
}

/// Revokes every invite into a network.
pub(super) fn revoke_all(tx: &Transaction<'_>, network: NetworkId, now: UnixTime) -> Result<()> {
    tx.execute(
        "UPDATE invite SET revoked_at = $1 WHERE network = $2 AND revoked_at IS NULL",
        params![rows::number(now.0)?, network.0],
    )?;
    Ok(())
}
