//! What every store does.

use futures::executor::block_on;
use kanpachi_common::{
    NetworkId,
    name::fold,
    roster::{Caps, Page, Position},
    time::DAY,
    wire::control::Held,
};

use super::{LAN, NOW, Subject, hash_of, new_network, node, refused};
use crate::store::{Change, Changes, Login, NewInvite, Refusal, RemoveMember, SetName};

fn held(changes: &Changes) -> Held {
    Held {
        network: LAN,
        position: changes.position,
        root: changes.root,
    }
}

fn since(f: &Subject, held: Held) -> Changes {
    block_on(f.store.changes_since(LAN, vec![held])).unwrap()
}

fn remove(n: u16, by: Option<u16>) -> RemoveMember {
    RemoveMember {
        network: LAN,
        node: node(n),
        by: by.map(node),
        secret: [0xdd; 32],
        now: NOW.plus(10),
    }
}

pub(crate) fn a_join_makes_a_member_with_addresses_under_a_signed_head(f: &Subject) {
    f.make_invite(1, Some(1));
    let before = f.changes();
    let joined = f.join(1, 1).unwrap();
    assert_eq!((joined.name.as_str(), joined.changed.len()), ("m1", 1));
    let roster = block_on(f.store.roster(LAN)).unwrap();
    let member = roster.member(&node(1)).unwrap();
    assert_eq!(member.ipv4, joined.registration.ipv4);
    assert_eq!(member.ipv6, joined.registration.ipv6);
    assert_eq!(roster.head().epoch, before.position.epoch + 1);
    assert_eq!(roster.head().prev_root, before.root);
    assert!(roster.unusable().is_empty());
}

pub(crate) fn an_invite_is_used_up_and_the_same_node_may_ask_twice(f: &Subject) {
    f.make_invite(1, Some(1));
    let first = f.join(1, 1).unwrap();
    let again = f.join(1, 1).unwrap();
    assert!(again.changed.is_empty());
    assert_eq!(first.registration, again.registration);
    assert_eq!(refused(f.join(2, 1)), Refusal::InviteUsed);
    assert_eq!(refused(f.join(2, 99)), Refusal::InviteUnknown);
    assert_eq!(
        block_on(f.store.registration(node(2))).unwrap(),
        None,
        "a refused join leaves nothing behind"
    );
}

pub(crate) fn invites_for_several_and_for_any_number(f: &Subject) {
    f.make_invite(1, Some(3));
    f.make_invite(2, None);
    for n in 0..3 {
        f.join(n, 1).unwrap();
    }
    assert_eq!(refused(f.join(3, 1)), Refusal::InviteUsed);
    for n in 3..20 {
        f.join(n, 2).unwrap();
    }
}

pub(crate) fn an_expired_invite_is_refused_as_such(f: &Subject) {
    f.make_invite(1, None);
    let mut join = f.joining(1, 1);
    join.now = NOW.plus(3600);
    assert_eq!(
        refused(block_on(f.store.join_network(join))),
        Refusal::InviteExpired
    );
    f.join(1, 1).unwrap();
}

pub(crate) fn names_are_unique_whatever_their_case(f: &Subject) {
    f.make_invite(1, None);
    for (n, wanted, got) in [
        (1, "Lamp", "Lamp"),
        (2, "lamp", "lamp-2"),
        (3, "LAMP", "LAMP-3"),
    ] {
        let mut join = f.joining(n, 1);
        join.name = wanted.into();
        assert_eq!(block_on(f.store.join_network(join)).unwrap().name, got);
    }
    let set = |n, name: &str| SetName {
        node: node(n),
        network: None,
        name: name.into(),
        now: NOW,
    };
    let same = block_on(f.store.set_name(set(2, "lamp"))).unwrap();
    assert_eq!(same.names, vec![(LAN, "lamp-2".to_owned())]);
    assert!(same.changed.is_empty(), "the same name is no change");
    let own_case = block_on(f.store.set_name(set(1, "lAMP"))).unwrap();
    assert_eq!(own_case.names[0].1, "lAMP");
    let free = block_on(f.store.set_name(set(2, "tür"))).unwrap();
    assert_eq!(free.changed, vec![LAN]);
    let roster = block_on(f.store.roster(LAN)).unwrap();
    let mut names: Vec<_> = roster.members().map(|m| fold(&m.name)).collect();
    names.sort();
    assert_eq!(names, ["lamp", "lamp-3", "tür"]);
    let stranger = block_on(f.store.set_name(SetName {
        network: Some(LAN),
        ..set(9, "x")
    }));
    assert_eq!(refused(stranger), Refusal::NoNetwork);
}

pub(crate) fn the_first_by_a_founders_invite_owns_and_only_owners_invite(f: &Subject) {
    let founder = NewInvite {
        founder: true,
        ..f.invite(1, None)
    };
    block_on(f.store.create_invite(founder)).unwrap();
    f.join(1, 1).unwrap();
    f.join(2, 1).unwrap();
    let members = f.changes().members;
    let owners: Vec<_> = members
        .iter()
        .filter(|m| m.caps.has(Caps::OWNER))
        .map(|m| m.node)
        .collect();
    assert_eq!(owners, vec![node(1)]);
    let by = |n| NewInvite {
        by: Some(node(n)),
        token_hash: hash_of(100 + n),
        ..f.invite(0, Some(1))
    };
    block_on(f.store.create_invite(by(1))).unwrap();
    assert_eq!(
        refused(block_on(f.store.create_invite(by(2)))),
        Refusal::NotAllowed
    );
    assert_eq!(
        refused(block_on(f.store.create_invite(by(3)))),
        Refusal::NoNetwork
    );
}

pub(crate) fn deltas_lead_from_any_kept_epoch_to_the_newest_roster(f: &Subject) {
    f.make_invite(1, None);
    let empty = f.changes();
    let empty_roster = block_on(f.store.roster(LAN)).unwrap();
    f.join(1, 1).unwrap();
    f.join(2, 1).unwrap();
    let two = f.changes();
    let two_roster = block_on(f.store.roster(LAN)).unwrap();
    f.join(3, 1).unwrap();
    block_on(f.store.remove_member(remove(1, None))).unwrap();
    let newest = block_on(f.store.roster(LAN)).unwrap();
    for (from, roster) in [(&empty, empty_roster), (&two, two_roster)] {
        let mut changes = since(f, held(from));
        let Some(Change::Delta(delta)) = changes.answers.pop() else {
            panic!("no delta");
        };
        let reached = roster.apply(*delta, newest.head().clone()).unwrap();
        assert_eq!(reached.body(), newest.body());
    }
    let now = f.changes();
    assert!(matches!(
        since(f, held(&now)).answers[..],
        [Change::Current]
    ));
}

pub(crate) fn whoever_holds_nothing_or_something_else_gets_the_whole(f: &Subject) {
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    let nothing = Held {
        network: LAN,
        position: Position::default(),
        root: kanpachi_common::id::Hash([0; 32]),
    };
    let other_root = Held {
        root: kanpachi_common::id::Hash([1; 32]),
        ..held(&f.changes())
    };
    for held in [nothing, other_root] {
        let changes = since(f, held);
        assert!(matches!(changes.answers[..], [Change::Whole]));
        let (head, roster) = Page::join(changes.pages).unwrap();
        assert_eq!((head, roster.root()), (changes.head, changes.root));
    }
    let mut ahead = held(&f.changes());
    ahead.position.epoch += 1;
    assert!(matches!(since(f, ahead).answers[..], [Change::Ahead]));
}

pub(crate) fn a_newer_tunnel_key_is_taken_and_an_older_one_refused(f: &Subject) {
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    let login = |serial| {
        block_on(f.store.login(Login {
            node: node(1),
            tunnel: f.tunnel(1, serial),
            held: vec![],
            may_sign: true,
            now: NOW,
        }))
    };
    assert!(login(1).unwrap().changed.is_empty());
    assert_eq!(login(3).unwrap().changed, vec![LAN]);
    assert_eq!(refused(login(2)), Refusal::OldKey);
    let mut other = f.tunnel(1, 3);
    other = kanpachi_common::TunnelKey::sign(&super::key(1), &f.org, other.serial, [0xee; 32]);
    let swapped = block_on(f.store.login(Login {
        node: node(1),
        tunnel: other,
        held: vec![],
        may_sign: true,
        now: NOW,
    }));
    assert_eq!(refused(swapped), Refusal::OldKey);
    let roster = block_on(f.store.roster(LAN)).unwrap();
    assert_eq!(roster.member(&node(1)).unwrap().tunnel.serial, 3);
}

pub(crate) fn an_unknown_node_is_told_that_it_is_not_registered(f: &Subject) {
    let login = Login {
        node: node(1),
        tunnel: f.tunnel(1, 1),
        held: vec![],
        may_sign: true,
        now: NOW,
    };
    assert_eq!(block_on(f.store.login(login)).unwrap().registration, None);
}

pub(crate) fn removal_changes_the_secret_and_revokes_the_ways_back(f: &Subject) {
    let founder = NewInvite {
        founder: true,
        ..f.invite(1, None)
    };
    block_on(f.store.create_invite(founder)).unwrap();
    f.make_invite(2, None);
    f.make_invite(3, None);
    f.join(1, 1).unwrap();
    f.join(2, 2).unwrap();
    f.join(3, 3).unwrap();
    assert_eq!(
        refused(block_on(f.store.remove_member(remove(3, Some(2))))),
        Refusal::NotAllowed
    );
    let before = f.changes();
    block_on(f.store.remove_member(remove(2, Some(1)))).unwrap();
    let after = f.changes();
    assert_eq!(after.secret.id, before.secret.id + 1);
    assert_ne!(after.secret.hash(), before.secret.hash());
    assert_eq!(refused(f.join(2, 2)), Refusal::InviteUnknown);
    assert_eq!(block_on(f.store.networks_of(node(2))).unwrap(), vec![]);
    f.join(4, 3).unwrap();
    // A member may leave by itself; with an owner every open invite of the network goes.
    block_on(f.store.remove_member(remove(1, Some(1)))).unwrap();
    assert_eq!(refused(f.join(5, 3)), Refusal::InviteUnknown);
}

pub(crate) fn an_address_is_kept_for_life_and_rests_when_it_is_free(f: &Subject) {
    for invite in 1..=4 {
        let invite = NewInvite {
            expires_at: NOW.plus(100 * DAY),
            ..f.invite(invite, None)
        };
        block_on(f.store.create_invite(invite)).unwrap();
    }
    let first = f.join(1, 1).unwrap().registration.ipv4;
    block_on(f.store.remove_member(remove(1, None))).unwrap();
    // Fill all of the pool but the resting address.
    for n in 2..=14 {
        assert_ne!(f.join(n, 2).unwrap().registration.ipv4, first);
    }
    assert_eq!(refused(f.join(300, 2)), Refusal::PoolEmpty);
    let mut later = f.joining(300, 2);
    later.now = NOW.plus(10 + 30 * DAY - 1);
    assert_eq!(
        refused(block_on(f.store.join_network(later.clone()))),
        Refusal::PoolEmpty
    );
    // Whoever had it gets it back at any time.
    let mut back = f.joining(1, 3);
    back.member = kanpachi_common::MemberId([0xfe; 32]);
    let back = block_on(f.store.join_network(back)).unwrap();
    assert_eq!(back.registration.ipv4, first);
    block_on(f.store.remove_member(remove(1, None))).unwrap();
    later.now = NOW.plus(10 + 30 * DAY);
    let rested = block_on(f.store.join_network(later)).unwrap();
    assert_eq!(rested.registration.ipv4, first);
}

pub(crate) fn a_pool_does_not_leak_addresses_over_many_lives(f: &Subject) {
    let mut now = NOW;
    for round in 0..200u16 {
        let mut invite = f.invite(round, Some(1));
        invite.expires_at = now.plus(DAY);
        block_on(f.store.create_invite(invite)).unwrap();
        let mut join = f.joining(round, round);
        join.now = now;
        block_on(f.store.join_network(join)).unwrap();
        let mut gone = remove(round, None);
        gone.now = now;
        block_on(f.store.remove_member(gone)).unwrap();
        // Fourteen addresses, and a life every three days: ten of them rest at any time.
        now = now.plus(3 * DAY);
    }
}

pub(crate) fn renewal_keeps_the_root_and_moves_the_time(f: &Subject) {
    f.make_invite(1, None);
    f.join(1, 1).unwrap();
    let before = block_on(f.store.roster(LAN)).unwrap();
    let now = NOW.plus(2 * DAY);
    assert_eq!(
        block_on(f.store.renew_heads(NOW, now)).unwrap(),
        vec![],
        "none is that old"
    );
    let renewed = block_on(f.store.renew_heads(NOW.plus(DAY), now)).unwrap();
    assert_eq!(renewed, vec![LAN]);
    let after = block_on(f.store.roster(LAN)).unwrap();
    assert_eq!(after.head().position(), before.head().position());
    assert_eq!(after.head().root, before.head().root);
    assert_eq!(after.head().issued_at, now);
    // A clock that went back still makes a later head.
    block_on(f.store.renew_heads(now.plus(1), NOW)).unwrap();
    let again = block_on(f.store.roster(LAN)).unwrap();
    assert_eq!(again.head().issued_at, now.plus(1));
}

pub(crate) fn networks_have_names_of_their_own(f: &Subject) {
    let other = NetworkId([0xbb; 32]);
    block_on(f.store.create_network(new_network(other, "games"))).unwrap();
    let again = block_on(f.store.create_network(new_network(other, "games"))).unwrap();
    assert_eq!(again.network, other);
    let third = new_network(NetworkId([0xcc; 32]), "GAMES");
    assert_eq!(
        refused(block_on(f.store.create_network(third))),
        Refusal::NetworkExists
    );
    let names: Vec<_> = block_on(f.store.networks())
        .unwrap()
        .into_iter()
        .map(|n| n.name)
        .collect();
    assert_eq!(names, ["games", "lan"]);
}

pub(crate) fn the_directory_is_signed_again_only_when_it_changes(f: &Subject) {
    use kanpachi_common::org::{Address, Directory, Server};
    let server = |port| Server {
        id: node(1),
        addresses: vec![Address::new("203.0.113.7", port)],
    };
    let publish = |port, now| {
        block_on(
            f.store
                .publish_directory(vec![server(port)], vec![server(port)], 0, now),
        )
        .unwrap()
    };
    let first = publish(1, NOW);
    assert_eq!(publish(1, NOW.plus(5)), first);
    let second = publish(2, NOW.plus(9));
    let seq = |signed: &kanpachi_common::Signed<Directory>| {
        kanpachi_common::cbor::decode::<Directory>(&signed.payload, 1 << 16)
            .unwrap()
            .seq
    };
    assert_eq!((seq(&first), seq(&second)), (1, 2));
}
