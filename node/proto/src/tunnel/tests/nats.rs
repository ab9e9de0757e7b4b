//! NATs in network 1 that let in only what was sent to, from the same port.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

/// A NAT forgets what was sent to after this.
const FORGETS: Duration = Duration::from_secs(30);

/// What hosts behind NATs have sent to, and when last.
#[derive(Default)]
pub(super) struct Filters {
    behind: Vec<usize>,
    sent: BTreeMap<(usize, SocketAddr), Instant>,
}

impl Filters {
    /// Puts a host behind a NAT of which nobody has used anything yet.
    pub(super) fn put_behind(&mut self, host: usize) {
        self.take_away(host);
        self.behind.push(host);
    }

    /// The host has a public address now.
    pub(super) fn take_away(&mut self, host: usize) {
        self.behind.retain(|other| *other != host);
        self.sent.retain(|(other, _), _| *other != host);
    }

    pub(super) fn sends(&mut self, host: usize, to: SocketAddr, now: Instant) {
        self.sent.insert((host, to), now);
    }

    pub(super) fn let_in(&self, host: usize, from: SocketAddr, now: Instant) -> bool {
        let sent = self.sent.get(&(host, from));
        !self.behind.contains(&host) || sent.is_some_and(|at| now < *at + FORGETS)
    }
}
