//! The threads that carry packets go before others that want the processor too.
//!
//! Where no processor is idle, as under a transfer, a thread that has slept waits until the others have had their time, some
//! milliseconds for each that packets go through. The threads here work for microseconds and sleep again.

use std::{
    num::NonZeroUsize,
    thread::available_parallelism,
    time::{Duration, Instant},
};

/// As nice as sound servers are, and a little less: it is a share of the processor, and no right to all of it.
const NICE: i32 = -15;
/// With one processor only, where a flood of datagrams would leave nothing to the threads that decide what to do about it.
const NICE_OF_ONE: i32 = -5;

/// How nice the threads are that go first.
#[must_use]
pub fn nice() -> i32 {
    let several = available_parallelism().is_ok_and(|n| n > NonZeroUsize::MIN);
    if several { NICE } else { NICE_OF_ONE }
}

/// A thread is in a hurry while it has so many datagrams a second, as a game sends and keepalives are not. At rest it is better
/// to come late and find more than one.
const MANY: f64 = 20.0;
/// Counted over this at least.
const WINDOW: Duration = Duration::from_millis(500);

/// Lets the calling thread go first. Who may not do that goes on as before: a process without the right to it has a
/// `LimitNICE` in its unit, or nothing but packets that are a little later.
pub fn go_first() {
    set(nice());
}

#[cfg(target_os = "linux")]
fn set(nice: i32) {
    // On Linux this is the thread, not the process (setpriority(2), "C library/kernel differences").
    if let Err(error) = rustix::process::setpriority_process(None, nice) {
        tracing::debug!(%error, nice, "packets wait for other programs");
    }
}

/// Elsewhere there is no such thing for one thread by this call.
#[cfg(not(target_os = "linux"))]
fn set(_nice: i32) {}

/// Whether a thread has so much to do that it goes first.
#[derive(Debug, Default)]
pub(crate) struct Haste {
    since: Option<Instant>,
    datagrams: usize,
    first: bool,
}

impl Haste {
    /// The calling thread has read so many datagrams.
    pub(crate) fn read(&mut self, datagrams: usize) {
        let was = self.first;
        self.count(datagrams, Instant::now());
        if self.first != was {
            set(if self.first { nice() } else { 0 });
        }
    }

    fn count(&mut self, datagrams: usize, now: Instant) {
        let since = *self.since.get_or_insert(now);
        self.datagrams += datagrams;
        let time = now.saturating_duration_since(since);
        if time >= WINDOW {
            self.first = self.datagrams as f64 >= MANY * time.as_secs_f64();
            (self.since, self.datagrams) = (Some(now), 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// One datagram each so often, for so long.
    fn reads(haste: &mut Haste, now: &mut Instant, each: Duration, time: Duration) {
        let end = *now + time;
        while *now < end {
            haste.count(1, *now);
            *now += each;
        }
    }

    #[test]
    fn a_game_makes_a_thread_go_first_and_keepalives_do_not() {
        let (mut haste, mut now) = (Haste::default(), Instant::now());
        for _ in 0..10 {
            // A beat of many, and something by itself later.
            reads(&mut haste, &mut now, 5 * MS, 300 * MS);
            assert!(!haste.first);
            now += 8000 * MS;
            reads(&mut haste, &mut now, MS, 20 * MS);
            assert!(!haste.first);
            now += 16_680 * MS;
        }
        reads(&mut haste, &mut now, 40 * MS, 2000 * MS);
        assert!(haste.first, "twenty-five a second");
        now += 25_000 * MS;
        haste.count(1, now);
        assert!(!haste.first, "it is over");
    }
}
