//! When the reader of the socket goes to sleep until the next datagram, and when it does better to wait for several.
//!
//! Datagrams of many that are sent at one moment come within some milliseconds. To go to sleep and wake up for each costs more
//! than to look again after a while.

use std::time::{Duration, Instant};

/// What a handler knows of the datagrams that come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing in particular.
    Nothing,
    /// More of the same at once. The thread waits for it awake, for a moment.
    Soon,
    /// More of the same within some milliseconds, and nobody for whom a few of them matter. The thread sleeps for so long,
    /// whatever comes.
    AtRest,
}

/// What the thread does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Sleep until something comes.
    Wait,
    /// Look again at once.
    Look,
    /// Sleep for so long and look again.
    Nap(Duration),
}

/// For so long the thread waits awake.
const AWAKE: Duration = Duration::from_millis(1);
/// And no longer than this altogether, nor again before [`PAUSE`] has passed: whoever sends without end gains nothing.
const AWAKE_IN_ALL: Duration = Duration::from_millis(15);
const PAUSE: Duration = Duration::from_secs(1);

/// For so long the thread sleeps: what comes meanwhile is as late at the most.
pub(crate) const NAP: Duration = Duration::from_millis(10);
/// So often at the most in [`NAPS_IN`]: as long as answers need on long ways, and whoever sends without end makes others late
/// for a fiftieth of the time.
const NAPS: u32 = 20;
const NAPS_IN: Duration = Duration::from_secs(10);

/// How the thread waits.
#[derive(Debug, Default)]
pub(crate) struct Linger {
    state: State,
    /// When it was awake last without need.
    awake: Option<Instant>,
    /// When naps began to be counted, and how many there were since.
    naps: Option<(Instant, u32)>,
    /// The last nap after a wait found nothing, and when something was read after which one could have been taken.
    in_vain: bool,
    rested: Option<Instant>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Waiting,
    Awake {
        began: Instant,
        until: Instant,
    },
    Napping {
        /// After a wait, not after another.
        first: bool,
    },
}

impl Linger {
    /// Nothing that was read is the handler's. The clock is read only when it matters: this comes with each read.
    pub(crate) fn after_others(&mut self, clock: impl Fn() -> Instant) -> Next {
        match self.state {
            State::Waiting => Next::Wait,
            State::Awake { .. } => self.go_on(clock()),
            State::Napping { .. } => {
                self.in_vain = false;
                self.nap(clock())
            }
        }
    }

    /// The handler had datagrams, and expects these.
    pub(crate) fn after(&mut self, expected: Expected, clock: impl Fn() -> Instant) -> Next {
        if matches!(self.state, State::Napping { .. }) {
            self.in_vain = false;
        }
        match (expected, &self.state) {
            (Expected::Nothing, State::Awake { .. }) => self.go_on(clock()),
            (Expected::Nothing, _) => {
                self.state = State::Waiting;
                Next::Wait
            }
            (Expected::Soon, _) => self.stay_awake(clock()),
            (Expected::AtRest, _) => self.nap(clock()),
        }
    }

    /// As much was read as one can: there is more, and this is asked after that.
    pub(crate) const fn after_full(&mut self) {
        if let State::Napping { first } = &mut self.state {
            (*first, self.in_vain) = (false, false);
        }
    }

    /// There was nothing to read.
    pub(crate) fn after_nothing(&mut self, clock: impl Fn() -> Instant) -> Next {
        match self.state {
            State::Awake { .. } => self.go_on(clock()),
            State::Waiting => Next::Wait,
            State::Napping { first } => {
                self.in_vain |= first;
                self.state = State::Waiting;
                Next::Wait
            }
        }
    }

    fn stay_awake(&mut self, now: Instant) -> Next {
        let began = match self.state {
            State::Awake { began, .. } => began,
            _ if self.awake.is_none_or(|last| now >= last + PAUSE) => now,
            _ => {
                self.state = State::Waiting;
                return Next::Wait;
            }
        };
        let until = (now + AWAKE).min(began + AWAKE_IN_ALL);
        self.state = State::Awake { began, until };
        self.go_on(now)
    }

    fn go_on(&mut self, now: Instant) -> Next {
        match self.state {
            State::Awake { until, .. } if now < until => return Next::Look,
            State::Awake { .. } => self.awake = Some(now),
            State::Waiting | State::Napping { .. } => {}
        }
        self.state = State::Waiting;
        Next::Wait
    }

    fn nap(&mut self, now: Instant) -> Next {
        if matches!(self.state, State::Awake { .. }) {
            self.awake = Some(now);
        }
        let close = |last: Instant| now < last + NAP * 2;
        let crowd = !self.in_vain || self.rested.is_some_and(close);
        self.rested = Some(now);
        if !crowd {
            // It was one by itself the last time, and is no more now, as between few or where clocks differ.
            self.state = State::Waiting;
            return Next::Wait;
        }
        let (since, naps) = match self.naps {
            Some((since, naps)) if now < since + NAPS_IN => (since, naps),
            _ => (now, 0),
        };
        if naps == NAPS {
            self.state = State::Waiting;
            return Next::Wait;
        }
        self.naps = Some((since, naps + 1));
        let first = !matches!(self.state, State::Napping { .. });
        self.state = State::Napping { first };
        Next::Nap(NAP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_is_at_rest_sleeps_until_nothing_came_meanwhile() {
        let mut linger = Linger::default();
        let mut now = Instant::now();
        for _ in 0..5 {
            assert_eq!(linger.after(Expected::AtRest, || now), Next::Nap(NAP));
            now += NAP;
            // Datagrams of others change nothing.
            assert_eq!(linger.after_others(|| now), Next::Nap(NAP));
            now += NAP;
        }
        assert_eq!(linger.after_nothing(|| now), Next::Wait);
        assert_eq!(linger.after_others(|| now), Next::Wait);
        assert_eq!(linger.after_nothing(|| now), Next::Wait);
    }

    #[test]
    fn who_hears_one_at_a_time_takes_no_naps_until_it_hears_two() {
        let mut linger = Linger::default();
        let mut now = Instant::now();
        assert_eq!(linger.after(Expected::AtRest, || now), Next::Nap(NAP));
        now += NAP;
        assert_eq!(linger.after_nothing(|| now), Next::Wait);
        for _ in 0..3 {
            now += PAUSE;
            assert_eq!(linger.after(Expected::AtRest, || now), Next::Wait);
        }
        now += NAP;
        assert_eq!(linger.after(Expected::AtRest, || now), Next::Nap(NAP));
        now += NAP;
        assert_eq!(linger.after(Expected::AtRest, || now), Next::Nap(NAP));
        now += NAP;
        assert_eq!(linger.after_nothing(|| now), Next::Wait);
        // There was a crowd, so the next one may be the first of one; and one that fills a read was none in vain.
        now += PAUSE;
        assert_eq!(linger.after(Expected::AtRest, || now), Next::Nap(NAP));
        linger.after_full();
        assert_eq!(linger.after_nothing(|| now), Next::Wait);
        now += PAUSE;
        assert_eq!(linger.after(Expected::AtRest, || now), Next::Nap(NAP));
    }

    #[test]
    fn a_nap_ends_when_somebody_waits() {
        let mut linger = Linger::default();
        let now = Instant::now();
        assert_eq!(linger.after(Expected::AtRest, || now), Next::Nap(NAP));
        assert_eq!(linger.after(Expected::Nothing, || now), Next::Wait);
        assert_eq!(linger.after(Expected::AtRest, || now), Next::Nap(NAP));
        assert_eq!(linger.after(Expected::Soon, || now), Next::Look);
    }

    #[test]
    fn whoever_sends_without_end_is_read_as_ever_after_a_while() {
        // Of 20 s; two windows may lie next to each other.
        for (expected, most, row) in [
            (Expected::Soon, 15 * 20, 15),
            (Expected::AtRest, 200 * 2, 400),
        ] {
            let mut linger = Linger::default();
            let mut now = Instant::now();
            let end = now + PAUSE * 20;
            let (mut late, mut longest) = (Duration::ZERO, Duration::ZERO);
            let mut began = None;
            while now < end {
                let next = linger.after(expected, || now);
                let since = *began.get_or_insert(now);
                now += match next {
                    Next::Wait => {
                        began = None;
                        MS / 2
                    }
                    Next::Look => {
                        late += MS / 2;
                        MS / 2
                    }
                    Next::Nap(nap) => {
                        late += nap;
                        nap
                    }
                };
                if began.is_some() {
                    longest = longest.max(now - since);
                }
            }
            assert!(late > MS * most * 3 / 4, "{late:?}");
            assert!(late <= MS * most * 5 / 4, "{late:?}");
            assert!(longest <= MS * (row + 1), "{longest:?}");
        }
    }

    #[test]
    fn nobody_looks_at_the_clock_when_nothing_is_expected() {
        let mut linger = Linger::default();
        let clock = || unreachable!("the clock was read");
        assert_eq!(linger.after(Expected::Nothing, clock), Next::Wait);
        assert_eq!(linger.after_others(clock), Next::Wait);
        assert_eq!(linger.after_nothing(clock), Next::Wait);
    }
}
