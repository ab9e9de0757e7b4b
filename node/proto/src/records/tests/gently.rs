//! Records that are not new.

use super::super::publish::PACE;
use super::*;

#[test]
fn what_is_not_new_goes_out_gently_and_what_is_new_does_not() {
    let mut dht = Dht::default();
    let mut alice = Node::published(1, 4001, &mut dht);
    assert_eq!((dht.puts, dht.gentle), (1, 0));
    alice.pass(4 * MAX_REPUBLISH, &mut dht);
    let rounds = dht.gentle;
    assert!(rounds >= 4 && dht.puts == rounds + 1, "{}", dht.puts);
    // At its pace, whatever the rounds are, and only the bootstraps are asked whether it arrived.
    let paces = (4 * MAX_REPUBLISH).as_secs() / PACE.as_secs();
    let ones = u64::try_from(dht.ones).unwrap();
    assert!(
        (paces * 9 / 10..=paces).contains(&ones),
        "{ones} of {paces}"
    );
    assert_eq!(dht.gets, 1);
    // Something changes while a gentle round is on its way.
    alice.records.set_own(at(4002), vec![], alice.now);
    alice.pass(Duration::from_secs(10), &mut dht);
    assert_eq!((dht.puts, dht.gentle), (rounds + 2, rounds));
    // Nobody takes it any more: what comes then goes to all again.
    alice.pass(REPUBLISH, &mut dht);
    let (puts, gentle) = (dht.puts, dht.gentle);
    assert_eq!(gentle, rounds + 1);
    dht.down = true;
    alice.pass(3 * REPUBLISH, &mut dht);
    assert_eq!(dht.gentle, gentle + 1);
    assert!(dht.puts > puts + 1, "{}", dht.puts);
    dht.down = false;
    alice.pass(2 * REPUBLISH, &mut dht);
    // Whoever slept for longer than records live has all to give anew.
    let (puts, gentle) = (dht.puts, dht.gentle);
    alice.now.instant += Duration::from_secs(2 * u64::from(MAX_TTL));
    alice.pass(Duration::from_secs(1), &mut dht);
    assert_eq!((dht.puts, dht.gentle), (puts + 1, gentle));
}

#[test]
fn what_nobody_took_at_first_is_not_new_for_ever() {
    let mut dht = Dht {
        down: true,
        ..Dht::default()
    };
    let mut alice = Node::published(1, 4001, &mut dht);
    dht.down = false;
    alice.pass(Duration::from_secs(60), &mut dht);
    let all = dht.puts;
    assert_eq!(dht.gentle, 0);
    alice.pass(REPUBLISH, &mut dht);
    assert_eq!((dht.puts, dht.gentle), (all + 1, 1));
}

#[test]
fn nodes_that_started_together_give_their_first_one_at_moments_of_their_own() {
    let first_one = |n: u8| {
        let mut dht = Dht::default();
        let mut node = Node::published(n, 4001, &mut dht);
        let start = node.now.instant;
        while dht.ones == 0 && node.now.instant < start + 3 * PACE {
            node.pass(Duration::from_secs(1), &mut dht);
        }
        node.now.instant - start
    };
    let mut firsts: Vec<Duration> = (1..=16).map(first_one).collect();
    firsts.sort();
    let slack = Duration::from_secs(1);
    let (first, last) = (firsts[0], firsts[15]);
    assert!(
        first + slack >= PACE && last <= 2 * PACE + slack,
        "{firsts:?}"
    );
    let crowd = firsts.windows(6).any(|six| six[5] - six[0] < PACE / 10);
    assert!(last - first > PACE / 2 && !crowd, "{firsts:?}");
}
