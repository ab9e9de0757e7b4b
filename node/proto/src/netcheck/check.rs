//! One check of one address family.
//!
//! 1. Reflectors are asked one after the other until one answers. Only that one has been sent to: whatever comes from
//!    elsewhere was let in by the NAT for its own sake.
//! 2. It is asked to answer from its other port and from another address: what arrives tells the filtering.
//! 3. All others are asked, and the other port: what they see tells the mapping. The second socket learns its own
//!    public address, and the two send to each other's: what arrives tells whether the NAT hairpins.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{
    NatBehaviour,
    nat::{Filtering, Mapping},
    wire::reflect::{LEN, Other, Request, TransactionId, Via},
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::asker::{Answered, Asker};

/// Reflectors asked at the most.
const MAX_REFLECTORS: usize = 8;
/// Times that the sockets send to each other's public address.
const HAIRPINS: u8 = 3;
/// Between two of these, and after the last.
const HAIRPIN_SPACING: Duration = Duration::from_millis(200);

/// One of the two sockets of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The one that is looked at.
    Main,
    /// The one that helps to find out about hairpinning.
    Second,
}

/// A datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// On which socket.
    pub socket: Which,
    /// Where to.
    pub to: SocketAddr,
    /// What.
    pub data: [u8; LEN],
}

/// A reflector that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its address.
    pub reflector: SocketAddr,
    /// Round trip; `None` without an answer.
    pub rtt: Option<Duration>,
}

/// What was found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// The public address of the socket that was looked at.
    pub public: Option<SocketAddr>,
    /// Is it another one than the socket has on this machine?
    pub translated: Option<bool>,
    /// Mapping and filtering.
    pub nat: NatBehaviour,
    /// Could an answer have come from another address? Without, filtering by address and no filtering look the same,
    /// and count as filtering by address.
    pub exact_filtering: bool,
    /// Is the public port that of the socket?
    pub port_preserved: Option<bool>,
    /// Does the NAT take packets from inside to the public address? `None` without a NAT.
    pub hairpin: Option<bool>,
    /// The reflectors, as they were asked.
    pub reflectors: Vec<Reached>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Asking the reflector with this number.
    Reaching(usize),
    Filtering,
    Mapping,
    Done,
}

#[derive(Debug)]
struct Hairpin {
    id: TransactionId,
    /// Public addresses of main and second socket.
    public: [SocketAddr; 2],
    left: u8,
    next: Instant,
}

/// A check under way.
#[derive(Debug)]
pub struct Check {
    reflectors: Vec<SocketAddr>,
    /// Where the main socket is on this machine.
    local: SocketAddr,
    main: Asker,
    second: Asker,
    rng: ChaCha20Rng,
    stage: Stage,
    home: Option<Answered>,
    /// What each asked address sees of the main socket.
    seen: Vec<(SocketAddr, SocketAddr)>,
    from_other_port: bool,
    from_other_address: bool,
    hairpin: Option<Hairpin>,
    hairpin_due: Vec<Transmit>,
    outcome: Outcome,
}

impl Check {
    /// Starts. The reflectors are of one family and none of them is on this machine; `local` is the address that this
    /// machine has towards the first of them, with the port of the main socket. The seed is random and used once.
    #[must_use]
    pub fn new(reflectors: &[SocketAddr], local: SocketAddr, seed: [u8; 32], now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let mut asker = || {
            let mut seed = [0; 32];
            rng.fill_bytes(&mut seed);
            Asker::new(seed)
        };
        let (main, second) = (asker(), asker());
        let mut check = Self {
            reflectors: reflectors.iter().copied().take(MAX_REFLECTORS).collect(),
            local,
            main,
            second,
            rng,
            stage: Stage::Reaching(0),
            home: None,
            seen: Vec::new(),
            from_other_port: false,
            from_other_address: false,
            hairpin: None,
            hairpin_due: Vec::new(),
            outcome: Outcome::default(),
        };
        check.reach(0, now);
        check
    }

    /// What was found out, once that is over.
    #[must_use]
    pub fn outcome(&self) -> Option<&Outcome> {
        (self.stage == Stage::Done).then_some(&self.outcome)
    }

    /// A datagram came in.
    pub fn handle_datagram(
        &mut self,
        socket: Which,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        if let Some(hairpin) = &self.hairpin
            && Request::decode(datagram).is_some_and(|request| request.id == hairpin.id)
        {
            self.outcome.hairpin = Some(true);
            self.hairpin = None;
        }
        match socket {
            Which::Main => {
                if let Some(answered) = self.main.handle_datagram(from, datagram, now) {
                    self.note(answered, now);
                }
            }
            Which::Second => {
                if let Some(answered) = self.second.handle_datagram(from, datagram, now) {
                    self.note_second(answered.observed, now);
                }
            }
        }
        self.advance(now);
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.main.handle_timeout(now);
        self.second.handle_timeout(now);
        if let Some(hairpin) = &mut self.hairpin
            && hairpin.next <= now
        {
            if hairpin.left == 0 {
                self.hairpin = None;
            } else {
                hairpin.left -= 1;
                hairpin.next = now + HAIRPIN_SPACING;
                let data = Request {
                    id: hairpin.id,
                    via: Via::Same,
                };
                let [main, second] = hairpin.public;
                for (socket, to) in [(Which::Main, second), (Which::Second, main)] {
                    let data = data.encode();
                    self.hairpin_due.push(Transmit { socket, to, data });
                }
            }
        }
        self.advance(now);
    }

    /// When to call [`Self::handle_timeout`]. `None` when it is over.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let hairpin = self.hairpin.as_ref().map(|h| h.next);
        let all = [
            self.main.poll_timeout(),
            self.second.poll_timeout(),
            hairpin,
        ];
        all.into_iter().flatten().min()
    }

    /// A datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        if let Some(transmit) = self.hairpin_due.pop() {
            return Some(transmit);
        }
        let main = self.main.poll_transmit().map(|t| (Which::Main, t));
        let any = main.or_else(|| self.second.poll_transmit().map(|t| (Which::Second, t)));
        any.map(|(socket, (to, data))| Transmit { socket, to, data })
    }

    fn reach(&mut self, at: usize, now: Instant) {
        match self.reflectors.get(at) {
            Some(reflector) => {
                self.stage = Stage::Reaching(at);
                self.main.ask(*reflector, Via::Same, now);
            }
            None => self.finish(),
        }
    }

    fn note(&mut self, answered: Answered, now: Instant) {
        match answered.via {
            Via::OtherPort => self.from_other_port = true,
            Via::OtherAddress(_) => self.from_other_address = true,
            Via::Same => {
                self.seen.push((answered.to, answered.observed));
                if self.reflectors.contains(&answered.to) {
                    self.reached(answered.to, Some(answered.rtt));
                }
                if self.home.is_none() {
                    self.home = Some(answered);
                    self.begin_filtering(&answered, now);
                }
            }
        }
    }

    fn reached(&mut self, reflector: SocketAddr, rtt: Option<Duration>) {
        self.outcome.reflectors.push(Reached { reflector, rtt });
    }

    fn begin_filtering(&mut self, home: &Answered, now: Instant) {
        self.stage = Stage::Filtering;
        if home.other.port.is_some() {
            self.main.ask(home.to, Via::OtherPort, now);
        }
        if home.other.address {
            self.main.ask(home.to, Via::OtherAddress(home.to.ip()), now);
        }
    }

    fn begin_mapping(&mut self, home: &Answered, now: Instant) {
        self.stage = Stage::Mapping;
        let asked: Vec<SocketAddr> = self
            .outcome
            .reflectors
            .iter()
            .map(|r| r.reflector)
            .collect();
        let rest = self.reflectors.iter().filter(|r| !asked.contains(r));
        for reflector in rest {
            self.main.ask(*reflector, Via::Same, now);
        }
        if let Some(port) = home.other.port {
            let there = SocketAddr::new(home.to.ip(), port);
            self.main.ask(there, Via::Same, now);
        }
        if home.observed != self.local {
            self.outcome.hairpin = Some(false);
            self.second.ask(home.to, Via::Same, now);
        }
    }

    /// The second socket knows where it is.
    fn note_second(&mut self, public: SocketAddr, now: Instant) {
        let Some(home) = self.home else { return };
        let mut id = [0; 8];
        self.rng.fill_bytes(&mut id);
        self.hairpin = Some(Hairpin {
            id,
            public: [home.observed, public],
            left: HAIRPINS,
            next: now,
        });
        self.handle_timeout(now);
    }

    /// Goes on to the next stage when nothing of this one is waited for any more.
    fn advance(&mut self, now: Instant) {
        while let Some((to, via)) = self.main.poll_silent() {
            if via == Via::Same && self.reflectors.contains(&to) {
                self.reached(to, None);
            }
        }
        while self.second.poll_silent().is_some() {}
        if !self.main.is_idle() || !self.second.is_idle() || self.hairpin.is_some() {
            return;
        }
        match (self.stage, self.home) {
            (Stage::Reaching(at), None) => self.reach(at + 1, now),
            (Stage::Filtering, Some(home)) => {
                self.begin_mapping(&home, now);
                if self.poll_timeout().is_none() {
                    self.finish();
                }
            }
            (Stage::Mapping, _) => self.finish(),
            _ => {}
        }
    }

    fn finish(&mut self) {
        self.stage = Stage::Done;
        let Some(home) = &self.home else {
            // Nobody to ask is no news of the network.
            if !self.reflectors.is_empty() {
                self.outcome.nat.mapping = Mapping::Blocked;
            }
            return;
        };
        let shown = translated(self.local, &self.seen);
        let public = shown
            .first()
            .map_or(home.observed, |(_, observed)| *observed);
        let is_translated = public != self.local;
        self.outcome.public = Some(public);
        self.outcome.translated = Some(is_translated);
        self.outcome.port_preserved = is_translated.then(|| public.port() == self.local.port());
        self.outcome.nat = NatBehaviour {
            mapping: mapping(self.local, &shown),
            filtering: self.filtering(&home.other),
        };
        self.outcome.exact_filtering = home.other.address;
    }

    fn filtering(&self, other: &Other) -> Filtering {
        if self.from_other_address {
            Filtering::EndpointIndependent
        } else if self.from_other_port {
            Filtering::AddressDependent
        } else if other.port.is_some() {
            Filtering::AddressAndPortDependent
        } else {
            Filtering::Unknown
        }
    }
}

/// The answers that count: where there is a NAT on the way to some reflectors, those on this side of it say nothing.
fn translated(
    local: SocketAddr,
    seen: &[(SocketAddr, SocketAddr)],
) -> Vec<(SocketAddr, SocketAddr)> {
    let outside = seen.iter().filter(|(_, observed)| *observed != local);
    let outside: Vec<_> = outside.copied().collect();
    if outside.is_empty() {
        seen.to_vec()
    } else {
        outside
    }
}

/// The mapping, from what each address that was sent to sees.
fn mapping(local: SocketAddr, seen: &[(SocketAddr, SocketAddr)]) -> Mapping {
    let pairs = |same_address: bool| {
        seen.iter()
            .enumerate()
            .flat_map(move |(at, (to, observed))| {
                seen[..at]
                    .iter()
                    .filter(move |(other, _)| (other.ip() == to.ip()) == same_address)
                    .map(move |(_, before)| before == observed)
            })
    };
    if pairs(true).any(|same| !same) {
        return Mapping::AddressAndPortDependent;
    }
    if pairs(false).any(|same| !same) {
        // Without a second port it may be either; most that differ at all go by the port too.
        return match pairs(true).next() {
            Some(_) => Mapping::AddressDependent,
            None => Mapping::AddressAndPortDependent,
        };
    }
    let untranslated = seen.iter().all(|(_, observed)| *observed == local);
    if untranslated || pairs(false).next().is_some() {
        Mapping::EndpointIndependent
    } else {
        Mapping::Unknown
    }
}
