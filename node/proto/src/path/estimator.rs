//! Round-trip time and loss of one path, from its probes.

use std::time::Duration;

/// Smoothed round-trip time (RFC 6298, section 2) and share of probes lost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Estimator {
    rtt: Option<Duration>,
    loss: f32,
}

impl Estimator {
    /// A probe was answered after `rtt`.
    pub fn answered(&mut self, rtt: Duration) {
        self.rtt = Some(match self.rtt {
            None => rtt,
            Some(old) => (old * 7 + rtt) / 8,
        });
        self.loss -= self.loss / 16.0;
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
    fn approaches_what_is_measured() {
        let mut estimator = Estimator::default();
        assert_eq!((estimator.rtt(), estimator.loss()), (None, 0.0));
        estimator.answered(Duration::from_millis(100));
        assert_eq!(estimator.rtt(), Some(Duration::from_millis(100)));
        for _ in 0..60 {
            estimator.answered(Duration::from_millis(20));
            estimator.lost();
        }
        assert!(estimator.rtt().unwrap() < Duration::from_millis(22));
        assert!((0.4..0.6).contains(&estimator.loss()));
    }
}
