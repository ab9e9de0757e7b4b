//! The one UDP socket of a process, for all who send on it.
//!
//! Plain threads and quinn send at once and take no lock. Only [`crate::demux`] receives. Addresses that callers
//! see are canonical: an IPv4 peer is an IPv4 address, although the socket itself is IPv6 (RFC 4291 §2.5.5.2
//! mapped addresses are for the kernel only).

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt},
};
use quinn::udp::{Transmit, UdpSocketState};
use socket2::{Domain, Protocol, Socket, Type};

use crate::{gso::Refusals, queue::QuicQueue};

/// Kernel receive buffer in bytes. Enough for about 5 ms of 3 Gbit/s, and for 10 ms, as long as the reader of a node at rest may
/// sleep, of what begins to be sent at 1.5 Gbit/s; 4 MiB was measured to hold up to 370 ms of
/// queue when a reader falls behind, and QUIC shares it with the tunnels.
pub const RECEIVE_BUFFER: usize = 2 << 20;
/// Kernel send buffer in bytes: some 30 full batches; what does not fit is reported as `WouldBlock`.
pub const SEND_BUFFER: usize = 2 << 20;

/// Bytes that one segmented send may hold: the largest IPv4 UDP payload, less room for a larger IPv6 header.
const MAX_BATCH_BYTES: usize = 65_535 - 48;

/// What happened on the socket since it was opened. Read them at any time; they only rise.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams received, of both kinds.
    pub received: AtomicU64,
    /// Bytes in them.
    pub received_bytes: AtomicU64,
    /// Datagrams that were QUIC's.
    pub quic_received: AtomicU64,
    /// QUIC packets dropped because quinn did not keep up, or nobody speaks QUIC on this socket.
    pub quic_dropped: AtomicU64,
    /// Datagrams handed to the kernel.
    pub sent: AtomicU64,
    /// Bytes in them.
    pub sent_bytes: AtomicU64,
    /// Calls that sent several datagrams at once.
    pub batches: AtomicU64,
    /// Batches that the kernel refused and that went out one by one instead.
    pub gso_refused: AtomicU64,
    /// Sends given back because the kernel's buffer was full.
    pub send_blocked: AtomicU64,
    /// Datagrams that could not be sent for another reason (no route, too long for the path).
    pub send_errors: AtomicU64,
    /// Failed receives.
    pub receive_errors: AtomicU64,
}

/// Adds to a counter. They are statistics: nothing is ordered by them.
pub(crate) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}

/// The shared UDP socket. Cloning gives another handle to the same one.
#[derive(Clone, Debug)]
pub struct SharedSocket {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    socket: UdpSocket,
    /// As the kernel has it: `[::]` on a dual-stack socket.
    local: SocketAddr,
    /// One for the tunnels and one for QUIC: each remembers refusals of the kernel for good, and a tunnel that is
    /// too big for its route must not cost QUIC its congestion marks.
    tunnel: UdpSocketState,
    quic: UdpSocketState,
    /// Datagrams in one segmented send at the most; 1 where the system cannot.
    max_segments: usize,
    refusals: Refusals,
    queue: QuicQueue,
    has_reader: AtomicBool,
    has_quic: AtomicBool,
    counters: Counters,
}

impl SharedSocket {
    /// Opens the socket on all addresses of this machine, both families: `[::]:port`, or `0.0.0.0:port` where IPv6
    /// is off. With port 0 the system picks one.
    ///
    /// # Errors
    /// What the system says; `AddrInUse` when another program has the port.
    pub fn bind_port(port: u16) -> io::Result<Self> {
        match Self::bind((Ipv6Addr::UNSPECIFIED, port).into()) {
            Err(e) if no_ipv6(&e) => Self::bind((Ipv4Addr::UNSPECIFIED, port).into()),
            other => other,
        }
    }

    /// Opens the socket on one address. `[::]` means both families.
    ///
    /// # Errors
    /// What the system says.
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
        if addr.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        set_buffers(&socket);
        socket.bind(&addr.into())?;
        let socket = UdpSocket::from(socket);
        let tunnel = UdpSocketState::new((&socket).into())?;
        let quic = UdpSocketState::new((&socket).into())?;
        Ok(Self {
            inner: Arc::new(Inner {
                local: socket.local_addr()?,
                max_segments: tunnel.max_gso_segments(),
                socket,
                tunnel,
                quic,
                refusals: Refusals::new(),
                queue: QuicQueue::new(),
                has_reader: AtomicBool::new(false),
                has_quic: AtomicBool::new(false),
                counters: Counters::default(),
            }),
        })
    }

    /// Where the socket is bound. `[::]` takes IPv4 as well.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.inner.local
    }

    /// The port, the same for both families.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.inner.local.port()
    }

    /// Can the socket reach peers of this family at all?
    #[must_use]
    pub fn speaks(&self, ip: IpAddr) -> bool {
        self.inner.local.is_ipv6() || ip.to_canonical().is_ipv4()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.inner.counters
    }

    /// Sends a datagram, or with `segment_size` several of that many bytes each (the last may be shorter) that
    /// lie one after the other in `data`. Several go out in one system call where the route allows that, and one
    /// by one where not. Never blocks.
    ///
    /// # Errors
    /// - `WouldBlock`: the kernel's buffer is full. Of several datagrams the first ones may have gone out: sending
    ///   all again makes duplicates, which a replay window drops. See [`Self::wait_writable`].
    /// - Anything else concerns this destination only: no route, too long for the path (`EMSGSIZE`). Of several
    ///   datagrams the others were still tried.
    pub fn send(&self, to: SocketAddr, data: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        let destination = self.native(to)?;
        self.transmit(
            &self.inner.tunnel,
            &Transmit {
                destination,
                ecn: None,
                contents: data,
                segment_size,
                src_ip: None,
            },
        )
    }

    /// Waits until the kernel takes datagrams again, for plain threads. `false` when time ran out.
    ///
    /// # Errors
    /// What `poll` says.
    pub fn wait_writable(&self, timeout: Duration) -> io::Result<bool> {
        let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
        let timeout = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, timeout) {
            Ok(n) => Ok(n > 0),
            Err(Errno::EINTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The address as the socket's family has it.
    fn native(&self, to: SocketAddr) -> io::Result<SocketAddr> {
        match (self.inner.local, to) {
            (SocketAddr::V6(_), SocketAddr::V4(v4)) => {
                Ok(SocketAddrV6::new(v4.ip().to_ipv6_mapped(), v4.port(), 0, 0).into())
            }
            (SocketAddr::V4(_), SocketAddr::V6(v6)) => match v6.ip().to_ipv4_mapped() {
                Some(v4) => Ok((v4, v6.port()).into()),
                None => Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)),
            },
            _ => Ok(to),
        }
    }

    /// Sends for quinn, whose addresses are the socket's own. Errors other than `WouldBlock` are counted and
    /// forgotten: for QUIC they are packet loss.
    pub(crate) fn send_quic(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        match self.transmit(&self.inner.quic, transmit) {
            Err(e) if e.kind() != io::ErrorKind::WouldBlock => Ok(()),
            result => result,
        }
    }

    fn transmit(&self, state: &UdpSocketState, transmit: &Transmit<'_>) -> io::Result<()> {
        let len = transmit.contents.len();
        let Some(size) = transmit.segment_size.filter(|s| *s > 0 && *s < len) else {
            return self.send_one(state, transmit, transmit.contents);
        };
        let per_call = (MAX_BATCH_BYTES / size).min(self.inner.max_segments);
        if per_call < 2 {
            return self.send_singly(state, transmit, transmit.contents, size);
        }
        let mut result = Ok(());
        for batch in transmit.contents.chunks(size * per_call) {
            match self.send_batch(state, transmit, batch, size) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e),
                Err(e) => result = result.and(Err(e)),
                Ok(()) => {}
            }
        }
        result
    }

    /// Several datagrams in one call, or singly if the kernel refuses that here.
    fn send_batch(
        &self,
        state: &UdpSocketState,
        transmit: &Transmit<'_>,
        batch: &[u8],
        size: usize,
    ) -> io::Result<()> {
        let inner = &*self.inner;
        let to = transmit.destination.ip();
        if batch.len() <= size {
            return self.send_one(state, transmit, batch);
        }
        if inner.refusals.refused(to) {
            return self.send_singly(state, transmit, batch, size);
        }
        let sent = state.try_send(
            (&inner.socket).into(),
            &Transmit {
                contents: batch,
                segment_size: Some(size),
                ..transmit.clone()
            },
        );
        match sent {
            Ok(()) => {
                count(&inner.counters.sent, batch.len().div_ceil(size));
                count(&inner.counters.sent_bytes, batch.len());
                count(&inner.counters.batches, 1);
                Ok(())
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                count(&inner.counters.send_blocked, 1);
                Err(e)
            }
            Err(e) if is_gso_refusal(&e) => {
                count(&inner.counters.gso_refused, 1);
                inner.refusals.refuse(to);
                self.send_singly(state, transmit, batch, size)
            }
            Err(e) => {
                count(&inner.counters.send_errors, batch.len().div_ceil(size));
                Err(e)
            }
        }
    }

    /// Datagram by datagram; the first error is reported, and only a full buffer ends it early.
    fn send_singly(
        &self,
        state: &UdpSocketState,
        transmit: &Transmit<'_>,
        data: &[u8],
        size: usize,
    ) -> io::Result<()> {
        let mut result = Ok(());
        for datagram in data.chunks(size) {
            match self.send_one(state, transmit, datagram) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e),
                Err(e) => result = result.and(Err(e)),
                Ok(()) => {}
            }
        }
        result
    }

    fn send_one(
        &self,
        state: &UdpSocketState,
        transmit: &Transmit<'_>,
        datagram: &[u8],
    ) -> io::Result<()> {
        let inner = &*self.inner;
        let sent = state.try_send(
            (&inner.socket).into(),
            &Transmit {
                contents: datagram,
                segment_size: None,
                ..transmit.clone()
            },
        );
        match &sent {
            Ok(()) => {
                count(&inner.counters.sent, 1);
                count(&inner.counters.sent_bytes, datagram.len());
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                count(&inner.counters.send_blocked, 1);
            }
            Err(_) => count(&inner.counters.send_errors, 1),
        }
        sent
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.inner.socket.as_fd()
    }

    pub(crate) fn udp(&self) -> &UdpSocket {
        &self.inner.socket
    }

    pub(crate) fn state(&self) -> &UdpSocketState {
        &self.inner.tunnel
    }

    pub(crate) fn queue(&self) -> &QuicQueue {
        &self.inner.queue
    }

    pub(crate) fn max_segments(&self) -> usize {
        self.inner.max_segments
    }

    /// There is one reader; `false` if somebody took that part before.
    pub(crate) fn take_reader(&self) -> bool {
        !self.inner.has_reader.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release_reader(&self) {
        self.inner.has_reader.store(false, Ordering::Release);
    }

    /// There is one QUIC endpoint; `false` if the socket has it already.
    pub(crate) fn take_quic(&self) -> bool {
        !self.inner.has_quic.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn release_quic(&self) {
        self.inner.has_quic.store(false, Ordering::Release);
    }
}

/// Asks for our buffer sizes, beyond the system's limit when the process may. Smaller buffers work as well.
fn set_buffers(socket: &Socket) {
    if setsockopt(socket, sockopt::RcvBufForce, &RECEIVE_BUFFER).is_err()
        && let Err(e) = socket.set_recv_buffer_size(RECEIVE_BUFFER)
    {
        tracing::debug!(error = %e, "the receive buffer keeps its size");
    }
    if setsockopt(socket, sockopt::SndBufForce, &SEND_BUFFER).is_err()
        && let Err(e) = socket.set_send_buffer_size(SEND_BUFFER)
    {
        tracing::debug!(error = %e, "the send buffer keeps its size");
    }
}

/// Does the error mean that this machine has no IPv6?
fn no_ipv6(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT)
    )
}

/// Errors that a batch meets and its single datagrams need not: drivers without checksum offload and IPsec (EIO),
/// segments over the route's MTU and old kernels (EINVAL, EMSGSIZE).
fn is_gso_refusal(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(libc::EIO | libc::EINVAL | libc::EMSGSIZE | libc::EOPNOTSUPP | libc::ENOPROTOOPT)
    )
}
