//! Routers that speak one, both or neither, forget, and lie.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::*;

const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 2);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const WANTED: [Wanted; 2] = [
    Wanted {
        protocol: Protocol::Udp,
        port: 12976,
    },
    Wanted {
        protocol: Protocol::Tcp,
        port: 12976,
    },
];

/// A router that answers at once.
#[derive(Debug)]
struct Router {
    pcp: bool,
    pmp: bool,
    public: Ipv4Addr,
    lifetime: u32,
    started: Instant,
    /// By protocol number and port; the port outside.
    mapped: BTreeMap<(u8, u16), u16>,
    asked: usize,
}

impl Router {
    fn new(pcp: bool, pmp: bool, started: Instant) -> Self {
        Self {
            pcp,
            pmp,
            public: PUBLIC,
            lifetime: LIFETIME,
            started,
            mapped: BTreeMap::new(),
            asked: 0,
        }
    }

    fn grant(&mut self, protocol: u8, port: [u8; 2], wanted: u32) -> ([u8; 2], u32) {
        let key = (protocol, u16::from_be_bytes(port));
        if wanted == 0 {
            self.mapped.remove(&key);
            return ([0; 2], 0);
        }
        let external = 40_000 + u16::from(protocol);
        self.mapped.insert(key, external);
        (external.to_be_bytes(), self.lifetime)
    }

    fn answer(&mut self, data: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.asked += 1;
        let epoch = (now - self.started).as_secs() as u32;
        let word = |from: usize| u32::from_be_bytes(data[from..from + 4].try_into().unwrap());
        match (data[0], data[1]) {
            (2, 1) if self.pcp => {
                let mut out = data.to_vec();
                let (port, lifetime) = self.grant(data[36], [data[40], data[41]], word(4));
                out[1] = 0x81;
                out[4..8].copy_from_slice(&lifetime.to_be_bytes());
                out[8..12].copy_from_slice(&epoch.to_be_bytes());
                out[12..24].fill(0);
                out[42..44].copy_from_slice(&port);
                out[44..60].copy_from_slice(&self.public.to_ipv6_mapped().octets());
                Some(out)
            }
            (2, _) if self.pmp => Some(vec![0, 128, 0, 1, 0, 0, 0, 0]),
            (0, 0) if self.pmp => {
                let mut out = vec![0, 128, 0, 0];
                out.extend(epoch.to_be_bytes());
                out.extend(self.public.octets());
                Some(out)
            }
            (0, op @ 1..=2) if self.pmp => {
                let protocol = if op == 1 { 17 } else { 6 };
                let (port, lifetime) = self.grant(protocol, [data[4], data[5]], word(8));
                let mut out = vec![0, 128 + op, 0, 0];
                out.extend(epoch.to_be_bytes());
                out.extend([data[4], data[5]]);
                out.extend(port);
                out.extend(lifetime.to_be_bytes());
                Some(out)
            }
            _ => None,
        }
    }
}

/// Runs both for a while.
fn run(mapper: &mut Mapper, router: &mut Router, now: &mut Instant, time: Duration) {
    let until = *now + time;
    loop {
        while let Some(data) = mapper.poll_transmit() {
            if let Some(answer) = router.answer(&data, *now) {
                mapper.handle_datagram(&answer, *now);
            }
        }
        match mapper.poll_timeout().filter(|at| *at <= until) {
            Some(at) => {
                *now = at;
                mapper.handle_timeout(at);
            }
            None => break,
        }
    }
    *now = until;
}

fn external(protocol: u16) -> SocketAddrV4 {
    SocketAddrV4::new(PUBLIC, 40_000 + protocol)
}

fn found(mapper: &Mapper) -> Vec<SocketAddrV4> {
    mapper.mappings().map(|mapping| mapping.external).collect()
}

#[test]
fn a_router_that_speaks_either_forwards_both_ports_until_they_are_given_back() {
    for (pcp, pmp) in [(true, true), (true, false), (false, true)] {
        let start = Instant::now();
        let mut now = start;
        let mut router = Router::new(pcp, pmp, start);
        let mut mapper = Mapper::new(CLIENT, &WANTED, [7; 32], now);
        run(&mut mapper, &mut router, &mut now, Duration::from_secs(3));
        assert_eq!(found(&mapper), [external(17), external(6)], "{pcp} {pmp}");
        assert!(mapper.poll_changed() && !mapper.poll_changed());
        let (offers, asked) = (mapper.offers(), router.asked);
        assert_eq!(
            (offers.pcp, offers.nat_pmp.unwrap_or(pmp)),
            (Some(pcp), pmp)
        );
        // Renewed twice in two lifetimes and never lost.
        run(
            &mut mapper,
            &mut router,
            &mut now,
            Duration::from_secs(14_000),
        );
        assert_eq!(found(&mapper).len(), 2);
        assert!(router.asked - asked <= 12, "{}", router.asked - asked);
        assert!(!mapper.poll_changed());
        mapper.release();
        run(&mut mapper, &mut router, &mut now, Duration::ZERO);
        assert_eq!(router.mapped.len(), 0);
        assert_eq!(found(&mapper), []);
    }
}

#[test]
fn a_router_that_says_nothing_is_left_alone() {
    let start = Instant::now();
    let mut now = start;
    let mut router = Router::new(false, false, start);
    let mut mapper = Mapper::new(CLIENT, &WANTED, [7; 32], now);
    run(&mut mapper, &mut router, &mut now, Duration::from_secs(5));
    let nothing = Offers {
        pcp: Some(false),
        nat_pmp: Some(false),
    };
    assert_eq!((mapper.offers(), found(&mapper)), (nothing, vec![]));
    let asked = router.asked;
    run(&mut mapper, &mut router, &mut now, Duration::from_secs(590));
    assert_eq!(router.asked, asked);
    router.pcp = true;
    run(&mut mapper, &mut router, &mut now, Duration::from_secs(20));
    assert_eq!(found(&mapper).len(), 2);
}

#[test]
fn a_router_that_forgot_is_told_again_and_one_that_is_gone_forwards_nothing() {
    for pcp in [true, false] {
        let start = Instant::now();
        let mut now = start;
        let mut router = Router::new(pcp, true, start);
        let mut mapper = Mapper::new(CLIENT, &WANTED[..1], [7; 32], now);
        run(
            &mut mapper,
            &mut router,
            &mut now,
            Duration::from_secs(3000),
        );
        router.started = now;
        router.mapped.clear();
        // Its next answer, to the renewal, has a lower epoch.
        run(&mut mapper, &mut router, &mut now, Duration::from_secs(700));
        assert_eq!((router.mapped.len(), found(&mapper).len()), (1, 1));
        (router.pcp, router.pmp) = (false, false);
        run(
            &mut mapper,
            &mut router,
            &mut now,
            Duration::from_secs(7300),
        );
        assert_eq!(found(&mapper), []);
        (router.pcp, router.pmp) = (pcp, true);
        run(&mut mapper, &mut router, &mut now, Duration::from_secs(700));
        assert_eq!(found(&mapper).len(), 1, "pcp {pcp}");
    }
}

#[test]
fn an_address_that_leads_nowhere_is_not_believed() {
    for public in [
        [10, 0, 0, 1],
        [100, 64, 0, 1],
        [192, 168, 1, 1],
        [198, 19, 3, 4],
        [127, 0, 0, 1],
        [224, 0, 0, 1],
        [255, 255, 255, 255],
        [0, 0, 0, 0],
        [169, 254, 1, 1],
    ] {
        for pcp in [true, false] {
            let start = Instant::now();
            let mut now = start;
            let mut router = Router::new(pcp, !pcp, start);
            router.public = public.into();
            let mut mapper = Mapper::new(CLIENT, &WANTED, [7; 32], now);
            run(&mut mapper, &mut router, &mut now, Duration::from_secs(5));
            assert_eq!(found(&mapper), [], "{public:?}");
        }
    }
}

#[test]
fn a_router_that_grants_a_second_is_not_asked_every_second() {
    let start = Instant::now();
    let mut now = start;
    let mut router = Router::new(true, false, start);
    router.lifetime = 1;
    let mut mapper = Mapper::new(CLIENT, &WANTED[..1], [7; 32], now);
    run(&mut mapper, &mut router, &mut now, Duration::from_secs(600));
    assert!(router.asked < 30, "{}", router.asked);
}

proptest! {
    #[test]
    fn arbitrary_answers_grant_nothing(
        answers in prop::collection::vec(
            (prop::sample::select(vec![0_u8, 2]), prop::sample::select(vec![0x80_u8, 0x81, 0x82, 1]), prop::collection::vec(any::<u8>(), 0..1200)),
            0..20,
        ),
    ) {
        let now = Instant::now();
        let mut mapper = Mapper::new(CLIENT, &WANTED, [7; 32], now);
        for (version, op, rest) in answers {
            let data = [&[version, op][..], &rest].concat();
            mapper.handle_datagram(&data, now);
        }
        prop_assert!(mapper.mappings().all(|m| is_public(*m.external.ip()) && m.external.port() != 0));
        prop_assert!(std::iter::from_fn(|| mapper.poll_transmit()).count() < 400);
    }
}
