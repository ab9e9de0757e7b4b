//! Streams that come at once.

use std::collections::HashMap;

use crate::util::{DEADLINE, listen, node, run, until};
use futures::{FutureExt as _, StreamExt as _, future::join_all};
use kanpachi_transport::{AddressFilter, streams::ROOM_OF_ONE};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, swarm::SwarmEvent};

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
