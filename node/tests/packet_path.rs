//! The packet path of the daemon between two tunnels, without an adapter: what it lets through and what it drops.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::{NetworkId, NodeId, OrgId, identity::x25519_public};
use kanpachi_node::{
    dataplane::{Dataplane, Inbound, Member, Own, Publisher},
    platform::PacketWriter,
};
use kanpachi_proto::{
    path::{Candidate, PathKind},
    tunnel::{
        Config, Datagram, Event, Kind, LocalIdentity, OVERHEAD, PeerConfig, Session, Tunnels,
        classify,
    },
};
use kanpachi_transport::{DatagramHandler as _, SharedSocket};

const ORG: OrgId = OrgId([0xaa; 32]);
const NETWORK: NetworkId = NetworkId([0xbb; 32]);
/// An inner packet from the sender's address to the receiver's.
const PACKET: [u8; 20] = [
    0x45, 0, 0, 20, 0, 0, 0, 0, 64, 253, 0, 0, 198, 19, 0, 0, 198, 19, 0, 1,
];

/// There is none; packets that get as far as the adapter are counted.
#[derive(Clone)]
struct NoAdapter;

impl PacketWriter for NoAdapter {
    fn write(&self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn id(n: u8) -> NodeId {
    NodeId([n + 1; 32])
}

fn addr(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n + 1], 12976))
}

fn tunnels(n: u8, now: Instant) -> Tunnels {
    let identity = LocalIdentity::new(id(n), ORG, &[n + 1; 32]);
    let mut tunnels = Tunnels::new(identity, Config::default(), [n; 32], 1, now);
    let peer = PeerConfig {
        node_id: id(1 - n),
        tunnel_key: x25519_public(&[2 - n; 32]),
        networks: vec![NETWORK],
    };
    tunnels.set_peer(peer, now);
    tunnels
}

/// A sender with a session, and a receiver with the daemon's packet path.
struct Pair {
    session: Arc<Session>,
    path: Dataplane<NoAdapter>,
    inbound: Inbound<NoAdapter>,
}

impl Pair {
    fn new() -> Self {
        let now = Instant::now();
        let (mut a, mut b) = (tunnels(0, now), tunnels(1, now));
        let socket = SharedSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (path, mut publisher, _inbox) = Dataplane::new(socket, now);
        publisher.set_own(Own {
            ipv4: Some(Ipv4Addr::new(198, 19, 0, 1)),
            ..Own::default()
        });
        publisher.set_members([Member {
            node_id: id(0),
            ipv4: Some(Ipv4Addr::new(198, 19, 0, 0)),
            ipv6: None,
        }]);
        let candidate = Candidate {
            addr: addr(1),
            kind: PathKind::Host,
        };
        a.set_candidates(&id(1), &[candidate], now);
        a.connect(&id(1), now);
        let session = shake_hands(&mut a, &mut b, &mut publisher, now);
        let inbound = path.inbound();
        Self {
            session,
            path,
            inbound,
        }
    }

    fn seal(&self) -> Vec<u8> {
        let mut out = vec![0; OVERHEAD + PACKET.len()];
        out[16..16 + PACKET.len()].copy_from_slice(&PACKET);
        let len = self.session.seal_into(Kind::Ip, &mut out, PACKET.len(), 0);
        out.truncate(len.unwrap());
        out
    }

    fn arrive(&mut self, packet: &[u8]) {
        self.inbound.handle(addr(0), &mut packet.to_vec());
        self.inbound.end_of_batch();
    }

    /// Got through to the adapter, forged, replayed.
    fn counted(&self) -> [u64; 3] {
        let snapshot: BTreeMap<_, _> = self.path.counters().snapshot().into_iter().collect();
        ["drop_adapter", "drop_forged", "drop_replay"].map(|name| snapshot[name])
    }
}

/// Carries the datagrams of both until the one that called has a session; the other's events go to its packet path.
fn shake_hands(
    a: &mut Tunnels,
    b: &mut Tunnels,
    publisher: &mut Publisher,
    mut now: Instant,
) -> Arc<Session> {
    let mut session = None;
    for _ in 0..50 {
        now += Duration::from_millis(20);
        a.handle_timeout(now);
        b.handle_timeout(now);
        while let Some(sent) = a.poll_transmit() {
            if classify(&sent.data) == Some(Datagram::Handshake) {
                b.handle_datagram(addr(0), &sent.data, now);
            }
        }
        while let Some(sent) = b.poll_transmit() {
            a.handle_datagram(addr(1), &sent.data, now);
        }
        while let Some(event) = b.poll_event() {
            publisher.apply(&event);
        }
        while let Some(event) = a.poll_event() {
            if let Event::SessionUp { session: up, .. } = event {
                session = Some(up);
            }
        }
    }
    session.expect("a session")
}

#[test]
fn a_packet_is_let_through_once() {
    let mut pair = Pair::new();
    let packet = pair.seal();
    pair.arrive(&packet);
    pair.arrive(&packet);
    assert_eq!(pair.counted(), [1, 0, 1]);
}

/// The window is asked about authenticated packets only: else a stranger could move it beyond all true ones.
#[test]
fn a_forged_packet_moves_no_replay_window() {
    let mut pair = Pair::new();
    let packet = pair.seal();
    let mut ahead = packet.clone();
    ahead[8..16].copy_from_slice(&1_000_000_u64.to_le_bytes());
    pair.arrive(&ahead);
    // The same counter with other contents: it does not take the place of the true one.
    let mut bent = packet.clone();
    bent[20] ^= 1;
    pair.arrive(&bent);
    assert_eq!(pair.counted(), [0, 2, 0]);
    pair.arrive(&packet);
    assert_eq!(pair.counted(), [1, 2, 0]);
}
