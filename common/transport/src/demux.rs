//! The only reader of the shared socket: a plain thread.
//!
//! It waits in `poll`, or sleeps for a moment when what comes can wait (`linger`), reads in batches (recvmmsg, and GRO where the kernel has it) and looks at one bit of each
//! datagram. Ours are handed to the [`DatagramHandler`] where they lie, to completion, on this thread; QUIC's are
//! copied into a bounded queue. Nothing is allocated after the start.

use std::{
    any::Any,
    io::{self, IoSliceMut, PipeWriter},
    net::SocketAddr,
    os::fd::AsFd,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::atomic::{AtomicBool, Ordering},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
};
use quinn::udp::{BATCH_SIZE, RecvMeta};
use tokio::sync::watch;

use crate::linger::{Expected, Linger, Next};
use crate::priority::Haste;
use crate::socket::{SharedSocket, count};

/// Set in the first byte of every QUIC packet (RFC 9000 §17, the fixed bit; we switch RFC 9287 greasing off).
pub const QUIC_BIT: u8 = 0x40;

/// Reads of the socket taken in one system call at the most. Each may hold 64 KiB of coalesced datagrams.
const BUFFERS: usize = if BATCH_SIZE < 16 { BATCH_SIZE } else { 16 };
/// Longest read in bytes: the largest that GRO makes.
const BUFFER_LEN: usize = 65_536;
/// Failed reads in a row after which the socket counts as broken.
const MAX_ERRORS: u32 = 200;
/// Pause after a failed read, so that a broken socket does not eat a core while it is given a chance.
const ERROR_PAUSE: Duration = Duration::from_millis(10);

/// Takes the datagrams that are not QUIC's. Runs on the reader thread; what it does there delays everything else.
pub trait DatagramHandler: Send {
    /// A datagram, first byte with bit 0x40 clear, from a canonical address. May be changed in place.
    fn handle(&mut self, from: SocketAddr, datagram: &mut [u8]);

    /// What was read at once has been handled: the moment to send what was collected.
    fn end_of_batch(&mut self) {}

    /// What comes next? Asked after each read that brought datagrams of this handler.
    fn expects(&mut self) -> Expected {
        Expected::Nothing
    }

    /// What is handled from now on may have lain unread for up to this long, because of what was [expected](Self::expects).
    fn held(&mut self, _at_most: Duration) {}

    /// After each read, whosever datagrams it brought: did it bring as much as one can, so that there is probably more?
    fn end_of_read(&mut self, _full: bool) {}
}

/// The running reader thread. Dropping it stops and joins the thread; a panic of the handler goes on in the
/// thread that drops it.
#[derive(Debug)]
pub struct Reader {
    thread: Option<JoinHandle<()>>,
    stop: Arc<Stop>,
    ended: watch::Receiver<bool>,
    outcome: Arc<Mutex<Outcome>>,
    socket: SharedSocket,
}

#[derive(Debug)]
struct Stop {
    flag: AtomicBool,
    /// Closing it wakes the thread.
    pipe: Mutex<Option<PipeWriter>>,
}

type Outcome = Option<Result<(), Failure>>;

enum Failure {
    Io(io::Error),
    Panic(Box<dyn Any + Send>),
}

impl std::fmt::Debug for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Panic(_) => f.write_str("a panic"),
        }
    }
}

impl SharedSocket {
    /// Starts the reader thread. QUIC on this socket works from then on.
    ///
    /// # Errors
    /// `AlreadyExists` when the socket has a reader, or what the system says when it has no thread to give.
    pub fn spawn_reader<H: DatagramHandler + 'static>(&self, handler: H) -> io::Result<Reader> {
        if !self.take_reader() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.spawn(handler).inspect_err(|_| self.release_reader())
    }

    fn spawn<H: DatagramHandler + 'static>(&self, handler: H) -> io::Result<Reader> {
        let (wake, pipe) = io::pipe()?;
        let stop = Arc::new(Stop {
            flag: AtomicBool::new(false),
            pipe: Mutex::new(Some(pipe)),
        });
        let (end, ended) = watch::channel(false);
        let outcome = Arc::new(Mutex::new(None));
        let task = (self.clone(), Arc::clone(&stop), Arc::clone(&outcome));
        self.queue().set_dead(false);
        let thread = std::thread::Builder::new()
            .name("udp-reader".to_owned())
            .spawn(move || {
                let (socket, stop, outcome) = task;
                let run = AssertUnwindSafe(|| run(&socket, handler, &stop, &wake));
                let result = match catch_unwind(run) {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(e)) => {
                        tracing::error!(error = %e, "reading the UDP socket failed for good");
                        Err(Failure::Io(e))
                    }
                    Err(panic) => Err(Failure::Panic(panic)),
                };
                // QUIC ends when its packets will never come again. After an orderly stop it may still say goodbye.
                socket.queue().set_dead(result.is_err());
                *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
                end.send_replace(true);
            })?;
        Ok(Reader {
            thread: Some(thread),
            stop,
            ended,
            outcome,
            socket: self.clone(),
        })
    }
}

impl Reader {
    /// Waits until the thread has ended by itself: the socket broke or the handler panicked. A daemon without a
    /// reader is deaf, so wait for this beside the main loop and then [`Self::stop`].
    pub async fn ended(&self) {
        // The sender is gone only after it has said so.
        let _ = self.ended.clone().wait_for(|ended| *ended).await;
    }

    /// Stops the thread and waits for it.
    ///
    /// # Errors
    /// Why it had ended before, if the socket broke.
    ///
    /// # Panics
    /// With the handler's own panic, if that was it.
    pub fn stop(mut self) -> io::Result<()> {
        self.finish()
    }

    fn finish(&mut self) -> io::Result<()> {
        self.stop.flag.store(true, Ordering::Release);
        let pipe = self.stop.pipe.lock();
        drop(pipe.unwrap_or_else(PoisonError::into_inner).take());
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        let joined = thread.join();
        self.socket.release_reader();
        if let Err(panic) = joined {
            resume_unwind(panic);
        }
        let outcome = self.outcome.lock();
        match outcome.unwrap_or_else(PoisonError::into_inner).take() {
            Some(Err(Failure::Panic(panic))) if !std::thread::panicking() => resume_unwind(panic),
            Some(Err(Failure::Io(e))) => Err(e),
            _ => Ok(()),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // A broken socket was logged when it broke.
        let _ = self.finish();
    }
}

/// Reads until told to stop.
fn run<H: DatagramHandler>(
    socket: &SharedSocket,
    mut handler: H,
    stop: &Stop,
    wake: &impl AsFd,
) -> io::Result<()> {
    let mut memory = vec![0u8; BUFFERS * BUFFER_LEN];
    let mut meta = [RecvMeta::default(); BUFFERS];
    let mut bufs: Vec<IoSliceMut<'_>> = memory
        .chunks_exact_mut(BUFFER_LEN)
        .map(IoSliceMut::new)
        .collect();
    let mut errors = 0;
    let (mut linger, mut haste) = (Linger::default(), Haste::default());
    while !stop.flag.load(Ordering::Acquire) {
        let read = socket
            .state()
            .recv(socket.udp().into(), &mut bufs, &mut meta);
        let next = match read {
            Ok(n) => {
                errors = 0;
                haste.read(meta[..n].iter().map(datagrams_in).sum());
                let ours = dispatch(socket, &mut handler, &mut bufs, &meta[..n]);
                handler.end_of_read(n == BUFFERS);
                let expected = ours.then(|| handler.expects());
                // Full: there is probably more. Otherwise the kernel has nothing left, and asking it costs a call.
                if n == BUFFERS {
                    linger.after_full();
                    continue;
                }
                match expected {
                    Some(expected) => linger.after(expected, Instant::now),
                    None => linger.after_others(Instant::now),
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                let next = linger.after_nothing(Instant::now);
                if next == Next::Look {
                    std::thread::yield_now();
                }
                next
            }
            Err(e) => {
                errors += 1;
                count(&socket.counters().receive_errors, 1);
                if errors >= MAX_ERRORS {
                    return Err(e);
                }
                std::thread::sleep(ERROR_PAUSE);
                continue;
            }
        };
        match next {
            Next::Look => handler.held(Duration::ZERO),
            Next::Wait => {
                wait_readable(socket, wake)?;
                handler.held(Duration::ZERO);
            }
            Next::Nap(nap) => handler.held(sleep(nap, wake)?),
        }
    }
    Ok(())
}

/// Sleeps until a datagram or the order to stop is there.
fn wait_readable(socket: &SharedSocket, wake: &impl AsFd) -> io::Result<()> {
    let mut fds = [
        PollFd::new(socket.fd(), PollFlags::POLLIN),
        PollFd::new(wake.as_fd(), PollFlags::POLLIN),
    ];
    match poll(&mut fds, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Sleeps for so long, or until the order to stop is there. Returns how long it was.
fn sleep(time: Duration, wake: &impl AsFd) -> io::Result<Duration> {
    let began = Instant::now();
    let mut fds = [PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
    let timeout = PollTimeout::try_from(time).unwrap_or(PollTimeout::ZERO);
    match poll(&mut fds, timeout) {
        Ok(_) | Err(Errno::EINTR) => Ok(began.elapsed()),
        Err(e) => Err(e.into()),
    }
}

/// Hands out everything that one read brought. Returns whether there was something for the handler.
fn dispatch<H: DatagramHandler>(
    socket: &SharedSocket,
    handler: &mut H,
    bufs: &mut [IoSliceMut<'_>],
    meta: &[RecvMeta],
) -> bool {
    let counters = socket.counters();
    let (mut datagrams, mut bytes, mut quic, mut dropped) = (0, 0, 0, 0);
    let mut ours = false;
    for (buf, meta) in bufs.iter_mut().zip(meta) {
        let from = canonical(meta.addr);
        // A datagram of no bytes has a stride of 0; `chunks_mut` wants one.
        for datagram in buf[..meta.len].chunks_mut(meta.stride.max(1)) {
            datagrams += 1;
            bytes += datagram.len();
            if datagram[0] & QUIC_BIT == 0 {
                ours = true;
                handler.handle(from, datagram);
            } else {
                quic += 1;
                if !socket
                    .queue()
                    .push(meta.addr, meta.dst_ip, meta.ecn, datagram)
                {
                    dropped += 1;
                }
            }
        }
    }
    if quic > dropped {
        socket.queue().wake();
    }
    if ours {
        handler.end_of_batch();
    }
    count(&counters.received, datagrams);
    count(&counters.received_bytes, bytes);
    count(&counters.quic_received, quic);
    count(&counters.quic_dropped, dropped);
    ours
}

/// What one read brought, which may be several that the kernel has joined.
fn datagrams_in(meta: &RecvMeta) -> usize {
    meta.len.div_ceil(meta.stride.max(1))
}

/// The address without the mapping that a dual-stack socket puts on it.
pub(crate) fn canonical(addr: SocketAddr) -> SocketAddr {
    match addr {
        SocketAddr::V6(v6) => match v6.ip().to_ipv4_mapped() {
            Some(v4) => (v4, v6.port()).into(),
            None => {
                // The flow label of a packet is no part of who sent it.
                let mut v6 = v6;
                v6.set_flowinfo(0);
                v6.into()
            }
        },
        v4 @ SocketAddr::V4(_) => v4,
    }
}
