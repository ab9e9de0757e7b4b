//! The birthday punch: a direct path between a symmetric NAT and one that lets in only what was sent to.
//!
//! The symmetric side has another port for each destination, which its peer cannot know. So it opens [`SOCKETS`] sockets, and
//! with them as many ports, towards the peer's one address, and says so over the relay. The peer then sends to ports of
//! the symmetric side's address at random until one of them is hit: with 256 of some 64,000 open, one guess in 250 is
//! right, and 1,200 guesses find one in 99 of 100 cases.
//!
//! The machine says when; the datagrams are pings of the session, so only the right peer can answer them. A member that
//! lies about where it is makes this node send at most [`GUESSES`] small datagrams in [`PAUSE`] to that address, and no more
//! than [`BURSTS`] allows over time.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use kanpachi_common::nat::{Mapping, NatBehaviour};

use super::{
    PathKind,
    budget::{Budget, Rate},
};

/// Sockets that the symmetric side opens.
pub const SOCKETS: u16 = 256;
/// Ports that the other side guesses in one go.
pub const GUESSES: u32 = 1200;
/// Between the beginnings of two such goes for one peer.
pub const PAUSE: Duration = Duration::from_secs(7);

/// How often this node guesses for one peer while nothing comes of it: as often as sockets are opened in the first minutes, and
/// then as rarely.
pub(crate) const BURSTS: Rate = Rate {
    most: 5,
    every: Duration::from_secs(300),
};
/// Guesses come in small groups: 200 a second.
const GROUP_EVERY: Duration = Duration::from_millis(20);
const GROUP: u32 = 4;
/// Time for whatever works without luck.
const FIRST: Duration = Duration::from_millis(1500);
/// When to try again what did not work.
const AGAIN: [Duration; 6] = [
    Duration::from_secs(4),
    Duration::from_secs(4),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
    Duration::from_secs(900),
];
/// Ports below are nobody's choice for a mapping.
const LOWEST_PORT: u64 = 1024;

/// What this node does for a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It is behind the symmetric NAT and opens sockets.
    Opens,
    /// It guesses ports.
    Guesses,
}

impl Part {
    /// The part of this node; `None` where luck does not help.
    ///
    /// A mapping that is not known counts as one that is the same for everybody: with one public server more cannot be
    /// known, most are, and a few datagrams in vain are no harm.
    #[must_use]
    pub fn of(own: &NatBehaviour, peer: &NatBehaviour) -> Option<Self> {
        if [own.mapping, peer.mapping].contains(&Mapping::Blocked) {
            return None;
        }
        match (own.is_symmetric(), peer.is_symmetric()) {
            (true, false) => Some(Self::Opens),
            (false, true) => Some(Self::Guesses),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
struct Guessing {
    hosts: Vec<IpAddr>,
    left: u32,
    group: u32,
    next: Instant,
}

/// One peer's punch.
#[derive(Clone, Debug, Default)]
pub struct Punch {
    part: Option<Part>,
    /// When sockets are opened next, and how often that was done since the last direct path.
    open_at: Option<Instant>,
    opened: usize,
    guessing: Option<Guessing>,
    guessed_at: Option<Instant>,
    /// Where it was guessed since there was all of [`BURSTS`], the first two, and what is left of that.
    guessed: Vec<IpAddr>,
    bursts: Budget,
    /// Sockets were opened again meanwhile, behind these addresses: guessed at as soon as there is time for more.
    waiting: Vec<IpAddr>,
}

impl Punch {
    /// What the NATs at both ends are may have become known.
    pub const fn set_part(&mut self, part: Option<Part>) {
        self.part = part;
    }

    /// Is a direct path still missing, while both ends talk over a relay? `true` when sockets are to be opened now, and
    /// the peer to be told.
    pub fn review(&mut self, missing: bool, now: Instant) -> bool {
        if !missing {
            (self.open_at, self.opened, self.guessing) = (None, 0, None);
            self.waiting.clear();
            return false;
        }
        if self.part != Some(Part::Opens) {
            self.open_at = None;
            return false;
        }
        let due = *self.open_at.get_or_insert(now + FIRST);
        if now < due {
            return false;
        }
        self.open_at = Some(now + AGAIN[self.opened.min(AGAIN.len() - 1)]);
        self.opened += 1;
        true
    }

    /// Has the peer opened sockets, and is this node to guess their ports?
    #[must_use]
    pub fn guesses(&self) -> bool {
        self.part == Some(Part::Guesses)
    }

    /// The peer has opened its sockets and is behind one of these addresses. `true` when guessing begins now; so soon after
    /// the last time it begins later.
    pub fn handle_opened(&mut self, hosts: impl IntoIterator<Item = IpAddr>, now: Instant) -> bool {
        if !self.guesses() {
            return false;
        }
        let mut hosts: Vec<IpAddr> = hosts.into_iter().collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts.truncate(2);
        // By the time that there is enough left again those sockets are closed.
        let next = self.bursts.next(BURSTS, now);
        if next.is_some_and(|at| at > now + PAUSE) {
            self.waiting.clear();
            return false;
        }
        self.waiting = hosts;
        self.begin_guessing(now)
    }

    /// The peer is there, behind this address, and data takes a path to it: what was guessed was no lie, if it was guessed
    /// nowhere else.
    pub fn handle_direct(&mut self, host: IpAddr) {
        if self.guessed == [host] {
            self.bursts.refill();
        }
    }

    /// When guessing at what waits may begin.
    fn guess_at(&self) -> Option<Instant> {
        let after = self.guessed_at.map(|at| at + PAUSE);
        (!self.waiting.is_empty()).then_some(after).flatten()
    }

    fn begin_guessing(&mut self, now: Instant) -> bool {
        if self.waiting.is_empty() || self.guess_at().is_some_and(|at| now < at) {
            return false;
        }
        let hosts = std::mem::take(&mut self.waiting);
        if self.bursts.is_full(now) {
            self.guessed.clear();
        }
        if !self.bursts.take(BURSTS, now) {
            return false;
        }
        self.guessed_at = Some(now);
        self.guessed.extend(&hosts);
        self.guessed.sort_unstable();
        self.guessed.dedup();
        self.guessed.truncate(2);
        self.guessing = Some(Guessing {
            hosts,
            left: GUESSES,
            group: GROUP,
            next: now,
        });
        true
    }

    /// Where the next guess goes, until `None`. `random` is any number.
    pub fn poll_guess(&mut self, now: Instant, random: impl FnOnce() -> u64) -> Option<SocketAddr> {
        self.begin_guessing(now);
        let guessing = self.guessing.as_mut().filter(|g| g.next <= now)?;
        if guessing.left == 0 {
            self.guessing = None;
            return None;
        }
        guessing.left -= 1;
        guessing.group -= 1;
        if guessing.group == 0 {
            guessing.group = GROUP;
            guessing.next = now + GROUP_EVERY;
        }
        let host = guessing.hosts[guessing.left as usize % guessing.hosts.len()];
        let port = LOWEST_PORT + random() % (u64::from(u16::MAX) + 1 - LOWEST_PORT);
        Some(SocketAddr::new(host, u16::try_from(port).ok()?))
    }

    /// When to look again.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let guess = self.guessing.as_ref().map(|g| g.next);
        [self.open_at, guess, self.guess_at()]
            .into_iter()
            .flatten()
            .min()
    }
}

/// The address of the peer that its NAT has for everybody, among those that are known. What others than a reflector saw of it
/// may be inside of some NAT, and is the last choice: the coordinator says it when no reflector has answered yet.
#[must_use]
pub fn public_address(
    candidates: impl IntoIterator<Item = (SocketAddr, PathKind)>,
) -> Option<SocketAddr> {
    let rank = |kind| match kind {
        PathKind::Reflexive => Some(0),
        PathKind::Mapped => Some(1),
        PathKind::Host => Some(2),
        PathKind::Observed => Some(3),
        PathKind::Relay => None,
    };
    let public = candidates.into_iter().filter_map(|(addr, kind)| {
        // What a reflector saw is outside of the NAT, wherever that is.
        let outside = match addr.ip() {
            IpAddr::V4(ip) => kind == PathKind::Reflexive || is_public(ip),
            IpAddr::V6(_) => false,
        };
        Some((rank(kind).filter(|_| outside)?, addr))
    });
    public.min().map(|(_, addr)| addr)
}

/// An address outside of what stays behind NATs (RFC 1918, 6598, 3927).
const fn is_public(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || (a == 100 && b & 0xc0 == 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use kanpachi_common::nat::Filtering;

    use super::*;

    const fn nat(mapping: Mapping) -> NatBehaviour {
        NatBehaviour {
            mapping,
            filtering: Filtering::AddressAndPortDependent,
        }
    }

    fn host() -> IpAddr {
        Ipv4Addr::new(203, 0, 113, 9).into()
    }

    #[test]
    fn exactly_one_symmetric_side_opens_and_the_other_guesses() {
        let (hard, easy) = (
            nat(Mapping::AddressAndPortDependent),
            nat(Mapping::EndpointIndependent),
        );
        assert_eq!(Part::of(&hard, &easy), Some(Part::Opens));
        assert_eq!(Part::of(&easy, &hard), Some(Part::Guesses));
        assert_eq!(Part::of(&hard, &hard), None);
        assert_eq!(Part::of(&easy, &easy), None);
        assert_eq!(Part::of(&nat(Mapping::Unknown), &hard), Some(Part::Guesses));
        assert_eq!(Part::of(&nat(Mapping::Unknown), &easy), None);
        assert_eq!(Part::of(&hard, &nat(Mapping::Blocked)), None);
    }

    #[test]
    fn sockets_are_opened_when_nothing_else_worked_and_ever_more_rarely() {
        let (mut punch, start) = (Punch::default(), Instant::now());
        punch.set_part(Some(Part::Opens));
        assert!(!punch.review(true, start), "not at once");
        let mut times = Vec::new();
        let mut now = start;
        while now < start + Duration::from_secs(3000) {
            now = punch.poll_timeout().unwrap();
            if punch.review(true, now) {
                times.push((now - start).as_millis());
            }
        }
        assert_eq!(
            times,
            [
                1500, 5500, 9500, 24_500, 84_500, 384_500, 1_284_500, 2_184_500, 3_084_500
            ]
        );
        assert!(!punch.review(false, now), "there is a direct path");
        assert_eq!(punch.poll_timeout(), None);
        assert!(!punch.review(true, now));
        assert!(punch.review(true, now + FIRST), "it begins anew");
    }

    #[test]
    fn guesses_are_paced_bounded_and_spread_over_the_ports() {
        let (mut punch, start) = (Punch::default(), Instant::now());
        punch.set_part(Some(Part::Guesses));
        assert!(punch.handle_opened([host(), host()], start));
        let (mut now, mut ports, mut seed) = (start, BTreeSet::new(), 1_u64);
        let mut sent = 0;
        while let Some(at) = punch.poll_timeout() {
            now = at;
            while let Some(to) = punch.poll_guess(now, || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed >> 33
            }) {
                assert!(to.ip() == host() && to.port() >= 1024);
                ports.insert(to.port());
                sent += 1;
            }
        }
        assert_eq!(sent, GUESSES);
        assert!(ports.len() > 1100, "{}", ports.len());
        let took = now - start;
        assert!((5000..7000).contains(&took.as_millis()), "{took:?}");
        // However often it is asked, and again as soon as it may be.
        let early = start + PAUSE - Duration::from_millis(1);
        for _ in 0..10 {
            assert!(!punch.handle_opened([host()], early));
        }
        assert_eq!(punch.poll_guess(early, || 0), None);
        assert_eq!(punch.poll_timeout(), Some(start + PAUSE));
        assert!(punch.poll_guess(start + PAUSE, || 0).is_some());
        assert!(!punch.handle_opened([host()], start + PAUSE));
        punch.review(false, start + PAUSE);
        assert_eq!(punch.poll_timeout(), None);
    }

    /// Guesses in an hour in which the peer says every second that it has opened sockets.
    fn lured(punch: &mut Punch, start: Instant, mut each: impl FnMut(&mut Punch)) -> u32 {
        let mut sent = 0;
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            punch.handle_opened([host()], now);
            for group in 0..50 {
                let now = now + GROUP_EVERY * group;
                while punch.poll_guess(now, || 7).is_some() {
                    sent += 1;
                }
            }
            each(punch);
        }
        sent
    }

    #[test]
    fn nobody_is_guessed_at_for_ever_on_the_word_of_a_peer() {
        let (mut punch, start) = (Punch::default(), Instant::now());
        punch.set_part(Some(Part::Guesses));
        let hour = Duration::from_secs(3600);
        assert_eq!(lured(&mut punch, start, |_| {}), 16 * GUESSES);
        assert_eq!(lured(&mut punch, start + hour, |_| {}), 12 * GUESSES);
        // Direct paths elsewhere, and new facts about the NATs, do not change that.
        let other = IpAddr::from([203, 0, 113, 10]);
        let sent = lured(&mut punch, start + hour * 2, |punch| {
            punch.handle_direct(other);
            for part in [None, Some(Part::Guesses)] {
                punch.set_part(part);
            }
        });
        assert_eq!(sent, 12 * GUESSES);
    }

    #[test]
    fn who_is_met_at_one_address_pays_not_for_guesses_at_another() {
        let (mut punch, start) = (Punch::default(), Instant::now());
        punch.set_part(Some(Part::Guesses));
        let (own, mut at_host) = (IpAddr::from([203, 0, 113, 10]), 0);
        for second in 0..3600_u64 {
            let now = start + Duration::from_secs(second);
            // Mostly it says that it is where somebody else is, and then meets this node where it is itself.
            let said = if second / 35 % 2 == 0 { host() } else { own };
            punch.handle_opened([said], now);
            for group in 0..50 {
                while let Some(to) = punch.poll_guess(now + GROUP_EVERY * group, || 7) {
                    at_host += u32::from(to.ip() == host());
                }
            }
            if said == own {
                punch.handle_direct(own);
            }
        }
        assert!(at_host <= 16 * GUESSES, "{at_host}");
    }

    #[test]
    fn a_peer_that_was_met_may_start_again_as_often_as_it_likes() {
        let (mut punch, mut now) = (Punch::default(), Instant::now());
        punch.set_part(Some(Part::Guesses));
        for _ in 0..20 {
            assert!(punch.handle_opened([host()], now));
            punch.handle_direct(host());
            punch.review(false, now);
            now += Duration::from_secs(10);
        }
    }

    #[test]
    fn sockets_opened_as_often_as_they_are_meet_a_guesser_and_so_does_a_new_start() {
        let (mut guesses, start) = (Punch::default(), Instant::now());
        guesses.set_part(Some(Part::Guesses));
        let mut now = start;
        for round in 0..4 {
            let mut opens = Punch::default();
            opens.set_part(Some(Part::Opens));
            opens.review(true, now);
            let (begin, mut met) = (now, 0);
            while now < begin + Duration::from_secs(1300) {
                now = opens.poll_timeout().unwrap();
                if opens.review(true, now) {
                    let at_once = guesses.handle_opened([host()], now);
                    let soon = guesses.poll_timeout().filter(|at| *at <= now + PAUSE);
                    met += u32::from(at_once || soon.is_some());
                    let later = now + PAUSE;
                    for tenth in 0..70 {
                        let at = now + Duration::from_millis(100) * tenth;
                        while guesses.poll_guess(at, || 7).is_some() {}
                    }
                    while guesses.poll_guess(later, || 7).is_some() {}
                }
            }
            assert!(met >= 6, "{met} in round {round}");
            guesses.handle_direct(host());
        }
    }

    #[test]
    fn a_side_without_that_part_does_nothing() {
        let (mut punch, now) = (Punch::default(), Instant::now());
        assert!(!punch.handle_opened([host()], now) && !punch.review(true, now));
        punch.set_part(Some(Part::Opens));
        assert!(!punch.handle_opened([host()], now));
        punch.set_part(Some(Part::Guesses));
        assert!(!punch.review(true, now + Duration::from_secs(60)));
        assert!(!punch.handle_opened([], now));
        assert_eq!(punch.poll_timeout(), None);
    }

    #[test]
    fn the_public_address_is_what_a_reflector_saw_if_there_is_one() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let host = (at("192.168.1.2:12976"), PathKind::Host);
        let carrier = (at("100.64.3.4:5"), PathKind::Host);
        let seen = (at("203.0.113.7:4000"), PathKind::Reflexive);
        let six = (at("[2001:db8::7]:1"), PathKind::Host);
        let open = (at("198.51.100.1:12976"), PathKind::Host);
        assert_eq!(public_address([host, carrier, six]), None);
        assert_eq!(public_address([host, open, seen]), Some(seen.0));
        assert_eq!(public_address([host, open]), Some(open.0));
        let noticed = (at("203.0.113.7:4001"), PathKind::Observed);
        let inside = (at("100.64.3.4:4001"), PathKind::Observed);
        assert_eq!(public_address([noticed, seen]), Some(seen.0));
        assert_eq!(public_address([inside, noticed, host]), Some(noticed.0));
        assert_eq!(public_address([inside, host]), None);
    }
}
