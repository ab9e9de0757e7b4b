//! Racing, roaming, failing over and coming back.

use std::time::Duration;

use kanpachi_common::nat::{Filtering, Mapping, NatBehaviour};

use super::sim::{Sim, Symmetric, Weather, config, ms, network_of, secs};
use crate::{
    path::{Candidate, Limit, PathKind, Via},
    tunnel::{Event, PathState, Tunnels},
};

/// Two hosts that know each other in these networks, connected.
pub(super) fn sim(kinds: &[(u8, PathKind)], seed: u64, cut: &[u8]) -> Sim {
    let mut sim = Sim::new(2, seed, config());
    sim.cut.extend(cut);
    sim.offer(0, 1, kinds);
    sim.offer(1, 0, kinds);
    sim.connect(0, 1);
    sim.connect(1, 0);
    sim.run_until(secs(5), |s| s.is_up(0, 1)).unwrap();
    sim
}

const TWO: [(u8, PathKind); 2] = [(0, PathKind::Host), (1, PathKind::Reflexive)];

/// Data both ways every 20 ms for `time`; returns the longest gap between deliveries at each host.
fn talk(sim: &mut Sim, time: Duration) -> Duration {
    let end = sim.now + time;
    let mut last = [sim.now; 2];
    let mut longest = ms(0);
    while sim.now < end {
        let before = [sim.hosts[0].received.len(), sim.hosts[1].received.len()];
        let _ = sim.send(0, 1, b"x");
        let _ = sim.send(1, 0, b"x");
        sim.run(ms(20));
        for at in 0..2 {
            if sim.hosts[at].received.len() > before[at] {
                last[at] = sim.now;
            }
            longest = longest.max(sim.now - last[at]);
        }
    }
    longest
}

fn primary(sim: &Sim, at: usize) -> u8 {
    network_of(sim.hosts[at].endpoint(&sim.id(1 - at)).unwrap())
}

#[test]
fn the_race_finds_the_address_that_works() {
    let all = [
        (0, PathKind::Host),
        (1, PathKind::Mapped),
        (2, PathKind::Reflexive),
    ];
    for alive in 0..3 {
        let dead: Vec<u8> = (0..3).filter(|n| *n != alive).collect();
        let sim = sim(&all, 1, &dead);
        assert!(sim.elapsed() < ms(500), "{:?}", sim.elapsed());
        assert_eq!((primary(&sim, 0), primary(&sim, 1)), (alive, alive));
    }
}

#[test]
fn inits_to_one_peer_are_bounded() {
    let mut sim = Sim::new(2, 2, config());
    sim.cut.insert(0);
    let kinds: Vec<_> = (0..3).map(|n| (n, PathKind::Host)).collect();
    sim.cut.extend([0, 1, 2]);
    sim.offer(0, 1, &kinds);
    sim.connect(0, 1);
    sim.run(secs(89));
    for second in 0..89 {
        let sent = sim
            .log
            .iter()
            .filter(|p| p.at >= secs(second) && p.at < secs(second + 1))
            .count();
        assert!(sent <= 20, "{sent} in second {second}");
    }
    sim.run(secs(2));
    assert_eq!(sim.state(0, 1), PathState::Down);
    // It is wanted, so it is tried again, though rarely; and it comes back by itself.
    let before = sim.log.len();
    sim.run(secs(120));
    let tries = sim.log.len() - before;
    assert!((15..=80).contains(&tries), "{tries}");
    sim.cut.clear();
    sim.run_until(secs(40), |s| s.is_up(0, 1)).unwrap();
}

#[test]
fn a_lost_path_is_replaced_within_five_seconds_and_taken_back_when_it_heals() {
    for seed in 0..40 {
        let mut sim = sim(&TWO, seed, &[]);
        talk(&mut sim, secs(3 + seed % 5));
        assert_eq!((primary(&sim, 0), primary(&sim, 1)), (0, 0), "seed {seed}");
        sim.cut.insert(0);
        let gap = talk(&mut sim, secs(10));
        assert!(gap < secs(5), "seed {seed}: {gap:?}");
        assert_eq!((primary(&sim, 0), primary(&sim, 1)), (1, 1));
        assert!(matches!(sim.state(0, 1), PathState::Up { .. }));
        // A worse path stays; a path that is clearly better is taken back, without a gap.
        sim.cut.clear();
        sim.weather.delay = (10, 0);
        let gap = talk(&mut sim, secs(40));
        assert!(gap <= ms(60), "seed {seed}: {gap:?}");
    }
}

#[test]
fn data_moves_up_from_a_relay_to_a_direct_path() {
    let kinds = [(0, PathKind::Host), (2, PathKind::Relay)];
    let mut sim = sim(&kinds, 3, &[0]);
    assert_eq!((primary(&sim, 0), primary(&sim, 1)), (2, 2));
    talk(&mut sim, secs(20));
    sim.cut.clear();
    let gap = talk(&mut sim, secs(75));
    assert!(gap <= ms(60), "{gap:?}");
    assert_eq!((primary(&sim, 0), primary(&sim, 1)), (0, 0));
    let Some(Event::EndpointChanged { kind, .. }) = sim.hosts[0]
        .events
        .iter()
        .rev()
        .find_map(|(_, e)| matches!(e, Event::EndpointChanged { .. }).then_some(e.clone()))
    else {
        panic!("no change was told");
    };
    assert_eq!(kind, PathKind::Host);
}

/// The old address has answered well for long, and nothing is known of the new one.
#[test]
fn a_peer_that_has_moved_is_not_looked_for_where_it_was() {
    for mover in 0..2 {
        let mut sim = sim(&[(0, PathKind::Host)], 12, &[]);
        sim.weather.delay = (0, 0);
        talk(&mut sim, secs(10));
        for port in [4000, 5000, 6000] {
            sim.hosts[mover].ports[0] = port;
            let gap = talk(&mut sim, secs(2));
            assert!(gap <= ms(100), "{mover} to {port}: {gap:?}");
        }
    }
}

/// A machine goes from one address to another and back, again and again.
#[test]
fn a_peer_that_comes_back_to_an_address_is_followed_at_once() {
    let mut sim = sim(&[(0, PathKind::Host), (2, PathKind::Relay)], 11, &[]);
    talk(&mut sim, secs(5));
    for round in 0..6_u16 {
        // Long enough for the end that stays to leave the address of before.
        sim.cut.insert(0);
        talk(&mut sim, secs(5));
        assert_eq!((primary(&sim, 0), primary(&sim, 1)), (2, 2), "{round}");
        sim.cut.clear();
        sim.hosts[1].ports[0] = 3000 + round % 2;
        let gap = talk(&mut sim, ms(50));
        assert!(gap <= ms(60), "{gap:?}");
        sim.with(1, Tunnels::handle_network_change);
        let took = sim.run_until(secs(3), |sim| {
            sim.hosts[0].endpoint(&sim.id(1)) == Some(sim.hosts[1].addr(0))
        });
        assert!(took.is_some(), "{round}: not followed");
    }
}

#[test]
fn an_idle_pair_hardly_wakes_and_is_awake_at_the_first_packet() {
    let mut sim = sim(&[(0, PathKind::Host)], 9, &[]);
    talk(&mut sim, secs(2));
    sim.run(secs(20));
    let (begin, mut wakes) = (sim.now, 0);
    while let Some(at) = sim.hosts[0].tunnels.poll_timeout() {
        if at > begin + secs(60) {
            break;
        }
        wakes += u32::from(at > sim.now);
        sim.run((at - sim.now).max(ms(1)));
    }
    assert!(wakes <= 12, "{wakes} timers in a minute");
    // What is lost at the first packet after the rest is noticed as fast as ever.
    sim.cut.insert(0);
    sim.send(0, 1, b"lost").unwrap();
    sim.run(ms(3000));
    let status = sim.hosts[0].tunnels.status(&sim.id(1), sim.now).unwrap();
    assert!(
        !status.paths.iter().any(|path| path.loss < 0.01),
        "{status:?}"
    );
}

const fn nat(mapping: Mapping) -> NatBehaviour {
    NatBehaviour {
        mapping,
        filtering: Filtering::AddressAndPortDependent,
    }
}

/// Reflexive addresses, and a relay.
const HARD: [(u8, PathKind); 2] = [(1, PathKind::Reflexive), (2, PathKind::Relay)];

/// Two hosts on a relay; the one at `hard` is behind a symmetric NAT. Returns how long a direct path took.
fn punch(sim: &mut Sim, hard: usize) -> Option<Duration> {
    sim.cut.remove(&1);
    sim.symmetric = Some(Symmetric {
        host: hard,
        ..Symmetric::default()
    });
    for at in 0..2 {
        let mapping = |host| {
            nat(if host == hard {
                Mapping::AddressAndPortDependent
            } else {
                Mapping::EndpointIndependent
            })
        };
        let other = sim.id(1 - at);
        sim.with(at, |tunnels, now| {
            tunnels.set_nat(Some(mapping(at)), now);
            tunnels.set_peer_nat(&other, Some(mapping(1 - at)), now);
        });
    }
    sim.run_until(secs(30), |sim| {
        let direct = |at: usize| {
            let end = sim.hosts[at].endpoint(&sim.id(1 - at));
            end.is_some_and(|end| network_of(end) != 2)
        };
        direct(0) && direct(1)
    })
}

/// The ways to sockets of the process that is gone are still known to the end that guesses.
#[test]
fn a_symmetric_side_that_starts_again_is_met_again() {
    let mut late = 0;
    for seed in 0..20 {
        let hard = usize::from(seed % 2 == 0);
        let mut sim = sim(&HARD, 200 + seed, &[1]);
        punch(&mut sim, hard);
        talk(&mut sim, secs(20));
        sim.restart(hard, 5000);
        sim.cut.insert(1);
        for at in 0..2 {
            sim.offer(at, 1 - at, &HARD);
        }
        sim.connect(hard, 1 - hard);
        sim.run_until(secs(5), |sim| sim.is_up(0, 1)).unwrap();
        if punch(&mut sim, hard).is_none_or(|took| took > secs(15)) {
            late += 1;
        }
    }
    assert_eq!(late, 0, "of 20");
}

#[test]
fn a_symmetric_side_is_met_by_luck_whichever_end_it_is() {
    let mut late = 0;
    for seed in 0..20 {
        let mut sim = sim(&HARD, 100 + seed, &[1]);
        let took = punch(&mut sim, usize::from(seed % 2 == 0));
        if took.is_none_or(|took| took > secs(15)) {
            late += 1;
        }
    }
    assert!(late <= 1, "{late} of 20");
}

#[test]
fn a_path_that_fails_in_one_direction_only_is_left() {
    let mut sim = sim(&TWO, 4, &[]);
    talk(&mut sim, secs(5));
    // Nothing reaches host 1 on network 0 any more; what it sends still arrives.
    let dead = sim.hosts[1].addr(0);
    sim.hosts[1].ports[0] = 2000;
    let gap = talk(&mut sim, secs(8));
    assert_ne!(dead, sim.hosts[1].addr(0));
    assert!(gap < secs(5), "{gap:?}");
}

/// Row C5: only what was authenticated moves an endpoint, and then at once.
#[test]
fn the_first_authenticated_packet_from_a_new_address_moves_the_endpoint() {
    for roamer in 0..2 {
        let other = 1 - roamer;
        let mut sim = sim(&[(0, PathKind::Host)], 5, &[]);
        talk(&mut sim, secs(2));
        sim.hosts[roamer].ports[0] = 4242;
        sim.send(roamer, other, b"from elsewhere").unwrap();
        sim.run(ms(15));
        assert_eq!(
            sim.hosts[other].endpoint(&sim.id(roamer)),
            Some(sim.hosts[roamer].addr(0))
        );
        let gap = talk(&mut sim, secs(5));
        assert!(gap <= ms(60), "{gap:?}");
    }
}

#[test]
fn forged_and_repeated_packets_from_elsewhere_move_nothing() {
    let mut sim = sim(&[(0, PathKind::Host)], 6, &[]);
    talk(&mut sim, secs(2));
    let endpoints = [0, 1].map(|at| sim.hosts[at].endpoint(&sim.id(1 - at)));
    let stranger = "10.0.0.66:6".parse().unwrap();
    for n in 0..sim.log.len() {
        let mut packet = sim.log[n].clone();
        sim.inject(stranger, packet.to, packet.data.clone());
        let at = n % packet.data.len();
        packet.data[at] ^= 1;
        sim.inject(stranger, packet.to, packet.data);
    }
    sim.run(secs(1));
    assert_eq!(
        [0, 1].map(|at| sim.hosts[at].endpoint(&sim.id(1 - at))),
        endpoints
    );
    let to_stranger: usize = sim
        .log
        .iter()
        .filter(|p| p.to == stranger)
        .map(|p| p.data.len())
        .sum();
    let from_stranger: usize = sim
        .log
        .iter()
        .filter(|p| p.from == stranger)
        .map(|p| p.data.len())
        .sum();
    assert!(to_stranger <= from_stranger);
}

#[test]
fn a_packet_overtaken_by_another_does_not_move_the_endpoint_back() {
    for seed in 0..20 {
        let mut sim = sim(&[(0, PathKind::Host)], seed, &[]);
        sim.weather = Weather {
            loss: 0,
            duplicate: 0,
            delay: (5, 80),
        };
        talk(&mut sim, secs(1));
        sim.hosts[1].ports[0] = 4242;
        talk(&mut sim, secs(1));
        assert_eq!(
            sim.hosts[0].endpoint(&sim.id(1)),
            Some(sim.hosts[1].addr(0)),
            "seed {seed}"
        );
    }
}

#[test]
fn a_silent_peer_is_called_again_after_fifteen_seconds_and_given_up_after_ninety_more() {
    let mut sim = sim(&[(0, PathKind::Host)], 7, &[]);
    talk(&mut sim, secs(2));
    let cut_at = sim.elapsed();
    sim.cut.insert(0);
    talk(&mut sim, secs(14));
    let inits = |sim: &Sim| {
        sim.log
            .iter()
            .filter(|p| p.data[0] == 1 && p.at > cut_at)
            .count()
    };
    assert_eq!(inits(&sim), 0);
    talk(&mut sim, secs(4));
    assert!(inits(&sim) > 0);
    assert_eq!(sim.state(0, 1), PathState::Connecting);
    talk(&mut sim, secs(92));
    assert_eq!(sim.state(0, 1), PathState::Down);
    sim.cut.clear();
    sim.run_until(secs(40), |s| s.is_up(0, 1)).unwrap();
    assert!(matches!(sim.state(0, 1), PathState::Up { .. }));
}

/// Who has no session yet cannot say that a path stopped working. Relays are to be asked all the same: it may be one of them that
/// does not know this node any more.
#[test]
fn a_handshake_over_a_relay_that_is_not_answered_is_told() {
    let told = |sim: &Sim| {
        let events = sim.hosts[0].events.iter();
        let told = events.filter(|(_, e)| matches!(e, Event::Unanswered { .. }));
        told.count()
    };
    let mut sim = Sim::new(2, 5, config());
    sim.cut.insert(0);
    sim.offer(0, 1, &[(0, PathKind::Host)]);
    sim.connect(0, 1);
    sim.run(secs(12));
    assert_eq!(told(&sim), 0, "there is no relay");
    let (relay, pair, channel) = (1, 1, 1);
    let via = Via::Relay {
        relay,
        pair,
        channel,
    };
    let peer = sim.id(1);
    sim.with(0, |tunnels, now| {
        tunnels.set_relayed(&peer, &[via.addr()], now);
    });
    sim.run(secs(12));
    assert!((2..=3).contains(&told(&sim)), "{}", told(&sim));
    sim.cut.clear();
    sim.connect(1, 0);
    sim.offer(1, 0, &[(0, PathKind::Host)]);
    sim.run_until(secs(10), |s| s.is_up(0, 1)).unwrap();
    let before = told(&sim);
    sim.run(secs(30));
    assert_eq!(told(&sim), before);
}

#[test]
fn that_nothing_comes_through_is_said_as_long_as_it_is_so() {
    let mut sim = sim(&[(0, PathKind::Host)], 7, &[]);
    let said = |sim: &Sim| {
        let events = sim.hosts[0].events.iter();
        let said = events.filter(|(_, e)| matches!(e, Event::Trouble { .. }));
        said.count()
    };
    talk(&mut sim, secs(2));
    assert_eq!(said(&sim), 0);
    sim.cut.insert(0);
    talk(&mut sim, secs(4));
    assert_eq!(said(&sim), 1, "as soon as that is so");
    talk(&mut sim, secs(56));
    let times = said(&sim);
    assert!((10..=13).contains(&times), "{times} times in a minute");
    sim.cut.clear();
    talk(&mut sim, secs(10));
    let times = said(&sim);
    talk(&mut sim, secs(60));
    assert_eq!(said(&sim), times, "all is well");
}

#[test]
fn a_short_outage_needs_no_handshake() {
    let mut sim = sim(&[(0, PathKind::Host)], 8, &[]);
    talk(&mut sim, secs(2));
    let inits = sim.log.iter().filter(|p| p.data[0] == 1).count();
    sim.cut.insert(0);
    talk(&mut sim, secs(10));
    sim.cut.clear();
    let gap = talk(&mut sim, secs(5));
    assert!(gap <= ms(60), "{gap:?}");
    assert_eq!(sim.log.iter().filter(|p| p.data[0] == 1).count(), inits);
}

#[test]
fn round_trips_and_own_addresses_are_told() {
    let mut sim = sim(&[(0, PathKind::Host)], 9, &[]);
    talk(&mut sim, secs(10));
    let rtt = sim.hosts[0].events.iter().rev().find_map(|(_, e)| match e {
        Event::Rtt { rtt, loss, .. } => Some((*rtt, *loss)),
        _ => None,
    });
    assert_eq!(rtt, Some((ms(20), 0.0)));
    let seen = sim.hosts[0].events.iter().find_map(|(_, e)| match e {
        Event::Observed { addr, .. } => Some(*addr),
        _ => None,
    });
    assert_eq!(seen, Some(sim.hosts[0].addr(0)));
}

#[test]
fn where_peers_see_this_node_is_told_again_now_and_then_and_when_the_network_changes() {
    let mut sim = sim(&[(0, PathKind::Host)], 9, &[]);
    let told = |sim: &Sim| {
        let events = sim.hosts[0].events.iter();
        let seen = events.filter(|(_, e)| matches!(e, Event::Observed { .. }));
        seen.count()
    };
    talk(&mut sim, secs(60));
    assert_eq!(told(&sim), 1);
    sim.with(0, |t, now| t.handle_network_change(now));
    talk(&mut sim, secs(1));
    assert_eq!(told(&sim), 2);
    // Whoever heard of it before this is asked of it again.
    talk(&mut sim, secs(190));
    assert_eq!(told(&sim), 4);
}

/// What a host was told last about the size of its path.
fn told_limit(sim: &Sim, host: usize) -> Option<Limit> {
    sim.hosts[host]
        .events
        .iter()
        .rev()
        .find_map(|(_, e)| match e {
            Event::PathMtu { limit, .. } => Some(*limit),
            _ => None,
        })
}

#[test]
fn both_ends_find_what_the_path_carries() {
    for (carries, expected) in [(9000, 1432), (1392, 1392), (1252, 1252)] {
        let mut sim = Sim::new(2, 10, config());
        sim.largest = carries;
        sim.connect(0, 1);
        sim.run(secs(2));
        for host in [0, 1] {
            let limit = told_limit(&sim, host).unwrap();
            assert!(limit.settled && limit.full == (carries > 1432), "{limit:?}");
            assert!(
                (expected - 16..=expected).contains(&limit.datagram),
                "{limit:?}"
            );
            let other = sim.id(1 - host);
            let status = sim.hosts[host].tunnels.status(&other, sim.now).unwrap();
            assert_eq!(status.path_mtu, Some(limit.datagram));
        }
    }
}

#[test]
fn the_size_of_a_path_is_told_before_data_takes_it() {
    let paths = [(0, PathKind::Host), (1, PathKind::Host)];
    let mut sim = sim(&paths, 11, &[]);
    sim.run(secs(5));
    sim.cut.insert(0);
    let b = sim.id(1);
    for _ in 0..100 {
        let _ = sim.send(0, 1, b"x");
        sim.run(ms(100));
    }
    assert_eq!(sim.hosts[0].endpoint(&b), Some(sim.hosts[1].addr(1)));
    for host in &sim.hosts {
        let mut known = None;
        for (_, event) in &host.events {
            match event {
                Event::PathMtu { endpoint, .. } => known = Some(*endpoint),
                Event::EndpointChanged { endpoint, .. } | Event::SessionUp { endpoint, .. } => {
                    assert_eq!(known, Some(*endpoint));
                }
                _ => {}
            }
        }
    }
    let limit = told_limit(&sim, 0).unwrap();
    assert!(limit.full && limit.settled, "{limit:?}");
}

#[test]
fn a_ping_is_answered_with_its_token() {
    let mut sim = sim(&[(0, PathKind::Host)], 11, &[]);
    let b = sim.id(1);
    assert!(sim.with(0, |t, now| t.ping(&b, 77, now)));
    sim.run(ms(50));
    let pong = sim.hosts[0].events.iter().find_map(|(_, e)| match e {
        Event::Pong {
            token,
            rtt,
            endpoint,
            ..
        } => Some((*token, *rtt, *endpoint)),
        _ => None,
    });
    assert_eq!(pong, Some((77, ms(20), sim.hosts[1].addr(0))));
    sim.with(0, |t, now| t.disconnect(&b, now));
    assert!(!sim.with(0, |t, now| t.ping(&b, 78, now)));
}

#[test]
fn addresses_where_nobody_can_be_are_never_tried() {
    let mut sim = Sim::new(2, 12, config());
    let b = sim.id(1);
    let bad = [
        "127.0.0.1:9",
        "[::1]:9",
        "224.0.0.1:9",
        "255.255.255.255:9",
        "0.0.0.0:9",
        "10.0.0.9:0",
        "[::ffff:127.0.0.1]:9",
    ];
    let candidates = bad.map(|addr| Candidate {
        addr: addr.parse().unwrap(),
        kind: PathKind::Host,
    });
    sim.with(0, |t, now| t.set_candidates(&b, &candidates, now));
    sim.connect(0, 1);
    sim.run(secs(20));
    assert!(sim.log.is_empty());
    assert_eq!(sim.state(0, 1), PathState::Connecting);
}
