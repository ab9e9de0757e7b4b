//! Yamux whose streams end with their connection.
//!
//! When a connection is closed at this end, yamux 0.14 tells those of its streams that are polled after that, and does not wake
//! the others (libp2p/rust-yamux#216): whoever waits for something on one of them would wait for ever.

use std::{
    collections::HashMap,
    fmt,
    future::{Ready, ready},
    io::{self, IoSlice, IoSliceMut},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite, task::AtomicWaker};
use libp2p::{
    core::{
        StreamMuxer,
        muxing::StreamMuxerEvent,
        upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo},
    },
    yamux,
};

/// [`yamux::Config`] with streams that end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config(yamux::Config);

impl UpgradeInfo for Config {
    type Info = <yamux::Config as UpgradeInfo>::Info;
    type InfoIter = <yamux::Config as UpgradeInfo>::InfoIter;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.protocol_info()
    }
}

impl<C> InboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_inbound(self, io: C, info: Self::Info) -> Self::Future {
        let upgraded = self.0.upgrade_inbound(io, info).into_inner();
        ready(upgraded.map(Muxer::new))
    }
}

impl<C> OutboundConnectionUpgrade<C> for Config
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = Muxer<C>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Output>>;

    fn upgrade_outbound(self, io: C, info: Self::Info) -> Self::Future {
        let upgraded = self.0.upgrade_outbound(io, info).into_inner();
        ready(upgraded.map(Muxer::new))
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Muxer<C> {
    inner: yamux::Muxer<C>,
    streams: Streams,
}

impl<C> Muxer<C> {
    fn new(inner: yamux::Muxer<C>) -> Self {
        let streams = Streams::default();
        Self { inner, streams }
    }
}

impl<C> StreamMuxer for Muxer<C>
where
    C: AsyncRead + AsyncWrite + Unpin + 'static,
{
    type Substream = Stream;
    type Error = yamux::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, yamux::Error>> {
        let stream = Pin::new(&mut self.inner).poll_inbound(cx);
        stream.map_ok(|stream| self.streams.add(stream))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Stream, yamux::Error>> {
        let stream = Pin::new(&mut self.inner).poll_outbound(cx);
        stream.map_ok(|stream| self.streams.add(stream))
    }

    fn poll_close(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), yamux::Error>> {
        let closed = Pin::new(&mut self.inner).poll_close(cx);
        // From the first poll on nothing is taken from them. Until everything has been sent to a peer that is gone much time may
        // pass.
        self.streams.wake();
        closed
    }

    fn poll(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<StreamMuxerEvent, yamux::Error>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Who waits on the streams of a connection.
#[derive(Clone, Debug, Default)]
struct Streams(Arc<Mutex<Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    ends: HashMap<u64, Arc<Ends>>,
}

/// The tasks that read from a stream and write to it.
#[derive(Debug, Default)]
struct Ends {
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing here panics halfway through a change, so a poisoned one is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, inner: yamux::Stream) -> Stream {
        let ends = Arc::new(Ends::default());
        let mut waiting = self.lock();
        waiting.last += 1;
        let number = waiting.last;
        waiting.ends.insert(number, Arc::clone(&ends));
        drop(waiting);
        Stream {
            inner,
            number,
            ends,
            all: self.clone(),
        }
    }

    /// All look again.
    fn wake(&self) {
        let waiting: Vec<_> = self.lock().ends.values().cloned().collect();
        for ends in waiting {
            ends.reader.wake();
            ends.writer.wake();
        }
    }
}

/// One of its streams.
pub(crate) struct Stream {
    inner: yamux::Stream,
    number: u64,
    ends: Arc<Ends>,
    all: Streams,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.all.lock().ends.remove(&self.number);
    }
}

impl Stream {
    /// Whoever reads is woken from now on when the connection is closed.
    fn reading(&mut self, cx: &Context<'_>) -> Pin<&mut yamux::Stream> {
        self.ends.reader.register(cx.waker());
        Pin::new(&mut self.inner)
    }

    fn writing(&mut self, cx: &Context<'_>) -> Pin<&mut yamux::Stream> {
        self.ends.writer.register(cx.waker());
        Pin::new(&mut self.inner)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.reading(cx).poll_read(cx, buf)
    }

    fn poll_read_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.reading(cx).poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.writing(cx).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.writing(cx).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing(cx).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.writing(cx).poll_close(cx)
    }
}
