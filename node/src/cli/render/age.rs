//! How old a roster is, in words and in colour, by the clock that the daemon goes by and not by this terminal's.

use std::time::Duration;

use super::{Look, Tone, units};
use crate::ipc::api::{Freshness, Network};

/// Of a network.
pub(super) fn of(network: &Network, look: &Look) -> String {
    let life = network.hard_expires_at.and_then(|end| {
        let seconds = end.as_second() - network.issued_at.as_second();
        u64::try_from(seconds).ok()
    });
    let expired = matches!((life, network.age_s), (Some(life), Some(age)) if age >= life);
    words(network.freshness, network.age_s, expired, look)
}

/// `roster signed 3 h ago`, and what that means when it is not fresh.
pub(super) fn words(
    freshness: Option<Freshness>,
    age_s: Option<u64>,
    expired: bool,
    look: &Look,
) -> String {
    let signed = match age_s {
        None => "of unknown age".to_owned(),
        Some(0) => "signed just now".to_owned(),
        Some(age) => format!("signed {} ago", units::duration(Duration::from_secs(age))),
    };
    let (tone, what) = match freshness {
        None => return format!("roster {signed}"),
        Some(Freshness::Green) => return look.paint(Tone::Good, &format!("roster {signed}")),
        Some(Freshness::Yellow) => (Tone::Warn, "getting old"),
        Some(Freshness::Red) if expired => (
            Tone::Bad,
            "expired: no new connections until a coordinator renews it",
        ),
        Some(Freshness::Red) => (Tone::Bad, "overdue"),
    };
    look.paint(tone, &format!("roster {what}, {signed}"))
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};

    #[test]
    fn colours_follow_the_daemons_judgement() {
        let age = Some(2 * 86_400);
        let words = |freshness, expired| words(freshness, age, expired, &looks::colored());
        for (freshness, expired, text) in [
            (None, false, "roster signed 2 d ago"),
            (
                Some(Freshness::Green),
                false,
                "\x1b[32mroster signed 2 d ago\x1b[0m",
            ),
            (
                Some(Freshness::Yellow),
                false,
                "\x1b[33mroster getting old, signed 2 d ago\x1b[0m",
            ),
            (
                Some(Freshness::Red),
                false,
                "\x1b[31mroster overdue, signed 2 d ago\x1b[0m",
            ),
            (
                Some(Freshness::Red),
                true,
                "\x1b[31mroster expired: no new connections until a coordinator renews it, signed 2 d ago\x1b[0m",
            ),
        ] {
            assert_eq!(words(freshness, expired), text);
        }
    }

    #[test]
    fn nothing_is_claimed_of_an_age_that_nobody_told() {
        let words = |age_s| words(None, age_s, false, &looks::plain());
        assert_eq!(words(None), "roster of unknown age");
        assert_eq!(words(Some(0)), "roster signed just now");
    }
}
