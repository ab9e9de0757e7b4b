//! Questions to reflectors, repeated while they are not answered.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::wire::reflect::{LEN, Other, Request, Response, TransactionId, Via};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

/// Questions under way at once. More are dropped.
pub const MAX_OPEN: usize = 32;
/// How often a question is sent at the most.
pub(super) const TRIES: usize = 4;
/// Between two of them.
pub(super) const SPACING: Duration = Duration::from_millis(250);
/// After the last one.
pub(super) const PATIENCE: Duration = Duration::from_millis(750);

/// An answer that was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The reflector that was asked.
    pub to: SocketAddr,
    /// How it was to answer.
    pub via: Via,
    /// Where the answer came from.
    pub from: SocketAddr,
    /// Where the question came from, as the reflector saw it.
    pub observed: SocketAddr,
    /// What else the reflector can answer from.
    pub other: Other,
    /// Round trip.
    pub rtt: Duration,
}

/// Asks, and asks again.
#[derive(Debug)]
pub struct Asker {
    rng: ChaCha20Rng,
    open: Vec<Open>,
    transmits: VecDeque<(SocketAddr, [u8; LEN])>,
    silent: VecDeque<(SocketAddr, Via)>,
}

#[derive(Debug)]
struct Open {
    to: SocketAddr,
    via: Via,
    /// Every copy has a number of its own, so that the round trip is that of the copy which was answered.
    sent: Vec<(TransactionId, Instant)>,
    next: Instant,
}

impl Open {
    /// May the answer come from there?
    fn expects(&self, from: SocketAddr) -> bool {
        match self.via {
            Via::Same => from == self.to,
            Via::OtherPort => from.ip() == self.to.ip() && from.port() != self.to.port(),
            Via::OtherAddress(_) => from.ip() != self.to.ip(),
        }
    }
}

impl Asker {
    /// One that has nothing to ask yet. The seed is random and used once.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            rng: ChaCha20Rng::from_seed(seed),
            open: Vec::new(),
            transmits: VecDeque::new(),
            silent: VecDeque::new(),
        }
    }

    /// Asks a reflector, unless it is being asked the same already or too much is under way.
    pub fn ask(&mut self, to: SocketAddr, via: Via, now: Instant) {
        let asked = self
            .open
            .iter()
            .any(|open| open.to == to && open.via == via);
        if !asked && self.open.len() < MAX_OPEN {
            self.open.push(Open {
                to,
                via,
                sent: Vec::with_capacity(TRIES),
                next: now,
            });
            self.handle_timeout(now);
        }
    }

    /// Reads a datagram. `None` unless it answers a question that is waiting, and comes from where it may.
    pub fn handle_datagram(
        &mut self,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Option<Answered> {
        let response = Response::decode(datagram)?;
        let (at, sent) = self.open.iter().enumerate().find_map(|(at, open)| {
            let copy = open.sent.iter().find(|(id, _)| *id == response.id)?;
            open.expects(from).then_some((at, copy.1))
        })?;
        let open = self.open.swap_remove(at);
        Some(Answered {
            to: open.to,
            via: open.via,
            from,
            observed: response.observed,
            other: response.other,
            rtt: now.saturating_duration_since(sent),
        })
    }

    /// Sends what is due, gives up what was asked often enough.
    pub fn handle_timeout(&mut self, now: Instant) {
        let (rng, transmits, silent) = (&mut self.rng, &mut self.transmits, &mut self.silent);
        self.open.retain_mut(|open| {
            if open.next > now {
                return true;
            }
            if open.sent.len() == TRIES {
                silent.push_back((open.to, open.via));
                return false;
            }
            let mut id = [0; 8];
            rng.fill_bytes(&mut id);
            open.sent.push((id, now));
            let last = open.sent.len() == TRIES;
            open.next = now + if last { PATIENCE } else { SPACING };
            transmits.push_back((open.to, Request { id, via: open.via }.encode()));
            true
        });
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.next).min()
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, [u8; LEN])> {
        self.transmits.pop_front()
    }

    /// A question that was given up.
    pub fn poll_silent(&mut self) -> Option<(SocketAddr, Via)> {
        self.silent.pop_front()
    }

    /// Waits for nothing any more.
    pub fn clear(&mut self) {
        self.open.clear();
        self.transmits.clear();
    }

    /// Is nothing under way?
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.open.is_empty()
    }
}
