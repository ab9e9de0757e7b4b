//! Hello, refusals, timeouts, replacement.

use kanpachi_common::{
    OrgId,
    wire::{
        control::{ClientMessage, Nonce, Pull, REST_MS, Resting, ServerMessage, codes},
        frame::Frame,
    },
};

use super::{
    super::Remote,
    lab::{LAN, Lab, host, node},
};
use crate::store::StoreError;

#[test]
fn a_stranger_is_welcome_and_told_that_it_is_not_registered() {
    let mut lab = Lab::new();
    let id = lab.login(1, vec![]);
    let welcome = lab.welcome(id);
    assert_eq!(welcome.registration, None);
    assert_eq!(welcome.time, lab.now.wall);
    lab.pass(70);
    assert_eq!(lab.closed, vec![id], "it joined nothing for a minute");
}

#[test]
fn hello_is_refused_with_the_reason() {
    let mut lab = Lab::new();
    let change = |lab: &mut Lab, f: &dyn Fn(&mut kanpachi_common::wire::control::Hello)| {
        let id = lab.open(1);
        let ClientMessage::Hello(mut hello) = lab.hello(1, vec![]) else {
            unreachable!()
        };
        f(&mut hello);
        lab.say(id, 7, &ClientMessage::Hello(hello));
        let (request, refused) = lab.refusal(id);
        assert_eq!(request, 0, "the conversation is over");
        assert_eq!(lab.closed.pop(), Some(id));
        refused.code
    };
    assert_eq!(
        change(&mut lab, &|h| (h.min_version, h.max_version) = (2, 9)),
        codes::VERSION
    );
    assert_eq!(
        change(&mut lab, &|h| h.org = OrgId([7; 32])),
        codes::OTHER_ORG
    );
    assert_eq!(
        change(&mut lab, &|h| h.tunnel.serial = 9),
        codes::BAD_REQUEST
    );
}

#[test]
fn silence_before_hello_and_noise_after_it_end_a_session() {
    let mut lab = Lab::new();
    let silent = lab.open(1);
    lab.pass(11);
    assert_eq!(lab.closed, vec![silent]);

    let eager = lab.open(2);
    lab.say(eager, 1, &ClientMessage::Ping(Nonce(1)));
    assert_eq!(lab.refusal(eager).1.code, codes::BAD_REQUEST);

    let noisy = lab.login(3, vec![]);
    let frame = Frame {
        kind: 6,
        id: 1,
        critical: false,
        body: vec![0xff; 9],
    };
    lab.core.handle_frame(noisy, &frame, lab.now);
    lab.drain();
    assert_eq!(lab.refusal(noisy).1.code, codes::BAD_REQUEST);

    let future = lab.login(4, vec![]);
    let mut frame = Frame {
        kind: 999,
        id: 1,
        critical: false,
        body: vec![],
    };
    lab.core.handle_frame(future, &frame, lab.now);
    lab.drain();
    assert!(
        !lab.closed.contains(&future),
        "an unknown kind is passed over"
    );
    frame.critical = true;
    lab.core.handle_frame(future, &frame, lab.now);
    lab.drain();
    assert_eq!(lab.refusal(future).1.code, codes::VERSION);
}

#[test]
fn the_newest_login_wins_and_the_others_do_not_notice() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let watcher = lab.join(1, token);
    let old = lab.join(2, token);
    lab.read(watcher);
    lab.read(old);
    let new = lab.login(2, vec![]);
    assert_eq!(lab.refusal(old).1.code, codes::REPLACED);
    assert_eq!(lab.closed, vec![old]);
    let seen = lab.read(watcher);
    assert!(
        !seen
            .iter()
            .any(|(_, m)| matches!(m, ServerMessage::PeerOffline(_)))
    );
    // The end of the old stream arrives late and changes nothing.
    lab.leave(old);
    assert_eq!(lab.core.online(), 2);
    lab.leave(new);
    assert_eq!(lab.core.online(), 1);
    let seen = lab.read(watcher);
    assert!(matches!(&seen[..], [(0, ServerMessage::PeerOffline(gone))] if gone.node == node(2)));
}

#[test]
fn a_node_at_rest_may_be_silent_for_as_long_as_it_said_and_not_much_longer() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let node = lab.join(1, token);
    lab.say(node, 0, &ClientMessage::Resting(Resting(REST_MS)));
    lab.read(node);
    lab.pass(28);
    assert!(lab.read(node).is_empty(), "asked");
    lab.pass(1);
    let asked = lab.read(node);
    assert!(
        matches!(asked[..], [(0, ServerMessage::Ping(_))]),
        "{asked:?}"
    );
    lab.pass(4);
    assert!(lab.closed.is_empty());
    lab.pass(1);
    assert_eq!(lab.closed, vec![node]);

    // It may not ask for ever, and may take it back.
    let (greedy, awake) = (lab.login(1, vec![]), lab.join(2, token));
    lab.say(greedy, 0, &ClientMessage::Resting(Resting(u64::MAX)));
    lab.say(awake, 0, &ClientMessage::Resting(Resting(REST_MS)));
    lab.say(awake, 0, &ClientMessage::Resting(Resting(0)));
    lab.pass(13);
    assert_eq!(lab.closed, vec![node, awake]);
    lab.pass(55);
    assert_eq!(lab.closed, vec![node, awake, greedy]);
}

#[test]
fn silence_that_a_ping_does_not_end_ends_a_session() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (dead, alive) = (lab.join(1, token), lab.join(2, token));
    let pings = |said: &[(u64, ServerMessage)]| {
        let pings = said.iter().map(|(_, message)| message);
        pings
            .filter(|m| matches!(m, ServerMessage::Ping(_)))
            .count()
    };
    for second in 0..20 {
        lab.pass(1);
        lab.say(alive, 0, &ClientMessage::Pong(Nonce(second)));
        if second == 8 {
            assert_eq!(pings(&lab.read(dead)), 1);
        }
        assert_eq!(lab.closed.is_empty(), second < 12, "{second}");
    }
    assert_eq!(lab.closed, vec![dead]);
    // Who says something by itself is not asked.
    assert_eq!(pings(&lab.read(alive)), 0);
}

#[test]
fn a_reader_that_does_not_read_is_dropped() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let (slow, other) = (lab.join(1, token), lab.join(2, token));
    lab.stalled.push(slow);
    for n in 0..30 {
        lab.pass(1);
        lab.announce(other, vec![host(n)]);
        lab.say(slow, 0, &ClientMessage::Pong(Nonce(0)));
    }
    assert_eq!(lab.closed, vec![slow]);
}

#[test]
fn a_third_stream_of_a_node_takes_the_place_of_its_first() {
    let mut lab = Lab::new();
    let first = lab.open(1);
    lab.open(1);
    assert!(lab.closed.is_empty());
    lab.open(1);
    assert_eq!(lab.closed, vec![first]);
}

#[test]
fn streams_that_said_nothing_make_room_before_one_that_said_hello() {
    let mut lab = Lab::new();
    let greeted = lab.login(1, vec![]);
    let first = lab.open(1);
    let second = lab.open(1);
    assert_eq!(lab.closed, vec![first]);
    assert!(
        lab.read(first).is_empty(),
        "a refusal would be for the node"
    );
    lab.open(1);
    assert_eq!(lab.closed, vec![first, second]);
    lab.welcome(greeted);
}

#[test]
fn a_flood_of_strangers_does_not_lock_a_newcomer_out() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    for n in 0..2000u16 {
        let [hi, lo] = n.to_be_bytes();
        let remote = Remote {
            ip: Some([10, 0, hi, lo].into()),
            udp: None,
        };
        lab.open_from(200, remote);
    }
    for n in 0..200 {
        lab.open(n);
    }
    let id = lab.join(1, token);
    let joined = lab.read(id);
    assert!(
        joined
            .iter()
            .any(|(_, m)| matches!(m, ServerMessage::Joined(_)))
    );
}

#[test]
fn a_failing_store_is_said_and_nothing_is_invented() {
    let mut lab = Lab::new();
    let token = lab.invite(LAN, None, false);
    let member = lab.join(1, token);
    lab.read(member);
    lab.broken = Some(StoreError::Full);
    let id = lab.login(2, vec![]);
    let (_, refused) = lab.refusal(id);
    assert_eq!(refused.code, codes::STORE);
    assert!(refused.message.contains("full") && refused.retry_ms.is_some());
    // A pull while the store fails is answered by nothing, and by everything when it works again.
    lab.say(member, 9, &ClientMessage::Pull(Pull { held: vec![] }));
    assert!(lab.read(member).is_empty());
    lab.broken = None;
    lab.pass(1);
    let read = lab.read(member);
    assert!(matches!(read.last(), Some((9, ServerMessage::Done(_)))));
    assert!(
        read.iter()
            .any(|(_, m)| matches!(m, ServerMessage::Page(_)))
    );
}
