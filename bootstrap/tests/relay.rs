//! The relay of data with real sockets and real streams on loopback.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

mod org;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_bootstrap::{Bootstrap, Config, Handle};
use kanpachi_common::{
    NodeId, SecretKey,
    org::Manifest,
    roster::{Head, Proof},
    wire::{
        frame::{Frame, FrameReader},
        relay::{
            self, Open, Opened, Pair, PairState, Reason, RelayMessage, data_channel, data_frame,
            datagram::{
                Bind, HEADER_LEN, Step, decode_bound, decode_header, encode_bind, encode_header,
            },
        },
    },
};
use kanpachi_transport::streams::Stream;
use kanpachi_transport::{
    AddressFilter, DatagramHandler, Reader, SharedSocket, keypair_from_seed,
    swarm::{Options, swarm},
};
use libp2p::{Multiaddr, StreamProtocol, Swarm, multiaddr::Protocol, swarm::SwarmEvent};
use org::Org;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(20);

async fn bootstrap(org: &Org) -> Handle {
    let config = Config {
        listen_ip: Some(Ipv4Addr::LOCALHOST.into()),
        listen: 0,
        listen_tcp: vec![0],
        ..Config::new(keypair_from_seed(&[9; 32]), org.id())
    };
    Bootstrap::start(config).await.unwrap()
}

fn address(handle: &Handle, tcp: bool) -> Multiaddr {
    let all = handle.listen_addresses();
    let wanted = |a: &&Multiaddr| a.iter().any(|p| matches!(p, Protocol::Tcp(_))) == tcp;
    let found = all.iter().find(wanted).unwrap().clone();
    found.with(Protocol::P2p(handle.peer_id()))
}

struct Nothing;

impl DatagramHandler for Nothing {
    fn handle(&mut self, _: SocketAddr, _: &mut [u8]) {}
}

/// A member with a stream to the relay, and a UDP socket of its own.
struct Member {
    node: NodeId,
    stream: Stream,
    frames: FrameReader,
    udp: UdpSocket,
    relay: SocketAddr,
    session: u32,
    key: relay::SessionKey,
    swarm: JoinHandle<()>,
    _reader: Reader,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.swarm.abort();
    }
}

impl Member {
    async fn connect(handle: &Handle, seed: u8, tcp: bool) -> Self {
        let socket = SharedSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let reader = socket.spawn_reader(Nothing).unwrap();
        let options = Options {
            keypair: keypair_from_seed(&[seed; 32]),
            socket,
            filter: AddressFilter::allow_all(),
            relay: None,
            tcp: true,
            proxy: None,
            dials: None,
        };
        let mut swarm: Swarm<kanpachi_transport::streams::Behaviour> =
            swarm(options, kanpachi_transport::streams::Behaviour::new()).unwrap();
        let mut control = swarm.behaviour().new_control();
        swarm.dial(address(handle, tcp)).unwrap();
        let swarm = tokio::spawn(async move {
            loop {
                let event = swarm.select_next_some().await;
                if let SwarmEvent::ConnectionClosed { .. } = event {
                    return;
                }
            }
        });
        let protocol = StreamProtocol::new(relay::PROTOCOL);
        let start = Instant::now();
        let stream = loop {
            match control
                .open_stream(handle.peer_id(), protocol.clone())
                .await
            {
                Ok(stream) => break stream,
                Err(e) => assert!(start.elapsed() < DEADLINE, "{e}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        udp.set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        Self {
            node: SecretKey::from_seed(&[seed; 32]).node_id(),
            stream,
            frames: FrameReader::new(relay::MAX),
            udp,
            relay: (Ipv4Addr::LOCALHOST, handle.socket().port()).into(),
            session: 0,
            key: relay::SessionKey([0; 32]),
            swarm,
            _reader: reader,
        }
    }

    async fn frame(&mut self) -> Option<Frame> {
        let next = async {
            let mut chunk = [0; 4096];
            loop {
                if let Some(frame) = self.frames.next_frame().unwrap() {
                    return Some(frame);
                }
                match self.stream.read(&mut chunk).await {
                    Ok(0) | Err(_) => return None,
                    Ok(n) => self.frames.extend(&chunk[..n]),
                }
            }
        };
        let next = tokio::time::timeout(DEADLINE, next).await;
        next.expect("the relay says nothing")
    }

    async fn hears(&mut self) -> RelayMessage {
        let frame = self.frame().await.expect("the stream has ended");
        RelayMessage::from_frame(&frame).unwrap()
    }

    async fn say(&mut self, message: &RelayMessage) {
        self.write(&message.frame(0)).await;
    }

    async fn write(&mut self, frame: &Frame) {
        self.stream.write_all(&frame.to_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn open(&mut self, org: &Org, proofs: Vec<Proof>) -> RelayMessage {
        let open = Open {
            min_version: 1,
            max_version: 1,
            org: org.id(),
            proofs,
            manifest: Some(org.manifest()),
            ext: vec![],
        };
        self.say(&RelayMessage::Open(Box::new(open))).await;
        let answer = self.hears().await;
        if let RelayMessage::Opened(Opened { session, key, .. }) = &answer {
            (self.session, self.key) = (*session, *key);
        }
        answer
    }

    /// Binds the UDP socket to the session.
    fn bind(&self) {
        let mut bind = Bind {
            session: self.session,
            nonce: [1; 8],
            cookie: [0; 16],
        };
        for expected in [Step::Challenge, Step::Bound] {
            let datagram = encode_bind(&bind, &self.key);
            self.udp.send_to(&datagram, self.relay).unwrap();
            let (step, answer) = decode_bound(&self.receive().unwrap()).unwrap();
            assert_eq!(step, expected);
            bind = answer;
        }
    }

    async fn pair(&mut self, channel: u16, peer: &Self) {
        let peer = peer.node;
        self.say(&RelayMessage::Pair(Pair { channel, peer })).await;
    }

    async fn until_open(&mut self) {
        loop {
            if let RelayMessage::Paired(paired) = self.hears().await
                && paired.state == PairState::Open
            {
                return;
            }
        }
    }

    fn send(&self, channel: u16, body: &[u8]) {
        let mut datagram = encode_header(self.session, channel).to_vec();
        datagram.extend(body);
        self.udp.send_to(&datagram, self.relay).unwrap();
    }

    fn receive(&self) -> Option<Vec<u8>> {
        let mut buf = [0; 2000];
        let n = self.udp.recv(&mut buf).ok()?;
        Some(buf[..n].to_vec())
    }

    fn receives(&self, channel: u16) -> Option<Vec<u8>> {
        let datagram = self.receive()?;
        assert_eq!(decode_header(&datagram), Some((self.session, channel)));
        Some(datagram[HEADER_LEN..].to_vec())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn data_flows_between_members_over_udp_and_over_a_stream() {
    let org = Org::new();
    let handle = bootstrap(&org).await;
    org.publish(&handle, 1, &[11, 12]).await;
    let mut a = Member::connect(&handle, 11, false).await;
    let mut b = Member::connect(&handle, 12, true).await;
    assert!(matches!(
        a.open(&org, vec![]).await,
        RelayMessage::Opened(_)
    ));
    assert!(matches!(
        b.open(&org, vec![]).await,
        RelayMessage::Opened(_)
    ));
    a.bind();
    a.pair(3, &b).await;
    b.pair(5, &a).await;
    a.until_open().await;
    b.until_open().await;

    // From UDP to a member that has the stream only, and back.
    a.send(3, b"by udp");
    let frame = b.frame().await.unwrap();
    assert_eq!(
        (data_channel(&frame), &frame.body[..]),
        (Some(5), &b"by udp"[..])
    );
    b.write(&data_frame(5, b"by stream".to_vec())).await;
    assert_eq!(a.receives(3).unwrap(), b"by stream");

    // Many at once, over UDP both ways: every one arrives, whole and in order.
    b.bind();
    let body = |n: u8| vec![n; if n % 10 == 9 { 300 } else { 1200 }];
    for round in 0..4 {
        for n in 0..50 {
            a.send(3, &body(round * 50 + n));
        }
        for n in 0..50 {
            assert_eq!(b.receives(5).unwrap(), body(round * 50 + n));
        }
    }
    let status = handle.relay().unwrap().status();
    assert_eq!(
        (status.sessions, status.pairs, status.forwarded),
        (2, 1, 202)
    );
    drop(a);
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_eviction_ends_what_is_relayed_at_once_whatever_the_proof_says() {
    let org = Org::new();
    let handle = bootstrap(&org).await;
    // The mirror knows nothing yet: the proofs speak.
    let roster = org.roster(1, &[11, 12]);
    let proof = |node: NodeId| vec![Proof::of(&roster, &node, false).unwrap()];
    let mut a = Member::connect(&handle, 11, false).await;
    let mut b = Member::connect(&handle, 12, false).await;
    let mut stranger = Member::connect(&handle, 13, false).await;
    let stolen = proof(a.node);
    for (member, proofs) in [
        (&mut a, stolen.clone()),
        (&mut b, proof(SecretKey::from_seed(&[12; 32]).node_id())),
    ] {
        assert!(matches!(
            member.open(&org, proofs).await,
            RelayMessage::Opened(_)
        ));
        member.bind();
    }
    let RelayMessage::Refused(refused) = stranger.open(&org, stolen).await else {
        panic!("a stranger was let in");
    };
    assert_eq!(refused.reason, Reason::NotAMember);
    assert!(stranger.frame().await.is_none(), "the stream ends");
    a.pair(3, &b).await;
    b.pair(5, &a).await;
    a.until_open().await;
    a.send(3, b"x");
    assert_eq!(b.receives(5).unwrap(), b"x");

    org.publish(&handle, 2, &[11]).await;
    let heard = Instant::now();
    let refused = loop {
        match b.hears().await {
            RelayMessage::Refused(refused) => break refused,
            _ => continue,
        }
    };
    assert_eq!(refused.reason, Reason::NotAMember);
    let manifest = Manifest::verify(&org.manifest(), &org.id()).unwrap();
    let head = Head::verify(&refused.head.unwrap(), &manifest);
    assert_eq!(head.unwrap().epoch, 2);
    assert!(heard.elapsed() < Duration::from_secs(10));
    assert!(b.frame().await.is_none(), "the stream ends");
    a.send(3, b"to the evicted");
    b.send(5, b"from the evicted");
    assert_eq!((a.receive(), b.receive()), (None, None));
    let mut again = Member::connect(&handle, 12, false).await;
    let old = proof(b.node);
    let RelayMessage::Refused(refused) = again.open(&org, old).await else {
        panic!("the evicted came back");
    };
    assert!(refused.head.is_some());
    drop((a, b, stranger, again));
    handle.shutdown().await;
}

/// The connections of a killed process are not missed for a while. The one that takes its place is served all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_killed_time_and_again_is_served_each_time() {
    let org = Org::new();
    let handle = bootstrap(&org).await;
    org.publish(&handle, 1, &[11]).await;
    let mut all = Vec::new();
    for _ in 0..7 {
        let mut member = Member::connect(&handle, 11, false).await;
        let answer = member.open(&org, vec![]).await;
        assert!(matches!(answer, RelayMessage::Opened(_)));
        all.push(member);
    }
    drop(all);
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_is_switched_off_is_not_there() {
    let org = Org::new();
    let config = Config {
        listen_ip: Some(Ipv4Addr::LOCALHOST.into()),
        listen: 0,
        listen_tcp: vec![],
        relay: None,
        ..Config::new(keypair_from_seed(&[9; 32]), org.id())
    };
    let handle = Bootstrap::start(config).await.unwrap();
    assert!(handle.relay().is_none());
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let bind = Bind {
        session: 1,
        nonce: [0; 8],
        cookie: [0; 16],
    };
    let datagram = encode_bind(&bind, &relay::SessionKey([0; 32]));
    let to = (Ipv4Addr::LOCALHOST, handle.socket().port());
    socket.send_to(&datagram, to).unwrap();
    assert!(socket.recv(&mut [0; 100]).is_err());
    handle.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_evicted_is_disconnected_whatever_it_speaks() {
    let org = Org::new();
    let handle = bootstrap(&org).await;
    // Nobody can be told from a member yet.
    let early = Member::connect(&handle, 13, false).await;
    org.publish(&handle, 1, &[11, 12]).await;
    let (stays, evicted) = (
        Member::connect(&handle, 11, false).await,
        Member::connect(&handle, 12, true).await,
    );
    let later = Member::connect(&handle, 14, false).await;
    org.publish(&handle, 2, &[11, 14]).await;
    let start = Instant::now();
    while !(early.swarm.is_finished() && evicted.swarm.is_finished()) {
        assert!(start.elapsed() < DEADLINE, "they are connected still");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // One that became a member while it was connected is one when it is evicted.
    org.publish(&handle, 3, &[11]).await;
    while !later.swarm.is_finished() {
        assert!(start.elapsed() < DEADLINE, "it is connected still");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!stays.swarm.is_finished());
    drop((early, stays, evicted, later));
    handle.shutdown().await;
}
