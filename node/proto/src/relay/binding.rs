//! Which UDP address of a relay this node's data goes to, and that the relay knows this node's own.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::wire::relay::{
    SessionKey,
    datagram::{self, Bind, Cookie, Step},
};

use crate::tunnel::{Entropy, Transmit, timers::next_beat};

/// When an unanswered bind is sent again, after the one before it; then at the last pause for good.
const AGAIN: [Duration; 6] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(30),
];
/// Repeated this often while it works, or when everything is that is kept: NATs forget UDP after 30 s and more (RFC 4787 asks for 120 s).
const KEEP: Duration = Duration::from_secs(20);
/// When nothing comes through, a bind that is older than this says nothing of where this node is now. One that is not has its
/// successor as soon as it is.
const DOUBTFUL: Duration = Duration::from_secs(2);
/// The same where no address of the relay answers: they may be those of somebody else, who is to get little of it.
const DOUBTFUL_UNANSWERED: Duration = Duration::from_secs(5);
/// Binds that may go unanswered before the address counts as lost.
const MISSED: usize = 3;
/// Challenges answered between two binds of our own; a relay needs one for each address.
const MAX_CHALLENGES: usize = 16;
/// Addresses of one relay at the most.
pub(super) const MAX_ADDRS: usize = 8;

#[derive(Debug)]
pub(super) struct Binding {
    session: u32,
    key: SessionKey,
    /// Addresses of the relay, with the cookie that it gave for what it sees there.
    targets: Vec<(SocketAddr, Cookie)>,
    bound: Option<SocketAddr>,
    nonce: [u8; 8],
    /// Of the bind before that, whose answer may come late.
    nonce_before: Option<[u8; 8]>,
    unanswered: usize,
    challenges: usize,
    /// When it was sent last.
    sent: Option<Instant>,
    next: Instant,
}

impl Binding {
    pub(super) fn new(session: u32, key: SessionKey, addrs: &[SocketAddr], now: Instant) -> Self {
        let mut binding = Self {
            session,
            key,
            targets: Vec::new(),
            bound: None,
            nonce: [0; 8],
            nonce_before: None,
            unanswered: 0,
            challenges: 0,
            sent: None,
            next: now,
        };
        binding.set_addrs(addrs, now);
        binding
    }

    /// Where data goes, if it may go anywhere.
    pub(super) const fn bound(&self) -> Option<SocketAddr> {
        self.bound
    }

    pub(super) const fn session(&self) -> u32 {
        self.session
    }

    /// Where the relay is.
    pub(super) fn addrs(&self) -> impl Iterator<Item = SocketAddr> {
        self.targets.iter().map(|(addr, _)| *addr)
    }

    pub(super) fn set_addrs(&mut self, addrs: &[SocketAddr], now: Instant) {
        let known = |addr: &SocketAddr| self.targets.iter().find(|(a, _)| a == addr);
        let targets: Vec<_> = addrs
            .iter()
            .take(MAX_ADDRS)
            .map(|addr| known(addr).copied().unwrap_or((*addr, [0; 16])))
            .collect();
        if targets.iter().any(|(addr, _)| known(addr).is_none()) && self.bound.is_none() {
            self.again(now);
        }
        self.targets = targets;
        if self
            .bound
            .is_some_and(|b| self.targets.iter().all(|(a, _)| *a != b))
        {
            self.bound = None;
            self.again(now);
        }
    }

    /// Something is wrong, or this node has moved: say at once where it is.
    pub(super) const fn again(&mut self, now: Instant) {
        self.unanswered = 0;
        self.next = now;
    }

    /// Nothing comes through. If a router on the way has forgotten this node, the relay does not know it where it is seen now,
    /// and drops what it sends.
    pub(super) fn doubt(&mut self, now: Instant) {
        let age = match self.bound {
            Some(_) => DOUBTFUL,
            None => DOUBTFUL_UNANSWERED,
        };
        let doubtful = self.sent.map_or(now, |at| at + age);
        if doubtful <= now && self.bound.is_some() {
            self.again(now);
        } else {
            self.next = self.next.min(doubtful.max(now));
        }
    }

    /// Sends what is due.
    pub(super) fn handle_timeout(
        &mut self,
        entropy: &mut Entropy,
        now: Instant,
        out: &mut impl Extend<Transmit>,
    ) {
        if now < self.next || self.targets.is_empty() {
            return;
        }
        if self.unanswered >= MISSED {
            self.bound = None;
        }
        self.nonce_before = self.sent.map(|_| self.nonce);
        self.nonce = entropy.u64().to_le_bytes();
        self.challenges = 0;
        self.sent = Some(now);
        self.next = now + AGAIN[self.unanswered.min(AGAIN.len() - 1)];
        self.unanswered += 1;
        let (bound, targets) = (self.bound, &self.targets);
        out.extend(
            targets
                .iter()
                .filter(|(addr, _)| bound.is_none_or(|b| b == *addr))
                .map(|(addr, cookie)| self.bind(*addr, *cookie)),
        );
    }

    fn bind(&self, to: SocketAddr, cookie: Cookie) -> Transmit {
        let bind = Bind {
            session: self.session,
            nonce: self.nonce,
            cookie,
        };
        let data = datagram::encode_bind(&bind, &self.key).to_vec();
        Transmit { to, data }
    }

    /// An answer, if it is one to this binding. `Some` when it was, with what to send next.
    pub(super) fn handle_answer(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        beat: Option<Instant>,
        now: Instant,
    ) -> Option<Option<Transmit>> {
        let (step, bind) = datagram::decode_bound(datagram)?;
        let ours = bind.session == self.session
            && (bind.nonce == self.nonce || Some(bind.nonce) == self.nonce_before)
            && datagram::is_authentic(datagram, &self.key);
        let target = self.targets.iter_mut().find(|(addr, _)| *addr == from);
        let (_, cookie) = target.filter(|_| ours)?;
        match step {
            Step::Challenge => {
                *cookie = bind.cookie;
                let wanted = self.bound.is_none_or(|bound| bound == from);
                Some(wanted.then(|| self.answer(from)).flatten())
            }
            Step::Bound => {
                // The first address that works is kept: they all lead to the same relay. It sees this node elsewhere from
                // each, though, and keeps the last, so it is told again.
                let kept = *self.bound.get_or_insert(from);
                if kept != from {
                    // Until the relay has heard that, it takes no data from where this node is seen from the kept one.
                    self.next = now + AGAIN[0];
                    return Some(self.answer(kept));
                }
                // What is on its way may tell of another place.
                if bind.nonce == self.nonce {
                    self.unanswered = 0;
                    self.next = beat.map_or(now + KEEP, |beat| next_beat(beat, now));
                }
                Some(None)
            }
        }
    }

    /// Another bind to an address, with the cookie that came from there; so many between two of our own.
    fn answer(&mut self, to: SocketAddr) -> Option<Transmit> {
        let (_, cookie) = self.targets.iter().find(|(addr, _)| *addr == to)?;
        let cookie = *cookie;
        if self.challenges == MAX_CHALLENGES {
            return None;
        }
        self.challenges += 1;
        Some(self.bind(to, cookie))
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        (!self.targets.is_empty()).then_some(self.next)
    }
}
