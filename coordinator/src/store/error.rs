//! Why the store did not do what was asked: a decision against it, or a failure.

use kanpachi_common::wire::control::codes;
use thiserror::Error;

/// A decision against a request, made inside the transaction. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Refusal {
    /// No invite has this token: never made, revoked, or a guess.
    #[error("this coordinator knows no such invite; ask for a new one")]
    InviteUnknown,
    /// Used as often as it allowed.
    #[error("the invite was used already; ask for a new one")]
    InviteUsed,
    /// Too late.
    #[error("the invite has expired; ask for a new one")]
    InviteExpired,
    /// No such network, or the node is no member: the same answer, so that nobody learns which networks exist.
    #[error("there is no such network, or this machine is no member of it")]
    NoNetwork,
    /// Only owners may.
    #[error("only an owner of the network may do that")]
    NotAllowed,
    /// The node joined nothing yet.
    #[error("this machine is not registered here; join with an invite first")]
    NotRegistered,
    /// Every IPv4 address is in use or resting.
    #[error("no address is left in the pool of this organisation")]
    PoolEmpty,
    /// As many members as a network may have.
    #[error("the network is full")]
    NetworkFull,
    /// A lower serial than the one known, or another key under the same serial.
    #[error("the tunnel key of this machine is older than the one known here")]
    OldKey,
    /// A network of that name exists.
    #[error("a network of that name exists already")]
    NetworkExists,
    /// As many networks as a node may be in.
    #[error("this machine is in as many networks as it may be")]
    TooManyNetworks,
    /// A wrong password, a network without one, an unknown name: the same answer.
    #[error("no network has this name and password")]
    WrongPassword,
    /// The network takes nobody new.
    #[error("the network is locked: nobody new can join")]
    Locked,
    /// The node was evicted, and nobody invited it again.
    #[error("this machine was evicted from the network; only a new invite lets it in again")]
    Evicted,
    /// Nobody would own the network.
    #[error(
        "this is the only owner of the network: make another member an owner first, or delete the network"
    )]
    LastOwner,
    /// No such member, or one that awaits approval where a full one is needed.
    #[error("the network has no such member")]
    NoMember,
    /// It was approved already.
    #[error("this member does not await approval any more; evict it instead")]
    NotWaiting,
    /// The members know more than this coordinator.
    #[error("{}", super::IN_RECOVERY)]
    Recovery,
    /// There is nothing to recover from.
    #[error("this coordinator is not in recovery; there is nothing to end")]
    NoRecovery,
    /// Newer heads were seen than the rosters that are here.
    #[error(
        "newer rosters were seen than members have shown: let one that holds them log in first, or go on without them with --incomplete"
    )]
    RecoveryIncomplete,
    /// As many passwords are being checked as there is room for.
    #[error("too many passwords are being checked; try again in a moment")]
    PasswordsBusy,
}

impl Refusal {
    /// The code that programs go by.
    #[must_use]
    pub const fn code(self) -> u16 {
        match self {
            Self::InviteUnknown => codes::INVITE_UNKNOWN,
            Self::InviteUsed => codes::INVITE_USED,
            Self::InviteExpired => codes::INVITE_EXPIRED,
            Self::NoNetwork => codes::NO_NETWORK,
            Self::NotAllowed | Self::TooManyNetworks => codes::NOT_ALLOWED,
            Self::NetworkExists => codes::NETWORK_EXISTS,
            Self::WrongPassword => codes::WRONG_PASSWORD,
            Self::Locked => codes::LOCKED,
            Self::Evicted => codes::EVICTED,
            Self::LastOwner => codes::LAST_OWNER,
            Self::NoMember | Self::NotWaiting => codes::NO_MEMBER,
            Self::PasswordsBusy => codes::BUSY,
            Self::Recovery | Self::NoRecovery | Self::RecoveryIncomplete => codes::RECOVERY,
            Self::NotRegistered => codes::NOT_REGISTERED,
            Self::PoolEmpty => codes::POOL_EMPTY,
            Self::NetworkFull => codes::NETWORK_FULL,
            Self::OldKey => codes::OLD_KEY,
        }
    }
}

/// Why an intent has no result. In every case the store is as it was before.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Decided against.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No room on the disk.
    #[error(
        "the disk is full: make room where the coordinator keeps its database, nothing was changed"
    )]
    Full,
    /// Not writable.
    #[error(
        "the database cannot be written: make its file and directory writable for the coordinator"
    )]
    ReadOnly,
    /// Somebody else holds the file.
    #[error("the database is locked by another program")]
    Busy,
    /// Another coordinator runs on this directory.
    #[error(
        "another coordinator runs on {0}: stop it, or give this one a state directory of its own"
    )]
    InUse(String),
    /// What is stored does not fit together. Never served.
    #[error("the database is damaged ({0}): restore it from a backup")]
    Damaged(String),
    /// Written by a later version.
    #[error(
        "the database has format {found} and this program knows up to {known}: update Kanpachi"
    )]
    Newer {
        /// Version of the schema in the file.
        found: u32,
        /// Highest version that this program knows.
        known: u32,
    },
    /// Something about the path that is not right.
    #[error("{0}")]
    Path(String),
    /// Any other failure of the file or the engine.
    #[error("the database failed: {0}")]
    Failed(String),
    /// The store is shut down.
    #[error("the database is closed")]
    Closed,
}

impl StoreError {
    /// What is stored does not fit together.
    pub(crate) fn damaged(what: impl std::fmt::Display) -> Self {
        Self::Damaged(what.to_string())
    }
}
