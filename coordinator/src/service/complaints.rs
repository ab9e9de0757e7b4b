//! A log that strangers cannot fill: of each kind of complaint one line in a while, with how many there were.

use std::time::{Duration, Instant};

/// Time between two lines of a kind.
const PAUSE: Duration = Duration::from_secs(30);

/// Complaints of one kind.
#[derive(Debug, Default)]
pub(super) struct Complaints {
    last: Option<Instant>,
    /// Since the last line.
    held_back: u64,
}

impl Complaints {
    /// Counts a complaint. When it is time for a line: how many came since the last, this one included.
    pub(super) fn count(&mut self, now: Instant) -> Option<u64> {
        self.held_back += 1;
        let due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= PAUSE);
        due.then(|| {
            self.last = Some(now);
            std::mem::take(&mut self.held_back)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_told_at_once_and_the_others_together() {
        let start = Instant::now();
        let mut complaints = Complaints::default();
        assert_eq!(complaints.count(start), Some(1));
        for _ in 0..1000 {
            assert_eq!(complaints.count(start), None);
        }
        assert_eq!(complaints.count(start + PAUSE), Some(1001));
    }
}
