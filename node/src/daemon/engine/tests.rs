//! How the engine shares its time, on real channels.

use std::net::Ipv4Addr;

use super::*;

#[derive(Clone)]
struct NoAdapter;

impl PacketWriter for NoAdapter {
    fn write(&self, _: &[u8]) -> std::io::Result<()> {
        Ok(())
    }
}

/// An engine without peers, and a queue of theirs that is full.
fn flooded() -> Engine<NoAdapter> {
    const FLOOD: usize = 1024;
    let socket = SharedSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let now = clock::now();
    let (dataplane, publisher, mut inbox) = Dataplane::new(socket.clone(), now, String::new());
    let (peers, from_peers) = mpsc::channel(FLOOD);
    for local_index in 0..FLOOD {
        let local_index = u32::try_from(local_index).unwrap();
        peers.try_send(FromPeer::Woken { local_index }).unwrap();
    }
    inbox.peers = from_peers;
    let identity = tunnel::LocalIdentity {
        node_id: NodeId([1; 32]),
        org: OrgId([0; 32]),
        tunnel_secret: [2; 32].into(),
    };
    let config = tunnel::Config::default();
    let parts = Parts {
        tunnels: Tunnels::new(identity, config, [3; 32], 1, now),
        dataplane: Arc::new(dataplane),
        publisher,
        inbox,
        socket,
        local: watch::channel(Arc::from([])).1,
        network: None,
    };
    Engine::new(parts, mpsc::channel(1).0).unwrap()
}

#[tokio::test]
async fn a_flood_of_peers_keeps_neither_commands_nor_timers_waiting() {
    let mut engine = flooded();
    let (sender, mut commands) = mpsc::channel(QUEUE);
    let stop = CancellationToken::new();
    let (first, mut first_reply) = oneshot::channel();
    let (second, mut second_reply) = oneshot::channel();
    for reply in [first, second] {
        sender.try_send(Command::Status(reply)).unwrap();
    }
    // Whatever timers there are are due.
    let before = clock::now() - Duration::from_secs(60);
    engine.timed = before;
    let peer = NodeId([4; 32]);
    let packet = Box::from([0]);
    engine.parking.park(Waiting { peer, packet }, before);
    assert!(engine.turn(&mut commands, &stop).await);
    assert!(first_reply.try_recv().is_ok() && second_reply.try_recv().is_ok());
    assert!(engine.timed > before, "timers went off");
    let left = engine.parts.inbox.peers.len();
    assert!((900..1024).contains(&left), "{left}");
}

#[tokio::test]
async fn timers_rest_where_there_is_no_network_and_not_where_nobody_can_tell() {
    let mut engine = flooded();
    let now = engine.timed;
    for (network, rests) in [(None, false), (Some(true), false), (Some(false), true)] {
        engine.parts.network = network.map(|network| watch::channel(network).1);
        let rest = engine.earliest().saturating_duration_since(now);
        assert_eq!(rest == WITHOUT_NETWORK, rests, "{network:?}: {rest:?}");
    }
}
