//! Show 1: three nodes on different subnets join by invite and have a private network.

use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::capture::{Capture, Report, TCP, UDP};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{HOST_INTERFACE, Host, run};
use kanpachi_tests::mesh::{DIRECT, FIRST_PING, Hub, Member, Mesh, reach};
use kanpachi_tests::note;
use kanpachi_tests::traffic::tcp::{Payload, transfer};
use kanpachi_tests::wait::{eventually, scaled};

const CANARY: &[u8] = b"THIS-LINE-MUST-NEVER-BE-SEEN-ON-THE-WIRE";
const SIZE: u64 = 200_000_000;

#[test]
fn three_nodes_join_ping_and_move_files_directly_and_unseen() {
    run("show1", |lab| {
        let mesh = Mesh::three(lab, &["--no-node"])?;
        for (from, to) in mesh.pairs() {
            from.node.wait_for_path(to.name(), "direct", DIRECT)?;
        }
        let hub = &mesh.hub.node.host;
        let hub_before = hub_bytes(hub)?;
        let capture = Capture::start(&lab.public().ns, lab.public().bridge, CANARY)?;
        let mut moved = 0;
        for (number, (from, to)) in unordered_pairs(&mesh).enumerate() {
            // Both families get their turn.
            let address = to.overlay.addresses()[number % 2];
            moved += move_file(from, to, address)?;
        }
        let seen = capture.finish()?;
        for (from, to) in unordered_pairs(&mesh) {
            let udp = between(&seen, UDP, &from.node.host, &to.node.host);
            ensure!(
                udp > SIZE,
                "{} and {} exchanged {udp} bytes of UDP",
                from.name(),
                to.name()
            );
            let tcp = between(&seen, TCP, &from.node.host, &to.node.host);
            // libp2p may greet over TCP as well; what people move never takes that way.
            ensure!(
                tcp < SIZE / 1000,
                "{} and {} exchanged {tcp} bytes of TCP",
                from.name(),
                to.name()
            );
        }
        ensure!(
            seen.with_canary == 0,
            "{} packets show the canary",
            seen.with_canary
        );
        ensure!(
            seen.dropped * 20 < seen.packets,
            "the capture missed {} packets",
            seen.dropped
        );
        let hub_carried = hub_bytes(hub)? - hub_before;
        ensure!(
            hub_carried * 100 < moved,
            "the coordinator's interface carried {hub_carried} bytes"
        );
        note(format_args!(
            "moved {moved} bytes; the coordinator's interface carried {hub_carried}"
        ));
        the_capture_would_have_seen_it(
            &mesh,
            &Capture::start(&lab.public().ns, lab.public().bridge, CANARY)?,
        )
    });
}

#[test]
fn the_first_ping_comes_back_soon_after_joining() {
    run("show1-first-ping", |lab| {
        let hub_host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &hub_host, &[])?;
        let lan = lab.lan("alice-lan")?;
        let alice_host = lab.host("alice", &lan)?;
        let alice = Node::new(lab, &alice_host)?;
        let start = Instant::now();
        let alice = Member::join(alice, hub.invite()?)?;
        let hub = Member {
            overlay: hub.node.overlay()?,
            node: hub.node,
            process: hub.process,
        };
        reach(&alice, &hub, FIRST_PING)?;
        let took = start.elapsed();
        ensure!(
            took < scaled(FIRST_PING),
            "the first pings were back {took:?} after the start of `join`"
        );
        note(format_args!(
            "both first pings were back {took:?} after the start of `join`"
        ));
        Ok(())
    });
}

fn unordered_pairs(mesh: &Mesh) -> impl Iterator<Item = (&Member, &Member)> {
    mesh.pairs().filter(|(from, to)| from.name() < to.name())
}

fn move_file(from: &Member, to: &Member, address: IpAddr) -> Result<u64> {
    let payload = Payload {
        bytes: SIZE,
        canary: CANARY.to_vec(),
        ..Payload::default()
    };
    let report = transfer(&from.node.host.ns, (&to.node.host.ns, address), payload)
        .with_context(|| format!("{} to {} at {address}", from.name(), to.name()))?;
    ensure!(
        report.received == SIZE && report.sent_sha256 == report.received_sha256,
        "{report:?}"
    );
    note(format_args!(
        "{} to {} at {address}: {:.0} Mbit/s",
        from.name(),
        to.name(),
        report.mbit_per_second()
    ));
    Ok(report.received)
}

/// Bytes of one protocol between two hosts, over both families of the underlay.
fn between(seen: &Report, protocol: u8, one: &Host, other: &Host) -> u64 {
    let [one4, one6] = one.addresses();
    let [other4, other6] = other.addresses();
    seen.between(protocol, one4, other4).bytes + seen.between(protocol, one6, other6).bytes
}

fn hub_bytes(hub: &Host) -> Result<u64> {
    let (received, sent) = hub.ns.interface_bytes(HOST_INTERFACE)?;
    Ok(received + sent)
}

/// The same payload outside the tunnel is found: so not finding it meant something.
fn the_capture_would_have_seen_it(mesh: &Mesh, capture: &Capture) -> Result<()> {
    let (alice, bob) = (
        &mesh.member("alice")?.node.host,
        &mesh.member("bob")?.node.host,
    );
    let payload = Payload {
        bytes: 1_000_000,
        canary: CANARY.to_vec(),
        ..Payload::default()
    };
    transfer(&alice.ns, (&bob.ns, bob.v4.into()), payload)?;
    eventually(
        FIRST_PING,
        "the capture sees the canary in plain TCP",
        || {
            ensure!(capture.report().with_canary > 0, "not yet");
            Ok(())
        },
    )
}
