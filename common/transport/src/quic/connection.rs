//! A QUIC connection as libp2p's stream multiplexer, and its streams.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{AsyncRead, AsyncWrite, FutureExt, future::BoxFuture};
use libp2p::{
    PeerId,
    core::muxing::{StreamMuxer, StreamMuxerEvent},
};
use quinn::{ConnectionError, RecvStream, SendStream};
use rustls::pki_types::CertificateDer;

use super::{Error, config::HANDSHAKE_TIMEOUT};

type Opening = BoxFuture<'static, Result<(SendStream, RecvStream), ConnectionError>>;

/// An established connection. Dropping it closes it.
pub struct Connection {
    connection: quinn::Connection,
    inbound: Option<Opening>,
    outbound: Option<Opening>,
    closing: Option<BoxFuture<'static, ConnectionError>>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection")
            .field(&self.connection.stable_id())
            .finish()
    }
}

/// Finishes a handshake and learns who is at the other end.
pub(super) async fn establish(
    connecting: quinn::Connecting,
) -> Result<(PeerId, Connection), Error> {
    let connection = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting)
        .await
        .map_err(|_| Error::HandshakeTimeout)??;
    let peer = remote_peer(&connection)?;
    Ok((
        peer,
        Connection {
            connection,
            inbound: None,
            outbound: None,
            closing: None,
        },
    ))
}

/// Who signed the certificate. libp2p-tls has verified it during the handshake.
fn remote_peer(connection: &quinn::Connection) -> Result<PeerId, Error> {
    let certificates = connection
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok())
        .ok_or(Error::NoCertificate)?;
    let certificate = certificates.first().ok_or(Error::NoCertificate)?;
    let certificate =
        libp2p_tls::certificate::parse(certificate).map_err(|e| Error::Tls(e.to_string()))?;
    Ok(certificate.peer_id())
}

impl StreamMuxer for Connection {
    type Substream = Stream;
    type Error = Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<Stream, Error>> {
        let this = &mut *self;
        let opening = this.inbound.get_or_insert_with(|| {
            let connection = this.connection.clone();
            async move { connection.accept_bi().await }.boxed()
        });
        let opened = ready!(opening.poll_unpin(cx));
        this.inbound = None;
        Poll::Ready(opened.map(Stream::new).map_err(Error::from))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, Error>> {
        let this = &mut *self;
        let opening = this.outbound.get_or_insert_with(|| {
            let connection = this.connection.clone();
            async move { connection.open_bi().await }.boxed()
        });
        let opened = ready!(opening.poll_unpin(cx));
        this.outbound = None;
        Poll::Ready(opened.map(Stream::new).map_err(Error::from))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let this = &mut *self;
        let closing = this.closing.get_or_insert_with(|| {
            this.connection.close(0u32.into(), &[]);
            let connection = this.connection.clone();
            async move { connection.closed().await }.boxed()
        });
        match ready!(closing.poll_unpin(cx)) {
            ConnectionError::LocallyClosed => Poll::Ready(Ok(())),
            other => Poll::Ready(Err(other.into())),
        }
    }

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Result<StreamMuxerEvent, Error>> {
        // The only event is a change of address. For libp2p a connection has the one that it began with; who is where
        // now is told by tunnels and reflectors.
        Poll::Pending
    }
}

/// A stream of a QUIC connection.
#[derive(Debug)]
pub struct Stream {
    send: SendStream,
    receive: RecvStream,
}

impl Stream {
    fn new((send, receive): (SendStream, RecvStream)) -> Self {
        Self { send, receive }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.receive.poll_read(cx, buf).map_err(io::Error::from)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.send)
            .poll_write(cx, buf)
            .map_err(io::Error::from)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What was written is on its way without being asked.
        Poll::Ready(Ok(()))
    }

    fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // libp2p closes more than once, and quinn's only error says that it was closed before.
        let _ = self.send.finish();
        Poll::Ready(Ok(()))
    }
}
