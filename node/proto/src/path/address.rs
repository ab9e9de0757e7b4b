//! One address of a peer: its probes, their answers, and what it is worth.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Candidate, Estimator, PathKind};

/// A path that has just come (back) to life, until it has a streak.
pub(super) const PROBE_RISING: Duration = Duration::from_secs(1);
/// Answers in a row that make a path good enough to move to.
pub(super) const STREAK: u32 = 3;
/// A probe unanswered for this long is counted as lost.
const LOST_AFTER: Duration = Duration::from_secs(3);
/// An answer is a sign of life for this long.
const ALIVE_FOR: Duration = Duration::from_secs(60);
/// A path left because it failed is not followed again for this long, unless it answers.
const FAILED_FOR: Duration = Duration::from_secs(10);
/// Unanswered probes remembered per path.
const OUTSTANDING: usize = 8;

#[derive(Clone, Debug)]
pub(super) struct Path {
    pub(super) addr: SocketAddr,
    pub(super) kind: PathKind,
    pub(super) offered: bool,
    /// Something may be sent there: there is more than the word of the peer for it, or there was enough left for that.
    pub(super) admitted: bool,
    pub(super) estimator: Estimator,
    pub(super) last_probe: Option<Instant>,
    pub(super) last_answer: Option<Instant>,
    /// Answers in a row.
    pub(super) streak: u32,
    /// Probes since the last answer, and when the first of them was sent.
    pub(super) unanswered: u32,
    pub(super) unanswered_since: Option<Instant>,
    pub(super) outstanding: Vec<(u64, Instant)>,
    pub(super) failed_at: Option<Instant>,
    /// When the core heard anything from there.
    pub(super) last_heard: Option<Instant>,
    /// When the peer last asked whether this path works, which its data takes.
    pub(super) last_kept: Option<Instant>,
}

impl Path {
    pub(super) fn new(candidate: Candidate, offered: bool) -> Self {
        Self {
            addr: candidate.addr,
            kind: candidate.kind,
            offered,
            admitted: !offered || candidate.kind == PathKind::Relay,
            estimator: Estimator::default(),
            last_probe: None,
            last_answer: None,
            streak: 0,
            unanswered: 0,
            unanswered_since: None,
            outstanding: Vec::new(),
            failed_at: None,
            last_heard: None,
            last_kept: None,
        }
    }

    pub(super) fn is_alive(&self, now: Instant) -> bool {
        let sign = self.last_answer.max(self.last_kept);
        self.unanswered < STREAK && sign.is_some_and(|at| now < at + ALIVE_FOR)
    }

    pub(super) fn has_failed(&self, now: Instant) -> bool {
        self.failed_at.is_some_and(|at| now < at + FAILED_FOR)
    }

    /// Lower is better: relays last, and then what is [worse](Self::cost).
    pub(super) fn score(&self) -> (bool, u64) {
        (self.kind == PathKind::Relay, self.cost())
    }

    /// What a packet pays that takes this path, in microseconds: round-trip time with a charge for loss and for ways through
    /// routers.
    fn cost(&self) -> u64 {
        let rtt = self.estimator.rtt().map_or(1_000_000, |rtt| {
            u64::try_from(rtt.as_micros())
                .unwrap_or(u64::MAX)
                .min(5_000_000)
        });
        // At most 200 ms for a path that loses everything.
        let loss = (self.estimator.loss().clamp(0.0, 1.0) * 200_000.0) as u64;
        rtt + loss + preference(self.addr, self.kind)
    }

    /// Is this path worth a move from the other one? Only when it is clearly better: without a relay instead of with one,
    /// or else by a quarter and 3 ms.
    pub(super) fn is_clearly_better_than(&self, other: &Self) -> bool {
        let (relayed, cost) = other.score();
        self.score() < (relayed, (cost - cost / 4).saturating_sub(3000))
    }

    pub(super) fn sent(&mut self, nonce: u64, now: Instant) {
        self.last_probe = Some(now);
        self.unanswered = self.unanswered.saturating_add(1);
        self.unanswered_since.get_or_insert(now);
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.remove(0);
            self.estimator.lost();
        }
        self.outstanding.push((nonce, now));
    }

    /// The peer is there: whether it can be reached there is asked at once, and not when the path's turn comes. A path that
    /// is known to be good has its turn.
    pub(super) fn ask_soon(&mut self, now: Instant) {
        let good = self.streak >= STREAK && self.unanswered == 0 && self.is_alive(now);
        if good {
            return;
        }
        if self.last_probe.is_none_or(|at| now >= at + PROBE_RISING) {
            self.last_probe = None;
        }
        (self.unanswered, self.unanswered_since) = (0, None);
    }

    pub(super) fn drop_lost(&mut self, now: Instant) {
        let before = self.outstanding.len();
        self.outstanding.retain(|(_, at)| now < *at + LOST_AFTER);
        for _ in self.outstanding.len()..before {
            self.estimator.lost();
            self.streak = 0;
        }
    }

    pub(super) fn answered(&mut self, nonce: u64, now: Instant, idle: Duration) -> bool {
        let Some(at) = self.outstanding.iter().position(|(n, _)| *n == nonce) else {
            return false;
        };
        let (_, sent) = self.outstanding.remove(at);
        let took = now.saturating_duration_since(sent);
        self.estimator.answered(took, idle);
        self.alive(now);
        self.streak = self.streak.saturating_add(1);
        true
    }

    pub(super) fn alive(&mut self, now: Instant) {
        self.last_answer = Some(now);
        self.unanswered = 0;
        self.unanswered_since = None;
        self.failed_at = None;
    }
}

/// What an address is worth before anything is measured, in microseconds.
fn preference(addr: SocketAddr, kind: PathKind) -> u64 {
    let kind = match kind {
        PathKind::Host => 0,
        PathKind::Mapped => 400,
        PathKind::Reflexive | PathKind::Observed => 800,
        PathKind::Relay => 1600,
    };
    kind + u64::from(addr.is_ipv4()) * 100
}
