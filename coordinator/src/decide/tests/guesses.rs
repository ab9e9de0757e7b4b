//! Guessing invites: no hit, soon throttled, and nobody else is kept out.

use kanpachi_common::wire::control::{ClientMessage, Join, ServerMessage, codes};

use super::{
    super::{Event, Remote, SessionId},
    lab::{LAN, Lab, node},
};

fn guess(lab: &mut Lab, id: SessionId, n: u32) -> u16 {
    let mut token = [0x42; 32];
    token[..4].copy_from_slice(&n.to_be_bytes());
    let join = ClientMessage::Join(Join {
        token,
        name: "x".into(),
    });
    lab.say(id, 5, &join);
    lab.refusal(id).1.code
}

#[test]
fn a_hundred_thousand_guesses_from_a_hundred_addresses_hit_nothing() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, Some(1), false);
    let attackers: Vec<_> = (100..200).map(|n| lab.login(n, vec![])).collect();
    for id in &attackers {
        lab.read(*id);
    }
    let (mut tried, mut throttled) = (0, 0);
    for n in 0..1000 {
        for (i, id) in (0..).zip(&attackers) {
            match guess(&mut lab, *id, n * 100 + i) {
                codes::INVITE_UNKNOWN => tried += 1,
                codes::BUSY => throttled += 1,
                other => panic!("code {other}"),
            }
        }
    }
    assert_eq!(tried + throttled, 100_000);
    assert!(tried <= 100 * 8, "{tried} guesses reached the store");
    assert!(lab.events.iter().any(|e| matches!(e, Event::Guess(..))));
    let legit = lab.join(1, token);
    assert!(
        lab.read(legit)
            .iter()
            .any(|(_, m)| matches!(m, ServerMessage::Joined(_)))
    );
}

#[test]
fn many_keys_from_one_address_share_a_limit() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let remote = Remote {
        ip: Some([198, 51, 100, 7].into()),
        udp: None,
    };
    let mut tried = 0;
    for n in 0..100 {
        let id = lab.open_from(n, remote);
        let hello = lab.hello(n, vec![]);
        lab.say(id, 1, &hello);
        lab.read(id);
        for i in 0..5 {
            tried += u32::from(guess(&mut lab, id, i) == codes::INVITE_UNKNOWN);
        }
        lab.leave(id);
    }
    assert_eq!(tried, 128);
    let legit = lab.join(200, token);
    assert!(
        lab.read(legit)
            .iter()
            .any(|(_, m)| matches!(m, ServerMessage::Joined(_)))
    );
}

#[test]
fn guesses_of_passwords_by_many_members_from_one_address_share_a_limit() {
    use kanpachi_common::{Password, wire::membership::JoinByPassword};
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let remote = Remote {
        ip: Some([198, 51, 100, 7].into()),
        udp: None,
    };
    let mut tried = 0;
    for n in 0..40 {
        let id = lab.open_from(n, remote);
        let hello = lab.hello(n, vec![]);
        lab.say(id, 1, &hello);
        let name = "guest".to_owned();
        lab.say(id, 2, &ClientMessage::Join(Join { token, name }));
        for i in 0..8 {
            lab.read(id);
            let join = JoinByPassword {
                network: "lan".into(),
                password: Password::new(&format!("guess {i}")).unwrap(),
                member_name: "guest".into(),
            };
            lab.say(id, 3, &ClientMessage::JoinByPassword(join));
            tried += u32::from(lab.refusal(id).1.code == codes::WRONG_PASSWORD);
        }
    }
    assert_eq!(tried, 64);
}

#[test]
fn a_whole_lan_party_joins_from_behind_one_router() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let remote = Remote {
        ip: Some([198, 51, 100, 7].into()),
        udp: None,
    };
    for n in 0..150 {
        let id = lab.open_from(n, remote);
        let hello = lab.hello(n, vec![]);
        lab.say(id, 1, &hello);
        let join = ClientMessage::Join(Join {
            token,
            name: "guest".into(),
        });
        lab.say(id, 2, &join);
        assert!(
            lab.read(id)
                .iter()
                .any(|(_, m)| matches!(m, ServerMessage::Joined(_))),
            "{n}"
        );
    }
    assert_eq!(lab.core.online(), 150);
}

#[test]
fn used_expired_and_unknown_are_told_apart_by_whoever_has_the_secret() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, Some(1), false);
    lab.join(1, token);
    let id = lab.join(2, token);
    assert_eq!(lab.refusal(id).1.code, codes::INVITE_USED);
    let late = lab.invite(LAN, None, false);
    lab.now.wall = lab.now.wall.plus(86_400);
    let id = lab.join(3, late);
    assert_eq!(lab.refusal(id).1.code, codes::INVITE_EXPIRED);
    let id = lab.join(4, [9; 32]);
    assert_eq!(lab.refusal(id).1.code, codes::INVITE_UNKNOWN);
    assert!(
        lab.events
            .contains(&Event::Guess(node(4), Some([203, 0, 113, 4].into())))
    );
}

#[test]
fn whoever_is_over_its_own_limit_leaves_that_of_its_address_alone() {
    use kanpachi_common::{Password, wire::membership::JoinByPassword};
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let remote = Remote {
        ip: Some([198, 51, 100, 7].into()),
        udp: None,
    };
    let open = |lab: &mut Lab, n| {
        let id = lab.open_from(n, remote);
        let hello = lab.hello(n, vec![]);
        lab.say(id, 1, &hello);
        lab.read(id);
        id
    };
    let join = |lab: &mut Lab, id| {
        let name = "x".into();
        lab.say(id, 2, &ClientMessage::Join(Join { token, name }));
        let read = lab.read(id);
        let joined = |(_, m): &(u64, ServerMessage)| matches!(m, ServerMessage::Joined(_));
        read.iter().any(joined)
    };
    let greedy = open(&mut lab, 1);
    for n in 0..500 {
        guess(&mut lab, greedy, n);
    }
    let second = open(&mut lab, 2);
    assert!(join(&mut lab, second), "by an invite");
    let by_password = |lab: &mut Lab, id| {
        let join = JoinByPassword {
            network: "lan".into(),
            password: Password::new("wrong horse").unwrap(),
            member_name: "x".into(),
        };
        lab.say(id, 3, &ClientMessage::JoinByPassword(join));
        lab.refusal(id).1.code
    };
    for _ in 0..500 {
        by_password(&mut lab, second);
    }
    let third = open(&mut lab, 3);
    assert!(join(&mut lab, third));
    assert_eq!(by_password(&mut lab, third), codes::WRONG_PASSWORD);
}
