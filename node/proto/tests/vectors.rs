//! The tunnel's test vectors in `docs/protocol.md`: two nodes replayed from their seeds, byte for byte.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

#[path = "../../../common/tests/protocol/page.rs"]
mod page;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{NetworkId, NodeId, OrgId, SecretKey, cbor, identity::x25519_public};
use kanpachi_proto::{
    code::{Code, Door, Joiner, Step, exchange::Ends},
    path::{Candidate, PathKind},
    standing,
    tunnel::{
        Config, Control, Event, FragmentHeader, HEADER_LEN, Kind, LocalIdentity, OVERHEAD,
        PeerConfig, ReplayWindow, Session, Tunnels,
    },
};
use page::Vectors;

const ORG: OrgId = OrgId([0x01; 32]);
const NETWORK: NetworkId = NetworkId([0xaa; 32]);
const COUNTER_FLOOR: u64 = 1_790_000_000;
const ADDRESSES: [&str; 2] = ["192.0.2.1:12976", "192.0.2.2:12976"];

fn id(n: usize) -> NodeId {
    SecretKey::from_seed(&[[0x11, 0x12][n]; 32]).node_id()
}

const fn tunnel_secret(n: usize) -> [u8; 32] {
    [[0x51, 0x52][n]; 32]
}

fn addr(n: usize) -> SocketAddr {
    ADDRESSES[n].parse().unwrap()
}

/// Node `n`, which knows the other one.
fn node(n: usize, seed: u8, config: Config, now: Instant) -> Tunnels {
    let identity = LocalIdentity::new(id(n), ORG, &tunnel_secret(n));
    let mut tunnels = Tunnels::new(identity, config, [seed; 32], COUNTER_FLOOR, now);
    tunnels.set_epochs(1, vec![(NETWORK, 5)], now);
    let other = PeerConfig {
        node_id: id(1 - n),
        tunnel_key: x25519_public(&tunnel_secret(1 - n)),
        networks: vec![NETWORK],
    };
    tunnels.set_peer(other, now);
    tunnels
}

fn initiator(now: Instant) -> Tunnels {
    let mut tunnels = node(0, 0x81, Config::default(), now);
    let candidate = Candidate {
        addr: addr(1),
        kind: PathKind::Host,
    };
    tunnels.set_candidates(&id(1), &[candidate], now);
    tunnels.connect(&id(1), now);
    tunnels
}

fn only_transmit(tunnels: &mut Tunnels) -> Vec<u8> {
    let transmit = tunnels.poll_transmit().expect("something to send");
    assert_eq!(tunnels.poll_transmit(), None);
    transmit.data
}

fn session(tunnels: &mut Tunnels) -> Arc<Session> {
    let mut found = None;
    while let Some(event) = tunnels.poll_event() {
        if let Event::SessionPending { session, .. } | Event::SessionUp { session, .. } = event {
            found = Some(session);
        }
    }
    found.expect("a session")
}

fn open(session: &Session, datagram: &[u8]) -> (u64, Kind, Vec<u8>) {
    let mut datagram = datagram.to_vec();
    let opened = session.open_in_place(&mut datagram, 0).unwrap();
    let payload = datagram[opened.payload].to_vec();
    (opened.counter, opened.kind, payload)
}

#[test]
fn a_handshake_and_the_first_packets() {
    let now = Instant::now();
    let mut v = Vectors::default();
    v.bytes("org", ORG);
    v.bytes("network", NETWORK);
    v.bytes("initiator.node", id(0));
    v.bytes("initiator.tunnel-secret", tunnel_secret(0));
    v.bytes("initiator.tunnel-public", x25519_public(&tunnel_secret(0)));
    v.bytes("initiator.seed", [0x81; 32]);
    v.bytes("responder.node", id(1));
    v.bytes("responder.tunnel-secret", tunnel_secret(1));
    v.bytes("responder.tunnel-public", x25519_public(&tunnel_secret(1)));
    v.bytes("responder.seed", [0x82; 32]);
    v.text("counter-floor", COUNTER_FLOOR);

    let mut a = initiator(now);
    let mut b = node(1, 0x82, Config::default(), now);
    let init = only_transmit(&mut a);
    v.bytes("init", &init);
    b.handle_datagram(addr(0), &init, now);
    let response = only_transmit(&mut b);
    v.bytes("response", &response);
    let at_b = session(&mut b);
    a.handle_datagram(addr(1), &response, now);
    let at_a = session(&mut a);

    let mut window = ReplayWindow::new();
    let mut n = 0;
    while let Some(transmit) = a.poll_transmit() {
        let (counter, kind, payload) = open(&at_b, &transmit.data);
        assert_eq!(kind, Kind::Control);
        assert!(window.check_and_set(counter));
        // Behind these come probes of the path MTU, which are zeros for the most part.
        if n < 2 {
            v.bytes(&format!("control-{n}"), &transmit.data);
            v.bytes(&format!("control-{n}.payload"), payload);
        }
        n += 1;
    }

    let payload =
        b"\x45\0\0\x1c\0\0\0\0\x40\x11\0\0\xc6\x13\0\x01\xc6\x13\0\x02\x30\x39\x30\x39\0\x08\0\0";
    let mut packet = vec![0; payload.len() + OVERHEAD];
    packet[HEADER_LEN..][..payload.len()].copy_from_slice(payload);
    at_a.seal_into(Kind::Ip, &mut packet, payload.len(), 0)
        .unwrap();
    let (counter, kind, opened) = open(&at_b, &packet);
    assert_eq!((kind, opened.as_slice()), (Kind::Ip, payload.as_slice()));
    assert!(window.check_and_set(counter));
    v.bytes("ip.payload", payload);
    v.bytes("ip", &packet);
    v.assert_on_page("tunnel");
}

#[test]
fn a_cookie_under_load() {
    let now = Instant::now();
    let mut v = Vectors::default();
    let mut a = initiator(now);
    let loaded = Config {
        initiations_per_second: 0,
        ..Config::default()
    };
    let mut b = node(1, 0x82, loaded, now);
    b.handle_datagram(addr(0), &only_transmit(&mut a), now);
    let reply = only_transmit(&mut b);
    v.text("from", addr(0));
    v.bytes("cookie-reply", &reply);
    a.handle_datagram(addr(1), &reply, now);
    let later = now + Duration::from_millis(50);
    a.handle_timeout(later);
    let again = only_transmit(&mut a);
    // Everything before mac2 is the init of the other block.
    v.bytes("mac2", &again[again.len() - 16..]);
    v.assert_on_page("cookie");
}

#[test]
fn control_messages_and_fragments() {
    let mut v = Vectors::default();
    let keepalive = Control::Keepalive {
        generation: 1,
        epochs: vec![(NETWORK, 5)],
    };
    for (name, message) in [
        ("keepalive", keepalive),
        (
            "ping",
            Control::Ping {
                nonce: 42,
                primary: true,
            },
        ),
        (
            "pong",
            Control::Pong {
                nonce: 42,
                seen: addr(0),
                held: 0,
            },
        ),
        (
            "pong-held",
            Control::Pong {
                nonce: 42,
                seen: addr(0),
                held: 10,
            },
        ),
        (
            "mtu",
            Control::MtuProbe {
                nonce: 42,
                pad: vec![0; 8],
            },
        ),
        (
            "mtu-ack",
            Control::MtuAck {
                nonce: 42,
                size: 25,
            },
        ),
        ("close", Control::Close { reason: 0 }),
    ] {
        let bytes = cbor::encode(&message);
        assert_eq!(Control::decode(&bytes), Some(message));
        v.bytes(name, bytes);
    }
    let fragment = FragmentHeader {
        id: 0x0102_0304,
        kind: Kind::Ip,
        index: 1,
        count: 3,
    };
    v.bytes("fragment-header", fragment.encode());
    v.assert_on_page("control");
}

#[test]
fn where_a_node_stands() {
    let mut v = Vectors::default();
    v.bytes("node", id(0));
    v.bytes("member", id(1));
    v.bytes("rank", standing::rank(&id(0), &id(1)).0);
    v.assert_on_page("standing");
}

#[test]
fn a_code_is_exchanged_for_an_invite() {
    let now = Instant::now();
    let ends = Ends {
        org: ORG,
        joiner: id(0),
        host: id(1),
    };
    let link = "kanpachi://join/lan#…";
    let mut door = Door::new(ORG, id(1), [0x91; 32], now);
    let code = door.code().clone();
    let (mut joiner, start) = Joiner::start(&code, ends, [0x92; 32]);
    let from = [192, 0, 2, 1].into();
    let (tried, element) = door.handle_start(from, id(0), &start, now).unwrap();
    let Step::Send(confirm) = joiner.handle_reply(&element).unwrap() else {
        panic!("done too soon");
    };
    let invite = door
        .handle_confirm(tried, &confirm, now)
        .unwrap()
        .seal(link);
    let mut v = Vectors::default();
    v.text("random", page::hex(&[0x42; 32]));
    v.text("random.code", Code::from_random(&[0x42; 32]).text());
    v.bytes("org", ORG.0);
    v.text("code", code.text());
    v.bytes("joiner", id(0));
    v.bytes("host", id(1));
    v.bytes("start", start.frame().to_bytes());
    v.bytes("element", element.frame().to_bytes());
    v.bytes("confirm", confirm.frame().to_bytes());
    v.bytes("link", link);
    v.bytes("invite", invite.frame().to_bytes());
    v.assert_on_page("exchange");
}
