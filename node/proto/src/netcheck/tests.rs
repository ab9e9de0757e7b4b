//! Checks through NATs of every kind, over a network that loses, with reflectors of one and of several addresses.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use kanpachi_common::{
    nat::{Filtering, Mapping},
    wire::reflect::{Other, Request, Response, Via},
};
use proptest::prelude::*;

use super::*;

const INSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 7, 2));
const OUTSIDE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));
const HOMES: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)),
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 2)),
];
const ANOTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 3));
const PORT: u16 = 12975;
const OTHER_PORT: u16 = 12977;
const DELAY: Duration = Duration::from_millis(20);

/// A NAT in front of the two sockets, and reflectors beyond it.
#[derive(Debug)]
struct World {
    mapping: Option<Mapping>,
    filtering: Filtering,
    hairpins: bool,
    preserves: bool,
    /// Reflectors with an address of their own.
    homes: usize,
    other_port: bool,
    other_address: bool,
    /// Every so many-th datagram is lost; 0 for none.
    lossy: u32,
    count: u32,
    /// Public port by socket and by what the mapping goes by.
    ports: BTreeMap<(u16, Option<IpAddr>, u16), u16>,
    /// Sent to, by public port.
    sent: Vec<(u16, SocketAddr)>,
}

impl World {
    fn new(mapping: Option<Mapping>, filtering: Filtering) -> Self {
        Self {
            mapping,
            filtering,
            hairpins: false,
            preserves: false,
            homes: 2,
            other_port: true,
            other_address: true,
            lossy: 0,
            count: 0,
            ports: BTreeMap::new(),
            sent: Vec::new(),
        }
    }

    fn lost(&mut self) -> bool {
        self.count += 1;
        self.lossy > 0 && self.count.is_multiple_of(self.lossy)
    }

    /// The public address of a socket towards a destination.
    fn public(&mut self, local: u16, to: SocketAddr) -> SocketAddr {
        let key = match self.mapping {
            None => return SocketAddr::new(INSIDE, local),
            Some(Mapping::AddressDependent) => (local, Some(to.ip()), 0),
            Some(Mapping::AddressAndPortDependent) => (local, Some(to.ip()), to.port()),
            Some(_) => (local, None, 0),
        };
        let (fresh, taken) = (40_000 + self.ports.len() as u16, self.ports.values());
        let free = !taken.copied().any(|p| p == local);
        let port = if self.preserves && free { local } else { fresh };
        SocketAddr::new(OUTSIDE, *self.ports.entry(key).or_insert(port))
    }

    fn lets_in(&self, public: u16, from: SocketAddr) -> bool {
        self.sent.iter().any(|(port, to)| {
            *port == public
                && match self.filtering {
                    Filtering::AddressDependent => to.ip() == from.ip(),
                    Filtering::AddressAndPortDependent => *to == from,
                    _ => true,
                }
        })
    }

    /// A datagram leaves a socket; says what comes back: on which local port, from where, what.
    fn carry(
        &mut self,
        local: u16,
        to: SocketAddr,
        data: &[u8],
    ) -> Option<(u16, SocketAddr, Vec<u8>)> {
        let public = self.public(local, to);
        self.sent.push((public.port(), to));
        if self.mapping.is_some() && to.ip() == OUTSIDE {
            let target = self.ports.iter().find(|(_, port)| **port == to.port());
            let target = target.map(|((local, ..), _)| *local)?;
            let through = self.hairpins && self.lets_in(to.port(), public);
            return (through && !self.lost()).then(|| (target, public, data.to_vec()));
        }
        let asked = HOMES[..self.homes].contains(&to.ip())
            && (to.port() == PORT || self.other_port && to.port() == OTHER_PORT);
        let request = Request::decode(data).filter(|_| asked)?;
        let from = match request.via {
            Via::Same => to,
            Via::OtherPort => SocketAddr::new(to.ip(), OTHER_PORT),
            Via::OtherAddress(_) => SocketAddr::new(ANOTHER, 5),
        };
        let response = Response {
            id: request.id,
            observed: public,
            other: Other {
                port: self.other_port.then_some(OTHER_PORT),
                address: self.other_address,
            },
        };
        let back = self.lets_in(public.port(), from) && !self.lost();
        back.then(|| (local, from, response.encode().to_vec()))
    }

    /// Runs one check to its end; says how long it took.
    fn check(&mut self) -> (Outcome, Duration) {
        let start = Instant::now();
        let reflectors = HOMES.map(|ip| SocketAddr::new(ip, PORT));
        let local = SocketAddr::new(INSIDE, 1000);
        let mut check = Check::new(&reflectors, local, [7; 32], start);
        let (mut now, mut flying) = (start, Vec::new());
        loop {
            while let Some(sent) = check.poll_transmit() {
                let local = if sent.socket == Which::Main {
                    1000
                } else {
                    2000
                };
                if let Some(arrives) = self.carry(local, sent.to, &sent.data) {
                    flying.push((now + DELAY, arrives));
                }
            }
            if let Some(outcome) = check.outcome() {
                assert_eq!(check.poll_timeout(), None);
                return (outcome.clone(), now - start);
            }
            let arrival = flying.first().map(|(at, _)| *at);
            now = [arrival, check.poll_timeout()]
                .into_iter()
                .flatten()
                .min()
                .expect("it goes on");
            if arrival == Some(now) {
                let (_, (local, from, data)) = flying.remove(0);
                let socket = if local == 1000 {
                    Which::Main
                } else {
                    Which::Second
                };
                check.handle_datagram(socket, from, &data, now);
            } else {
                check.handle_timeout(now);
            }
            assert!(now - start < Duration::from_secs(30), "it ends");
        }
    }
}

fn mappings() -> impl Strategy<Value = Mapping> {
    prop_oneof![
        Just(Mapping::EndpointIndependent),
        Just(Mapping::AddressDependent),
        Just(Mapping::AddressAndPortDependent),
    ]
}

fn filterings() -> impl Strategy<Value = Filtering> {
    prop_oneof![
        Just(Filtering::EndpointIndependent),
        Just(Filtering::AddressDependent),
        Just(Filtering::AddressAndPortDependent),
    ]
}

proptest! {
    #[test]
    fn every_kind_of_nat_is_told_for_what_it_is(
        mapping in mappings(), filtering in filterings(), hairpins: bool, preserves: bool,
        other_address: bool, lossy in prop_oneof![Just(0_u32), 3_u32..9],
    ) {
        let mut world = World { hairpins, preserves, other_address, lossy, ..World::new(Some(mapping), filtering) };
        let (outcome, took) = world.check();
        prop_assert_eq!(outcome.nat.mapping, mapping);
        let expected = match filtering {
            Filtering::EndpointIndependent if !other_address => Filtering::AddressDependent,
            filtering => filtering,
        };
        prop_assert_eq!(outcome.nat.filtering, expected);
        prop_assert_eq!(outcome.exact_filtering, other_address);
        prop_assert_eq!(outcome.translated, Some(true));
        prop_assert_eq!(outcome.public.map(|a| a.ip()), Some(OUTSIDE));
        prop_assert_eq!(outcome.port_preserved, Some(preserves));
        // A symmetric NAT has no port for the other socket to send to that lets it in, unless it lets in everybody.
        if mapping == Mapping::EndpointIndependent || !hairpins {
            prop_assert_eq!(outcome.hairpin, Some(hairpins));
        }
        prop_assert!(outcome.reflectors.iter().all(|r| r.rtt == Some(DELAY)));
        prop_assert!(took < Duration::from_secs(6), "{:?}", took);
    }

    #[test]
    fn one_address_tells_what_it_can_and_no_more(mapping in mappings(), filtering in filterings()) {
        let mut world = World { homes: 1, other_address: false, ..World::new(Some(mapping), filtering) };
        let (outcome, _) = world.check();
        let expected = match mapping {
            Mapping::AddressAndPortDependent => mapping,
            _ => Mapping::Unknown,
        };
        prop_assert_eq!(outcome.nat.mapping, expected);
        let silent = outcome.reflectors.iter().filter(|r| r.rtt.is_none()).count();
        prop_assert_eq!((outcome.reflectors.len(), silent), (2, 1));
    }

    #[test]
    fn arbitrary_datagrams_change_nothing(
        datagrams in prop::collection::vec((any::<bool>(), any::<u16>(), prop::collection::vec(any::<u8>(), 0..64)), 0..20),
    ) {
        let start = Instant::now();
        let home = SocketAddr::new(HOMES[0], PORT);
        let mut check = Check::new(&[home], SocketAddr::new(INSIDE, 1), [7; 32], start);
        for (main, port, data) in datagrams {
            let socket = if main { Which::Main } else { Which::Second };
            check.handle_datagram(socket, SocketAddr::new(HOMES[0], port), &data, start);
        }
        while let Some(at) = check.poll_timeout() {
            check.handle_timeout(at);
        }
        prop_assert_eq!(check.outcome().map(|o| o.nat.mapping), Some(Mapping::Blocked));
    }
}

#[test]
fn without_a_nat_there_is_nothing_to_hairpin_and_a_firewall_still_filters() {
    for filtering in [
        Filtering::EndpointIndependent,
        Filtering::AddressAndPortDependent,
    ] {
        let (outcome, _) = World::new(None, filtering).check();
        assert_eq!(outcome.nat.mapping, Mapping::EndpointIndependent);
        assert_eq!(outcome.nat.filtering, filtering);
        assert_eq!((outcome.translated, outcome.hairpin), (Some(false), None));
    }
}

#[test]
fn without_a_second_port_nothing_is_said_of_filtering() {
    let mut world = World {
        other_port: false,
        other_address: false,
        ..World::new(
            Some(Mapping::EndpointIndependent),
            Filtering::AddressAndPortDependent,
        )
    };
    let (outcome, _) = world.check();
    assert_eq!(outcome.nat.filtering, Filtering::Unknown);
    assert_eq!(outcome.nat.mapping, Mapping::EndpointIndependent);
}

#[test]
fn a_network_without_udp_is_called_so_and_one_without_reflectors_is_not() {
    let mut world = World {
        homes: 0,
        ..World::new(None, Filtering::Unknown)
    };
    let (outcome, took) = world.check();
    assert_eq!(outcome.nat.mapping, Mapping::Blocked);
    assert_eq!(outcome.public, None);
    assert!(took < Duration::from_secs(5), "{took:?}");
    let now = Instant::now();
    let check = Check::new(&[], SocketAddr::new(INSIDE, 1), [7; 32], now);
    assert_eq!(check.outcome(), Some(&Outcome::default()));
}

#[test]
fn an_answer_counts_once_from_where_it_may_come_and_with_its_number() {
    let now = Instant::now();
    let home = SocketAddr::new(HOMES[0], PORT);
    let mut asker = Asker::new([7; 32]);
    asker.ask(home, Via::Same, now);
    asker.ask(home, Via::Same, now);
    let (to, request) = asker.poll_transmit().unwrap();
    assert_eq!((to, asker.poll_transmit()), (home, None));
    let response = Response {
        id: Request::decode(&request).unwrap().id,
        observed: SocketAddr::new(OUTSIDE, 4000),
        other: Other::default(),
    };
    let forged = Response {
        id: [0; 8],
        ..response
    };
    assert_eq!(asker.handle_datagram(home, &forged.encode(), now), None);
    let elsewhere = SocketAddr::new(HOMES[1], PORT);
    let bytes = response.encode();
    assert_eq!(asker.handle_datagram(elsewhere, &bytes, now), None);
    assert!(asker.handle_datagram(home, &bytes, now).is_some());
    assert_eq!(asker.handle_datagram(home, &bytes, now), None);
    assert!(asker.is_idle());
    for port in 0..100 {
        asker.ask(SocketAddr::new(HOMES[0], port), Via::Same, now);
    }
    assert_eq!(
        std::iter::from_fn(|| asker.poll_transmit()).count(),
        MAX_OPEN
    );
}
