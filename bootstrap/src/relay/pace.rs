//! How much each member may send at the moment, so that a flood takes nothing from the others.
//!
//! The kernel's buffer does not tell members from each other: once it overflows, whoever sends most loses least. So the
//! reader must never be behind for long. While it is, each member's rate falls by a fifth every round, which costs only
//! those that send the most; what exceeds it is dropped by one look-up, far cheaper than forwarding. Afterwards the rate
//! rises again, slowly, to what was configured.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::bucket::Rate;

/// Nanoseconds of a round.
const ROUND: u64 = 10_000_000;
/// Bytes a second that a member always has. What is left of a flood then costs no more than reading it.
const FLOOR: u64 = 8 << 20;
/// Bytes a second from which the rate falls when no limit is configured: 20 Gbit/s.
const UNLIMITED: u64 = 2_500_000_000;
/// Part of a second that a burst lasts at full rate while the reader is behind: what exceeds a share has to stop soon.
const BURST_DIVISOR: u64 = 32;
/// And while it is not, within so many bytes. TCP fills a burst, loses much at once and waits for a fifth of a second, so over
/// a short way a burst each such time is all that it gets.
const LONG_DIVISOR: u64 = 8;
const MAX_LONG: u64 = 4 << 20;
/// Least burst in bytes.
const MIN_BURST: u64 = 64 * 1024;
/// Part of the configured rate that comes back each round.
const STEP: u64 = 128;

/// What a member may send, for all who forward.
#[derive(Debug)]
pub(crate) struct Pace {
    configured: u64,
    ceiling: u64,
    share: AtomicU64,
}

impl Pace {
    /// `configured` bytes a second for each member, 0 for no limit.
    pub(crate) const fn new(configured: u64) -> Self {
        let ceiling = if configured == 0 {
            UNLIMITED
        } else {
            configured
        };
        Self {
            configured,
            ceiling,
            share: AtomicU64::new(ceiling),
        }
    }

    /// What is told to members.
    pub(crate) fn configured(&self) -> Option<u64> {
        (self.configured > 0).then_some(self.configured)
    }

    /// Of a member, at the moment.
    pub(crate) fn member(&self) -> Rate {
        let share = self.share.load(Relaxed);
        rate(share, self.configured > 0 && share == self.ceiling)
    }

    /// Of a pair, both ways together.
    pub(crate) fn pair(&self) -> Rate {
        rate(self.configured, true)
    }
}

fn rate(per_second: u64, long: bool) -> Rate {
    let short = (per_second / BURST_DIVISOR).max(MIN_BURST);
    let burst = if long {
        (per_second / LONG_DIVISOR).min(MAX_LONG).max(short)
    } else {
        short
    };
    Rate { per_second, burst }
}

/// Watches how far the reader is behind; belongs to it.
#[derive(Debug, Default)]
pub(crate) struct Load {
    round_ends: u64,
    /// Reads in this round that took all they could hold, and others.
    full: u32,
    idle: u32,
}

impl Load {
    /// After each read of the socket: did it bring as much as it can?
    pub(crate) fn read(&mut self, full: bool, pace: &Pace, now: u64) {
        if full {
            self.full += 1;
        } else {
            self.idle += 1;
        }
        if now < self.round_ends {
            return;
        }
        let share = pace.share.load(Relaxed);
        // A single read that emptied the buffer shows that the reader is not behind.
        let next = if self.idle == 0 && self.full > 1 {
            share - share / 5
        } else {
            share.saturating_add(pace.ceiling / STEP)
        };
        let next = next.clamp(FLOOR.min(pace.ceiling), pace.ceiling);
        pace.share.store(next, Relaxed);
        *self = Self {
            round_ends: now + ROUND,
            ..Self::default()
        };
    }
}
