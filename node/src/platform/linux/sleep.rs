//! Notices that the machine has slept.
//!
//! `CLOCK_BOOTTIME` counts a suspend and `CLOCK_MONOTONIC` does not, so their difference tells how long it was. When to look is told by
//! a timer that the kernel cancels whenever the wall clock jumps, which it does at each resume (timerfd_create(2),
//! `TFD_TIMER_CANCEL_ON_SET`): no timer wakes the machine to find out that nothing happened.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId as TimerClock, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
    time::{ClockId, clock_gettime},
};
use tokio::{io::unix::AsyncFd, sync::watch};

use crate::platform::SleepWatch;

/// A moment that no machine lives to see, in seconds since 1970; the kernel's own limit is a little later.
const NEVER: i64 = 1 << 33;

/// A timer that tokio can wait for.
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// How long the machine has slept since it was booted.
fn slept() -> io::Result<Duration> {
    // In this order a pause between the two readings makes it less, never more.
    let boot = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME)?);
    let awake = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(boot.saturating_sub(awake))
}

/// Watches until the watch is dropped.
pub(super) fn watch() -> io::Result<SleepWatch> {
    let timer = TimerFd::new(
        TimerClock::CLOCK_REALTIME,
        TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
    )?;
    arm(&timer)?;
    let timer = register(timer)?;
    let start = slept()?;
    let (sender, receiver) = watch::channel(Duration::ZERO);
    let task = tokio::spawn(async move {
        while jumped(&timer).await.is_ok() {
            let Ok(slept) = slept() else { return };
            sender.send_replace(slept.saturating_sub(start));
        }
    });
    Ok(SleepWatch::new(receiver, task))
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe for the sake of descriptors that are closed meanwhile; this one is owned"
)]
fn register(timer: TimerFd) -> io::Result<AsyncFd<Timer>> {
    AsyncFd::new(Timer(timer))
}

fn arm(timer: &TimerFd) -> nix::Result<()> {
    let flags = TimerSetTimeFlags::TFD_TIMER_ABSTIME | TimerSetTimeFlags::TFD_TIMER_CANCEL_ON_SET;
    let armed = timer.set(Expiration::OneShot(TimeSpec::new(NEVER, 0)), flags);
    match armed {
        // The clock jumped since it was armed last; it is armed nevertheless.
        Err(Errno::ECANCELED) => Ok(()),
        other => other,
    }
}

/// Returns at each jump of the wall clock.
async fn jumped(timer: &AsyncFd<Timer>) -> io::Result<()> {
    loop {
        let mut ready = timer.readable().await?;
        // A canceled timer says so until it is armed again.
        if ready.try_io(|timer| read(&timer.get_ref().0)).is_ok() {
            return Ok(arm(&timer.get_ref().0)?);
        }
    }
}

fn read(timer: &TimerFd) -> io::Result<()> {
    let mut count = [0; 8];
    match nix::unistd::read(timer, &mut count) {
        Ok(_) | Err(Errno::ECANCELED) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_is_told_of_a_sleep_that_was_none() {
        let mut watch = watch().unwrap();
        let told = tokio::time::timeout(Duration::from_millis(100), watch.receiver.changed()).await;
        assert!(told.is_err(), "told of {:?}", *watch.receiver.borrow());
        let (before, after) = (slept().unwrap(), slept().unwrap());
        assert!(before.abs_diff(after) < Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_canceled_timer_is_armed_again() {
        let timer = TimerFd::new(TimerClock::CLOCK_REALTIME, TimerFlags::TFD_NONBLOCK).unwrap();
        // In the past: readable at once, as one that was canceled.
        let past = Expiration::OneShot(TimeSpec::new(1, 0));
        timer
            .set(past, TimerSetTimeFlags::TFD_TIMER_ABSTIME)
            .unwrap();
        let timer = register(timer).unwrap();
        jumped(&timer).await.unwrap();
        let again = tokio::time::timeout(Duration::from_millis(100), jumped(&timer)).await;
        assert!(again.is_err(), "it runs hot");
    }
}
