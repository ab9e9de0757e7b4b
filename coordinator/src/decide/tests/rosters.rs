//! What members hold after joins, changes, absence, removal and renewal.

use futures::executor::block_on;
use kanpachi_common::{
    NetworkId,
    invite::Invite,
    roster::Position,
    wire::control::{ClientMessage, Held, ServerMessage, SetName, codes},
};

use super::{
    super::Event,
    lab::{LAN, Lab, NOTHING, Replica, no_root, node},
};
use crate::store::{RemoveMember, Store as _};

fn remove(lab: &mut Lab, n: u8) {
    let remove = RemoveMember {
        network: LAN,
        node: node(n),
        by: None,
        secret: [0xdd; 32],
        now: lab.now.wall,
    };
    block_on(lab.store.remove_member(remove)).unwrap();
    lab.changed(LAN);
}

#[test]
fn everybody_holds_the_newest_roster_after_every_join() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let mut all = Vec::new();
    for n in 1..=5 {
        let id = lab.join(n, token);
        all.push((id, Replica::new(&lab)));
        for (id, replica) in &mut all {
            let read = lab.read(*id);
            replica.apply(&read);
            assert_eq!(replica.members().len(), usize::from(n));
        }
    }
}

#[test]
fn joined_comes_first_then_roster_secret_presence_and_done() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    lab.join(1, token);
    let id = lab.join(2, token);
    let kinds: Vec<_> = lab
        .read(id)
        .iter()
        .map(|(request, m)| (*request, m.frame(0).kind))
        .collect();
    // Welcome, Done of the hello, Joined, Page, Secret, PeerOnline.
    assert_eq!(kinds, [(1, 1), (1, 12), (2, 13), (0, 6), (0, 7), (0, 9)]);
}

#[test]
fn whoever_was_away_gets_a_delta_and_whoever_was_not_gets_the_head() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let id = lab.join(1, token);
    let mut replica = Replica::new(&lab);
    replica.apply(&lab.read(id));
    let held = lab.held(LAN);
    lab.leave(id);
    let id = lab.login(1, vec![held]);
    let read = lab.read(id);
    assert!(matches!(&read[1].1, ServerMessage::Delta(d) if d.upserts.is_empty()));
    assert!(matches!(&read[2].1, ServerMessage::Secret(s) if s.secret.id == 1));
    assert!(matches!(read.last(), Some((1, ServerMessage::Done(_)))));
    replica.apply(&read);
    lab.leave(id);
    lab.join(2, token);
    let id = lab.login(1, vec![held]);
    let read = lab.read(id);
    assert!(matches!(&read[1].1, ServerMessage::Delta(d) if d.upserts.len() == 1));
    replica.apply(&read);
    assert_eq!(replica.members().len(), 2);
}

#[test]
fn a_renewed_head_reaches_everybody_at_once() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let id = lab.join(1, token);
    let mut replica = Replica::new(&lab);
    replica.apply(&lab.read(id));
    let later = lab.now.wall.plus(5);
    block_on(lab.store.renew_heads(later, later)).unwrap();
    lab.changed(LAN);
    replica.apply(&lab.read(id));
    assert_eq!(replica.roster.unwrap().head().issued_at, later);
    lab.changed(LAN);
    assert!(lab.read(id).is_empty(), "nothing new, nothing sent");
}

#[test]
fn a_removed_member_is_told_and_the_others_get_a_new_secret() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (stays, goes) = (lab.join(1, token), lab.join(2, token));
    let mut replica = Replica::new(&lab);
    replica.apply(&lab.read(stays));
    lab.read(goes);
    let held = lab.held(LAN);
    remove(&mut lab, 2);
    let read = lab.read(goes);
    assert!(matches!(&read[..], [(0, ServerMessage::Removed(r))] if r.network == LAN));
    let read = lab.read(stays);
    replica.apply(&read);
    assert_eq!(replica.members(), vec![node(1)]);
    assert!(
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::Secret(s) if s.secret.id == 2))
    );
    // It is told again when it comes back with what it held, and never gets the roster.
    lab.leave(goes);
    let back = lab.login(2, vec![held]);
    let read = lab.read(back);
    assert!(
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::Removed(_)))
    );
    assert!(!read.iter().any(|(_, m)| matches!(
        m,
        ServerMessage::Page(_) | ServerMessage::Delta(_) | ServerMessage::Secret(_)
    )));
}

#[test]
fn whoever_holds_more_than_the_store_is_asked_for_it_and_sent_nothing() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let id = lab.join(1, token);
    lab.leave(id);
    let mut held = lab.held(LAN);
    held.position = Position {
        generation: 1,
        epoch: 1000,
    };
    let id = lab.login(1, vec![held]);
    let read = lab.read(id);
    assert!(matches!(
        &read[..],
        [
            (1, ServerMessage::Welcome(_)),
            (0, ServerMessage::ShowRoster(_)),
            (1, ServerMessage::Done(_))
        ]
    ));
    assert!(lab.events.contains(&Event::ClaimsNewer(node(1), LAN)));
    // A network that the store has never heard of: no word that the membership ended.
    lab.leave(id);
    let lost = NetworkId([0xee; 32]);
    let held = Held {
        network: lost,
        ..held
    };
    let id = lab.login(1, vec![held]);
    assert!(
        !lab.read(id)
            .iter()
            .any(|(_, m)| matches!(m, ServerMessage::Removed(_)))
    );
    assert!(lab.events.contains(&Event::ClaimsNewer(node(1), lost)));
}

#[test]
fn a_second_network_is_its_own() {
    let mut lab = Lab::new();
    let games = NetworkId([0xbb; 32]);
    lab.network(games, "games");
    let (lan, both) = (lab.invite(LAN, None, false), lab.invite(games, None, false));
    let a = lab.join(1, lan);
    let b = lab.join(2, both);
    lab.read(a);
    lab.read(b);
    lab.join(3, both);
    assert!(
        lab.read(a).is_empty(),
        "another network is not its business"
    );
    let hello = lab.login(2, vec![]);
    assert_eq!(
        lab.welcome(hello).registration.unwrap().networks,
        vec![games]
    );
}

#[test]
fn names_are_changed_for_everybody() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (a, b) = (lab.join(1, token), lab.join(2, token));
    let mut replica = Replica::new(&lab);
    replica.apply(&lab.read(a));
    let set = |name: &str| {
        ClientMessage::SetName(SetName {
            network: None,
            name: name.into(),
        })
    };
    lab.say(b, 5, &set("m1"));
    let read = lab.read(b);
    let named = read.iter().find_map(|(request, m)| match m {
        ServerMessage::NameSet(set) => Some((*request, set.names.clone())),
        _ => None,
    });
    assert_eq!(named, Some((5, vec![(LAN, "m1-2".to_owned())])));
    replica.apply(&lab.read(a));
    let roster = replica.roster.unwrap();
    assert_eq!(roster.member(&node(2)).unwrap().name, "m1-2");
    lab.say(b, 6, &set("a b"));
    assert_eq!(lab.refusal(b).1.code, codes::BAD_NAME);
}

#[test]
fn owners_make_invites_and_members_do_not() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, true);
    let (owner, member) = (lab.join(1, token), lab.join(2, token));
    let stranger = lab.login(3, vec![]);
    for (id, code) in [(member, codes::NOT_ALLOWED), (stranger, codes::NO_NETWORK)] {
        lab.read(id);
        lab.make_invite(id, 8);
        let (request, refused) = lab.refusal(id);
        assert_eq!((request, refused.code), (8, code));
    }
    lab.read(owner);
    lab.make_invite(owner, 8);
    let read = lab.read(owner);
    let [(8, ServerMessage::InviteMade(made))] = &read[..] else {
        panic!("{read:?}");
    };
    let invite = Invite::parse(&made.link).unwrap();
    assert_eq!(invite.addresses[0].host, "203.0.113.1");
    assert_eq!(made.expires_at, lab.now.wall.plus(3600));
    let id = lab.join(4, invite.secret.token());
    assert!(
        lab.read(id)
            .iter()
            .any(|(_, m)| matches!(m, ServerMessage::Joined(_)))
    );
    assert_eq!(lab.held(LAN).position.epoch, invite.floor.epoch + 1);
}

#[test]
fn nothing_is_signed_in_recovery_and_logins_go_on() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, true);
    let owner = lab.join(1, token);
    lab.core.handle_recovery("older than a mirror".into());
    lab.read(owner);
    lab.make_invite(owner, 3);
    assert_eq!(lab.refusal(owner).1.code, codes::RECOVERY);
    let id = lab.join(2, token);
    let read = lab.read(id);
    assert!(matches!(&read[0].1, ServerMessage::Welcome(_)));
    assert!(matches!(&read[2].1, ServerMessage::Refused(r) if r.code == codes::RECOVERY));
}

#[test]
fn a_pull_that_names_nothing_gets_everything() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let id = lab.join(1, token);
    lab.read(id);
    let held = Held {
        network: LAN,
        position: NOTHING,
        root: no_root(),
    };
    for held in [vec![], vec![held]] {
        let pull = kanpachi_common::wire::control::Pull { held };
        lab.say(id, 4, &ClientMessage::Pull(pull));
        let kinds: Vec<_> = lab.read(id).iter().map(|(_, m)| m.frame(0).kind).collect();
        assert_eq!(kinds, [6, 7, 12]);
    }
}
