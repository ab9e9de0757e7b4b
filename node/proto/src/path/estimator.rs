//! Round-trip time and loss of one path, from its probes.

use std::time::Duration;

/// Smoothed round-trip time (RFC 6298, section 2) and share of probes lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimator {
    rtt: Option<Duration>,
    loss: f32,
}

impl Estimator {
    /// A probe was answered after `took`, of which up to `idle` may have been spent waiting at the ends for somebody to wake up.
    /// What was known before is doubted only as far as it can not be true.
    pub fn answered(&mut self, took: Duration, idle: Duration) {
        let rtt = self.nearest(took, idle);
        if self.rtt.is_none() {
            // What was lost before says how long it took to get through, not what the path loses.
            self.loss = 0.0;
        }
        self.rtt = Some(self.rtt.map_or(rtt, |old| (old * 7 + rtt) / 8));
        self.loss -= self.loss / 16.0;
    }

    /// Of the times that such an answer may have taken on the way, what is nearest to what is known.
    pub(super) fn nearest(&self, took: Duration, idle: Duration) -> Duration {
        let known = self.rtt.unwrap_or(took);
        known.clamp(took.saturating_sub(idle), took)
    }

    /// A probe was not answered in time.
    pub fn lost(&mut self) {
        self.loss += (1.0 - self.loss) / 16.0;
    }

    /// Smoothed round-trip time; `None` before the first answer.
    #[must_use]
    pub const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Share of probes without an answer, 0 to 1, over about the last 16.
    #[must_use]
    pub const fn loss(&self) -> f32 {
        self.loss
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_knocked_in_vain_is_no_loss_of_the_path() {
        let mut estimator = Estimator::default();
        (0..8).for_each(|_| estimator.lost());
        assert!(estimator.loss() > 0.3);
        estimator.answered(Duration::from_millis(20), Duration::ZERO);
        assert_eq!(estimator.loss(), 0.0);
        estimator.lost();
        estimator.answered(Duration::from_millis(20), Duration::ZERO);
        assert!(estimator.loss() > 0.05);
    }

    #[test]
    fn approaches_what_is_measured() {
        let mut estimator = Estimator::default();
        assert_eq!((estimator.rtt(), estimator.loss()), (None, 0.0));
        estimator.answered(Duration::from_millis(100), Duration::ZERO);
        assert_eq!(estimator.rtt(), Some(Duration::from_millis(100)));
        for _ in 0..60 {
            estimator.answered(Duration::from_millis(20), Duration::ZERO);
            estimator.lost();
        }
        assert!(estimator.rtt().unwrap() < Duration::from_millis(22));
        assert!((0.4..0.6).contains(&estimator.loss()));
    }

    #[test]
    fn what_may_have_been_idle_time_is_not_taken_for_the_path() {
        let ms = Duration::from_millis;
        let mut estimator = Estimator::default();
        estimator.answered(ms(20), Duration::ZERO);
        for took in [20, 24, 30] {
            estimator.answered(ms(took), ms(10));
            assert_eq!(estimator.rtt(), Some(ms(20)));
        }
        for _ in 0..60 {
            estimator.answered(ms(50), ms(10));
        }
        let rtt = estimator.rtt().unwrap();
        assert!(rtt > ms(39) && rtt <= ms(40), "{rtt:?}");
        for _ in 0..60 {
            estimator.answered(ms(5), ms(10));
        }
        let rtt = estimator.rtt().unwrap();
        assert!(rtt >= ms(5) && rtt < ms(6), "{rtt:?}");
    }
}
