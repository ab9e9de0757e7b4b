//! What members say that there is to be had: which of it the coordinator is asked for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kanpachi_common::{NetworkId, roster::Position};

/// What was asked for in vain for so long may be asked for again: a claim without any truth to it must not silence all
/// others.
const FORGET: Duration = Duration::from_secs(60);

/// Positions that the coordinator was asked for, and when.
#[derive(Debug, Default)]
pub struct Claims {
    asked: BTreeMap<NetworkId, (Position, Instant)>,
}

impl Claims {
    /// Is this more than was asked for? Then it counts as asked for. Only of networks that this node is in: so there are
    /// not many.
    pub fn is_news(&mut self, network: &NetworkId, claimed: Position, now: Instant) -> bool {
        let known = self.asked.get(network).is_some_and(|(asked, at)| {
            *asked >= claimed && now.saturating_duration_since(*at) < FORGET
        });
        if !known {
            self.asked.insert(*network, (claimed, now));
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NETWORK: NetworkId = NetworkId([1; 32]);

    fn at(epoch: u64) -> Position {
        let generation = 1;
        Position { generation, epoch }
    }

    #[test]
    fn a_hundred_members_that_say_the_same_are_one_reason_to_ask() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        let news = (0..100).filter(|_| claims.is_news(&NETWORK, at(7), now));
        assert_eq!(news.count(), 1);
        assert!(!claims.is_news(&NETWORK, at(6), now));
        assert!(claims.is_news(&NETWORK, at(8), now));
        assert!(claims.is_news(&NetworkId([2; 32]), at(8), now));
    }

    #[test]
    fn a_lie_silences_the_truth_for_a_minute_only() {
        let (mut claims, now) = (Claims::default(), Instant::now());
        assert!(claims.is_news(&NETWORK, at(u64::MAX), now));
        assert!(!claims.is_news(&NETWORK, at(8), now + FORGET / 2));
        assert!(claims.is_news(&NETWORK, at(8), now + FORGET));
    }
}
