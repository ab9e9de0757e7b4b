//! What goes into the store and what comes out when people change networks.

use std::fmt;

use kanpachi_common::{MemberId, NetworkId, NodeId, UnixTime};

use super::NewNetwork;

/// A password as it is stored: a salted hash in PHC form. Made and judged by [`crate::password::Passwords`].
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash(…)")
    }
}

/// A node that is to be a member.
#[derive(Clone, Debug)]
pub struct Newcomer {
    /// Which, authenticated.
    pub node: NodeId,
    /// The name that it would like, checked.
    pub name: String,
    /// The id of the membership, should there be a new one: random.
    pub member: MemberId,
    /// Salt of the new entry: random.
    pub salt: [u8; 16],
}

/// A member of the organisation makes a network and owns it.
#[derive(Clone, Debug)]
pub struct CreateNetwork {
    /// What to make.
    pub new: NewNetwork,
    /// What others join by.
    pub password: Option<PasswordHash>,
    /// Who makes it.
    pub owner: Newcomer,
}

/// What a network is joined by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkPassword {
    /// The network.
    pub network: NetworkId,
    /// Its password.
    pub hash: PasswordHash,
}

/// A node joins by a password that was found to be right.
#[derive(Clone, Debug)]
pub struct JoinByPassword {
    /// What the password was held against. When that is not what is stored any more, the node is refused.
    pub verified: NetworkPassword,
    /// Who joins.
    pub newcomer: Newcomer,
    /// Wall time.
    pub now: UnixTime,
}

/// A node leaves.
#[derive(Clone, Debug)]
pub struct Leave {
    /// What.
    pub network: NetworkId,
    /// Who.
    pub node: NodeId,
    /// Who becomes owner first.
    pub heir: Option<MemberId>,
    /// Random bytes for the next secret of the network.
    pub secret: [u8; 32],
    /// Wall time.
    pub now: UnixTime,
}

/// A network ends.
#[derive(Clone, Debug)]
pub struct DeleteNetwork {
    /// Which.
    pub network: NetworkId,
    /// Who asks: an owner.
    pub by: NodeId,
    /// Wall time.
    pub now: UnixTime,
}

/// Somebody is put out.
#[derive(Clone, Debug)]
pub struct Evict {
    /// From which network.
    pub network: NetworkId,
    /// Who asks: an owner.
    pub by: NodeId,
    /// Who.
    pub member: MemberId,
    /// A new password for the network.
    pub password: Option<PasswordHash>,
    /// Random bytes for the next secret of the network.
    pub secret: [u8; 32],
    /// Wall time.
    pub now: UnixTime,
}

/// Somebody was put out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evicted {
    /// Networks whose roster changed.
    pub changed: Vec<NetworkId>,
    /// Invites that were revoked, and that somebody could still have used.
    pub revoked_invites: u32,
    /// The network has the password still that it had before.
    pub password_known: bool,
}

/// The password of a network changes.
#[derive(Clone, Debug)]
pub struct SetPassword {
    /// Of which network.
    pub network: NetworkId,
    /// Who asks: an owner.
    pub by: NodeId,
    /// The new one.
    pub password: Option<PasswordHash>,
}

/// Who may join changes.
#[derive(Clone, Debug)]
pub struct SetAccess {
    /// Which network.
    pub network: NetworkId,
    /// Who asks: an owner.
    pub by: NodeId,
    /// Nobody new may join; unchanged when absent.
    pub locked: Option<bool>,
    /// Owners approve whoever joins; unchanged when absent.
    pub approval: Option<bool>,
    /// Wall time.
    pub now: UnixTime,
}

/// A member that awaits approval is in, or is not.
#[derive(Clone, Debug)]
pub struct Settle {
    /// In which network.
    pub network: NetworkId,
    /// Who asks: an owner.
    pub by: NodeId,
    /// Who waits.
    pub member: MemberId,
    /// Is it let in?
    pub approved: bool,
    /// Wall time.
    pub now: UnixTime,
}

/// A member becomes an owner, or an owner a member.
#[derive(Clone, Debug)]
pub struct SetRole {
    /// In which network.
    pub network: NetworkId,
    /// Who asks: an owner.
    pub by: NodeId,
    /// Whose role.
    pub member: MemberId,
    /// Owner from now on, or not.
    pub owner: bool,
    /// Wall time.
    pub now: UnixTime,
}
