//! How much may be sent on nothing but the word of a member: so much at once, and then little by little.

use std::time::{Duration, Instant};

/// What a budget allows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// At once.
    pub(crate) most: u32,
    /// One more after so long.
    pub(crate) every: Duration,
}

/// What is left of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Budget {
    /// When nothing will be missing any more.
    full_at: Option<Instant>,
}

impl Budget {
    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + rate.every;
        let left = full_at <= now + rate.every * rate.most;
        if left {
            self.full_at = Some(full_at);
        }
        left
    }

    /// When there is one; `None` for now.
    pub(crate) fn next(&self, rate: Rate, now: Instant) -> Option<Instant> {
        let wait = self.full_at?.saturating_duration_since(now) + rate.every;
        let wait = wait.saturating_sub(rate.every * rate.most);
        (!wait.is_zero()).then(|| now + wait)
    }

    /// Is nothing missing?
    pub(crate) fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }

    /// What was spent was well spent.
    pub(crate) const fn refill(&mut self) {
        self.full_at = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_much_at_once_and_then_little_by_little() {
        let every = Duration::from_secs(2);
        let rate = Rate { most: 3, every };
        let (mut budget, now) = (Budget::default(), Instant::now());
        for _ in 0..3 {
            assert_eq!(budget.next(rate, now), None);
            assert!(budget.take(rate, now));
        }
        assert!(!budget.take(rate, now));
        assert_eq!(budget.next(rate, now), Some(now + every));
        assert!(!budget.take(rate, now + every - Duration::from_millis(1)));
        assert!(budget.take(rate, now + every) && !budget.take(rate, now + every));
        let later = now + Duration::from_secs(3600);
        assert_eq!((0..9).filter(|_| budget.take(rate, later)).count(), 3);
        budget.refill();
        assert!(budget.take(rate, later));
    }
}
