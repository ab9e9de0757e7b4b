//! How large a datagram may be on one path: found by probes that are acknowledged, in the manner of RFC 8899.
//!
//! Nothing else is believed: ICMP messages can be forged by anybody and are dropped by many. A search goes in rounds. Each
//! round asks about several sizes at once, and about a small one: only when that is acknowledged and a larger one is not
//! does the size count as the reason. So loss and a dead path make a search longer, never wrong by themselves.
//!
//! ```text
//! Top (all that is needed) ─▶ Ladder (usual path MTUs) ─▶ Between (two of them) ─▶ Rest ─▶ Check ─┬─▶ Rest
//!                               ▲                                                                 │
//!                               └───────────── does not pass any more: a black hole ──────────────┘
//! ```

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{Change, PathKind};
use crate::tunnel::{HANDSHAKE_LEN, MAX_CONTROL_LEN, OVERHEAD};

/// The datagram that is assumed to pass before anything is known: what a path of 1280 bytes, the smallest that IPv6 allows,
/// has left behind the headers of IPv6, UDP and a relay.
const BASE: u16 = 1280 - IPV6_UDP - RELAY;
/// Handshakes are this long. Where there is a session they pass, whatever else does not.
const FLOOR: u16 = HANDSHAKE_LEN as u16;
/// Passes everywhere, and so tells a path on which nothing passes from one on which large datagrams do not.
const SMALL: u16 = 100;
/// Headers of IPv4 or IPv6 and UDP, and what a relay adds.
const IPV4_UDP: u16 = 20 + 8;
const IPV6_UDP: u16 = 40 + 8;
const RELAY: u16 = 8;
/// Path MTUs that links and tunnels in use have: IPv6's minimum, mobile networks, WireGuard, PPPoE and VPNs over Ethernet,
/// Ethernet, and jumbo frames.
const USUAL: [u16; 10] = [1280, 1300, 1400, 1420, 1452, 1472, 1492, 1500, 4000, 9000];

/// Sizes asked about between two that are known.
const STEPS: u16 = 8;
/// A result that close below the truth, in bytes, is good enough.
const GRAIN: u16 = 16;
/// Rounds with an answer to the small probe before a size counts as too large.
const CONCLUSIVE: u8 = 3;
/// Rounds before a stage ends without a conclusion.
const MAX_ROUNDS: u8 = 10;
/// How long a round waits for the small probe: three round trips within these bounds, and this while none is measured.
const ROUND: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));
const ROUND_UNMEASURED: Duration = Duration::from_millis(500);
/// After the small probe is answered the others have as long as it took, and at least this.
const GRACE: Duration = Duration::from_millis(50);
/// Pause after a search in which nothing was answered, doubling up to the second.
const AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A result in use is looked at this often.
const CHECK: Duration = Duration::from_secs(60);
/// And this often, doubling up to the other, while data goes out and none comes back: what a black hole looks like.
const CHECK_UNHEARD: Duration = Duration::from_secs(1);
/// And at most this often because the peer asks about less.
const CHECK_ASKED: Duration = Duration::from_secs(1);
/// A larger size is looked for this often.
const RAISE: Duration = Duration::from_secs(600);
/// Unanswered probes remembered.
const OUTSTANDING: usize = 32;
/// Paths of one peer of which the result is remembered.
const REMEMBERED: usize = 8;

/// The largest datagram to send on a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its length, as UDP payload.
    pub datagram: u16,
    /// Was it found by a search? Otherwise it is a cautious assumption, and the search goes on.
    pub settled: bool,
    /// Whatever the adapter can carry fits.
    pub full: bool,
}

impl Limit {
    /// Before anything is known.
    pub const UNKNOWN: Self = Self {
        datagram: BASE,
        settled: false,
        full: false,
    };

    /// Longest payload of a transport datagram.
    #[must_use]
    pub fn payload(&self) -> usize {
        usize::from(self.datagram).saturating_sub(OVERHEAD)
    }
}

/// What the session is doing, as far as this matters.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Use {
    /// Of the path, if it is measured.
    pub(crate) rtt: Option<Duration>,
    /// Data went either way in the last few seconds.
    pub(crate) active: bool,
    /// Data goes out, and for some time none has come back.
    pub(crate) unheard: bool,
}

/// A probe to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SizeProbe {
    /// Where to.
    pub(crate) addr: SocketAddr,
    /// To recognise the acknowledgement.
    pub(crate) nonce: u64,
    /// Length of the whole datagram.
    pub(crate) size: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    Top,
    Ladder,
    /// Between what passed and this, which did not.
    Between(u16),
    Check,
    Rest,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    nonce: u64,
    size: u16,
}

/// The search on one path.
#[derive(Clone, Debug)]
struct Search {
    /// No more is needed.
    target: u16,
    /// What IP, UDP and a relay add on this path.
    headers: u16,
    /// Largest size acknowledged.
    passed: u16,
    settled: bool,
    stage: Stage,
    /// Sizes of this stage, and those of them that this round still has to ask about.
    sizes: Vec<u16>,
    to_send: Vec<u16>,
    began: Instant,
    ends: Instant,
    small_answered: bool,
    rounds: u8,
    conclusive: u8,
    outstanding: VecDeque<Asked>,
    /// When the result was last confirmed, and since when a larger one is due.
    checked: Instant,
    raise_at: Instant,
    /// Pause before the next check of an unheard path, or before the next try of a search that came to nothing.
    pause: Duration,
    /// The path was left and taken again, there are new keys, or the network has changed.
    /// Then it is looked at again at this time.
    doubted: Option<Instant>,
}

impl Search {
    fn new(addr: SocketAddr, kind: PathKind, target: u16, now: Instant) -> Self {
        let ip = if addr.is_ipv4() || kind == PathKind::Relay {
            IPV4_UDP
        } else {
            IPV6_UDP
        };
        let relay = if kind == PathKind::Relay { RELAY } else { 0 };
        Self {
            target,
            headers: ip + relay,
            passed: FLOOR.min(target),
            settled: false,
            stage: Stage::Fresh,
            sizes: Vec::new(),
            to_send: Vec::new(),
            began: now,
            ends: now,
            small_answered: false,
            rounds: 0,
            conclusive: 0,
            outstanding: VecDeque::new(),
            checked: now,
            raise_at: now,
            pause: AGAIN.0,
            doubted: None,
        }
    }

    fn limit(&self) -> Limit {
        let datagram = if self.settled {
            self.passed
        } else {
            self.passed.max(BASE).min(self.target)
        };
        Limit {
            datagram,
            settled: self.settled,
            full: self.passed >= self.target,
        }
    }

    /// The result may be out of date.
    fn doubt(&mut self) {
        if self.settled {
            self.doubted = Some(self.checked);
        } else {
            self.stage = Stage::Fresh;
            self.to_send.clear();
            self.pause = AGAIN.0;
        }
    }

    /// What is due next while nothing is under way.
    fn next_review(&self, using: &Use) -> Option<(Instant, Stage)> {
        if !self.settled {
            return Some((self.checked + self.pause, Stage::Top));
        }
        if self.passed <= FLOOR {
            return Some((self.raise_at, Stage::Ladder)).filter(|_| using.active);
        }
        let every = if using.unheard { self.pause } else { CHECK };
        let regular = self.checked + every;
        let due = self.doubted.map_or(regular, |at| at.min(regular));
        Some((due, Stage::Check)).filter(|_| using.active)
    }

    fn poll_timeout(&self, using: &Use, now: Instant) -> Option<Instant> {
        match self.stage {
            _ if !self.to_send.is_empty() => Some(now),
            Stage::Fresh => Some(now),
            Stage::Rest => self.next_review(using).map(|(at, _)| at),
            _ => Some(self.ends),
        }
    }

    /// The next size to ask about now.
    fn poll(&mut self, using: &Use, now: Instant, nonce: u64) -> Option<u16> {
        if self.to_send.is_empty() {
            self.advance(using, now);
        }
        let size = self.to_send.pop()?;
        if self.outstanding.len() == OUTSTANDING {
            self.outstanding.pop_front();
        }
        self.outstanding.push_back(Asked { nonce, size });
        Some(size)
    }

    fn advance(&mut self, using: &Use, now: Instant) {
        if self.settled && !using.unheard {
            self.pause = CHECK_UNHEARD;
        }
        match self.stage {
            Stage::Fresh => self.begin(Stage::Top, using, now),
            Stage::Rest => {
                if let Some((at, stage)) = self.next_review(using)
                    && at <= now
                {
                    self.begin(stage, using, now);
                }
            }
            _ if now >= self.ends => self.end_round(using, now),
            _ => {}
        }
    }

    fn begin(&mut self, stage: Stage, using: &Use, now: Instant) {
        self.sizes = match stage {
            Stage::Top => vec![self.target],
            Stage::Ladder => self.ladder(),
            Stage::Between(below) => self.between(below),
            Stage::Check => vec![self.passed],
            Stage::Fresh | Stage::Rest => Vec::new(),
        };
        (self.stage, self.rounds, self.conclusive) = (stage, 0, 0);
        self.start_round(using, now);
    }

    /// Usual sizes above what passed, ascending, up to the one needed.
    fn ladder(&self) -> Vec<u16> {
        let usual = USUAL.map(|path| path - self.headers);
        let above = usual
            .into_iter()
            .filter(|s| (self.passed + 1..self.target).contains(s));
        above.chain([self.target]).collect()
    }

    fn between(&self, below: u16) -> Vec<u16> {
        let gap = below.saturating_sub(self.passed);
        (1..STEPS).map(|n| self.passed + gap / STEPS * n).collect()
    }

    fn start_round(&mut self, using: &Use, now: Instant) {
        let checking = self.stage == Stage::Check;
        let open = self.sizes.iter().filter(|s| checking || **s > self.passed);
        self.to_send = open.copied().collect();
        // Sent from the end: the small one first, then the largest.
        self.to_send.push(SMALL);
        let patience = using
            .rtt
            .map_or(ROUND_UNMEASURED, |rtt| (rtt * 3).clamp(ROUND.0, ROUND.1));
        (self.began, self.ends, self.small_answered) = (now, now + patience, false);
    }

    fn end_round(&mut self, using: &Use, now: Instant) {
        self.rounds += 1;
        self.conclusive += u8::from(self.small_answered);
        let enough = if self.stage == Stage::Top {
            1
        } else {
            CONCLUSIVE
        };
        if self.conclusive >= enough {
            self.conclude(using, now);
        } else if self.rounds >= MAX_ROUNDS {
            self.give_up(now);
        } else {
            self.start_round(using, now);
        }
    }

    /// What was not acknowledged in this stage does not pass.
    fn conclude(&mut self, using: &Use, now: Instant) {
        match self.stage {
            Stage::Top => self.begin(Stage::Ladder, using, now),
            Stage::Ladder | Stage::Between(_) => {
                let refused = self
                    .sizes
                    .iter()
                    .copied()
                    .filter(|s| *s > self.passed)
                    .min();
                let below = match self.stage {
                    Stage::Between(below) => refused.unwrap_or(below),
                    _ => refused.unwrap_or(self.target),
                };
                if below.saturating_sub(self.passed) <= GRAIN {
                    self.settle(now);
                } else {
                    self.begin(Stage::Between(below), using, now);
                }
            }
            Stage::Check => {
                (self.passed, self.settled) = (FLOOR.min(self.target), false);
                self.doubted = None;
                self.outstanding.clear();
                self.begin(Stage::Ladder, using, now);
            }
            Stage::Fresh | Stage::Rest => {}
        }
    }

    /// The small probe was not answered often enough to tell anything.
    fn give_up(&mut self, now: Instant) {
        (self.checked, self.doubted) = (now, None);
        if self.stage == Stage::Check || self.passed > FLOOR {
            // The path has trouble of another kind.
            self.settled = true;
        } else if !self.settled {
            self.pause = (self.pause * 2).min(AGAIN.1);
        }
        self.stage = Stage::Rest;
    }

    fn settle(&mut self, now: Instant) {
        (self.settled, self.doubted, self.stage) = (true, None, Stage::Rest);
        self.to_send.clear();
        (self.checked, self.raise_at) = (now, now + RAISE);
        self.pause = CHECK_UNHEARD;
    }

    /// A probe was acknowledged; `None` if it is none of ours or came back with another size.
    fn acked(&mut self, nonce: u64, size: u16, using: &Use, now: Instant) -> Option<()> {
        let at = (self.outstanding.iter()).position(|a| (a.nonce, a.size) == (nonce, size))?;
        self.outstanding.remove(at);
        if size == SMALL {
            self.small_answered = true;
            let took = now.saturating_duration_since(self.began);
            self.ends = self.ends.min(now + took.max(GRACE));
            return Some(());
        }
        self.passed = self.passed.max(size);
        match self.stage {
            Stage::Check if size == self.passed => self.confirmed(using, now),
            Stage::Check | Stage::Rest | Stage::Fresh => {}
            _ if self.passed >= self.target => self.settle(now),
            // What was taken for too large was only late: what is above it is asked about again.
            Stage::Between(below) if self.passed >= below => {
                self.begin(Stage::Ladder, using, now);
            }
            _ => {}
        }
        Some(())
    }

    fn confirmed(&mut self, using: &Use, now: Instant) {
        (self.checked, self.doubted) = (now, None);
        self.to_send.clear();
        if using.unheard {
            self.pause = (self.pause * 2).min(CHECK);
        }
        if self.passed < self.target && now >= self.raise_at {
            self.begin(Stage::Ladder, using, now);
        } else {
            self.stage = Stage::Rest;
        }
    }
}

/// The sizes of the paths that data to one peer took lately, and the search on the one that it takes.
#[derive(Clone, Debug)]
pub(crate) struct PathMtus {
    target: u16,
    current: Option<SocketAddr>,
    /// The newest last.
    known: Vec<(SocketAddr, Search)>,
}

impl PathMtus {
    /// Nothing is known. `inner_mtu` is what the adapter can carry.
    pub(crate) fn new(inner_mtu: u16) -> Self {
        let largest = MAX_CONTROL_LEN + OVERHEAD;
        let target = (usize::from(inner_mtu) + OVERHEAD).min(largest);
        Self {
            target: u16::try_from(target).unwrap_or(u16::MAX),
            current: None,
            known: Vec::new(),
        }
    }

    /// There is no session any more.
    pub(crate) const fn leave(&mut self) {
        self.current = None;
    }

    /// Data takes this path from now on. A path taken again is believed to be as it was, and looked at.
    pub(crate) fn follow(&mut self, path: Change, now: Instant) {
        if self.current.replace(path.endpoint) == Some(path.endpoint) {
            return;
        }
        let at = self.known.iter().position(|(a, _)| *a == path.endpoint);
        let search = match at {
            Some(at) => {
                let (_, mut search) = self.known.remove(at);
                search.doubt();
                search
            }
            None => Search::new(path.endpoint, path.kind, self.target, now),
        };
        self.known.push((path.endpoint, search));
        if self.known.len() > REMEMBERED {
            self.known.remove(0);
        }
    }

    /// The network under this node has changed, or the peer has begun again.
    pub(crate) fn doubt(&mut self) {
        for (_, search) in &mut self.known {
            search.doubt();
        }
    }

    /// The peer has asked about a size. When that is less than what we believe to pass, it may have found a black hole that we
    /// are in too: paths are mostly as wide one way as the other.
    pub(crate) fn asked(&mut self, size: u16, now: Instant) {
        if let Some((_, search)) = self.search()
            && search.settled
            && (SMALL + 1..search.passed).contains(&size)
        {
            let at = now.max(search.checked + CHECK_ASKED);
            search.doubted.get_or_insert(at);
        }
    }

    fn search(&mut self) -> Option<(SocketAddr, &mut Search)> {
        let current = self.current?;
        let (addr, search) = self.known.iter_mut().find(|(a, _)| *a == current)?;
        Some((*addr, search))
    }

    /// The path that data takes, and what may be sent on it.
    pub(crate) fn limit(&self) -> Option<(SocketAddr, Limit)> {
        let current = self.current?;
        let (addr, search) = self.known.iter().find(|(a, _)| *a == current)?;
        Some((*addr, search.limit()))
    }

    /// The next probe that is due, until `None`.
    pub(crate) fn poll(
        &mut self,
        using: &Use,
        now: Instant,
        nonce: impl FnOnce() -> u64,
    ) -> Option<SizeProbe> {
        let (addr, search) = self.search()?;
        if search.poll_timeout(using, now).is_none_or(|at| at > now) {
            return None;
        }
        let nonce = nonce();
        let size = search.poll(using, now, nonce)?;
        Some(SizeProbe { addr, nonce, size })
    }

    /// A probe came through with this size, as the peer says.
    pub(crate) fn acked(&mut self, nonce: u64, size: u16, using: &Use, now: Instant) {
        for (_, search) in self.known.iter_mut().rev() {
            if search.acked(nonce, size, using, now).is_some() {
                return;
            }
        }
    }

    /// When [`poll`](Self::poll) has something to do.
    pub(crate) fn poll_timeout(&self, using: &Use, now: Instant) -> Option<Instant> {
        let current = self.current?;
        let (_, search) = self.known.iter().find(|(a, _)| *a == current)?;
        search.poll_timeout(using, now)
    }
}

#[cfg(test)]
#[path = "mtu_tests.rs"]
mod tests;
