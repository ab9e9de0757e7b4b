//! Swarms with real sockets on loopback, and waiting with a deadline.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures::StreamExt;
use kanpachi_transport::{
    AddressFilter, DatagramHandler, Reader, SharedSocket, keypair_from_seed,
    swarm::{Options, swarm},
};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    identity::Keypair,
    ping,
    swarm::{NetworkBehaviour, SwarmEvent},
};

/// How long a test waits for anything before it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) ping: ping::Behaviour,
    pub(crate) stream: kanpachi_transport::streams::Behaviour,
}

/// A datagram and where it came from.
type Received = (SocketAddr, Vec<u8>);

/// Keeps the tunnel datagrams that arrive.
#[derive(Clone, Default)]
pub(crate) struct Inbox(Arc<Mutex<Vec<Received>>>);

impl DatagramHandler for Inbox {
    fn handle(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        self.0.lock().unwrap().push((from, datagram.to_vec()));
    }
}

impl Inbox {
    pub(crate) fn take(&self) -> Vec<Received> {
        std::mem::take(&mut self.0.lock().unwrap())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

/// One participant.
pub(crate) struct Node {
    pub(crate) peer: PeerId,
    pub(crate) socket: SharedSocket,
    pub(crate) inbox: Inbox,
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) reader: Reader,
}

pub(crate) fn keypair(seed: u8) -> Keypair {
    keypair_from_seed(&[seed; 32])
}

pub(crate) fn node(seed: u8, filter: AddressFilter) -> Node {
    let keypair = keypair(seed);
    let socket = SharedSocket::bind_port(0).unwrap();
    let inbox = Inbox::default();
    let reader = socket.spawn_reader(inbox.clone()).unwrap();
    let behaviour = Behaviour {
        ping: ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(50))),
        stream: kanpachi_transport::streams::Behaviour::new(),
    };
    let options = Options {
        keypair: keypair.clone(),
        socket: socket.clone(),
        filter,
        relay: None,
        tcp: true,
        proxy: None,
        dials: None,
    };
    Node {
        peer: keypair.public().to_peer_id(),
        swarm: swarm(options, behaviour).unwrap(),
        socket,
        inbox,
        reader,
    }
}

/// Loopback as the other side reaches this socket.
pub(crate) fn loopback(socket: &SharedSocket) -> SocketAddr {
    ([127, 0, 0, 1], socket.port()).into()
}

/// Listens and waits for the first address.
pub(crate) async fn listen(swarm: &mut Swarm<Behaviour>, addr: &str) -> Multiaddr {
    swarm.listen_on(addr.parse().unwrap()).unwrap();
    until(swarm, |event| match event {
        SwarmEvent::NewListenAddr { address, .. } => Some(address.clone()),
        _ => None,
    })
    .await
}

/// Runs the swarm until an event says what the caller wants to know.
pub(crate) async fn until<T>(
    swarm: &mut Swarm<Behaviour>,
    mut wanted: impl FnMut(&SwarmEvent<BehaviourEvent>) -> Option<T>,
) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(&swarm.select_next_some().await) {
                return found;
            }
        }
    };
    tokio::time::timeout(DEADLINE, found)
        .await
        .expect("it happens before the deadline")
}

/// Runs a swarm in the background for the rest of the test.
pub(crate) fn run(mut swarm: Swarm<Behaviour>) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    })
}

/// The round trip of a ping event, if it is one.
pub(crate) fn rtt(event: &SwarmEvent<BehaviourEvent>) -> Option<Duration> {
    match event {
        SwarmEvent::Behaviour(BehaviourEvent::Ping(ping::Event {
            result: Ok(rtt), ..
        })) => Some(*rtt),
        _ => None,
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
