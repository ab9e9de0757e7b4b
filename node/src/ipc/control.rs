//! What the daemon does for the control socket.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{
    api::{
        ChangeReply, ChangeRequest, InviteReply, InviteRequest, JoinReply, NetworkRequest,
        NickReply, Path, Secret, SessionReply, Status,
    },
    error::ApiError,
    netcheck::NetcheckReply,
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

    /// Finds out what the network in front of this node does. Takes some seconds.
    async fn netcheck(&self) -> Result<NetcheckReply, ApiError>;

    /// Has the coordinator make an invite.
    async fn invite(&self, request: InviteRequest) -> Result<InviteReply, ApiError>;

    /// Asks the coordinator for another name. `name` has passed [`kanpachi_common::name::check`].
    async fn set_nick(&self, name: String) -> Result<NickReply, ApiError>;

    /// Cuts the node off from coordinator and bootstraps, for at most this long.
    async fn drill(&self, length: Duration) -> Result<Drill, ApiError>;

    /// Ends a drill before its time; whether one was on.
    async fn end_drill(&self) -> Result<bool, ApiError>;

    /// One ping inside the tunnel to the member with this node id, setting the tunnel up first if need be.
    /// `None` is no answer within `timeout`. The socket does the counting and the pacing.
    async fn ping(&self, node_id: &str, timeout: Duration) -> Result<Option<Pong>, ApiError>;

    /// Stops the daemon: asks for it and returns. The answer still has to get out, so the socket closes last.
    fn down(&self);
}

/// A drill that is on. Dropping it ends it.
#[derive(Debug)]
pub struct Drill {
    /// The coordinator that was connected.
    pub coordinator: Option<String>,
    /// By node id, where the addresses of the members come from: `lan`, `member`, `cache`; more may come.
    pub sources: BTreeMap<String, Vec<String>>,
    /// Cancelled to end it.
    pub asked: CancellationToken,
    /// Cancelled when it is over.
    pub over: CancellationToken,
}

impl Drop for Drill {
    fn drop(&mut self) {
        self.asked.cancel();
    }
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
