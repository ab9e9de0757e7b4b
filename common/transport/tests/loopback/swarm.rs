//! libp2p on the shared socket: QUIC beside tunnel datagrams, TCP, filters, restarts.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::util::{DEADLINE, Node, eventually, listen, loopback, node, rtt, run, until};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use kanpachi_transport::{AddressFilter, SharedSocket, quic::QuicTransport, swarm::shutdown};
use libp2p::{
    Multiaddr, StreamProtocol,
    core::{
        Endpoint, Transport,
        transport::{DialOpts, PortUse, TransportEvent},
    },
    multiaddr::Protocol,
    swarm::SwarmEvent,
};
use tokio::{net::UdpSocket, sync::Notify};

const ECHO: StreamProtocol = StreamProtocol::new("/echo/1");

async fn connected(addr: &str) -> (Node, Node) {
    let mut a = node(1, AddressFilter::allow_all());
    let mut b = node(2, AddressFilter::allow_all());
    let address = listen(&mut a.swarm, addr).await;
    b.swarm.dial(address.with(Protocol::P2p(a.peer))).unwrap();
    (a, b)
}

/// Sends `len` bytes over a stream to an echo and compares what comes back.
async fn echo(a: &mut Node, b: &mut Node, len: usize) {
    // From the second call on somebody serves already.
    if let Ok(mut incoming) = a.swarm.behaviour().stream.new_control().accept(ECHO) {
        tokio::spawn(async move {
            while let Some((_, stream)) = incoming.next().await {
                let (reader, mut writer) = stream.split();
                futures::io::copy(reader, &mut writer).await.unwrap();
                writer.close().await.unwrap();
            }
        });
    }
    let mut control = b.swarm.behaviour().stream.new_control();
    let peer = a.peer;
    let exchange = async move {
        let stream = control.open_stream(peer, ECHO).await.unwrap();
        let (mut reader, mut writer) = stream.split();
        let data: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
        let mut back = Vec::new();
        let write = async {
            writer.write_all(&data).await.unwrap();
            writer.close().await.unwrap();
        };
        futures::join!(write, async {
            reader.read_to_end(&mut back).await.unwrap()
        });
        assert!(back == data, "the echo is the same");
    };
    let mut exchange = std::pin::pin!(exchange);
    let both = async {
        loop {
            tokio::select! {
                () = &mut exchange => return,
                _ = a.swarm.select_next_some() => {}
                _ = b.swarm.select_next_some() => {}
            }
        }
    };
    tokio::time::timeout(DEADLINE, both).await.expect("in time");
}

async fn both_connected(a: &mut Node, b: &mut Node) {
    let (pa, pb) = (a.peer, b.peer);
    tokio::time::timeout(DEADLINE, async {
        while !(a.swarm.is_connected(&pb) && b.swarm.is_connected(&pa)) {
            tokio::select! {
                _ = a.swarm.select_next_some() => {}
                _ = b.swarm.select_next_some() => {}
            }
        }
    })
    .await
    .expect("connected in time");
}

#[tokio::test]
async fn quic_and_tunnel_datagrams_share_a_port() {
    let (mut a, mut b) = connected("/ip4/127.0.0.1/udp/0/quic-v1").await;
    both_connected(&mut a, &mut b).await;
    let from = b.socket.clone();
    let to = loopback(&a.socket);
    let sender = std::thread::spawn(move || {
        for n in 0..2000u32 {
            let mut datagram = [0x04; 200];
            datagram[1..5].copy_from_slice(&n.to_be_bytes());
            from.send(to, &datagram, None).unwrap();
            if n % 50 == 0 {
                std::thread::yield_now();
            }
        }
    });
    echo(&mut a, &mut b, 1 << 20).await;
    sender.join().unwrap();
    eventually("the tunnel datagrams", || a.inbox.len() >= 1900).await;
    let source = loopback(&b.socket);
    assert!(
        a.inbox.take().iter().all(|(from, datagram)| *from == source
            && datagram.len() == 200
            && datagram[0] == 0x04)
    );
    run(a.swarm);
    let rtt = until(&mut b.swarm, rtt).await;
    assert!(rtt < Duration::from_millis(200), "ping took {rtt:?}");
}

/// A NAT in front of a client. It takes another port outside when told.
async fn rebinding_nat(server: SocketAddr) -> (SocketAddr, Arc<Notify>) {
    let bind = || UdpSocket::bind("127.0.0.1:0");
    let (inside, mut outside) = (bind().await.unwrap(), bind().await.unwrap());
    let at = inside.local_addr().unwrap();
    let told = Arc::new(Notify::new());
    let moves = Arc::clone(&told);
    tokio::spawn(async move {
        let (mut out, mut back) = ([0; 2048], [0; 2048]);
        let mut client = None;
        loop {
            tokio::select! {
                Ok((len, from)) = inside.recv_from(&mut out) => {
                    client = Some(from);
                    let _ = outside.send_to(&out[..len], server).await;
                }
                Ok((len, _)) = outside.recv_from(&mut back) => {
                    if let Some(client) = client {
                        let _ = inside.send_to(&back[..len], client).await;
                    }
                }
                () = moves.notified() => outside = bind().await.unwrap(),
            }
        }
    });
    (at, told)
}

#[tokio::test]
async fn a_client_that_gets_another_address_keeps_its_connection() {
    let mut a = node(1, AddressFilter::allow_all());
    let mut b = node(2, AddressFilter::allow_all());
    listen(&mut a.swarm, "/ip4/127.0.0.1/udp/0/quic-v1").await;
    let (nat, moves) = rebinding_nat(loopback(&a.socket)).await;
    let address = Multiaddr::from(nat.ip())
        .with(Protocol::Udp(nat.port()))
        .with(Protocol::QuicV1);
    b.swarm.dial(address.with(Protocol::P2p(a.peer))).unwrap();
    both_connected(&mut a, &mut b).await;
    echo(&mut a, &mut b, 10_000).await;
    for _ in 0..3 {
        moves.notify_one();
        let start = Instant::now();
        echo(&mut a, &mut b, 10_000).await;
        let took = start.elapsed();
        assert!(took < Duration::from_secs(3), "{took:?}");
    }
}

#[tokio::test]
async fn ipv6_works_on_the_same_socket() {
    let socket = SharedSocket::bind_port(0).unwrap();
    if !socket.local_addr().is_ipv6() {
        return;
    }
    let (mut a, mut b) = connected("/ip6/::1/udp/0/quic-v1").await;
    both_connected(&mut a, &mut b).await;
    echo(&mut a, &mut b, 1000).await;
}

#[tokio::test]
async fn tcp_works_beside_quic() {
    let (mut a, mut b) = connected("/ip4/127.0.0.1/tcp/0").await;
    both_connected(&mut a, &mut b).await;
    echo(&mut a, &mut b, 1 << 20).await;
    assert_eq!(a.socket.counters().received.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_tcp_port_takes_websockets_beside_plain_tcp() {
    let mut a = node(1, AddressFilter::allow_all());
    let address = listen(&mut a.swarm, "/ip4/127.0.0.1/tcp/0").await;
    let web = address.clone().with(Protocol::Ws("/".into()));
    for (seed, address) in [(2, web), (3, address)] {
        let mut b = node(seed, AddressFilter::allow_all());
        b.swarm.dial(address.with(Protocol::P2p(a.peer))).unwrap();
        both_connected(&mut a, &mut b).await;
        echo(&mut a, &mut b, 1 << 20).await;
        assert_eq!(b.socket.counters().received.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn a_client_that_breaks_the_rules_of_websockets_is_hung_up_on() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let mut a = node(1, AddressFilter::allow_all());
    let address = listen(&mut a.swarm, "/ip4/127.0.0.1/tcp/0").await;
    let port = address.iter().find_map(|p| match p {
        Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    run(a.swarm);
    let upgrade = "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    // Another request; a frame of 2^62 bytes; one without a mask; text.
    let frames: [&[u8]; 4] = [
        b"",
        &[0x82, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4],
        &[0x82, 1, 7],
        &[0x81, 0x81, 0, 0, 0, 0, b'x'],
    ];
    for frame in frames {
        let to = ("127.0.0.1", port.unwrap());
        let mut client = tokio::net::TcpStream::connect(to).await.unwrap();
        let said: &[u8] = if frame.is_empty() {
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
        } else {
            upgrade.as_bytes()
        };
        client.write_all(said).await.unwrap();
        client.write_all(frame).await.unwrap();
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, client.read_to_end(&mut rest)).await;
        // Closed or reset, and nobody was told more than what HTTP has to say.
        assert!(ended.is_ok(), "still open after {frame:?}");
        assert!(rest.len() < 1024, "{} bytes came back", rest.len());
    }
}

#[tokio::test]
async fn quic_survives_a_flood_of_tunnel_datagrams() {
    let (mut a, mut b) = connected("/ip4/127.0.0.1/udp/0/quic-v1").await;
    both_connected(&mut a, &mut b).await;
    let to = loopback(&a.socket);
    let stop = Arc::new(AtomicBool::new(false));
    let flood = {
        let stop = Arc::clone(&stop);
        let stranger = SharedSocket::bind_port(0).unwrap();
        std::thread::spawn(move || {
            // Random sizes and contents (SplitMix64), every first byte, so half of it claims to be QUIC.
            let mut state = 7u64;
            let mut sent = 0u64;
            while !stop.load(Ordering::Relaxed) && sent < 400_000 {
                state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
                let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
                let len = 1 + (z >> 32) as usize % 1400;
                let datagram = vec![(z >> 8) as u8; len];
                let _ = stranger.send(to, &datagram, None);
                sent += 1;
            }
            sent
        })
    };
    let start = Instant::now();
    run(a.swarm);
    let mut pings = 0;
    until(&mut b.swarm, |event| {
        pings += usize::from(rtt(event).is_some());
        if let SwarmEvent::ConnectionClosed { cause, .. } = event {
            panic!("the connection was lost: {cause:?}");
        }
        (start.elapsed() > Duration::from_secs(2) && pings >= 5).then_some(())
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    assert!(flood.join().unwrap() > 10_000);
    // And it is still there afterwards.
    until(&mut b.swarm, rtt).await;
}

#[tokio::test]
async fn a_wildcard_listener_announces_what_the_filter_allows() {
    let mut a = node(1, AddressFilter::new(|ip| !ip.is_loopback()));
    a.swarm
        .listen_on("/ip4/0.0.0.0/udp/0/quic-v1".parse().unwrap())
        .unwrap();
    a.swarm
        .listen_on("/ip4/0.0.0.0/tcp/0".parse().unwrap())
        .unwrap();
    let refused = a
        .swarm
        .listen_on("/ip4/127.0.0.1/udp/0/quic-v1".parse().unwrap());
    assert!(refused.is_err());
    let dial = a
        .swarm
        .dial("/ip4/127.0.0.1/udp/9/quic-v1".parse::<Multiaddr>().unwrap());
    assert!(dial.is_ok(), "the refusal comes as an event");
    let error = until(&mut a.swarm, |event| match event {
        SwarmEvent::OutgoingConnectionError { error, .. } => Some(error.to_string()),
        SwarmEvent::NewListenAddr { address, .. } => {
            assert!(
                !address.to_string().contains("127.0.0.1"),
                "{address} is announced"
            );
            None
        }
        _ => None,
    })
    .await;
    assert!(error.contains("not to be used"), "{error}");

    let mut b = node(2, AddressFilter::allow_all());
    let address = listen(&mut b.swarm, "/ip4/0.0.0.0/udp/0/quic-v1").await;
    assert!(
        address
            .to_string()
            .ends_with(&format!("/udp/{}/quic-v1", b.socket.port()))
    );
}

#[tokio::test]
async fn a_killed_and_restarted_peer_is_noticed_at_once() {
    // Its own runtime, so that it can die like a process: from one moment to the next and without a goodbye.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (send, receive) = tokio::sync::oneshot::channel();
    runtime.spawn(async move {
        let mut a = node(1, AddressFilter::allow_all());
        let address = listen(&mut a.swarm, "/ip4/127.0.0.1/udp/0/quic-v1").await;
        send.send((a.peer, address, a.reader, a.socket)).unwrap();
        run(a.swarm).await.unwrap();
    });
    let (peer, address, reader, socket) = receive.await.unwrap();
    let mut b = node(2, AddressFilter::allow_all());
    b.swarm.dial(address.with(Protocol::P2p(peer))).unwrap();
    until(&mut b.swarm, rtt).await;

    let port = socket.port();
    reader.stop().unwrap();
    drop(socket);
    runtime.shutdown_background();
    let mut again = SharedSocket::bind_port(port);
    let start = Instant::now();
    while again.is_err() {
        assert!(start.elapsed() < DEADLINE, "the port stays taken");
        tokio::task::yield_now().await;
        again = SharedSocket::bind_port(port);
    }
    let again = again.unwrap();
    let _reader = again.spawn_reader(crate::util::Inbox::default()).unwrap();
    let _transport = QuicTransport::new(again, &crate::util::keypair(1)).unwrap();

    let start = Instant::now();
    until(&mut b.swarm, |event| {
        matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(())
    })
    .await;
    // Without the reset it would be the idle timeout of 30 s.
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_shutdown_tells_the_peers() {
    let (mut a, mut b) = connected("/ip4/127.0.0.1/udp/0/quic-v1").await;
    both_connected(&mut a, &mut b).await;
    let closed = tokio::spawn(async move {
        until(&mut a.swarm, |event| {
            matches!(event, SwarmEvent::ConnectionClosed { .. }).then_some(())
        })
        .await;
    });
    let start = Instant::now();
    shutdown(b.swarm, Duration::from_secs(5)).await;
    closed.await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn two_sides_that_dial_at_once_meet() {
    let open = |seed| {
        let socket = SharedSocket::bind_port(0).unwrap();
        let reader = socket.spawn_reader(crate::util::Inbox::default()).unwrap();
        let transport = QuicTransport::new(socket.clone(), &crate::util::keypair(seed)).unwrap();
        (socket, reader, transport)
    };
    let (sa, _ra, mut ta) = open(1);
    let (sb, _rb, mut tb) = open(2);
    let at =
        |socket: &SharedSocket| kanpachi_transport::quic::address::to_multiaddr(loopback(socket));
    let opts = |role| DialOpts {
        role,
        port_use: PortUse::New,
    };
    let dial_a = ta.dial(at(&sb), opts(Endpoint::Dialer)).unwrap();
    let dial_b = tb.dial(at(&sa), opts(Endpoint::Listener)).unwrap();
    let drive = |mut transport: QuicTransport| async move {
        loop {
            let event =
                futures::future::poll_fn(|cx| std::pin::Pin::new(&mut transport).poll(cx)).await;
            if let TransportEvent::Incoming { upgrade, .. } = event {
                tokio::spawn(upgrade);
            }
        }
    };
    let (da, db) = (tokio::spawn(drive(ta)), tokio::spawn(drive(tb)));
    let (a, b) = tokio::time::timeout(DEADLINE, futures::future::join(dial_a, dial_b))
        .await
        .unwrap();
    assert_eq!(a.unwrap().0, crate::util::keypair(2).public().to_peer_id());
    assert_eq!(b.unwrap().0, crate::util::keypair(1).public().to_peer_id());
    da.abort();
    db.abort();
}

#[tokio::test]
async fn a_taken_tcp_port_is_named_as_such() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().unwrap().port());
    let mut a = node(1, AddressFilter::allow_all());
    let error = kanpachi_transport::swarm::listen(&mut a.swarm, addr.parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error:?}");
    let other = format!(
        "/ip4/127.0.0.1/udp/{}/quic-v1",
        a.socket.port().wrapping_add(1).max(1)
    );
    let error =
        kanpachi_transport::swarm::listen(&mut a.swarm, other.parse().unwrap()).unwrap_err();
    assert_eq!(
        error.kind(),
        std::io::ErrorKind::AddrNotAvailable,
        "{error}"
    );
}
