//! Nodes that are nothing but adapter, packet path and tunnels, in network namespaces of their own, joined by veth.

mod engine;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use kanpachi_common::NodeId;
use kanpachi_node::dataplane::{Counters, Dataplane, Member, Peer, Publisher};
use kanpachi_node::platform::linux::{Linux, TunAdapter, TunWriter};
use kanpachi_node::platform::{Adapter, AdapterConfig, Platform};
use kanpachi_transport::SharedSocket;
use nix::sched::{CloneFlags, unshare};
use tokio::sync::watch;

use engine::Engine;

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
const PORT: u16 = 12976;
const NAME: &str = "kdata0";

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
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
pub(crate) fn ip(arguments: &str) {
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

pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// A network namespace that lives as long as its thread.
pub(crate) struct Namespace {
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
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
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

pub(crate) fn node_id(number: u8) -> NodeId {
    NodeId([number; 32])
}

pub(crate) fn overlay4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(198, 19, 0, number)
}

pub(crate) fn overlay6(number: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 0, 0, 0, 0, u16::from(number))
}

pub(crate) fn member(number: u8) -> Member {
    Member {
        node_id: node_id(number),
        ipv4: Some(overlay4(number)),
        ipv6: Some(overlay6(number)),
    }
}

/// A peer and where it can be found.
pub(crate) type Neighbour = (u8, IpAddr);

/// A node without rosters: it is told whom to talk to.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) namespace: Namespace,
    pub(crate) socket: SharedSocket,
    dataplane: Arc<Dataplane<TunWriter>>,
    pub(crate) publisher: Arc<Mutex<Publisher>>,
    stop: watch::Sender<bool>,
    threads: Vec<JoinHandle<()>>,
}

impl Node {
    fn start(number: u8, namespace: Namespace, neighbours: Vec<Neighbour>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (socket, dataplane, publisher, engine, adapter) = namespace.run(move || {
            let start = Instant::now();
            let socket = SharedSocket::bind_port(PORT).unwrap();
            let (dataplane, publisher, inbox) =
                Dataplane::new(socket.clone(), start, String::new());
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

    pub(crate) fn counters(&self) -> &Counters {
        self.dataplane.counters()
    }

    pub(crate) fn peer(&self, number: u8) -> Arc<Peer> {
        Arc::clone(
            self.publisher
                .lock()
                .unwrap()
                .peer(&node_id(number))
                .unwrap(),
        )
    }

    pub(crate) fn wait_for_session(&self, number: u8) {
        let peer = self.peer(number);
        eventually("a session", || peer.sending().is_some());
    }

    pub(crate) fn socket_at(&self, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
        let address = SocketAddr::new(address.into(), port);
        self.namespace.run(move || {
            let socket = UdpSocket::bind(address).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.set_broadcast(true).unwrap();
            socket
        })
    }

    /// Seals something as it is, past all checks of our own side, as a hostile member would.
    pub(crate) fn inject(&self, number: u8, packet: &[u8]) {
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

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

/// Makes the adapter and keeps it, and the socket's reader, until told to stop.
pub(crate) fn run_adapter(
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

pub(crate) fn underlay(number: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, number))
}

/// Node 1 with a cable to each of the others; those do not know each other.
pub(crate) fn star(others: &[u8]) -> (Node, Vec<Node>) {
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
impl Node {
    /// A packet to nobody's port makes the session.
    pub(crate) fn wait_or_connect(&self, number: u8) {
        let socket = self.socket_at(overlay4(self.number), 0);
        socket.send_to(b"hello", (overlay4(number), 9)).unwrap();
        self.wait_for_session(number);
    }
}
