//! Timers that wake their thread once, and together with others where nobody minds.
//!
//! Tokio sorts timers into slots that are the coarser the further away they are, and wakes at the edge of each slot to sort
//! anew: a timer some twenty seconds away costs three wake-ups. Here one timer of the kernel goes off for all, at the
//! moment that is due first.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    os::fd::{AsFd as _, AsRawFd, RawFd},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use nix::{
    errno::Errno,
    sys::{
        time::TimeSpec,
        timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags},
    },
};
use tokio::{
    io::unix::AsyncFd,
    runtime::{Handle, Id},
};

/// The alarms of each runtime, for as long as it runs.
static ALL: Mutex<Vec<(Id, Arc<Alarms>)>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<(Id, Arc<Alarms>)>> {
    // Nothing below panics halfway through a change.
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next multiple of `every` after a moment, by the wall clock: the same moment on all machines whose clocks are set.
#[must_use]
pub fn next_beat(after: Instant, every: Duration) -> Instant {
    let now = Instant::now();
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let wall = match after.checked_duration_since(now) {
        Some(later) => wall + later,
        None => wall.saturating_sub(now.saturating_duration_since(after)),
    };
    let since = wall.as_nanos() % every.as_nanos().max(1);
    let since = Duration::from_nanos(u64::try_from(since).unwrap_or(0));
    after + every.saturating_sub(since)
}

/// A timer of the kernel that tokio can wait for.
#[derive(Debug)]
struct Timer(TimerFd);

impl AsRawFd for Timer {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

/// What waits, by time.
#[derive(Debug, Default)]
struct Due {
    next: u64,
    wakers: BTreeMap<(Instant, u64), Waker>,
    /// When the kernel's timer goes off.
    armed: Option<Instant>,
}

/// All alarms of one runtime.
#[derive(Debug)]
pub struct Alarms {
    timer: AsyncFd<Timer>,
    due: Mutex<Due>,
}

impl Alarms {
    /// Those of the tokio runtime inside of which this is called.
    ///
    /// # Errors
    /// When the system has no timer to give.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn here() -> io::Result<Arc<Self>> {
        let runtime = Handle::current().id();
        let mut all = all();
        if let Some((_, alarms)) = all.iter().find(|(id, _)| *id == runtime) {
            return Ok(Arc::clone(alarms));
        }
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = Timer(TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?);
        let alarms = Arc::new(Self {
            timer: register(timer)?,
            due: Mutex::default(),
        });
        let rings = Rings {
            runtime,
            alarms: Arc::clone(&alarms),
        };
        all.push((runtime, Arc::clone(&alarms)));
        drop(all);
        tokio::spawn(rings);
        Ok(alarms)
    }

    /// An alarm at this moment.
    #[must_use]
    pub fn at(self: &Arc<Self>, moment: Instant) -> Alarm {
        Alarm {
            alarms: Arc::clone(self),
            moment,
            waiting: None,
        }
    }

    fn due(&self) -> MutexGuard<'_, Due> {
        // Nothing below panics halfway through a change.
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the kernel's timer go off when the first is due.
    fn arm(&self, due: &mut Due) {
        let first = due.wakers.keys().next().map(|(at, _)| *at);
        if first == due.armed {
            return;
        }
        due.armed = first;
        let timer = &self.timer.get_ref().0;
        let result = match first {
            Some(at) => {
                // Zero would mean never.
                let left = at.saturating_duration_since(Instant::now());
                let left = left.max(Duration::from_nanos(1));
                let once = Expiration::OneShot(TimeSpec::from_duration(left));
                timer.set(once, TimerSetTimeFlags::empty())
            }
            None => timer.unset(),
        };
        if let Err(error) = result {
            tracing::error!(%error, "a timer was not set");
        }
    }

    /// Wakes whoever is due.
    fn ring(&self) {
        let now = Instant::now();
        let mut ready = Vec::new();
        {
            let mut due = self.due();
            due.armed = None;
            while let Some(entry) = due.wakers.first_entry()
                && entry.key().0 <= now
            {
                ready.push(entry.remove());
            }
            self.arm(&mut due);
        }
        ready.into_iter().for_each(Waker::wake);
    }
}

#[expect(
    deprecated,
    reason = "what replaces it is unsafe for the sake of descriptors that are closed meanwhile; this one is owned"
)]
fn register(timer: Timer) -> io::Result<AsyncFd<Timer>> {
    AsyncFd::new(timer)
}

/// Waits for the kernel's timer for as long as the runtime runs.
struct Rings {
    runtime: Id,
    alarms: Arc<Alarms>,
}

impl Drop for Rings {
    fn drop(&mut self) {
        // Another runtime may have the same number later.
        all().retain(|(id, _)| *id != self.runtime);
    }
}

impl Future for Rings {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let alarms = &self.alarms;
        loop {
            let mut ready = match alarms.timer.poll_read_ready(cx) {
                Poll::Ready(Ok(ready)) => ready,
                // The runtime ends.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            };
            if ready.try_io(|timer| went_off(&timer.get_ref().0)).is_ok() {
                alarms.ring();
            }
        }
    }
}

fn went_off(timer: &TimerFd) -> io::Result<()> {
    let mut count = [0; 8];
    match nix::unistd::read(timer, &mut count) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN) => Err(io::ErrorKind::WouldBlock.into()),
        // Set anew meanwhile; looking once more does no harm.
        Err(_) => Ok(()),
    }
}

/// Comes at a moment.
#[derive(Debug)]
pub struct Alarm {
    alarms: Arc<Alarms>,
    moment: Instant,
    waiting: Option<(Instant, u64)>,
}

impl Alarm {
    /// Comes at another moment instead.
    pub fn reset(&mut self, moment: Instant) {
        // The kernel's timer is set when this is waited for again, which is now.
        let former = match self.waiting.take() {
            Some(key) => self.alarms.due().wakers.remove(&key),
            None => None,
        };
        drop(former);
        self.moment = moment;
    }

    /// Is not among those that wait any more. What comes back is to be dropped without the lock: a waker may be the last that
    /// knows of a task, which may have alarms.
    fn forget(&mut self) -> Option<Waker> {
        let key = self.waiting.take()?;
        let mut due = self.alarms.due();
        let former = due.wakers.remove(&key);
        self.alarms.arm(&mut due);
        former
    }
}

impl Future for Alarm {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if this.moment <= Instant::now() {
            drop(this.forget());
            return Poll::Ready(());
        }
        let former = {
            let mut due = this.alarms.due();
            let key = *this.waiting.get_or_insert_with(|| {
                due.next += 1;
                (this.moment, due.next)
            });
            let former = due.wakers.insert(key, cx.waker().clone());
            this.alarms.arm(&mut due);
            former
        };
        drop(former);
        Poll::Pending
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        drop(self.forget());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn alarms_come_in_their_order_and_not_before_their_time() {
        let alarms = Alarms::here().unwrap();
        let start = Instant::now();
        let (sender, mut order) = tokio::sync::mpsc::unbounded_channel();
        for ms in [60_u64, 20, 40] {
            let (alarm, sender) = (alarms.at(start + Duration::from_millis(ms)), sender.clone());
            tokio::spawn(async move {
                alarm.await;
                let _ = sender.send(ms);
            });
        }
        for expected in [20, 40, 60] {
            assert_eq!(order.recv().await, Some(expected));
            assert!(start.elapsed() >= Duration::from_millis(expected));
        }
    }

    #[tokio::test]
    async fn whoever_does_not_look_keeps_nobody_waiting() {
        let alarms = Alarms::here().unwrap();
        let start = Instant::now();
        let mut idle = alarms.at(start + Duration::from_millis(10));
        let mut nobody = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut idle).poll(&mut nobody).is_pending());
        let other = tokio::spawn(alarms.at(start + Duration::from_millis(40)));
        let came = tokio::time::timeout(Duration::from_secs(20), other).await;
        assert!(came.is_ok() && start.elapsed() < Duration::from_secs(10));
    }

    #[tokio::test]
    async fn an_alarm_that_is_set_anew_or_dropped_does_not_come() {
        let alarms = Alarms::here().unwrap();
        let start = Instant::now();
        let mut early = alarms.at(start + Duration::from_millis(10));
        let dropped = alarms.at(start + Duration::from_millis(5));
        assert!(futures::poll!(&mut early).is_pending());
        {
            let mut dropped = std::pin::pin!(dropped);
            assert!(futures::poll!(&mut dropped).is_pending());
        }
        early.reset(start + Duration::from_millis(50));
        early.await;
        assert!(start.elapsed() >= Duration::from_millis(50));
        assert!(alarms.due().wakers.is_empty());
    }

    #[test]
    fn a_beat_is_the_next_multiple_on_the_wall_clock() {
        let every = Duration::from_secs(25);
        let now = Instant::now();
        let first = next_beat(now, every);
        assert!(first > now && first <= now + every);
        let second = next_beat(first + Duration::from_millis(1), every);
        let apart = second.duration_since(first);
        assert!(
            apart.abs_diff(every) < Duration::from_millis(50),
            "{apart:?}"
        );
    }
}
