//! The daemon as the control socket sees it: requests go to the core task, pings to the engine.

use std::time::Duration;

use async_trait::async_trait;
use kanpachi_common::{NodeId, invite::Invite};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{core::Request, engine, netcheck};
use crate::ipc::{
    api::{
        ChangeReply, ChangeRequest, InviteReply, InviteRequest, JoinReply, NetworkRequest,
        NickReply, Path, Secret, SessionReply, Status,
    },
    control::{Control, Drill, Pong},
    error::{ApiError, ExitCode, code},
    netcheck::NetcheckReply,
};

/// How long a request to the coordinator may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long a check of the network may take.
const NETCHECK: Duration = Duration::from_secs(12);

/// Passes requests on.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) engine: engine::Handle,
    pub(super) stop: CancellationToken,
}

fn stopping() -> ApiError {
    ApiError::failed(code::FAILED, "the daemon is stopping")
}

/// Reads an invite, in words for people when it is none.
pub(super) fn parse(invite: &Secret) -> Result<Box<Invite>, ApiError> {
    Invite::parse(invite.expose()).map(Box::new).map_err(|e| {
        ApiError::new(ExitCode::Usage, code::BAD_INVITE, e)
            .hint("an invite is one line; put it in quotes: kanpachi join 'kanpachi://join/…'")
    })
}

impl Daemon {
    async fn ask<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, ApiError> {
        let (sender, receiver) = oneshot::channel();
        self.requests
            .send(make(sender))
            .await
            .map_err(|_| stopping())?;
        receiver.await.map_err(|_| stopping())
    }

    async fn relay_name(&self, relay: NodeId) -> Result<String, ApiError> {
        self.ask(|reply| Request::RelayName(relay, reply)).await
    }

    async fn ask_coordinator<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<T, ApiError>>) -> Request,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout(PATIENCE, self.ask(make)).await {
            Ok(result) => result?,
            Err(_) => Err(ApiError::unreachable(
                code::COORDINATOR_UNREACHABLE,
                "the coordinator does not answer",
            )
            .hint("see why: kanpachi status")),
        }
    }
}

#[async_trait]
impl Control for Daemon {
    async fn status(&self) -> Result<Status, ApiError> {
        self.ask(Request::Status).await
    }

    async fn join(&self, invite: Secret) -> Result<JoinReply, ApiError> {
        let invite = parse(&invite)?;
        self.ask(|reply| Request::Join(invite, reply)).await?
    }

    async fn create(&self, request: NetworkRequest) -> Result<JoinReply, ApiError> {
        self.ask(|reply| Request::Create(request, reply)).await?
    }

    async fn join_network(&self, request: NetworkRequest) -> Result<JoinReply, ApiError> {
        self.ask(|reply| Request::JoinNetwork(request, reply))
            .await?
    }

    async fn change(&self, request: ChangeRequest) -> Result<ChangeReply, ApiError> {
        self.ask_coordinator(|reply| Request::Change(request, reply))
            .await
    }

    async fn set_logged_in(&self, logged_in: bool) -> Result<SessionReply, ApiError> {
        self.ask(|reply| Request::SetLoggedIn(logged_in, reply))
            .await?
    }

    async fn invite(&self, request: InviteRequest) -> Result<InviteReply, ApiError> {
        self.ask_coordinator(|reply| Request::Invite(request, reply))
            .await
    }

    async fn set_nick(&self, name: String) -> Result<NickReply, ApiError> {
        self.ask_coordinator(|reply| Request::SetNick(name, reply))
            .await
    }

    async fn netcheck(&self) -> Result<NetcheckReply, ApiError> {
        // It ends when the sender is dropped; what was known before is better than nothing.
        let check = self.ask(Request::CheckNetwork);
        let _ = tokio::time::timeout(NETCHECK, check).await;
        let facts = self.ask(Request::NetworkFacts).await?;
        let status = self.status().await?;
        Ok(netcheck::with_peers(*facts, &status))
    }

    async fn drill(&self, length: Duration) -> Result<Drill, ApiError> {
        self.ask(|reply| Request::Drill(length, reply)).await?
    }

    async fn end_drill(&self) -> Result<bool, ApiError> {
        self.ask(Request::EndDrill).await
    }

    async fn ping(&self, node_id: &str, timeout: Duration) -> Result<Option<Pong>, ApiError> {
        let node = NodeId::parse(node_id).ok_or_else(|| ApiError::usage("not a node id"))?;
        let deadline = tokio::time::Instant::now() + timeout;
        // The first ping may have to wait for a handshake: ask again until the time is up.
        while tokio::time::Instant::now() < deadline {
            let (sender, receiver) = oneshot::channel();
            self.engine.send(engine::Command::Ping(node, sender)).await;
            let once = tokio::time::timeout_at(deadline, receiver).await;
            match once {
                Ok(Ok(pong)) => {
                    let (path, via) = match pong.relay {
                        Some(relay) => (Path::Relay, Some(self.relay_name(relay).await?)),
                        None if pong.on_link => (Path::Lan, None),
                        None => (Path::Direct, None),
                    };
                    let direct = pong.relay.is_none();
                    return Ok(Some(Pong {
                        path,
                        via,
                        endpoint: direct.then_some(pong.endpoint),
                        rtt: pong.rtt,
                    }));
                }
                Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(_) => break,
            }
        }
        Ok(None)
    }

    fn down(&self) {
        self.stop.cancel();
    }
}
