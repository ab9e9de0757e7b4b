//! The path set by itself: bounds, order, and what is never followed.

use std::time::{Duration, Instant};

use super::*;

fn addr(n: u16) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], n))
}

fn candidate(n: u16, kind: PathKind) -> Candidate {
    Candidate {
        addr: addr(n),
        kind,
    }
}

fn order(counter: u64) -> Order {
    Order {
        session: 1,
        current: true,
        counter,
    }
}

const QUIET: Activity = Activity {
    beat: None,
    active: false,
    wanted: true,
    eager: None,
    waiting_since: None,
    controls: true,
};

#[test]
fn the_number_of_addresses_is_bounded() {
    let (mut set, now) = (PathSet::default(), Instant::now());
    let many: Vec<_> = (1..=40).map(|n| candidate(n, PathKind::Host)).collect();
    assert!(set.offer(&many, now));
    assert!(!set.offer(&many, now));
    assert_eq!(set.race_order().len(), MAX_CANDIDATES);
    for n in 100..200 {
        set.observe(addr(n));
    }
    assert_eq!(set.race_order().len(), MAX_CANDIDATES + MAX_OBSERVED);
    // What is no longer offered and never worked is forgotten.
    set.offer(&[], now);
    assert_eq!(set.race_order().len(), MAX_OBSERVED);
}

#[test]
fn the_race_starts_with_what_worked_and_ends_with_relays() {
    let mut set = PathSet::default();
    let now = Instant::now();
    set.offer(
        &[
            candidate(1, PathKind::Relay),
            candidate(2, PathKind::Reflexive),
            candidate(3, PathKind::Host),
        ],
        now,
    );
    assert_eq!(set.race_order(), [addr(3), addr(2), addr(1)]);
    set.established(addr(2), order(0), now);
    assert_eq!(set.race_order(), [addr(2), addr(3), addr(1)]);
    set.disconnected();
    assert_eq!(set.primary(), None);
    assert_eq!(set.race_order()[0], addr(2));
}

#[test]
fn nothing_is_probed_without_a_session() {
    let mut set = PathSet::default();
    let now = Instant::now();
    set.offer(&[candidate(1, PathKind::Host)], now);
    assert_eq!(set.poll_probe(&QUIET, now, || 1), None);
    assert_eq!(set.poll_timeout(&QUIET, now), None);
    set.established(addr(1), order(0), now);
    let probe = Probe {
        addr: addr(1),
        nonce: 7,
        primary: true,
    };
    assert_eq!(set.poll_probe(&QUIET, now, || 7), Some(probe));
    assert_eq!(set.poll_probe(&QUIET, now, || 8), None);
    assert!(set.poll_timeout(&QUIET, now).unwrap() > now);
}

#[test]
fn an_answer_counts_once_and_only_with_its_number() {
    let mut set = PathSet::default();
    let now = Instant::now();
    set.established(addr(1), order(0), now);
    set.poll_probe(&QUIET, now, || 7);
    let later = now + Duration::from_millis(30);
    assert_eq!(set.answered(8, later, Duration::ZERO), None);
    assert_eq!(
        set.answered(7, later, Duration::ZERO).unwrap().rtt,
        Some(Duration::from_millis(30))
    );
    assert_eq!(set.answered(7, later, Duration::ZERO), None);
}

#[test]
fn late_packets_of_another_session_are_not_followed() {
    let mut set = PathSet::default();
    let now = Instant::now();
    set.established(addr(1), order(10), now);
    let old = Order {
        session: 2,
        current: false,
        counter: 99,
    };
    assert_eq!(set.heard(addr(2), old, false, now), None);
    assert_eq!(set.heard(addr(2), order(10), false, now), None);
    let moved = set.heard(addr(2), order(11), false, now).unwrap();
    assert_eq!(
        moved,
        Change {
            endpoint: addr(2),
            kind: PathKind::Observed
        }
    );
    let much_later = now + Duration::from_secs(2);
    assert!(set.heard(addr(3), old, false, much_later).is_some());
}

#[test]
fn the_end_that_controls_does_not_follow_to_a_path_that_it_knows() {
    let mut set = PathSet::default();
    let now = Instant::now();
    set.offer(
        &[candidate(1, PathKind::Host), candidate(2, PathKind::Host)],
        now,
    );
    set.established(addr(1), order(0), now);
    let mut nonce = 0;
    while let Some(probe) = set.poll_probe(&QUIET, now, || {
        nonce += 1;
        nonce
    }) {
        set.answered(probe.nonce, now, Duration::ZERO);
    }
    assert_eq!(set.heard(addr(2), order(1), true, now), None);
    assert!(set.heard(addr(9), order(2), true, now).is_some());
    assert!(set.heard(addr(2), order(3), false, now).is_some());
}

/// Unanswered probes of one path until the next is at least so far away.
fn silence(set: &mut PathSet, activity: &Activity, now: &mut Instant) -> Duration {
    let mut longest = Duration::ZERO;
    for nonce in 0..20 {
        let Some(due) = set.due(&set.paths[0], activity, *now) else {
            break;
        };
        longest = longest.max(due.saturating_duration_since(*now));
        *now = due.max(*now);
        set.paths[0].sent(nonce, *now);
    }
    longest
}

#[test]
fn on_another_network_everything_is_suspect_and_everything_has_a_new_chance() {
    let (mut set, mut now) = (PathSet::default(), Instant::now());
    set.offer(&[candidate(1, PathKind::Reflexive)], now);
    set.established(addr(2), order(0), now);
    assert_eq!(silence(&mut set, &QUIET, &mut now), Duration::from_secs(32));
    set.probe_all(now);
    assert!(!set.is_fresh(now));
    // At once, and then again soon: the first may be sent before the network carries it.
    let mut nonces = 100..;
    let mut asked = Vec::new();
    for _ in 0..3 {
        while let Some(probe) = set.poll_probe(&QUIET, now, || nonces.next().unwrap_or(0)) {
            asked.push(probe);
        }
        now += PROBE_IN_TROUBLE;
    }
    let of = |port| asked.iter().filter(|p| p.addr == addr(port)).count();
    assert_eq!((of(1), of(2)), (3, 3));
    // The other one answers and the primary does not.
    let answer = asked.iter().rfind(|p| p.addr == addr(1)).unwrap();
    set.answered(answer.nonce, now, Duration::ZERO);
    let change = set.review(&QUIET, now).unwrap();
    assert_eq!(change.endpoint, addr(1));
    assert!(set.is_fresh(now));
}

#[test]
fn from_a_relay_a_cut_path_is_looked_after() {
    let busy = Activity {
        active: true,
        ..QUIET
    };
    for (kind, activity, rarest) in [
        (PathKind::Relay, busy, 8),
        (PathKind::Relay, QUIET, 20),
        (PathKind::Host, busy, 60),
    ] {
        let (mut set, mut now) = (PathSet::default(), Instant::now());
        set.offer(
            &[candidate(1, PathKind::Reflexive), candidate(2, kind)],
            now,
        );
        set.established(addr(2), order(0), now);
        now += HOPE;
        let longest = silence(&mut set, &activity, &mut now);
        assert_eq!(longest, Duration::from_secs(rarest), "{kind:?}");
    }
}

#[test]
fn a_path_is_fresh_while_it_answers_as_often_as_it_is_asked() {
    let (mut set, start) = (PathSet::default(), Instant::now());
    assert!(!set.is_fresh(start));
    set.established(addr(1), order(0), start);
    assert!(set.is_fresh(start));
    set.poll_probe(&QUIET, start, || 7);
    let answered = start + Duration::from_millis(20);
    set.answered(7, answered, Duration::ZERO);
    // Between two keepalives.
    let later = answered + PROBE_IDLE;
    assert!(set.is_fresh(later));
    // A clock that has jumped: nothing was asked, nothing was answered, and nothing is known.
    assert!(!set.is_fresh(later + Duration::from_secs(40)));
    // Asked, and no answer: in trouble before the time is up.
    set.poll_probe(&QUIET, later, || 8);
    let trouble = later + TROUBLE_AFTER;
    set.review(&QUIET, trouble);
    assert!(!set.is_fresh(trouble));
    set.answered(8, trouble, Duration::ZERO);
    assert!(set.is_fresh(trouble));
}

/// The cable is pulled, and two seconds later it is in another network: whoever answers first there has not won yet.
#[test]
fn the_time_without_a_network_does_not_count_against_a_path() {
    let (mut set, start) = (PathSet::default(), Instant::now());
    set.established(addr(1), order(0), start);
    set.observe(addr(2));
    set.probe_all(start);
    let back = start + Duration::from_secs(2);
    set.probe_all(back);
    let mut nonces = 100..;
    while let Some(probe) = set.poll_probe(&QUIET, back, || nonces.next().unwrap_or(0)) {
        if probe.addr == addr(2) {
            set.answered(probe.nonce, back, Duration::ZERO);
        }
    }
    assert_eq!(set.review(&QUIET, back + Duration::from_millis(10)), None);
    assert!(set.review(&QUIET, back + FAILOVER_AFTER).is_none());
    let late = back + FAILOVER_AFTER + Duration::from_millis(10);
    let answered = (
        set.poll_probe(&QUIET, late, || 900),
        set.poll_probe(&QUIET, late, || 901),
    );
    for probe in [answered.0, answered.1].into_iter().flatten() {
        if probe.addr == addr(2) {
            set.answered(probe.nonce, late, Duration::ZERO);
        }
    }
    assert_eq!(set.review(&QUIET, late).map(|c| c.endpoint), Some(addr(2)));
}

/// The probes of one address in a minute, while the peer says again and again that it is there, and is not.
fn lured(set: &mut PathSet, others: &[Candidate], start: Instant) -> usize {
    let there = candidate(1, PathKind::Reflexive);
    let (mut probes, mut nonces) = (0, 0..);
    for tenth in 0..600 {
        let now = start + Duration::from_millis(100) * tenth;
        if tenth % 100 == 0 {
            set.offer(&[there], now);
        } else if tenth % 100 == 50 {
            set.offer(others, now);
        }
        while let Some(probe) = set.poll_probe(&QUIET, now, || nonces.next().unwrap_or(0)) {
            probes += usize::from(probe.addr == there.addr);
            if probe.primary {
                set.answered(probe.nonce, now, Duration::ZERO);
            }
        }
        set.review(&QUIET, now);
    }
    probes
}

/// Data takes a relay.
fn relayed(now: Instant) -> PathSet {
    let mut set = PathSet::default();
    let via = Via::Relay {
        relay: 0,
        pair: 1,
        channel: 1,
    };
    set.set_relayed(&[via.addr()], now);
    set.established(via.addr(), order(0), now);
    set
}

#[test]
fn nobody_is_probed_much_on_the_word_of_a_peer() {
    let there = [candidate(1, PathKind::Reflexive)];
    let elsewhere = [candidate(2, PathKind::Reflexive)];
    for (others, most) in [(there, 70), (elsewhere, 270)] {
        let mut now = Instant::now();
        let (mut set, mut probes) = (relayed(now), 0);
        for _minute in 0..10 {
            probes += lured(&mut set, &others, now);
            now += Duration::from_secs(60);
        }
        assert!(probes <= most, "{probes} probes in ten minutes");
    }
}

/// Probes in an hour of addresses that the peer tells of, other ones each time.
fn lured_by_others(every: u32) -> usize {
    let start = Instant::now();
    let (mut set, mut probes, mut nonces) = (relayed(start), 0, 0..);
    for tenth in 0..36_000 {
        let now = start + Duration::from_millis(100) * tenth;
        if tenth % every == 0 {
            let first = if (tenth / every).is_multiple_of(2) {
                100
            } else {
                200
            };
            let list: Vec<_> = (first..first + 16)
                .map(|port| candidate(port, PathKind::Reflexive))
                .collect();
            set.offer(&list, now);
        }
        while let Some(probe) = set.poll_probe(&QUIET, now, || nonces.next().unwrap_or(0)) {
            if probe.primary {
                set.answered(probe.nonce, now, Duration::ZERO);
            } else {
                probes += 1;
            }
        }
        set.review(&QUIET, now);
    }
    probes
}

#[test]
fn whoever_tells_of_other_addresses_each_time_has_few_of_them_tried() {
    for (every, most) in [(1, 2000), (10, 2000), (100, 12_000), (600, 20_000)] {
        let probes = lured_by_others(every);
        assert!((100..=most).contains(&probes), "{probes} in an hour");
    }
}

#[test]
fn the_word_of_a_peer_raises_less_and_less_hope() {
    let there = [candidate(1, PathKind::Reflexive)];
    let elsewhere = [candidate(2, PathKind::Reflexive)];
    let mut now = Instant::now();
    let (mut set, mut minutes) = (relayed(now), Vec::new());
    for _minute in 0..60 {
        minutes.push(lured(&mut set, &elsewhere, now));
        now += Duration::from_secs(60);
    }
    let total: usize = minutes.iter().sum();
    assert!(minutes[0] > 20 && total < 900, "{total}: {minutes:?}");
    // A path without a relay: it was no lie.
    set.offer(&there, now);
    set.move_to(there[0].addr, now);
    set.set_relayed(&[], now);
    assert_eq!(set.hopes, 0);
}

#[test]
fn what_is_not_tried_yet_is_tried_when_there_is_enough_left() {
    let now = Instant::now();
    let mut set = relayed(now);
    for first in [100, 200, 300] {
        let list: Vec<_> = (first..first + 16)
            .map(|port| candidate(port, PathKind::Reflexive))
            .collect();
        set.offer(&list, now);
    }
    assert_eq!(set.race_order(), [set.primary().unwrap().endpoint]);
    let there = [candidate(1, PathKind::Reflexive)];
    set.offer(&there, now);
    set.poll_probe(&QUIET, now, || 1);
    let next = now + NEW_ADDRESSES.every;
    assert!(set.poll_timeout(&QUIET, now).is_some_and(|at| at <= next));
    set.poll_probe(&QUIET, next, || 2);
    assert!(set.race_order().contains(&there[0].addr));
}

#[test]
fn news_of_an_address_is_followed_up_for_a_while() {
    let now = Instant::now();
    let mut set = relayed(now);
    set.offer(&[candidate(2, PathKind::Host)], now);
    let later = now + HOPE_AGAIN;
    let there = [candidate(1, PathKind::Reflexive)];
    let probes = lured(&mut set, &there, later);
    assert!((30..=40).contains(&probes), "{probes} in a minute");
}

/// The end that controls has moved the pair, and its word was lost or came too early.
#[test]
fn whoever_is_left_behind_on_a_relay_says_so() {
    let mut now = Instant::now();
    for (controls, most) in [(false, PROBE_PRIMARY), (true, PROBE_IDLE)] {
        let activity = Activity { controls, ..QUIET };
        let mut set = relayed(now);
        set.offer(&[candidate(1, PathKind::Host)], now);
        let mut nonces = 0..;
        let mut last = now;
        for _ in 0..40 {
            while let Some(probe) = set.poll_probe(&activity, now, || nonces.next().unwrap_or(0)) {
                set.answered(probe.nonce, now, Duration::ZERO);
                last = if probe.primary { now } else { last };
            }
            now += Duration::from_millis(100);
        }
        let relay = set.primary().unwrap().endpoint;
        let path = set.paths.iter().find(|p| p.addr == relay).unwrap();
        assert_eq!(set.due(path, &activity, now), Some(last + most));
    }
}

#[test]
fn an_address_told_of_again_is_asked_at_once() {
    let (mut set, mut now) = (PathSet::default(), Instant::now());
    let (old, new) = (
        candidate(1, PathKind::Reflexive),
        candidate(2, PathKind::Reflexive),
    );
    set.offer(&[old], now);
    // It has answered once, so it is not forgotten.
    set.established(old.addr, order(0), now);
    set.offer(&[new], now);
    set.move_to(new.addr, now);
    now += HOPE;
    silence(&mut set, &QUIET, &mut now);
    let ask = |set: &mut PathSet, now| {
        let mut asked = Vec::new();
        while let Some(probe) = set.poll_probe(&QUIET, now, || asked.len() as u64) {
            asked.push(probe.addr);
        }
        asked
    };
    ask(&mut set, now);
    now += PROBE_RISING;
    assert!(!ask(&mut set, now).contains(&old.addr));
    set.offer(&[old, new], now);
    assert!(ask(&mut set, now).contains(&old.addr));
}

#[test]
fn what_has_stopped_answering_makes_room_for_what_is_seen_now() {
    let now = Instant::now();
    let mut set = relayed(now);
    for n in 1..=MAX_OBSERVED as u16 {
        set.observe(addr(n));
        set.find(addr(n)).unwrap().alive(now);
    }
    set.observe(addr(50));
    assert!(set.find(addr(50)).is_none(), "those that answer stay");
    let dead = set.find(addr(3)).unwrap();
    for nonce in 0..3 {
        dead.sent(nonce, now);
    }
    set.observe(addr(51));
    assert!(set.find(addr(51)).is_some() && set.find(addr(3)).is_none());
}

/// Two relays that answer after these times, data taking the first: where does data go?
fn of_two_relays(first: Duration, second: Duration) -> SocketAddr {
    let (mut set, mut now) = (PathSet::default(), Instant::now());
    set.set_relayed(&[addr(1), addr(2)], now);
    set.established(addr(1), order(0), now);
    let busy = Activity {
        active: true,
        ..QUIET
    };
    let (mut nonce, mut answers) = (0, Vec::new());
    for _ in 0..3000 {
        now += Duration::from_millis(5);
        while let Some(probe) = set.poll_probe(&busy, now, || nonce) {
            let rtt = [first, second][usize::from(probe.addr == addr(2))];
            answers.push((now + rtt, nonce));
            nonce += 1;
        }
        answers.retain(|(at, nonce)| {
            let due = *at <= now;
            if due {
                set.answered(*nonce, now, Duration::ZERO);
            }
            !due
        });
        set.review(&busy, now);
    }
    set.primary().unwrap().endpoint
}

#[test]
fn data_leaves_a_relay_for_one_that_is_clearly_nearer_and_for_no_other() {
    let ms = Duration::from_millis;
    assert_eq!(of_two_relays(ms(80), ms(20)), addr(2));
    assert_eq!(of_two_relays(ms(80), ms(70)), addr(1));
    assert_eq!(of_two_relays(ms(20), ms(80)), addr(1));
    // Three milliseconds are not worth a move.
    assert_eq!(of_two_relays(ms(10), ms(5)), addr(1));
}
