//! A TCP transfer whose bytes are hashed at both ends.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};

use crate::netns::Netns;
use crate::rng::Rng;
use crate::wait;

/// How much is written at once.
const CHUNK: usize = 64 << 10;
/// The canary stands in the payload at least once in this many bytes, so in every full packet.
const CANARY_EVERY: usize = 512;
/// Longest silence that either end bears before it calls the transfer dead.
const SILENCE: Duration = Duration::from_secs(30);

/// What to send.
#[derive(Debug, Clone, Default)]
pub struct Payload {
    /// Bytes in all; 0 means until [`Transfer::stop`].
    pub bytes: u64,
    /// Bytes per second at most; 0 means as fast as it goes.
    pub rate: u64,
    /// Repeated through the payload, for a capture to search.
    pub canary: Vec<u8>,
    pub seed: u64,
}

/// What a finished transfer saw. Both hashes are over all bytes of the stream.
#[derive(Debug, Clone)]
pub struct Report {
    pub sent: u64,
    pub received: u64,
    pub sent_sha256: [u8; 32],
    pub received_sha256: [u8; 32],
    pub took: Duration,
    /// The longest time in which the receiver got nothing.
    pub longest_gap: Duration,
}

impl Report {
    pub fn mbit_per_second(&self) -> f64 {
        self.received as f64 * 8e-6 / self.took.as_secs_f64()
    }
}

/// A transfer that runs in the background.
#[derive(Debug)]
pub struct Transfer {
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<Result<(u64, [u8; 32])>>,
    receiver: JoinHandle<Result<Received>>,
}

#[derive(Debug)]
struct Received {
    bytes: u64,
    sha256: [u8; 32],
    took: Duration,
    longest_gap: Duration,
}

impl Transfer {
    /// Connects from one namespace to `to` in another and starts sending.
    pub fn start(from: &Netns, to: (&Netns, IpAddr), payload: Payload) -> Result<Self> {
        let listener = to
            .0
            .run(|| TcpListener::bind((to.1, 0)).with_context(|| format!("listen on {}", to.1)))?;
        let address = listener.local_addr()?;
        let (progress, stop) = (
            Arc::new(AtomicU64::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let sender = from.spawn({
            let stop = Arc::clone(&stop);
            move || send(address, &payload, &stop)
        });
        let receiver = std::thread::spawn({
            let progress = Arc::clone(&progress);
            move || receive(&listener, &progress)
        });
        Ok(Self {
            progress,
            stop,
            sender,
            receiver,
        })
    }

    /// Bytes received so far.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// Whether both ends are done, well or not.
    pub fn is_finished(&self) -> bool {
        self.sender.is_finished() && self.receiver.is_finished()
    }

    /// Ends a transfer without a fixed length after the chunk under way.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// If either end failed, for instance by a reset, or the hashes or lengths differ.
    pub fn finish(self) -> Result<Report> {
        let sent = self
            .sender
            .join()
            .map_err(|_| anyhow!("the sender panicked"))?
            .context("sender");
        let received = match &sent {
            Ok(_) => self
                .receiver
                .join()
                .map_err(|_| anyhow!("the receiver panicked"))?
                .context("receiver")?,
            // The receiver would wait for nobody.
            Err(_) => return Err(sent.err().unwrap_or_else(|| anyhow!("sender"))),
        };
        let (sent, sent_sha256) = sent?;
        ensure!(
            sent == received.bytes,
            "{sent} bytes sent, {} received",
            received.bytes
        );
        ensure!(
            sent_sha256 == received.sha256,
            "the hashes differ after {sent} bytes"
        );
        Ok(Report {
            sent,
            received: received.bytes,
            sent_sha256,
            received_sha256: received.sha256,
            took: received.took,
            longest_gap: received.longest_gap,
        })
    }
}

/// Sends a payload and waits for the end.
pub fn transfer(from: &Netns, to: (&Netns, IpAddr), payload: Payload) -> Result<Report> {
    Transfer::start(from, to, payload)?.finish()
}

fn send(address: SocketAddr, payload: &Payload, stop: &AtomicBool) -> Result<(u64, [u8; 32])> {
    let mut stream = TcpStream::connect_timeout(&address, wait::scaled(SILENCE))
        .with_context(|| format!("connect to {address}"))?;
    stream.set_write_timeout(Some(wait::scaled(SILENCE)))?;
    let (mut rng, mut hash, mut sent) = (Rng::new(payload.seed), Sha256::new(), 0u64);
    let mut chunk = vec![0u8; CHUNK];
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) && (payload.bytes == 0 || sent < payload.bytes) {
        fill(&mut chunk, &mut rng, &payload.canary);
        let length = if payload.bytes == 0 {
            CHUNK
        } else {
            CHUNK.min(usize::try_from(payload.bytes - sent).unwrap_or(CHUNK))
        };
        stream
            .write_all(&chunk[..length])
            .with_context(|| format!("write after {sent} bytes"))?;
        hash.update(&chunk[..length]);
        sent += length as u64;
        pace(start, sent, payload.rate);
    }
    stream.shutdown(Shutdown::Write)?;
    // The other end closes when it has everything: that is the end of the transfer, or a reset.
    stream.set_read_timeout(Some(wait::scaled(SILENCE)))?;
    stream
        .read_to_end(&mut Vec::new())
        .context("wait for the receiver to close")?;
    Ok((sent, hash.finalize().into()))
}

fn fill(chunk: &mut [u8], rng: &mut Rng, canary: &[u8]) {
    rng.fill(chunk);
    for block in chunk
        .chunks_mut(CANARY_EVERY)
        .filter(|block| block.len() >= canary.len())
    {
        block[..canary.len()].copy_from_slice(canary);
    }
}

/// Holds the sender to its rate.
fn pace(start: Instant, sent: u64, rate: u64) {
    if rate == 0 {
        return;
    }
    let due = Duration::from_secs_f64(sent as f64 / rate as f64);
    std::thread::park_timeout(due.saturating_sub(start.elapsed()));
}

fn receive(listener: &TcpListener, progress: &AtomicU64) -> Result<Received> {
    let mut stream = accept(listener)?;
    stream.set_read_timeout(Some(wait::scaled(SILENCE)))?;
    let (mut hash, mut bytes, mut buffer) = (Sha256::new(), 0u64, vec![0u8; CHUNK]);
    let (start, mut last, mut longest_gap) = (Instant::now(), Instant::now(), Duration::ZERO);
    loop {
        let length = stream
            .read(&mut buffer)
            .with_context(|| format!("read after {bytes} bytes"))?;
        longest_gap = longest_gap.max(last.elapsed());
        last = Instant::now();
        if length == 0 {
            return Ok(Received {
                bytes,
                sha256: hash.finalize().into(),
                took: start.elapsed(),
                longest_gap,
            });
        }
        hash.update(&buffer[..length]);
        bytes += length as u64;
        progress.store(bytes, Ordering::Relaxed);
    }
}

/// Accepts one connection, not for ever.
fn accept(listener: &TcpListener) -> Result<TcpStream> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use std::os::fd::AsFd as _;
    let patience = PollTimeout::try_from(wait::scaled(SILENCE)).unwrap_or(PollTimeout::MAX);
    let ready = poll(
        &mut [PollFd::new(listener.as_fd(), PollFlags::POLLIN)],
        patience,
    )?;
    ensure!(ready > 0, "nobody connected to {}", listener.local_addr()?);
    Ok(listener.accept()?.0)
}
