//! libp2p over QUIC on the shared socket (`/udp/PORT/quic-v1`).
//!
//! libp2p-quic opens its own sockets and cannot be given one, so this is a transport of our own over quinn. It
//! speaks the same protocol and interoperates with it. All listeners and all dials use the one socket, which is
//! the point: one NAT mapping, and a hole punched for QUIC is a hole for the tunnel.

pub mod address;
mod config;
mod connection;
mod listener;
mod punch;
mod runtime;
mod socket;

use std::{
    collections::{HashMap, VecDeque},
    fmt, io,
    net::{IpAddr, SocketAddr, UdpSocket},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{FutureExt, channel::oneshot, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId,
    core::{
        Endpoint,
        transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent},
    },
    identity::Keypair,
};
use thiserror::Error;

pub use self::connection::{Connection, Stream};
use self::{
    config::Config,
    connection::establish,
    listener::{Change, Listener},
    runtime::QuicRuntime,
    socket::QuicSocket,
};
use crate::{demux::canonical, socket::SharedSocket};

/// Handshakes at once above which a caller must first show that its address is its own (QUIC Retry, RFC 9000 §8.1).
const RETRY_ABOVE: usize = 64;
/// Handshakes at once above which callers are turned away.
const MAX_HANDSHAKES: usize = 512;

/// What goes wrong with QUIC.
#[derive(Debug, Error)]
pub enum Error {
    /// The shared socket has a QUIC endpoint already.
    #[error("the UDP socket serves a QUIC endpoint already")]
    SocketTaken,
    /// The key or a certificate is unusable.
    #[error("TLS: {0}")]
    Tls(String),
    /// The peer showed no certificate.
    #[error("the peer did not say who it is")]
    NoCertificate,
    /// It took too long.
    #[error("no answer to the QUIC handshake")]
    HandshakeTimeout,
    /// The endpoint is no longer running.
    #[error("the QUIC endpoint has stopped")]
    Stopped,
    /// The connection failed.
    #[error(transparent)]
    Connection(#[from] quinn::ConnectionError),
    /// The connection could not be started.
    #[error(transparent)]
    Connect(#[from] quinn::ConnectError),
    /// The system said no. Not `transparent`, which would hide the system's error from who looks for its kind.
    #[error("{0}")]
    Io(#[from] io::Error),
}

impl From<Error> for TransportError<Error> {
    fn from(e: Error) -> Self {
        Self::Other(e)
    }
}

type Established = Result<(PeerId, Connection), Error>;
type Event = TransportEvent<BoxFuture<'static, Established>, Error>;

/// The transport. Needs a running [`crate::demux::Reader`] on its socket, or no packet ever arrives.
pub struct QuicTransport {
    socket: SharedSocket,
    endpoint: quinn::Endpoint,
    client: quinn::ClientConfig,
    listeners: Vec<Listener>,
    accept: BoxFuture<'static, Option<quinn::Incoming>>,
    /// Set when the endpoint ended: there is nothing to accept any more.
    stopped: bool,
    events: VecDeque<Event>,
    /// Dials as listener that wait for a connection from this address.
    meetings: HashMap<SocketAddr, oneshot::Sender<quinn::Connecting>>,
    /// Counts inbound handshakes: each holds a clone.
    handshakes: Arc<()>,
    waker: Option<Waker>,
}

impl fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QuicTransport")
            .field("socket", &self.socket.local_addr())
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}

impl QuicTransport {
    /// A transport on this socket. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// [`Error::SocketTaken`], [`Error::Tls`], [`Error::Io`]
    pub fn new(socket: SharedSocket, keypair: &Keypair) -> Result<Self, Error> {
        let config = Config::new(keypair)?;
        let quic = QuicSocket::new(socket.clone()).ok_or(Error::SocketTaken)?;
        let endpoint = quinn::Endpoint::new_with_abstract_socket(
            config.endpoint,
            Some(config.server),
            Arc::new(quic),
            Arc::new(QuicRuntime::new()?),
        )?;
        Ok(Self {
            accept: accept(endpoint.clone()),
            socket,
            endpoint,
            client: config.client,
            listeners: Vec::new(),
            stopped: false,
            events: VecDeque::new(),
            meetings: HashMap::new(),
            handshakes: Arc::new(()),
            waker: None,
        })
    }

    fn connect(&self, to: SocketAddr) -> Result<quinn::Connecting, Error> {
        // The name is in no certificate; libp2p identifies by key. quinn wants one that could be in DNS.
        Ok(self.endpoint.connect_with(self.client.clone(), to, "l")?)
    }

    /// A connection attempt from outside: to whoever waits for it, to a listener, or away.
    fn incoming(&mut self, incoming: quinn::Incoming) {
        let from = canonical(incoming.remote_address());
        let busy = Arc::strong_count(&self.handshakes) - 1;
        let expected = self.meetings.remove(&from).filter(|m| !m.is_canceled());
        if expected.is_none() && busy >= RETRY_ABOVE {
            if busy >= MAX_HANDSHAKES {
                return incoming.refuse();
            }
            if !incoming.remote_address_validated() && incoming.may_retry() {
                // An error only says that a retry is no longer possible, which was just asked.
                let _ = incoming.retry();
                return;
            }
        }
        let local_ip = incoming.local_ip().map(|ip| ip.to_canonical());
        let connecting = match incoming.accept() {
            Ok(connecting) => connecting,
            Err(e) => {
                tracing::debug!(error = %e, "a QUIC connection attempt was malformed");
                return;
            }
        };
        let connecting = match expected {
            Some(meeting) => match meeting.send(connecting) {
                Ok(()) => return,
                // The meeting is over already.
                Err(connecting) => connecting,
            },
            None => connecting,
        };
        self.offer(connecting, from, local_ip);
    }

    fn offer(&mut self, connecting: quinn::Connecting, from: SocketAddr, local: Option<IpAddr>) {
        let local = local.unwrap_or(if from.is_ipv4() {
            IpAddr::from([0; 4])
        } else {
            IpAddr::from([0; 16])
        });
        let listener = self.listeners.iter().find(|l| l.takes(local));
        let Some(listener) = listener.or(self.listeners.first()) else {
            // Nobody listens; dropping the attempt refuses it.
            return;
        };
        let guard = Arc::clone(&self.handshakes);
        self.events.push_back(TransportEvent::Incoming {
            listener_id: listener.id,
            upgrade: async move {
                let established = establish(connecting).await;
                drop(guard);
                established
            }
            .boxed(),
            local_addr: address::to_multiaddr((local, self.socket.port()).into()),
            send_back_addr: address::to_multiaddr(from),
        });
    }

    /// Takes everything in that has happened to the addresses of this machine.
    fn poll_addresses(&mut self, cx: &mut Context<'_>) {
        for listener in &mut self.listeners {
            let listener_id = listener.id;
            while let Poll::Ready(change) = listener.poll(cx) {
                self.events.push_back(match change {
                    Change::New(listen_addr) => TransportEvent::NewAddress {
                        listener_id,
                        listen_addr,
                    },
                    Change::Expired(listen_addr) => TransportEvent::AddressExpired {
                        listener_id,
                        listen_addr,
                    },
                    Change::Failed(e) => {
                        self.events.push_back(TransportEvent::ListenerError {
                            listener_id,
                            error: e.into(),
                        });
                        break;
                    }
                });
            }
        }
    }

    fn close_all(&mut self) {
        self.stopped = true;
        for listener in self.listeners.drain(..) {
            self.events.push_back(TransportEvent::ListenerClosed {
                listener_id: listener.id,
                reason: Err(Error::Stopped),
            });
        }
    }
}

/// Fails if this machine has no route to an address, as most have none to IPv6 where they have no IPv6. To quinn a packet
/// that the system does not take is a lost one, and the handshake goes on until its time is over.
fn check_route(to: SocketAddr) -> io::Result<()> {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable};
    let any = match to {
        SocketAddr::V4(_) => SocketAddr::from(([0; 4], 0)),
        SocketAddr::V6(_) => SocketAddr::from(([0u16; 8], 0)),
    };
    // This sends nothing. Whatever else is wrong with such a socket says nothing of the address.
    match UdpSocket::bind(any).and_then(|socket| socket.connect(to)) {
        Err(error) if matches!(error.kind(), HostUnreachable | NetworkUnreachable) => Err(error),
        _ => Ok(()),
    }
}

fn accept(endpoint: quinn::Endpoint) -> BoxFuture<'static, Option<quinn::Incoming>> {
    async move { endpoint.accept().await }.boxed()
}

impl Transport for QuicTransport {
    type Output = (PeerId, Connection);
    type Error = Error;
    type ListenerUpgrade = BoxFuture<'static, Established>;
    type Dial = BoxFuture<'static, Established>;

    /// Port 0 and the socket's own port are the same thing; another port is another socket's business.
    fn listen_on(&mut self, id: ListenerId, addr: Multiaddr) -> Result<(), TransportError<Error>> {
        let Some(wanted) = address::from_multiaddr(&addr) else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        if self.stopped {
            return Err(Error::Stopped.into());
        }
        let port = self.socket.port();
        if (wanted.port() != 0 && wanted.port() != port) || !self.socket.speaks(wanted.ip()) {
            let kind = io::ErrorKind::AddrNotAvailable;
            let text = format!("QUIC is on UDP port {port}, {addr} is not");
            return Err(Error::Io(io::Error::new(kind, text)).into());
        }
        // "All addresses" of a socket that has only one is that one.
        let bound = self.socket.local_addr().ip();
        let ip = if wanted.ip().is_unspecified() && !bound.is_unspecified() {
            bound
        } else {
            wanted.ip()
        };
        let listener = Listener::new(id, ip, port).map_err(Error::from)?;
        if let Some(listen_addr) = listener.fixed() {
            self.events.push_back(TransportEvent::NewAddress {
                listener_id: id,
                listen_addr,
            });
        }
        self.listeners.push(listener);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let Some(at) = self.listeners.iter().position(|l| l.id == id) else {
            return false;
        };
        self.listeners.remove(at);
        self.events.push_back(TransportEvent::ListenerClosed {
            listener_id: id,
            reason: Ok(()),
        });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
        true
    }

    /// Always from the shared socket, whatever `PortUse` says: another one would be another NAT mapping.
    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<Error>> {
        let to =
            address::from_multiaddr(&addr).filter(|to| to.port() != 0 && !to.ip().is_unspecified());
        let Some(to) = to else {
            return Err(TransportError::MultiaddrNotSupported(addr));
        };
        if opts.role == Endpoint::Dialer {
            check_route(to).map_err(Error::from)?;
            let connecting = self.connect(to)?;
            return Ok(establish(connecting).boxed());
        }
        self.meetings.retain(|_, waiting| !waiting.is_canceled());
        let (announce, arriving) = oneshot::channel();
        // A second meeting at one address takes over what arrives; the first still has its own dial.
        self.meetings.insert(to, announce);
        Ok(punch::meet(self.socket.clone(), to, self.connect(to), arriving).boxed())
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Event> {
        let this = &mut *self;
        loop {
            if let Some(event) = this.events.pop_front() {
                return Poll::Ready(event);
            }
            this.poll_addresses(cx);
            if !this.events.is_empty() {
                continue;
            }
            if this.stopped {
                break;
            }
            match this.accept.poll_unpin(cx) {
                Poll::Ready(Some(incoming)) => {
                    this.accept = accept(this.endpoint.clone());
                    this.incoming(incoming);
                }
                Poll::Ready(None) => this.close_all(),
                Poll::Pending => break,
            }
        }
        this.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}
