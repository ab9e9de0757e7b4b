//! What a session says of where the node is: the newest, once, and no more often than a coordinator listens to.

use std::time::{Duration, Instant};

use kanpachi_common::wire::control::{Announce, ClientMessage};

use super::{Login, Phase};

/// Coordinators take 20 messages at once and one a second afterwards, and end the session of whoever says more.
const BURST: u32 = 10;
const EVERY: Duration = Duration::from_secs(1);

/// Announcements in one session.
#[derive(Debug, Default)]
pub(super) struct Announcing {
    said: Option<Announce>,
    /// To be said as soon as that is not too often.
    waiting: Option<Announce>,
    /// What was said is paid for until then, [`EVERY`] for each.
    paid: Option<Instant>,
}

impl Announcing {
    /// When what waits may be said.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.as_ref()?;
        // In the past, or before there was any time.
        let paid = self.paid?;
        Some(paid.checked_sub(EVERY * (BURST - 1)).unwrap_or(paid))
    }

    fn take(&mut self, now: Instant) -> Option<Announce> {
        if self.due().is_some_and(|due| due > now) {
            return None;
        }
        let next = self.waiting.take()?;
        self.paid = Some(self.paid.map_or(now, |paid| paid.max(now)) + EVERY);
        self.said = Some(next.clone());
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

    pub(super) fn drive_announcing(&mut self, now: Instant) {
        let Phase::Live(live) = &mut self.phase else {
            return;
        };
        if let Some(next) = live.announcing.take(now) {
            let _ = self.request(&ClientMessage::Announce(next));
        }
    }
}
