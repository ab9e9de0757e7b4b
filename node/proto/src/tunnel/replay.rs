//! Replay window over packet counters, after RFC 6479: a ring of words, the newest counter and nothing else.

/// Counters behind the newest one that are still told apart.
pub const WINDOW: u64 = 8192;

const WORD_BITS: u64 = 64;
/// One word more than the window, so that the word being cleared never holds counters inside the window.
const WORDS: u64 = WINDOW / WORD_BITS + 1;

/// Which counters of one session have been seen. Ask only about authenticated packets.
#[derive(Clone, Debug)]
pub struct ReplayWindow {
    /// One above the highest counter seen; 0 before the first.
    next: u64,
    words: [u64; WORDS as usize],
}

impl Default for ReplayWindow {
    fn default() -> Self {
        Self::new()
    }
}

impl ReplayWindow {
    /// A window that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            next: 0,
            words: [0; WORDS as usize],
        }
    }

    /// Is this counter new? If so it no longer is.
    ///
    /// `false`: seen before, or more than [`WINDOW`] behind the newest.
    pub fn check_and_set(&mut self, counter: u64) -> bool {
        // The very last counter is past every limit of a session and would overflow `next`.
        if counter == u64::MAX || counter.saturating_add(WINDOW) < self.next {
            return false;
        }
        let word = counter / WORD_BITS;
        if counter >= self.next {
            // `next - 1` lies in the newest word in use; everything behind it up to `word` is stale.
            let newest = self.next.saturating_sub(1) / WORD_BITS;
            for stale in (newest + 1..=word).take(WORDS as usize) {
                self.words[(stale % WORDS) as usize] = 0;
            }
            self.next = counter + 1;
        }
        let slot = &mut self.words[(word % WORDS) as usize];
        let bit = 1 << (counter % WORD_BITS);
        let fresh = *slot & bit == 0;
        *slot |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// What the window must do, without the ring.
    #[derive(Default)]
    struct Model {
        newest: Option<u64>,
        seen: BTreeSet<u64>,
    }

    impl Model {
        fn check_and_set(&mut self, counter: u64) -> bool {
            if self.newest.is_some_and(|n| n + 1 > counter + WINDOW) {
                return false;
            }
            self.newest = self.newest.max(Some(counter));
            self.seen.insert(counter)
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_set_of_counters(steps in proptest::collection::vec((0u64..40_000, 0u64..20), 1..400)) {
            let (mut window, mut model) = (ReplayWindow::new(), Model::default());
            for (base, run) in steps {
                for counter in base..=base + run {
                    prop_assert_eq!(window.check_and_set(counter), model.check_and_set(counter), "{}", counter);
                }
            }
        }
    }

    #[test]
    fn the_edges_of_the_window() {
        let mut window = ReplayWindow::new();
        assert!(window.check_and_set(0));
        assert!(!window.check_and_set(0));
        assert!(window.check_and_set(WINDOW));
        assert!(window.check_and_set(1));
        assert!(!window.check_and_set(0));
        assert!(window.check_and_set(2 * WINDOW + 1));
        assert!(window.check_and_set(WINDOW + 2));
        assert!(!window.check_and_set(WINDOW));
        assert!(window.check_and_set(u64::MAX - 1));
        assert!(!window.check_and_set(u64::MAX - 1));
        assert!(!window.check_and_set(u64::MAX));
        assert!(!window.check_and_set(2 * WINDOW + 2));
        assert!(window.check_and_set(u64::MAX - 2));
    }

    #[test]
    fn every_order_within_the_window_is_accepted_once() {
        let mut window = ReplayWindow::new();
        assert!((0..WINDOW).rev().all(|c| window.check_and_set(c)));
        assert!((0..WINDOW).all(|c| !window.check_and_set(c)));
    }
}
