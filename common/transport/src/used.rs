//! Streams that tell their connection when they are gone.
//!
//! libp2p-swarm looks whether a connection is still in use whenever it is polled, and nothing polls it when somebody else
//! drops the last stream: the connection of a conversation that has ended would stay open, and be kept alive at every beat,
//! until something else happens on it. Nor does anything poll it when a handler that wanted it open for its first seconds, as that
//! of the circuit relay does, wants it no more.

use std::{
    collections::HashMap,
    fmt,
    future::Future as _,
    io,
    io::{IoSlice, IoSliceMut},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, task::AtomicWaker};
use futures_timer::Delay;
use libp2p::PeerId;

/// Handlers of libp2p want a new connection open for ten seconds (libp2p-relay's `idle_at`). After this they do not.
const YOUNG: Duration = Duration::from_secs(11);

/// The tasks of all connections, by peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<HashMap<PeerId, Vec<Arc<AtomicWaker>>>>>);

impl Connections {
    fn lock(&self) -> MutexGuard<'_, HashMap<PeerId, Vec<Arc<AtomicWaker>>>> {
        // Nothing here panics halfway through a change, so a poisoned one is still whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection to a peer has been made.
    pub(crate) fn add(&self, peer: PeerId) -> Connection {
        let task = Arc::new(AtomicWaker::new());
        self.lock().entry(peer).or_default().push(Arc::clone(&task));
        Connection {
            peer,
            all: self.clone(),
            task,
            young: Young::Unknown,
        }
    }

    /// A stream on one of the connections to a peer.
    pub(crate) fn hold(&self, peer: PeerId, stream: libp2p::Stream) -> Stream {
        let end = End {
            peer,
            all: self.clone(),
        };
        Stream { stream, _end: end }
    }
}

/// One connection, for as long as it is there.
pub(crate) struct Connection {
    peer: PeerId,
    all: Connections,
    task: Arc<AtomicWaker>,
    young: Young,
}

enum Young {
    /// It was not polled yet.
    Unknown,
    /// Until this.
    Until(Delay),
    /// Not any more.
    No,
}

impl Connection {
    pub(crate) const fn peer(&self) -> PeerId {
        self.peer
    }

    /// To be called by the connection's task whenever it runs, inside a tokio runtime.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) {
        self.task.register(cx.waker());
        if matches!(self.young, Young::Unknown) {
            self.young = Young::Until(Delay::new(YOUNG));
        }
        if let Young::Until(end) = &mut self.young
            && Pin::new(end).poll(cx).is_ready()
        {
            self.young = Young::No;
        }
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.peer).finish()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let mut all = self.all.lock();
        if let Some(tasks) = all.get_mut(&self.peer) {
            tasks.retain(|task| !Arc::ptr_eq(task, &self.task));
            if tasks.is_empty() {
                all.remove(&self.peer);
            }
        }
    }
}

/// A stream by the name of its protocol. When it is dropped its connection is looked at again.
#[derive(Debug)]
pub struct Stream {
    stream: libp2p::Stream,
    // After the stream: before that it counts as there.
    _end: End,
}

#[derive(Debug)]
struct End {
    peer: PeerId,
    all: Connections,
}

impl Drop for End {
    fn drop(&mut self) {
        // Of several connections it is not known which one it was on.
        let tasks = self.all.lock().get(&self.peer).cloned();
        for task in tasks.into_iter().flatten() {
            task.wake();
        }
    }
}

impl Stream {
    fn inner(self: Pin<&mut Self>) -> Pin<&mut libp2p::Stream> {
        Pin::new(&mut self.get_mut().stream)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_read(cx, buf)
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_close(cx)
    }
}
