//! Token buckets without a lock, as a theoretical arrival time (GCRA): the moment at which everything that was let
//! through would have been paid for at the rate.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// How much, on average and at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Units a second; 0 for no limit.
    pub(crate) per_second: u64,
    /// Units that may come at once after a pause.
    pub(crate) burst: u64,
}

const SECOND: u64 = 1_000_000_000;

/// One bucket, full at first. Times are nanoseconds of one clock that does not go back.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    paid_at: AtomicU64,
}

impl Bucket {
    /// Takes `units` out if they are in it.
    pub(crate) fn take(&self, units: u64, rate: Rate, now: u64) -> bool {
        if rate.per_second == 0 {
            return true;
        }
        let time = |units: u64| units.saturating_mul(SECOND) / rate.per_second;
        let (cost, latest) = (time(units), now.saturating_add(time(rate.burst)));
        let pay = |paid_at: u64| {
            let paid_at = paid_at.max(now).saturating_add(cost);
            (paid_at <= latest).then_some(paid_at)
        };
        self.paid_at.try_update(Relaxed, Relaxed, pay).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Over any stretch no more than burst and rate allow, and what comes evenly below the rate all gets through.
        #[test]
        fn the_rate_holds(per_second in 1_000u64..1_000_000_000, burst in 10_000u64..10_000_000,
                          steps in prop::collection::vec((1u64..9_000, 0u64..5_000_000), 1..400)) {
            let (bucket, steady) = (Bucket::default(), Bucket::default());
            let rate = Rate { per_second, burst };
            let (mut now, mut through, mut even) = (7, 0, 7);
            for (units, pause) in steps {
                now += pause;
                if bucket.take(units, rate, now) {
                    through += units;
                }
                let allowed = u128::from(burst) + u128::from(now - 7) * u128::from(per_second) / u128::from(SECOND) + 400;
                prop_assert!(u128::from(through) <= allowed, "{through} of {allowed}");
                prop_assert!(steady.take(units, rate, even));
                even += units * SECOND / per_second + 1;
            }
        }
    }

    #[test]
    fn no_rate_is_no_limit() {
        let rate = Rate {
            per_second: 0,
            burst: 0,
        };
        assert!(Bucket::default().take(u64::MAX, rate, 0));
        let rate = Rate {
            per_second: 10,
            burst: 5,
        };
        assert!(!Bucket::default().take(6, rate, 0));
    }
}
