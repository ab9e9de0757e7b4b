//! Show 6 of the paths: narrow paths, networks that drop ICMP, and ICMP that lies. Whatever the path carries, a session
//! with full-size packets, datagrams of 1300 bytes and IPv6 work.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::capture::{Capture, UDP};
use kanpachi_tests::client::Node;
use kanpachi_tests::hostile::packet::{inject, too_big};
use kanpachi_tests::lab::{Lab, Segment, run};
use kanpachi_tests::mesh::{DIRECT, FIRST_PING, Hub, Member, reach};
use kanpachi_tests::note;
use kanpachi_tests::traffic::tcp::{Payload, Transfer, transfer};
use kanpachi_tests::wait::{eventually, quietly};

/// Bytes of a session that is mostly full-size packets.
const SIZE: u64 = 8_000_000;
/// Payload of the datagrams.
const DATAGRAM: usize = 1300;
/// Tunnel datagrams that carry all that the adapter can, and what IP and UDP add to them at the least and at the most.
const FULL: u64 = 1432;
const HEADERS: (u64, u64) = (28, 48);
/// A result that close below the truth is good enough.
const GRAIN: u64 = 16;
/// The search after the tunnel is up. It takes a second; the status is asked by a new process each time.
const SEARCH: Duration = Duration::from_secs(3);
/// A path that has become narrower under a running tunnel: noticed by what does not come back, then searched.
const NOTICED: Duration = Duration::from_secs(15);

/// Two members on LANs of their own, and the hub that they joined at.
struct Narrow {
    hub: Hub,
    members: [Member; 2],
    lans: [Segment; 2],
}

impl Narrow {
    fn new(lab: &mut Lab) -> Result<Self> {
        let host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &host, &[])?;
        let mut join = |name: &str, invite: &str| {
            let lan = lab.lan(&format!("{name}-lan"))?;
            let host = lab.host(name, &lan)?;
            let member = Member::join(Node::new(lab, &host)?, invite)?;
            anyhow::Ok((member, lan))
        };
        let (alice, first) = join("alice", hub.invite()?)?;
        let (bob, second) = join("bob", &hub.node.invite("lan", &[])?)?;
        let narrow = Self {
            hub,
            members: [alice, bob],
            lans: [first, second],
        };
        narrow.wait_until_connected()?;
        Ok(narrow)
    }

    /// What the routers pass on into the LANs from now on, and so all that is between them.
    fn set(&self, mtu: u64) -> Result<()> {
        self.lans
            .iter()
            .try_for_each(|lan| lan.ns.ip(&format!("link set {} mtu {mtu}\n", lan.bridge)))
    }

    /// The routers say nothing about what they do not pass on.
    fn silence(&self) -> Result<()> {
        let rules = "icmp type destination-unreachable counter drop; icmpv6 type packet-too-big counter drop;";
        let chain =
            |hook| format!("chain {hook} {{ type filter hook {hook} priority 0; {rules} }}\n");
        self.lans.iter().try_for_each(|lan| {
            lan.ns.nft(&format!(
                "table inet black_hole {{\n{}{}}}\n",
                chain("output"),
                chain("forward")
            ))
        })
    }

    fn wait_until_connected(&self) -> Result<()> {
        let [alice, bob] = &self.members;
        for (from, to) in [(alice, bob), (bob, alice)] {
            reach(from, to, FIRST_PING)?;
            quietly(DIRECT, || {
                let path = from.node.status()?.peer(to.name())?["path"].clone();
                ensure!(path == "direct", "{path}");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Alice's daemon begins again, and with it both searches.
    fn restart(&mut self) -> Result<()> {
        self.members[0].process.kill()?;
        self.members[0].start_again()?;
        self.wait_until_connected()
    }

    /// Waits until both ends say of the path what is true of one of this MTU.
    fn wait_until_found(&self, mtu: u64, limit: Duration) -> Result<()> {
        let most = FULL.min(mtu - HEADERS.0);
        let least = FULL.min(mtu - HEADERS.1 - GRAIN);
        let [alice, bob] = &self.members;
        for (from, to) in [(alice, bob), (bob, alice)] {
            let what = format!("{} knows that the path MTU is {mtu}", from.name());
            let found = eventually(limit, &what, || {
                let found = path_mtu(from, to)?;
                ensure!((least..=most).contains(&found), "{found}");
                Ok(found)
            })?;
            note(format_args!("{}: datagrams of {found} bytes", from.name()));
        }
        Ok(())
    }

    /// Sessions and datagrams of both families, both ways.
    fn all_works(&self) -> Result<()> {
        let [alice, bob] = &self.members;
        for (from, to) in [(alice, bob), (bob, alice)] {
            for address in to.overlay.addresses() {
                let what = || format!("{} to {} at {address}", from.name(), to.name());
                let payload = Payload {
                    bytes: SIZE,
                    ..Payload::default()
                };
                let report = transfer(&from.node.host.ns, (&to.node.host.ns, address), payload)
                    .with_context(what)?;
                ensure!(
                    report.longest_gap < Duration::from_secs(3),
                    "{}: {report:?}",
                    what()
                );
                for df in [Df::Kernel, Df::Never] {
                    datagrams(from, to, address, df).with_context(what)?;
                }
            }
        }
        Ok(())
    }
}

fn path_mtu(from: &Member, to: &Member) -> Result<u64> {
    let reply = from.node.json(&["peer", to.name()])?;
    reply["peer"]["path_mtu"]
        .as_u64()
        .context("no path MTU yet")
}

/// What a program asks of its own kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Df {
    /// Nothing: "don't fragment" stands in IPv4 until a smaller size is known, then the kernel fragments.
    Kernel,
    /// Never to set it, as programs on Windows do.
    Never,
}

/// Datagrams of 1300 bytes arrive unchanged. The first may be lost where the kernel has to learn the size from it.
fn datagrams(from: &Member, to: &Member, address: IpAddr, df: Df) -> Result<()> {
    let receiver = to.node.host.ns.run(|| Ok(UdpSocket::bind((address, 0))?))?;
    receiver.set_read_timeout(Some(Duration::from_millis(200)))?;
    let target = receiver.local_addr()?;
    let ns = &from.node.host.ns;
    // What this says when a socket is made is what the kernel asks of it.
    let discovery = |on| ns.sysctl("ipv4/ip_no_pmtu_disc", if on { "0" } else { "1" });
    discovery(df == Df::Kernel)?;
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let sender = ns.run(|| Ok(UdpSocket::bind((any, 0))?))?;
    discovery(true)?;
    let mut buffer = [0; 2000];
    let mut lost = 0;
    for number in 0..20_u8 {
        let datagram = [number; DATAGRAM];
        sender.send_to(&datagram, target)?;
        loop {
            match receiver.recv(&mut buffer) {
                Ok(len) if len == DATAGRAM && buffer[..len] == datagram => break,
                Ok(len) => ensure!(buffer[0] < number && len == DATAGRAM, "{len} other bytes"),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    lost += 1;
                    break;
                }
                Err(e) => return Err(e.into()),
            }
        }
    }
    let allowed = if df == Df::Never { 0 } else { 1 };
    ensure!(
        lost <= allowed,
        "{lost} of 20 datagrams of {DATAGRAM} bytes were lost ({df:?})"
    );
    Ok(())
}

#[test]
fn sessions_and_datagrams_pass_whatever_the_path_mtu() {
    run("mtu-show6", |lab| {
        let mut narrow = Narrow::new(lab)?;
        for mtu in [1500, 1492, 1400, 1300, 1280] {
            narrow.set(mtu)?;
            narrow.restart()?;
            narrow.wait_until_found(mtu, SEARCH)?;
            narrow
                .all_works()
                .with_context(|| format!("path MTU {mtu}"))?;
        }
        Ok(())
    });
}

#[test]
fn a_black_hole_is_found_from_the_start_and_under_a_running_session() {
    run("mtu-black-hole", |lab| {
        let mut narrow = Narrow::new(lab)?;
        narrow.silence()?;
        narrow.wait_until_found(1500, SEARCH)?;
        let [alice, bob] = &narrow.members;
        let address = bob.overlay.v4.into();
        let payload = Payload {
            rate: 500_000,
            ..Payload::default()
        };
        let session = Transfer::start(&alice.node.host.ns, (&bob.node.host.ns, address), payload)?;
        quietly(FIRST_PING, || {
            ensure!(session.progress() > 100_000, "{} bytes", session.progress());
            Ok(())
        })?;
        narrow.set(1300)?;
        let (start, before) = (Instant::now(), session.progress());
        eventually(
            NOTICED,
            "the session goes on over the narrower path",
            || {
                let moved = session.progress() - before;
                ensure!(moved > 1_000_000, "{moved} bytes since");
                Ok(())
            },
        )?;
        note(format_args!("1 MB more after {:?}", start.elapsed()));
        session.stop();
        session.finish()?;
        // Bob hears that alice asks about less than he believes in, and looks before he sends much.
        narrow.all_works()?;
        narrow.wait_until_found(1300, SEARCH)?;
        narrow.set(1280)?;
        narrow.restart()?;
        narrow.wait_until_found(1280, SEARCH)?;
        narrow.all_works()
    });
}

/// Anybody can send a message that says "fragmentation needed", and guess what it has to quote.
#[test]
fn forged_icmp_makes_no_datagram_smaller() {
    run("mtu-forged", |lab| {
        let narrow = Narrow::new(lab)?;
        narrow.wait_until_found(1500, SEARCH)?;
        let [alice, bob] = &narrow.members;
        let attacker = lab.public_host("mallory")?;
        let lie = || -> Result<()> {
            for (from, to) in [(alice, bob), (bob, alice)] {
                let (from, to) = (&from.node, &to.node);
                let endpoint = |host: IpAddr, node: &Node| {
                    Ok::<_, anyhow::Error>(SocketAddr::new(host, port(node)?))
                };
                for (own, other) in from.host.addresses().into_iter().zip(to.host.addresses()) {
                    let packet = too_big(endpoint(own, from)?, endpoint(other, to)?, 1280);
                    attacker.ns.run(|| inject(own, &packet))?;
                }
            }
            Ok(())
        };
        for _ in 0..50 {
            lie()?;
        }
        let capture = Capture::start(&lab.public().ns, lab.public().bridge, b"none")?;
        narrow.all_works()?;
        lie()?;
        let seen = capture.finish()?;
        for (from, to) in [(alice, bob), (bob, alice)] {
            ensure!(path_mtu(from, to)? == FULL, "{}", path_mtu(from, to)?);
        }
        let hosts = [&alice.node.host, &bob.node.host].map(|host| host.addresses());
        let both = seen.sum(|flow| {
            flow.protocol == UDP
                && hosts
                    .iter()
                    .all(|own| own.contains(&flow.from) || own.contains(&flow.to))
        });
        // Data one way and acknowledgements the other: with all data in full packets the mean is well above this.
        let mean = both.bytes / both.packets.max(1);
        note(format_args!(
            "{} packets of {mean} bytes in the mean",
            both.packets
        ));
        ensure!(mean > 700, "{mean} bytes a packet");
        drop(narrow.hub);
        Ok(())
    });
}

/// The UDP port of a node.
fn port(node: &Node) -> Result<u16> {
    let status = node.status()?;
    let listen = status.0["listen"][0].as_str().context("no socket")?;
    Ok(listen.parse::<SocketAddr>()?.port())
}
