//! What goes into the store and what comes out. Time and random bytes are part of the input, so that a
//! transaction decides the same wherever it runs.

use kanpachi_common::{
    MemberId, NetworkId, NodeId, Signed, TunnelKey, UnixTime,
    id::Hash,
    roster::{Delta, Head, Page, Position, Public},
    secret::NetworkSecret,
    wire::control::{Held, Registration},
};

/// A network to create.
#[derive(Clone, Debug)]
pub struct NewNetwork {
    /// Its id: 32 random bytes.
    pub network: NetworkId,
    /// Its name, checked.
    pub name: String,
    /// Its first secret: 32 random bytes, numbered 1.
    pub secret: NetworkSecret,
    /// Seconds from signing a head to its soft expiry.
    pub soft_seconds: u64,
    /// Seconds from signing a head to its hard expiry; `None` for never.
    pub hard_seconds: Option<u64>,
    /// Wall time.
    pub now: UnixTime,
}

/// A network as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkSummary {
    /// Which.
    pub network: NetworkId,
    /// Its name.
    pub name: String,
    /// Where its roster stands.
    pub position: Position,
    /// How many members it has.
    pub members: u64,
    /// How many of them are owners.
    pub owners: u64,
}

/// A node says hello.
#[derive(Clone, Debug)]
pub struct Login {
    /// Which, authenticated.
    pub node: NodeId,
    /// Its tunnel key, verified to be the node's own.
    pub tunnel: TunnelKey,
    /// The rosters that it says it holds.
    pub held: Vec<Held>,
    /// A newer tunnel key may be taken into rosters. Otherwise it waits, and so it does when the node holds what is not
    /// known here.
    pub may_sign: bool,
    /// Wall time.
    pub now: UnixTime,
}

/// What the store knows of a node that said hello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedIn {
    /// `None` for a node that never joined anything.
    pub registration: Option<Registration>,
    /// Networks whose roster changed because the tunnel key did.
    pub changed: Vec<NetworkId>,
    /// Networks of which it says that it holds what the store has never signed or has lost.
    pub ahead: Vec<NetworkId>,
    /// Networks of which it says that it holds the newest roster, as far as is known here.
    pub agrees: Vec<NetworkId>,
    /// Its tunnel key is newer than the one known and was not taken.
    pub key_waits: bool,
}

/// A node joins by an invite.
#[derive(Clone, Debug)]
pub struct JoinNetwork {
    /// [`kanpachi_common::invite::token_hash`] of what the node showed.
    pub token_hash: Hash,
    /// Which node, authenticated.
    pub node: NodeId,
    /// Its tunnel key, verified to be the node's own.
    pub tunnel: TunnelKey,
    /// The name that it would like, checked.
    pub name: String,
    /// The id of the membership, should there be a new one: random.
    pub member: MemberId,
    /// Salt of the new entry: random.
    pub salt: [u8; 16],
    /// Wall time.
    pub now: UnixTime,
}

/// The node is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinedNetwork {
    /// Of this network.
    pub network: NetworkId,
    /// Its name.
    pub network_name: String,
    /// The name that the node has in it.
    pub name: String,
    /// What the organisation knows of the node now.
    pub registration: Registration,
    /// Networks whose roster changed; none when the node was a member before.
    pub changed: Vec<NetworkId>,
    /// It is in only when an owner approves.
    pub waiting: bool,
}

/// An invite to make.
#[derive(Clone, Debug)]
pub struct NewInvite {
    /// Into this network.
    pub network: NetworkId,
    /// Who asks; must be an owner. `None` for the operator.
    pub by: Option<NodeId>,
    /// [`kanpachi_common::invite::token_hash`]; the token itself is never stored.
    pub token_hash: Hash,
    /// How often it may be used; `None` for any number of times.
    pub uses: Option<u32>,
    /// Until when.
    pub expires_at: UnixTime,
    /// Whoever joins by it becomes owner, if the network has none then.
    pub founder: bool,
    /// Wall time.
    pub now: UnixTime,
}

/// The invite is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InviteStored {
    /// Name of the network.
    pub network_name: String,
    /// Where its roster stands: the floor of the invite.
    pub floor: Position,
}

/// A node wants another name.
#[derive(Clone, Debug)]
pub struct SetName {
    /// Which node.
    pub node: NodeId,
    /// In which network; in all of its networks when absent.
    pub network: Option<NetworkId>,
    /// The name that it would like, checked.
    pub name: String,
    /// Wall time.
    pub now: UnixTime,
}

/// The names that a node has after [`SetName`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamesSet {
    /// Network and name there.
    pub names: Vec<(NetworkId, String)>,
    /// Networks whose roster changed.
    pub changed: Vec<NetworkId>,
}

/// A membership ends.
#[derive(Clone, Debug)]
pub struct RemoveMember {
    /// In which network.
    pub network: NetworkId,
    /// Whose.
    pub node: NodeId,
    /// Who asks: an owner, or the node itself. `None` for the operator.
    pub by: Option<NodeId>,
    /// Random bytes for the next secret of the network.
    pub secret: [u8; 32],
    /// Wall time.
    pub now: UnixTime,
}

/// What a session should be told about a network.
#[derive(Clone, Debug)]
pub enum Change {
    /// It holds the newest roster.
    Current,
    /// It holds a roster that this store has never signed or has lost.
    Ahead,
    /// The way from what it holds to the newest.
    Delta(Box<Delta>),
    /// Too old or too different for a delta: [`Changes::pages`].
    Whole,
}

/// The newest roster of a network, read back in one transaction and checked against its signed head.
#[derive(Clone, Debug)]
pub struct Changes {
    /// Which network.
    pub network: NetworkId,
    /// Its newest head.
    pub head: Signed<Head>,
    /// Position of the head.
    pub position: Position,
    /// Root of the head.
    pub root: Hash,
    /// When the head was signed.
    pub issued_at: UnixTime,
    /// Everybody in it.
    pub members: Vec<Public>,
    /// Nodes in it that an owner suspended, until the recovery ends in which that cannot be an eviction.
    pub suspended: Vec<NodeId>,
    /// Its current secret, the one that the head names.
    pub secret: NetworkSecret,
    /// The whole roster, when one of the answers is [`Change::Whole`].
    pub pages: Vec<Page>,
    /// One answer for each position asked about, in order.
    pub answers: Vec<Change>,
}
