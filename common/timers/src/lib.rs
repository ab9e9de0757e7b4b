//! Timers that wake a process once, together with all others that are due.
//!
//! libp2p has its timers from the crate `futures-timer`, which runs them in a thread of its own and wakes that thread whenever
//! one is set, set anew or dropped; each stream that is opened has one. At a node at rest that was measured to be a fifth of all
//! wake-ups. This crate stands in for it (`[patch.crates-io]`), with what libp2p uses of it: [`Delay`].

pub mod alarm;

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use tokio::time::Sleep;

use alarm::{Alarm, Alarms};

/// Comes after some time, at once when that is over already, and again whenever it is asked after that.
pub struct Delay {
    /// `None`: further away than there is time.
    at: Option<Instant>,
    /// From when it was waited for first.
    timer: Option<Timer>,
}

enum Timer {
    Alarm(Alarm),
    /// Where the system has no timer to give.
    Sleep(Pin<Box<Sleep>>),
}

impl Delay {
    /// Comes so long after now.
    #[must_use]
    pub fn new(after: Duration) -> Self {
        Self {
            at: Instant::now().checked_add(after),
            timer: None,
        }
    }

    /// Comes so long after now instead, also if it has come already. Whoever waits for it has to ask once more.
    pub fn reset(&mut self, after: Duration) {
        self.at = Instant::now().checked_add(after);
        match (&mut self.timer, self.at) {
            (Some(Timer::Alarm(alarm)), Some(at)) => alarm.reset(at),
            (Some(Timer::Sleep(sleep)), Some(at)) => sleep.as_mut().reset(at.into()),
            (timer, None) => *timer = None,
            (None, Some(_)) => {}
        }
    }
}

impl fmt::Debug for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delay").field("at", &self.at).finish()
    }
}

impl Future for Delay {
    type Output = ();

    /// It belongs to the tokio runtime in which it is asked first.
    ///
    /// # Panics
    /// Outside of a tokio runtime, and in one that has neither timers nor files.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.at else {
            return Poll::Pending;
        };
        if at <= Instant::now() {
            self.timer = None;
            return Poll::Ready(());
        }
        match self.timer.get_or_insert_with(|| timer(at)) {
            Timer::Alarm(alarm) => Pin::new(alarm).poll(cx),
            Timer::Sleep(sleep) => sleep.as_mut().poll(cx),
        }
    }
}

fn timer(at: Instant) -> Timer {
    match Alarms::here() {
        Ok(alarms) => Timer::Alarm(alarms.at(at)),
        Err(error) => {
            tracing::debug!(%error, "no timer of the kernel");
            Timer::Sleep(Box::pin(tokio::time::sleep_until(at.into())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LITTLE: Duration = Duration::from_millis(30);

    #[tokio::test]
    async fn a_delay_comes_after_its_time_and_stays_there() {
        let start = Instant::now();
        let mut delay = Delay::new(LITTLE);
        (&mut delay).await;
        assert!(start.elapsed() >= LITTLE);
        (&mut delay).await;
        // As libp2p's handlers do: from now on again.
        let again = Instant::now();
        delay.reset(LITTLE);
        (&mut delay).await;
        assert!(again.elapsed() >= LITTLE);
    }

    #[tokio::test]
    async fn a_delay_that_is_set_anew_while_it_is_waited_for_comes_then() {
        let start = Instant::now();
        let mut delay = Delay::new(Duration::from_secs(3600));
        assert!(futures::poll!(&mut delay).is_pending());
        delay.reset(LITTLE);
        let came = tokio::time::timeout(Duration::from_secs(60), &mut delay).await;
        // A timeout looks at it once more at its own end.
        let passed = start.elapsed();
        assert!(came.is_ok() && passed >= LITTLE && passed < Duration::from_secs(30));
        delay.reset(Duration::MAX);
        assert!(futures::poll!(&mut delay).is_pending());
        delay.reset(Duration::ZERO);
        assert!(futures::poll!(&mut delay).is_ready());
    }

    #[test]
    fn each_runtime_has_timers_of_its_own() {
        for _ in 0..3 {
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_all().build().unwrap();
            let start = Instant::now();
            runtime.block_on(async {
                let (one, other) = (Alarms::here().unwrap(), Alarms::here().unwrap());
                assert!(std::sync::Arc::ptr_eq(&one, &other));
                Delay::new(LITTLE).await;
            });
            assert!(start.elapsed() >= LITTLE);
        }
    }
}
