//! The Linux platform against the real kernel, each test in a network namespace of its own.
//!
//! These need CAP_NET_ADMIN, CAP_SYS_ADMIN (to make the namespace) and `/dev/net/tun`; without them they fail with one
//! line that says so.

#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod platform_lab;

use std::io;
use std::net::UdpSocket;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use kanpachi_node::platform::linux::Linux;
use kanpachi_node::platform::{
    Adapter, AdapterConfig, Exclude, PacketReader, PacketWriter, Platform, PlatformError,
    Readiness, is_on_link, range_around,
};
use nix::sys::socket::{setsockopt, sockopt};
use platform_lab::{
    DEADLINE, NAME, OUR4, OUR6, PEER4, PEER6, adapter, bound, config, eventually, has_payload,
    in_namespace, ip, link_exists, next_packet, rerun, udp_packet,
};

#[test]
fn lab_adapter_comes_up_with_both_addresses_and_no_route_beyond_them() {
    in_namespace(|| async {
        let adapter = adapter().await;
        assert_eq!((adapter.name(), adapter.mtu()), (NAME, 1400));
        assert_eq!(
            (adapter.ipv4(), adapter.ipv6()),
            (Some((OUR4, 16)), Some((OUR6, 48)))
        );

        let link = ip(&format!("link show dev {NAME}"));
        assert!(
            link.contains("mtu 1400") && link.contains("MULTICAST") && link.contains("UP"),
            "{link}"
        );
        let v4 = ip(&format!("-4 addr show dev {NAME}"));
        assert!(v4.contains("inet 198.19.3.4/16 brd 198.19.255.255"), "{v4}");
        let v6 = ip(&format!("-6 addr show dev {NAME}"));
        assert!(
            v6.contains(&format!("inet6 {OUR6}/48")) && !v6.contains("tentative"),
            "{v6}"
        );
        assert!(!v6.contains("fe80"), "{v6}");
        assert_eq!(
            ip("-4 route show").lines().count(),
            1,
            "{}",
            ip("-4 route show")
        );
        assert_eq!(
            ip("-6 route show").lines().count(),
            1,
            "{}",
            ip("-6 route show")
        );
    });
}

#[test]
fn lab_packets_cross_between_adapter_and_sockets() {
    in_namespace(|| async {
        let adapter = adapter().await;
        let (mut reader, writer) = (adapter.reader(), adapter.writer());
        for (ours, peer) in [
            (IpAddr::V4(OUR4), IpAddr::V4(PEER4)),
            (IpAddr::V6(OUR6), IpAddr::V6(PEER6)),
        ] {
            let socket = bound(ours);
            let local = socket.local_addr().unwrap();
            let remote = SocketAddr::new(peer, 7777);
            socket.send_to(b"question", remote).unwrap();
            let packet = next_packet(&mut reader, DEADLINE, has_payload(b"question"))
                .expect("the packet is read");
            // The kernel's packet is ours bit by bit, but for identification, flow label and checksums.
            let expected = udp_packet(local, remote, b"question");
            assert_eq!(packet.len(), expected.len());
            assert_eq!(
                packet[packet.len() - 16..packet.len() - 10],
                expected[expected.len() - 16..expected.len() - 10]
            );

            writer.write(&udp_packet(remote, local, b"answer")).unwrap();
            let mut buffer = [0u8; 64];
            let (len, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!((&buffer[..len], from), (&b"answer"[..], remote));
        }
    });
}

#[test]
fn lab_reader_and_writers_work_from_different_threads_at_once() {
    in_namespace(|| async {
        const EACH: usize = 2000;
        let adapter = adapter().await;
        let socket = bound(OUR4);
        let local = socket.local_addr().unwrap();
        let remote = SocketAddr::new(IpAddr::V4(PEER4), 7777);
        let (mut reader, writer) = (adapter.reader(), adapter.writer());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..EACH {
                    writer
                        .clone()
                        .write(&udp_packet(remote, local, b"inward"))
                        .unwrap();
                }
            });
            scope.spawn(|| {
                for _ in 0..EACH {
                    socket.send_to(b"outward!", remote).unwrap();
                }
            });
            // The interface queue holds 500, so not all may come; what comes is whole.
            let mut whole = 0;
            while next_packet(
                &mut reader,
                Duration::from_millis(300),
                has_payload(b"outward!"),
            )
            .is_some()
            {
                whole += 1;
            }
            assert!(whole > 0 && whole <= EACH, "{whole}");
        });
        let mut buffer = [0u8; 64];
        let (len, _) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"inward");
    });
}

#[test]
fn lab_broadcast_and_multicast_leave_by_the_adapter_when_it_is_named() {
    in_namespace(|| async {
        let adapter = adapter().await;
        let mut reader = adapter.reader();
        let any = bound(Ipv4Addr::UNSPECIFIED);
        let ours = bound(OUR4);
        let ours6 = bound(OUR6);
        setsockopt(&ours6, sockopt::Ipv6MulticastHops, &4).unwrap();
        let cases: [(&UdpSocket, &str, &'static [u8]); 5] = [
            (&any, "198.19.255.255:9999", b"subnet"),
            (&ours, "255.255.255.255:9999", b"limited."),
            (&ours, "239.1.2.3:9999", b"group4"),
            (&ours, "224.0.0.251:5353", b"mdns"),
            (&ours6, "[ff15::77]:9999", b"group6"),
        ];
        for (socket, destination, payload) in cases {
            socket
                .send_to(payload, destination)
                .unwrap_or_else(|error| panic!("{destination}: {error}"));
            let packet = next_packet(&mut reader, DEADLINE, has_payload(payload));
            assert!(
                packet.is_some(),
                "{destination} did not come out of the adapter"
            );
        }
    });
}

#[test]
fn lab_broadcast_and_multicast_reach_the_programs() {
    in_namespace(|| async {
        let adapter = adapter().await;
        let writer = adapter.writer();
        let socket = bound(Ipv4Addr::UNSPECIFIED);
        let group = Ipv4Addr::new(239, 1, 2, 3);
        socket.join_multicast_v4(&group, &OUR4).unwrap();
        let port = socket.local_addr().unwrap().port();
        let from = SocketAddr::new(IpAddr::V4(PEER4), 4000);
        let mut buffer = [0u8; 64];
        for to in [Ipv4Addr::new(198, 19, 255, 255), Ipv4Addr::BROADCAST, group] {
            writer
                .write(&udp_packet(
                    from,
                    SocketAddr::new(IpAddr::V4(to), port),
                    b"hello!",
                ))
                .unwrap();
            let (len, source) = socket
                .recv_from(&mut buffer)
                .unwrap_or_else(|error| panic!("{to}: {error}"));
            assert_eq!((&buffer[..len], source), (&b"hello!"[..], from));
        }
        let socket = bound(Ipv6Addr::UNSPECIFIED);
        let index = nix::net::if_::if_nametoindex(NAME).unwrap();
        let group: Ipv6Addr = "ff15::77".parse().unwrap();
        socket.join_multicast_v6(&group, index).unwrap();
        let to = SocketAddr::new(IpAddr::V6(group), socket.local_addr().unwrap().port());
        writer
            .write(&udp_packet(
                SocketAddr::new(IpAddr::V6(PEER6), 4000),
                to,
                b"hello!",
            ))
            .unwrap();
        let (len, _) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], b"hello!");
    });
}

#[test]
fn lab_the_machines_own_multicast_stays_where_it_was() {
    in_namespace(|| async {
        ip("link add house0 type veth peer name house1");
        ip("addr add 192.0.2.1/24 dev house0");
        ip("addr add 2001:db8::1/64 dev house0 nodad");
        // Only one end is a machine; the other would otherwise offer its own way to IPv6 groups.
        std::fs::write("/proc/sys/net/ipv6/conf/house1/disable_ipv6", "1").unwrap();
        ip("link set house1 up");
        let adapter = adapter().await;
        // The kernel notices the carrier, and thus the other interface's groups, after ours: the harder case.
        ip("link set house0 up");
        eventually("the other interface carries groups", || {
            ip("-6 route show table local").contains("ff00::/8 dev house0")
        });
        ip("route add default via 192.0.2.254");
        let mut reader = adapter.reader();
        bound(Ipv4Addr::UNSPECIFIED)
            .send_to(b"group4", "239.1.2.3:9999")
            .unwrap();
        bound(Ipv4Addr::UNSPECIFIED)
            .send_to(b"everyone", "255.255.255.255:9999")
            .unwrap();
        bound(Ipv6Addr::UNSPECIFIED)
            .send_to(b"group6", "[ff15::77]:9999")
            .unwrap();
        // What would come out comes before this one does.
        bound(OUR4)
            .send_to(b"marker", SocketAddr::new(IpAddr::V4(PEER4), 1))
            .unwrap();
        let first = next_packet(&mut reader, DEADLINE, |packet| {
            [&b"group4"[..], b"everyone", b"group6", b"marker"]
                .iter()
                .any(|end| packet.ends_with(end))
        });
        assert!(first.unwrap().ends_with(b"marker"));
    });
}

#[test]
fn lab_drop_ends_readers_and_removes_the_interface() {
    in_namespace(|| async {
        let adapter = adapter().await;
        let mut reader = adapter.reader();
        let thread = std::thread::spawn(move || {
            let mut buffer = [0u8; 2048];
            loop {
                match reader.wait(None)? {
                    Readiness::Closed => return io::Result::Ok(()),
                    Readiness::Readable | Readiness::TimedOut => {
                        while reader.read(&mut buffer)?.is_some() {}
                    }
                }
            }
        });
        drop(adapter);
        thread.join().unwrap().unwrap();
        eventually("the interface is gone", || !link_exists(NAME));
        assert_eq!(ip("-4 route show"), "");
    });
}

#[test]
fn lab_close_removes_the_interface_while_halves_are_held() {
    in_namespace(|| async {
        let adapter = adapter().await;
        let (mut reader, writer) = (adapter.reader(), adapter.writer());
        adapter.close().await.unwrap();
        assert!(!link_exists(NAME));
        assert_eq!(reader.wait(None).unwrap(), Readiness::Closed);
        assert!(writer.write(&[0x45; 20]).is_err());
        // The name is free again at once.
        self::adapter().await.close().await.unwrap();
    });
}

#[test]
fn lab_a_killed_process_leaves_no_interface() {
    in_namespace(|| async {
        let mut child = rerun("child_holds_an_adapter", &[]).spawn().unwrap();
        eventually("the child has its adapter", || {
            link_exists(NAME) && ip("-4 route show").contains(NAME)
        });
        child.kill().unwrap();
        child.wait().unwrap();
        eventually("the interface is gone", || !link_exists(NAME));
        assert_eq!(ip("-4 route show"), "");
        adapter().await;
    });
}

#[test]
#[ignore = "the killed process of lab_a_killed_process_leaves_no_interface"]
fn child_holds_an_adapter() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _adapter = runtime.block_on(adapter());
    loop {
        std::thread::park();
    }
}

#[test]
fn lab_a_taken_name_is_told() {
    in_namespace(|| async {
        let _first = adapter().await;
        let error = Linux.create_adapter(&config()).await.unwrap_err();
        assert!(
            matches!(&error, PlatformError::InterfaceTaken { name } if name == NAME),
            "{error}"
        );
        assert!(error.to_string().contains("--interface"), "{error}");
        assert!(link_exists(NAME));
    });
}

#[test]
fn lab_two_nodes_share_a_machine() {
    in_namespace(|| async {
        let _first = adapter().await;
        let other = AdapterConfig {
            name: "kplat1".into(),
            ipv4: Some((Ipv4Addr::new(198, 18, 3, 4), 16)),
            ipv6: Some(("fd65:4321:789a::5".parse().unwrap(), 48)),
            ..config()
        };
        let second = Linux.create_adapter(&other).await.unwrap();
        assert_eq!((second.ipv4(), second.ipv6()), (other.ipv4, other.ipv6));
        let routes = ip("-6 route show table local");
        let metrics: std::collections::BTreeSet<&str> = routes
            .lines()
            .filter(|line| line.contains("ff00::/8 dev kplat"))
            .filter_map(|line| line.split("metric ").nth(1)?.split(' ').next())
            .collect();
        assert_eq!(metrics.len(), 2, "{routes}");
        // Neither takes the other's addresses for ways to itself.
        let exclude = Exclude {
            interfaces: vec![NAME.into()],
            prefixes: vec![],
        };
        let watch = Linux.watch_addresses(exclude).await.unwrap();
        assert!(watch.receiver.borrow().is_empty());
        let mut others: Vec<String> = watch
            .others
            .borrow()
            .iter()
            .map(ToString::to_string)
            .collect();
        others.sort();
        assert_eq!(others, ["198.18.0.0/16", "fd65:4321:789a::/48"]);
    });
}

#[test]
fn lab_a_pool_in_use_elsewhere_leaves_ipv6() {
    in_namespace(|| async {
        ip("link add house0 type veth peer name house1");
        ip("addr add 198.19.77.1/24 dev house0");
        ip("link set house0 up");
        let adapter = Linux.create_adapter(&config()).await.unwrap();
        assert_eq!((adapter.ipv4(), adapter.ipv6()), (None, Some((OUR6, 48))));
        let [conflict] = adapter.missing() else {
            panic!("{:?}", adapter.missing())
        };
        let PlatformError::PoolInUse {
            pool, interface, ..
        } = conflict
        else {
            panic!("{conflict}")
        };
        assert_eq!(
            (pool.to_string().as_str(), interface.as_str()),
            ("198.19.0.0/16", "house0")
        );
        assert!(!ip("-4 addr show").contains("198.19.3.4"));
        adapter.close().await.unwrap();

        let only4 = AdapterConfig {
            ipv6: None,
            ..config()
        };
        let error = Linux.create_adapter(&only4).await.unwrap_err();
        assert!(matches!(error, PlatformError::PoolInUse { .. }), "{error}");
        assert!(!link_exists(NAME));
    });
}

#[test]
fn lab_disabled_ipv6_leaves_ipv4() {
    in_namespace(|| async {
        // In /proc/sys/net a thread sees its own namespace.
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let adapter = Linux.create_adapter(&config()).await.unwrap();
        assert_eq!((adapter.ipv4(), adapter.ipv6()), (Some((OUR4, 16)), None));
        assert!(
            matches!(adapter.missing(), [PlatformError::Ipv6Disabled]),
            "{:?}",
            adapter.missing()
        );
    });
}

#[test]
fn lab_without_the_capability_the_message_says_so() {
    in_namespace(|| async {
        let status = rerun(
            "child_without_capability",
            &["setpriv", "--bounding-set=-net_admin"],
        )
        .status()
        .unwrap();
        assert!(status.success());
    });
}

#[test]
#[ignore = "the unprivileged process of lab_without_the_capability_the_message_says_so"]
fn child_without_capability() {
    let error = Linux.check_adapter(NAME).unwrap_err();
    assert!(
        matches!(error, PlatformError::NoNetAdmin) && error.is_permission(),
        "{error}"
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let error = runtime
        .block_on(Linux.create_adapter(&config()))
        .unwrap_err();
    assert!(matches!(error, PlatformError::NoNetAdmin), "{error}");
}

#[test]
fn lab_own_addresses_are_listed_and_watched() {
    in_namespace(|| async {
        ip("link add house0 type veth peer name house1");
        ip("link set house1 up");
        ip("addr add 192.0.2.1/24 dev house0");
        ip("link set house0 up");
        let adapter = adapter().await;
        let exclude = Exclude {
            interfaces: vec![NAME.into()],
            prefixes: vec![
                range_around(IpAddr::V4(OUR4), 16).unwrap(),
                range_around(IpAddr::V6(OUR6), 48).unwrap(),
            ],
        };
        let listed = Linux.local_addresses(&exclude).await.unwrap();
        let [only] = &listed[..] else {
            panic!("{listed:?}")
        };
        assert_eq!(
            (only.address.to_string().as_str(), only.interface.as_str()),
            ("192.0.2.1", "house0")
        );
        assert!(is_on_link(&listed, "192.0.2.200".parse().unwrap()));
        assert!(!is_on_link(&listed, "192.0.3.1".parse().unwrap()));
        // An adapter is known for what it is without a name, too: it may be another node's.
        let all = Linux.local_addresses(&Exclude::default()).await.unwrap();
        assert_eq!(all, listed);

        let mut watch = Linux.watch_addresses(exclude).await.unwrap();
        assert_eq!(&**watch.receiver.borrow_and_update(), &listed[..]);
        assert!(*watch.network.borrow());
        for (change, count) in [
            ("addr add 2001:db8::1/64 dev house0 nodad", 2),
            ("addr add 198.19.9.9/32 dev house0", 2),
            ("addr del 192.0.2.1/24 dev house0", 1),
            ("link set house0 down", 0),
        ] {
            ip(change);
            let seen = watch.receiver.wait_for(|list| list.len() == count);
            tokio::time::timeout(DEADLINE, seen)
                .await
                .unwrap_or_else(|_| panic!("not seen: {change}"))
                .unwrap();
        }
        // An address on the loopback interface is none to be reached at, but whoever has it has a network.
        assert!(!*watch.network.borrow());
        for (change, network) in [("add", true), ("del", false)] {
            ip(&format!("addr {change} 192.0.2.7/32 dev lo"));
            let seen = watch.network.wait_for(|seen| *seen == network);
            tokio::time::timeout(DEADLINE, seen)
                .await
                .unwrap_or_else(|_| panic!("not seen: {change}"))
                .unwrap();
            assert!(watch.receiver.borrow().is_empty());
        }
        drop(adapter);
    });
}

#[test]
fn lab_peer_credentials_are_those_of_the_connecting_thread() {
    in_namespace(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        for open in [dir.path(), &path] {
            std::fs::set_permissions(open, std::fs::Permissions::from_mode(0o777)).unwrap();
        }
        let client = std::thread::spawn(move || {
            // 70 groups are more than the first guess of the implementation holds.
            let groups: Vec<libc::gid_t> = (5000..5070).collect();
            #[expect(
                unsafe_code,
                reason = "glibc's wrappers would change every thread of this process"
            )]
            // SAFETY: plain system calls; `groups` outlives the one that reads it.
            unsafe {
                assert_eq!(
                    libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()),
                    0
                );
                assert_eq!(libc::syscall(libc::SYS_setresgid, 4001, 4001, 4001), 0);
                assert_eq!(libc::syscall(libc::SYS_setresuid, 4000, 4000, 4000), 0);
            }
            std::os::unix::net::UnixStream::connect(path).unwrap()
        });
        let (stream, _) = listener.accept().await.unwrap();
        let seen = Linux.peer_credentials(&stream).unwrap();
        let _client = client.join().unwrap();
        assert_eq!((seen.uid, seen.gid, seen.groups.len()), (4000, 4001, 70));
        assert_eq!(seen.pid, nix::unistd::getpid().as_raw());
        assert!(seen.groups.contains(&5069));
    });
}
