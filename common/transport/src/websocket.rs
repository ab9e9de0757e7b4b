//! WebSocket on the ports that TCP is served on (RFC 6455), for networks that let nothing through but HTTP.
//!
//! What goes through is the same as by plain TCP: multistream, Noise, Yamux, as binary messages. Who listens looks at the first
//! byte: multistream begins with a length, HTTP with the `G` of `GET`. Who dials says so by an address that ends in `/ws`.
//! Nothing here is encrypted by TLS: Noise does that, and a network that wants to see TLS is not served by this.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, FutureExt as _, Sink, Stream, future::BoxFuture};
use libp2p::{
    Multiaddr,
    core::transport::{DialOpts, ListenerId, Transport, TransportError, TransportEvent},
    multiaddr::Protocol,
    tcp::tokio::TcpStream as Plain,
};
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, accept_async_with_config, client_async_with_config,
    tungstenite::{self, Message, protocol::WebSocketConfig},
};

use crate::proxy::{ProxiedTcp, socket_addr};

/// Bytes in one of our messages at the most.
const WRITE: usize = 16 << 10;
/// A longer message than this is not ours.
const MAX_MESSAGE: usize = 64 << 10;
/// A connection on which what was sent is not acknowledged for so long is dead (RFC 5482), and so is one whose other end takes nothing
/// for so long; behind a proxy that is the proxy. The system itself gives it up after a
/// quarter of an hour: a node that is on another network by then would write on it until then.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);
/// What HTTP begins with.
const HTTP: u8 = b'G';

/// A byte stream over TCP, as it is or in WebSocket messages.
pub(crate) enum Carrier {
    Plain(Plain),
    Web(Box<Web>),
}

/// The bytes in the binary messages of a WebSocket.
pub(crate) struct Web {
    messages: WebSocketStream<TcpStream>,
    /// What is left of the message that came last.
    rest: tungstenite::Bytes,
}

fn config() -> WebSocketConfig {
    // Messages are handed to the system as they come: what waits here would hide from the sender how slow the way is.
    WebSocketConfig::default()
        .read_buffer_size(WRITE)
        .write_buffer_size(0)
        .max_write_buffer_size(2 * MAX_MESSAGE)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}

fn error(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other),
    }
}

impl Carrier {
    fn web(messages: WebSocketStream<TcpStream>) -> Self {
        Self::Web(Box::new(Web {
            messages,
            rest: tungstenite::Bytes::new(),
        }))
    }

    /// Finds out what somebody who connected speaks.
    async fn accept(stream: Plain) -> io::Result<Self> {
        let stream = mortal(stream)?;
        let mut first = [0];
        let there = stream.0.peek(&mut first).await?;
        if there == 0 || first != [HTTP] {
            return Ok(Self::Plain(stream));
        }
        let accepted = accept_async_with_config(stream.0, Some(config())).await;
        accepted.map(Self::web).map_err(error)
    }

    /// Asks a server to speak WebSocket.
    async fn ask(stream: Plain, to: SocketAddr) -> io::Result<Self> {
        let url = format!("ws://{to}/");
        let asked = client_async_with_config(url, stream.0, Some(config())).await;
        asked.map(|(web, _)| Self::web(web)).map_err(error)
    }
}

impl AsyncRead for Web {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.messages).poll_next(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.rest = bytes,
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Ok(Message::Text(_))) => {
                    let text = "text on a WebSocket that carries bytes";
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                None | Some(Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed)) => {
                    return Poll::Ready(Ok(0));
                }
                Some(Err(e)) => return Poll::Ready(Err(error(e))),
            }
        }
        let len = buffer.len().min(self.rest.len());
        let bytes = self.rest.split_to(len);
        if let Some(buffer) = buffer.get_mut(..len) {
            buffer.copy_from_slice(&bytes);
        }
        Poll::Ready(Ok(len))
    }
}

impl AsyncWrite for Web {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut messages = Pin::new(&mut self.messages);
        ready!(messages.as_mut().poll_ready(cx)).map_err(error)?;
        let bytes = buffer.get(..WRITE).unwrap_or(buffer);
        let message = Message::Binary(tungstenite::Bytes::copy_from_slice(bytes));
        messages.start_send(message).map_err(error)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.messages).poll_flush(cx).map_err(error)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(Pin::new(&mut self.messages).poll_close(cx)) {
            Ok(()) | Err(tungstenite::Error::ConnectionClosed) => Poll::Ready(Ok(())),
            Err(e) => Poll::Ready(Err(error(e))),
        }
    }
}

impl AsyncRead for Carrier {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Web(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Carrier {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buffer),
            Self::Web(stream) => Pin::new(stream).poll_write(cx, buffer),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Web(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_close(cx),
            Self::Web(stream) => Pin::new(stream).poll_close(cx),
        }
    }
}

/// A stream that ends when the other end is not there any more.
fn mortal(stream: Plain) -> io::Result<Plain> {
    SockRef::from(&stream.0).set_tcp_user_timeout(Some(UNACKNOWLEDGED))?;
    Ok(stream)
}

/// TCP that is heard and spoken both ways.
pub(crate) struct Carried {
    inner: ProxiedTcp,
}

impl Carried {
    pub(crate) const fn new(inner: ProxiedTcp) -> Self {
        Self { inner }
    }
}

type Upgrade = BoxFuture<'static, io::Result<Carrier>>;

/// The address without its `/ws`, if it has one.
fn without_ws(addr: &Multiaddr) -> Option<Multiaddr> {
    let is_ws = |p: &Protocol<'_>| matches!(p, Protocol::Ws(path) if path == "/");
    addr.iter()
        .any(|p| is_ws(&p))
        .then(|| addr.iter().filter(|p| !is_ws(p)).collect())
}

impl Transport for Carried {
    type Output = Carrier;
    type Error = io::Error;
    type ListenerUpgrade = Upgrade;
    type Dial = Upgrade;

    fn listen_on(
        &mut self,
        id: ListenerId,
        addr: Multiaddr,
    ) -> Result<(), TransportError<io::Error>> {
        self.inner.listen_on(id, addr)
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        self.inner.remove_listener(id)
    }

    fn dial(
        &mut self,
        addr: Multiaddr,
        opts: DialOpts,
    ) -> Result<Self::Dial, TransportError<io::Error>> {
        let Some((tcp, to)) = without_ws(&addr).zip(socket_addr(&addr)) else {
            let dial = self.inner.dial(addr, opts)?;
            return Ok(async { Ok(Carrier::Plain(mortal(dial.await?)?)) }.boxed());
        };
        let dial = self.inner.dial(tcp, opts)?;
        Ok(async move { Carrier::ask(mortal(dial.await?)?, to).await }.boxed())
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        let event = ready!(Pin::new(&mut self.inner).poll(cx));
        Poll::Ready(event.map_upgrade(|upgrade| {
            let accept = async { Carrier::accept(upgrade.await?).await };
            accept.boxed()
        }))
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncWriteExt as _, future};
    use libp2p::{
        core::{Endpoint, transport::PortUse},
        tcp,
    };

    use super::*;

    #[tokio::test]
    async fn no_connection_outlives_the_other_end_for_long() {
        let tcp = || tcp::tokio::Transport::new(tcp::Config::default());
        let carried = || Carried::new(ProxiedTcp::new(tcp(), None));
        let (mut server, mut client) = (carried(), carried());
        let any = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
        server.listen_on(ListenerId::next(), any).unwrap();
        let mut server = Pin::new(&mut server);
        let mut next = async || future::poll_fn(|cx| server.as_mut().poll(cx)).await;
        let TransportEvent::NewAddress { listen_addr, .. } = next().await else {
            panic!("no address");
        };
        let options = DialOpts {
            role: Endpoint::Dialer,
            port_use: PortUse::New,
        };
        let web = listen_addr.clone().with(Protocol::Ws("/".into()));
        let dial = client.dial(listen_addr, options).unwrap();
        let mut accept = async || {
            loop {
                if let TransportEvent::Incoming { upgrade, .. } = next().await {
                    return upgrade.await;
                }
            }
        };
        let speak = async {
            let mut dialled = dial.await?;
            // Whoever listens looks at the first byte.
            dialled.write_all(b"x").await?;
            Ok::<_, io::Error>(dialled)
        };
        let limit = |stream: &TcpStream| SockRef::from(stream).tcp_user_timeout().unwrap();
        for carrier in [speak.await, accept().await] {
            let Carrier::Plain(stream) = carrier.unwrap() else {
                panic!("a WebSocket");
            };
            assert_eq!(limit(&stream.0), Some(UNACKNOWLEDGED));
        }
        let web = client.dial(web, options).unwrap();
        let (dialled, accepted) = futures::join!(web, accept());
        for carrier in [dialled, accepted] {
            let Carrier::Web(web) = carrier.unwrap() else {
                panic!("no WebSocket");
            };
            assert_eq!(limit(web.messages.get_ref()), Some(UNACKNOWLEDGED));
        }
    }

    #[test]
    fn only_an_address_that_says_so_is_a_websocket() {
        let addr = |text: &str| text.parse::<Multiaddr>().unwrap();
        assert_eq!(
            without_ws(&addr("/ip4/198.51.100.2/tcp/443/ws")),
            Some(addr("/ip4/198.51.100.2/tcp/443"))
        );
        assert_eq!(without_ws(&addr("/ip4/198.51.100.2/tcp/443")), None);
        // TLS is not spoken.
        assert_eq!(without_ws(&addr("/ip4/198.51.100.2/tcp/443/wss")), None);
    }
}
