//! Messages of the control stream by which people change networks: creating, joining by password, leaving, and what
//! only owners may do.

use serde::{Deserialize, Serialize};

use crate::{
    cbor::{DecodeError, check_len},
    id::{MemberId, NetworkId},
    password::Password,
    roster::Suspend,
    signed::Signed,
    wire::control::{Body, check_text},
};

/// Suspensions in one message at the most. As many of the largest fit into a request.
pub const MAX_SUSPENDS: usize = 64;

/// Makes a network; the node becomes its owner. Answered by `Joined`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateNetwork {
    /// The id that it is to have, random: whoever sends the request twice makes one network.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
    /// What other members of the organisation join by; without one the network takes invites only.
    pub password: Option<Password>,
    /// The name that the node would like in it.
    pub member_name: String,
}

/// Joins one more network by its name and password. Answered by `Joined`, or by `Refused` in one way for a wrong
/// password, a network without one and an unknown name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinByPassword {
    /// Name of the network.
    pub network: String,
    /// Its password.
    pub password: Password,
    /// The name that the node would like in it.
    pub member_name: String,
}

/// The node leaves. Answered by `Done`. The only owner cannot without an heir, unless nobody else is left in the network:
/// then it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leave {
    /// What it leaves.
    pub network: NetworkId,
    /// Who becomes owner first.
    pub heir: Option<MemberId>,
}

/// Ends a network for everybody. For owners. Answered by `Done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeleteNetwork {
    /// Which.
    pub network: NetworkId,
}

/// Ends somebody's membership; it does not come back by password, nor by an invite that it came by, made or could
/// have seen. For owners. Answered by `Evicted`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evict {
    /// From which network.
    pub network: NetworkId,
    /// Who.
    pub member: MemberId,
    /// A new password for the network, in the same step: the evicted one may know the old one.
    pub password: Option<Password>,
}

/// Somebody was evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evicted {
    /// Invites that were revoked.
    pub revoked_invites: u32,
    /// The network has a password that the evicted member may know.
    pub password_known: bool,
}

/// Sets, changes or removes the password of a network. For owners. Answered by `Done`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPassword {
    /// Of which network.
    pub network: NetworkId,
    /// The new one; `None` for none.
    pub password: Option<Password>,
}

/// Says who may join. For owners. Answered by `Done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAccess {
    /// Which network.
    pub network: NetworkId,
    /// Nobody new may join; unchanged when absent.
    pub locked: Option<bool>,
    /// Owners approve whoever joins; unchanged when absent.
    pub approval: Option<bool>,
}

/// Settles a member that awaits approval: it is in, or it is not. For owners. Answered by `Done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settle {
    /// In which network.
    pub network: NetworkId,
    /// Who.
    pub member: MemberId,
    /// Is it let in?
    pub approved: bool,
}

/// Makes a member an owner, or an owner a member. For owners. Answered by `Done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRole {
    /// In which network.
    pub network: NetworkId,
    /// Who.
    pub member: MemberId,
    /// Owner from now on, or not.
    pub owner: bool,
}

/// Whether the node wants to be there for the others of a network. Holds for the session; the next hello says it again.
/// Answered by `Done`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetPresence {
    /// Which network.
    pub network: NetworkId,
    /// Is it there?
    pub online: bool,
}

/// What owners signed while no coordinator was there, brought by any member. Each one that is valid becomes an eviction;
/// one that is settled already changes nothing. Answered by `Done`, also for those that count for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// The suspensions.
    pub suspends: Vec<Signed<Suspend>>,
}

/// A network in which the node awaits approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Which.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
}

fn check_password(password: Option<&Password>) -> Result<(), DecodeError> {
    match password.map_or(Ok(()), Password::check) {
        Ok(()) => Ok(()),
        Err(_) => Err(DecodeError::Invalid("a password that is none")),
    }
}

impl Body for CreateNetwork {
    fn check(&self) -> Result<(), DecodeError> {
        check_text(&self.name)?;
        check_text(&self.member_name)?;
        check_password(self.password.as_ref())
    }
}

impl Body for JoinByPassword {
    fn check(&self) -> Result<(), DecodeError> {
        check_text(&self.network)?;
        check_text(&self.member_name)?;
        check_password(Some(&self.password))
    }
}

impl Body for Evict {
    fn check(&self) -> Result<(), DecodeError> {
        check_password(self.password.as_ref())
    }
}

impl Body for SetPassword {
    fn check(&self) -> Result<(), DecodeError> {
        check_password(self.password.as_ref())
    }
}

impl Body for Suspended {
    fn check(&self) -> Result<(), DecodeError> {
        check_len(&self.suspends, MAX_SUSPENDS, "too many suspensions")
    }
}

impl Body for Leave {}
impl Body for DeleteNetwork {}
impl Body for Evicted {}
impl Body for SetAccess {}
impl Body for Settle {}
impl Body for SetRole {}
impl Body for SetPresence {}
