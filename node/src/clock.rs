//! The only place of a node where clocks are read.
//!
//! The clock that everything here goes by goes on while the machine sleeps, as `CLOCK_BOOTTIME` does: a key that was made before
//! eight hours of sleep is eight hours old. Rust's [`Instant`] stands still meanwhile on Linux and macOS, so what was slept is
//! added to it, from the moment on at which the platform tells of it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jiff::{Timestamp, Unit};
use kanpachi_common::UnixTime;
use kanpachi_transport::alarm::Alarms;
use tokio::sync::Notify;

/// How long the machine has slept since the process started, in milliseconds. Only ever more.
static SLEPT_MS: AtomicU64 = AtomicU64::new(0);

/// Who waits for a moment looks again.
static WOKEN: Notify = Notify::const_new();

fn slept() -> Duration {
    Duration::from_millis(SLEPT_MS.load(Relaxed))
}

/// The machine has slept for so long altogether since the process started. From now on [`now`] says so.
pub fn set_slept(slept: Duration) {
    let ms = u64::try_from(slept.as_millis()).unwrap_or(u64::MAX);
    if SLEPT_MS.fetch_max(ms, Relaxed) < ms {
        WOKEN.notify_waiters();
    }
}

/// Now, as the state machines are told. Never goes back.
#[must_use]
pub fn now() -> Instant {
    let awake = Instant::now();
    awake.checked_add(slept()).unwrap_or(awake)
}

/// The next moment that is a multiple of `every` on the wall clock, and so the same on all machines whose clocks are set.
#[must_use]
pub fn next_beat(every: Duration) -> Instant {
    let awake = kanpachi_transport::alarm::next_beat(Instant::now(), every);
    awake.checked_add(slept()).unwrap_or(awake)
}

/// Time since a moment of this clock.
#[must_use]
pub fn since(moment: Instant) -> Duration {
    now().saturating_duration_since(moment)
}

/// Wall clock. A clock set before 1970 counts as 1970.
#[must_use]
pub fn wall() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
    )
}

/// Turns a moment of this clock into wall time, for display: the same moment always into the same time.
#[must_use]
pub fn wall_of(moment: Instant) -> Timestamp {
    static ANCHOR: OnceLock<(Instant, Timestamp)> = OnceLock::new();
    let (at, wall) = *ANCHOR.get_or_init(|| (now(), Timestamp::now()));
    let time = match moment.checked_duration_since(at) {
        Some(later) => wall.checked_add(later),
        None => wall.checked_sub(at.saturating_duration_since(moment)),
    };
    time.and_then(|t| t.round(Unit::Millisecond))
        .unwrap_or(wall)
}

/// As [`until`], by a timer that wakes the runtime only then.
pub(crate) async fn until_by(alarms: &Arc<Alarms>, moment: Option<Instant>) {
    let Some(moment) = moment else {
        return std::future::pending().await;
    };
    loop {
        let woken = WOKEN.notified();
        let left = moment.saturating_duration_since(now());
        let Some(awake) = Instant::now().checked_add(left) else {
            return std::future::pending().await;
        };
        tokio::select! {
            () = woken => {}
            () = alarms.at(awake) => return,
        }
    }
}

/// Waits for a moment of this clock, or for ever. The runtime's timers stand still while the machine sleeps; one that is waited
/// for is set anew when that becomes known.
pub(crate) async fn until(moment: Option<Instant>) {
    let Some(moment) = moment else {
        return std::future::pending().await;
    };
    loop {
        let woken = WOKEN.notified();
        tokio::select! {
            () = woken => {}
            () = tokio::time::sleep(moment.saturating_duration_since(now())) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on_by_what_was_slept_and_never_back() {
        let before = now();
        // The other test may have slept before.
        set_slept(slept() + Duration::from_secs(8 * 3600));
        let after = now();
        assert!(after >= before + Duration::from_secs(8 * 3600));
        assert!(since(before) >= Duration::from_secs(8 * 3600));
        set_slept(Duration::from_secs(60));
        assert!(now() >= after);
    }

    #[tokio::test]
    async fn a_moment_that_was_slept_through_has_come() {
        let due = now() + Duration::from_secs(24 * 3600);
        let waiting = tokio::spawn(until(Some(due)));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        set_slept(slept() + Duration::from_secs(48 * 3600));
        let waited = tokio::time::timeout(Duration::from_secs(5), waiting).await;
        assert!(waited.is_ok(), "still waiting for a moment in the past");
    }
}
