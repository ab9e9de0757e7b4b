//! The command line's end of the control socket. One connection per request.

use std::{
    io,
    marker::PhantomData,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{net::UnixStream, time::timeout};

use super::{
    api::{
        ChangeReply, ChangeRequest, DownReply, InviteReply, InviteRequest, JoinReply, JoinRequest,
        ListReply, NetworkRequest, NickReply, NickRequest, PeerReply, PingReply, PingRequest,
        Secret, SessionReply, Status, VersionReply,
    },
    drill::{DrillEnded, DrillReply, DrillRequest},
    error::{ApiError, ErrorReply, ExitCode, code},
    netcheck::NetcheckReply,
};

/// For the connection itself.
const CONNECT: Duration = Duration::from_secs(3);
/// For what the daemon answers by itself.
const LOCAL: Duration = Duration::from_secs(10);
/// For what the coordinator has to answer.
const REMOTE: Duration = Duration::from_secs(30);
/// For a join: the coordinator is dialled, the roster fetched and the adapter made.
const JOIN: Duration = Duration::from_secs(90);
/// For a daemon to be gone after it said that it will be.
const DOWN: Duration = Duration::from_secs(15);
/// Between two looks at whether it is.
const DOWN_POLL: Duration = Duration::from_millis(20);
/// Bytes of an answer at the most: a network of 4,096 members is about 2.5 MB.
const MAX_ANSWER: usize = 64 * 1024 * 1024;
/// Bytes of one line of a streamed answer.
const MAX_LINE: usize = 64 * 1024;

/// The daemon behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// Nothing is connected yet.
    #[must_use]
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self {
            socket: socket.into(),
        }
    }

    /// Where the daemon is expected.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Is anybody there?
    ///
    /// # Errors
    /// The socket is there but this user may not open it, and the like.
    pub async fn is_running(&self) -> Result<bool, ApiError> {
        match self.connect().await {
            Ok(_) => Ok(true),
            Err(error) if error.code == code::NO_DAEMON => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// `GET /v1/version`
    ///
    /// # Errors
    /// No daemon, or one that does not answer.
    pub async fn version(&self) -> Result<VersionReply, ApiError> {
        self.get("/v1/version").await
    }

    /// `GET /v1/status`
    ///
    /// # Errors
    /// No daemon, or one that does not answer.
    pub async fn status(&self) -> Result<Status, ApiError> {
        self.get("/v1/status").await
    }

    /// `GET /v1/list`
    ///
    /// # Errors
    /// No daemon, or one that does not answer.
    pub async fn list(&self) -> Result<ListReply, ApiError> {
        self.get("/v1/list").await
    }

    /// `GET /v1/peer`
    ///
    /// # Errors
    /// No daemon, or no such member.
    pub async fn peer(&self, target: &str) -> Result<PeerReply, ApiError> {
        self.get(&format!("/v1/peer?target={}", percent_encode(target)))
            .await
    }

    /// `GET /v1/netcheck`
    ///
    /// # Errors
    /// No daemon, or one that does not answer.
    pub async fn netcheck(&self) -> Result<NetcheckReply, ApiError> {
        self.request(Method::GET, "/v1/netcheck", &[], REMOTE).await
    }

    /// `POST /v1/join`
    ///
    /// # Errors
    /// No daemon, no permission, or whatever the invite is refused for.
    pub async fn join(&self, invite: Secret) -> Result<JoinReply, ApiError> {
        self.post("/v1/join", &JoinRequest { invite }, JOIN).await
    }

    /// Whether this user may change things: a join that says nothing is refused for that first.
    ///
    /// # Errors
    /// No daemon, or no permission.
    pub async fn check_permission(&self) -> Result<(), ApiError> {
        let empty = serde_json::Map::new();
        match self.post::<JoinReply>("/v1/join", &empty, LOCAL).await {
            Err(error) if error.exit != ExitCode::Usage => Err(error),
            _ => Ok(()),
        }
    }

    /// `POST /v1/create`
    ///
    /// # Errors
    /// No daemon, no permission, no coordinator, or the name is taken.
    pub async fn create(&self, request: &NetworkRequest) -> Result<JoinReply, ApiError> {
        self.post("/v1/create", request, JOIN).await
    }

    /// `POST /v1/join-network`
    ///
    /// # Errors
    /// No daemon, no permission, no coordinator, or whatever it is refused for.
    pub async fn join_network(&self, request: &NetworkRequest) -> Result<JoinReply, ApiError> {
        self.post("/v1/join-network", request, JOIN).await
    }

    /// `POST /v1/change`
    ///
    /// # Errors
    /// No daemon, no permission, no coordinator, or whatever it is refused for.
    pub async fn change(&self, request: &ChangeRequest) -> Result<ChangeReply, ApiError> {
        self.post("/v1/change", request, REMOTE).await
    }

    /// `POST /v1/login`, `POST /v1/logout`
    ///
    /// # Errors
    /// No daemon, no permission, or the decision cannot be written down.
    pub async fn set_logged_in(&self, logged_in: bool) -> Result<SessionReply, ApiError> {
        let path = if logged_in { "/v1/login" } else { "/v1/logout" };
        self.post(path, &serde_json::Map::new(), REMOTE).await
    }

    /// `POST /v1/invite`
    ///
    /// # Errors
    /// No daemon, no permission, or no coordinator.
    pub async fn invite(&self, request: &InviteRequest) -> Result<InviteReply, ApiError> {
        self.post("/v1/invite", request, REMOTE).await
    }

    /// `POST /v1/set-nick`
    ///
    /// # Errors
    /// No daemon, no permission, or no coordinator.
    pub async fn set_nick(&self, name: String) -> Result<NickReply, ApiError> {
        self.post("/v1/set-nick", &NickRequest { name }, REMOTE)
            .await
    }

    /// `POST /v1/down`, and waits until the daemon is gone: nobody answers on the socket, and the process has ended, so
    /// that its locks and its interface are free for the next one.
    ///
    /// # Errors
    /// No daemon, no permission, or a daemon that does not stop.
    pub async fn down(&self) -> Result<DownReply, ApiError> {
        // As this process sees it; the daemon may know itself by another number, in a container.
        let pid = self
            .connect()
            .await?
            .peer_cred()
            .ok()
            .and_then(|peer| peer.pid());
        let reply: DownReply = self
            .post("/v1/down", &serde_json::Map::new(), LOCAL)
            .await?;
        let gone = async {
            while UnixStream::connect(&self.socket).await.is_ok() || pid.is_some_and(is_alive) {
                tokio::time::sleep(DOWN_POLL).await;
            }
        };
        let silent = |_| {
            ApiError::failed(
                code::DAEMON_SILENT,
                format_args!("the daemon (process {}) does not stop", reply.pid),
            )
            .hint(format_args!("look at its log, then: kill {}", reply.pid))
        };
        timeout(DOWN, gone).await.map_err(silent)?;
        Ok(reply)
    }

    /// `POST /v1/ping`; the answers come one by one.
    ///
    /// # Errors
    /// No daemon, no such member, or the first ping could not even be sent.
    pub async fn ping(&self, request: &PingRequest) -> Result<Lines<PingReply>, ApiError> {
        let patience = Duration::from_millis(request.timeout_ms) + LOCAL;
        let response = timeout(
            patience,
            self.send(Method::POST, "/v1/ping", &encode(request)?),
        )
        .await
        .map_err(|_| self.silent())??;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        let patience = patience + Duration::from_millis(request.interval_ms);
        Ok(self.lines(response, patience))
    }

    /// `POST /v1/drill`; what there is to tell comes line by line. Dropped before its end, it ends the drill.
    ///
    /// # Errors
    /// No daemon, no permission, or a drill that is on already.
    pub async fn drill(&self, request: &DrillRequest) -> Result<Lines<DrillReply>, ApiError> {
        let body = encode(request)?;
        let answer = timeout(REMOTE, self.send(Method::POST, "/v1/drill", &body)).await;
        let response = answer.map_err(|_| self.silent())??;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        Ok(self.lines(response, REMOTE))
    }

    /// `POST /v1/drill-end`
    ///
    /// # Errors
    /// No daemon, or no permission.
    pub async fn end_drill(&self) -> Result<DrillEnded, ApiError> {
        self.post("/v1/drill-end", &serde_json::Map::new(), LOCAL)
            .await
    }

    fn lines<T>(&self, response: Response<Incoming>, patience: Duration) -> Lines<T> {
        Lines {
            client: self.clone(),
            body: response.into_body(),
            buffer: Vec::new(),
            patience,
            kind: PhantomData,
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.request(Method::GET, path, &[], LOCAL).await
    }

    async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
        patience: Duration,
    ) -> Result<T, ApiError> {
        self.request(Method::POST, path, &encode(body)?, patience)
            .await
    }

    async fn request<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<T, ApiError> {
        let exchange = async {
            let response = self.send(method, path, body).await?;
            if response.status() != StatusCode::OK {
                return Err(self.refusal(response).await);
            }
            let body = collect(response).await.map_err(|_| self.hung_up())?;
            serde_json::from_slice(&body).map_err(|error| {
                ApiError::failed(
                    code::DAEMON_VERSION,
                    format_args!("the daemon's answer is not understood: {error}"),
                )
                .hint("daemon and command line may be of different versions: restart the daemon")
            })
        };
        timeout(patience, exchange)
            .await
            .map_err(|_| self.silent())?
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: &[u8],
    ) -> Result<Response<Incoming>, ApiError> {
        let stream = self.connect().await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|_| self.hung_up())?;
        // Ends with the response body, or when that is dropped.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "the connection to the daemon ended badly");
            }
        });
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "kanpachi")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::copy_from_slice(body)))
            .map_err(|error| {
                ApiError::usage(format_args!("the request cannot be sent: {error}"))
            })?;
        sender
            .send_request(request)
            .await
            .map_err(|_| self.hung_up())
    }

    async fn connect(&self) -> Result<UnixStream, ApiError> {
        let connected = timeout(CONNECT, UnixStream::connect(&self.socket))
            .await
            .map_err(|_| self.silent())?;
        connected.map_err(|error| self.no_connection(&error))
    }

    fn no_connection(&self, error: &io::Error) -> ApiError {
        let socket = self.socket.display();
        match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NotADirectory => ApiError::new(
                ExitCode::NoDaemon,
                code::NO_DAEMON,
                format_args!("no daemon is running (nobody answers on {socket})"),
            )
            .hint("start it: sudo kanpachi up, or join a network: sudo kanpachi join INVITE"),
            io::ErrorKind::PermissionDenied => ApiError::no_permission(
                code::NO_PERMISSION,
                format_args!("this user may not open the control socket {socket}"),
            )
            .hint("run it with sudo"),
            io::ErrorKind::WouldBlock => {
                ApiError::failed(code::BUSY, "the daemon has too many requests at once")
                    .hint("try again in a moment")
            }
            _ => ApiError::failed(
                code::FAILED,
                format_args!("cannot connect to {socket}: {error}"),
            ),
        }
    }

    /// The error in an answer that is one.
    async fn refusal(&self, response: Response<Incoming>) -> ApiError {
        let status = response.status();
        let exit = ExitCode::from_http_status(status.as_u16());
        let reply = collect(response)
            .await
            .ok()
            .and_then(|body| serde_json::from_slice::<ErrorReply>(&body).ok());
        match reply {
            Some(reply) => ApiError {
                exit,
                ..reply.error
            },
            None => ApiError::new(
                exit,
                code::FAILED,
                format_args!("the daemon answers {status} and does not say why"),
            )
            .hint(format_args!(
                "is {} the socket of a Kanpachi daemon?",
                self.socket.display()
            )),
        }
    }

    fn silent(&self) -> ApiError {
        ApiError::failed(
            code::DAEMON_SILENT,
            format_args!(
                "the daemon on {} does not answer in time",
                self.socket.display()
            ),
        )
        .hint("look at its log; if it hangs, restart it")
    }

    fn hung_up(&self) -> ApiError {
        ApiError::failed(
            code::DAEMON_SILENT,
            format_args!(
                "the daemon on {} hung up without an answer",
                self.socket.display()
            ),
        )
        .hint("look at its log: it may just have stopped")
    }
}

/// Pings as they come.
#[derive(Debug)]
pub struct Lines<T> {
    client: Client,
    body: Incoming,
    buffer: Vec<u8>,
    patience: Duration,
    kind: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// The next one; `None` when all have come.
    ///
    /// # Errors
    /// The daemon gave up, hung up or fell silent.
    pub async fn next(&mut self) -> Result<Option<T>, ApiError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return self.parse(&line).map(Some);
            }
            if self.buffer.len() > MAX_LINE {
                return Err(self.client.hung_up());
            }
            match timeout(self.patience, self.body.frame())
                .await
                .map_err(|_| self.client.silent())?
            {
                None if self.buffer.is_empty() => return Ok(None),
                None | Some(Err(_)) => return Err(self.client.hung_up()),
                Some(Ok(frame)) => self.buffer.extend(frame.data_ref().into_iter().flatten()),
            }
        }
    }

    fn parse(&self, line: &[u8]) -> Result<T, ApiError> {
        if let Ok(reply) = serde_json::from_slice(line) {
            return Ok(reply);
        }
        match serde_json::from_slice::<ErrorReply>(line) {
            // A line has no status; whatever stops a series that had begun means that the peer is out of reach.
            Ok(reply) => Err(ApiError {
                exit: ExitCode::Unreachable,
                ..reply.error
            }),
            Err(_) => Err(self.client.hung_up()),
        }
    }
}

/// Does the process run? One that has ended and only waits to be noticed by its parent does not. Nor does one that
/// cannot be seen, or this process itself, which embeds its daemon.
fn is_alive(pid: i32) -> bool {
    if pid <= 0 || u32::try_from(pid) == Ok(std::process::id()) {
        return false;
    }
    // proc(5): the state is the first field behind the name, which is in parentheses and may contain some.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(body).map_err(|error| ApiError::failed(code::FAILED, error))
}

async fn collect(
    response: Response<Incoming>,
) -> Result<Bytes, Box<dyn std::error::Error + Send + Sync>> {
    Ok(Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await?
        .to_bytes())
}

/// RFC 3986: everything but unreserved characters, of UTF-8.
fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_a_target_is_made_of_stays_in_the_query() {
        assert_eq!(percent_encode("lamp-2.x_~"), "lamp-2.x_~");
        assert_eq!(percent_encode("a b&c=d/é\n"), "a%20b%26c%3Dd%2F%C3%A9%0A");
    }

    #[test]
    fn a_process_that_only_waits_to_be_noticed_is_not_alive() {
        let mut child = std::process::Command::new("cat")
            .stdin(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        assert!(is_alive(pid));
        drop(child.stdin.take());
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while is_alive(pid) {
            assert!(
                std::time::Instant::now() < deadline,
                "a zombie counts as alive"
            );
        }
        child.wait().unwrap();
        assert!(!is_alive(pid) && !is_alive(0) && !is_alive(-1));
    }

    #[tokio::test]
    async fn nobody_there_is_exit_code_4_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::new(dir.path().join("none.sock"));
        let error = client.status().await.unwrap_err();
        assert_eq!(
            (error.exit, error.code.as_str()),
            (ExitCode::NoDaemon, code::NO_DAEMON)
        );
        assert!(error.message.starts_with("no daemon is running"), "{error}");
        assert!(error.hint.unwrap().contains("kanpachi up"));
        assert!(!client.is_running().await.unwrap());
    }
}
