//! A bootstrap and the nodes that use it, with real sockets on loopback.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

mod org;

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    time::{Duration, Instant},
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_bootstrap::{Bootstrap, Config, Handle};
use kanpachi_common::{
    OrgId, SecretKey, Signed, cbor,
    record::OuterRecord,
    wire::{
        self,
        frame::FrameReader,
        mirror::{self, MirrorReply, MirrorRequest},
    },
};
use kanpachi_transport::{
    AddressFilter, DatagramHandler, Reader, SharedSocket, keypair_from_seed, reflect,
    swarm::{Options, swarm},
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, identify,
    kad::{self, Quorum, Record, RecordKey, store::MemoryStore},
    multiaddr::Protocol,
    relay,
    swarm::{NetworkBehaviour, SwarmEvent},
};
use org::Org;

const DEADLINE: Duration = Duration::from_secs(20);
const ORG: OrgId = OrgId([7; 32]);

async fn bootstrap(seed: u8, tcp: bool) -> Handle {
    let config = Config {
        listen_ip: Some(Ipv4Addr::LOCALHOST.into()),
        listen: 0,
        listen_tcp: if tcp { vec![0] } else { vec![] },
        ..Config::new(keypair_from_seed(&[seed; 32]), ORG)
    };
    Bootstrap::start(config).await.unwrap()
}

fn quic_of(handle: &Handle) -> Multiaddr {
    let all = handle.listen_addresses();
    let quic = all.iter().find(|a| a.iter().any(|p| p == Protocol::QuicV1));
    quic.unwrap().clone().with(Protocol::P2p(handle.peer_id()))
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    kad: kad::Behaviour<MemoryStore>,
    identify: identify::Behaviour,
    relay: relay::client::Behaviour,
    streams: kanpachi_transport::streams::Behaviour,
}

/// A node that knows nothing but the bootstrap.
struct Node {
    peer: PeerId,
    socket: SharedSocket,
    swarm: Swarm<Behaviour>,
    _reader: Reader,
}

struct Nothing;

impl DatagramHandler for Nothing {
    fn handle(&mut self, _: SocketAddr, _: &mut [u8]) {}
}

fn node(seed: u8) -> Node {
    node_of(seed, ORG)
}

fn node_of(seed: u8, org: OrgId) -> Node {
    let keypair = keypair_from_seed(&[seed; 32]);
    let peer = keypair.public().to_peer_id();
    let socket = SharedSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let reader = socket.spawn_reader(Nothing).unwrap();
    let name = StreamProtocol::try_from_owned(format!("/kanpachi/{org}/kad/1")).unwrap();
    let mut kad = kad::Behaviour::with_config(peer, MemoryStore::new(peer), kad::Config::new(name));
    kad.set_mode(Some(kad::Mode::Server));
    let (transport, relay) = relay::client::new(peer);
    let identify = identify::Config::new("/kanpachi/1".to_owned(), keypair.public());
    let behaviour = Behaviour {
        kad,
        identify: identify::Behaviour::new(identify),
        relay,
        streams: kanpachi_transport::streams::Behaviour::new(),
    };
    let options = Options {
        keypair,
        socket: socket.clone(),
        filter: AddressFilter::allow_all(),
        relay: Some(transport),
        tcp: true,
        proxy: None,
        dials: None,
    };
    let mut swarm = swarm(options, behaviour).unwrap();
    swarm
        .listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap())
        .unwrap();
    Node {
        peer,
        socket,
        swarm,
        _reader: reader,
    }
}

impl Node {
    /// Runs until an event says what the caller wants to know.
    async fn until<T>(
        &mut self,
        what: &str,
        mut wanted: impl FnMut(SwarmEvent<BehaviourEvent>) -> Option<T>,
    ) -> T {
        let found = async {
            loop {
                if let Some(found) = wanted(self.swarm.select_next_some().await) {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(DEADLINE, found).await;
        found.unwrap_or_else(|_| panic!("{what} did not happen"))
    }

    /// Connects to the bootstrap and waits until both know each other.
    async fn join(&mut self, handle: &Handle) {
        self.swarm.dial(quic_of(handle)).unwrap();
        let peer = handle.peer_id();
        let address = quic_of(handle);
        self.until("identify", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Received {
                peer_id,
                ..
            })) if peer_id == peer => Some(()),
            _ => None,
        })
        .await;
        self.swarm.behaviour_mut().kad.add_address(&peer, address);
    }

    /// Who is said to be nearest to a node: where.
    async fn look_up(&mut self, wanted: PeerId) -> Vec<Multiaddr> {
        let query = self.swarm.behaviour_mut().kad.get_closest_peers(wanted);
        let found = self.until("the lookup", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetClosestPeers(Ok(found)),
                ..
            })) if id == query => Some(found.peers),
            _ => None,
        });
        let found = found.await.into_iter();
        let found = found.filter(|info| info.peer_id == wanted);
        found.flat_map(|info| info.addrs).collect()
    }

    /// Looks a node up until it is said to be at this port.
    async fn find(&mut self, wanted: PeerId, port: u16) {
        let start = Instant::now();
        let is_there = |addr: &Multiaddr| addr.iter().any(|p| p == Protocol::Udp(port));
        while !self.look_up(wanted).await.iter().any(is_there) {
            assert!(start.elapsed() < DEADLINE, "never found");
        }
    }

    /// What became of storing a record at the bootstrap.
    async fn put(&mut self, handle: &Handle, key: &[u8], value: Vec<u8>) {
        let record = Record::new(RecordKey::new(&key), value);
        let kad = &mut self.swarm.behaviour_mut().kad;
        let query = kad.put_record_to(record, [handle.peer_id()].into_iter(), Quorum::One);
        self.until("the put", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                ..
            })) if id == query => Some(()),
            _ => None,
        })
        .await;
    }

    /// The record under a key as others have it.
    async fn get(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let query = self
            .swarm
            .behaviour_mut()
            .kad
            .get_record(RecordKey::new(&key));
        self.until("the get", |event| match event {
            SwarmEvent::Behaviour(BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed {
                id,
                result: kad::QueryResult::GetRecord(result),
                ..
            })) if id == query => match result {
                Ok(kad::GetRecordOk::FoundRecord(found)) => Some(Some(found.record.value)),
                Ok(kad::GetRecordOk::FinishedWithNoAdditionalRecord { .. }) => None,
                Err(_) => Some(None),
            },
            _ => None,
        })
        .await
    }
}

/// Runs a node while another one does something: a peer that does not answer costs every query its time limit.
async fn beside<T>(other: &mut Node, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = other.swarm.select_next_some() => {}
        }
    }
}

/// Runs a node for the rest of the test.
fn background(node: Node) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        let mut node = node;
        loop {
            node.swarm.select_next_some().await;
        }
    })
}

fn record(seed: u8, seq: u64) -> (Vec<u8>, Vec<u8>) {
    let key = SecretKey::from_seed(&[seed; 32]);
    let value = OuterRecord {
        key: key.public_key(),
        seq,
        ttl: 600,
        ciphertext: vec![7; 100],
    };
    let dht_key = OuterRecord::dht_key(&key.public_key()).0.to_vec();
    (dht_key, cbor::encode(&Signed::sign(&value, &key)))
}

#[tokio::test]
async fn the_reflector_answers_requests_and_nothing_else() {
    let handle = bootstrap(1, false).await;
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, handle.socket().port()).into();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let own = socket.local_addr().unwrap();
    let mut bad = reflect::encode_request(*b"12345678").to_vec();
    bad[20] = 1;
    for datagram in [&bad[..], b"\x05", b"\x06\x01\0\0", &[4; 32]] {
        socket.send_to(datagram, to).unwrap();
    }
    socket
        .send_to(&reflect::encode_request(*b"87654321"), to)
        .unwrap();
    let mut buf = [0; 100];
    let (n, from) = socket.recv_from(&mut buf).unwrap();
    assert_eq!(from, to);
    assert_eq!(
        reflect::Response::decode(&buf[..n]).map(|r| (r.id, r.observed)),
        Some((*b"87654321", own))
    );
    handle.shutdown().await;
}

#[tokio::test]
async fn the_reflector_answers_from_its_other_port_and_to_it() {
    let handle = bootstrap(1, false).await;
    let to: SocketAddr = (Ipv4Addr::LOCALHOST, handle.socket().port()).into();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let ask = |to: SocketAddr, via| {
        let id = *b"12345678";
        let request = reflect::Request { id, via }.encode();
        socket.send_to(&request, to).unwrap();
        let mut buf = [0; 100];
        let (n, from) = socket.recv_from(&mut buf).unwrap();
        assert_eq!(n, request.len(), "not a byte more than was asked with");
        let response = reflect::Response::decode(&buf[..n]).unwrap();
        assert_eq!(response.observed, socket.local_addr().unwrap());
        (from, response.other)
    };
    let (from, other) = ask(to, reflect::Via::OtherPort);
    let port = other.port.unwrap();
    assert_eq!((from.ip(), from.port()), (to.ip(), port));
    assert_ne!(port, to.port());
    let there = SocketAddr::new(to.ip(), port);
    assert_eq!(ask(there, reflect::Via::Same).0, there);
    // There is no other address here, and nothing is made up: what comes next is the answer to the next question.
    let other = reflect::Request {
        id: *b"87654321",
        via: reflect::Via::OtherAddress(to.ip()),
    };
    socket.send_to(&other.encode(), to).unwrap();
    assert_eq!(ask(to, reflect::Via::Same).0, to);
    handle.shutdown().await;
}

#[tokio::test]
async fn the_dht_keeps_signed_records_and_only_newer_ones() {
    let handle = bootstrap(1, false).await;
    let (mut writer, mut reader) = (node(11), node(12));
    writer.join(&handle).await;
    reader.join(&handle).await;

    let (key, first) = record(50, 5);
    writer
        .put(&handle, b"a key of no one", b"junk".to_vec())
        .await;
    writer.put(&handle, &key, b"junk".to_vec()).await;
    let get = reader.get(b"a key of no one");
    assert_eq!(beside(&mut writer, get).await, None);
    assert_eq!(beside(&mut writer, reader.get(&key)).await, None);
    writer.put(&handle, &key, first.clone()).await;
    let got = beside(&mut writer, reader.get(&key)).await;
    assert_eq!(got, Some(first.clone()));
    let (_, newer) = record(50, 6);
    writer.put(&handle, &key, newer.clone()).await;
    let got = beside(&mut writer, reader.get(&key)).await;
    assert_eq!(got, Some(newer.clone()));
    writer.put(&handle, &key, first).await;
    let (_, forged) = record(51, 9);
    writer.put(&handle, &key, forged).await;
    background(writer);
    background(reader);
    // A third node has nothing in its own store.
    let mut third = node(13);
    third.join(&handle).await;
    assert_eq!(third.get(&key).await, Some(newer));
    handle.shutdown().await;
}

#[tokio::test]
async fn nodes_find_each_other_through_the_routing_table() {
    let handle = bootstrap(1, false).await;
    let (mut a, mut b) = (node(11), node(12));
    a.join(&handle).await;
    b.join(&handle).await;
    let (wanted, port) = (a.peer, a.socket.port());
    background(a);
    b.find(wanted, port).await;
    handle.shutdown().await;
}

#[tokio::test]
async fn who_becomes_a_member_while_connected_is_found_at_once() {
    let org = Org::new();
    let config = Config {
        listen_ip: Some(Ipv4Addr::LOCALHOST.into()),
        listen: 0,
        ..Config::new(keypair_from_seed(&[9; 32]), org.id())
    };
    let handle = Bootstrap::start(config).await.unwrap();
    org.publish(&handle, 1, &[12]).await;
    let (mut a, mut b) = (node_of(11, org.id()), node_of(12, org.id()));
    b.join(&handle).await;
    a.swarm.dial(quic_of(&handle)).unwrap();
    a.until("identify", |event| match event {
        SwarmEvent::Behaviour(BehaviourEvent::Identify(identify::Event::Sent { .. })) => Some(()),
        _ => None,
    })
    .await;
    let (wanted, port) = (a.peer, a.socket.port());
    background(a);
    assert_eq!(b.look_up(wanted).await, [], "a stranger");
    org.publish(&handle, 2, &[11, 12]).await;
    b.find(wanted, port).await;
    handle.shutdown().await;
}

#[tokio::test]
async fn a_circuit_joins_two_nodes() {
    let handle = bootstrap(1, false).await;
    let (mut a, mut b) = (node(11), node(12));
    a.join(&handle).await;
    let circuit = quic_of(&handle).with(Protocol::P2pCircuit);
    a.swarm.listen_on(circuit.clone()).unwrap();
    let reserved = a
        .until("the reservation", |event| match event {
            SwarmEvent::NewListenAddr { address, .. }
                if address.iter().any(|p| p == Protocol::P2pCircuit) =>
            {
                Some(address)
            }
            _ => None,
        })
        .await;
    let protocol = StreamProtocol::new("/echo/1");
    let mut incoming = a
        .swarm
        .behaviour()
        .streams
        .new_control()
        .accept(protocol.clone())
        .unwrap();
    let peer = a.peer;
    background(a);
    tokio::spawn(async move {
        let (_, stream) = incoming.next().await.unwrap();
        let (reader, mut writer) = stream.split();
        futures::io::copy(reader, &mut writer).await.unwrap();
        writer.close().await.unwrap();
    });
    b.swarm.dial(reserved).unwrap();
    b.until("the circuit", |event| match event {
        SwarmEvent::ConnectionEstablished { peer_id, .. } if peer_id == peer => Some(()),
        SwarmEvent::OutgoingConnectionError { error, .. } => panic!("{error}"),
        _ => None,
    })
    .await;
    let mut control = b.swarm.behaviour().streams.new_control();
    background(b);
    let exchange = async {
        let mut stream = control.open_stream(peer, protocol).await.unwrap();
        let data = vec![5; 100_000];
        stream.write_all(&data).await.unwrap();
        stream.close().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        assert!(back == data);
    };
    tokio::time::timeout(DEADLINE, exchange).await.unwrap();
    handle.shutdown().await;
}

#[tokio::test]
async fn the_mirror_answers_on_its_stream() {
    let handle = bootstrap(1, true).await;
    let mut a = node(11);
    let tcp = handle.listen_addresses().into_iter().find(|addr| {
        let mut parts = addr.iter();
        parts.any(|p| matches!(p, Protocol::Tcp(_)))
    });
    a.swarm
        .dial(tcp.unwrap().with(Protocol::P2p(handle.peer_id())))
        .unwrap();
    a.until("the connection", |event| {
        matches!(event, SwarmEvent::ConnectionEstablished { .. }).then_some(())
    })
    .await;
    let control = a.swarm.behaviour().streams.new_control();
    let peer = handle.peer_id();
    background(a);
    let ask = async |bytes: Vec<u8>| {
        let protocol = StreamProtocol::new(mirror::PROTOCOL);
        let mut stream = control.clone().open_stream(peer, protocol).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.close().await.unwrap();
        let mut back = Vec::new();
        stream.read_to_end(&mut back).await.unwrap();
        let mut reader = FrameReader::new(mirror::MAX);
        reader.extend(&back);
        let frame = reader.next_frame().unwrap().unwrap();
        MirrorReply::from_frame(&frame).unwrap()
    };
    let request = MirrorRequest::Directory(ORG).frame().to_bytes();
    assert_eq!(ask(request).await, MirrorReply::Unknown);
    assert!(matches!(
        ask(vec![0, 0, 0, 1, 0xff]).await,
        MirrorReply::Refused(_)
    ));
    assert!(matches!(ask(vec![0xff; 8]).await, MirrorReply::Refused(_)));

    // Whoever says nothing is not waited for: two such streams of one peer, and a third is not even taken.
    let open = async || {
        let protocol = StreamProtocol::new(mirror::PROTOCOL);
        control.clone().open_stream(peer, protocol).await.unwrap()
    };
    let start = Instant::now();
    let mut silent = [open().await, open().await];
    for stream in &mut silent {
        stream.write_all(&[0]).await.unwrap();
        stream.flush().await.unwrap();
    }
    let mut third = open().await;
    let _ = third.write_all(&[0]).await;
    let _ = third.flush().await;
    // An error is an end as well.
    let _ = third.read_to_end(&mut Vec::new()).await;
    assert!(start.elapsed() < Duration::from_secs(3), "two of one peer");
    for stream in &mut silent {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }
    assert!(start.elapsed() < Duration::from_secs(10));
    handle.shutdown().await;
}

/// Nodes that were there before it dial it all the time: whoever is told that it has no relay comes again seconds later.
#[tokio::test]
async fn who_connects_while_it_starts_finds_all_that_it_serves() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let config = Config {
        listen_ip: Some(Ipv4Addr::LOCALHOST.into()),
        listen: 0,
        listen_tcp: vec![port],
        own: Some(StreamProtocol::new(wire::control::PROTOCOL)),
        ..Config::new(keypair_from_seed(&[1; 32]), ORG)
    };
    let address: Multiaddr = format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap();
    let mut early = node(11);
    let mut control = early.swarm.behaviour().streams.new_control();
    let connected = async {
        early.swarm.dial(address.clone()).unwrap();
        loop {
            match early.swarm.select_next_some().await {
                SwarmEvent::ConnectionEstablished { peer_id, .. } => return (early, peer_id),
                SwarmEvent::OutgoingConnectionError { .. } => {
                    early.swarm.dial(address.clone()).unwrap();
                }
                _ => {}
            }
        }
    };
    let opened = async {
        let (early, peer) = connected.await;
        // Until the test is over.
        drop(background(early));
        let (relay, coordinator) = (wire::relay::PROTOCOL, wire::control::PROTOCOL);
        for name in [relay, mirror::PROTOCOL, coordinator] {
            let stream = control.open_stream(peer, StreamProtocol::new(name)).await;
            assert!(stream.is_ok(), "{name}: {stream:?}");
        }
    };
    let both = async { tokio::join!(opened, Bootstrap::start(config)) };
    let ((), handle) = tokio::time::timeout(DEADLINE, both).await.unwrap();
    let mut handle = handle.unwrap();
    let mut own = handle.take_own().unwrap();
    let waiting = tokio::time::timeout(DEADLINE, own.next()).await.unwrap();
    assert!(waiting.is_some() && handle.take_own().is_none());
    handle.shutdown().await;
}

#[tokio::test]
async fn the_owner_sees_peers_and_serves_streams_on_the_same_port() {
    let handle = bootstrap(1, false).await;
    let protocol = StreamProtocol::new("/kanpachi/control/1");
    let mut incoming = handle.stream_control().accept(protocol.clone()).unwrap();
    let mut a = node(11);
    a.join(&handle).await;
    let (peer, port) = (a.peer, a.socket.port());
    let expected: Multiaddr = format!("/ip4/127.0.0.1/udp/{port}/quic-v1")
        .parse()
        .unwrap();
    assert_eq!(handle.remote_address(&peer), Some(expected.clone()));
    assert_eq!(handle.peers(), [(peer, vec![expected])]);
    let mut control = a.swarm.behaviour().streams.new_control();
    let to = handle.peer_id();
    let running = background(a);
    let call = tokio::spawn(async move {
        let mut stream = control.open_stream(to, protocol).await.unwrap();
        stream.write_all(b"hello").await.unwrap();
        stream.close().await.unwrap();
    });
    let (from, mut stream) = tokio::time::timeout(DEADLINE, incoming.next())
        .await
        .unwrap()
        .unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    assert_eq!((from, said.as_str()), (peer, "hello"));
    call.await.unwrap();

    let more: Multiaddr = "/ip4/192.0.2.9/udp/1/quic-v1".parse().unwrap();
    handle.add_external_address(more.clone()).await;
    let start = Instant::now();
    while !handle.external_addresses().contains(&more) {
        assert!(start.elapsed() < DEADLINE);
        tokio::task::yield_now().await;
    }
    running.abort();
    let _ = running.await;
    while handle.remote_address(&peer).is_some() {
        assert!(
            start.elapsed() < DEADLINE,
            "the peer is gone and still listed"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    handle.shutdown().await;
}

#[tokio::test]
async fn two_bootstraps_cannot_have_one_port() {
    let first = bootstrap(1, true).await;
    let port = first.socket().port();
    let config = Config {
        listen: port,
        listen_tcp: vec![],
        ..Config::new(keypair_from_seed(&[2; 32]), ORG)
    };
    let error = Bootstrap::start(config).await.unwrap_err();
    assert_eq!(error.code(), "port_in_use");
    assert!(
        error.to_string().contains(&format!("UDP port {port}")),
        "{error}"
    );
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let config = Config {
        listen: 0,
        listen_tcp: vec![taken.local_addr().unwrap().port()],
        ..Config::new(keypair_from_seed(&[2; 32]), ORG)
    };
    let error = Bootstrap::start(config).await.unwrap_err();
    assert!(error.to_string().contains("TCP port"), "{error}");
    // And nothing of the failed starts is left behind.
    first.shutdown().await;
    let again = SharedSocket::bind_port(port).unwrap();
    assert_eq!(again.port(), port);
}
