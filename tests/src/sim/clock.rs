//! Virtual time: one monotonic clock for everybody, and a wall clock for each machine.

use std::time::{Duration, Instant};

use kanpachi_common::UnixTime;

/// Where wall clocks stand at the beginning: 2027-01-15, in seconds since 1970.
const EPOCH: u64 = 1_800_000_000;

/// The monotonic clock. It stands still unless it is moved.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
    elapsed: Duration,
}

impl Clock {
    /// A clock at its beginning. Where that lies in the time of this machine makes no difference to anybody.
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
            elapsed: Duration::ZERO,
        }
    }

    /// Now, as the state machines are told.
    pub fn now(&self) -> Instant {
        self.start + self.elapsed
    }

    /// Virtual time since the beginning.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// The moment of an instant, as virtual time since the beginning.
    pub fn at(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.start)
    }

    /// Moves on; never back.
    pub fn advance_to(&mut self, elapsed: Duration) {
        self.elapsed = self.elapsed.max(elapsed);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The wall clock of one machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wall {
    /// How wrong it is, in seconds.
    shift: i64,
}

impl Wall {
    /// What it shows.
    pub fn read(&self, clock: &Clock) -> UnixTime {
        UnixTime((EPOCH + clock.elapsed().as_secs()).saturating_add_signed(self.shift))
    }

    /// Somebody sets it: so many seconds later than it shows, or earlier.
    pub fn jump(&mut self, seconds: i64) {
        self.shift = self.shift.saturating_add(seconds);
    }
}
