//! The HTTP paths of the control socket. Every one that changes something asks for [`Access::Change`] before it looks
//! at the body, and every body is bounded in size and time before it is parsed.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes, to_bytes},
    extract::{FromRequestParts, Query, State, rejection::QueryRejection},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{Stream, StreamExt as _, stream};
use hyper::body::Body as _;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    api::{
        ChangeReply, ChangeRequest, DownReply, InviteReply, InviteRequest, JoinReply, JoinRequest,
        ListReply, Member, NetworkRequest, NickReply, NickRequest, PeerReply, PingReply,
        PingRequest, SCHEMA, SessionReply, Status, VersionReply,
    },
    change::bad_name,
    control::Control,
    drill::{DrillEnded, DrillRequest, Exercise},
    error::{ApiError, ErrorReply, code},
    netcheck::NetcheckReply,
    query::check_invite,
    server::Access,
};
use crate::platform::CONTROL_GROUP;

/// Bytes of a request body.
const MAX_BODY: usize = 64 * 1024;
/// For a request body to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);
/// Uses of one invite at the most.
const MAX_USES: u32 = 1_000_000;
/// Seconds that an invite may be good for: ten years.
const MAX_EXPIRES: u64 = 10 * 365 * 86_400;

/// What all handlers share.
#[derive(Clone)]
struct Shared {
    control: Arc<dyn Control>,
    stop: CancellationToken,
}

pub(super) fn router(control: Arc<dyn Control>, stop: CancellationToken) -> Router {
    Router::new()
        .route("/v1/version", get(version))
        .route("/v1/status", get(status))
        .route("/v1/list", get(list))
        .route("/v1/peer", get(peer))
        .route("/v1/netcheck", get(netcheck))
        .route("/v1/ping", post(ping))
        .route("/v1/join", post(join))
        .route("/v1/create", post(create))
        .route("/v1/join-network", post(join_network))
        .route("/v1/change", post(change))
        .route("/v1/login", post(login))
        .route("/v1/logout", post(logout))
        .route("/v1/invite", post(invite))
        .route("/v1/set-nick", post(set_nick))
        .route("/v1/drill", post(drill))
        .route("/v1/drill-end", post(end_drill))
        .route("/v1/down", post(down))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(Shared { control, stop })
}

async fn version() -> Json<VersionReply> {
    Json(VersionReply {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: SCHEMA,
        pid: std::process::id(),
    })
}

async fn status(State(shared): State<Shared>) -> Result<Json<Status>, Rejection> {
    Ok(Json(shared.control.status().await?))
}

async fn list(State(shared): State<Shared>) -> Result<Json<ListReply>, Rejection> {
    Ok(Json(shared.control.status().await?.list()))
}

async fn netcheck(State(shared): State<Shared>) -> Result<Json<NetcheckReply>, Rejection> {
    Ok(Json(shared.control.netcheck().await?))
}

#[derive(Deserialize)]
struct Target {
    target: String,
}

async fn peer(
    State(shared): State<Shared>,
    target: Result<Query<Target>, QueryRejection>,
) -> Result<Json<PeerReply>, Rejection> {
    let Ok(Query(Target { target })) = target else {
        return Err(ApiError::usage("the query needs a target: /v1/peer?target=NAME").into());
    };
    Ok(Json(shared.control.status().await?.find(&target)?))
}

async fn join(
    State(shared): State<Shared>,
    _: MayChange,
    body: Body,
) -> Result<Json<JoinReply>, Rejection> {
    let request: JoinRequest = read(body).await?;
    check_invite(request.invite.expose())?;
    Ok(Json(shared.control.join(request.invite.clone()).await?))
}

async fn create(
    State(shared): State<Shared>,
    _: MayChange,
    body: Body,
) -> Result<Json<JoinReply>, Rejection> {
    let mut request: NetworkRequest = read(body).await?;
    request.check()?;
    Ok(Json(shared.control.create(request).await?))
}

async fn join_network(
    State(shared): State<Shared>,
    _: MayChange,
    body: Body,
) -> Result<Json<JoinReply>, Rejection> {
    let mut request: NetworkRequest = read(body).await?;
    request.check()?;
    if request.password.is_none() {
        return Err(ApiError::usage("a network is joined by its password").into());
    }
    Ok(Json(shared.control.join_network(request).await?))
}

async fn change(
    State(shared): State<Shared>,
    _: MayChange,
    body: Body,
) -> Result<Json<ChangeReply>, Rejection> {
    let mut request: ChangeRequest = read(body).await?;
    request.check()?;
    Ok(Json(shared.control.change(request).await?))
}

async fn login(
    State(shared): State<Shared>,
    _: MayChange,
) -> Result<Json<SessionReply>, Rejection> {
    Ok(Json(shared.control.set_logged_in(true).await?))
}

async fn logout(
    State(shared): State<Shared>,
    _: MayChange,
) -> Result<Json<SessionReply>, Rejection> {
    Ok(Json(shared.control.set_logged_in(false).await?))
}

async fn invite(
    State(shared): State<Shared>,
    _: MayChange,
    body: Body,
) -> Result<Json<InviteReply>, Rejection> {
    let mut request: InviteRequest = read(body).await?;
    request.network = kanpachi_common::name::check(&request.network).map_err(bad_name)?;
    if !(1..=MAX_USES).contains(&request.uses) {
        return Err(ApiError::usage(format_args!(
            "an invite is for 1 to {MAX_USES} uses, not {}",
            request.uses
        ))
        .into());
    }
    if !(1..=MAX_EXPIRES).contains(&request.expires_s) {
        return Err(ApiError::usage(
            "an invite is good for at least a second and at most ten years",
        )
        .into());
    }
    Ok(Json(shared.control.invite(request).await?))
}

async fn set_nick(
    State(shared): State<Shared>,
    _: MayChange,
    body: Body,
) -> Result<Json<NickReply>, Rejection> {
    let request: NickRequest = read(body).await?;
    let name = kanpachi_common::name::check(&request.name).map_err(bad_name)?;
    Ok(Json(shared.control.set_nick(name).await?))
}

async fn down(State(shared): State<Shared>, _: MayChange) -> Json<DownReply> {
    tracing::info!("asked to stop over the control socket");
    shared.control.down();
    Json(DownReply {
        pid: std::process::id(),
    })
}

async fn drill(
    State(shared): State<Shared>,
    _: MayChange,
    body: Body,
) -> Result<Response, Rejection> {
    let request: DrillRequest = read(body).await?;
    let drill = Exercise::begin(Arc::clone(&shared.control), &request).await?;
    let lines = drill.lines().map(|told| match told {
        Ok(reply) => line(&reply),
        Err(error) => line(&ErrorReply { error }),
    });
    Ok(streamed(lines.take_until(shared.stop.cancelled_owned())))
}

async fn end_drill(
    State(shared): State<Shared>,
    _: MayChange,
) -> Result<Json<DrillEnded>, Rejection> {
    let ended = shared.control.end_drill().await?;
    Ok(Json(DrillEnded { ended }))
}

async fn ping(State(shared): State<Shared>, body: Body) -> Result<Response, Rejection> {
    let request: PingRequest = read(body).await?;
    if !(1..=100_000).contains(&request.count)
        || !(100..=60_000).contains(&request.interval_ms)
        || !(10..=30_000).contains(&request.timeout_ms)
    {
        return Err(ApiError::usage("a ping has a count of 1 to 100000, an interval of 100 to 60000 ms and a timeout of 10 to 30000 ms").into());
    }
    let target = shared.control.status().await?.find(&request.target)?.peer;
    let pings = Pings {
        shared,
        target,
        request,
        seq: 0,
        next: Instant::now(),
    };
    // The first answer decides whether there is anything to stream: a refusal is still a proper error.
    let (first, rest) = pings.one().await?;
    let lines = stream::once(async move { line(&first) }).chain(rest.lines());
    Ok(streamed(lines))
}

/// An answer of one line after the other.
fn streamed(lines: impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static) -> Response {
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

/// A series of pings, paced here so that nobody can ask for a flood.
struct Pings {
    shared: Shared,
    target: Member,
    request: PingRequest,
    seq: u32,
    next: Instant,
}

impl Pings {
    async fn one(mut self) -> Result<(PingReply, Self), ApiError> {
        tokio::time::sleep_until(self.next).await;
        self.next = Instant::now() + Duration::from_millis(self.request.interval_ms);
        self.seq += 1;
        let pong = self
            .shared
            .control
            .ping(
                &self.target.node_id,
                Duration::from_millis(self.request.timeout_ms),
            )
            .await?;
        let reply = PingReply {
            seq: self.seq,
            name: self.target.name.clone(),
            node_id: self.target.node_id.clone(),
            ipv4: self.target.ipv4,
            ipv6: self.target.ipv6,
            path: pong.as_ref().map(|p| p.path),
            via: pong.as_ref().and_then(|p| p.via.clone()),
            endpoint: pong.as_ref().and_then(|p| p.endpoint),
            rtt_ms: pong.as_ref().map(|p| p.rtt.as_secs_f64() * 1e3),
        };
        Ok((reply, self))
    }

    /// The remaining ones. An error in the middle is the last line.
    fn lines(self) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
        let stop = self.shared.stop.clone();
        stream::unfold(Some(self), async |pings| {
            let pings = pings.filter(|p| p.seq < p.request.count)?;
            match pings.one().await {
                Ok((reply, rest)) => Some((line(&reply), Some(rest))),
                Err(error) => Some((line(&ErrorReply { error }), None)),
            }
        })
        .take_until(stop.cancelled_owned())
    }
}

fn line(value: &impl Serialize) -> Result<Bytes, Infallible> {
    // Serialising these types cannot fail: their maps have string keys and they write into memory.
    let mut text = serde_json::to_vec(value).unwrap_or_default();
    text.push(b'\n');
    Ok(text.into())
}

async fn no_such_path() -> Rejection {
    Rejection(
        StatusCode::NOT_FOUND,
        ApiError::usage("no such path on the control socket").hint("docs/cli.md lists them"),
    )
}

async fn wrong_method() -> Rejection {
    Rejection(
        StatusCode::METHOD_NOT_ALLOWED,
        ApiError::usage("wrong method: reading is GET, everything else is POST"),
    )
}

/// Reads and parses a body: at most 64 KiB, within ten seconds. The content type is not looked at, so `curl -d` works.
async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Rejection> {
    let too_large = || {
        let error = ApiError::usage(format_args!(
            "the request body is incomplete or larger than {MAX_BODY} bytes"
        ));
        Rejection(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    // What announces too much is not waited for.
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    let bytes = match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(too_large()),
        Err(_) => {
            return Err(Rejection(
                StatusCode::REQUEST_TIMEOUT,
                ApiError::usage("the request body did not arrive in time"),
            ));
        }
    };
    // The parser's message may quote what it did not like. It goes back to whoever sent that, and into no log.
    serde_json::from_slice(&bytes).map_err(|error| {
        ApiError::usage(format_args!(
            "the request is not the JSON expected here: {error}"
        ))
        .into()
    })
}

/// Proof that the caller may change things.
struct MayChange;

impl<S: Sync> FromRequestParts<S> for MayChange {
    type Rejection = Rejection;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Rejection> {
        match parts.extensions.get::<Access>() {
            Some(Access::Change) => Ok(Self),
            Some(Access::Read) | None => Err(ApiError::no_permission(
                code::NO_PERMISSION,
                format_args!("only root and members of the group `{CONTROL_GROUP}` may do this"),
            )
            .hint(format_args!("run it with sudo, or once: sudo usermod -aG {CONTROL_GROUP} \"$USER\", and log in again"))
            .into()),
        }
    }
}

/// An error on its way out, with its status.
struct Rejection(StatusCode, ApiError);

impl From<ApiError> for Rejection {
    fn from(error: ApiError) -> Self {
        Self(
            StatusCode::from_u16(error.exit.http_status())
                .unwrap_or(StatusCode::INTERNAL_SERVER_ERROR),
            error,
        )
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        (self.0, Json(ErrorReply { error: self.1 })).into_response()
    }
}
