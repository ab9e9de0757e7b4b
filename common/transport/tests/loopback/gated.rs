//! Strangers get none of the protocols behind the gate, and no more connections than they may have.

use std::{
    collections::{BTreeSet, VecDeque},
    convert::Infallible,
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt, StreamExt};
use kanpachi_transport::{
    AddressFilter, Gated, Reader, SharedSocket,
    swarm::{Options, swarm},
};
use libp2p::{
    Multiaddr, PeerId, Swarm,
    core::{Endpoint, transport::PortUse},
    ping,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, SwarmEvent, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm, dial_opts::DialOpts, dummy,
    },
};

use crate::util::{DEADLINE, Inbox, keypair};

/// A swarm whose only protocol, ping, is for known peers.
struct Node {
    peer: PeerId,
    swarm: Swarm<Gated<ping::Behaviour>>,
    log: Vec<SwarmEvent<ping::Event>>,
    _reader: Reader,
}

fn node(seed: u8, max_strangers: usize) -> Node {
    let keypair = keypair(seed);
    let socket = SharedSocket::bind_port(0).unwrap();
    let reader = socket.spawn_reader(Inbox::default()).unwrap();
    let ping = ping::Behaviour::new(ping::Config::new().with_interval(Duration::from_millis(20)));
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
    Node {
        peer,
        swarm: swarm(options, Gated::new(ping, max_strangers)).unwrap(),
        log: Vec::new(),
        _reader: reader,
    }
}

impl Node {
    fn know(&mut self, peers: &[PeerId]) {
        let known: BTreeSet<PeerId> = peers.iter().copied().collect();
        self.swarm.behaviour_mut().set_known(known);
    }

    async fn listen(&mut self) -> Multiaddr {
        let addr = "/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap();
        self.swarm.listen_on(addr).unwrap();
        loop {
            if let SwarmEvent::NewListenAddr { address, .. } = self.swarm.select_next_some().await {
                return address;
            }
        }
    }

    fn opened(&self) -> usize {
        let opened = |e: &&SwarmEvent<_>| matches!(e, SwarmEvent::ConnectionEstablished { .. });
        self.log.iter().filter(opened).count()
    }

    fn closed(&self) -> Vec<ConnectionId> {
        let closed = |e: &SwarmEvent<_>| match e {
            SwarmEvent::ConnectionClosed { connection_id, .. } => Some(*connection_id),
            _ => None,
        };
        self.log.iter().filter_map(closed).collect()
    }

    fn results(&self) -> impl Iterator<Item = bool> {
        self.log.iter().filter_map(|event| match event {
            SwarmEvent::Behaviour(event) => Some(event.result.is_ok()),
            _ => None,
        })
    }

    fn pinged(&self) -> usize {
        self.results().filter(|ok| *ok).count()
    }

    fn failed(&self) -> usize {
        self.results().filter(|ok| !ok).count()
    }
}

/// Runs all of them until the condition holds.
async fn until(nodes: &mut [Node], what: &str, mut condition: impl FnMut(&[Node]) -> bool) {
    let run = async {
        while !condition(nodes) {
            let events = nodes.iter_mut().map(|node| {
                async { node.log.push(node.swarm.select_next_some().await) }.boxed_local()
            });
            futures::future::select_all(events).await;
        }
    };
    assert!(
        tokio::time::timeout(DEADLINE, run).await.is_ok(),
        "{what} did not happen"
    );
}

#[tokio::test]
async fn a_stranger_gets_no_protocol_until_it_is_known_and_none_when_it_is_not_any_more() {
    let mut nodes = [node(41, 8), node(42, 8)];
    let (a, b) = (nodes[0].peer, nodes[1].peer);
    let address = nodes[0].listen().await;
    nodes[1].know(&[a]);
    nodes[1].swarm.dial(address.clone()).unwrap();
    // It asks, and there is no such protocol here.
    until(&mut nodes, "an unsupported ping", |n| n[1].failed() > 0).await;
    assert_eq!((nodes[0].pinged(), nodes[1].pinged()), (0, 0));

    nodes[0].know(&[b]);
    until(&mut nodes, "the end of the connection", |n| {
        n[0].closed().len() == 1 && n[1].closed().len() == 1
    })
    .await;
    nodes[1].swarm.dial(address).unwrap();
    until(&mut nodes, "a ping each way", |n| {
        n[0].pinged() > 0 && n[1].pinged() > 0
    })
    .await;

    nodes[0].know(&[]);
    until(&mut nodes, "the end of the second connection", |n| {
        n[0].closed().len() == 2
    })
    .await;
}

#[tokio::test]
async fn whoever_answers_an_expected_dial_passes_and_stays_when_it_becomes_known() {
    let mut nodes = [node(43, 8), node(44, 8)];
    let (a, b) = (nodes[0].peer, nodes[1].peer);
    let address = nodes[0].listen().await;
    nodes[0].know(&[b]);
    let options = DialOpts::unknown_peer_id().address(address).build();
    nodes[1]
        .swarm
        .behaviour_mut()
        .expect(options.connection_id());
    nodes[1].swarm.dial(options).unwrap();
    until(&mut nodes, "a ping each way", |n| {
        n[0].pinged() > 0 && n[1].pinged() > 0
    })
    .await;
    nodes[1].know(&[a]);
    nodes[1].know(&[]);
    let before = nodes[1].pinged();
    until(&mut nodes, "more pings", |n| n[1].pinged() > before + 3).await;
    assert!(nodes[1].closed().is_empty());
}

#[tokio::test]
async fn strangers_share_a_few_connections_and_the_oldest_goes_first() {
    let mut nodes = [
        node(45, 2),
        node(46, 8),
        node(47, 8),
        node(48, 8),
        node(49, 8),
    ];
    let (a, member) = (nodes[0].peer, nodes[4].peer);
    nodes[0].know(&[member]);
    let address = nodes[0].listen().await;
    for at in [4, 1, 2, 3] {
        nodes[at].know(&[a]);
        nodes[at].swarm.dial(address.clone()).unwrap();
        let before = nodes[0].opened();
        until(&mut nodes, "a connection", |n| n[0].opened() > before).await;
    }
    until(&mut nodes, "the first stranger's end", |n| {
        !n[1].closed().is_empty()
    })
    .await;
    let before = nodes[4].pinged();
    until(&mut nodes, "pings of the member", |n| {
        n[4].pinged() > before
    })
    .await;
    assert!(nodes[2].closed().is_empty() && nodes[3].closed().is_empty());
    assert!(nodes[4].closed().is_empty(), "the member is no stranger");
    assert_eq!(nodes[0].closed().len(), 1);
}

/// Says of each of these that it leads here.
struct Announces(VecDeque<Multiaddr>);

impl NetworkBehaviour for Announces {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        let next = self.0.pop_front();
        next.map_or(Poll::Pending, |addr| {
            Poll::Ready(ToSwarm::ExternalAddrConfirmed(addr))
        })
    }
}

#[test]
fn a_circuit_is_not_announced_as_an_address() {
    let direct: Multiaddr = "/ip4/203.0.113.7/udp/4001/quic-v1".parse().unwrap();
    let circuit = format!("{direct}/p2p/{}/p2p-circuit", PeerId::random());
    let announced = VecDeque::from([circuit.parse().unwrap(), direct.clone()]);
    let mut gated = Gated::new(Announces(announced), 4);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match gated.poll(&mut cx) {
        Poll::Ready(ToSwarm::ExternalAddrConfirmed(addr)) => assert_eq!(addr, direct),
        other => panic!("{other:?}"),
    }
    assert!(gated.poll(&mut cx).is_pending());
}
