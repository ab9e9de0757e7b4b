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
    active: false,
    wanted: true,
    eager: None,
    waiting_since: None,
    controls: true,
};

#[test]
fn the_number_of_addresses_is_bounded() {
    let mut set = PathSet::default();
    let many: Vec<_> = (1..=40).map(|n| candidate(n, PathKind::Host)).collect();
    assert!(set.offer(&many));
    assert!(!set.offer(&many));
    assert_eq!(set.race_order().len(), MAX_CANDIDATES);
    for n in 100..200 {
        set.observe(addr(n));
    }
    assert_eq!(set.race_order().len(), MAX_CANDIDATES + MAX_OBSERVED);
    // What is no longer offered and never worked is forgotten.
    set.offer(&[]);
    assert_eq!(set.race_order().len(), MAX_OBSERVED);
}

#[test]
fn the_race_starts_with_what_worked_and_ends_with_relays() {
    let mut set = PathSet::default();
    let now = Instant::now();
    set.offer(&[
        candidate(1, PathKind::Relay),
        candidate(2, PathKind::Reflexive),
        candidate(3, PathKind::Host),
    ]);
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
    set.offer(&[candidate(1, PathKind::Host)]);
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
    assert_eq!(set.answered(8, later), None);
    assert_eq!(
        set.answered(7, later).unwrap().rtt,
        Some(Duration::from_millis(30))
    );
    assert_eq!(set.answered(7, later), None);
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
    set.offer(&[candidate(1, PathKind::Host), candidate(2, PathKind::Host)]);
    set.established(addr(1), order(0), now);
    let mut nonce = 0;
    while let Some(probe) = set.poll_probe(&QUIET, now, || {
        nonce += 1;
        nonce
    }) {
        set.answered(probe.nonce, now);
    }
    assert_eq!(set.heard(addr(2), order(1), true, now), None);
    assert!(set.heard(addr(9), order(2), true, now).is_some());
    assert!(set.heard(addr(2), order(3), false, now).is_some());
}
