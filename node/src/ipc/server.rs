//! The daemon's end of the control socket: who connects, how many at once, for how long.
//!
//! A local user who may only read must not be able to keep an administrator out, so the two have separate places.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::unistd::geteuid;
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    control::Control,
    error::{ApiError, ErrorReply, code},
    routes,
    socket::{Socket, SocketFile},
};
use crate::platform::{CONTROL_GROUP, Native, Platform as _};

/// Connections at once of those who may only read.
const MAX_READERS: usize = 32;
/// Connections at once of those who may change things.
const MAX_ADMINS: usize = 32;
/// For a request line with all its headers, and for the silence between two requests.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request line with all its headers.
const MAX_HEADER: usize = 16 * 1024;
/// For what runs when the daemon stops.
const FAREWELL: Duration = Duration::from_secs(2);
/// After a failed accept (usually: no file descriptors left), before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a connection may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Access {
    /// Look.
    Read,
    /// Look and change.
    Change,
}

/// The control socket of a daemon.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
}

impl Server {
    /// Takes the socket. Clients can connect from now on, and wait until [`Server::serve`].
    ///
    /// # Errors
    /// See [`Socket::bind`].
    pub fn bind(path: &Path) -> Result<Self, ApiError> {
        Ok(Self {
            socket: Socket::bind(path)?,
        })
    }

    /// Answers until `stop`, then lets running requests end (at most two seconds) and removes the socket file. Whoever
    /// waits for the daemon to be gone waits for that, so stop this last.
    pub async fn serve(self, control: Arc<dyn Control>, stop: CancellationToken) {
        let (listener, file) = self.socket.into_parts();
        match UnixListener::from_std(listener) {
            Ok(listener) => Accepting::new(control, stop).run(listener).await,
            Err(error) => tracing::error!(%error, "the control socket cannot be served"),
        }
        drop::<SocketFile>(file);
    }
}

/// The accept loop.
struct Accepting {
    router: axum::Router,
    stop: CancellationToken,
    readers: Arc<Semaphore>,
    admins: Arc<Semaphore>,
    /// Was the full house told already?
    full: AtomicBool,
}

impl Accepting {
    fn new(control: Arc<dyn Control>, stop: CancellationToken) -> Self {
        Self {
            router: routes::router(control, stop.clone()),
            stop,
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            admins: Arc::new(Semaphore::new(MAX_ADMINS)),
            full: AtomicBool::new(false),
        }
    }

    async fn run(self, listener: UnixListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => self.start(stream, &mut connections),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept on the control socket");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // Connections heard the same `stop`; whoever is still busy afterwards is cut off with the set.
        let all = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            tracing::debug!("requests on the control socket were cut off");
        }
    }

    fn start(&self, stream: UnixStream, connections: &mut JoinSet<()>) {
        // Whom the kernel does not vouch for is nobody.
        let access = match access(&stream) {
            Ok(access) => access,
            Err(error) => {
                tracing::warn!(%error, "a connection to the control socket without credentials was refused");
                return;
            }
        };
        let places = match access {
            Access::Read => &self.readers,
            Access::Change => &self.admins,
        };
        let Ok(place) = Arc::clone(places).try_acquire_owned() else {
            if !self.full.swap(true, Ordering::Relaxed) {
                tracing::warn!("too many connections to the control socket at once");
            }
            refuse(stream);
            return;
        };
        let service = TowerToHyperService::new(self.router.clone().layer(Extension(access)));
        let stop = self.stop.clone();
        connections.spawn(async move {
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .max_buf_size(MAX_HEADER);
            let mut connection =
                std::pin::pin!(http.serve_connection(TokioIo::new(stream), service));
            let result = tokio::select! {
                result = connection.as_mut() => result,
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = result {
                tracing::debug!(%error, "a connection to the control socket ended badly");
            }
            drop(place);
        });
    }
}

/// Root and the group may change things, and so may the user whom the daemon itself runs as: a daemon that got its
/// capability from the service manager could be stopped or traced by that user anyway.
fn access(stream: &UnixStream) -> std::io::Result<Access> {
    let peer = Native::default().peer_credentials(stream)?;
    // Looked up each time, so that a group made after the start counts.
    let group = Native::default().group_id(CONTROL_GROUP).unwrap_or_else(|error| {
        tracing::warn!(%error, "the group {CONTROL_GROUP} cannot be looked up, so only root may change things");
        None
    });
    let change = peer.may_change(group) || peer.uid == geteuid().as_raw();
    Ok(if change { Access::Change } else { Access::Read })
}

/// Says why, if that fits into the socket's buffer, and hangs up.
fn refuse(mut stream: UnixStream) {
    let error =
        ApiError::failed(code::BUSY, "too many requests at once").hint("try again in a moment");
    let Ok(body) = serde_json::to_string(&ErrorReply { error }) else {
        return;
    };
    let head = "HTTP/1.1 500 Internal Server Error\r\ncontent-type: application/json\r\nconnection: close\r\n";
    let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
    let _ =
        futures::FutureExt::now_or_never(async move { stream.write_all(answer.as_bytes()).await });
}
