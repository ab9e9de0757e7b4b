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

use kanpachi_common::{NetworkId, NodeId, OrgId, cbor, identity::x25519_public};
use kanpachi_node::{
    dataplane::{Dataplane, FromPeer, Inbound, Inbox, Member, Own, Publisher},
    platform::PacketWriter,
};
use kanpachi_proto::{
    path::{Candidate, PathKind},
    tunnel::{
        Config, Control, Datagram, Event, FragmentHeader, Kind, LocalIdentity, OVERHEAD,
        PeerConfig, Receipt, Session, Tunnels, classify,
    },
};
use kanpachi_transport::{DatagramHandler as _, Expected, SharedSocket};

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
        Self::with_engine().0
    }

    /// With what the engine would hear, and the receiver's end of the session.
    fn with_engine() -> (Self, Inbox, Arc<Session>) {
        let now = Instant::now();
        let (mut a, mut b) = (tunnels(0, now), tunnels(1, now));
        let socket = SharedSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let (path, mut publisher, inbox) = Dataplane::new(socket, now, String::new());
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
        let [session, theirs] = shake_hands(&mut a, &mut b, &mut publisher, now);
        let inbound = path.inbound();
        let pair = Self {
            session,
            path,
            inbound,
        };
        (pair, inbox, theirs)
    }

    fn seal(&self) -> Vec<u8> {
        self.seal_as(Kind::Ip, &PACKET)
    }

    fn seal_as(&self, kind: Kind, payload: &[u8]) -> Vec<u8> {
        let mut out = vec![0; OVERHEAD + payload.len()];
        out[16..16 + payload.len()].copy_from_slice(payload);
        let len = self.session.seal_into(kind, &mut out, payload.len(), 0);
        out.truncate(len.unwrap());
        out
    }

    /// A payload in two fragments arrives.
    fn arrive_cut(&mut self, id: u32, kind: Kind, payload: &[u8]) {
        for (index, piece) in (0..).zip(payload.chunks(payload.len().div_ceil(2))) {
            let count = 2;
            let header = FragmentHeader {
                id,
                kind,
                index,
                count,
            };
            let fragment = [&header.encode()[..], piece].concat();
            self.arrive(&self.seal_as(Kind::Fragment, &fragment));
        }
    }

    fn count(&self, name: &str) -> u64 {
        let snapshot: BTreeMap<_, _> = self.path.counters().snapshot().into_iter().collect();
        snapshot[name]
    }

    fn arrive(&mut self, packet: &[u8]) {
        self.inbound.handle(addr(0), &mut packet.to_vec());
        self.inbound.end_of_batch();
    }

    /// Got through to the adapter, forged, replayed.
    fn counted(&self) -> [u64; 3] {
        ["drop_adapter", "drop_forged", "drop_replay"].map(|name| self.count(name))
    }
}

/// Carries the datagrams of both until the one that called has a session, and confirms it; the other's events go to its packet
/// path. The session of each.
fn shake_hands(
    a: &mut Tunnels,
    b: &mut Tunnels,
    publisher: &mut Publisher,
    mut now: Instant,
) -> [Arc<Session>; 2] {
    let (mut session, mut theirs): (Option<Arc<Session>>, Option<Arc<Session>>) = (None, None);
    for _ in 0..50 {
        now += Duration::from_millis(20);
        a.handle_timeout(now);
        b.handle_timeout(now);
        while let Some(sent) = a.poll_transmit() {
            if classify(&sent.data) == Some(Datagram::Handshake) {
                b.handle_datagram(addr(0), &sent.data, now);
            } else if let Some(theirs) = &theirs {
                let mut data = sent.data;
                let opened = theirs.open_in_place(&mut data, 0).unwrap();
                let receipt = Receipt::at_once(theirs.local_index(), addr(0), opened.counter);
                b.handle_opened_control(receipt, &data[opened.payload], now);
            }
        }
        while let Some(sent) = b.poll_transmit() {
            a.handle_datagram(addr(1), &sent.data, now);
        }
        while let Some(event) = b.poll_event() {
            publisher.apply(&event);
            if let Event::SessionPending { session, .. } = event {
                theirs = Some(session);
            }
        }
        while let Some(event) = a.poll_event() {
            if let Event::SessionUp { session: up, .. } = event {
                session = Some(up);
            }
        }
    }
    [session, theirs].map(|session| session.expect("a session"))
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

/// What is put together is a packet like any other: the same checks, on the whole.
#[test]
fn a_packet_in_fragments_is_checked_when_it_is_whole() {
    let mut pair = Pair::new();
    pair.arrive_cut(1, Kind::Ip, &PACKET);
    assert_eq!(pair.counted(), [1, 0, 0]);
    let mut foreign = PACKET;
    foreign[15] = 9;
    pair.arrive_cut(2, Kind::Ip, &foreign);
    let mut elsewhere = PACKET;
    elsewhere[19] = 9;
    pair.arrive_cut(3, Kind::Ip, &elsewhere);
    pair.arrive_cut(4, Kind::Ip, &PACKET[..19]);
    pair.arrive_cut(5, Kind::Control, &PACKET);
    pair.arrive_cut(6, Kind::Ethernet, &PACKET);
    assert_eq!(pair.counted(), [1, 0, 0]);
    let names = [
        "drop_source",
        "drop_destination",
        "drop_malformed",
        "drop_kind",
    ];
    assert_eq!(names.map(|name| pair.count(name)), [1, 1, 1, 2]);
    let nonsense = pair.seal_as(Kind::Fragment, &PACKET);
    pair.arrive(&nonsense);
    assert_eq!(pair.count("drop_fragment"), 1);
}

/// The engine is asked by all members: none of them has it for itself. Data has its own way.
#[test]
fn a_flood_of_control_messages_is_heard_in_part_and_data_goes_on() {
    let mut pair = Pair::new();
    for _ in 0..2000 {
        let message = pair.seal_as(Kind::Control, &PACKET);
        pair.arrive(&message);
    }
    // There is no engine here: what it was to have is counted as what it had no room for.
    let (heard, not) = (pair.count("drop_engine"), pair.count("drop_flood"));
    assert_eq!(heard + not, 2000);
    assert!((500..1500).contains(&heard), "{heard}");
    let packet = pair.seal();
    pair.arrive(&packet);
    assert_eq!(pair.counted(), [1, 0, 0]);
}

#[test]
fn keepalives_wait_for_each_other_and_say_for_how_long_and_data_waits_for_nobody() {
    let (mut pair, inbox, theirs) = Pair::with_engine();
    let (nonce, primary) = (7, true);
    let ping = cbor::encode(&Control::Ping { nonce, primary });
    // The pair has been at rest for a while: what the handshake had to say is long over.
    theirs.sleep();
    let late = Duration::from_millis(10);
    pair.inbound.held(late);
    pair.arrive(&pair.seal_as(Kind::Control, &ping));
    assert_eq!(pair.inbound.expects(), Expected::AtRest);
    let left = inbox.later.take();
    let [FromPeer::Attended { receipt, .. }] = &left[..] else {
        panic!("{left:?}");
    };
    assert_eq!(receipt.held, late);
    pair.arrive(&pair.seal());
    assert_eq!(pair.inbound.expects(), Expected::Nothing);
    theirs.sleep();
    pair.arrive(&pair.seal_as(Kind::Control, &ping));
    assert_eq!(pair.inbound.expects(), Expected::Soon);
    assert_eq!(
        inbox.later.take().len(),
        1,
        "it is attended to all the same"
    );
}
