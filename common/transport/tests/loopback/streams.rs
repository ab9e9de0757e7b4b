//! Streams that come at once.

use std::{collections::HashMap, time::Duration};

use crate::util::{self, DEADLINE, Inbox, listen, node, run, until};
use futures::{
    AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _, future::join_all,
};
use kanpachi_transport::{
    AddressFilter, Reader, SharedSocket, keypair_from_seed,
    streams::{Behaviour, ROOM_OF_ONE, Stream},
    swarm::{Options, transport},
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, relay,
    swarm::{Config, ConnectionId, NetworkBehaviour, SwarmEvent},
};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/streams/1");
/// More than may wait of one peer.
const MANY: usize = ROOM_OF_ONE + 4;

/// Connects from a node of its own and opens many streams; says who that is.
async fn open_many(seed: u8, address: Multiaddr, to: PeerId) -> (PeerId, Vec<Stream>) {
    let mut client = node(seed, AddressFilter::allow_all());
    client.swarm.dial(address).unwrap();
    until(&mut client.swarm, |event| {
        matches!(event, SwarmEvent::ConnectionEstablished { .. }).then_some(())
    })
    .await;
    let opener = client.swarm.behaviour().stream.new_control();
    run(client.swarm);
    let opened = (0..MANY).map(|_| {
        let mut opener = opener.clone();
        async move { opener.open_stream(to, PROTOCOL).await }
    });
    let opened = tokio::time::timeout(DEADLINE, join_all(opened)).await;
    let opened: Result<Vec<_>, _> = opened.unwrap().into_iter().collect();
    (client.peer, opened.unwrap())
}

/// Whoever takes the streams may be late: as many of each peer wait as have room, and none is given to anybody else.
#[tokio::test]
async fn streams_that_come_at_once_wait_to_be_taken_and_those_of_one_peer_leave_room() {
    let mut server = node(1, AddressFilter::allow_all());
    let (peer, mut control) = (server.peer, server.swarm.behaviour().stream.new_control());
    let mut incoming = control.accept(PROTOCOL).unwrap();
    assert!(control.accept(PROTOCOL).is_err(), "one takes them");
    let address = listen(&mut server.swarm, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    run(server.swarm);
    let first = open_many(2, address.clone(), peer).await;
    let second = open_many(3, address, peer).await;
    let mut taken = HashMap::new();
    for _ in 0..2 * ROOM_OF_ONE {
        let next = tokio::time::timeout(DEADLINE, incoming.next()).await;
        let (from, _) = next.expect("one more").unwrap();
        *taken.entry(from).or_insert(0) += 1;
    }
    let each = [first.0, second.0].map(|peer| (peer, ROOM_OF_ONE));
    assert_eq!(taken, HashMap::from(each));
    assert!(incoming.next().now_or_never().is_none());
    drop((first, second, incoming));
    control.accept(PROTOCOL).unwrap();
}

/// Closes the connection of a swarm when it is told to.
fn closes(
    mut swarm: Swarm<util::Behaviour>,
    connection: ConnectionId,
) -> tokio::sync::oneshot::Sender<()> {
    let (close, mut closing) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = swarm.select_next_some() => {}
                Ok(()) = &mut closing => drop(swarm.close_connection(connection)),
            }
        }
    });
    close
}

/// A task that waits for somebody else on a stream; does it still?
async fn waits<T: Send + 'static>(
    on_stream: impl Future<Output = std::io::Result<T>> + Send + 'static,
) -> tokio::task::JoinHandle<std::io::Result<T>> {
    let mut task = tokio::spawn(on_stream);
    let early = tokio::time::timeout(Duration::from_millis(200), &mut task).await;
    assert!(early.is_err(), "it does not wait");
    task
}

/// Whoever waits on a stream of a connection that this end closes is told, over TCP and QUIC, and so is the other end.
#[tokio::test]
async fn a_stream_ends_when_its_connection_is_closed_at_either_end() {
    for any in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let (mut server, mut client) = (
            node(1, AddressFilter::allow_all()),
            node(2, AddressFilter::allow_all()),
        );
        let mut accepts = server.swarm.behaviour().stream.new_control();
        let mut incoming = accepts.accept(PROTOCOL).unwrap();
        client
            .swarm
            .dial(listen(&mut server.swarm, any).await)
            .unwrap();
        run(server.swarm);
        let connection = until(&mut client.swarm, |event| match event {
            SwarmEvent::ConnectionEstablished { connection_id, .. } => Some(*connection_id),
            _ => None,
        })
        .await;
        let mut opener = client.swarm.behaviour().stream.new_control();
        let close = closes(client.swarm, connection);
        let mut ends = Vec::new();
        for _ in 0..2 {
            let mut ours = opener.open_stream(server.peer, PROTOCOL).await.unwrap();
            ours.write_all(b"?").await.unwrap();
            let (_, mut theirs) = incoming.next().await.unwrap();
            theirs.read_exact(&mut [0]).await.unwrap();
            ends.push((ours, theirs));
        }
        let (mut writes, unread) = ends.pop().unwrap();
        let (mut ours, mut theirs) = ends.pop().unwrap();
        let tasks = [
            waits(async move { ours.read(&mut [0]).await }).await,
            waits(async move { theirs.read(&mut [0]).await }).await,
            waits(async move { writes.write_all(&vec![0; 64 << 20]).await.map(|()| 1) }).await,
        ];
        close.send(()).unwrap();
        for (at, task) in tasks.into_iter().enumerate() {
            let ended = tokio::time::timeout(DEADLINE, task).await;
            let ended = ended.unwrap_or_else(|_| panic!("{any}: task {at} waits for ever"));
            assert!(matches!(ended.unwrap(), Ok(0) | Err(_)), "{any}: {at}");
        }
        drop(unread);
    }
}

/// What nodes have: streams, and a part that wants connections open while they are young.
#[derive(NetworkBehaviour)]
struct Both {
    streams: Behaviour,
    relay: relay::Behaviour,
}

/// libp2p does not notice by itself that the last stream of a connection is gone, nor that nobody wants a connection any more
/// that was wanted while it was young.
#[tokio::test]
async fn a_connection_ends_when_its_last_stream_has_and_nothing_else_happens_on_it() {
    const IDLE: Duration = Duration::from_millis(300);
    let young = ends_after(1, 3 * IDLE, IDLE);
    let old = ends_after(3, Duration::from_secs(12), IDLE);
    tokio::join!(young, old);
}

/// Uses a connection between two others for so long, and waits until it has ended.
async fn ends_after(seed: u8, used: Duration, idle: Duration) {
    let ((server, mut serves, _one), (_, mut asks, _other)) =
        (both(seed, idle), both(seed + 1, idle));
    let mut incoming = serves
        .behaviour()
        .streams
        .new_control()
        .accept(PROTOCOL)
        .unwrap();
    let mut opener = asks.behaviour().streams.new_control();
    let any = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
    serves.listen_on(any).unwrap();
    let address = loop {
        if let SwarmEvent::NewListenAddr { address, .. } = serves.select_next_some().await {
            break address;
        }
    };
    asks.dial(address.with_p2p(server).unwrap()).unwrap();
    tokio::spawn(async move { while serves.next().await.is_some() {} });
    let (closed, ended) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        while !matches!(
            asks.select_next_some().await,
            SwarmEvent::ConnectionClosed { .. }
        ) {}
        closed.send(())
    });
    let opened = opener.open_stream(server, PROTOCOL);
    let mut ours = tokio::time::timeout(DEADLINE, opened)
        .await
        .unwrap()
        .unwrap();
    ours.write_all(b"?").await.unwrap();
    let (_, theirs) = incoming.next().await.unwrap();
    // That is longer than it may be idle.
    let mut ended = std::pin::pin!(ended);
    let early = tokio::time::timeout(used, &mut ended).await;
    assert!(early.is_err(), "closed while it was in use");
    drop((ours, theirs));
    let ended = tokio::time::timeout(DEADLINE, ended).await;
    ended.expect("it is closed").unwrap();
}

/// A node whose connections may be idle for so long.
fn both(seed: u8, idle: Duration) -> (PeerId, Swarm<Both>, Reader) {
    let keypair = keypair_from_seed(&[seed; 32]);
    let socket = SharedSocket::bind_port(0).unwrap();
    let reader = socket.spawn_reader(Inbox::default()).unwrap();
    let peer = keypair.public().to_peer_id();
    let options = Options {
        keypair,
        socket,
        filter: AddressFilter::allow_all(),
        relay: None,
        tcp: false,
        proxy: None,
        dials: None,
    };
    let config = Config::with_tokio_executor().with_idle_connection_timeout(idle);
    let both = Both {
        streams: Behaviour::new(),
        relay: relay::Behaviour::new(peer, relay::Config::default()),
    };
    let swarm = Swarm::new(transport(options).unwrap(), both, peer, config);
    (peer, swarm, reader)
}
