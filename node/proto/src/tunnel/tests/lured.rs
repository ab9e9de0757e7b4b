//! A member that tells of addresses of somebody else: how much this node sends there in an hour.

use std::{net::SocketAddr, time::Duration};

use super::sim::{Sim, config, ms, secs};
use crate::{
    path::{Candidate, PathKind},
    tunnel::PathState,
};

/// One machine that has nothing to do with any of this.
const VICTIM: [u8; 4] = [10, 0, 0, 99];

/// One of two lists that have nothing in common.
fn list(second: bool) -> Vec<Candidate> {
    let ports = if second { 100..116 } else { 200..216 };
    let candidate = |port: u16| Candidate {
        addr: SocketAddr::from((VICTIM, port)),
        kind: PathKind::Reflexive,
    };
    ports.map(candidate).collect()
}

/// Datagrams and bytes to the victim in an hour in which host 1 tells of other addresses every so often.
fn lured(sim: &mut Sim, every: Duration) -> (usize, usize) {
    let (id, end, mut second) = (sim.id(1), sim.elapsed() + secs(3600), false);
    sim.log.clear();
    while sim.elapsed() < end {
        second = !second;
        sim.with(0, |t, now| t.set_candidates(&id, &list(second), now));
        sim.run(every);
    }
    let there = sim
        .log
        .iter()
        .filter(|p| p.to.ip() == SocketAddr::from((VICTIM, 1)).ip());
    let sizes: Vec<usize> = there.map(|p| p.data.len()).collect();
    (sizes.len(), sizes.iter().sum())
}

#[test]
fn handshakes_go_to_addresses_that_never_answered_ever_more_rarely() {
    for every in [ms(500), secs(5), secs(60)] {
        let mut sim = Sim::new(2, 60, config());
        sim.cut.insert(0);
        sim.connect(0, 1);
        let (datagrams, bytes) = lured(&mut sim, every);
        assert!(
            (100..5000).contains(&datagrams),
            "{datagrams} every {every:?}"
        );
        assert!(bytes < 6_000_000, "{bytes} every {every:?}");
    }
}

#[test]
fn addresses_told_of_do_not_keep_an_attempt_going() {
    let mut sim = Sim::new(2, 63, config());
    let (id, mut tries) = (sim.id(1), 0);
    sim.cut.insert(0);
    sim.connect(0, 1);
    for second in 0..3600 {
        if second % 5 == 0 {
            sim.with(0, |t, now| {
                t.set_candidates(&id, &list(second % 2 == 0), now)
            });
        }
        sim.run(secs(1));
        tries += usize::from(sim.state(0, 1) == PathState::Connecting);
    }
    assert!((100..2400).contains(&tries), "{tries} of 3600 s");
}

#[test]
fn probes_go_to_addresses_that_never_answered_ever_more_rarely() {
    for every in [ms(500), secs(5), secs(60)] {
        let mut sim = Sim::connected(61, config());
        let (datagrams, _) = lured(&mut sim, every);
        assert!(
            (100..10_000).contains(&datagrams),
            "{datagrams} every {every:?}"
        );
    }
}

/// Whoever is told of many places that are none is found at the one that is.
#[test]
fn a_member_is_found_among_addresses_that_are_none() {
    for seed in 0..10 {
        let mut sim = Sim::new(2, 62 + seed, config());
        let (id, real) = (sim.id(1), sim.hosts[1].addr(0));
        for round in 0..8 {
            let mut told = list(round % 2 == 0);
            told.truncate(15);
            sim.with(0, |t, now| t.set_candidates(&id, &told, now));
            sim.connect(0, 1);
            sim.run(secs(1));
        }
        let mut told = list(true);
        told[15].addr = real;
        sim.with(0, |t, now| t.set_candidates(&id, &told, now));
        let took = sim.run_until(secs(60), |s| s.is_up(0, 1));
        assert!(took.is_some_and(|took| took < secs(40)), "{took:?}");
    }
}

#[test]
fn an_attempt_that_had_nothing_to_try_goes_on_when_it_may_try_something() {
    let mut sim = Sim::new(2, 64, config());
    let (id, addr) = (sim.id(1), sim.hosts[1].addr(0));
    for second in [false, true] {
        sim.with(0, |t, now| t.set_candidates(&id, &list(second), now));
    }
    let kind = PathKind::Reflexive;
    sim.with(0, |t, now| {
        t.set_candidates(&id, &[Candidate { addr, kind }], now)
    });
    sim.connect(0, 1);
    let took = sim.run_until(secs(60), |s| s.is_up(0, 1));
    assert!(took.is_some_and(|took| took < secs(4)), "{took:?}");
}
