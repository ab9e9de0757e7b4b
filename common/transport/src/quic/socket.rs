//! The shared socket as quinn sees it: sends go straight out, packets come from the reader's queue.

use std::{
    io::{self, IoSliceMut},
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use quinn::{
    AsyncUdpSocket, UdpPoller,
    udp::{RecvMeta, Transmit},
};
use tokio::net::UdpSocket;

use crate::socket::SharedSocket;

/// quinn's handle. There is one for each socket.
#[derive(Debug)]
pub(super) struct QuicSocket {
    socket: SharedSocket,
    /// The kernel refused a packet for want of room, and has not said since that there is some.
    blocked: AtomicBool,
}

impl QuicSocket {
    /// Takes QUIC's part of the socket; `None` when it is taken.
    pub(super) fn new(socket: SharedSocket) -> Option<Self> {
        if !socket.take_quic() {
            return None;
        }
        socket.queue().set_open(true);
        Some(Self {
            socket,
            blocked: AtomicBool::new(false),
        })
    }
}

impl Drop for QuicSocket {
    fn drop(&mut self) {
        self.socket.queue().set_open(false);
        self.socket.release_quic();
    }
}

impl AsyncUdpSocket for QuicSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(Poller {
            socket: self,
            waiting: None,
        })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.send_quic(transmit).inspect_err(|_| {
            // `WouldBlock` is the only error that comes here.
            self.blocked.store(true, Ordering::Release);
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.queue().poll_pop(cx, bufs, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.socket.local_addr())
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.state().may_fragment()
    }
}

/// Waits for room in the kernel's buffer on behalf of one connection.
///
/// A descriptor that is registered for writability all the time is woken at every packet that leaves the machine,
/// tunnel packets included. So one is registered only while a connection really waits.
#[derive(Debug)]
struct Poller {
    socket: Arc<QuicSocket>,
    waiting: Option<UdpSocket>,
}

impl UdpPoller for Poller {
    fn poll_writable(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.socket.blocked.load(Ordering::Acquire) {
            this.waiting = None;
            return Poll::Ready(Ok(()));
        }
        let waiting = match this.waiting.take() {
            Some(waiting) => waiting,
            None => UdpSocket::from_std(this.socket.socket.udp().try_clone()?)?,
        };
        let ready = ready!(this.waiting.insert(waiting).poll_send_ready(cx));
        this.waiting = None;
        this.socket.blocked.store(false, Ordering::Release);
        Poll::Ready(ready)
    }
}
