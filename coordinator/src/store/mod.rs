//! The store: everything that must survive, behind a trait of intents.
//!
//! Each method of [`Store`] is one transaction: it reads, decides, writes and signs, or changes nothing at all.
//! No method hands out rows or takes statements, so that another engine can stand behind the same trait. What
//! is served was read back and checked against its signed head: a failed, short or empty read is an error and
//! never an empty roster.

#[cfg(test)]
pub(crate) mod conformance;
mod error;
mod membership;
mod recovery;
pub mod sqlite;
mod types;

use async_trait::async_trait;
use kanpachi_common::{
    NetworkId, NodeId, Signed, UnixTime, Verified,
    org::{Directory, Server},
    roster::{Head, PublicRoster, VerifiedRoster},
    wire::control::{Held, Registration},
};

pub use error::{Refusal, StoreError};
pub use membership::{
    CreateNetwork, DeleteNetwork, Evict, Evicted, JoinByPassword, Leave, NetworkPassword, Newcomer,
    PasswordHash, SetAccess, SetPassword, SetRole, Settle,
};
pub use recovery::{
    Adopt, Adopted, BringSuspends, EndRecovery, IN_RECOVERY, JUMP, Recovered, Recovery, Seen,
    ShownNetwork,
};
pub use types::{
    Change, Changes, InviteStored, JoinNetwork, JoinedNetwork, LoggedIn, Login, NamesSet,
    NetworkSummary, NewInvite, NewNetwork, RemoveMember, SetName,
};

/// What an intent comes to.
pub type Result<T> = std::result::Result<T, StoreError>;

/// The state of an organisation. All methods are safe to repeat with the same input.
#[async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Creates a network with a signed roster of no members.
    async fn create_network(&self, new: NewNetwork) -> Result<NetworkSummary>;
    /// Creates a network whose first member and owner is the node that asks.
    async fn create_network_by(&self, create: CreateNetwork) -> Result<JoinedNetwork>;
    /// All networks that were not deleted, by name.
    async fn networks(&self) -> Result<Vec<NetworkSummary>>;
    /// Networks that were deleted. Their last heads are there still.
    async fn ended_networks(&self) -> Result<Vec<NetworkId>>;
    /// Networks that a node is a member of; not those in which it awaits approval.
    async fn networks_of(&self, node: NodeId) -> Result<Vec<NetworkId>>;
    /// Looks a node up, compares what it holds with what is stored, and takes its tunnel key, if it is newer than the one
    /// known and nothing speaks against signing.
    async fn login(&self, login: Login) -> Result<LoggedIn>;
    /// Stores an invite.
    async fn create_invite(&self, new: NewInvite) -> Result<InviteStored>;
    /// Checks and uses an invite, registers the node, gives it an address, adds the member, raises the epoch and
    /// writes the signed head.
    async fn join_network(&self, join: JoinNetwork) -> Result<JoinedNetwork>;
    /// What a network of this name is joined by; `None` when there is none of the name, or none with a password.
    async fn password_of(&self, name: String) -> Result<Option<NetworkPassword>>;
    /// Adds a member that is registered already, if the password that was verified is the stored one still.
    async fn join_by_password(&self, join: JoinByPassword) -> Result<JoinedNetwork>;
    /// Ends the membership of whoever asks; makes the heir an owner first, or deletes the network with its last member.
    async fn leave(&self, leave: Leave) -> Result<Vec<NetworkId>>;
    /// Ends a network: a last head without members, invites revoked, its name free.
    async fn delete_network(&self, delete: DeleteNetwork) -> Result<Vec<NetworkId>>;
    /// [`Self::remove_member`], and the node stays out until somebody invites it again.
    async fn evict(&self, evict: Evict) -> Result<Evicted>;
    /// Sets or removes the password of a network.
    async fn set_password(&self, set: SetPassword) -> Result<()>;
    /// Says who may join.
    async fn set_access(&self, set: SetAccess) -> Result<Vec<NetworkId>>;
    /// Lets a member in that awaits approval, or takes it out.
    async fn settle(&self, settle: Settle) -> Result<Vec<NetworkId>>;
    /// Makes a member an owner, or an owner a member.
    async fn set_role(&self, set: SetRole) -> Result<Vec<NetworkId>>;
    /// Changes a node's name in one or all of its networks; a taken one gets a suffix.
    async fn set_name(&self, set: SetName) -> Result<NamesSet>;
    /// Ends a membership: new network secret, invites of the member revoked, its address set to rest when it was
    /// the node's last network.
    async fn remove_member(&self, remove: RemoveMember) -> Result<()>;
    /// Ends memberships that owners ended while no coordinator was there. In recovery they wait for its end, and their
    /// members are out meanwhile. What counts for nothing changes nothing.
    async fn bring_suspends(&self, brought: BringSuspends) -> Result<Vec<NetworkId>>;
    /// Takes note of a head. One that is newer than what is stored begins the recovery: from then on nothing is signed. Is
    /// the store in recovery now?
    async fn see(&self, seen: Seen) -> Result<bool>;
    /// [`Self::see`], and takes the roster over in place of what is stored of its network, when it is newer.
    async fn adopt(&self, adopt: Adopt) -> Result<Adopted>;
    /// The recovery as it stands, if there is one.
    async fn recovery(&self) -> Result<Option<Recovery>>;
    /// Ends the recovery: suspensions are carried out, then every network goes on above all that was shown. Invites end,
    /// free addresses rest.
    async fn end_recovery(&self, end: EndRecovery) -> Result<Recovered>;
    /// The newest roster, and for each position in `held` the way there.
    async fn changes_since(&self, network: NetworkId, held: Vec<Held>) -> Result<Changes>;
    /// The newest roster, every entry checked.
    async fn roster(&self, network: NetworkId) -> Result<VerifiedRoster>;
    /// What the organisation knows of a node.
    async fn registration(&self, node: NodeId) -> Result<Option<Registration>>;
    /// Signs every newest head that is older than `older_than` again: same root, later time.
    async fn renew_heads(&self, older_than: UnixTime, now: UnixTime) -> Result<Vec<NetworkId>>;
    /// The newest head of a network; `None` when there is no such network.
    async fn newest_head(&self, network: NetworkId) -> Result<Option<Verified<Head>>>;
    /// Head and public halves, for mirrors.
    async fn public_roster(&self, network: NetworkId) -> Result<PublicRoster>;
    /// The directory with these servers: the stored one when it says so already, or a newly signed one with a
    /// number above `floor` and above all before.
    async fn publish_directory(
        &self,
        coordinators: Vec<Server>,
        bootstraps: Vec<Server>,
        floor: u64,
        now: UnixTime,
    ) -> Result<Signed<Directory>>;
}
