//! Strangers, floods, evictions.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::sim::{Sim, Weather, config, ms, secs};
use crate::tunnel::{
    COOKIE_REPLY_LEN, CloseReason, Config, Event, HANDSHAKE_LEN, Kind, OpenError, SealError,
};

fn stranger(n: u32) -> SocketAddr {
    let [_, b, c, d] = n.to_be_bytes();
    SocketAddr::from(([172, b, c, d], 9))
}

/// Bytes to and from one address.
fn traffic(sim: &Sim, addr: SocketAddr) -> (usize, usize) {
    let sum = |f: &dyn Fn(&&super::sim::Packet) -> bool| {
        sim.log.iter().filter(f).map(|p| p.data.len()).sum()
    };
    (sum(&|p| p.to == addr), sum(&|p| p.from == addr))
}

#[test]
fn a_removed_member_is_cut_off_at_once() {
    let mut sim = Sim::connected(1, config());
    let (a, b) = (sim.id(0), sim.id(1));
    sim.run(secs(1));
    // A packet of the member is on its way when the roster changes.
    sim.send(1, 0, b"late").unwrap();
    let late = sim.log.last().unwrap().data.clone();
    let session = sim.hosts[0].session(&b).unwrap();
    sim.with(0, |t, now| t.remove_peer(&b, now));
    assert!(session.is_closed());
    assert_eq!(
        session.open_in_place(&mut late.clone(), 2000),
        Err(OpenError::Closed)
    );
    assert_eq!(
        session.seal_into(Kind::Ip, &mut [0; 64], 8, 2000),
        Err(SealError::Closed)
    );
    sim.run(secs(20));
    assert!(sim.hosts[0].received.is_empty());
    assert_eq!(sim.hosts[0].table_len(), 0);
    assert!(sim.hosts[0].events.iter().any(|(_, e)| matches!(
        e,
        Event::SessionClosed {
            reason: CloseReason::Removed,
            ..
        }
    )));
    // The member is told, and its handshakes are met with silence.
    assert!(!sim.hosts[1].sending.contains_key(&a));
    let before = sim.log.len();
    sim.connect(1, 0);
    sim.run(secs(20));
    assert!(
        sim.log[before..]
            .iter()
            .all(|p| p.data[0] == 1 && p.from == sim.hosts[1].addr(0))
    );
    assert!(sim.hosts[0].tunnels.counters().unknown_peer > 0);
}

#[test]
fn a_new_tunnel_key_ends_the_old_session() {
    let mut sim = Sim::connected(2, config());
    let mut changed = sim.hosts[1].config();
    changed.tunnel_key = [0x42; 32];
    let session = sim.hosts[0].session(&sim.id(1)).unwrap();
    sim.with(0, |t, now| t.set_peer(changed, now));
    assert!(session.is_closed());
    assert!(sim.hosts[0].events.iter().any(|(_, e)| matches!(
        e,
        Event::SessionClosed {
            reason: CloseReason::KeyChanged,
            ..
        }
    )));
}

/// A member can put another's public key into its own roster entry; it gains nothing and takes nothing away.
#[test]
fn a_member_that_claims_the_key_of_another_takes_nothing_from_it() {
    let mut sim = Sim::new(3, 13, config());
    let mut thief = sim.hosts[2].config();
    thief.tunnel_key = sim.hosts[1].key;
    sim.with(0, |t, now| t.set_peer(thief, now));
    sim.connect(1, 0);
    sim.connect(2, 0);
    sim.run_until(secs(2), |s| s.is_up(0, 1)).unwrap();
    sim.run(secs(20));
    assert!(!sim.hosts[0].sending.contains_key(&sim.id(2)));
    assert!(sim.hosts[0].tunnels.counters().unknown_peer > 0);
    let session = sim.hosts[0].session(&sim.id(1)).unwrap();
    assert_eq!(session.peer(), sim.id(1));
}

#[test]
fn a_stranger_hears_nothing() {
    let mut sim = Sim::new(3, 3, config());
    let outsider = sim.id(2);
    sim.with(0, |t, now| t.remove_peer(&outsider, now));
    sim.connect(2, 0);
    sim.run(secs(60));
    let from_a = sim
        .log
        .iter()
        .filter(|p| p.from == sim.hosts[0].addr(0))
        .count();
    assert_eq!(from_a, 0);
    assert_eq!(sim.hosts[0].table_len(), 0);
}

#[test]
fn under_load_a_cookie_opens_the_door() {
    // More than one init a second is load, here.
    let busy = Config {
        initiations_per_second: 1,
        ..config()
    };
    let mut sim = Sim::new(3, 4, busy);
    sim.connect(2, 1);
    sim.run(ms(1));
    sim.connect(0, 1);
    // The init goes again in the next slot, 50 ms after the first, and then takes 30 ms as always.
    assert_eq!(sim.run_until(secs(1), |s| s.is_up(0, 1)), Some(ms(80)));
    let (a, b) = (sim.hosts[0].addr(0), sim.hosts[1].addr(0));
    let seen: Vec<_> = (sim.log.iter())
        .filter(|p| (p.from, p.to) == (a, b) || (p.from, p.to) == (b, a))
        .map(|p| (p.data[0], p.data.len()))
        .take(4)
        .collect();
    let expected = [
        (1, HANDSHAKE_LEN),
        (3, COOKIE_REPLY_LEN),
        (1, HANDSHAKE_LEN),
        (2, HANDSHAKE_LEN),
    ];
    assert_eq!(seen, expected);
    assert_eq!(sim.hosts[1].tunnels.counters().cookies_sent, 1);
}

/// Floods one host from many forged addresses with inits of one captured init's bytes, mac1 made valid.
fn flood(sim: &mut Sim, count: u32) {
    let to = sim.hosts[1].addr(0);
    let macs = crate::tunnel::mac::PublicMacs::of(&sim.hosts[1].key);
    for n in 0..count {
        let mut frame = crate::tunnel::wire::init_frame(n);
        frame[8..12].copy_from_slice(&n.to_le_bytes());
        macs.sign_mac1(&mut frame);
        sim.inject(stranger(n % 60_000), to, frame.to_vec());
    }
}

#[test]
fn a_flood_from_forged_addresses_does_not_keep_members_out() {
    let mut sim = Sim::new(2, 5, config());
    for _ in 0..20 {
        flood(&mut sim, 2000);
        sim.run(ms(100));
    }
    for round in 0..20 {
        flood(&mut sim, 2000);
        if round == 0 {
            sim.connect(0, 1);
        }
        sim.run(ms(100));
    }
    assert!(sim.is_up(0, 1));
    let counters = sim.hosts[1].tunnels.counters();
    assert!(counters.cookies_sent > 70_000, "{counters:?}");
    assert!(counters.undecryptable < 500 * 6, "{counters:?}");
    // With a cookie, the member's init came through while strangers were asked for theirs.
    let b = sim.hosts[1].addr(0);
    assert!(
        sim.log
            .iter()
            .any(|p| p.data[0] == 3 && p.from == b && p.to == sim.hosts[0].addr(0))
    );
    for n in [0, 1, 59_999] {
        let (to, from) = traffic(&sim, stranger(n));
        assert!(to <= from);
    }
}

#[test]
fn one_flooder_does_not_put_others_in_cookie_mode() {
    let mut sim = Sim::new(3, 6, config());
    let macs = crate::tunnel::mac::PublicMacs::of(&sim.hosts[1].key);
    let to = sim.hosts[1].addr(0);
    for n in 0..3000_u32 {
        let mut frame = crate::tunnel::wire::init_frame(n);
        frame[8..12].copy_from_slice(&n.to_le_bytes());
        macs.sign_mac1(&mut frame);
        sim.inject(stranger(1), to, frame.to_vec());
        sim.run(ms(1));
        if n == 1500 {
            sim.connect(0, 1);
        }
        if n == 2000 {
            sim.connect(2, 1);
        }
    }
    assert!(sim.is_up(0, 1) && sim.is_up(2, 1));
    let cookies: Vec<_> = sim
        .log
        .iter()
        .filter(|p| p.data[0] == 3)
        .map(|p| p.to)
        .collect();
    assert!(!cookies.is_empty());
    assert!(cookies.iter().all(|to| *to == stranger(1)));
}

/// A cookie moves nothing, and only the one asked for is taken.
#[test]
fn forged_cookie_replies_are_ignored() {
    let mut sim = Sim::new(2, 7, config());
    sim.weather = Weather {
        loss: 0,
        duplicate: 0,
        delay: (100, 0),
    };
    sim.connect(0, 1);
    let init = sim.log[0].clone();
    let reply = crate::tunnel::wire::cookie_reply(
        u32::from_le_bytes(init.data[4..8].try_into().unwrap()),
        &[1; 24],
        &[2; 32],
    );
    sim.inject(init.to, init.from, reply.clone());
    sim.inject(stranger(1), init.from, reply);
    sim.run(secs(2));
    assert!(sim.is_up(0, 1));
    assert_eq!(sim.hosts[0].tunnels.counters().refused, 2);
    assert_eq!(
        sim.hosts[0].endpoint(&sim.id(1)),
        Some(sim.hosts[1].addr(0))
    );
}

/// An attacker replays inits that were never confirmed: at most three wait, and the member still gets in.
#[test]
fn replayed_unconfirmed_inits_fill_three_places_and_lock_nobody_out() {
    let mut sim = Sim::new(2, 8, config());
    // Collect inits that never arrived.
    sim.cut.insert(0);
    sim.connect(0, 1);
    sim.run(secs(60));
    let mut inits: Vec<_> = sim
        .log
        .iter()
        .filter(|p| p.data[0] == 1)
        .map(|p| p.data.clone())
        .collect();
    inits.dedup();
    assert!(inits.len() > 8, "{}", inits.len());
    sim.cut.clear();
    let to = sim.hosts[1].addr(0);
    for round in 0..200 {
        for (n, init) in inits.iter().enumerate() {
            if (n + round) % 3 == 0 {
                sim.inject(
                    stranger(u32::try_from(n * 1000 + round).unwrap()),
                    to,
                    init.clone(),
                );
            }
        }
        sim.run(ms(20));
        assert!(sim.hosts[1].table_len() <= 5);
    }
    sim.run_until(secs(30), |s| s.is_up(0, 1)).unwrap();
    // From now on they are all old.
    let before = sim.log.len();
    for (n, init) in inits.iter().enumerate() {
        sim.inject(
            stranger(90_000 + u32::try_from(n).unwrap()),
            to,
            init.clone(),
        );
    }
    sim.run(ms(100));
    assert!(sim.log[before..].iter().all(|p| p.data[0] != 2));
}

#[test]
fn answers_to_one_replayed_init_are_counted_out() {
    let mut sim = Sim::new(2, 9, config());
    sim.connect(0, 1);
    let init = sim.log[0].clone();
    for n in 0..200 {
        sim.inject(stranger(n), init.to, init.data.clone());
    }
    sim.run(ms(12));
    let answers = sim.log.iter().filter(|p| p.data[0] == 2).count();
    assert!(answers <= 33, "{answers}");
    for n in 0..200 {
        let (to, from) = traffic(&sim, stranger(n));
        assert!(to <= from);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Row D1 and C9: whatever a stranger sends, nothing moves, nothing panics, and no more comes back than went in.
    #[test]
    fn strangers_get_at_most_what_they_sent(
        datagrams in proptest::collection::vec((0u8..6, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..1100), any::<proptest::sample::Index>()), 1..40),
    ) {
        let mut sim = Sim::connected(11, config());
        sim.run(ms(500));
        let state = (sim.hosts[1].endpoint(&sim.id(0)), sim.hosts[1].table_len());
        let to = sim.hosts[1].addr(0);
        let from = stranger(5);
        for (kind, captured, mut bytes, index) in datagrams {
            if captured {
                let packet = index.get(&sim.log).clone();
                bytes = packet.data;
                let at = index.index(bytes.len().max(1));
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= kind;
                }
            } else {
                let len = match kind { 1 | 2 => HANDSHAKE_LEN, 3 => COOKIE_REPLY_LEN, _ => bytes.len() };
                bytes.resize(len, 0);
                if bytes.len() > 4 {
                    bytes[..4].copy_from_slice(&[kind, 1, 0, 0]);
                }
            }
            sim.inject(from, to, bytes);
            sim.run(ms(20));
        }
        let (to, sent) = traffic(&sim, from);
        prop_assert!(to <= sent, "{} {}", to, sent);
        prop_assert_eq!((sim.hosts[1].endpoint(&sim.id(0)), sim.hosts[1].table_len()), state);
    }
}

#[test]
fn every_length_and_first_byte_is_survived() {
    let mut sim = Sim::connected(12, config());
    let (from, now) = (stranger(1), sim.now);
    for len in 0..=2000_usize {
        for first in 0..=6_u8 {
            let mut bytes = vec![0xa5; len];
            for (at, byte) in [first, 1, 0, 0].into_iter().enumerate() {
                if let Some(slot) = bytes.get_mut(at) {
                    *slot = byte;
                }
            }
            sim.hosts[1].tunnels.handle_datagram(from, &bytes, now);
        }
    }
    for len in [10_000, 65_535] {
        sim.hosts[1]
            .tunnels
            .handle_datagram(from, &vec![1; len], now);
    }
    assert!(sim.hosts[1].tunnels.poll_transmit().is_none());
    assert!(sim.is_up(0, 1));
}
