//! The packet path between real adapters, sockets and tunnels: nodes in network namespaces of their own, joined by veth.
//!
//! The engine here is the smallest that can run tunnels; the node's own does the same and more.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kanpachi_common::identity::x25519_public;
use kanpachi_common::{CandidateKind, NodeId, OrgId};
use kanpachi_node::dataplane::{
    Counters, Dataplane, FromPeer, Inbox, Member, Own, Parking, Peer, Publisher, Waiting,
};
use kanpachi_node::platform::linux::{Linux, TunAdapter, TunWriter};
use kanpachi_node::platform::{Adapter, AdapterConfig, Platform};
use kanpachi_proto::path::Candidate;
use kanpachi_proto::tunnel::{
    Config, Event, HEADER_LEN, Kind, LocalIdentity, OVERHEAD, PeerConfig, Tunnels,
};
use kanpachi_transport::SharedSocket;
use nix::sched::{CloneFlags, unshare};
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(10);
const PORT: u16 = 12976;
const NAME: &str = "kdata0";

fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs iproute2 in the namespace of the calling thread.
fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace that lives as long as its thread.
struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    /// Names the namespace for `ip link set … netns`.
    thread_id: i32,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (send_id, id) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
                panic!(
                    "this lab test needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make a network namespace: {errno}"
                );
            }
            if let Err(error) = Linux.check_adapter(NAME) {
                panic!("this lab test cannot make an adapter: {error}");
            }
            ip("link set lo up");
            send_id.send(nix::unistd::gettid().as_raw()).unwrap();
            for job in inbox {
                job();
            }
        });
        let Ok(thread_id) = id.recv() else {
            std::panic::resume_unwind(thread.join().unwrap_err())
        };
        Self {
            jobs: Some(jobs),
            thread: Some(thread),
            thread_id,
        }
    }

    /// Runs something in the namespace and waits for it.
    fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (send, result) = mpsc::channel();
        let job = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            send.send(outcome).unwrap();
        };
        self.jobs.as_ref().unwrap().send(Box::new(job)).unwrap();
        result
            .recv()
            .unwrap()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

fn node_id(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn overlay4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 19, 0, number)
}

fn overlay6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 0, 0, 0, 0, u16::from(number))
}

fn member(number: u8) -> Member {
    Member {
        node_id: node_id(number),
        ipv4: Some(overlay4(number)),
        ipv6: Some(overlay6(number)),
    }
}

/// A peer and where it can be found.
type Neighbour = (u8, IpAddr);

/// A node without rosters: it is told whom to talk to.
struct Node {
    number: u8,
    namespace: Namespace,
    socket: SharedSocket,
    dataplane: Arc<Dataplane<TunWriter>>,
    publisher: Arc<Mutex<Publisher>>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    fn start(number: u8, namespace: Namespace, neighbours: Vec<Neighbour>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (socket, dataplane, publisher, engine, adapter) = namespace.run(move || {
            let start = Instant::now();
            let socket = SharedSocket::bind_port(PORT).unwrap();
            let (dataplane, publisher, inbox) = Dataplane::new(socket.clone(), start);
            let (dataplane, publisher) = (Arc::new(dataplane), Arc::new(Mutex::new(publisher)));
            let engine = Engine::new(
                number,
                &neighbours,
                start,
                socket.clone(),
                &dataplane,
                &publisher,
                inbox,
            );
            let engine_stopped = stopped.clone();
            let engine = std::thread::spawn(move || runtime().block_on(engine.run(engine_stopped)));
            let adapter = run_adapter(number, Arc::clone(&dataplane), socket.clone(), stopped);
            (socket, dataplane, publisher, engine, adapter)
        });
        Self {
            number,
            namespace,
            socket,
            dataplane,
            publisher,
            stop,
            threads: vec![engine, adapter],
        }
    }

    fn counters(&self) -> &Counters {
        self.dataplane.counters()
    }

    fn peer(&self, number: u8) -> Arc<Peer> {
        Arc::clone(
            self.publisher
                .lock()
                .unwrap()
                .peer(&node_id(number))
                .unwrap(),
        )
    }

    fn wait_for_session(&self, number: u8) {
        let peer = self.peer(number);
        eventually("a session", || peer.sending().is_some());
    }

    fn socket_at(&self, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
        let address = SocketAddr::new(address.into(), port);
        self.namespace.run(move || {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket
        })
    }

    /// Seals something as it is, past all checks of our own side, as a hostile member would.
    fn inject(&self, number: u8, packet: &[u8]) {
        assert!(self.dataplane.send(&self.peer(number), packet));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        for thread in self.threads.drain(..) {
            if let Err(panic) = thread.join()
                && !std::thread::panicking()
            {
                std::panic::resume_unwind(panic);
            }
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Makes the adapter and keeps it, and the socket's reader, until told to stop.
fn run_adapter(
    number: u8,
    dataplane: Arc<Dataplane<TunWriter>>,
    socket: SharedSocket,
    mut stopped: watch::Receiver<bool>,
) -> JoinHandle<()> {
    let (up, is_up) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        runtime().block_on(async {
            let config = AdapterConfig {
                name: NAME.into(),
                mtu: 1400,
                ipv4: Some((overlay4(number), 16)),
                ipv6: Some((overlay6(number), 48)),
            };
            let adapter: TunAdapter = Linux.create_adapter(&config).await.unwrap();
            let reader = socket.spawn_reader(dataplane.inbound()).unwrap();
            let outbound = dataplane.attach(&adapter).unwrap();
            up.send(()).unwrap();
            stopped.wait_for(|stop| *stop).await.unwrap();
            adapter.stop();
            outbound.join().unwrap();
            dataplane.detach();
            reader.stop().unwrap();
            adapter.close().await.unwrap();
        });
    });
    is_up.recv().unwrap();
    thread
}

/// Owns the tunnels.
struct Engine {
    tunnels: Tunnels,
    socket: SharedSocket,
    dataplane: Arc<Dataplane<TunWriter>>,
    publisher: Arc<Mutex<Publisher>>,
    inbox: Inbox,
    parking: Parking,
}

impl Engine {
    fn new(
        number: u8,
        neighbours: &[Neighbour],
        start: Instant,
        socket: SharedSocket,
        dataplane: &Arc<Dataplane<TunWriter>>,
        publisher: &Arc<Mutex<Publisher>>,
        inbox: Inbox,
    ) -> Self {
        let secret = |number: u8| [number; 32];
        let identity = LocalIdentity::new(node_id(number), OrgId([9; 32]), &secret(number));
        let mut tunnels = Tunnels::new(identity, Config::default(), [number; 32], 1, start);
        let own = Own {
            ipv4: Some(overlay4(number)),
            broadcast: Some(Ipv4Addr::new(198, 19, 255, 255)),
            ipv6: Some(overlay6(number)),
        };
        publisher.lock().unwrap().set_own(own);
        publisher
            .lock()
            .unwrap()
            .set_members(neighbours.iter().map(|(number, _)| member(*number)));
        for (peer, address) in neighbours {
            let config = PeerConfig {
                node_id: node_id(*peer),
                tunnel_key: x25519_public(&secret(*peer)),
                networks: Vec::new(),
            };
            tunnels.set_peer(config, start);
            let candidate = Candidate {
                addr: SocketAddr::new(*address, PORT),
                kind: CandidateKind::Host.into(),
            };
            tunnels.set_candidates(&node_id(*peer), &[candidate], start);
        }
        let (dataplane, publisher) = (Arc::clone(dataplane), Arc::clone(publisher));
        Self {
            tunnels,
            socket,
            dataplane,
            publisher,
            inbox,
            parking: Parking::default(),
        }
    }

    async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            self.drain();
            let timeout = self
                .tunnels
                .poll_timeout()
                .unwrap_or_else(|| Instant::now() + DEADLINE);
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => return,
                Some(message) = self.inbox.peers.recv() => self.peer(message),
                Some(stranger) = self.inbox.strangers.recv() => {
                    self.tunnels.handle_datagram(stranger.from, &stranger.datagram, Instant::now());
                }
                Some(waiting) = self.inbox.waiting.recv() => self.wait(waiting),
                () = tokio::time::sleep_until(timeout.into()) => self.tunnels.handle_timeout(Instant::now()),
            }
        }
    }

    fn peer(&mut self, message: FromPeer) {
        let now = Instant::now();
        match message {
            FromPeer::Control {
                local_index,
                from,
                counter,
                payload,
            } => {
                self.tunnels
                    .handle_opened_control(local_index, from, counter, &payload, now);
            }
            FromPeer::Authenticated {
                local_index,
                from,
                counter,
            } => {
                self.tunnels
                    .handle_authenticated(local_index, from, counter, now);
            }
        }
    }

    /// Events before datagrams: a peer may answer faster than we could install the session it answers with.
    fn drain(&mut self) {
        while let Some(event) = self.tunnels.poll_event() {
            self.publisher.lock().unwrap().apply(&event);
            if let Event::SessionUp { peer, .. } = event {
                self.send_parked(&peer);
            }
        }
        while let Some(transmit) = self.tunnels.poll_transmit() {
            let _ = self.socket.send(transmit.to, &transmit.data, None);
        }
    }

    fn send_parked(&mut self, peer: &NodeId) {
        let publisher = self.publisher.lock().unwrap();
        self.dataplane
            .send_parked(&publisher, &mut self.parking, peer);
    }

    fn wait(&mut self, waiting: Waiting) {
        let (peer, now) = (waiting.peer, Instant::now());
        let publisher = self.publisher.lock().unwrap();
        if self
            .dataplane
            .send_or_park(&publisher, &mut self.parking, waiting, now)
        {
            self.tunnels.connect(&peer, now);
        }
    }
}

fn underlay(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
}

/// Node 1 with a cable to each of the others; those do not know each other.
fn star(others: &[u8]) -> (Node, Vec<Node>) {
    let hub = Namespace::new();
    let mut nodes = Vec::new();
    for number in others {
        let leaf = Namespace::new();
        let (number, leaf_id) = (*number, leaf.thread_id);
        hub.run(move || {
            ip(&format!(
                "link add cable{number} type veth peer name cable netns {leaf_id}"
            ));
            ip(&format!("addr add 192.0.2.1/32 dev cable{number}"));
            ip(&format!("link set cable{number} up"));
            ip(&format!(
                "route add 192.0.2.{number}/32 dev cable{number} src 192.0.2.1"
            ));
        });
        leaf.run(move || {
            ip(&format!("addr add 192.0.2.{number}/24 dev cable"));
            ip("link set cable up");
        });
        nodes.push(Node::start(number, leaf, vec![(1, underlay(1))]));
    }
    let neighbours = others
        .iter()
        .map(|number| (*number, underlay(*number)))
        .collect();
    (Node::start(1, hub, neighbours), nodes)
}

/// A UDP packet without checksum, for IPv4 only.
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

fn nonzero(node: &Node) -> Vec<(&'static str, u64)> {
    node.counters()
        .snapshot()
        .into_iter()
        .filter(|(_, count)| *count > 0)
        .collect()
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

impl Node {
    /// A packet to nobody's port makes the session.
    fn wait_or_connect(&self, number: u8) {
        let socket = self.socket_at(overlay4(self.number), 0);
        socket.send_to(b"hello", (overlay4(number), 9)).unwrap();
        self.wait_for_session(number);
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
