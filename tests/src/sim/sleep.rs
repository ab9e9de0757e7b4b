//! Machines that sleep: whatever comes meanwhile is lost, and when it is over their clocks have counted it or not.

use std::time::Duration;

use super::world::World;

/// A machine does nothing and hears nothing.
#[derive(Clone, Copy, Debug)]
pub struct Sleep {
    /// Since when, in virtual time.
    since: Duration,
    /// When it wakes up.
    pub until: Duration,
    /// Its clock goes on meanwhile, and it is told of it.
    counted: bool,
}

impl World {
    /// A machine is suspended. Its clock goes on, as `CLOCK_BOOTTIME` does, and the daemon hears that it has slept.
    pub fn sleep(&mut self, index: usize, time: Duration) {
        self.note(format_args!("{index} sleeps for {time:?}"));
        self.put_to_sleep(index, time, true);
    }

    /// A machine is paused, as a virtual one may be: its clock stands still meanwhile, and nobody tells it anything.
    pub fn pause(&mut self, index: usize, time: Duration) {
        self.note(format_args!("{index} is paused for {time:?}"));
        self.put_to_sleep(index, time, false);
    }

    fn put_to_sleep(&mut self, index: usize, time: Duration, counted: bool) {
        let since = self.elapsed();
        self.nodes[index].asleep = Some(Sleep {
            since,
            until: since + time,
            counted,
        });
    }

    /// Wakes a machine up, if it sleeps.
    pub fn wake(&mut self, index: usize) {
        let now = self.elapsed();
        if let Some(sleep) = &mut self.nodes[index].asleep {
            sleep.until = now;
        }
    }

    /// A machine wakes up, if it sleeps: its clock first, and then it is told.
    pub(super) fn rouse(&mut self, index: usize) {
        let Some(sleep) = self.nodes[index].asleep.take() else {
            return;
        };
        self.note(format_args!("{index} wakes up"));
        let slept = self.elapsed() - sleep.since;
        let node = &mut self.nodes[index];
        if sleep.counted {
            let now = node.now(&self.clock);
            node.wake(now);
        } else {
            node.behind += slept;
        }
    }
}
