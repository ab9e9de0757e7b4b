//! The shared socket by itself: batches, both address families, the reader's life.

use std::{
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use crate::util::{Inbox, eventually, loopback};
use kanpachi_transport::{DatagramHandler, Expected, SharedSocket};

fn pair() -> (SharedSocket, SharedSocket) {
    (
        SharedSocket::bind_port(0).unwrap(),
        SharedSocket::bind_port(0).unwrap(),
    )
}

#[tokio::test]
async fn a_batch_arrives_as_separate_datagrams() {
    let (sender, receiver) = pair();
    let inbox = Inbox::default();
    let _reader = receiver.spawn_reader(inbox.clone()).unwrap();
    // 100 datagrams of 1,200 bytes and a shorter last one: more than one call may take.
    let data: Vec<u8> = (0..100u8)
        .flat_map(|n| [n & 0x3f; 1200])
        .chain([0x3f; 77])
        .collect();
    sender.send(loopback(&receiver), &data, Some(1200)).unwrap();
    eventually("all datagrams", || inbox.len() == 101).await;
    let got = inbox.take();
    for (n, (from, datagram)) in got.iter().enumerate() {
        assert_eq!(*from, loopback(&sender), "canonical source");
        let expected = if n < 100 {
            vec![n as u8 & 0x3f; 1200]
        } else {
            vec![0x3f; 77]
        };
        assert_eq!(*datagram, expected, "datagram {n}");
    }
    let counters = sender.counters();
    assert_eq!(counters.sent.load(Ordering::Relaxed), 101);
    assert!(counters.batches.load(Ordering::Relaxed) <= 2);
    assert_eq!(receiver.counters().received.load(Ordering::Relaxed), 101);
}

#[tokio::test]
async fn datagrams_too_long_for_the_offload_go_singly() {
    let (sender, receiver) = pair();
    let inbox = Inbox::default();
    let _reader = receiver.spawn_reader(inbox.clone()).unwrap();
    // Two of these do not fit into one call.
    let data = vec![1; 3 * 40_000];
    sender
        .send(loopback(&receiver), &data, Some(40_000))
        .unwrap();
    eventually("all datagrams", || inbox.len() == 3).await;
    assert_eq!(sender.counters().batches.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn both_address_families_share_the_socket() {
    let (sender, receiver) = pair();
    if !receiver.local_addr().is_ipv6() {
        return;
    }
    let inbox = Inbox::default();
    let _reader = receiver.spawn_reader(inbox.clone()).unwrap();
    for ip in ["127.0.0.1", "::1"] {
        let to: SocketAddr = (ip.parse::<std::net::IpAddr>().unwrap(), receiver.port()).into();
        sender.send(to, b"\x01hello", None).unwrap();
    }
    eventually("both datagrams", || inbox.len() == 2).await;
    let sources: Vec<_> = inbox
        .take()
        .iter()
        .map(|(from, _)| from.ip().to_string())
        .collect();
    assert_eq!(sources, ["127.0.0.1", "::1"]);
}

#[tokio::test]
async fn an_ipv4_socket_refuses_ipv6_without_breaking() {
    let socket = SharedSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    assert!(
        socket
            .send("[::1]:9".parse().unwrap(), b"\x01", None)
            .is_err()
    );
    assert!(
        socket
            .send("127.0.0.1:9".parse().unwrap(), b"\x01", None)
            .is_ok()
    );
}

#[tokio::test]
async fn quic_without_an_endpoint_is_dropped_and_counted() {
    let (sender, receiver) = pair();
    let inbox = Inbox::default();
    let _reader = receiver.spawn_reader(inbox.clone()).unwrap();
    sender.send(loopback(&receiver), b"\x40quic", None).unwrap();
    sender.send(loopback(&receiver), b"", None).unwrap();
    sender.send(loopback(&receiver), b"\x01ours", None).unwrap();
    eventually("the tunnel datagram", || inbox.len() == 1).await;
    assert_eq!(receiver.counters().quic_dropped.load(Ordering::Relaxed), 1);
}

#[test]
fn a_taken_port_is_an_error() {
    let socket = SharedSocket::bind_port(0).unwrap();
    let error = SharedSocket::bind_port(socket.port()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn there_is_one_reader_and_it_stops() {
    let socket = SharedSocket::bind_port(0).unwrap();
    let reader = socket.spawn_reader(Inbox::default()).unwrap();
    let second = socket.spawn_reader(Inbox::default()).unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::AlreadyExists);
    reader.stop().unwrap();
    // The part is free again.
    drop(socket.spawn_reader(Inbox::default()).unwrap());
}

struct Panics;

impl DatagramHandler for Panics {
    fn handle(&mut self, _: SocketAddr, _: &mut [u8]) {
        panic!("on purpose");
    }
}

#[tokio::test]
async fn a_panic_of_the_handler_is_not_swallowed() {
    let (sender, receiver) = pair();
    let reader = receiver.spawn_reader(Panics).unwrap();
    sender.send(loopback(&receiver), b"\x01", None).unwrap();
    tokio::time::timeout(crate::util::DEADLINE, reader.ended())
        .await
        .expect("the thread ends");
    let panic = catch_unwind(AssertUnwindSafe(|| reader.stop())).unwrap_err();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"on purpose"));
}

/// Nobody waits for what comes here.
#[derive(Clone, Default)]
struct Resting(Arc<Mutex<Vec<(usize, Duration)>>>);

impl DatagramHandler for Resting {
    fn handle(&mut self, _: SocketAddr, _: &mut [u8]) {
        self.0.lock().unwrap().last_mut().unwrap().0 += 1;
    }

    fn expects(&mut self) -> Expected {
        Expected::AtRest
    }

    fn held(&mut self, at_most: Duration) {
        self.0.lock().unwrap().push((0, at_most));
    }
}

#[tokio::test]
async fn a_handler_at_rest_is_not_woken_for_each_datagram_and_told_how_late_it_is() {
    let (sender, receiver) = pair();
    let handler = Resting::default();
    handler.0.lock().unwrap().push((0, Duration::ZERO));
    let reader = receiver.spawn_reader(handler.clone()).unwrap();
    let reads = || {
        let reads = handler.0.lock().unwrap();
        let reads = reads.iter().filter(|(datagrams, _)| *datagrams > 0);
        reads.copied().collect::<Vec<_>>()
    };
    let send = || sender.send(loopback(&receiver), b"\x01", None).unwrap();
    send();
    eventually("the first read", || !reads().is_empty()).await;
    // The first came to a thread that waited for it.
    assert_eq!(reads()[0].1, Duration::ZERO, "{:?}", reads());
    eventually("a read after a nap", || {
        send();
        let mut late = reads().into_iter().map(|(_, held)| held);
        late.any(|held| held >= Duration::from_millis(9))
    })
    .await;
    reader.stop().unwrap();
}

#[test]
fn a_full_buffer_is_reported_and_empties() {
    let (sender, receiver) = pair();
    // Nobody reads at the other end, but loopback delivers at once, so the sender's buffer does not fill.
    let data = vec![1; 64 * 1000];
    for _ in 0..200 {
        match sender.send(loopback(&receiver), &data, Some(1000)) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                assert!(sender.wait_writable(Duration::from_secs(5)).unwrap());
            }
            Err(e) => panic!("{e}"),
        }
    }
    assert!(sender.wait_writable(Duration::from_secs(5)).unwrap());
}

/// Runs the work in a network namespace of its own whose loopback has this MTU; without the right to make one it
/// is passed over.
fn with_mtu(mtu: u16, work: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
            return;
        }
        let up = std::process::Command::new("ip")
            .args(["link", "set", "lo", "mtu", &mtu.to_string(), "up"])
            .status();
        assert!(up.unwrap().success());
        work();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_route_that_refuses_batches_costs_no_other_route_its_batches() {
    with_mtu(1300, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, receiver) = pair();
            let inbox = Inbox::default();
            let _reader = receiver.spawn_reader(inbox.clone()).unwrap();
            let here = loopback(&receiver);
            // Four datagrams that do not fit the route and a last one that does.
            let data = vec![1; 4 * 1400 + 500];
            let error = sender.send(here, &data, Some(1400)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EMSGSIZE));
            eventually("the short one", || inbox.len() == 1).await;
            assert_eq!(inbox.take()[0].1.len(), 500);
            let counters = sender.counters();
            assert_eq!(counters.gso_refused.load(Ordering::Relaxed), 1);
            assert_eq!(counters.send_errors.load(Ordering::Relaxed), 4);

            // The same destination goes one by one for a while, another one in batches at once.
            let fits = vec![1; 10 * 1200];
            sender.send(here, &fits, Some(1200)).unwrap();
            eventually("ten datagrams", || inbox.len() == 10).await;
            assert_eq!(counters.batches.load(Ordering::Relaxed), 0);
            let other = ([127, 0, 0, 2], receiver.port()).into();
            sender.send(other, &fits, Some(1200)).unwrap();
            eventually("twenty datagrams", || inbox.len() == 20).await;
            assert_eq!(counters.batches.load(Ordering::Relaxed), 1);
        });
    });
}
