//! People change networks: what is done, what is refused, and who is told.

mod frozen;

use futures::executor::block_on;
use kanpachi_common::{
    MemberId, NetworkId, Password,
    roster::Caps,
    wire::{
        control::{ClientMessage as C, Joined, MakeInvite, ServerMessage, codes},
        membership::{
            CreateNetwork, DeleteNetwork, Evict, Evicted, JoinByPassword, Leave, SetAccess,
            SetPassword, SetPresence, SetRole, Settle,
        },
    },
};

use super::{
    super::{Event, SessionId},
    lab::{LAN, Lab, Replica, node},
};
use crate::store::Store as _;

const GAMES: NetworkId = NetworkId([0xbb; 32]);

fn password(text: &str) -> Password {
    Password::new(text).unwrap()
}

fn create(lab: &mut Lab, id: SessionId, secret: Option<&str>) {
    let create = CreateNetwork {
        network: GAMES,
        name: "Games".into(),
        password: secret.map(password),
        member_name: "owner".into(),
    };
    lab.say(id, 10, &C::CreateNetwork(create));
}

fn try_password(lab: &mut Lab, id: SessionId, network: &str, text: &str) {
    let join = JoinByPassword {
        network: network.into(),
        password: password(text),
        member_name: "guest".into(),
    };
    lab.say(id, 11, &C::JoinByPassword(join));
}

fn joined(messages: &[(u64, ServerMessage)]) -> Joined {
    let joined = messages.iter().find_map(|(_, m)| match m {
        ServerMessage::Joined(joined) => Some(joined.clone()),
        _ => None,
    });
    joined.expect("joined")
}

fn is_done(messages: &[(u64, ServerMessage)], request: u64) -> bool {
    let done =
        |(id, m): &(u64, ServerMessage)| *id == request && matches!(m, ServerMessage::Done(_));
    messages.iter().any(done)
}

fn removed(messages: &[(u64, ServerMessage)]) -> Vec<NetworkId> {
    let removed = |(_, m): &(u64, ServerMessage)| match m {
        ServerMessage::Removed(r) => Some(r.network),
        _ => None,
    };
    messages.iter().filter_map(removed).collect()
}

fn secrets(messages: &[(u64, ServerMessage)]) -> usize {
    let secret = |m: &&(u64, ServerMessage)| matches!(m.1, ServerMessage::Secret(_));
    messages.iter().filter(secret).count()
}

fn offline(messages: &[(u64, ServerMessage)]) -> usize {
    let offline = |m: &&(u64, ServerMessage)| matches!(m.1, ServerMessage::PeerOffline(_));
    messages.iter().filter(offline).count()
}

fn online(messages: &[(u64, ServerMessage)]) -> usize {
    let online = |m: &&(u64, ServerMessage)| matches!(m.1, ServerMessage::PeerOnline(_));
    messages.iter().filter(online).count()
}

/// In which networks others were said to be there.
fn seen_in(messages: &[(u64, ServerMessage)]) -> Vec<Vec<NetworkId>> {
    let seen = |(_, m): &(u64, ServerMessage)| match m {
        ServerMessage::PeerOnline(peer) => peer.networks.clone(),
        _ => None,
    };
    messages.iter().filter_map(seen).collect()
}

fn member(lab: &Lab, network: NetworkId, n: u8) -> Option<(MemberId, Caps)> {
    let changes = block_on(lab.store.changes_since(network, vec![])).unwrap();
    let found = changes.members.iter().find(|m| m.node == node(n));
    found.map(|m| (m.member, m.caps))
}

fn id_of(lab: &Lab, n: u8) -> MemberId {
    member(lab, GAMES, n).expect("a member").0
}

fn access(lab: &mut Lab, id: SessionId, locked: Option<bool>, approval: Option<bool>) {
    let set = SetAccess {
        network: GAMES,
        locked,
        approval,
    };
    lab.say(id, 12, &C::SetAccess(set));
    assert!(is_done(&lab.read(id), 12));
}

/// Three nodes of the organisation; the first owns "Games".
fn party() -> (Lab, [SessionId; 3]) {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let sessions = [1, 2, 3].map(|n| lab.join(n, token));
    create(&mut lab, sessions[0], Some("geheim"));
    for id in sessions {
        lab.read(id);
    }
    (lab, sessions)
}

#[test]
fn whoever_makes_a_network_owns_it_and_holds_its_roster_and_twice_is_once() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let a = lab.join(1, token);
    lab.read(a);
    create(&mut lab, a, None);
    let read = lab.read(a);
    let first = joined(&read);
    assert_eq!(
        (first.network, first.network_name.as_str()),
        (GAMES, "Games")
    );
    assert!(first.registration.networks.contains(&GAMES) && !first.waiting);
    assert_eq!(secrets(&read), 1);
    let mut replica = Replica::new(&lab);
    replica.apply(&read);
    assert_eq!(replica.members(), vec![node(1)]);
    assert!(member(&lab, GAMES, 1).unwrap().1.has(Caps::OWNER));
    let before = lab.held(GAMES);
    create(&mut lab, a, None);
    assert_eq!(joined(&lab.read(a)).name, first.name);
    assert_eq!(lab.held(GAMES), before);
    let b = lab.join(2, token);
    lab.read(b);
    create(&mut lab, b, None);
    assert_eq!(lab.refusal(b).1.code, codes::NETWORK_EXISTS);
}

#[test]
fn the_right_password_lets_in_and_all_that_is_wrong_sounds_the_same() {
    let (mut lab, [a, b, c]) = party();
    try_password(&mut lab, b, "GAMES", "geheim");
    let read = lab.read(b);
    assert_eq!(joined(&read).network, GAMES);
    assert_eq!(secrets(&read), 1);
    assert_eq!(online(&read), 1, "the owner");
    assert_eq!(online(&lab.read(a)), 1);
    let mut answers = Vec::new();
    for (network, text) in [
        ("Games", "Geheim"),
        ("nowhere", "geheim"),
        ("lan", "geheim"),
    ] {
        try_password(&mut lab, c, network, text);
        answers.push(lab.refusal(c).1);
    }
    assert_eq!(answers[0].code, codes::WRONG_PASSWORD);
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert!(lab.events.iter().any(|e| matches!(e, Event::Guess(..))));
}

#[test]
fn a_stranger_tries_no_password_and_makes_no_network() {
    let (mut lab, _) = party();
    let stranger = lab.login(9, vec![]);
    lab.read(stranger);
    try_password(&mut lab, stranger, "Games", "geheim");
    assert_eq!(lab.refusal(stranger).1.code, codes::NOT_REGISTERED);
    create(&mut lab, stranger, None);
    assert_eq!(lab.refusal(stranger).1.code, codes::NOT_REGISTERED);
}

#[test]
fn guessed_passwords_are_throttled_by_node_and_others_still_join() {
    let (mut lab, [_, b, c]) = party();
    let (mut tried, mut busy) = (0, 0);
    for n in 0..1000 {
        try_password(&mut lab, b, "Games", &format!("guess {n}"));
        let (_, refused) = lab.refusal(b);
        match refused.code {
            codes::WRONG_PASSWORD => tried += 1,
            codes::BUSY => {
                busy += 1;
                assert!(refused.retry_ms.is_some_and(|ms| ms > 0));
            }
            other => panic!("code {other}"),
        }
    }
    assert_eq!((tried, busy), (8, 992));
    try_password(&mut lab, b, "Games", "geheim");
    assert_eq!(
        lab.refusal(b).1.code,
        codes::BUSY,
        "the right one waits as well"
    );
    try_password(&mut lab, c, "Games", "geheim");
    joined(&lab.read(c));
}

#[test]
fn a_locked_network_says_so_only_to_whoever_knows_the_password() {
    let (mut lab, [a, b, _]) = party();
    access(&mut lab, a, Some(true), None);
    try_password(&mut lab, b, "Games", "wrong");
    assert_eq!(lab.refusal(b).1.code, codes::WRONG_PASSWORD);
    try_password(&mut lab, b, "Games", "geheim");
    assert_eq!(lab.refusal(b).1.code, codes::LOCKED);
    let token = lab.invite(GAMES, Some(1), false);
    let d = lab.join(4, token);
    assert_eq!(lab.refusal(d).1.code, codes::LOCKED);
    access(&mut lab, a, Some(false), None);
    try_password(&mut lab, b, "Games", "geheim");
    joined(&lab.read(b));
    let d = lab.join(4, token);
    joined(&lab.read(d));
}

#[test]
fn whoever_awaits_approval_gets_nothing_until_an_owner_approves() {
    let (mut lab, [a, b, c]) = party();
    try_password(&mut lab, c, "Games", "geheim");
    access(&mut lab, a, None, Some(true));
    lab.read(c);
    try_password(&mut lab, b, "Games", "geheim");
    let read = lab.read(b);
    let answer = joined(&read);
    assert!(answer.waiting && !answer.registration.networks.contains(&GAMES));
    assert_eq!(answer.registration.waiting[0].network, GAMES);
    assert_eq!((read.len(), secrets(&read)), (1, 0), "{read:?}");
    lab.changed(GAMES);
    lab.say(
        b,
        13,
        &C::Pull(kanpachi_common::wire::control::Pull { held: vec![] }),
    );
    let read = lab.read(b);
    assert!(
        is_done(&read, 13) && secrets(&read) == 1,
        "of the other network"
    );
    assert_eq!(online(&lab.read(c)), 0, "nobody is told of it");

    let (waiting, caps) = member(&lab, GAMES, 2).unwrap();
    assert!(caps.has(Caps::PENDING));
    let settle = |approved| {
        C::Settle(Settle {
            network: GAMES,
            member: waiting,
            approved,
        })
    };
    lab.say(c, 14, &settle(true));
    assert_eq!(lab.refusal(c).1.code, codes::NOT_ALLOWED);
    lab.say(b, 14, &settle(true));
    assert_eq!(lab.refusal(b).1.code, codes::NOT_ALLOWED, "nor itself");
    lab.say(a, 14, &settle(true));
    assert!(is_done(&lab.read(a), 14));
    let read = lab.read(b);
    assert_eq!((secrets(&read), online(&read)), (1, 2));
    assert_eq!(online(&lab.read(c)), 1);
    lab.say(a, 15, &settle(true));
    assert!(is_done(&lab.read(a), 15), "twice is once");
    lab.say(a, 16, &settle(false));
    assert_eq!(lab.refusal(a).1.code, codes::NO_MEMBER);
}

#[test]
fn a_newcomer_by_invite_waits_as_well_and_is_let_in_while_it_is_there() {
    let (mut lab, [a, _, _]) = party();
    access(&mut lab, a, None, Some(true));
    let token = lab.invite(GAMES, Some(1), false);
    let d = lab.join(4, token);
    let read = lab.read(d);
    let answer = joined(&read);
    assert!(answer.waiting && answer.registration.networks.is_empty());
    assert!(answer.registration.ipv4.is_some() && secrets(&read) == 0);
    // A new login shows that it waits still.
    lab.leave(d);
    let d = lab.login(4, vec![]);
    let registration = lab.welcome(d).registration.expect("registered");
    assert_eq!(
        (registration.networks.len(), registration.waiting.len()),
        (0, 1)
    );
    let approve = Settle {
        network: GAMES,
        member: id_of(&lab, 4),
        approved: true,
    };
    lab.say(a, 14, &C::Settle(approve));
    let read = lab.read(d);
    assert_eq!((secrets(&read), online(&read)), (1, 1), "{read:?}");
}

#[test]
fn a_rejected_node_is_told_and_may_ask_again() {
    let (mut lab, [a, b, _]) = party();
    access(&mut lab, a, None, Some(true));
    try_password(&mut lab, b, "Games", "geheim");
    lab.read(b);
    let before = block_on(lab.store.changes_since(GAMES, vec![])).unwrap();
    let reject = C::Settle(Settle {
        network: GAMES,
        member: id_of(&lab, 2),
        approved: false,
    });
    for request in [14, 15] {
        lab.say(a, request, &reject);
        assert!(is_done(&lab.read(a), request));
    }
    assert_eq!(removed(&lab.read(b)), vec![GAMES]);
    let after = block_on(lab.store.changes_since(GAMES, vec![])).unwrap();
    assert_eq!(after.secret.id, before.secret.id, "it never had the secret");
    assert_eq!(member(&lab, GAMES, 2), None);
    try_password(&mut lab, b, "Games", "geheim");
    assert!(joined(&lab.read(b)).waiting);
    // Whoever waits may think better of it.
    lab.say(
        b,
        16,
        &C::Leave(Leave {
            network: GAMES,
            heir: None,
        }),
    );
    assert!(is_done(&lab.read(b), 16));
    assert_eq!(member(&lab, GAMES, 2), None);
}

#[test]
fn an_evicted_member_is_told_and_comes_back_by_a_new_invite_only() {
    let (mut lab, [a, b, c]) = party();
    try_password(&mut lab, b, "Games", "geheim");
    try_password(&mut lab, c, "Games", "geheim");
    let old = lab.invite(GAMES, None, false);
    let evicted = id_of(&lab, 2);
    let evict = |password| {
        C::Evict(Evict {
            network: GAMES,
            member: evicted,
            password,
        })
    };
    lab.say(c, 20, &evict(None));
    lab.read(a);
    assert_eq!(lab.refusal(c).1.code, codes::NOT_ALLOWED);
    lab.read(b);
    lab.say(a, 20, &evict(None));
    assert_eq!(removed(&lab.read(b)), vec![GAMES]);
    let read = lab.read(a);
    let answer = read.iter().find_map(|(_, m)| match m {
        ServerMessage::Evicted(evicted) => Some(*evicted),
        _ => None,
    });
    let expected = Evicted {
        revoked_invites: 0,
        password_known: true,
    };
    assert_eq!(answer, Some(expected));
    assert_eq!(secrets(&read), 1);
    assert_eq!(secrets(&lab.read(c)), 1, "everybody gets the new secret");

    try_password(&mut lab, b, "Games", "geheim");
    assert_eq!(lab.refusal(b).1.code, codes::EVICTED);
    let join = |token| {
        C::Join(kanpachi_common::wire::control::Join {
            token,
            name: "b".into(),
        })
    };
    lab.say(b, 21, &join(old));
    assert_eq!(lab.refusal(b).1.code, codes::EVICTED);
    lab.say(a, 22, &evict(Some(password("new"))));
    assert!(lab.read(a).iter().any(|(_, m)| matches!(m,
        ServerMessage::Evicted(e) if !e.password_known)));
    try_password(&mut lab, b, "Games", "geheim");
    assert_eq!(lab.refusal(b).1.code, codes::WRONG_PASSWORD);

    let fresh = lab.invite(GAMES, Some(1), false);
    lab.say(b, 23, &join(fresh));
    assert_eq!(joined(&lab.read(b)).network, GAMES);
    // A request that was on its way for long puts nobody out who came back.
    lab.say(a, 24, &evict(None));
    assert!(member(&lab, GAMES, 2).is_some());
}

#[test]
fn invites_of_an_evicted_owner_are_revoked() {
    let (mut lab, [a, b, _]) = party();
    try_password(&mut lab, b, "Games", "geheim");
    let role = SetRole {
        network: GAMES,
        member: id_of(&lab, 2),
        owner: true,
    };
    lab.say(a, 30, &C::SetRole(role));
    lab.read(b);
    let make = MakeInvite {
        network: GAMES,
        uses: None,
        expires_in: 3600,
    };
    lab.say(b, 31, &C::MakeInvite(make));
    assert!(
        lab.read(b)
            .iter()
            .any(|(_, m)| matches!(m, ServerMessage::InviteMade(_)))
    );
    lab.read(a);
    let evict = Evict {
        network: GAMES,
        member: id_of(&lab, 2),
        password: None,
    };
    lab.say(a, 32, &C::Evict(evict));
    assert!(lab.read(a).iter().any(|(_, m)| matches!(m,
        ServerMessage::Evicted(e) if e.revoked_invites == 1)));
}

#[test]
fn the_last_owner_leaves_an_heir_or_ends_the_network() {
    let (mut lab, [a, b, c]) = party();
    try_password(&mut lab, b, "Games", "geheim");
    let leave = |heir| {
        C::Leave(Leave {
            network: GAMES,
            heir,
        })
    };
    lab.read(a);
    lab.say(a, 40, &leave(None));
    assert_eq!(lab.refusal(a).1.code, codes::LAST_OWNER);
    let demote = SetRole {
        network: GAMES,
        member: id_of(&lab, 1),
        owner: false,
    };
    lab.say(a, 41, &C::SetRole(demote));
    assert_eq!(lab.refusal(a).1.code, codes::LAST_OWNER);
    lab.say(a, 42, &leave(Some(MemberId([9; 32]))));
    assert_eq!(lab.refusal(a).1.code, codes::NO_MEMBER);
    lab.read(b);
    let heir = id_of(&lab, 2);
    for request in [43, 44] {
        lab.say(a, request, &leave(Some(heir)));
        let read = lab.read(a);
        assert!(is_done(&read, request), "{read:?}");
    }
    assert!(member(&lab, GAMES, 2).unwrap().1.has(Caps::OWNER));
    assert_eq!(secrets(&lab.read(b)), 1, "a new secret");
    try_password(&mut lab, a, "Games", "geheim");
    assert_eq!(joined(&lab.read(a)).network, GAMES, "leaving bans nobody");
    lab.say(a, 45, &leave(None));
    lab.say(b, 46, &leave(None));
    let read = lab.read(b);
    assert!(is_done(&read, 46) && removed(&read) == [GAMES], "{read:?}");
    lab.read(c);
    try_password(&mut lab, c, "Games", "geheim");
    assert_eq!(lab.refusal(c).1.code, codes::WRONG_PASSWORD, "it is gone");
}

#[test]
fn a_deleted_network_ends_for_everybody_and_its_name_is_free() {
    let (mut lab, [a, b, c]) = party();
    try_password(&mut lab, b, "Games", "geheim");
    let token = lab.invite(GAMES, None, false);
    let held = lab.held(GAMES);
    let delete = C::DeleteNetwork(DeleteNetwork { network: GAMES });
    lab.read(b);
    lab.say(b, 50, &delete);
    assert_eq!(lab.refusal(b).1.code, codes::NOT_ALLOWED);
    lab.say(c, 50, &delete);
    lab.read(a);
    assert_eq!(lab.refusal(c).1.code, codes::NO_NETWORK);
    lab.say(a, 51, &delete);
    let read = lab.read(a);
    assert!(is_done(&read, 51) && removed(&read) == [GAMES]);
    assert_eq!(removed(&lab.read(b)), [GAMES]);
    lab.say(a, 52, &delete);
    assert!(is_done(&lab.read(a), 52), "twice is once");
    let last = lab.held(GAMES);
    assert!(last.position > held.position, "a head that says so");
    lab.leave(b);
    let b = lab.login(2, vec![held]);
    assert_eq!(removed(&lab.read(b)), [GAMES], "also to whoever was away");
    let d = lab.join(4, token);
    assert_eq!(lab.refusal(d).1.code, codes::INVITE_UNKNOWN);
    let again = CreateNetwork {
        network: NetworkId([0xdd; 32]),
        name: "games".into(),
        password: None,
        member_name: "c".into(),
    };
    lab.say(c, 53, &C::CreateNetwork(again));
    assert_eq!(joined(&lab.read(c)).network, NetworkId([0xdd; 32]));
}

#[test]
fn a_new_password_takes_the_place_of_the_old_and_none_lets_nobody_in() {
    let (mut lab, [a, b, c]) = party();
    let set = |password| {
        C::SetPassword(SetPassword {
            network: GAMES,
            password,
        })
    };
    lab.say(b, 60, &set(Some(password("mine"))));
    assert_eq!(lab.refusal(b).1.code, codes::NO_NETWORK);
    lab.say(a, 60, &set(Some(password("neu"))));
    assert!(is_done(&lab.read(a), 60));
    try_password(&mut lab, b, "Games", "geheim");
    assert_eq!(lab.refusal(b).1.code, codes::WRONG_PASSWORD);
    try_password(&mut lab, b, "Games", "neu");
    joined(&lab.read(b));
    lab.say(a, 61, &set(None));
    try_password(&mut lab, c, "Games", "neu");
    assert_eq!(lab.refusal(c).1.code, codes::WRONG_PASSWORD);
}

#[test]
fn a_member_that_is_offline_in_a_network_is_not_seen_through_it() {
    let (mut lab, [a, b, _]) = party();
    let token = lab.invite(GAMES, None, false);
    let d = lab.join(4, token);
    try_password(&mut lab, b, "Games", "geheim");
    for id in [a, b, d] {
        lab.read(id);
    }
    let show = |online| {
        C::SetPresence(SetPresence {
            network: GAMES,
            online,
        })
    };
    for request in [70, 71] {
        lab.say(a, request, &show(false));
        assert!(is_done(&lab.read(a), request));
    }
    assert_eq!(offline(&lab.read(d)), 1, "once");
    let seen = lab.read(b);
    assert_eq!(offline(&seen), 0, "it shares another network");
    assert_eq!(seen_in(&seen), [vec![LAN]], "and is told in which, once");
    lab.announce(a, vec![super::lab::host(77)]);
    let seen = lab.read(b);
    assert_eq!(seen_in(&seen), [vec![LAN]]);
    assert_eq!(online(&lab.read(d)), 0);
    let e = lab.join(5, token);
    assert_eq!(online(&lab.read(e)), 2, "two of three");
    lab.read(d);
    lab.say(a, 72, &show(true));
    assert_eq!((online(&lab.read(d)), online(&lab.read(e))), (1, 1));
    let stranger = C::SetPresence(SetPresence {
        network: NetworkId([0xee; 32]),
        online: false,
    });
    lab.say(a, 73, &stranger);
    assert_eq!(lab.refusal(a).1.code, codes::NO_NETWORK);
    lab.say(a, 74, &show(false));
    lab.read(d);
    lab.leave(a);
    assert_eq!(offline(&lab.read(d)), 0, "it was offline there before");
    lab.login(1, vec![]);
    assert_eq!(online(&lab.read(d)), 1, "a new session says it again");
}

#[test]
fn whoever_is_offline_in_a_network_says_so_with_the_hello_and_never_shows_up_in_it() {
    let (mut lab, [a, b, _]) = party();
    let token = lab.invite(GAMES, None, false);
    let d = lab.join(4, token);
    try_password(&mut lab, b, "Games", "geheim");
    lab.leave(a);
    for id in [b, d] {
        lab.read(id);
    }
    let a = lab.open(1);
    let hello = lab.hello_away(1, vec![], vec![GAMES]);
    lab.say(a, 1, &hello);
    assert_eq!(online(&lab.read(d)), 0, "not for a moment");
    let seen = lab.read(b);
    assert_eq!(seen_in(&seen), [vec![LAN]]);
    let mut seen = seen_in(&lab.read(a));
    seen.sort_by_key(Vec::len);
    assert_eq!(seen.pop(), Some(vec![LAN, GAMES]), "b is there in both");
    let back = C::SetPresence(SetPresence {
        network: GAMES,
        online: true,
    });
    lab.say(a, 70, &back);
    assert_eq!(seen_in(&lab.read(b)), [vec![LAN, GAMES]]);
    assert_eq!(seen_in(&lab.read(d)), [vec![GAMES]]);
}
