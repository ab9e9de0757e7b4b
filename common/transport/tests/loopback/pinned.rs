//! Streams on a connection of one's choice.

use crate::util::{DEADLINE, keypair, listen, node, run};
use futures::StreamExt as _;
use kanpachi_transport::{
    AddressFilter, SharedSocket,
    pinned::{Behaviour, Event},
    swarm::{Options, swarm},
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    swarm::{
        ConnectionId, SwarmEvent,
        dial_opts::{DialOpts, PeerCondition},
    },
};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/pinned/1");

async fn until<T>(
    swarm: &mut Swarm<Behaviour>,
    mut wanted: impl FnMut(SwarmEvent<Event>) -> Option<T>,
) -> T {
    let found = async {
        loop {
            if let Some(found) = wanted(swarm.select_next_some().await) {
                return found;
            }
        }
    };
    let found = tokio::time::timeout(DEADLINE, found).await;
    found.expect("in time")
}

/// One more connection, whatever there is already.
async fn connect(swarm: &mut Swarm<Behaviour>, peer: PeerId, address: &Multiaddr) -> ConnectionId {
    let options = DialOpts::peer_id(peer)
        .condition(PeerCondition::Always)
        .addresses(vec![address.clone()])
        .build();
    swarm.dial(options).unwrap();
    until(swarm, |event| match event {
        SwarmEvent::ConnectionEstablished { connection_id, .. } => Some(connection_id),
        _ => None,
    })
    .await
}

async fn outcome(swarm: &mut Swarm<Behaviour>) -> Event {
    until(swarm, |event| match event {
        SwarmEvent::Behaviour(event) => Some(event),
        _ => None,
    })
    .await
}

/// A stream opens on the connection that is named, while another one to the same peer is just being closed.
#[tokio::test]
async fn a_stream_opens_on_the_connection_that_is_named() {
    let mut server = node(1, AddressFilter::allow_all());
    let (peer, mut control) = (server.peer, server.swarm.behaviour().stream.new_control());
    let mut incoming = control.accept(PROTOCOL).unwrap();
    let address = listen(&mut server.swarm, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    run(server.swarm);
    tokio::spawn(async move {
        let mut streams = Vec::new();
        while let Some(stream) = incoming.next().await {
            streams.push(stream);
        }
    });

    let socket = SharedSocket::bind_port(0).unwrap();
    let _reader = socket.spawn_reader(crate::util::Inbox::default()).unwrap();
    let options = Options {
        keypair: keypair(2),
        socket,
        filter: AddressFilter::allow_all(),
        relay: None,
        tcp: false,
        proxy: None,
        dials: None,
    };
    let mut client = swarm(options, Behaviour::new(PROTOCOL)).unwrap();
    let mut former = connect(&mut client, peer, &address).await;
    for _ in 0..20 {
        let connection = connect(&mut client, peer, &address).await;
        client.close_connection(former);
        client.behaviour_mut().open(peer, connection);
        let event = outcome(&mut client).await;
        assert_eq!(event.connection, connection);
        event.outcome.unwrap();
        former = connection;
    }
    // And on none when that one is gone, whatever else there is.
    connect(&mut client, peer, &address).await;
    client.behaviour_mut().open(peer, former);
    client.close_connection(former);
    let event = outcome(&mut client).await;
    assert_eq!(event.connection, former);
    assert!(event.outcome.is_err());
}
