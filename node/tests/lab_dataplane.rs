//! The packet path between real adapters, sockets and tunnels.
//!
//! These need CAP_NET_ADMIN, CAP_SYS_ADMIN (to make namespaces) and `/dev/net/tun`; without them they fail with one line
//! that says so.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod dataplane_lab;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use dataplane_lab::{DEADLINE, Node, eventually, member, overlay4, overlay6, star};
use kanpachi_node::dataplane::Counters;
use kanpachi_proto::tunnel::{HEADER_LEN, Kind, OVERHEAD};

fn udp4(from: Ipv4Addr, to: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
    packet[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    packet.extend_from_slice(&from.octets());
    packet.extend_from_slice(&to.octets());
    let sum: u32 = packet
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let checksum = !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap();
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    for word in [4000, port, length, 0] {
        packet.extend_from_slice(&word.to_be_bytes());
    }
    packet.extend_from_slice(payload);
    packet
}

fn nonzero(node: &Node) -> Vec<(&'static str, u64)> {
    node.counters()
        .snapshot()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[test]
fn lab_the_first_packet_makes_the_session_and_arrives() {
    let (one, others) = star(&[2]);
    let two = &others[0];
    let receiver4 = two.socket_at(overlay4(2), 7000);
    let receiver6 = two.socket_at(overlay6(2), 7000);
    let sender = one.socket_at(overlay4(1), 0);
    let before = Instant::now();
    sender.send_to(b"first", (overlay4(2), 7000)).unwrap();
    let mut buffer = [0; 64];
    let (len, from) = receiver4.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], from),
        (&b"first"[..], sender.local_addr().unwrap())
    );
    assert!(
        before.elapsed() < Duration::from_secs(3),
        "{:?}",
        before.elapsed()
    );

    // And back, in the other family.
    let sender = two.socket_at(overlay6(2), 0);
    let receiver = one.socket_at(overlay6(1), 7000);
    sender.send_to(b"back", (overlay6(1), 7000)).unwrap();
    let (len, from) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(
        (&buffer[..len], from),
        (&b"back"[..], sender.local_addr().unwrap())
    );
    drop(receiver6);
    let drops: Vec<_> = two
        .counters()
        .snapshot()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect();
    assert!(
        drops.iter().all(|(name, _)| *name == "drop_own_source"),
        "{drops:?}"
    );
}

#[test]
fn lab_a_stream_arrives_whole() {
    const BYTES: usize = 200 << 20;
    let (one, others) = star(&[2]);
    let two = &others[0];
    let listener = two
        .namespace
        .run(|| TcpListener::bind((overlay4(2), 7001)).unwrap());
    let receiver = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let (mut buffer, mut total, mut sum) = (vec![0; 1 << 16], 0usize, 0u64);
        loop {
            let len = stream.read(&mut buffer).unwrap();
            if len == 0 {
                return (total, sum);
            }
            for (offset, byte) in buffer[..len].iter().enumerate() {
                sum = sum.wrapping_add(u64::from(*byte).wrapping_mul((total + offset) as u64 | 1));
            }
            total += len;
        }
    });
    let mut stream = one
        .namespace
        .run(|| TcpStream::connect((overlay4(2), 7001)).unwrap());
    let data: Vec<u8> = (0..BYTES)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
        .collect();
    let expected = data.iter().enumerate().fold(0u64, |sum, (at, byte)| {
        sum.wrapping_add(u64::from(*byte).wrapping_mul(at as u64 | 1))
    });
    let start = Instant::now();
    stream.write_all(&data).unwrap();
    drop(stream);
    let seen = receiver.join().unwrap();
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.0} Mbit/s", BYTES as f64 * 8.0 / seconds / 1e6);
    println!("1: {:?}\n2: {:?}", nonzero(&one), nonzero(two));
    assert_eq!(seen, (BYTES, expected));
}

#[test]
fn lab_broadcast_and_multicast_reach_each_member_exactly_once() {
    let (one, others) = star(&[2, 3]);
    for node in &others {
        one.wait_or_connect(node.number);
        node.wait_for_session(1);
    }
    let group = Ipv4Addr::new(239, 7, 7, 7);
    let sockets: Vec<UdpSocket> = others
        .iter()
        .map(|node| {
            let own = overlay4(node.number);
            node.namespace.run(move || {
                let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 7002)).unwrap();
                socket.join_multicast_v4(&group, &own).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket
            })
        })
        .collect();
    let sender = one.socket_at(overlay4(1), 0);
    let targets = [Ipv4Addr::new(198, 19, 255, 255), Ipv4Addr::BROADCAST, group];
    for (number, target) in targets.iter().enumerate() {
        sender
            .send_to(&[u8::try_from(number).unwrap()], (*target, 7002))
            .unwrap();
    }
    // The marker comes behind whatever came twice.
    for node in &others {
        sender
            .send_to(b"marker", (overlay4(node.number), 7002))
            .unwrap();
    }
    for socket in sockets {
        let mut seen = Vec::new();
        let mut buffer = [0; 64];
        loop {
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(from, sender.local_addr().unwrap());
            if &buffer[..len] == b"marker" {
                break;
            }
            seen.push(buffer[0]);
        }
        assert_eq!(seen, [0, 1, 2]);
    }
}

#[test]
fn lab_hostile_inner_packets_are_dropped_and_counted() {
    let (one, others) = star(&[2, 3]);
    let two = &others[0];
    one.wait_or_connect(2);
    two.wait_for_session(1);
    let witness = two.socket_at(Ipv4Addr::UNSPECIFIED, 7003);
    let to = overlay4(2);
    type Count = fn(&Counters) -> u64;
    let cases: [(&str, Vec<u8>, Count); 6] = [
        (
            "another member's source",
            udp4(overlay4(3), to, 7003, b"evil"),
            |c| c.drop_source.get(),
        ),
        (
            "the receiver's own source",
            udp4(to, to, 7003, b"evil"),
            |c| c.drop_source.get(),
        ),
        (
            "no source",
            udp4(Ipv4Addr::UNSPECIFIED, to, 7003, b"evil"),
            |c| c.drop_source.get(),
        ),
        (
            "another destination",
            udp4(overlay4(1), Ipv4Addr::LOCALHOST, 7003, b"evil"),
            |c| c.drop_destination.get(),
        ),
        ("a cut header", vec![0x45; 12], |c| c.drop_malformed.get()),
        (
            "a wrong length",
            [udp4(overlay4(1), to, 7003, b"evil"), vec![0]].concat(),
            |c| c.drop_malformed.get(),
        ),
    ];
    for (what, packet, counter) in cases {
        let before = counter(two.counters());
        one.inject(2, &packet);
        eventually(what, || counter(two.counters()) == before + 1);
    }
    one.inject(2, &udp4(overlay4(1), to, 7003, b"good"));
    let mut buffer = [0; 64];
    let (len, _) = witness.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"good");
}

#[test]
fn lab_repeated_forged_and_unknown_datagrams_are_dropped_and_counted() {
    let (one, others) = star(&[2]);
    let two = &others[0];
    one.wait_or_connect(2);
    two.wait_for_session(1);
    let witness = two.socket_at(overlay4(2), 7004);
    let inner = udp4(overlay4(1), overlay4(2), 7004, b"once");
    let sending = one.peer(2).sending().unwrap();
    let mut datagram = vec![0; inner.len() + OVERHEAD];
    datagram[HEADER_LEN..HEADER_LEN + inner.len()].copy_from_slice(&inner);
    sending
        .session
        .seal_into(Kind::Ip, &mut datagram, inner.len(), 1)
        .unwrap();
    let counters = two.counters();

    let mut forged = datagram.clone();
    *forged.last_mut().unwrap() ^= 1;
    one.socket.send(sending.endpoint, &forged, None).unwrap();
    eventually("the forged one is counted", || {
        counters.drop_forged.get() == 1
    });

    for _ in 0..3 {
        one.socket.send(sending.endpoint, &datagram, None).unwrap();
    }
    eventually("both repetitions are counted", || {
        counters.drop_replay.get() == 2
    });

    let mut unknown = datagram.clone();
    unknown[4..8].copy_from_slice(&0xdead_beef_u32.to_le_bytes());
    one.socket.send(sending.endpoint, &unknown, None).unwrap();
    eventually("the unknown session is counted", || {
        counters.drop_session.get() == 1
    });

    one.socket
        .send(sending.endpoint, &[0x3f; 40], None)
        .unwrap();
    eventually("the unknown type is counted", || {
        counters.drop_malformed.get() == 1
    });

    let mut buffer = [0; 64];
    let (len, _) = witness.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..len], b"once");
    witness.set_nonblocking(true).unwrap();
    assert!(witness.recv_from(&mut buffer).is_err());
}

#[test]
fn lab_an_evicted_member_is_cut_off_at_once() {
    let (one, others) = star(&[2, 3]);
    let two = &others[0];
    one.wait_or_connect(2);
    two.wait_for_session(1);
    let peer = one.peer(2);
    one.publisher.lock().unwrap().set_members([member(3)]);
    assert!(peer.sending().is_none());
    let before = one.counters().drop_session.get();
    two.inject(1, &udp4(overlay4(2), overlay4(1), 7005, b"still here?"));
    eventually("its datagrams find no session", || {
        one.counters().drop_session.get() > before
    });
    let sender = one.socket_at(overlay4(1), 0);
    sender.send_to(b"are you?", (overlay4(2), 7005)).unwrap();
    eventually("packets to it have no route", || {
        one.counters().drop_no_route.get() > 0
    });
}
