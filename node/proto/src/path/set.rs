//! The addresses of one peer, their probes, and the choice among them.

use std::{
    cmp::Reverse,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::candidate::MAX_CANDIDATES;

use super::{
    Candidate, Change, Order, PathKind, PathStatus, Probe, Via,
    address::{PROBE_RISING, Path, STREAK},
    budget::{Budget, Rate},
};
use crate::tunnel::timers;

/// Addresses kept that nobody offered: where packets came from.
pub const MAX_OBSERVED: usize = 4;
/// Ways over relays at the most.
pub const MAX_RELAYED: usize = 8;

/// Sent and not heard for this long: the primary path is in trouble.
const TROUBLE_AFTER: Duration = Duration::from_millis(1500);
/// In trouble every path is probed this often.
const PROBE_IN_TROUBLE: Duration = Duration::from_millis(500);
/// And after this long, less eagerly.
const TROUBLE_IS_OLD: Duration = Duration::from_secs(15);
const PROBE_IN_OLD_TROUBLE: Duration = Duration::from_secs(2);
/// In trouble for this long, the primary path loses to any other that has answered meanwhile.
const FAILOVER_AFTER: Duration = Duration::from_secs(1);
/// The same when one end has moved.
const FAILOVER_AFTER_A_MOVE: Duration = Duration::from_millis(250);
/// The primary path while data flows, and the keepalive of an idle one.
const PROBE_PRIMARY: Duration = Duration::from_millis(1500);
const PROBE_IDLE: Duration = timers::PERSISTENT_KEEPALIVE;
/// A keepalive goes out together with others that are due, this much before its time.
pub(crate) const PROBE_IDLE_EARLY: Duration = Duration::from_secs(5);
/// One keepalive and its answer serve both ends: the end that does not control sends its own only when none has come.
const PROBE_UNASKED: Duration = Duration::from_secs(PROBE_IDLE.as_secs() + 3);
/// The keepalive of either end, and a while for its answer.
const FRESH_FOR: Duration = Duration::from_secs(PROBE_UNASKED.as_secs() + 3);
/// Other paths that answer, while data flows, and while it does not and would take a relay: often enough to keep NAT
/// mappings. Beside a direct path at rest they are left alone: in trouble all are asked.
const PROBE_OTHER: Duration = Duration::from_secs(10);
const PROBE_OTHER_IDLE: Duration = Duration::from_secs(20);
/// The same while data takes a relay: nobody wants to stay there.
const PROBE_RISING_FROM_RELAY: Duration = Duration::from_millis(250);
/// Paths that do not answer are asked ever more rarely, down to this.
const PROBE_SILENT: Duration = Duration::from_secs(60);
/// Beside a direct path at rest they are asked no more after so many times.
const SILENT_AT_REST: u32 = 6;
/// The same while data flows over a relay: what was cut may be whole again.
const PROBE_SILENT_FROM_RELAY: Duration = Duration::from_secs(8);
/// The same when either end has moved a moment ago, or has told of new addresses: each may have to send before the NAT of the
/// other lets in what the other sends, and neither knows when the other does.
const PROBE_HOPEFUL: Duration = Duration::from_secs(1);
/// For this long,
const HOPE: Duration = Duration::from_secs(30);
/// and, when it is the word of the peer, not again so soon: it may have told of an address of somebody else.
const HOPE_AGAIN: Duration = Duration::from_secs(60);
/// After so many times in vain the pause doubles, so many times.
const HOPES: u32 = 4;
const HOPE_DOUBLINGS: u32 = 4;
/// Addresses that are tried because the peer tells of them. It may tell of others every second, and mean somebody else.
const NEW_ADDRESSES: Rate = Rate {
    most: 32,
    every: Duration::from_secs(2),
};
/// Packets of another session than the current one may be this late.
const OVERTAKEN_FOR: Duration = Duration::from_secs(1);

/// What the session is doing, as far as paths care.
#[derive(Clone, Copy, Debug)]
pub struct Activity {
    /// Data was sent or received in the last few seconds.
    pub active: bool,
    /// The pair is to stay connected.
    pub wanted: bool,
    /// Nothing was heard in this session yet, and it is young: this often the first packet is repeated.
    pub eager: Option<Duration>,
    /// When the oldest data was sent that nothing heard since can have answered.
    pub waiting_since: Option<Instant>,
    /// This end decides which path is better.
    pub controls: bool,
    /// A moment at which keepalives are due, if they are due at moments that many share.
    pub beat: Option<Instant>,
}

/// All addresses of one peer and which of them data takes.
#[derive(Clone, Debug, Default)]
pub struct PathSet {
    paths: Vec<Path>,
    primary: Option<SocketAddr>,
    /// Since when data takes it.
    primary_since: Option<Instant>,
    trouble_since: Option<Instant>,
    /// The trouble is that one end is on another network: where the NAT of the other lets in only what was sent to, nothing
    /// gets there any more before it knows.
    moved: bool,
    /// The newest packet that the primary path was chosen by.
    followed: Option<(Order, Instant)>,
    /// Since when there is hope that a path works that has not answered.
    hope_since: Option<Instant>,
    /// How often that was because of the word of the peer, since data last took a path without a relay.
    hopes: u32,
    /// What is left of [`NEW_ADDRESSES`].
    new_addresses: Budget,
}

impl PathSet {
    /// Replaces the offered addresses; returns whether there is a new one. Only the first
    /// [`MAX_CANDIDATES`] count. The primary path stays, and so do the latest that were observed or have answered.
    pub fn offer(&mut self, candidates: &[Candidate], now: Instant) -> bool {
        let before: Vec<_> = (self.paths.iter().filter(|p| p.offered))
            .map(|p| p.addr)
            .collect();
        for path in self.paths.iter_mut().filter(|p| p.kind != PathKind::Relay) {
            path.offered = false;
        }
        let (mut new, mut news) = (false, false);
        for candidate in candidates.iter().take(MAX_CANDIDATES) {
            let back = !before.contains(&candidate.addr);
            news |= back;
            if let Some(path) = self.find(candidate.addr) {
                (path.offered, path.kind) = (true, candidate.kind);
                if back {
                    path.ask_soon(now);
                }
            } else {
                self.paths.push(Path::new(*candidate, true));
                new = true;
            }
        }
        if news {
            self.hope(now);
        }
        // What is offered no longer and never worked was wrong, or is out of date.
        let primary = self.primary;
        self.paths.retain(|p| {
            let known = p.kind == PathKind::Observed || p.last_answer.is_some();
            p.offered || known || Some(p.addr) == primary
        });
        self.drop_surplus();
        self.admit(now);
        new
    }

    /// Lets something be sent to addresses that the peer has told of, as far as there is enough left for that.
    pub(crate) fn admit(&mut self, now: Instant) {
        for path in self.paths.iter_mut().filter(|p| !p.admitted) {
            path.admitted = self.new_addresses.take(NEW_ADDRESSES, now);
        }
    }

    /// When [`admit`](Self::admit) has something to do.
    pub(crate) fn next_admission(&self, now: Instant) -> Option<Instant> {
        let waiting = self.paths.iter().any(|p| !p.admitted);
        let next = self.new_addresses.next(NEW_ADDRESSES, now);
        waiting.then(|| next.unwrap_or(now))
    }

    /// Has the peer answered at this address, or is it none that the peer chose?
    pub(crate) fn is_proven(&self, addr: SocketAddr) -> bool {
        let proven = |p: &Path| p.kind == PathKind::Relay || p.last_answer.is_some();
        self.paths.iter().any(|p| p.addr == addr && proven(p))
    }

    /// Replaces the ways over relays; returns whether there is a new one. When data takes one that is gone, another path
    /// is looked for at once.
    pub fn set_relayed(&mut self, ways: &[SocketAddr], now: Instant) -> bool {
        let primary = self.primary;
        let gone = |p: &Path| p.kind == PathKind::Relay && !ways.contains(&p.addr);
        self.paths.retain(|p| !gone(p) || Some(p.addr) == primary);
        if let Some(path) = self.paths.iter_mut().find(|p| gone(p)) {
            path.offered = false;
            self.probe_all(now);
        }
        let mut new = false;
        for addr in ways.iter().take(MAX_RELAYED) {
            match self.find(*addr) {
                Some(path) => path.offered = true,
                None => {
                    let kind = PathKind::Relay;
                    let candidate = Candidate { addr: *addr, kind };
                    self.paths.push(Path::new(candidate, true));
                    new = true;
                }
            }
        }
        new
    }

    /// The peer asks whether this path works, which data does not take.
    pub fn asked(&mut self, from: SocketAddr, now: Instant) {
        self.observe(from);
        let primary = self.primary;
        if let Some(path) = self.find(from)
            && Some(path.addr) != primary
        {
            path.ask_soon(now);
        }
    }

    /// The peer asks whether this path works, which its data takes, and is answered: that keeps it open for both ends.
    pub fn kept(&mut self, from: SocketAddr, now: Instant) {
        if self.primary == Some(from)
            && let Some(path) = self.find(from)
        {
            path.last_kept = Some(now);
        }
    }

    /// Something authenticated came from this address.
    pub fn heard_from(&mut self, from: SocketAddr, now: Instant) {
        if let Some(path) = self.find(from) {
            path.admitted = true;
            path.last_heard = Some(now);
        }
    }

    /// Notes an address that an authenticated packet came from.
    pub fn observe(&mut self, from: SocketAddr) {
        if let Some(path) = self.find(from) {
            path.admitted = true;
        } else {
            let kind = match Via::of(from) {
                Some(Via::Relay { .. }) => PathKind::Relay,
                _ => PathKind::Observed,
            };
            self.paths
                .push(Path::new(Candidate { addr: from, kind }, false));
            self.drop_surplus();
        }
    }

    /// The peer may be reached where it could not be reached before.
    fn hope(&mut self, now: Instant) {
        let doublings = self.hopes.saturating_sub(HOPES).min(HOPE_DOUBLINGS);
        let again = HOPE_AGAIN * 2_u32.pow(doublings);
        if self.hope_since.is_none_or(|at| now >= at + again) {
            self.hope_since = Some(now);
            self.hopes = self.hopes.saturating_add(1);
        }
    }

    fn is_hopeful(&self, now: Instant) -> bool {
        !self.is_direct() && self.hope_since.is_some_and(|at| now < at + HOPE)
    }

    /// Keeps [`MAX_OBSERVED`] addresses that nobody offers: the primary and the newest, those that answer first, and none that
    /// has stopped answering in place of one that is still to be tried.
    fn drop_surplus(&mut self) {
        let primary = self.primary;
        while self.paths.iter().filter(|p| !p.offered).count() > MAX_OBSERVED {
            let worst = (0..self.paths.len())
                .filter(|at| !self.paths[*at].offered && Some(self.paths[*at].addr) != primary)
                .min_by_key(|at| {
                    let path = &self.paths[*at];
                    (path.unanswered < STREAK, path.last_answer, *at)
                });
            let Some(worst) = worst else { return };
            self.paths.remove(worst);
        }
    }

    fn find(&mut self, addr: SocketAddr) -> Option<&mut Path> {
        self.paths.iter_mut().find(|p| p.addr == addr)
    }

    fn primary_path(&self) -> Option<&Path> {
        self.paths.iter().find(|p| Some(p.addr) == self.primary)
    }

    /// The address that data takes, if there is a session.
    #[must_use]
    pub fn primary(&self) -> Option<Change> {
        self.primary_path().map(|p| Change {
            endpoint: p.addr,
            kind: p.kind,
        })
    }

    /// Does data go from one end to the other without a relay?
    fn is_direct(&self) -> bool {
        self.primary_path()
            .is_some_and(|p| p.kind != PathKind::Relay)
    }

    /// Since when data takes the primary path.
    #[must_use]
    pub const fn primary_since(&self) -> Option<Instant> {
        self.primary_since
    }

    /// Is there a primary path without signs of trouble?
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.primary.is_some() && self.trouble_since.is_none()
    }

    /// Has something come by the primary path as lately as it does by a path that works? A process that was stopped, or a
    /// machine that slept, knows only by its clock that it knows nothing any more.
    #[must_use]
    pub fn is_fresh(&self, now: Instant) -> bool {
        let last = (self.primary_path()).and_then(|p| p.last_answer.max(p.last_kept));
        self.is_healthy() && last.is_some_and(|at| now < at + FRESH_FOR)
    }

    /// Since when nothing has answered on the primary path.
    #[must_use]
    pub const fn trouble_since(&self) -> Option<Instant> {
        self.trouble_since
    }

    /// Does data take a relay?
    #[must_use]
    pub fn takes_relay(&self) -> bool {
        self.primary.is_some() && !self.is_direct()
    }

    /// Does data take a relay, with no path that could do without?
    #[must_use]
    pub fn lacks_direct(&self, now: Instant) -> bool {
        let direct = |p: &Path| p.kind != PathKind::Relay && p.is_alive(now);
        self.takes_relay() && !self.paths.iter().any(direct)
    }

    /// All addresses with what they are.
    pub fn addresses(&self) -> impl Iterator<Item = (SocketAddr, PathKind)> {
        self.paths.iter().map(|p| (p.addr, p.kind))
    }

    /// The addresses in the order in which a handshake tries them: the primary, then what was best, then what looks best.
    #[must_use]
    pub fn race_order(&self) -> Vec<SocketAddr> {
        let mut order: Vec<_> = self
            .paths
            .iter()
            .filter(|p| p.admitted)
            .map(|p| {
                (
                    Some(p.addr) != self.primary,
                    Reverse(p.last_answer),
                    p.score(),
                    p.addr,
                )
            })
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(.., addr)| addr).collect()
    }

    /// A handshake came to its end with a packet from this address. A healthy primary path stays.
    pub fn established(&mut self, from: SocketAddr, order: Order, now: Instant) -> Option<Change> {
        self.observe(from);
        if let Some(path) = self.find(from) {
            path.alive(now);
        }
        if self.is_healthy() {
            return None;
        }
        for path in &mut self.paths {
            path.last_probe = None;
        }
        self.followed = Some((order, now));
        self.move_to(from, now)
    }

    /// There is no session any more.
    pub fn disconnected(&mut self) {
        self.primary = None;
        self.primary_since = None;
        (self.trouble_since, self.moved) = (None, false);
        self.followed = None;
        for path in &mut self.paths {
            path.outstanding.clear();
            (path.unanswered, path.unanswered_since) = (0, None);
        }
        self.drop_surplus();
    }

    /// The network under this node has changed. What did not answer before may answer now, and what did may not: everything
    /// is probed as in trouble, until the primary path answers or another takes its place. The time without any network
    /// does not count against the primary path.
    pub fn probe_all(&mut self, now: Instant) {
        if self.primary.is_some() {
            self.trouble_since = Some(now);
            self.moved = true;
        }
        self.hope_since = Some(now);
        for path in &mut self.paths {
            path.last_probe = None;
            path.failed_at = None;
            path.outstanding.clear();
            (path.unanswered, path.unanswered_since) = (0, None);
        }
    }

    fn move_to(&mut self, addr: SocketAddr, now: Instant) -> Option<Change> {
        (self.trouble_since, self.moved) = (None, false);
        if self.primary == Some(addr) {
            return None;
        }
        let old = self.primary.replace(addr);
        self.primary_since = Some(now);
        if self.is_direct() {
            (self.hope_since, self.hopes) = (None, 0);
        }
        for path in &mut self.paths {
            if path.addr == addr || Some(path.addr) == old {
                path.last_probe = None;
            }
        }
        if let Some(path) = self.find(addr) {
            // What went unanswered before must not count against it in its new part.
            (path.unanswered, path.unanswered_since) = (0, None);
        }
        self.primary()
    }

    /// An authenticated packet that says "my data takes this path" came from an address that may not be the primary.
    ///
    /// A packet overtaken by another never moves anything. The end that does not control follows at once; the end that controls follows to an address it did not
    /// know to work (the peer has moved), and otherwise looks closely at the primary path.
    pub fn heard(
        &mut self,
        from: SocketAddr,
        order: Order,
        controls: bool,
        now: Instant,
    ) -> Option<Change> {
        if self.is_late(order, now) {
            return None;
        }
        if self.primary == Some(from) {
            self.followed = Some((order, now));
            return None;
        }
        self.observe(from);
        let path = self.find(from)?;
        if path.has_failed(now) {
            return None;
        }
        if controls && path.is_alive(now) {
            path.ask_soon(now);
            if self.trouble_since.is_none() {
                // It says that its data does not take the primary path any more. That path answers soon, or is left.
                (self.trouble_since, self.moved) = (Some(now), true);
            }
            let primary = self.primary;
            if let Some(primary) = self.paths.iter_mut().find(|p| Some(p.addr) == primary)
                && primary.last_probe.is_none_or(|at| now >= at + PROBE_RISING)
            {
                primary.last_probe = None;
            }
            return None;
        }
        self.followed = Some((order, now));
        // The peer has moved, and the address that it has left may look better for as long as nothing was measured here:
        // what answered before has to answer again.
        for path in self.paths.iter_mut().filter(|p| p.addr != from) {
            path.streak = 0;
        }
        self.move_to(from, now)
    }

    /// Was this packet sent before the one that the path was chosen by? Within a session the counter tells; between
    /// two, one may still bring late packets for a while.
    fn is_late(&self, order: Order, now: Instant) -> bool {
        self.followed.is_some_and(|(newest, at)| {
            if newest.session == order.session {
                order.counter <= newest.counter
            } else {
                !order.current && now < at + OVERTAKEN_FOR
            }
        })
    }

    /// The answer to a probe, of whose time up to `idle` may have passed at the ends and not on the way; returns the path that
    /// it proves, its time and whether data takes it.
    pub fn answered(&mut self, nonce: u64, now: Instant, idle: Duration) -> Option<PathStatus> {
        let mut paths = self.paths.iter_mut();
        let at = paths.position(|p| p.answered(nonce, now, idle))?;
        let path = &self.paths[at];
        if Some(path.addr) == self.primary {
            (self.trouble_since, self.moved) = (None, false);
        }
        Some(self.describe(path, now))
    }

    /// How long an answer on a path was on the way, as far as the path is known: up to `idle` of it may have passed at the ends.
    pub(crate) fn on_the_way(&self, addr: SocketAddr, took: Duration, idle: Duration) -> Duration {
        let path = self.paths.iter().find(|path| path.addr == addr);
        path.map_or(took, |path| path.estimator.nearest(took, idle))
    }

    /// The path that data takes.
    pub(crate) fn primary_status(&self, now: Instant) -> Option<PathStatus> {
        Some(self.describe(self.primary_path()?, now))
    }

    fn describe(&self, path: &Path, now: Instant) -> PathStatus {
        PathStatus {
            addr: path.addr,
            kind: path.kind,
            primary: Some(path.addr) == self.primary,
            alive: path.is_alive(now),
            rtt: path.estimator.rtt(),
            loss: path.estimator.loss(),
        }
    }

    /// All paths, for a status display.
    #[must_use]
    pub fn status(&self, now: Instant) -> Vec<PathStatus> {
        self.paths.iter().map(|p| self.describe(p, now)).collect()
    }

    /// How long after its last probe a path is probed again; `None` for not at all.
    fn interval(&self, path: &Path, activity: &Activity, now: Instant) -> Option<Duration> {
        let primary = Some(path.addr) == self.primary;
        if let Some(every) = activity.eager.filter(|_| primary) {
            return Some(every);
        }
        if let Some(since) = self.trouble_since {
            let old = now >= since + TROUBLE_IS_OLD;
            return Some(if old {
                PROBE_IN_OLD_TROUBLE
            } else {
                PROBE_IN_TROUBLE
            });
        }
        if !activity.active && !activity.wanted {
            return None;
        }
        let known = path.streak >= STREAK && path.unanswered < STREAK;
        if !primary
            && known
            && self.is_direct()
            && (path.kind == PathKind::Relay || !activity.active)
        {
            // It is probed as soon as the direct path is in trouble, and a relay keeps its way open by itself.
            return None;
        }
        if path.unanswered >= SILENT_AT_REST && self.is_direct() && !primary && !activity.active {
            return None;
        }
        Some(if primary {
            // A probe in flight is followed up by trouble, not by the next probe.
            if activity.active || self.waits_for_a_lead(activity, now) {
                PROBE_PRIMARY
            } else if activity.controls {
                PROBE_IDLE
            } else {
                PROBE_UNASKED
            }
        } else if path.last_answer.is_none() || path.unanswered >= STREAK {
            let rarest = match (self.is_direct(), activity.active) {
                (true, _) => PROBE_SILENT,
                _ if self.is_hopeful(now) => PROBE_HOPEFUL,
                (false, true) => PROBE_SILENT_FROM_RELAY,
                (false, false) => PROBE_OTHER_IDLE,
            };
            (PROBE_RISING * 2_u32.saturating_pow(path.unanswered.min(6))).min(rarest)
        } else if path.streak < STREAK {
            if self.is_direct() {
                PROBE_RISING
            } else {
                PROBE_RISING_FROM_RELAY
            }
        } else if activity.active {
            PROBE_OTHER
        } else {
            PROBE_OTHER_IDLE
        })
    }

    /// Is this end on a relay though it need not be, and the other end to move the pair? That end may believe that this has
    /// happened, and is told otherwise by each probe of the relay.
    fn waits_for_a_lead(&self, activity: &Activity, now: Instant) -> bool {
        let works = |p: &Path| p.kind != PathKind::Relay && p.streak >= STREAK && p.is_alive(now);
        !activity.controls && !self.is_direct() && self.paths.iter().any(works)
    }

    /// When a path is to be probed at the latest.
    fn due(&self, path: &Path, activity: &Activity, now: Instant) -> Option<Instant> {
        if !path.admitted {
            return None;
        }
        let interval = self.interval(path, activity, now)?;
        let Some(probed) = path.last_probe else {
            return Some(now);
        };
        if let Some(beat) = activity.beat.filter(|_| interval == PROBE_IDLE) {
            return Some(timers::next_beat(beat, probed));
        }
        // What the peer asks is answered, and does as well as asking.
        let served = path.last_kept.filter(|_| interval == PROBE_UNASKED);
        Some(served.map_or(probed, |at| at.max(probed)) + interval)
    }

    /// Is it time to probe a path? A keepalive may go out along with others.
    fn is_due(&self, path: &Path, activity: &Activity, now: Instant) -> bool {
        let resting = self.trouble_since.is_none() && !activity.active && activity.eager.is_none();
        let alone = activity.beat.is_none() && activity.controls;
        let early = if resting && alone && self.primary == Some(path.addr) {
            PROBE_IDLE_EARLY
        } else {
            Duration::ZERO
        };
        (self.due(path, activity, now)).is_some_and(|due| due <= now + early)
    }

    /// The next probe that is due, until `None`.
    pub fn poll_probe(
        &mut self,
        activity: &Activity,
        now: Instant,
        nonce: impl FnOnce() -> u64,
    ) -> Option<Probe> {
        self.primary?;
        self.admit(now);
        let at = (self.paths.iter()).position(|path| self.is_due(path, activity, now))?;
        let (primary, path) = (self.primary, &mut self.paths[at]);
        let nonce = nonce();
        path.sent(nonce, now);
        Some(Probe {
            addr: path.addr,
            nonce,
            primary: Some(path.addr) == primary,
        })
    }

    /// Looks for trouble, and for a better path. Call at [`poll_timeout`](Self::poll_timeout) and after answers.
    pub fn review(&mut self, activity: &Activity, now: Instant) -> Option<Change> {
        for path in &mut self.paths {
            path.drop_lost(now);
        }
        let primary = self.primary_path()?;
        let silent_since = [activity.waiting_since, primary.unanswered_since];
        if let Some(since) = silent_since.into_iter().flatten().min()
            && now >= since + TROUBLE_AFTER
        {
            self.trouble_since.get_or_insert(now);
        }
        match self.trouble_since {
            Some(since) if now >= since + self.failover_after() => self.fail_over(since, now),
            Some(_) => None,
            None if activity.controls => self.upgrade(now),
            None => None,
        }
    }

    fn failover_after(&self) -> Duration {
        if self.moved {
            let rtt = self.primary_path().and_then(|p| p.estimator.rtt());
            let answer = rtt.unwrap_or_default() * 2;
            answer.clamp(FAILOVER_AFTER_A_MOVE, FAILOVER_AFTER)
        } else {
            FAILOVER_AFTER
        }
    }

    fn fail_over(&mut self, since: Instant, now: Instant) -> Option<Change> {
        let better = self
            .paths
            .iter()
            .filter(|p| Some(p.addr) != self.primary && p.last_answer.is_some_and(|at| at > since))
            .min_by_key(|p| p.score())?
            .addr;
        if let Some(old) = self.primary.and_then(|old| self.find(old)) {
            // What still comes from there does not mean that anything gets there. Where nothing came either, the peer
            // was not there, and is when it says so.
            old.failed_at = old.last_heard.is_some_and(|at| at > since).then_some(now);
            old.streak = 0;
        }
        self.move_to(better, now)
    }

    fn upgrade(&mut self, now: Instant) -> Option<Change> {
        let current = self.primary_path()?;
        let better = self
            .paths
            .iter()
            .filter(|p| p.streak >= STREAK && p.is_alive(now) && p.is_clearly_better_than(current))
            .min_by_key(|p| p.score())?
            .addr;
        self.move_to(better, now)
    }

    /// When to call [`poll_probe`](Self::poll_probe) and [`review`](Self::review) again.
    #[must_use]
    pub fn poll_timeout(&self, activity: &Activity, now: Instant) -> Option<Instant> {
        let primary = self.primary_path()?;
        let probes = self.paths.iter().filter_map(|p| self.due(p, activity, now));
        let trouble = match self.trouble_since {
            Some(since) => Some(since + self.failover_after()).filter(|at| *at > now),
            None => primary.unanswered_since.map(|at| at + TROUBLE_AFTER),
        };
        let waiting = activity
            .waiting_since
            .filter(|_| self.trouble_since.is_none())
            .map(|at| at + TROUBLE_AFTER);
        let admission = self.next_admission(now);
        let others = [trouble, waiting, admission].into_iter().flatten();
        probes.chain(others).min()
    }
}

#[cfg(test)]
#[path = "set_tests.rs"]
mod tests;
