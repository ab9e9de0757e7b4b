//! News that go from member to member, with nobody else there.

use kanpachi_common::{
    MemberId, SecretKey, Signed, UnixTime,
    roster::{Proof, Suspend},
    secret::NetworkSecret,
    wire::member::MemberMessage,
};

use super::*;
use crate::roster::{
    Refusal, Update,
    tests::{NETWORK, Org, take},
};

const NOW: UnixTime = UnixTime(1010);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

pub(super) fn id(n: u8) -> NodeId {
    key(n).node_id()
}

/// Member `n`, who holds these members at this epoch.
pub(super) fn node(org: &Org, n: u8, members: &[u8], epoch: u64) -> Rosters {
    let mut rosters = Rosters::new(org.id(), id(n));
    let update = rosters.check_manifest(&org.manifest()).unwrap();
    rosters.commit(update);
    take(&mut rosters, org, members, epoch).unwrap();
    rosters
}

fn suspend(by: u8, member: u8) -> Signed<Suspend> {
    let suspend = Suspend {
        org: Org::new().id(),
        network: NETWORK,
        member: MemberId([member; 32]),
        by: MemberId([by; 32]),
        seq: 1,
        epoch: 5,
    };
    Signed::sign(&suspend, &key(by))
}

pub(super) fn commit(rosters: &mut Rosters, outcome: Result<Option<Update>, Refusal>) -> bool {
    match outcome.unwrap() {
        Some(update) => {
            rosters.commit(update);
            true
        }
        None => false,
    }
}

/// One asks the other, who takes the question's own news up as the shells do. Says whether the other is behind now.
pub(super) fn exchange(asker: &mut Rosters, other: &mut Rosters) -> bool {
    let (me, them) = (asker.me(), other.me());
    let question = ask(asker, &them, false);
    for proof in newer_proofs(other, &question) {
        let outcome = other.check_bearer(&proof, &me);
        commit(other, outcome);
    }
    for suspend in &question.suspends {
        let outcome = other.check_suspend(suspend);
        commit(other, outcome);
    }
    for message in answer(other, &me, &question, NOW) {
        let outcome = check(asker, &them, message);
        commit(asker, outcome);
    }
    is_behind(other, &question)
}

fn peers(rosters: &Rosters) -> Vec<NodeId> {
    rosters.peers(NOW).into_keys().collect()
}

fn epoch(rosters: &Rosters) -> u64 {
    rosters.roster(&NETWORK).unwrap().head().epoch
}

#[test]
fn whoever_is_behind_gets_roster_and_secret_and_nothing_twice() {
    let org = Org::new();
    let mut old = node(&org, 2, &[1, 2, 3, 4], 5);
    let mut new = node(&org, 1, &[1, 2, 3], 6);
    let secret = NetworkSecret::new(1, [5; 32]);
    let outcome = new.check_secret(NETWORK, secret);
    commit(&mut new, outcome);
    assert!(!exchange(&mut old, &mut new));
    assert_eq!(epoch(&old), 6);
    assert!(!peers(&old).contains(&id(4)));
    assert_eq!(old.secrets(&NETWORK).count(), 1);
    let again = ask(&old, &id(1), false);
    assert!(answer(&new, &id(2), &again, NOW).is_empty());
}

#[test]
fn whoever_is_asked_by_somebody_ahead_knows_that_it_is_behind() {
    let org = Org::new();
    let mut old = node(&org, 2, &[1, 2, 3], 5);
    let mut new = node(&org, 1, &[1, 2, 3], 6);
    assert!(exchange(&mut new, &mut old));
    assert!(!exchange(&mut old, &mut new));
    assert_eq!(epoch(&old), 6);
}

#[test]
fn an_evicted_member_is_told_the_head_and_gets_neither_roster_nor_secret() {
    let org = Org::new();
    let evicted = node(&org, 3, &[1, 2, 3], 5);
    let mut rest = node(&org, 1, &[1, 2], 6);
    let secret = NetworkSecret::new(1, [5; 32]);
    let outcome = rest.check_secret(NETWORK, secret);
    commit(&mut rest, outcome);
    let question = ask(&evicted, &id(1), true);
    let answers = answer(&rest, &id(3), &question, NOW);
    assert!(
        matches!(&answers[..], [MemberMessage::Gone(_)]),
        "{answers:?}"
    );
    // Its proof is under an older head, which counts for nothing.
    let refused = rest.check_bearer(&question.proofs[0], &id(3));
    assert!(matches!(refused, Err(Refusal::Stale { .. })), "{refused:?}");
}

#[test]
fn a_stranger_learns_nothing_from_a_question() {
    let org = Org::new();
    let rosters = node(&org, 1, &[1, 2], 6);
    let mut question = ask(&rosters, &id(2), true);
    question.held.clear();
    question.generation = 0;
    assert!(answer(&rosters, &id(9), &question, NOW).is_empty());
}

#[test]
fn a_newcomer_is_let_in_on_its_proof_and_confirmed_by_the_roster_that_it_serves() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2], 5);
    let mut newcomer = node(&org, 3, &[1, 2, 3], 6);
    assert!(exchange(&mut newcomer, &mut member));
    let peer = member.peers(NOW).remove(&id(3)).unwrap();
    assert!(peer.may_open && peer.unconfirmed);
    assert_eq!(member.owed(&NETWORK).unwrap().epoch, 6);
    assert_eq!(epoch(&member), 5);
    exchange(&mut member, &mut newcomer);
    assert_eq!(epoch(&member), 6);
    assert!(member.owed(&NETWORK).is_none());
    assert!(!member.peers(NOW)[&id(3)].unconfirmed);
}

#[test]
fn a_head_whose_roster_is_withheld_blocks_nobody_and_lets_nobody_else_in() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2], 5);
    let newcomer = node(&org, 3, &[1, 2, 3, 4], 9);
    let proof = Proof::of(newcomer.roster(&NETWORK).unwrap(), &id(3), true).unwrap();
    let outcome = member.check_bearer(&proof, &id(3));
    assert!(commit(&mut member, outcome));
    assert_eq!(peers(&member).len(), 2, "the old member and the newcomer");
    let outcome = member.check_bearer(&proof, &id(4));
    assert!(outcome.is_err(), "a proof is its bearer's alone");
    assert!(!peers(&member).contains(&id(4)));
    let refused = take(&mut member, &org, &[1, 2, 5], 7);
    assert!(matches!(refused, Err(Refusal::Stale { .. })), "{refused:?}");
}

#[test]
fn a_proof_under_another_root_of_the_same_epoch_is_an_equivocation() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2], 5);
    for newcomer in [node(&org, 3, &[1, 2, 3], 6), node(&org, 4, &[1, 2, 4], 6)] {
        let proof = Proof::of(newcomer.roster(&NETWORK).unwrap(), &newcomer.me(), true).unwrap();
        let outcome = member.check_bearer(&proof, &newcomer.me());
        commit(&mut member, outcome);
    }
    assert!(member.is_equivocal(&NETWORK));
    assert!(!peers(&member).contains(&id(4)));
}

#[test]
fn a_proof_of_the_next_generation_leaves_an_equivocation_behind_as_its_roster_does() {
    let mut org = Org::new();
    let mut member = node(&org, 2, &[1, 2], 5);
    assert!(take(&mut member, &org, &[1, 2, 3], 5).is_ok());
    assert!(member.is_equivocal(&NETWORK));
    org.generation = 2;
    let update = member.check_manifest(&org.manifest()).unwrap();
    member.commit(update);
    assert!(member.is_equivocal(&NETWORK), "by keys alone nothing ends");
    let newcomer = node(&org, 3, &[1, 2, 3], 6);
    let proof = Proof::of(newcomer.roster(&NETWORK).unwrap(), &id(3), true).unwrap();
    let outcome = member.check_bearer(&proof, &id(3));
    assert!(commit(&mut member, outcome));
    assert!(!member.is_equivocal(&NETWORK));
    assert_eq!(take(&mut member, &org, &[1, 2, 3], 6), Ok(true));
    // Two roots of the new generation are an equivocation like any other.
    assert_eq!(take(&mut member, &org, &[1, 2, 4], 6), Ok(true));
    assert!(member.is_equivocal(&NETWORK));
}

#[test]
fn an_owners_suspension_goes_from_member_to_member_and_holds() {
    let org = Org::new();
    let mut owner = node(&org, 1, &[1, 2, 3, 4], 5);
    let mut second = node(&org, 2, &[1, 2, 3, 4], 5);
    let mut third = node(&org, 4, &[1, 2, 3, 4], 5);
    let mut out = node(&org, 3, &[1, 2, 3, 4], 5);
    let outcome = owner.check_suspend(&suspend(1, 3));
    assert!(commit(&mut owner, outcome));
    exchange(&mut owner, &mut second);
    exchange(&mut third, &mut second);
    for rosters in [&owner, &second, &third] {
        assert!(!peers(rosters).contains(&id(3)), "{}", rosters.me().short());
    }
    // It learns that from whoever it asks, and leaves the others alone.
    let question = ask(&out, &id(1), false);
    assert!(answer(&owner, &id(3), &question, NOW).is_empty());
    let outcome = out.check_suspend(&suspend(1, 3));
    commit(&mut out, outcome);
    assert!(peers(&out).is_empty());
}

#[test]
fn only_owners_suspend_and_only_members() {
    let org = Org::new();
    let mut member = node(&org, 4, &[1, 2, 3, 4], 5);
    for (by, who) in [(2, 3), (9, 3), (1, 9)] {
        let refused = member.check_suspend(&suspend(by, who));
        assert!(matches!(refused, Err(Refusal::NotOwner)), "{refused:?}");
    }
    let mut forged = suspend(1, 3);
    forged.key = key(2).public_key();
    assert!(member.check_suspend(&forged).is_err());
    assert_eq!(member.counters().suspend_refused, 3);
    assert_eq!(peers(&member).len(), 3);
}

#[test]
fn a_suspension_ends_with_the_membership_and_not_with_any_newer_roster() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2, 3], 5);
    let outcome = member.check_suspend(&suspend(1, 3));
    commit(&mut member, outcome);
    take(&mut member, &org, &[1, 2, 3, 4], 6).unwrap();
    assert!(
        !peers(&member).contains(&id(3)),
        "signed by one who had not heard"
    );
    assert_eq!(member.suspends().count(), 1);
    take(&mut member, &org, &[1, 2, 4], 7).unwrap();
    assert_eq!(member.suspends().count(), 0);
}

#[test]
fn a_suspended_member_is_not_let_in_by_a_newer_proof() {
    let org = Org::new();
    let mut member = node(&org, 2, &[1, 2, 3], 5);
    let outcome = member.check_suspend(&suspend(1, 3));
    commit(&mut member, outcome);
    let newer = node(&org, 3, &[1, 2, 3, 4], 6);
    let proof = Proof::of(newer.roster(&NETWORK).unwrap(), &id(3), true).unwrap();
    let outcome = member.check_bearer(&proof, &id(3));
    commit(&mut member, outcome);
    assert!(!peers(&member).contains(&id(3)));
}

#[test]
fn a_newer_head_of_the_same_roster_renews_it_by_hand_of_a_member() {
    let org = Org::new();
    let mut old = node(&org, 2, &[1, 2], 5);
    let mut new = node(&org, 1, &[1, 2], 5);
    let roster = org.roster(&[1, 2]);
    let head = org.head(&roster, 5, 5000);
    let outcome = new.check_roster(&head, roster);
    commit(&mut new, outcome);
    exchange(&mut old, &mut new);
    let issued = old.roster(&NETWORK).unwrap().head().issued_at;
    assert_eq!(issued, UnixTime(5000));
}

fn give_secret(rosters: &mut Rosters) {
    let outcome = rosters.check_secret(NETWORK, NetworkSecret::new(1, [5; 32]));
    commit(rosters, outcome);
}

/// A machine with members 2 to `n`.
fn spread(n: u8) -> (Spread, Rosters, Instant) {
    let org = Org::new();
    let members: Vec<u8> = (1..=n).collect();
    let mut rosters = node(&org, 1, &members, 5);
    give_secret(&mut rosters);
    let mut spread = Spread::default();
    spread.set_peers(&(2..=n).map(id).collect());
    (spread, rosters, Instant::now())
}

#[test]
fn a_member_whose_tunnel_came_up_is_asked_once_and_again_after_a_while() {
    let (mut spread, mut rosters, now) = spread(3);
    spread.handle_up(&id(2), now);
    assert_eq!(spread.poll_ask(&rosters, now), Some(id(2)));
    assert_eq!(spread.poll_ask(&rosters, now), None);
    spread.handle_ended(&id(2), true, &mut rosters, now);
    assert_eq!(spread.poll_ask(&rosters, now), None);
    assert_eq!(spread.poll_timeout(), Some(now + REFRESH));
    // Over a connection that is there anyway, or else more seldom.
    for round in 1..FARTHER {
        assert_eq!(spread.poll_ask(&rosters, now + round * REFRESH), None);
    }
    let later = now + FARTHER * REFRESH;
    assert_eq!(spread.poll_ask(&rosters, later), Some(id(2)));
}

#[test]
fn nodes_that_started_together_do_not_all_ask_at_one_moment() {
    let first = |me: u8| {
        let (mut spread, mut rosters, now) = spread(3);
        spread.set_own(&NodeId([me; 32]));
        spread.handle_up(&id(2), now);
        spread.poll_ask(&rosters, now);
        spread.handle_ended(&id(2), true, &mut rosters, now);
        spread.poll_ask(&rosters, now);
        spread.poll_timeout().unwrap() - now
    };
    let firsts = [0, 64, 128, 255].map(first);
    assert!(
        firsts.is_sorted_by(|a, b| *a > *b + REFRESH / 10),
        "{firsts:?}"
    );
    assert!(
        firsts[0] == REFRESH && firsts[3] > REFRESH / 2,
        "{firsts:?}"
    );
}

#[test]
fn a_member_that_cannot_be_asked_is_tried_less_and_less_often() {
    let (mut spread, mut rosters, mut now) = spread(2);
    spread.handle_wanted(&id(2), now);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        let due = spread.poll_timeout().unwrap();
        pauses.push((due - now).as_millis());
        now = due;
        assert_eq!(spread.poll_ask(&rosters, now), Some(id(2)));
        spread.handle_ended(&id(2), false, &mut rosters, now);
    }
    assert_eq!(
        pauses,
        [700, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]
    );
    spread.handle_unwanted(&id(2));
    assert_eq!(spread.poll_timeout(), None);
}

#[test]
fn two_of_many_who_tell_the_same_news_are_asked() {
    let (mut spread, mut rosters, now) = spread(9);
    for n in 2..=9 {
        spread.handle_epochs(&id(n), 1, &[(NETWORK, 6)], &rosters, now);
    }
    let asked: Vec<_> = std::iter::from_fn(|| spread.poll_ask(&rosters, now)).collect();
    assert_eq!(asked.len(), 2);
    // The first fails: somebody else is asked.
    spread.handle_ended(&asked[0], false, &mut rosters, now);
    let next = spread.poll_ask(&rosters, now + WAIT);
    assert!(next.is_some_and(|n| !asked.contains(&n)), "{next:?}");
    // The roster is here: nobody is asked for it any more.
    let org = Org::new();
    let mut newer = node(&org, 1, &[1, 2, 3, 4, 5, 6, 7, 8, 9], 6);
    give_secret(&mut newer);
    assert_eq!(spread.poll_ask(&newer, now + WAIT + WAIT), None);
}

#[test]
fn all_live_members_are_asked_when_something_changed_but_not_all_at_once() {
    let (mut spread, mut rosters, now) = spread(40);
    for n in 2..=40 {
        spread.handle_up(&id(n), now);
    }
    let mut asked = BTreeSet::new();
    while let Some(node) = spread.poll_ask(&rosters, now) {
        asked.insert(node);
    }
    assert_eq!(asked.len(), MAX_ASKING);
    // What changes meanwhile is told when the question under way has ended.
    spread.handle_changed(now);
    for node in &asked {
        spread.handle_ended(node, true, &mut rosters, now);
    }
    let mut all = BTreeSet::new();
    for _ in 0..100 {
        while let Some(node) = spread.poll_ask(&rosters, now) {
            all.insert(node);
            spread.handle_ended(&node, true, &mut rosters, now);
        }
    }
    assert_eq!(all.len(), 39);
}

#[test]
fn a_secret_that_is_lacking_is_asked_for_until_it_is_here() {
    let (mut spread, _, mut now) = spread(5);
    let mut rosters = node(&Org::new(), 1, &[1, 2, 3, 4, 5], 5);
    for n in 2..=5 {
        spread.handle_up(&id(n), now);
    }
    let mut asked = BTreeSet::new();
    let begin = now;
    while now < begin + Duration::from_secs(20) {
        while let Some(node) = spread.poll_ask(&rosters, now) {
            spread.handle_ended(&node, true, &mut rosters, now);
            if now > begin {
                asked.insert(node);
            }
        }
        now = spread.poll_timeout().unwrap();
    }
    assert_eq!(asked.len(), 4, "all are asked in turn");
    give_secret(&mut rosters);
    assert_eq!(spread.poll_ask(&rosters, now), None);
    assert!(spread.poll_timeout().unwrap() > now + Duration::from_secs(60));
}

#[test]
fn a_member_of_whom_nothing_is_known_is_asked_while_it_is_sought_and_no_longer() {
    let (mut spread, mut rosters, now) = spread(3);
    let sought = BTreeSet::from([id(2)]);
    spread.set_sought(&sought, now);
    assert_eq!(spread.poll_timeout(), Some(now + PATIENCE));
    assert_eq!(spread.poll_ask(&rosters, now + PATIENCE), Some(id(2)));
    spread.handle_ended(&id(2), false, &mut rosters, now + PATIENCE);
    // Said again it is no news, and the pause stays what it is.
    spread.set_sought(&sought, now + PATIENCE);
    assert_eq!(spread.poll_timeout(), Some(now + PATIENCE + RETRY));
    spread.set_sought(&BTreeSet::new(), now + PATIENCE);
    assert_eq!(spread.poll_timeout(), None);
    // Whoever has a tunnel is asked for the sake of that.
    spread.handle_up(&id(3), now);
    assert_eq!(spread.poll_ask(&rosters, now), Some(id(3)));
    spread.handle_ended(&id(3), true, &mut rosters, now);
    spread.set_sought(&BTreeSet::new(), now);
    assert_eq!(spread.poll_timeout(), Some(now + REFRESH));
}

/// Members 2 and up have tunnels, and have been asked.
fn acquainted(n: u8) -> (Spread, Rosters, Instant) {
    let (mut spread, mut rosters, now) = spread(n);
    for n in 2..=n {
        spread.handle_up(&id(n), now);
    }
    while let Some(node) = spread.poll_ask(&rosters, now) {
        spread.handle_ended(&node, true, &mut rosters, now);
    }
    (spread, rosters, now + MAX_RETRY)
}

#[test]
fn an_answer_that_does_not_bring_what_was_claimed_is_none() {
    let (mut spread, mut rosters, mut now) = acquainted(2);
    spread.handle_epochs(&id(2), 1, &[(NETWORK, 6)], &rosters, now);
    let mut pauses = Vec::new();
    assert_eq!(spread.poll_ask(&rosters, now), Some(id(2)));
    for _ in 0..11 {
        spread.handle_ended(&id(2), true, &mut rosters, now);
        let asked = now;
        // The time comes for those at rest, and it is none of them.
        while spread.poll_ask(&rosters, now).is_none() {
            now = spread.poll_timeout().unwrap();
        }
        pauses.push((now - asked).as_secs());
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
    // It is made good, and believed again.
    take(&mut rosters, &Org::new(), &[1, 2], 6).unwrap();
    spread.handle_ended(&id(2), true, &mut rosters, now);
    spread.handle_epochs(&id(2), 1, &[(NETWORK, 7)], &rosters, now);
    assert_eq!(spread.poll_ask(&rosters, now), Some(id(2)));
}

#[test]
fn members_that_claim_what_they_do_not_bring_hold_no_witness_up() {
    let (mut spread, mut rosters, mut now) = acquainted(5);
    let liars = [id(2), id(3)];
    let mut claim = 1000;
    let (mut held, mut news, mut lies) = (5, Vec::new(), 0);
    let mut under_way: Vec<(Instant, NodeId)> = Vec::new();
    let begin = now;
    while now < begin + Duration::from_secs(300) {
        // They say something new all the time, and take as long as an answer may.
        for liar in &liars {
            claim += 1;
            spread.handle_epochs(liar, 1, &[(NETWORK, claim)], &rosters, now);
        }
        for (at, epoch) in [(1, 6), (200, 7)] {
            if now == begin + Duration::from_secs(at) {
                held = epoch;
                for witness in [id(4), id(5)] {
                    spread.handle_epochs(&witness, 1, &[(NETWORK, held)], &rosters, now);
                }
            }
        }
        for (_, node) in under_way.extract_if(.., |(ends, _)| *ends <= now) {
            spread.handle_ended(&node, false, &mut rosters, now);
        }
        while let Some(node) = spread.poll_ask(&rosters, now) {
            if liars.contains(&node) {
                lies += 1;
                under_way.push((now + Duration::from_secs(20), node));
            } else {
                if held > epoch(&rosters) {
                    news.push((now - begin).as_secs());
                }
                take(&mut rosters, &Org::new(), &[1, 2, 3, 4, 5], held).unwrap();
                spread.handle_ended(&node, true, &mut rosters, now);
            }
        }
        now += Duration::from_millis(100);
    }
    assert!(matches!(news[..], [0..=6, 200]), "{news:?}");
    assert!(lies <= 24, "{lies}");
}

#[test]
fn whoever_did_not_bring_what_it_claimed_takes_nobodys_place() {
    let (mut spread, mut rosters, now) = acquainted(4);
    let liars = [id(2), id(3)];
    for liar in &liars {
        spread.handle_epochs(liar, 1, &[(NETWORK, 1000)], &rosters, now);
        assert_eq!(spread.poll_ask(&rosters, now), Some(*liar));
        spread.handle_ended(liar, true, &mut rosters, now);
    }
    let now = now + RETRY;
    let again = [
        spread.poll_ask(&rosters, now),
        spread.poll_ask(&rosters, now),
    ];
    assert_eq!(again, liars.map(Some));
    spread.handle_epochs(&id(4), 1, &[(NETWORK, 6)], &rosters, now);
    assert_eq!(spread.poll_ask(&rosters, now), Some(id(4)));
}

#[test]
fn what_is_to_be_told_is_told_whatever_comes_meanwhile() {
    for answered in [false, true] {
        let (mut spread, mut rosters, now) = acquainted(3);
        spread.handle_epochs(&id(2), 1, &[(NETWORK, 6)], &rosters, now);
        assert_eq!(spread.poll_ask(&rosters, now), Some(id(2)));
        // Something changes while it is asked for its news, and it has others by then.
        spread.handle_changed(now);
        assert_eq!(spread.poll_ask(&rosters, now), Some(id(3)));
        spread.handle_epochs(&id(2), 1, &[(NETWORK, 6)], &rosters, now);
        spread.handle_ended(&id(2), answered, &mut rosters, now);
        // Member 3 brings them.
        take(&mut rosters, &Org::new(), &[1, 2, 3], 6).unwrap();
        spread.handle_ended(&id(3), true, &mut rosters, now);
        assert_eq!(spread.poll_ask(&rosters, now), Some(id(2)), "{answered}");
        spread.handle_ended(&id(2), true, &mut rosters, now);
        assert_eq!(spread.poll_ask(&rosters, now), None);
    }
}

#[test]
fn what_was_to_be_told_is_told_again_when_the_question_broke_off() {
    let (mut spread, mut rosters, now) = acquainted(3);
    spread.handle_epochs(&id(2), 1, &[(NETWORK, 6)], &rosters, now);
    spread.handle_changed(now);
    let asked: Vec<_> = std::iter::from_fn(|| spread.poll_ask(&rosters, now)).collect();
    assert_eq!(asked.len(), 2);
    spread.handle_ended(&id(2), false, &mut rosters, now);
    take(&mut rosters, &Org::new(), &[1, 2, 3], 6).unwrap();
    spread.handle_ended(&id(3), true, &mut rosters, now);
    assert_eq!(spread.poll_ask(&rosters, now + RETRY), Some(id(2)));
    spread.handle_ended(&id(2), true, &mut rosters, now + RETRY);
    assert_eq!(spread.poll_ask(&rosters, now + 2 * RETRY), None);
}

/// Who is asked in so many rounds in which nothing happens.
fn asked_at_rest(spread: &mut Spread, rosters: &mut Rosters, rounds: usize) -> Vec<NodeId> {
    let mut asked = Vec::new();
    for _ in 0..rounds {
        let now = spread.poll_timeout().unwrap();
        let round: Vec<_> = std::iter::from_fn(|| spread.poll_ask(rosters, now)).collect();
        let farther = spread.refreshed.is_multiple_of(FARTHER);
        assert_eq!(round.len(), usize::from(farther || !spread.near.is_empty()));
        for node in round {
            assert_eq!(spread.takes_records(&node), farther);
            spread.handle_ended(&node, true, rosters, now);
            asked.push(node);
        }
    }
    asked
}

#[test]
fn at_rest_one_member_is_asked_at_a_time_and_all_in_turn() {
    let (mut spread, mut rosters, now) = acquainted(21);
    let asked = asked_at_rest(&mut spread, &mut rosters, 20 * FARTHER as usize);
    assert_eq!(asked.len(), 20);
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), 20);
    // A tunnel that comes up is news.
    spread.handle_down(&id(2), now);
    spread.handle_up(&id(2), now);
    assert_eq!(spread.poll_ask(&rosters, now), Some(id(2)));
}

#[test]
fn at_rest_those_are_asked_who_are_connected_and_now_and_then_each_of_the_others() {
    let (mut spread, mut rosters, _) = acquainted(21);
    let near = BTreeSet::from([id(5), id(9), id(13)]);
    spread.set_near(near.clone());
    let others = 17;
    let rounds = others * FARTHER as usize;
    let asked = asked_at_rest(&mut spread, &mut rosters, rounds);
    let count = |node: &NodeId| asked.iter().filter(|n| *n == node).count();
    let far: Vec<_> = asked.iter().filter(|n| !near.contains(n)).collect();
    assert_eq!(far.len(), others);
    assert_eq!(far.iter().collect::<BTreeSet<_>>().len(), others);
    for node in &near {
        let least = others * (FARTHER as usize - 1) / near.len();
        assert!(count(node) >= least, "{} times", count(node));
    }
    // Who is near and has no tunnel any more is not asked for the sake of that.
    for node in &near {
        spread.handle_unwanted(node);
    }
    spread.set_near(BTreeSet::new());
    let asked = asked_at_rest(&mut spread, &mut rosters, rounds);
    assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), others);
    // Whatever happens is worth all that it says.
    let (node, now) = (id(21), spread.poll_timeout().unwrap());
    spread.set_near(BTreeSet::from([node]));
    assert_eq!(spread.poll_ask(&rosters, now).map(|_| ()), Some(()));
    spread.handle_changed(now);
    assert!(spread.takes_records(&node));
}

#[test]
fn members_are_asked_in_turn() {
    let (mut spread, mut rosters, now) = acquainted(4);
    let mut asked = Vec::new();
    spread.handle_changed(now);
    for _ in 0..6 {
        let node = spread.poll_ask(&rosters, now).unwrap();
        spread.handle_ended(&node, true, &mut rosters, now);
        // The first in order has always something new.
        spread.handle_ahead(&id(2), now);
        asked.push(node);
    }
    for n in 2..=4 {
        assert!(asked.contains(&id(n)), "{asked:?}");
    }
}
