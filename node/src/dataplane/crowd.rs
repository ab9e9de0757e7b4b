//! How patient the packet thread may be: keepalives of pairs at rest come many at one moment, and can wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use kanpachi_transport::Expected;

/// Milliseconds after which nothing that should not wait is on its way: a ping of a user comes each second.
const AT_REST_MS: u64 = 2000;
/// Milliseconds around the first keepalive of a crowd in which handshakes and first words of those at rest come too.
const CROWD_MS: u64 = 300;
/// Milliseconds after which a keepalive is the first of another crowd: nobody keeps one going.
const NEXT_MS: u64 = 2000;

/// What came.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// What came since it was asked last: keepalives, handshakes, and control messages that are none.
    keepalives: bool,
    handshakes: bool,
    messages: bool,
    /// When a crowd of keepalives began last.
    began_ms: Option<u64>,
    /// When one of the others came that does not belong to a crowd, as far as is known.
    other_ms: Option<u64>,
    urgent: Urgent,
}

/// When something came last that should not have waited, wherever it came; 0 for never.
#[derive(Clone, Debug, Default)]
pub(super) struct Urgent(Arc<AtomicU64>);

impl Crowd {
    pub(super) fn new(urgent: &Urgent) -> Self {
        Self {
            urgent: urgent.clone(),
            ..Self::default()
        }
    }

    /// A keepalive of a pair at rest, or the answer of a relay to one.
    pub(super) const fn keepalive(&mut self) {
        self.keepalives = true;
    }

    /// A handshake, or a challenge of a relay: there are many at one moment too.
    pub(super) const fn handshake(&mut self) {
        self.handshakes = true;
    }

    /// A control message that the engine has to see.
    pub(super) const fn message(&mut self) {
        self.messages = true;
    }

    /// Something that somebody waits for.
    pub(super) fn urgent(&self, now_ms: u64) {
        let last = &self.urgent.0;
        // Others read it: it is written once in a millisecond.
        if last.load(Relaxed) != now_ms {
            last.store(now_ms, Relaxed);
        }
    }

    /// What comes next? The clock is read only when it matters.
    pub(super) fn expects(&mut self, clock: impl FnOnce() -> u64) -> Expected {
        let (keepalives, handshakes) = (self.keepalives, self.handshakes);
        let others = handshakes || self.messages;
        if !keepalives && !others {
            return Expected::Nothing;
        }
        (self.keepalives, self.handshakes, self.messages) = (false, false, false);
        let now_ms = clock();
        let within = |then: Option<u64>, ms| then.is_some_and(|then| now_ms < then + ms);
        if keepalives && !within(self.began_ms, NEXT_MS) {
            self.began_ms = Some(now_ms);
            // It was the first of them.
            self.other_ms = self.other_ms.filter(|then| now_ms >= then + CROWD_MS);
        } else if others && !within(self.began_ms, CROWD_MS) {
            // Whoever has something to say at another moment has something to do.
            self.other_ms = Some(now_ms);
        }
        let urgent_ms = Some(self.urgent.0.load(Relaxed)).filter(|then| *then > 0);
        let busy = within(urgent_ms, AT_REST_MS) || within(self.other_ms, AT_REST_MS);
        match (busy, keepalives || handshakes) {
            (false, _) => Expected::AtRest,
            (true, true) => Expected::Soon,
            // Busy pairs ask at moments of their own.
            (true, false) => Expected::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keepalives_wait_for_each_other_and_what_comes_with_them_does() {
        let mut crowd = Crowd::default();
        assert_eq!(crowd.expects(|| unreachable!()), Expected::Nothing);
        crowd.keepalive();
        assert_eq!(crowd.expects(|| 10_000), Expected::AtRest);
        assert_eq!(crowd.expects(|| unreachable!()), Expected::Nothing);
        crowd.message();
        assert_eq!(crowd.expects(|| 10_299), Expected::AtRest);
    }

    #[test]
    fn a_handshake_may_come_before_the_keepalives_of_its_moment() {
        let mut crowd = Crowd::default();
        crowd.handshake();
        assert_eq!(crowd.expects(|| 10_000), Expected::Soon);
        crowd.keepalive();
        assert_eq!(crowd.expects(|| 10_100), Expected::AtRest);
        crowd.handshake();
        assert_eq!(crowd.expects(|| 10_399), Expected::AtRest);
        // At another moment somebody has something to say. Nobody else says so at the same time.
        crowd.message();
        assert_eq!(crowd.expects(|| 10_400), Expected::Nothing);
        crowd.handshake();
        assert_eq!(crowd.expects(|| 12_399), Expected::Soon);
    }

    #[test]
    fn who_sends_keepalives_without_end_makes_handshakes_late_now_and_then_only() {
        let mut crowd = Crowd::default();
        let mut late = 0;
        for now_ms in (10_000..30_000).step_by(100) {
            crowd.keepalive();
            crowd.expects(|| now_ms);
            crowd.handshake();
            late += u32::from(crowd.expects(|| now_ms + 50) == Expected::AtRest);
        }
        // For a while, again and again, until it is seen that it is no crowd.
        assert!(late <= 30, "{late} of 200");
    }

    #[test]
    fn nothing_waits_while_somebody_does() {
        let urgent = Urgent::default();
        let (mut crowd, streams) = (Crowd::new(&urgent), Crowd::new(&urgent));
        // A handshake out of nowhere: there will be data.
        crowd.handshake();
        assert_eq!(crowd.expects(|| 10_000), Expected::Soon);
        crowd.keepalive();
        assert_eq!(crowd.expects(|| 11_999), Expected::Soon);
        // Data in the middle of a crowd.
        crowd.keepalive();
        assert_eq!(crowd.expects(|| 14_000), Expected::AtRest);
        streams.urgent(14_010);
        assert_eq!(crowd.expects(|| unreachable!()), Expected::Nothing);
        crowd.keepalive();
        assert_eq!(crowd.expects(|| 14_020), Expected::Soon);
        crowd.keepalive();
        assert_eq!(crowd.expects(|| 16_009), Expected::Soon);
        crowd.keepalive();
        assert_eq!(crowd.expects(|| 16_010), Expected::AtRest);
    }
}
