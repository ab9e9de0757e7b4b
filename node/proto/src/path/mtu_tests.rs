//! The search by itself, on paths of any size, with loss, black holes and silence.

use proptest::prelude::*;

use super::*;

const ADDR: &str = "192.0.2.1:1";
const ACTIVE: Use = Use {
    rtt: Some(Duration::from_millis(20)),
    active: true,
    unheard: false,
};
const IDLE: Use = Use {
    active: false,
    ..ACTIVE
};
const UNHEARD: Use = Use {
    unheard: true,
    ..ACTIVE
};

fn change(addr: &str, kind: PathKind) -> Change {
    Change {
        endpoint: addr.parse().unwrap(),
        kind,
    }
}

/// A path that datagrams up to `passes` get through, but for those that `loses` names, and come back after what `takes` says.
struct Bench {
    mtus: PathMtus,
    now: Instant,
    passes: u16,
    loses: Box<dyn FnMut() -> bool>,
    takes: Box<dyn FnMut(u16) -> Duration>,
    flying: Vec<(Instant, SizeProbe)>,
    sent: Vec<u16>,
    nonce: u64,
}

impl Bench {
    fn new(passes: u16) -> Self {
        let mut mtus = PathMtus::new(1400);
        let now = Instant::now();
        mtus.follow(change(ADDR, PathKind::Host), now);
        Self {
            mtus,
            now,
            passes,
            loses: Box::new(|| false),
            takes: Box::new(|_| Duration::from_millis(20)),
            flying: Vec::new(),
            sent: Vec::new(),
            nonce: 0,
        }
    }

    fn limit(&self) -> Limit {
        self.mtus.limit().unwrap().1
    }

    /// Runs until the given time from now, or until `done`.
    fn run(&mut self, using: Use, time: Duration, done: impl Fn(&Self) -> bool) -> Duration {
        let (begin, end) = (self.now, self.now + time);
        while self.now < end && !done(self) {
            let nonce = &mut self.nonce;
            while let Some(probe) = self.mtus.poll(&using, self.now, || {
                *nonce += 1;
                *nonce
            }) {
                self.sent.push(probe.size);
                if probe.size <= self.passes && !(self.loses)() {
                    let back = self.now + (self.takes)(probe.size);
                    self.flying.push((back, probe));
                }
                assert!(self.sent.len() < 10_000, "a flood");
            }
            if done(self) {
                break;
            }
            let arrival = self.flying.iter().map(|(at, _)| *at).min();
            let timeout = self.mtus.poll_timeout(&using, self.now);
            let next = arrival.into_iter().chain(timeout).min().unwrap_or(end);
            self.now = next.max(self.now).min(end);
            let arrived = self.now;
            let (here, flying) = self.flying.iter().partition(|(at, _)| *at <= arrived);
            self.flying = flying;
            let here: Vec<(Instant, SizeProbe)> = here;
            for (_, probe) in here {
                self.mtus.acked(probe.nonce, probe.size, &using, self.now);
            }
        }
        self.now - begin
    }

    fn settle(&mut self) -> Duration {
        self.run(ACTIVE, Duration::from_secs(60), |b| b.limit().settled)
    }
}

#[test]
fn a_path_that_carries_everything_is_known_after_one_round_trip() {
    let mut bench = Bench::new(1472);
    assert_eq!(bench.limit(), Limit::UNKNOWN);
    assert_eq!(bench.settle(), Duration::from_millis(20));
    let expected = Limit {
        datagram: 1432,
        settled: true,
        full: true,
    };
    assert_eq!(bench.limit(), expected);
    assert_eq!(bench.limit().payload(), 1400);
    assert_eq!(bench.sent, [SMALL, 1432]);
}

#[test]
fn usual_path_mtus_are_found_within_a_second() {
    for path in [1280, 1300, 1400, 1420, 1452] {
        let mut bench = Bench::new(path - 28);
        let took = bench.settle();
        assert!(took < Duration::from_secs(1), "{path}: {took:?}");
        assert!(bench.limit().datagram > path - 28 - GRAIN, "{path}");
        assert!(bench.sent.iter().map(|s| u32::from(*s)).sum::<u32>() < 64_000);
    }
}

#[test]
fn a_relayed_path_is_searched_for_the_same_path_mtus() {
    let mut mtus = PathMtus::new(1400);
    let now = Instant::now();
    mtus.follow(change("[100::1]:1", PathKind::Relay), now);
    let search = mtus.search().unwrap().1;
    assert!(search.ladder().contains(&(1280 - 36)));
}

#[test]
fn a_path_below_the_smallest_of_ipv6_still_carries_what_a_handshake_does() {
    let mut bench = Bench::new(1100);
    bench.settle();
    assert!((1100 - GRAIN..=1100).contains(&bench.limit().datagram));
    let mut bench = Bench::new(500);
    bench.settle();
    assert_eq!(bench.limit().datagram, FLOOR);
    // There is nothing below to fall back to, so that nothing is searched again and again.
    let before = bench.sent.len();
    bench.run(UNHEARD, Duration::from_secs(500), |_| false);
    assert_eq!(bench.sent.len(), before);
}

#[test]
fn an_idle_result_costs_nothing_and_one_in_use_little() {
    let mut bench = Bench::new(1432);
    bench.settle();
    bench.sent.clear();
    bench.run(IDLE, Duration::from_secs(3600), |_| false);
    assert!(bench.sent.is_empty());
    bench.run(ACTIVE, Duration::from_secs(600), |_| false);
    assert!(bench.sent.len() <= 24, "{}", bench.sent.len());
    // One-way traffic is looked at sooner, and then ever more seldom.
    bench.sent.clear();
    bench.run(UNHEARD, Duration::from_secs(600), |_| false);
    assert!((6..40).contains(&bench.sent.len()), "{}", bench.sent.len());
}

#[test]
fn a_black_hole_is_noticed_within_seconds_and_a_smaller_size_found() {
    let mut bench = Bench::new(1472);
    bench.settle();
    bench.passes = 1252;
    let noticed = bench.run(UNHEARD, Duration::from_secs(60), |b| !b.limit().settled);
    assert!(noticed < Duration::from_secs(2), "{noticed:?}");
    assert!(bench.limit().datagram <= 1252);
    let took = bench.settle();
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert!((1252 - GRAIN..=1252).contains(&bench.limit().datagram));
}

#[test]
fn a_path_that_has_grown_is_used_in_the_end() {
    let mut bench = Bench::new(1252);
    bench.settle();
    bench.passes = 1472;
    let took = bench.run(ACTIVE, Duration::from_secs(3600), |b| b.limit().full);
    assert!(took <= RAISE + CHECK + Duration::from_secs(1), "{took:?}");
    assert!(bench.limit().settled);
}

#[test]
fn a_dead_path_changes_no_result_and_is_asked_ever_more_rarely() {
    let mut bench = Bench::new(1472);
    bench.settle();
    bench.passes = 0;
    bench.run(UNHEARD, Duration::from_secs(600), |b| !b.limit().settled);
    assert!(bench.limit().settled && bench.limit().full);
    let mut silent = Bench::new(0);
    silent.run(ACTIVE, Duration::from_secs(600), |b| b.limit().settled);
    assert_eq!(silent.limit(), Limit::UNKNOWN);
    assert!(silent.sent.len() < 500, "{}", silent.sent.len());
    silent.passes = 1472;
    assert!(silent.settle() <= AGAIN.1 + Duration::from_millis(20));
}

#[test]
fn a_path_taken_again_is_believed_and_looked_at() {
    let mut bench = Bench::new(1472);
    bench.settle();
    bench
        .mtus
        .follow(change("192.0.2.2:2", PathKind::Host), bench.now);
    assert_eq!(bench.limit(), Limit::UNKNOWN);
    bench.passes = 1372;
    bench.settle();
    bench.mtus.follow(change(ADDR, PathKind::Host), bench.now);
    assert!(bench.limit().full);
    bench.run(IDLE, Duration::from_secs(60), |_| false);
    assert!(bench.limit().full);
    let took = bench.run(ACTIVE, Duration::from_secs(2), |b| !b.limit().settled);
    assert!(took < Duration::from_secs(1), "{took:?}");
    for n in 0..50 {
        let other = format!("192.0.2.3:{}", n + 1);
        bench.mtus.follow(change(&other, PathKind::Host), bench.now);
    }
    assert_eq!(bench.mtus.known.len(), REMEMBERED);
}

#[test]
fn a_peer_that_asks_about_less_makes_us_look_but_not_often() {
    let mut bench = Bench::new(1472);
    bench.settle();
    bench.sent.clear();
    for _ in 0..300 {
        bench.run(ACTIVE, Duration::from_millis(100), |_| false);
        for size in [SMALL, 1432, 1252] {
            bench.mtus.asked(size, bench.now);
        }
    }
    // Two datagrams a second.
    assert!(
        (20..=60).contains(&bench.sent.len()),
        "{}",
        bench.sent.len()
    );
    bench.passes = 1252;
    bench.mtus.asked(1252, bench.now + CHECK_ASKED);
    let took = bench.run(ACTIVE, Duration::from_secs(9), |b| !b.limit().settled);
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[test]
fn an_acknowledgement_counts_once_and_only_with_number_and_size() {
    let mut bench = Bench::new(1472);
    let mut probes = Vec::new();
    while let Some(probe) = bench
        .mtus
        .poll(&ACTIVE, bench.now, || 7 + probes.len() as u64)
    {
        probes.push(probe);
    }
    let large = probes[1];
    let now = bench.now;
    bench.mtus.acked(large.nonce + 9, large.size, &ACTIVE, now);
    bench.mtus.acked(large.nonce, 9000, &ACTIVE, now);
    bench.mtus.acked(large.nonce, large.size - 1, &ACTIVE, now);
    assert_eq!(bench.limit(), Limit::UNKNOWN);
    bench.mtus.acked(large.nonce, large.size, &ACTIVE, now);
    assert!(bench.limit().full);
}

/// Acknowledges small probes alone until the search is between two sizes; returns the large ones.
fn until_between(mtus: &mut PathMtus, now: &mut Instant) -> Vec<SizeProbe> {
    let (mut sent, mut nonce) = (Vec::new(), 0);
    for _ in 0..100 {
        while let Some(probe) = mtus.poll(&ACTIVE, *now, || {
            nonce += 1;
            nonce
        }) {
            sent.push(probe);
        }
        if matches!(mtus.search().unwrap().1.stage, Stage::Between(_)) {
            return sent;
        }
        for probe in sent.extract_if(.., |p| p.size == SMALL) {
            mtus.acked(probe.nonce, SMALL, &ACTIVE, *now);
        }
        *now = mtus.poll_timeout(&ACTIVE, *now).unwrap();
    }
    unreachable!("no search between two sizes");
}

#[test]
fn an_acknowledgement_of_what_was_taken_for_too_large_is_late_and_not_fatal() {
    let (mut mtus, mut now) = (PathMtus::new(1400), Instant::now());
    mtus.follow(change(ADDR, PathKind::Host), now);
    let sent = until_between(&mut mtus, &mut now);
    let Stage::Between(below) = mtus.search().unwrap().1.stage else {
        unreachable!()
    };
    let late = sent.iter().filter(|p| p.size > below);
    let late = *late.min_by_key(|p| p.size).unwrap();
    mtus.acked(late.nonce, late.size, &ACTIVE, now);
    // What that says of the path is used, and what it says nothing of is asked about.
    for passes in [late.size, 1424] {
        let mut bench = Bench::new(passes);
        (bench.mtus, bench.now, bench.nonce) = (mtus.clone(), now, 1000);
        bench.settle();
        let found = bench.limit().datagram;
        assert!((passes - GRAIN..=passes).contains(&found), "{found}");
        assert!(found >= late.size, "{found}");
    }
}

/// 256 kbit/s: a large datagram is back long after the small one that decides when a round ends.
#[test]
fn a_slow_link_is_searched_to_the_end() {
    for passes in [1252, 1372, 1424, 1472] {
        let mut bench = Bench::new(passes);
        let slow = Duration::from_micros(31);
        bench.takes = Box::new(move |size| Duration::from_millis(10) + slow * u32::from(size) * 3);
        bench.settle();
        bench.run(ACTIVE, Duration::from_secs(1), |_| false);
        let found = bench.limit();
        assert!(found.settled && found.datagram <= passes, "{found:?}");
        assert!(found.datagram + GRAIN >= passes.min(1432), "{found:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// However late an acknowledgement comes: no panic, never more than passes, and no less in the end.
    #[test]
    fn late_acknowledgements_end_in_what_passes(passes in 1024u16..1500, longest in 20u64..3000, seed: u64) {
        let mut bench = Bench::new(passes);
        let mut state = seed | 1;
        bench.takes = Box::new(move |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            Duration::from_millis(10 + (state >> 33) % longest)
        });
        bench.run(ACTIVE, Duration::from_secs(120), |_| false);
        prop_assert!(bench.limit().datagram <= passes.max(BASE));
        bench.takes = Box::new(|_| Duration::from_millis(20));
        bench.run(ACTIVE, Duration::from_secs(1800), |_| false);
        prop_assert!(bench.limit().datagram + GRAIN >= passes.min(1432));
        prop_assert!(bench.limit().datagram <= passes);
    }

    /// Never more than passes, and close to it when nothing is lost.
    #[test]
    fn the_result_is_what_passes(passes in 1024u16..2000) {
        let mut bench = Bench::new(passes);
        bench.settle();
        let found = bench.limit();
        prop_assert!(found.settled && found.datagram <= passes);
        prop_assert!(found.datagram + GRAIN >= passes.min(1432), "{found:?}");
        prop_assert_eq!(found.full, passes >= 1432);
    }

    /// Loss makes a search longer. It never makes the result too large, and a later look finds what was missed.
    #[test]
    fn loss_never_makes_a_result_too_large(passes in 1252u16..1500, percent in 0u64..40, seed: u64) {
        let mut bench = Bench::new(passes);
        let mut state = seed | 1;
        bench.loses = Box::new(move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % 100 < percent
        });
        bench.run(ACTIVE, Duration::from_secs(120), |b| b.limit().settled);
        prop_assert!(bench.limit().datagram <= passes.max(BASE));
        bench.loses = Box::new(|| false);
        bench.run(ACTIVE, Duration::from_secs(1800), |_| false);
        prop_assert!(bench.limit().datagram + GRAIN >= passes.min(1432));
        prop_assert!(bench.limit().datagram <= passes);
    }

    /// Any acknowledgements at any time: bounded memory, no panic, never beyond what is needed.
    #[test]
    fn lies_move_it_within_bounds_only(lies in proptest::collection::vec((0u64..60, 0u16..1600, 0u64..3000), 0..200)) {
        let mut mtus = PathMtus::new(1400);
        let mut now = Instant::now();
        mtus.follow(change(ADDR, PathKind::Observed), now);
        let mut nonce = 0;
        for (lie, size, pause) in lies {
            for using in [ACTIVE, UNHEARD] {
                let mut count = 0;
                while mtus.poll(&using, now, || { nonce += 1; nonce % 50 }).is_some() {
                    count += 1;
                    prop_assert!(count < 20);
                }
                mtus.acked(lie, size, &using, now);
                let limit = mtus.limit().unwrap().1;
                prop_assert!((FLOOR..=1432).contains(&limit.datagram));
                let due = mtus.poll_timeout(&using, now);
                now = (now + Duration::from_millis(pause)).max(due.unwrap_or(now).min(now + Duration::from_secs(90)));
            }
        }
        prop_assert!(mtus.known[0].1.outstanding.len() <= OUTSTANDING);
    }
}
