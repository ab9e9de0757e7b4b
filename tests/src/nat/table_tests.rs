//! The NAT in user space: mapping, filtering, ports, hairpin and forgetting.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::*;
use crate::capture::{ICMP, TCP, UDP};
use crate::nat::packet::tests::{build, is_sound};

const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const DESK: End = (Ipv4Addr::new(192, 168, 1, 2), 12_976);
const LAMP: End = (Ipv4Addr::new(192, 168, 2, 2), 12_976);
const SERVER: End = (Ipv4Addr::new(203, 0, 113, 20), 700);
const ITS_OTHER_PORT: End = (SERVER.0, 701);
const STRANGER: End = (Ipv4Addr::new(203, 0, 113, 21), 700);
const TIMEOUT: Duration = Duration::from_secs(30);

fn nat(behaviour: Behaviour) -> Nat {
    Nat::new(behaviour, PUBLIC, TIMEOUT, 1)
}

/// Sends and returns source and destination behind the NAT, or `None` for a dropped packet.
fn send(nat: &mut Nat, protocol: u8, from: End, to: End, now: Instant) -> Option<(End, End)> {
    let mut data = build(protocol, from, to);
    let fate = nat.translate(&mut data, now);
    assert!(is_sound(&data));
    let packet = Packet::parse(&mut data)?;
    let ends = (packet.end(Side::Source), packet.end(Side::Destination));
    (fate == Fate::Pass).then_some(ends)
}

fn mapped(nat: &mut Nat, from: End, to: End, now: Instant) -> End {
    send(nat, UDP, from, to, now)
        .expect("what goes out is mapped")
        .0
}

#[test]
fn mappings_are_shared_as_far_as_the_behaviour_says() {
    let now = Instant::now();
    for (mapping, same_address, other_address) in [
        (Dependence::EndpointIndependent, true, true),
        (Dependence::Address, true, false),
        (Dependence::AddressAndPort, false, false),
    ] {
        let mut nat = nat(Behaviour {
            mapping,
            ..Behaviour::SYMMETRIC
        });
        let first = mapped(&mut nat, DESK, SERVER, now);
        assert_eq!(first.0, PUBLIC);
        assert_eq!(mapped(&mut nat, DESK, SERVER, now), first);
        assert_eq!(
            mapped(&mut nat, DESK, ITS_OTHER_PORT, now) == first,
            same_address
        );
        assert_eq!(
            mapped(&mut nat, DESK, STRANGER, now) == first,
            other_address
        );
    }
}

#[test]
fn filters_let_in_who_was_sent_to() {
    let now = Instant::now();
    for (filtering, other_port, stranger) in [
        (Dependence::EndpointIndependent, true, true),
        (Dependence::Address, true, false),
        (Dependence::AddressAndPort, false, false),
    ] {
        for protocol in [UDP, TCP] {
            let mut nat = nat(Behaviour {
                filtering,
                ..Behaviour::FULL_CONE
            });
            let (outside, _) = send(&mut nat, protocol, DESK, SERVER, now).unwrap();
            let mut comes_in = |from| send(&mut nat, protocol, from, outside, now);
            assert_eq!(comes_in(SERVER), Some((SERVER, DESK)));
            assert_eq!(comes_in(ITS_OTHER_PORT).is_some(), other_port);
            assert_eq!(comes_in(STRANGER).is_some(), stranger);
        }
    }
}

#[test]
fn ports_are_kept_or_not() {
    let now = Instant::now();
    let mut preserving = nat(Behaviour::PORT_RESTRICTED);
    assert_eq!(mapped(&mut preserving, DESK, SERVER, now).1, DESK.1);
    // The second host wants the same port and cannot have it, and keeps the one that it gets.
    let other = mapped(&mut preserving, LAMP, SERVER, now);
    assert_ne!(other.1, LAMP.1);
    assert_eq!(mapped(&mut preserving, LAMP, STRANGER, now), other);
    let mut shifted = nat(Behaviour::PORT_SHIFTED);
    assert_eq!(mapped(&mut shifted, DESK, SERVER, now).1, DESK.1 + SHIFT);
    let mut random = nat(Behaviour::CARRIER);
    assert_ne!(mapped(&mut random, DESK, SERVER, now).1, DESK.1);
}

#[test]
fn only_a_hairpinning_nat_turns_packets_back_and_they_come_from_outside() {
    let now = Instant::now();
    for hairpin in [false, true] {
        let mut nat = nat(Behaviour {
            hairpin,
            ..Behaviour::CARRIER
        });
        let desk = mapped(&mut nat, DESK, SERVER, now);
        let lamp = mapped(&mut nat, LAMP, SERVER, now);
        let first = send(&mut nat, UDP, DESK, lamp, now);
        assert_eq!(
            first, None,
            "lamp has not sent to desk: the filter holds inside too"
        );
        let back = send(&mut nat, UDP, LAMP, desk, now);
        assert_eq!(back, hairpin.then_some((lamp, DESK)));
        let forth = send(&mut nat, UDP, DESK, lamp, now);
        assert_eq!(forth, hairpin.then_some((desk, LAMP)));
    }
}

#[test]
fn a_mapping_that_nothing_goes_out_by_is_forgotten() {
    let mut now = Instant::now();
    let mut nat = nat(Behaviour::CARRIER);
    let first = mapped(&mut nat, DESK, SERVER, now);
    now += TIMEOUT - Duration::from_secs(1);
    assert_eq!(mapped(&mut nat, DESK, SERVER, now), first);
    now += TIMEOUT - Duration::from_secs(1);
    assert!(send(&mut nat, UDP, SERVER, first, now).is_some());
    // What comes in keeps nothing alive.
    now += Duration::from_secs(2);
    assert_eq!(send(&mut nat, UDP, SERVER, first, now), None);
    assert_ne!(mapped(&mut nat, DESK, SERVER, now), first);
    let second = mapped(&mut nat, DESK, SERVER, now);
    nat.forget();
    assert_eq!(send(&mut nat, UDP, SERVER, second, now), None);
}

#[test]
fn the_number_of_mappings_is_bounded() {
    let now = Instant::now();
    let mut nat = nat(Behaviour::CARRIER);
    for number in 0..=MAX_MAPPINGS {
        let from = (DESK.0, number as u16);
        let passed = send(&mut nat, UDP, from, SERVER, now).is_some();
        assert_eq!(passed, number < MAX_MAPPINGS);
    }
}

#[test]
fn what_is_for_nobody_is_dropped() {
    let now = Instant::now();
    let mut nat = nat(Behaviour::FULL_CONE);
    assert_eq!(send(&mut nat, UDP, SERVER, (PUBLIC, 4000), now), None);
    let elsewhere = (Ipv4Addr::new(198, 51, 100, 1), 1);
    assert_eq!(send(&mut nat, UDP, SERVER, elsewhere, now), None);
}

#[test]
fn echoes_come_back_and_nobody_behind_is_pinged() {
    let now = Instant::now();
    let mut nat = nat(Behaviour::CARRIER);
    let (outside, _) = send(&mut nat, ICMP, DESK, (SERVER.0, 0), now).unwrap();
    assert_ne!(outside.1, DESK.1);
    let answer = send(&mut nat, ICMP, (SERVER.0, 0), outside, now);
    assert_eq!(answer.map(|(_, to)| to), Some(DESK));
    let request = send(&mut nat, ICMP, (SERVER.0, 7), (PUBLIC, 0), now);
    assert_eq!(request, None);
}
