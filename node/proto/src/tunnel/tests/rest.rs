//! Pairs at rest: what keeps them open, and how seldom anybody has to wake for it.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use super::sim::{Sim, config, ms, secs};
use crate::{
    path::PathKind,
    tunnel::{Attended, Control, Event, PathState, Receipt, attend, timers::PERSISTENT_KEEPALIVE},
};

const PEERS: usize = 14;

/// A host with many peers, in two networks, all connected and left alone for a while.
fn at_rest(seed: u64) -> Sim {
    let mut sim = Sim::new(u8::try_from(PEERS + 1).unwrap(), seed, config());
    for peer in 1..=PEERS {
        let kinds = [(0, PathKind::Host), (1, PathKind::Reflexive)];
        sim.offer(0, peer, &kinds);
        sim.offer(peer, 0, &kinds);
        sim.connect(0, peer);
        sim.connect(peer, 0);
        // They did not all start at the same time.
        sim.run(ms(700));
    }
    for peer in 1..=PEERS {
        sim.run_until(secs(5), |s| s.is_up(0, peer)).unwrap();
    }
    sim.run(secs(60));
    sim
}

/// When timers of a host go off within so many seconds.
fn wakings(sim: &mut Sim, at: usize, seconds: u64) -> usize {
    let (end, mut wakings) = (sim.now + secs(seconds), 0);
    while sim.now < end {
        let due = sim.hosts[at].tunnels.poll_timeout();
        wakings += usize::from(due.is_some_and(|due| due <= sim.now + ms(100)));
        sim.run(ms(100));
    }
    wakings
}

/// Datagrams from one host to another since a time.
fn sent(sim: &Sim, from: usize, to: usize, since: usize) -> usize {
    let addresses =
        |at: usize| -> BTreeSet<SocketAddr> { (0..2).map(|n| sim.hosts[at].addr(n)).collect() };
    let (from, to) = (addresses(from), addresses(to));
    let packets = sim.log[since..].iter();
    packets
        .filter(|p| from.contains(&p.from) && to.contains(&p.to))
        .count()
}

#[test]
fn one_waking_serves_all_peers_and_one_end_asks_for_both() {
    let mut sim = at_rest(41);
    let since = sim.log.len();
    let wakings = wakings(&mut sim, 0, 300);
    // A keepalive every 20 to 25 s, and the successors of the sessions in it or after it.
    assert!(wakings <= 120, "{wakings} wakings in five minutes");
    for peer in 1..=PEERS {
        let (out, back) = (sent(&sim, 0, peer, since), sent(&sim, peer, 0, since));
        // Some 13 keepalives or answers to them, and two handshakes with their first words.
        assert!((12..=25).contains(&out), "to {peer}: {out}");
        assert!((12..=25).contains(&back), "from {peer}: {back}");
        for (at, other) in [(0, peer), (peer, 0)] {
            let status = sim.hosts[at].tunnels.status(&sim.id(other), sim.now);
            let status = status.unwrap();
            assert!(matches!(status.state, PathState::Up { .. }), "{status:?}");
            assert!(status.fresh, "{at} knows nothing of {other}: {status:?}");
        }
    }
}

#[test]
fn nodes_with_the_same_clock_ask_and_are_asked_at_the_same_moments() {
    let mut sim = at_rest(45);
    let beat = sim.start;
    for at in 0..=PEERS {
        sim.with(at, |t, _| t.set_beat(beat));
    }
    sim.run(secs(60));
    let since = sim.log.len();
    let wakings = wakings(&mut sim, 0, 300);
    // Twelve beats. In each everybody is asked and the answers are read; in half of them there are handshakes.
    assert!(wakings <= 32, "{wakings} wakings in five minutes");
    let every = PERSISTENT_KEEPALIVE.as_millis();
    // Some land in the last moment before, when the sender's clock is a little ahead.
    let late = |at: Duration| at.as_millis() % every;
    let packets = sim.log[since..].iter();
    let off = packets
        .filter(|p| late(p.at) > 1500)
        .map(|p| p.at)
        .collect::<Vec<_>>();
    assert!(off.is_empty(), "{off:?}");
    for peer in 1..=PEERS {
        let (out, back) = (sent(&sim, 0, peer, since), sent(&sim, peer, 0, since));
        assert!((12..=25).contains(&out), "to {peer}: {out}");
        assert!((12..=25).contains(&back), "from {peer}: {back}");
        let status = sim.hosts[0].tunnels.status(&sim.id(peer), sim.now);
        assert!(status.unwrap().fresh);
    }
}

#[test]
fn a_packet_thread_answers_for_a_session_at_rest_and_for_no_other() {
    let mut sim = at_rest(46);
    let (one, other) = (sim.id(0), sim.id(1));
    let ours = sim.hosts[0].session(&other).unwrap();
    let theirs = sim.hosts[1].session(&one).unwrap();
    let from = sim.hosts[1].addr(0);
    let receipt = Receipt::at_once(ours.local_index(), from, 0);
    let now_ms = sim.hosts[0].tunnels.millis(sim.now);
    let (nonce, primary) = (9, true);
    let ping = Control::Ping { nonce, primary }.encode();
    let Attended::Answered(mut answer) = attend(&ours, &receipt, &ping, now_ms) else {
        panic!("not answered");
    };
    let opened = theirs.open_in_place(&mut answer, now_ms).unwrap();
    let pong = Control::Pong {
        nonce,
        seen: from,
        held: 0,
    };
    assert_eq!(Control::decode(&answer[opened.payload]), Some(pong.clone()));
    assert_eq!(
        attend(&ours, &receipt, &pong.encode(), now_ms),
        Attended::Later
    );
    // Whatever else is said, and an address that is tried, is for the core.
    let tried = Control::Ping {
        nonce,
        primary: false,
    };
    let news = Control::Keepalive {
        generation: 1,
        epochs: vec![],
    };
    for message in [tried, news, Control::Close { reason: 0 }] {
        assert_eq!(
            attend(&ours, &receipt, &message.encode(), now_ms),
            Attended::No
        );
    }
    // And so is everything while somebody waits for the answer to a ping.
    assert!(sim.with(0, |t, now| t.ping(&other, 1, now)));
    assert!(!ours.is_asleep());
    assert_eq!(attend(&ours, &receipt, &ping, now_ms), Attended::No);
    sim.run(secs(1));
    assert!(!ours.is_asleep());
    sim.run(secs(6));
    assert!(ours.is_asleep());
}

/// Both ends read the keepalives of many at once, and are late with each. The time of the path is not theirs.
#[test]
fn naps_at_the_ends_are_not_taken_for_the_path() {
    let mut sim = at_rest(47);
    let rtt = |sim: &Sim| {
        let status = sim.hosts[0].tunnels.status(&sim.id(1), sim.now);
        let paths = status.unwrap().paths;
        let primary = paths.iter().find(|path| path.primary);
        primary.unwrap().rtt.unwrap()
    };
    let before = rtt(&sim);
    assert_eq!(before, ms(20));
    sim.nap = ms(10);
    let since = sim.log.len();
    sim.run(secs(600));
    assert!(sent(&sim, 0, 1, since) > 24);
    assert_eq!(rtt(&sim), before);
    // What is said of longer naps than anybody takes is not believed.
    sim.nap = ms(250);
    sim.run(secs(1200));
    assert!(rtt(&sim) > before, "{:?}", rtt(&sim));
}

#[test]
fn epochs_that_are_no_news_are_told_once() {
    let mut sim = at_rest(43);
    let tell = |sim: &mut Sim, generation: u64| {
        let since = sim.log.len();
        for _ in 0..4 {
            sim.with(0, |t, now| t.set_epochs(generation, Vec::new(), now));
            sim.run(ms(50));
        }
        sent(sim, 0, 1, since)
    };
    let (first, again, news) = (tell(&mut sim, 5), tell(&mut sim, 5), tell(&mut sim, 6));
    assert!(
        first >= 1 && again == 0 && news >= 1,
        "{first} {again} {news}"
    );
}

/// The change comes while a handshake is under way that says what was before, and the first words behind it are lost.
#[test]
fn epochs_that_changed_during_a_handshake_are_told_until_they_are_heard() {
    for initiator in 0..2 {
        let mut sim = Sim::new(2, 44, config());
        sim.connect(initiator, 1 - initiator);
        sim.run(ms(15));
        sim.with(0, |t, now| t.set_epochs(7, Vec::new(), now));
        sim.run(ms(7 * initiator as u64));
        sim.weather.loss = 100;
        sim.run(ms(20));
        sim.weather.loss = 0;
        let heard = |sim: &Sim| {
            let events = sim.hosts[1].events.iter();
            let of = |e: &Event| matches!(e, Event::Epochs { generation: 7, .. });
            events.clone().any(|(_, e)| of(e))
        };
        assert!(!heard(&sim), "nothing is lost here");
        let took = sim.run_until(secs(10), heard);
        assert!(took.is_some_and(|took| took < secs(3)), "{took:?}");
        let since = sim.log.len();
        sim.run(secs(20));
        assert!(sim.log.len() - since < 20, "told once");
    }
}

#[test]
fn no_nat_waits_longer_than_thirty_seconds_for_a_packet() {
    let mut sim = at_rest(42);
    let since = sim.log.len();
    sim.run(secs(300));
    for peer in 1..=PEERS {
        for (from, to) in [(0, peer), (peer, 0)] {
            let (from, to) = (sim.hosts[from].addr(0), sim.hosts[to].addr(0));
            let packets = sim.log[since..].iter();
            let times: Vec<_> = packets
                .filter(|p| p.from == from && p.to == to)
                .map(|p| p.at)
                .collect();
            let longest = times.windows(2).map(|w| w[1] - w[0]).max().unwrap();
            assert!(longest < secs(30), "{longest:?} from {from} to {to}");
        }
    }
}

#[test]
fn an_end_that_nobody_asks_asks_itself() {
    let mut sim = at_rest(43);
    // The end with the smaller id asks; it dies without a word.
    let (dead, left) = (0, 1);
    assert!(sim.id(dead) < sim.id(left));
    let silent = sim.now;
    sim.cut.extend([0, 1, 2]);
    let lost = sim.run_until(secs(90), |s| {
        let status = s.hosts[left].tunnels.status(&s.id(dead), s.now);
        !matches!(status.unwrap().state, PathState::Up { .. })
    });
    assert!(lost.is_some(), "nobody noticed");
    let took = sim.now - silent;
    assert!(took < secs(60), "noticed after {took:?}");
}

#[test]
fn ways_beside_a_direct_path_are_left_alone_at_rest_and_asked_in_trouble() {
    let mut sim = at_rest(44);
    let since = sim.log.len();
    sim.run(secs(100));
    let second = |sim: &Sim| {
        let (one, other) = (sim.hosts[0].addr(1), sim.hosts[1].addr(1));
        let packets = sim.log[since..].iter();
        packets.filter(|p| p.from == one && p.to == other).count()
    };
    assert_eq!(second(&sim), 0);
    sim.cut.insert(0);
    sim.send(0, 1, b"lost").unwrap();
    sim.run(secs(5));
    assert!(second(&sim) > 0);
    assert_eq!(
        sim.hosts[0].endpoint(&sim.id(1)),
        Some(sim.hosts[1].addr(1))
    );
}
