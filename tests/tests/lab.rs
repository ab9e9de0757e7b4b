//! The lab itself: networks carry packets, captures see them, faults happen as told, nothing is left behind.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::capture::{Capture, ICMP, TCP, UDP};
use kanpachi_tests::lab::{HOST_INTERFACE, Lab, run};
use kanpachi_tests::netns::{self, Netns};
use kanpachi_tests::traffic::tcp::{Payload, Transfer, transfer};
use kanpachi_tests::traffic::udp::{Load, UdpFlow};
use kanpachi_tests::traffic::{cast, ping};
use kanpachi_tests::wait::eventually;
use kanpachi_tests::wire::{self, Wire};
use kanpachi_tests::{loss, sweep};

const CANARY: &[u8] = b"THE-YELLOWTAIL-SWIMS-AT-NIGHT";

#[test]
fn hosts_reach_each_other_across_routers() {
    run("routers", |lab| {
        let (east, west) = (lab.lan("east")?, lab.lan("west")?);
        let (alice, bob) = (lab.host("alice", &east)?, lab.host("bob", &west)?);
        let carol = lab.public_host("carol")?;
        for (from, to) in [
            (&alice, &bob),
            (&bob, &alice),
            (&carol, &alice),
            (&bob, &carol),
        ] {
            for address in to.addresses() {
                ping::once(&from.ns, address)
                    .with_context(|| format!("{} to {}", from.name, to.name))?;
            }
        }
        Ok(())
    });
}

#[test]
fn a_capture_counts_each_packet_once_and_finds_the_canary() {
    run("capture", |lab| {
        let (east, west) = (lab.lan("east")?, lab.lan("west")?);
        let (alice, bob) = (lab.host("alice", &east)?, lab.host("bob", &west)?);
        let capture = Capture::start(&lab.public().ns, lab.public().bridge, CANARY)?;
        let payload = Payload {
            bytes: 5_000_000,
            canary: CANARY.to_vec(),
            ..Payload::default()
        };
        let report = transfer(&alice.ns, (&bob.ns, bob.v6.into()), payload)?;
        let pings = ping::series(&alice.ns, bob.v4.into(), 5, 0.01)?;
        let seen = capture.finish()?;
        ensure!(
            report.received == 5_000_000 && report.sent_sha256 == report.received_sha256,
            "{report:?}"
        );
        let tcp = seen.between(TCP, alice.v6.into(), bob.v6.into());
        ensure!((5_000_000..6_000_000).contains(&tcp.bytes), "{tcp:?}");
        ensure!(
            tcp.with_canary > 0 && seen.dropped == 0,
            "{tcp:?}, {} dropped",
            seen.dropped
        );
        let echoes = seen.between(ICMP, alice.v4.into(), bob.v4.into());
        ensure!(
            echoes.packets == 10 && echoes.with_canary == 0 && pings.rtt_ms.len() == 5,
            "{echoes:?}"
        );
        Ok(())
    });
}

#[test]
fn a_loss_rule_loses_about_that_much() {
    run("loss", |lab| {
        let east = lab.lan("east")?;
        let (alice, carol) = (lab.host("alice", &east)?, lab.public_host("carol")?);
        let measure = || -> Result<f64> {
            let flow = UdpFlow::start(
                &alice.ns,
                (&carol.ns, carol.v4.into()),
                Load {
                    packets_per_second: 4000,
                    size: 200,
                },
            )?;
            eventually(Duration::from_secs(20), "3000 packets arrive", || {
                ensure!(flow.arrived() >= 3000, "{}", flow.arrived());
                Ok(())
            })?;
            let report = flow.finish()?;
            ensure!(report.altered == 0 && report.duplicates == 0, "{report:?}");
            Ok(report.loss_percent())
        };
        loss::lose(&east, 10)?;
        let lossy = measure()?;
        loss::lose(&east, 0)?;
        let healed = measure()?;
        ensure!(
            (6.0..14.0).contains(&lossy) && healed < 0.5,
            "{lossy} %, healed {healed} %"
        );
        loss::block(&east, "udp dport != 0")?;
        ensure!(
            ping::once(&alice.ns, carol.v4.into()).is_ok(),
            "only UDP is blocked"
        );
        loss::cut_off(&alice.ns)?;
        ensure!(
            ping::once(&alice.ns, carol.v4.into()).is_err(),
            "alice is cut off"
        );
        loss::restore(&alice.ns)?;
        ensure!(
            ping::once(&alice.ns, carol.v4.into()).is_ok(),
            "alice is back"
        );
        Ok(())
    });
}

#[test]
fn a_wire_delays_reorders_loses_and_duplicates() {
    run("wire", |lab| {
        let east = lab.lan("east")?;
        let settings = wire::Settings {
            delay: Duration::from_millis(5),
            reorder_percent: 5.0,
            reorder_by: Duration::from_millis(8),
            loss_percent: 5.0,
            duplicate_percent: 5.0,
            seed: 42,
            ..wire::Settings::default()
        };
        let (alice, wire) = lab.host_by_wire("alice", &east, wire::Settings::default())?;
        let carol = lab.public_host("carol")?;
        let tcp = transfer(
            &alice.ns,
            (&carol.ns, carol.v4.into()),
            Payload {
                bytes: 20_000_000,
                ..Payload::default()
            },
        )?;
        ensure!(tcp.received == 20_000_000, "{tcp:?}");
        let good = ping::series(&alice.ns, carol.v6.into(), 10, 0.01)?;
        wire.set(settings);
        let bad = ping::series(&alice.ns, carol.v6.into(), 100, 0.01)?;
        let (good, bad) = (
            good.percentile(50.0).context("no answer")?,
            bad.percentile(50.0).context("no answer")?,
        );
        ensure!(
            good < 5.0 && (9.0..30.0).contains(&bad),
            "round trip {good} ms, with delay {bad} ms"
        );
        let flow = UdpFlow::start(
            &alice.ns,
            (&carol.ns, carol.v6.into()),
            Load {
                packets_per_second: 2000,
                size: 400,
            },
        )?;
        eventually(Duration::from_secs(20), "3000 packets arrive", || {
            ensure!(flow.arrived() >= 3000, "{}", flow.arrived());
            Ok(())
        })?;
        let report = flow.finish()?;
        ensure!(
            report.reordered > 50 && report.duplicates > 50 && report.altered == 0,
            "{report:?}"
        );
        ensure!((2.0..8.0).contains(&report.loss_percent()), "{report:?}");
        let overflowed = wire.counters().overflowed.load(Ordering::Relaxed);
        ensure!(
            overflowed < 10 && wire.counters().lost.load(Ordering::Relaxed) > 50,
            "{:?}",
            wire.counters()
        );
        Ok(())
    });
}

/// Two wires with equal seeds treat the same frames the same way.
#[test]
fn a_wire_repeats_with_its_seed() {
    run("seeded-wire", |_| {
        let losses = || -> Result<u64> {
            let (one, other) = (
                Netns::create(&sweep::owned_name("one"))?,
                Netns::create(&sweep::owned_name("other"))?,
            );
            for ns in [&one, &other] {
                // Quiet devices: only the test's own packets are on the wire.
                ns.sysctl("ipv6/conf/default/disable_ipv6", "1")?;
            }
            let wire = Wire::new(
                (&one, "a"),
                (&other, "b"),
                wire::Settings {
                    loss_percent: 30.0,
                    seed: 5,
                    ..Default::default()
                },
            )?;
            one.ip("address add 10.9.8.1/24 dev a\nlink set dev a up\n")?;
            other.ip("link set dev b up\n")?;
            one.ip("neighbour add 10.9.8.2 lladdr 02:00:00:00:00:02 dev a\n")?;
            one.run(|| {
                let socket = std::net::UdpSocket::bind("10.9.8.1:0")?;
                (0..500).try_for_each(|_| socket.send_to(b"x", "10.9.8.2:9").map(drop))?;
                Ok(())
            })?;
            let counters = wire.counters();
            eventually(Duration::from_secs(5), "500 frames met their fate", || {
                let fate = counters.lost.load(Ordering::Relaxed)
                    + counters.carried.load(Ordering::Relaxed);
                ensure!(fate == 500, "{fate}");
                Ok(counters.lost.load(Ordering::Relaxed))
            })
        };
        let (first, second) = (losses()?, losses()?);
        ensure!(
            first == second && (100..200).contains(&first),
            "{first} and {second} lost"
        );
        Ok(())
    });
}

#[test]
fn broadcast_and_multicast_are_heard_on_the_segment() {
    run("cast", |lab| {
        let (alice, bob) = (lab.public_host("alice")?, lab.public_host("bob")?);
        let broadcast = cast::Listener::broadcast(&bob.ns, 7001)?;
        let groups = [("239.1.2.3".parse()?, 7002), ("ff02::1234".parse()?, 7003)];
        for (group, port) in groups {
            let heard = cast::Listener::multicast(&bob.ns, group, port, HOST_INTERFACE, bob.v4)?;
            cast::send(&alice.ns, HOST_INTERFACE, (group, port).into(), b"group")?;
            ensure!(
                heard.until(b"group", Duration::from_secs(3))?.len() == 1,
                "{group}"
            );
        }
        cast::send(
            &alice.ns,
            HOST_INTERFACE,
            "203.0.113.255:7001".parse()?,
            b"all",
        )?;
        cast::send(&alice.ns, HOST_INTERFACE, (bob.v4, 7001).into(), b"end")?;
        let heard = broadcast.until(b"end", Duration::from_secs(3))?;
        ensure!(
            heard
                .iter()
                .map(|(data, _)| data.as_slice())
                .eq([b"all", b"end"]),
            "{heard:?}"
        );
        Ok(())
    });
}

#[test]
fn a_transfer_reports_a_reset() {
    run("reset", |lab| {
        let (alice, bob) = (lab.public_host("alice")?, lab.public_host("bob")?);
        let flow = Transfer::start(
            &alice.ns,
            (&bob.ns, bob.v4.into()),
            Payload {
                rate: 1_000_000,
                ..Payload::default()
            },
        )?;
        eventually(Duration::from_secs(5), "the transfer runs", || {
            ensure!(flow.progress() > 0, "nothing yet");
            Ok(())
        })?;
        bob.ns.nft("table inet t { chain c { type filter hook input priority 0; meta l4proto tcp reject with tcp reset; }; }")?;
        let error = format!(
            "{:#}",
            flow.finish().err().context("the transfer did not notice")?
        );
        ensure!(error.contains("sender"), "{error}");
        ensure!(
            Capture::start(&bob.ns, "no-such-interface", CANARY).is_err(),
            "no such interface"
        );
        Ok(())
    });
}

#[test]
fn udp_captures_tell_directions_apart() {
    run("udp", |lab| {
        let (alice, bob) = (lab.public_host("alice")?, lab.public_host("bob")?);
        let capture = Capture::start(&alice.ns, HOST_INTERFACE, CANARY)?;
        let flow = UdpFlow::start(
            &alice.ns,
            (&bob.ns, bob.v4.into()),
            Load {
                packets_per_second: 500,
                size: 100,
            },
        )?;
        eventually(Duration::from_secs(5), "some packets arrive", || {
            ensure!(flow.arrived() > 50, "{}", flow.arrived());
            Ok(())
        })?;
        let report = flow.finish()?;
        let seen = capture.finish()?;
        let forth = seen.sum(|flow| flow.protocol == UDP && flow.from == bob.v4);
        let back = seen.sum(|flow| flow.protocol == UDP && flow.to == bob.v4);
        ensure!(
            forth.packets == 0 && back.packets == report.sent && back.bytes == report.sent * 128,
            "{forth:?} {back:?} {report:?}"
        );
        Ok(())
    });
}

/// A lab whose process was killed outright leaves namespaces, a running process and files; the next lab removes them.
#[test]
fn the_next_lab_sweeps_what_a_killed_one_left() {
    const ROLE: &str = "KANPACHI_TEST_ABANDON_A_LAB";
    if std::env::var_os(ROLE).is_some() {
        let lab = Lab::new("abandoned").unwrap();
        println!("ABANDONED {}", lab.directory().display());
        std::process::abort();
    }
    let name = "the_next_lab_sweeps_what_a_killed_one_left";
    let child = Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture"])
        .env(ROLE, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    let directory = text
        .lines()
        .find_map(|line| line.split_once("ABANDONED "))
        .map(|(_, path)| path.to_owned())
        .unwrap();
    run("sweeper", |_| {
        ensure!(
            !std::path::Path::new(&directory).exists(),
            "{directory} is still there"
        );
        let left: Vec<_> = std::fs::read_dir(netns::NETNS_DIR)?
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        let pid = directory.split('.').nth(1).context("odd name")?.to_owned();
        ensure!(
            !left.iter().any(|name| name
                .to_string_lossy()
                .starts_with(&format!("kanpachi-lab.{pid}."))),
            "{left:?}"
        );
        Ok(())
    });
}
