//! Streams of numbered packets between nodes, and what became of them.

use std::{collections::BTreeMap, time::Duration};

/// Numbered packets from one node to another at a steady pace.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub from: usize,
    pub to: usize,
    pub every: Duration,
    pub next: Duration,
    /// IPv6 instead of IPv4.
    pub v6: bool,
}

/// What became of the packets of one pair, in one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    pub sent: u64,
    pub delivered: u64,
    pub first: Option<Duration>,
    pub last: Option<Duration>,
    /// Longest time between two deliveries.
    pub gap: Duration,
}

/// All packets of a run.
#[derive(Debug, Default)]
pub struct Traffic {
    pub flows: Vec<Flow>,
    scores: BTreeMap<(usize, usize), Score>,
    next_number: u64,
}

impl Traffic {
    /// A number that no packet had before.
    pub fn number(&mut self) -> u64 {
        self.next_number += 1;
        self.next_number
    }

    pub fn sent(&mut self, from: usize, to: usize) {
        self.scores.entry((from, to)).or_default().sent += 1;
    }

    pub fn delivered(&mut self, from: usize, to: usize, at: Duration) {
        let score = self.scores.entry((from, to)).or_default();
        score.delivered += 1;
        if let Some(last) = score.last {
            score.gap = score.gap.max(at.saturating_sub(last));
        }
        score.first.get_or_insert(at);
        score.last = Some(at);
    }

    pub fn score(&self, from: usize, to: usize) -> Score {
        self.scores.get(&(from, to)).copied().unwrap_or_default()
    }

    /// Counts anew from here on.
    pub fn reset(&mut self) {
        self.scores.clear();
    }

    /// Longest time that any flow has gone without a delivery, `now` included.
    pub fn longest_gap(&self, now: Duration) -> Duration {
        let gap = |flow: &Flow| {
            let score = self.score(flow.from, flow.to);
            let open = now.saturating_sub(score.last.unwrap_or_default());
            score.gap.max(open)
        };
        self.flows.iter().map(gap).max().unwrap_or_default()
    }

    /// When the next packet of a flow is due.
    pub fn next_at(&self) -> Option<Duration> {
        self.flows.iter().map(|flow| flow.next).min()
    }

    /// A flow with a packet due.
    pub fn due(&mut self, now: Duration) -> Option<Flow> {
        let flow = self.flows.iter_mut().find(|flow| flow.next <= now)?;
        flow.next = now + flow.every;
        Some(*flow)
    }
}
