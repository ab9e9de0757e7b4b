//! Who gets a session, who is paired with whom, and who is out and when.

use super::*;

#[test]
fn a_stranger_gets_no_session_and_an_empty_mirror_admits_nobody_without_a_proof() {
    let mut world = World::new();
    let mut anybody = world.connect(10);
    let said = world.open(&mut anybody, vec![], true);
    assert_eq!(refused_for(&said), Reason::NotAMember);
    // Said is said: what comes after it on the stream does not count.
    assert!(world.open(&mut anybody, vec![], true).is_empty());

    let proof = world.proof(1, 1, &[10, 11], 10);
    let mut unvouched = world.connect(10);
    let said = world.open(&mut unvouched, vec![proof.clone()], false);
    assert_eq!(refused_for(&said), Reason::NotAMember, "whose keys?");
    let mut thief = world.connect(77);
    let said = world.open(&mut thief, vec![proof.clone()], true);
    assert_eq!(
        refused_for(&said),
        Reason::NotAMember,
        "somebody else's proof"
    );
    let mut member = world.connect(10);
    let said = world.open(&mut member, vec![proof], true);
    assert!(matches!(said[..], [RelayMessage::Opened(_)]), "{said:?}");

    world.hears(1, 1, &[10, 11]);
    let mut stranger = world.connect(77);
    let said = world.open(&mut stranger, vec![], false);
    assert_eq!(refused_for(&said), Reason::NotAMember);
    // The directory names the server, which is no member of any network.
    let mut server = world.connect(9);
    let said = world.open(&mut server, vec![], false);
    assert_eq!(refused_for(&said), Reason::NotAMember);
    let other = Open {
        min_version: 1,
        max_version: 1,
        org: OrgId([0; 32]),
        proofs: vec![],
        manifest: None,
        ext: vec![],
    };
    let mut lost = world.connect(11);
    assert_eq!(
        refused_for(&world.open_with(&mut lost, &other)),
        Reason::Organisation
    );
    let mut future = world.connect(11);
    let open = Open {
        min_version: 9,
        max_version: 9,
        org: world.org.id(),
        ..other
    };
    assert_eq!(
        refused_for(&world.open_with(&mut future, &open)),
        Reason::Version
    );
}

#[test]
fn an_evicted_member_with_an_old_proof_is_refused_with_the_head_that_lacks_it() {
    for hard in [None, Some(1 << 40)] {
        let mut world = World::with(Org { hard, ..Org::new() }, limits());
        world.hears(1, 1, &[10, 11]);
        let old = world.proof(1, 1, &[10, 11], 11);
        world.hears(1, 2, &[10]);
        let mut evicted = world.connect(11);
        let said = world.open(&mut evicted, vec![old], true);
        let [RelayMessage::Refused(refused)] = &said[..] else {
            panic!("{said:?}");
        };
        assert_eq!(refused.reason, Reason::NotAMember);
        let manifest =
            kanpachi_common::org::Manifest::verify(&world.org.manifest(), &world.org.id());
        let head = refused.head.as_ref().unwrap();
        let head = kanpachi_common::roster::Head::verify(head, &manifest.unwrap()).unwrap();
        let position = Position {
            generation: 1,
            epoch: 2,
        };
        assert_eq!(head.position(), position);
    }
}

#[test]
fn an_eviction_ends_session_channels_and_forwarding_at_once() {
    let mut world = World::with(
        Org {
            hard: None,
            ..Org::new()
        },
        limits(),
    );
    let (a, b) = world.pair_of_members();
    assert_eq!(world.data(at(10), &a, 3, b"before").len(), 1);
    let _ = (a.said(), b.said());
    world.hears(1, 2, &[10, 12]);
    assert_eq!(b.refusal().reason, Reason::NotAMember);
    assert_eq!(a.states(), [(3, PairState::Absent)]);
    assert_eq!(world.data(at(11), &b, 5, b"from the evicted"), []);
    assert_eq!(world.data(at(10), &a, 3, b"to the evicted"), []);
    assert_eq!(world.datagram(at(11), &b.bind([0; 16])), []);
    // With a proof that is still properly signed it does not come back, by a new stream or by renewing.
    let old = world.proof(1, 1, &[10, 11, 12], 11);
    let mut again = world.connect(11);
    let said = world.open(&mut again, vec![old], true);
    assert_eq!(refused_for(&said), Reason::NotAMember);
}

#[test]
fn a_proof_counts_until_the_relay_hears_of_something_newer() {
    let mut world = World::new();
    world.hears(1, 1, &[10]);
    // The mirror is behind: 11 joined at epoch 2.
    let proof = world.proof(1, 2, &[10, 11], 11);
    let mut early = world.connect(11);
    let said = world.open(&mut early, vec![proof.clone()], false);
    assert!(matches!(said[..], [RelayMessage::Opened(_)]), "{said:?}");
    let now = world.now();
    let judge = &world.mirror;
    early.claims.prove(judge, &early.node, &[proof], now.wall);
    world
        .shared
        .core()
        .renew(early.id, early.claims.clone(), judge, now);
    assert!(early.said().is_empty());
    world.hears(1, 3, &[10]);
    assert_eq!(early.refusal().reason, Reason::NotAMember);
}

#[test]
fn a_proof_of_keys_that_were_replaced_counts_no_more() {
    let mut world = World::new();
    let proof = world.proof(1, 1, &[10, 11], 10);
    let mut member = world.connect(10);
    let said = world.open(&mut member, vec![proof.clone()], true);
    assert!(matches!(said[..], [RelayMessage::Opened(_)]), "{said:?}");
    let old = world.org.manifest();
    world.org.generation = 2;
    world.hears(2, 1, &[12]);
    assert_eq!(member.refusal().reason, Reason::NotAMember);
    let open = Open {
        min_version: 1,
        max_version: 1,
        org: world.org.id(),
        proofs: vec![proof],
        manifest: Some(old),
        ext: vec![],
    };
    let mut again = world.connect(10);
    assert_eq!(
        refused_for(&world.open_with(&mut again, &open)),
        Reason::NotAMember
    );
}

#[test]
fn an_expired_proof_is_none() {
    let mut world = World::with(
        Org {
            hard: Some(kanpachi_common::roster::SOFT_SECONDS),
            ..Org::new()
        },
        limits(),
    );
    let proof = world.proof(1, 1, &[10, 11], 10);
    let open = Open {
        min_version: 1,
        max_version: 1,
        org: world.org.id(),
        proofs: vec![proof],
        manifest: Some(world.org.manifest()),
        ext: vec![],
    };
    let admitted = |world: &World, wall: u64| {
        let admitted = examine(&world.mirror, &node(10), &open, UnixTime(wall)).unwrap();
        let standing = admitted.claims.standing(&world.mirror, &node(10));
        !standing.networks.is_empty()
    };
    let end = WALL + kanpachi_common::roster::SOFT_SECONDS;
    assert!(admitted(&world, end - 1) && !admitted(&world, end));
    let mut member = world.connect(10);
    let said = world.open_with(&mut member, &open);
    assert!(matches!(said[..], [RelayMessage::Opened(_)]), "{said:?}");
}

#[test]
fn only_members_of_one_network_are_paired_and_only_for_as_long() {
    let mut world = World::new();
    world.hears(1, 1, &[10, 11]);
    world.hears(2, 1, &[11, 12]);
    let a = world.member(10, at(10));
    let b = world.member(11, at(11));
    let c = world.member(12, at(12));
    world.pair(&a, 1, &c);
    world.pair(&c, 1, &a);
    assert_eq!(a.states(), [(1, PairState::Refused)]);
    assert_eq!(c.states(), [(1, PairState::Refused)]);
    world.pair(&b, 1, &a);
    world.pair(&b, 2, &c);
    assert!(
        a.said()
            .iter()
            .any(|m| matches!(m, RelayMessage::Wanted(Wanted { peer }) if *peer == b.node))
    );
    world.pair(&a, 2, &b);
    world.pair(&c, 2, &b);
    assert_eq!(world.data(at(11), &b, 2, b"x").len(), 1);
    assert_eq!(world.data(at(10), &a, 1, b"x"), []);
    let _ = b.said();
    // 11 leaves network 2 and stays in network 1.
    world.hears(2, 2, &[12]);
    assert_eq!(b.states(), [(2, PairState::Refused)]);
    assert_eq!(world.data(at(11), &b, 2, b"x"), []);
    assert_eq!(world.data(at(12), &c, 2, b"x"), []);
    assert_eq!(world.data(at(11), &b, 1, b"x").len(), 1);
    let say = RelayMessage::Pair(Pair {
        channel: 9,
        peer: a.node,
    });
    world.say(&a, &say);
    assert_eq!(
        a.states().last(),
        Some(&(9, PairState::Refused)),
        "with oneself"
    );
}

#[test]
fn a_session_ends_when_nobody_renews_it_and_not_with_its_stream() {
    let mut world = World::new();
    let (a, b) = world.pair_of_members();
    world.shared.core().stream_closed(a.id);
    let lifetime = u64::try_from(LIFETIME.as_nanos()).unwrap();
    world.wait(lifetime - SECOND);
    assert_eq!(world.data(at(11), &b, 5, b"x").len(), 1);
    assert_eq!(world.data(at(10), &a, 3, b"x").len(), 1);
    let now = world.now();
    let claims = b.claims.clone();
    world.shared.core().renew(b.id, claims, &world.mirror, now);
    let _ = b.said();
    world.wait(SECOND);
    assert_eq!(b.states(), [(5, PairState::Absent)]);
    assert_eq!(world.data(at(10), &a, 3, b"x"), []);
    assert_eq!(world.data(at(11), &b, 5, b"x"), []);
    world.wait(lifetime);
    assert_eq!(b.refusal().reason, Reason::Expired);
    assert_eq!(world.shared.core().sizes(), (0, 0));
}

#[test]
fn a_new_stream_of_the_same_node_takes_the_place_of_the_old_one() {
    let mut world = World::new();
    let (a, b) = world.pair_of_members();
    let _ = (a.said(), b.said());
    let again = world.member(10, at(99));
    assert_eq!(a.refusal().reason, Reason::Replaced);
    assert_eq!(
        b.states(),
        [(5, PairState::Absent), (5, PairState::Waiting)]
    );
    assert_eq!(world.data(at(10), &a, 3, b"x"), []);
    assert_eq!(world.data(at(11), &b, 5, b"x"), []);
    world.pair(&again, 7, &b);
    assert_eq!(b.states(), [(5, PairState::Open)]);
    assert_eq!(world.data(at(11), &b, 5, b"x")[0].0, at(99));
    assert_eq!(world.shared.core().sizes(), (2, 1));
    world.shared.core().stream_closed(a.id);
    assert_eq!(
        world.data(at(11), &b, 5, b"x").len(),
        1,
        "the old stream's end changes nothing"
    );
}

#[test]
fn there_are_so_many_sessions_and_no_more() {
    let mut world = World::new();
    let members: Vec<u8> = (10..20).collect();
    world.hears(1, 1, &members);
    let mut clients = BTreeMap::new();
    for seed in 10..18 {
        clients.insert(seed, world.member(seed, at(seed)));
    }
    let mut one_more = world.connect(18);
    let said = world.open(&mut one_more, vec![], false);
    assert_eq!(refused_for(&said), Reason::Full);
    // Who has one may have another instead of it.
    world.member(17, at(17));
}

#[test]
fn a_message_out_of_place_ends_the_stream_and_keeps_nothing() {
    let mut world = World::new();
    world.hears(1, 1, &[10, 11]);
    let early = world.connect(10);
    world.say(&early, &RelayMessage::Unpair(Channel { channel: 1 }));
    assert_eq!(early.refusal().reason, Reason::Malformed);
    let mut twice = world.connect(10);
    world.open(&mut twice, vec![], false);
    let said = world.open(&mut twice, vec![], false);
    assert_eq!(refused_for(&said), Reason::Malformed);
    let renew = world.connect(11);
    let now = world.now();
    let mut core = world.shared.core();
    core.renew(renew.id, Claims::default(), &world.mirror, now);
    assert_eq!(renew.refusal().reason, Reason::Malformed);
    let _ = Renew { proofs: vec![] };
}

#[test]
fn notices_of_one_who_opens_and_closes_all_day_are_bounded() {
    let mut world = World::new();
    world.hears(1, 1, &[10, 11]);
    let a = world.member(10, at(10));
    let b = world.member(11, at(11));
    for _ in 0..2000 {
        world.pair(&a, 1, &b);
        world.say(&a, &RelayMessage::Unpair(Channel { channel: 1 }));
    }
    let wanted = b.said().len();
    assert!((200..300).contains(&wanted), "{wanted}");
}

#[test]
fn whoever_the_rosters_name_needs_no_slot_of_the_strangers() {
    let world = World::new();
    world.hears(1, 1, &[10]);
    let slots = Arc::new(tokio::sync::Semaphore::new(1));
    let slot = |of| super::super::service::slot(&world.mirror, &node(of), &slots);
    let stranger = slot(77);
    assert!(matches!(stranger, Some(Some(_))));
    assert!(slot(78).is_none(), "one is all there is");
    assert!(matches!(slot(10), Some(None)), "a member needs none");
}

#[test]
fn a_proof_of_a_network_that_may_have_ended_and_been_forgotten_shows_nothing() {
    let mut world = World::new();
    let proof = world.proof(1, 1, &[10, 11], 10);
    crate::mirror::tests::forget(&world.mirror, UnixTime(WALL));
    let mut member = world.connect(10);
    let said = world.open(&mut member, vec![proof.clone()], true);
    assert_eq!(refused_for(&said), Reason::NotAMember);
    crate::mirror::tests::forget(&world.mirror, UnixTime(WALL - 1));
    let mut member = world.connect(10);
    let said = world.open(&mut member, vec![proof], true);
    assert!(matches!(said[..], [RelayMessage::Opened(_)]), "{said:?}");
}
