//! A cable in user space: delay, jitter, reordering, loss and duplication between two namespaces, without netem.
//!
//! Both ends are TAP devices, not veths with packet sockets: without offloads on the TAP the kernel hands over whole
//! frames of at most the MTU with their checksums filled in, which is what a cable carries.

use std::collections::BinaryHeap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, ppoll};
use nix::sys::time::{TimeSpec, TimeValLike as _};

use crate::netns::Netns;
use crate::rng::Rng;

/// Frames under way at once, both directions together; more are dropped like in a full buffer.
const QUEUE_LIMIT: usize = 8192;
/// Frames read from one end before the other gets its turn.
const BATCH: usize = 64;
/// An Ethernet frame at MTU 1500, with room.
const FRAME_MAX: usize = 2048;
/// How soon a stopped wire notices.
const IDLE: Duration = Duration::from_millis(50);

/// How bad the cable is, the same in both directions. The default is a good one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    pub delay: Duration,
    /// Added to `delay`, uniform in `0..jitter`: frames overtake each other when it exceeds their distance.
    pub jitter: Duration,
    /// Frames in 100 that take `reorder_by` longer than the rest.
    pub reorder_percent: f64,
    pub reorder_by: Duration,
    pub loss_percent: f64,
    pub duplicate_percent: f64,
    pub seed: u64,
}

/// What the wire did so far.
#[derive(Debug, Default)]
pub struct Counters {
    pub carried: AtomicU64,
    pub lost: AtomicU64,
    pub late: AtomicU64,
    pub duplicated: AtomicU64,
    /// Dropped because [`QUEUE_LIMIT`] frames were under way, or by the receiving device.
    pub overflowed: AtomicU64,
}

/// The cable. Cut when dropped.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    carrier: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    settings: Mutex<Settings>,
    counters: Counters,
    stop: AtomicBool,
}

impl Wire {
    /// Makes a TAP device of the given name in each namespace and carries frames between them.
    pub fn new(one: (&Netns, &str), other: (&Netns, &str), settings: Settings) -> Result<Self> {
        let ends = [
            open_device(one.0, one.1, Device::Tap)?,
            open_device(other.0, other.1, Device::Tap)?,
        ];
        let shared = Arc::new(Shared {
            settings: Mutex::new(settings),
            counters: Counters::default(),
            stop: AtomicBool::new(false),
        });
        let carrier = std::thread::Builder::new().name("wire".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || Carrier::new(ends, &shared, settings.seed).run()
        })?;
        Ok(Self {
            shared,
            carrier: Some(carrier),
        })
    }

    /// Changes the cable from now on; frames under way keep their time.
    pub fn set(&self, settings: Settings) {
        *self
            .shared
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = settings;
    }

    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(carrier) = self.carrier.take() {
            let _ = carrier.join();
        }
    }
}

/// A frame on its way to `ends[to]`. Ordered so that the one due first is the greatest, for the heap.
struct Flying {
    due: Instant,
    number: u64,
    to: usize,
    frame: Vec<u8>,
}

impl Flying {
    fn key(&self) -> (std::cmp::Reverse<Instant>, std::cmp::Reverse<u64>) {
        (std::cmp::Reverse(self.due), std::cmp::Reverse(self.number))
    }
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Flying {}

impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flying {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

struct Carrier<'a> {
    ends: [File; 2],
    shared: &'a Shared,
    rng: Rng,
    flying: BinaryHeap<Flying>,
    number: u64,
}

impl<'a> Carrier<'a> {
    fn new(ends: [File; 2], shared: &'a Shared, seed: u64) -> Self {
        Self {
            ends,
            shared,
            rng: Rng::new(seed),
            flying: BinaryHeap::new(),
            number: 0,
        }
    }

    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            self.wait();
            for from in [0, 1] {
                self.receive(from);
            }
            self.deliver(Instant::now());
        }
    }

    fn wait(&self) {
        let due = self
            .flying
            .peek()
            .map(|next| next.due.saturating_duration_since(Instant::now()));
        let patience = due.unwrap_or(IDLE).min(IDLE);
        let mut fds = [
            PollFd::new(self.ends[0].as_fd(), PollFlags::POLLIN),
            PollFd::new(self.ends[1].as_fd(), PollFlags::POLLIN),
        ];
        let timeout = TimeSpec::nanoseconds(
            i64::try_from(patience.as_nanos())
                .unwrap_or(i64::from(PollTimeout::MAX.as_millis().unwrap_or(0))),
        );
        let _ = ppoll(&mut fds, Some(timeout), None);
    }

    fn receive(&mut self, from: usize) {
        let settings = *self
            .shared
            .settings
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [0u8; FRAME_MAX];
        for _ in 0..BATCH {
            let Ok(length) = self.ends[from].read(&mut buffer) else {
                return;
            };
            self.accept(&settings, 1 - from, &buffer[..length]);
        }
    }

    fn accept(&mut self, settings: &Settings, to: usize, frame: &[u8]) {
        let counters = &self.shared.counters;
        if self.rng.percent(settings.loss_percent) {
            counters.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let copies = if self.rng.percent(settings.duplicate_percent) {
            counters.duplicated.fetch_add(1, Ordering::Relaxed);
            2
        } else {
            1
        };
        for _ in 0..copies {
            if self.flying.len() >= QUEUE_LIMIT {
                counters.overflowed.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut due = Instant::now() + settings.delay;
            due += Duration::from_nanos(self.rng.below(settings.jitter.as_nanos() as u64));
            if self.rng.percent(settings.reorder_percent) {
                counters.late.fetch_add(1, Ordering::Relaxed);
                due += settings.reorder_by;
            }
            self.number += 1;
            self.flying.push(Flying {
                due,
                number: self.number,
                to,
                frame: frame.to_vec(),
            });
        }
    }

    fn deliver(&mut self, now: Instant) {
        while self.flying.peek().is_some_and(|next| next.due <= now) {
            let Some(arrived) = self.flying.pop() else {
                return;
            };
            let counter = match self.ends[arrived.to].write(&arrived.frame) {
                Ok(_) => &self.shared.counters.carried,
                Err(_) => &self.shared.counters.overflowed,
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What a device of [`open_device`] carries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Device {
    /// Ethernet frames.
    Tap,
    /// IP packets.
    Tun,
}

/// Opens a new device in a namespace, without waiting reads. It lives as long as the file.
pub(crate) fn open_device(ns: &Netns, name: &str, device: Device) -> Result<File> {
    ns.run(|| {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/net/tun")?;
        set_interface(&file, name, device).with_context(|| format!("make {device:?} {name}"))?;
        Ok(file)
    })
}

#[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
fn set_interface(file: &File, name: &str, device: Device) -> std::io::Result<()> {
    // SAFETY: `ifreq` is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero, which ends the name.
    for (to, from) in request
        .ifr_name
        .iter_mut()
        .take(libc::IFNAMSIZ - 1)
        .zip(name.bytes())
    {
        *to = from as libc::c_char;
    }
    let kind = match device {
        Device::Tap => libc::IFF_TAP,
        Device::Tun => libc::IFF_TUN,
    };
    request.ifr_ifru.ifru_flags = (kind | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}
