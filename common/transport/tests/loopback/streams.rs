//! Streams that come at once.

use crate::util::{DEADLINE, listen, node, run, until};
use futures::{FutureExt as _, StreamExt as _, future::join_all};
use kanpachi_transport::AddressFilter;
use libp2p::{StreamProtocol, swarm::SwarmEvent};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/streams/1");
/// Streams that are opened before the first is taken.
const MANY: usize = 32;

/// Whoever takes the streams may be late: none is lost, and none is given to anybody else.
#[tokio::test]
async fn streams_that_come_at_once_all_wait_to_be_taken() {
    let mut server = node(1, AddressFilter::allow_all());
    let (peer, mut control) = (server.peer, server.swarm.behaviour().stream.new_control());
    let mut incoming = control.accept(PROTOCOL).unwrap();
    assert!(control.accept(PROTOCOL).is_err(), "one takes them");
    let address = listen(&mut server.swarm, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    run(server.swarm);
    let mut client = node(2, AddressFilter::allow_all());
    client.swarm.dial(address).unwrap();
    until(&mut client.swarm, |event| {
        matches!(event, SwarmEvent::ConnectionEstablished { .. }).then_some(())
    })
    .await;
    let opener = client.swarm.behaviour().stream.new_control();
    run(client.swarm);
    let opened = (0..MANY).map(|_| {
        let mut opener = opener.clone();
        async move { opener.open_stream(peer, PROTOCOL).await }
    });
    let opened = tokio::time::timeout(DEADLINE, join_all(opened)).await;
    let opened: Result<Vec<_>, _> = opened.unwrap().into_iter().collect();
    let opened = opened.unwrap();
    for _ in 0..MANY {
        let next = tokio::time::timeout(DEADLINE, incoming.next()).await;
        let (from, _) = next.expect("one more").unwrap();
        assert_eq!(from, client.peer);
    }
    assert!(incoming.next().now_or_never().is_none());
    drop((opened, incoming));
    control.accept(PROTOCOL).unwrap();
}
