//! Rekeying, ageing and limits.

use super::sim::{Sim, Weather, config, ms, secs};
use crate::tunnel::{CloseReason, Config, Event, PathState, REKEY_AFTER_MESSAGES, SealError};

fn ups(sim: &Sim, at: usize) -> usize {
    sim.hosts[at]
        .events
        .iter()
        .filter(|(_, e)| matches!(e, Event::SessionUp { .. }))
        .count()
}

fn fast() -> Config {
    Config {
        rekey_after: secs(2),
        ..config()
    }
}

#[test]
fn a_rekey_under_load_loses_nothing_and_repeats_nothing() {
    for seed in 0..20 {
        let mut sim = Sim::connected(seed, fast());
        // Heavy reordering, no loss: whatever is missing was lost by us.
        sim.weather = Weather {
            loss: 0,
            duplicate: 20,
            delay: (5, 50),
        };
        sim.connect(1, 0);
        let total = 10_000_u32;
        for n in 0..total {
            sim.send(0, 1, &n.to_le_bytes()).unwrap();
            sim.send(1, 0, &n.to_le_bytes()).unwrap();
            sim.run(ms(2));
        }
        sim.run(secs(1));
        assert!(
            ups(&sim, 0) >= 6 && ups(&sim, 1) >= 6,
            "{} {}",
            ups(&sim, 0),
            ups(&sim, 1)
        );
        for host in &mut sim.hosts {
            assert_eq!(host.received.len(), total as usize, "seed {seed}");
            host.received.sort_unstable();
            host.received.dedup();
            assert_eq!(host.received.len(), total as usize);
            assert!(host.table_len() <= 4);
        }
    }
}

#[test]
fn only_one_side_rekeys() {
    let mut sim = Sim::connected(1, config());
    sim.connect(1, 0);
    for _ in 0..400 {
        sim.send(0, 1, b"x").unwrap();
        sim.send(1, 0, b"x").unwrap();
        sim.run(secs(1));
    }
    let inits = sim.log.iter().filter(|p| p.data[0] == 1).count();
    // 400 s hold three rekeys at 120 to 130 s.
    assert_eq!((inits, ups(&sim, 0), ups(&sim, 1)), (4, 4, 4));
    assert_eq!(sim.hosts[1].received.len(), 400);
}

#[test]
fn an_idle_pair_that_is_wanted_stays_up_and_an_unwanted_one_ends() {
    let mut sim = Sim::connected(2, config());
    sim.run(secs(600));
    assert!(sim.is_up(0, 1));
    assert!(matches!(sim.state(0, 1), PathState::Up { .. }));
    let quiet = sim.log.iter().filter(|p| p.at > secs(300)).count();
    assert!(quiet < 120, "{quiet} datagrams in 300 idle seconds");

    let b = sim.id(1);
    sim.with(0, |t, now| t.disconnect(&b, now));
    sim.run(secs(1));
    assert!(!sim.is_up(0, 1));
    assert_eq!(sim.hosts[1].table_len(), 0);
    let reason = sim.hosts[1].events.iter().rev().find_map(|(_, e)| match e {
        Event::SessionClosed { reason, .. } => Some(*reason),
        _ => None,
    });
    assert_eq!(reason, Some(CloseReason::ClosedByPeer));
    let before = sim.log.len();
    sim.run(secs(600));
    assert_eq!(sim.log.len(), before, "nobody wants the pair");
}

#[test]
fn a_session_that_cannot_be_renewed_ends_after_180_seconds() {
    let mut sim = Sim::connected(3, config());
    let session = sim.hosts[0].session(&sim.id(1)).unwrap();
    let b = sim.id(1);
    sim.run(secs(1));
    // Nothing can be written any more: the peer is there, but forgets us without a word.
    sim.cut.insert(0);
    for _ in 0..178 {
        let _ = sim.send(0, 1, b"x");
        sim.run(secs(1));
    }
    sim.run(secs(3));
    assert!(session.is_closed());
    assert!(sim.hosts[0].session(&b).is_none());
    assert_eq!(sim.send(0, 1, b"x"), Err(SealError::Closed));
    assert_eq!(sim.hosts[0].table_len(), 0);
}

/// Row C3 of the attack checklist.
#[test]
fn many_messages_ask_for_a_new_session() {
    let mut sim = Sim::connected(4, config());
    let first = sim.hosts[0].session(&sim.id(1)).unwrap();
    sim.run(secs(1));
    first.preset_counter(REKEY_AFTER_MESSAGES);
    sim.send(0, 1, b"one more").unwrap();
    sim.run(secs(2));
    let second = sim.hosts[0].session(&sim.id(1)).unwrap();
    assert_ne!(first.local_index(), second.local_index());
    sim.send(0, 1, b"x").unwrap();
    sim.run(ms(50));
    assert_eq!(sim.hosts[1].received.len(), 2);
}

#[test]
fn one_way_traffic_is_answered_by_keepalives() {
    let mut sim = Sim::connected(5, config());
    sim.run(secs(30));
    for n in 0..60 {
        sim.send(0, 1, b"x").unwrap();
        sim.run(secs(1));
        assert!(matches!(sim.state(0, 1), PathState::Up { .. }), "{n}");
    }
}

#[test]
fn epochs_reach_a_live_peer_at_once_and_only_for_networks_in_common() {
    use kanpachi_common::NetworkId;
    let (shared, private) = (NetworkId([1; 32]), NetworkId([2; 32]));
    let mut sim = Sim::connected(6, config());
    let mut peer = sim.hosts[1].config();
    peer.networks = vec![shared];
    sim.with(0, |t, now| {
        t.set_peer(peer, now);
        t.set_epochs(3, vec![(private, 9), (shared, 5)], now);
    });
    sim.run(ms(50));
    let told = sim.hosts[1].events.iter().rev().find_map(|(_, e)| match e {
        Event::Epochs {
            generation, epochs, ..
        } => Some((*generation, epochs.clone())),
        _ => None,
    });
    assert_eq!(told, Some((3, vec![(shared, 5)])));
    // And in the handshake, for whoever comes back later.
    sim.restart(1, 2000);
    sim.connect(1, 0);
    sim.run_until(secs(1), |s| s.is_up(0, 1)).unwrap();
    let first = sim.hosts[1].events.iter().find_map(|(_, e)| match e {
        Event::Epochs {
            generation, epochs, ..
        } => Some((*generation, epochs.clone())),
        _ => None,
    });
    assert_eq!(first, Some((3, vec![(shared, 5)])));
}
