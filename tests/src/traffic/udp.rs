//! A UDP flow of numbered, hashed packets: finds duplicates, changed bytes, gaps and reordering.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use sha2::{Digest as _, Sha256};

use crate::netns::Netns;
use crate::rng::Rng;
use crate::wait;

/// 8 bytes number, 32 bytes SHA-256 over number and filling, then the filling.
const HEADER: usize = 40;
/// How long the receiver waits for stragglers after the sender has ended.
const QUIET: Duration = Duration::from_millis(500);

/// What to send, evenly spaced.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub packets_per_second: u32,
    /// UDP payload in bytes, at least 40.
    pub size: usize,
}

/// What arrived.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub sent: u64,
    /// Distinct packets.
    pub received: u64,
    pub duplicates: u64,
    pub altered: u64,
    /// Packets with a lower number than one before them.
    pub reordered: u64,
    /// The longest time between two arrivals, from the first to the last.
    pub longest_gap: Duration,
}

impl Report {
    /// Lost packets in 100.
    pub fn loss_percent(&self) -> f64 {
        100.0 * (1.0 - self.received as f64 / self.sent.max(1) as f64)
    }
}

/// A flow that runs until [`UdpFlow::finish`].
#[derive(Debug)]
pub struct UdpFlow {
    stop_sending: Arc<AtomicBool>,
    stop_receiving: Arc<AtomicBool>,
    arrived: Arc<AtomicU64>,
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<Result<Report>>,
}

impl UdpFlow {
    /// Starts sending from one namespace to an address in another.
    pub fn start(from: &Netns, to: (&Netns, IpAddr), load: Load) -> Result<Self> {
        ensure!(
            load.size >= HEADER && load.packets_per_second > 0,
            "{load:?}"
        );
        let socket =
            to.0.run(|| UdpSocket::bind((to.1, 0)).with_context(|| format!("bind {}", to.1)))?;
        // Room for what arrives while the receiver has no processor.
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::RcvBufForce, &(8 << 20))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        let address = socket.local_addr()?;
        let stop_sending = Arc::new(AtomicBool::new(false));
        let stop_receiving = Arc::new(AtomicBool::new(false));
        let arrived = Arc::new(AtomicU64::new(0));
        let sender = from.spawn({
            let stop = Arc::clone(&stop_sending);
            move || send(address, load, &stop)
        });
        let receiver = std::thread::spawn({
            let (stop, arrived) = (Arc::clone(&stop_receiving), Arc::clone(&arrived));
            move || receive(&socket, &stop, &arrived)
        });
        Ok(Self {
            stop_sending,
            stop_receiving,
            arrived,
            sender,
            receiver,
        })
    }

    /// Packets that have arrived so far.
    pub fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    /// Stops the sender, waits until nothing more arrives, and reports.
    pub fn finish(self) -> Result<Report> {
        self.stop_sending.store(true, Ordering::Relaxed);
        let sent = self
            .sender
            .join()
            .map_err(|_| anyhow!("the sender panicked"))?
            .context("sender")?;
        self.stop_receiving.store(true, Ordering::Relaxed);
        let report = self
            .receiver
            .join()
            .map_err(|_| anyhow!("the receiver panicked"))?
            .context("receiver")?;
        Ok(Report { sent, ..report })
    }
}

fn packet(number: u64, size: usize) -> Vec<u8> {
    let mut packet = vec![0u8; size];
    Rng::new(number).fill(&mut packet[HEADER..]);
    packet[..8].copy_from_slice(&number.to_be_bytes());
    let hash = digest(&packet);
    packet[8..HEADER].copy_from_slice(&hash);
    packet
}

fn digest(packet: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(&packet[..8])
        .chain_update(&packet[HEADER..])
        .finalize()
        .into()
}

fn send(address: SocketAddr, load: Load, stop: &AtomicBool) -> Result<u64> {
    let any: SocketAddr = if address.is_ipv4() {
        ([0, 0, 0, 0], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    let (start, mut number) = (Instant::now(), 0u64);
    while !stop.load(Ordering::Relaxed) {
        // A full queue or a passing "unreachable" is a lost packet, which the report shows.
        let _ = socket.send(&packet(number, load.size));
        number += 1;
        let due = Duration::from_secs_f64(number as f64 / f64::from(load.packets_per_second));
        std::thread::park_timeout(due.saturating_sub(start.elapsed()));
    }
    Ok(number)
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, arrived: &AtomicU64) -> Result<Report> {
    let (mut report, mut seen, mut highest) = (Report::default(), HashSet::new(), 0u64);
    let mut buffer = vec![0u8; 65_536];
    let mut last: Option<Instant> = None;
    let mut quiet_since = Instant::now();
    loop {
        let Ok(length) = socket.recv(&mut buffer) else {
            if stop.load(Ordering::Relaxed) && quiet_since.elapsed() > wait::scaled(QUIET) {
                return Ok(report);
            }
            continue;
        };
        quiet_since = Instant::now();
        report.longest_gap = report
            .longest_gap
            .max(last.map_or(Duration::ZERO, |last| last.elapsed()));
        last = Some(Instant::now());
        let data = &buffer[..length];
        if length < HEADER || digest(data) != data[8..HEADER] {
            report.altered += 1;
            continue;
        }
        let number = data[..8]
            .iter()
            .fold(0u64, |number, byte| number << 8 | u64::from(*byte));
        if !seen.insert(number) {
            report.duplicates += 1;
            continue;
        }
        report.reordered += u64::from(number < highest);
        highest = highest.max(number);
        report.received += 1;
        arrived.store(report.received, Ordering::Relaxed);
    }
}
