//! `kanpachi drill coordinator-down`: a node that cuts itself off truly does, goes on, and comes back.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::capture::Capture;
use kanpachi_tests::lab::{HOST_INTERFACE, run};
use kanpachi_tests::mesh::{DIRECT, Member, Mesh};
use kanpachi_tests::note;
use kanpachi_tests::process::Process;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::eventually;
use serde_json::Value;

/// For the node to say that the coordinator is gone, and that it is back.
const NOTICED: Duration = Duration::from_secs(10);
const BACK: Duration = Duration::from_secs(15);
/// What is watched of a drill of 15 s: pings, and the time they take.
const PINGS: u32 = 25;
const INTERVAL: f64 = 0.2;

/// The report of a drill that runs.
fn report(drill: &Process) -> Result<Value> {
    let what = "the drill reports";
    eventually(Duration::from_secs(40), what, || {
        let text = drill.stdout();
        let mut lines = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines
            .next_back()
            .filter(|line| line["event"] == "report")
            .context("no report yet")
    })
}

/// Packets that one member sends to the hub while it pings another one, which has to answer every time.
fn watch(mesh: &Mesh, from: &Member, to: &Member) -> Result<u64> {
    let host = &from.node.host;
    let capture = Capture::start(&host.ns, HOST_INTERFACE, b"")?;
    let pings = ping::series(&host.ns, to.overlay.v4.into(), PINGS, INTERVAL)?;
    let report = capture.finish()?;
    ensure!(pings.rtt_ms.len() == PINGS as usize, "{pings:?}");
    ensure!(report.packets > u64::from(PINGS), "nothing was captured");
    let hub = &mesh.hub.node.host;
    let servers = [IpAddr::from(hub.v4), IpAddr::from(hub.v6)];
    Ok(report.sum(|flow| servers.contains(&flow.to)).packets)
}

#[test]
fn a_drill_has_no_packet_for_the_coordinator_and_the_tunnels_go_on() {
    run("drill", |lab| {
        let mesh = Mesh::three(lab, &["--no-node"])?;
        let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
        alice.node.wait_for_path(bob.name(), "direct", DIRECT)?;
        let before = watch(&mesh, alice, bob)?;
        ensure!(before > 0, "nothing to cut off, or nothing was captured");
        // What the hub sends is kept from alice, who would have to answer: all that she sends is of her own accord.
        let router = &mesh.lans.first().context("no router")?.ns;
        let hub = &mesh.hub.node.host;
        router.nft(&format!(
            "table inet drill {{\nchain forward {{\ntype filter hook forward priority 0;\nip saddr {} drop\nip6 saddr {} drop\n}}\n}}\n",
            hub.v4, hub.v6
        ))?;
        let minutes = ["--json", "drill", "coordinator-down", "--minutes", "0.25"];
        let command = alice.node.command(&minutes);
        let mut drill = command.start(alice.node.logs(), "drill")?;
        drill.expect_json(Duration::from_secs(10), "event")?;
        alice.node.wait_for_coordinator("unreachable", NOTICED)?;

        let meanwhile = watch(&mesh, alice, bob)?;
        ensure!(
            drill.exited().is_none(),
            "the drill ended too early to tell"
        );
        ensure!(meanwhile == 0, "{meanwhile} packets to the coordinator");
        router.nft("delete table inet drill\n")?;
        // Nobody else has anything to do with it.
        bob.node.wait_for_coordinator("connected", NOTICED)?;

        let report = report(&drill)?;
        alice.node.wait_for_coordinator("connected", BACK)?;
        note(format_args!(
            "noticed after {} s, connected again after {} s",
            report["unreachable_after_s"], report["reconnected_after_s"]
        ));
        ensure!(report["early"] == false, "{report}");
        ensure!(report["reconnected_after_s"].is_number(), "{report}");
        ensure!(report["networks"][0]["freshness"] == "green", "{report}");
        for peer in report["peers"].as_array().context("no peers")? {
            ensure!(peer["answered"] == peer["asked"], "{peer}");
            ensure!(
                peer["found_by"].as_array().is_some_and(|by| !by.is_empty()),
                "{peer}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_drill_ends_when_its_command_is_killed() {
    run("drill-killed", |lab| {
        let mesh = Mesh::three(lab, &["--no-node"])?;
        let alice = mesh.member("alice")?;
        let hour = ["--json", "drill", "coordinator-down", "--minutes", "60"];
        let mut drill = alice
            .node
            .command(&hour)
            .start(alice.node.logs(), "drill")?;
        drill.expect_json(Duration::from_secs(10), "event")?;
        alice.node.wait_for_coordinator("unreachable", NOTICED)?;
        let second = alice.node.run(&hour)?;
        ensure!(
            second.status.code() == Some(5),
            "two drills at once: {second:?}"
        );
        drill.kill()?;
        alice.node.wait_for_coordinator("connected", BACK).map(drop)
    });
}
