//! What the daemon does for the control socket.

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;

use super::{
    api::{
        ChangeReply, ChangeRequest, InviteReply, InviteRequest, JoinReply, NetworkRequest,
        NickReply, Path, Secret, SessionReply, Status,
    },
    error::ApiError,
};

/// The daemon as the control socket sees it. Whether the caller may ask is settled before any of these is called;
/// the network name, target or nick that arrives is checked by the callee.
///
/// A request whose client goes away is dropped at its next await point, so what must not stop halfway belongs into
/// a task of the daemon's own.
#[async_trait]
pub trait Control: Send + Sync + 'static {
    /// Everything, at this moment. Cheap: `list`, `peer` and `ping` are answered from it too.
    async fn status(&self) -> Result<Status, ApiError>;

    /// Joins by an invite. Returns when the membership is on disk and the adapter is up.
    async fn join(&self, invite: Secret) -> Result<JoinReply, ApiError>;

    /// Makes a network.
    async fn create(&self, request: NetworkRequest) -> Result<JoinReply, ApiError>;

    /// Joins one more network by name and password. Returns when the roster is on disk, or when an owner is to approve.
    async fn join_network(&self, request: NetworkRequest) -> Result<JoinReply, ApiError>;

    /// Changes a network that this machine is a member of.
    async fn change(&self, request: ChangeRequest) -> Result<ChangeReply, ApiError>;

    /// Logs in or out.
    async fn set_logged_in(&self, logged_in: bool) -> Result<SessionReply, ApiError>;

    /// Has the coordinator make an invite.
    async fn invite(&self, request: InviteRequest) -> Result<InviteReply, ApiError>;

    /// Asks the coordinator for another name. `name` has passed [`kanpachi_common::name::check`].
    async fn set_nick(&self, name: String) -> Result<NickReply, ApiError>;

    /// One ping inside the tunnel to the member with this node id, setting the tunnel up first if need be.
    /// `None` is no answer within `timeout`. The socket does the counting and the pacing.
    async fn ping(&self, node_id: &str, timeout: Duration) -> Result<Option<Pong>, ApiError>;

    /// Stops the daemon: asks for it and returns. The answer still has to get out, so the socket closes last.
    fn down(&self);
}

/// An answered ping.
#[derive(Clone, Debug, PartialEq)]
pub struct Pong {
    /// Path that the answer came by.
    pub path: Path,
    /// The relay, when it came by one.
    pub via: Option<String>,
    /// Underlay address that the answer came from.
    pub endpoint: Option<SocketAddr>,
    /// Round trip.
    pub rtt: Duration,
}
