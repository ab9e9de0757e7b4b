//! The table of situations without a coordinator, a test for each row and both of its answers. Rows that need more than
//! one machine's rosters are tested where the machines are: connecting in `tests/tests/dht_show1.rs`, a coordinator that
//! comes back older in `tests/tests/recovery_show.rs`, clocks in `tests/tests/sim/clocks.rs`.

use kanpachi_common::{
    UnixTime,
    roster::{Freshness, Proof},
    secret::NetworkSecret,
    wire::member::MemberMessage,
};

use super::{
    tests::{commit, exchange, id, node},
    *,
};
use crate::roster::{
    Refusal,
    tests::{NETWORK, Org, take},
};

/// Heads of these tests are signed at 1000, warn from 1100 and run out at 1200.
const FRESH: UnixTime = UnixTime(1010);
const STALE: UnixTime = UnixTime(1150);
const EXPIRED: UnixTime = UnixTime(1250);

fn may_talk(rosters: &Rosters, n: u8, at: UnixTime) -> bool {
    rosters.peers(at).get(&id(n)).is_some_and(|p| p.may_open)
}

#[test]
fn both_hold_the_same_roster_they_talk_and_a_stranger_does_not() {
    let org = Org::new();
    let (one, two) = (node(&org, 1, &[1, 2], 5), node(&org, 2, &[1, 2], 5));
    assert!(may_talk(&one, 2, FRESH) && may_talk(&two, 1, FRESH));
    assert!(!may_talk(&one, 9, FRESH));
}

#[test]
fn the_peer_holds_a_higher_epoch_its_roster_comes_before_anything_else() {
    let org = Org::new();
    let mut old = node(&org, 2, &[1, 2, 3], 5);
    let mut new = node(&org, 1, &[1, 2], 6);
    assert!(may_talk(&old, 3, FRESH));
    exchange(&mut old, &mut new);
    assert!(may_talk(&old, 1, FRESH));
    assert!(!may_talk(&old, 3, FRESH), "the eviction is applied");
}

#[test]
fn the_peer_is_evicted_and_this_node_knows_it_is_refused_and_told_why() {
    let org = Org::new();
    let (mut rest, out) = (node(&org, 1, &[1, 2], 6), node(&org, 3, &[1, 2, 3], 5));
    assert!(!may_talk(&rest, 3, FRESH));
    let question = ask(&out, &id(1), true);
    let told = answer(&rest, &id(3), &question, FRESH);
    let [MemberMessage::Gone(gone)] = &told[..] else {
        panic!("{told:?}");
    };
    assert_eq!(&gone.head, rest.roster(&NETWORK).unwrap().head().signed());
    let proof = Proof::of(out.roster(&NETWORK).unwrap(), &id(3), true).unwrap();
    assert!(matches!(
        rest.check_bearer(&proof, &id(3)),
        Err(Refusal::Stale { .. })
    ));
}

#[test]
fn the_peer_is_evicted_and_nobody_knows_it_is_let_in_until_a_witness_comes() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2, 3], 5);
    let mut witness = node(&org, 1, &[1, 2], 6);
    assert!(may_talk(&member, 3, FRESH));
    exchange(&mut member, &mut witness);
    assert!(!may_talk(&member, 3, FRESH));
}

#[test]
fn a_roster_past_its_soft_expiry_still_counts_and_is_flagged() {
    let org = Org::new();
    let member = node(&org, 2, &[1, 2], 5);
    assert_eq!(member.freshness(&NETWORK, FRESH), Some(Freshness::Green));
    assert_eq!(member.freshness(&NETWORK, STALE), Some(Freshness::Red));
    assert!(may_talk(&member, 1, STALE));
}

#[test]
fn a_roster_past_its_hard_expiry_opens_nothing_and_hands_out_no_secret_until_it_is_renewed() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2], 5);
    let secret = NetworkSecret::new(1, [5; 32]);
    let outcome = member.check_secret(NETWORK, secret);
    commit(&mut member, outcome);
    assert!(!may_talk(&member, 1, EXPIRED));
    let question = ask(&node(&org, 1, &[1, 2], 5), &id(2), false);
    let gives = |at| {
        let given = answer(&member, &id(1), &question, at);
        given.iter().any(|m| matches!(m, MemberMessage::Secret(_)))
    };
    assert!(gives(FRESH) && !gives(EXPIRED));
    // Only a signing key renews: the same roster under a later head.
    let roster = org.roster(&[1, 2]);
    let head = org.head(&roster, 5, EXPIRED.0);
    let outcome = member.check_roster(&head, roster);
    assert!(commit(&mut member, outcome));
    assert!(may_talk(&member, 1, EXPIRED));
}

#[test]
fn a_clock_before_what_was_signed_counts_as_that_time() {
    let org = Org::new();
    let member = node(&org, 2, &[1, 2], 5);
    assert_eq!(member.wall(UnixTime(3)), UnixTime(1000));
    assert!(may_talk(&member, 1, UnixTime(3)));
    assert_eq!(member.wall(UnixTime(2000)), UnixTime(2000));
}

#[test]
fn two_rosters_of_one_epoch_keep_who_is_in_and_let_nobody_new_in() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2], 5);
    take(&mut member, &org, &[1, 2, 7], 5).unwrap();
    assert!(member.is_equivocal(&NETWORK));
    assert!(may_talk(&member, 1, FRESH) && !may_talk(&member, 7, FRESH));
    assert!(take(&mut member, &org, &[1, 2, 7], 6).is_err());
}

#[test]
fn a_member_never_seen_is_let_in_by_a_valid_proof_and_by_no_other() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2], 5);
    let newcomer = node(&org, 3, &[1, 2, 3], 6);
    let proof = Proof::of(newcomer.roster(&NETWORK).unwrap(), &id(3), true).unwrap();
    assert!(
        member.check_bearer(&proof, &id(4)).is_err(),
        "somebody else's"
    );
    let hidden = Proof::of(newcomer.roster(&NETWORK).unwrap(), &id(3), false).unwrap();
    let outcome = member.check_bearer(&hidden, &id(3));
    commit(&mut member, outcome);
    assert!(!may_talk(&member, 3, FRESH), "without its tunnel key");
    let outcome = member.check_bearer(&proof, &id(3));
    commit(&mut member, outcome);
    assert!(may_talk(&member, 3, FRESH));
}

#[test]
fn a_roster_that_is_older_than_what_was_seen_is_refused_whoever_brings_it() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2], 6);
    let refused = take(&mut member, &org, &[1, 2, 3], 5);
    assert!(matches!(refused, Err(Refusal::Stale { .. })), "{refused:?}");
    assert!(take(&mut member, &org, &[1, 2, 3], 7).unwrap());
}
