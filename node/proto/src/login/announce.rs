//! What a session says unasked: where the node is, and that it wants to hear what it missed. The newest, once, and no more
//! often than a coordinator listens to.

use std::time::{Duration, Instant};

use kanpachi_common::wire::control::{Announce, ClientMessage, Pull};

use super::{Login, Phase};

/// Coordinators take 20 messages at once and one a second afterwards, and end the session of whoever says more.
const ALL: Rate = Rate {
    burst: 10,
    every: Duration::from_secs(1),
};
/// Of these so many are pulls: one brings all that there is, and members say in vain that there is more.
const PULLS: Rate = Rate {
    burst: 4,
    every: Duration::from_secs(3),
};

/// So many at once, and one more every so often.
#[derive(Clone, Copy)]
struct Rate {
    burst: u32,
    every: Duration,
}

/// Counts by a [`Rate`].
#[derive(Debug, Default)]
struct Meter {
    /// What was said is paid for until then. `None` before anything was.
    paid: Option<Instant>,
}

impl Meter {
    /// When one more is not too often; `None` at any time.
    fn free(&self, rate: Rate) -> Option<Instant> {
        let paid = self.paid?;
        Some(
            paid.checked_sub(rate.every * (rate.burst - 1))
                .unwrap_or(paid),
        )
    }

    fn pay(&mut self, rate: Rate, now: Instant) {
        self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)) + rate.every);
    }
}

/// What one session says of its own.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    said: Option<Announce>,
    /// To be said as soon as that is not too often.
    waiting: Option<Announce>,
    pull: Option<Pull>,
    all: Meter,
    pulls: Meter,
}

impl Announcing {
    /// When what waits may be said.
    pub(super) fn due(&self) -> Option<Instant> {
        let free = self.all.free(ALL);
        let announce = self.waiting.as_ref().and(free);
        let pull = self.pull.as_ref().and(free.max(self.pulls.free(PULLS)));
        announce.into_iter().chain(pull).min()
    }

    fn take(&mut self, now: Instant) -> Option<ClientMessage> {
        if self.all.free(ALL) > Some(now) {
            return None;
        }
        let next = if let Some(announce) = self.waiting.take() {
            self.said = Some(announce.clone());
            ClientMessage::Announce(announce)
        } else if self.pulls.free(PULLS) <= Some(now) {
            let pull = self.pull.take()?;
            self.pulls.pay(PULLS, now);
            ClientMessage::Pull(pull)
        } else {
            return None;
        };
        self.all.pay(ALL, now);
        Some(next)
    }
}

impl Login {
    /// Tells the coordinator where this node is now. Nothing is said twice, and of what comes too fast the newest is said.
    pub fn announce(&mut self, announce: Announce, now: Instant) {
        let Phase::Live(live) = &mut self.phase else {
            return;
        };
        let announcing = &mut live.announcing;
        announcing.waiting = (announcing.said.as_ref() != Some(&announce)).then_some(announce);
        self.drive_announcing(now);
    }

    /// Asks for all that is not held here, once for whatever comes too fast. Without a session nothing is lost: the next
    /// hello says what is held.
    pub fn pull(&mut self, pull: Pull, now: Instant) {
        if let Phase::Live(live) = &mut self.phase {
            live.announcing.pull = Some(pull);
            self.drive_announcing(now);
        }
    }

    pub(super) fn drive_announcing(&mut self, now: Instant) {
        while let Phase::Live(live) = &mut self.phase
            && let Some(next) = live.announcing.take(now)
        {
            let _ = self.request(&next);
        }
    }
}
