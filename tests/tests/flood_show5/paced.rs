//! Datagrams at an even rate, whatever becomes of them, and a socket that only counts.
//!
//! Both use the shared socket of the programs: several datagrams go out in one system call and come in by one, or the
//! generator would need the processor that the node under test is to have.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use kanpachi_tests::netns::Netns;
use kanpachi_transport::{DatagramHandler, Reader, SharedSocket};

/// How often the sender wakes up.
const TICK: Duration = Duration::from_millis(1);
/// A sender that had no processor for longer does not catch up: that would be another rate.
const MAX_BEHIND: Duration = Duration::from_millis(20);

/// Datagrams of one size, one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Batch {
    pub(crate) bytes: Vec<u8>,
    pub(crate) size: usize,
}

impl Batch {
    fn count(&self) -> u64 {
        self.bytes.len().div_ceil(self.size) as u64
    }
}

/// Sends batches in turn until [`Paced::stop`].
#[derive(Debug)]
pub(crate) struct Paced {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    since: Instant,
    thread: JoinHandle<()>,
}

impl Paced {
    /// Starts to send this many datagrams a second, from these sockets in turn.
    pub(crate) fn start(
        sockets: &[SharedSocket],
        to: SocketAddr,
        batches: &Arc<[Batch]>,
        per_second: u32,
    ) -> Self {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let since = Instant::now();
        let (sockets, batches) = (sockets.to_vec(), Arc::clone(batches));
        let task = (Arc::clone(&stop), Arc::clone(&sent));
        let thread = std::thread::spawn(move || {
            let (stop, sent) = task;
            let mut pairs = sockets.iter().cycle().zip(batches.iter().cycle());
            let (mut start, mut paced) = (Instant::now(), 0);
            while !stop.load(Ordering::Relaxed) {
                let mut due = (start.elapsed().as_secs_f64() * f64::from(per_second)) as u64;
                let most = (MAX_BEHIND.as_secs_f64() * f64::from(per_second)) as u64;
                if due > paced + most {
                    (start, paced, due) = (Instant::now(), 0, most / 4);
                }
                while paced < due
                    && let Some((socket, batch)) = pairs.next()
                {
                    paced += batch.count();
                    // A full buffer is a lost datagram, which the count shows.
                    if socket.send(to, &batch.bytes, Some(batch.size)).is_ok() {
                        sent.fetch_add(batch.count(), Ordering::Relaxed);
                    }
                }
                std::thread::park_timeout(TICK);
            }
        });
        Self {
            stop,
            sent,
            since,
            thread,
        }
    }

    /// Stops; returns datagrams sent a second.
    pub(crate) fn stop(self) -> Result<f64> {
        let seconds = self.since.elapsed().as_secs_f64();
        let sent = self.sent.load(Ordering::Relaxed);
        self.stop.store(true, Ordering::Relaxed);
        self.thread
            .join()
            .map_err(|_| anyhow!("the sender panicked"))?;
        Ok(sent as f64 / seconds)
    }
}

/// A socket that reads and counts.
#[derive(Debug)]
pub(crate) struct Sink {
    socket: SharedSocket,
    _reader: Reader,
}

struct Nothing;

impl DatagramHandler for Nothing {
    fn handle(&mut self, _: SocketAddr, _: &mut [u8]) {}
}

impl Sink {
    pub(crate) fn new(ns: &Netns, address: IpAddr) -> Result<Self> {
        let socket = bind(ns, address)?;
        let reader = socket.spawn_reader(Nothing)?;
        Ok(Self {
            socket,
            _reader: reader,
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.socket.local_addr()
    }

    /// Bytes that have arrived so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.socket
            .counters()
            .received_bytes
            .load(Ordering::Relaxed)
    }
}

/// A socket in a namespace, at any port.
pub(crate) fn bind(ns: &Netns, address: IpAddr) -> Result<SharedSocket> {
    ns.run(|| Ok(SharedSocket::bind((address, 0).into())?))
}
