//! What owners say about a network: its password, who may join, who is in, who owns it.

use kanpachi_common::{
    MemberId, NetworkId, cbor, name,
    roster::{Caps, Settings},
};
use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::{
    ends, members, networks,
    rosters::{self, Stored},
    rows,
};
use crate::{
    org::Signer,
    store::{
        NetworkPassword, PasswordHash, Refusal, Result, SetAccess, SetPassword, SetRole, Settle,
        StoreError,
    },
};

/// What a name is joined by; `None` for an unknown one, and for a network without a password.
pub(super) fn password_of(conn: &Connection, wanted: &str) -> Result<Option<NetworkPassword>> {
    let found = conn
        .prepare_cached("SELECT network, password FROM network WHERE folded = $1 AND deleted_at IS NULL AND password IS NOT NULL")?
        .query_row([name::fold(wanted)], |row| {
            Ok(NetworkPassword {
                network: rows::id(row, 0)?,
                hash: PasswordHash(row.get(1)?),
            })
        })
        .optional()?;
    Ok(found)
}

/// Is this the password still?
pub(super) fn has_password(conn: &Connection, password: &NetworkPassword) -> Result<bool> {
    Ok(conn.query_row(
        "SELECT EXISTS (SELECT 1 FROM network WHERE network = $1 AND password = $2 AND deleted_at IS NULL)",
        params![password.network.0, password.hash.0],
        |row| row.get(0),
    )?)
}

/// Writes the password of a network.
pub(super) fn write_password(
    tx: &Transaction<'_>,
    network: NetworkId,
    password: Option<&PasswordHash>,
) -> Result<()> {
    tx.execute(
        "UPDATE network SET password = $1 WHERE network = $2",
        params![password.map(|p| &p.0), network.0],
    )?;
    Ok(())
}

pub(super) fn set_password(tx: &Transaction<'_>, set: &SetPassword) -> Result<()> {
    members::require_caps(tx, set.network, set.by, Caps::OWNER)?;
    write_password(tx, set.network, set.password.as_ref())
}

pub(super) fn set_access(
    tx: &Transaction<'_>,
    signer: &Signer,
    set: &SetAccess,
) -> Result<Vec<NetworkId>> {
    members::require_caps(tx, set.network, set.by, Caps::OWNER)?;
    let mut stored = networks::require(tx, signer, set.network)?;
    let mut settings = settings_of(&stored)?;
    let mut access = settings.access();
    access.locked = set.locked.unwrap_or(access.locked);
    access.approval = set.approval.unwrap_or(access.approval);
    if access == settings.access() {
        return Ok(vec![]);
    }
    settings.set_access(access);
    stored.settings = cbor::encode(&settings);
    tx.execute(
        "UPDATE network SET settings = $1, settings_at = $2 WHERE network = $3",
        params![
            stored.settings,
            rows::number(stored.next_epoch()?)?,
            set.network.0
        ],
    )?;
    rosters::advance(tx, signer, &stored, &stored.secret, set.now)?;
    Ok(vec![set.network])
}

pub(super) fn settings_of(stored: &Stored) -> Result<Settings> {
    Settings::decode(&stored.settings).map_err(StoreError::damaged)
}

pub(super) fn settle(
    tx: &Transaction<'_>,
    signer: &Signer,
    settle: &Settle,
) -> Result<Vec<NetworkId>> {
    let network = settle.network;
    members::require_caps(tx, network, settle.by, Caps::OWNER)?;
    let stored = networks::require(tx, signer, network)?;
    let Some(found) = members::find(tx, network, settle.member)? else {
        return match ends::removed(tx, network, settle.member)? {
            // Rejected before: the request came twice.
            Some(_) if !settle.approved => Ok(vec![]),
            _ => Err(Refusal::NoMember.into()),
        };
    };
    match (found.caps.has(Caps::PENDING), settle.approved) {
        (false, true) => return Ok(vec![]),
        (false, false) => return Err(Refusal::NotWaiting.into()),
        (true, true) => {
            let caps = Caps(found.caps.0 & !Caps::PENDING.0);
            write_caps(tx, &stored, settle.member, caps)?;
        }
        // It never had the secret: there is nothing to change but the roster.
        (true, false) => {
            ends::take_out(tx, &stored, settle.member, found.node)?;
            ends::release(tx, found.node, settle.now)?;
        }
    }
    rosters::advance(tx, signer, &stored, &stored.secret, settle.now)?;
    Ok(vec![network])
}

pub(super) fn set_role(
    tx: &Transaction<'_>,
    signer: &Signer,
    set: &SetRole,
) -> Result<Vec<NetworkId>> {
    let network = set.network;
    members::require_caps(tx, network, set.by, Caps::OWNER)?;
    let stored = networks::require(tx, signer, network)?;
    let found = members::find(tx, network, set.member)?.ok_or(Refusal::NoMember)?;
    if found.caps.has(Caps::PENDING) {
        return Err(Refusal::NoMember.into());
    }
    if found.caps.has(Caps::OWNER) == set.owner {
        return Ok(vec![]);
    }
    let caps = if set.owner {
        found.caps.with(Caps::OWNER)
    } else {
        Caps(found.caps.0 & !Caps::OWNER.0)
    };
    write_caps(tx, &stored, set.member, caps)?;
    if !members::has_owner(tx, network)? {
        return Err(Refusal::LastOwner.into());
    }
    rosters::advance(tx, signer, &stored, &stored.secret, set.now)?;
    Ok(vec![network])
}

/// Gives a member other capabilities, as of the next epoch.
pub(super) fn write_caps(
    tx: &Transaction<'_>,
    stored: &Stored,
    member: MemberId,
    caps: Caps,
) -> Result<()> {
    let found = members::find(tx, stored.network, member)?.ok_or(Refusal::NoMember)?;
    let public = kanpachi_common::roster::Public {
        member,
        node: found.node,
        caps,
    };
    tx.execute(
        "UPDATE member SET caps = $1, public = $2, changed_at = $3 WHERE member = $4",
        params![
            caps.0,
            cbor::encode(&public),
            rows::number(stored.next_epoch()?)?,
            member.0
        ],
    )?;
    Ok(())
}
