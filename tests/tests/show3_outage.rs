//! Show 3: the coordinator is killed in the middle of a transfer between two others, which does not notice.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{DIRECT, Hub, Mesh, tunnel_state};
use kanpachi_tests::note;
use kanpachi_tests::traffic::tcp::{Payload, Transfer};
use kanpachi_tests::wait::eventually;

/// Enough to notice a pause, little enough to leave the processors to the rest.
const RATE: u64 = 20_000_000;
const NOTICED: Duration = Duration::from_secs(10);
const BACK: Duration = Duration::from_secs(15);
/// The transfer never stops for longer than this; a tunnel set up anew, or TCP that lost a window, would.
const LONGEST_GAP: Duration = Duration::from_millis(900);

#[test]
fn a_killed_host_that_was_everything_does_not_cut_a_transfer() {
    run("show3-host", |lab| outage(Mesh::three(lab, &[])?));
}

#[test]
fn a_killed_host_without_a_node_does_not_cut_a_transfer() {
    run("show3-no-node", |lab| {
        outage(Mesh::three(lab, &["--no-node"])?)
    });
}

#[test]
fn a_killed_coordinator_beside_a_bootstrap_does_not_cut_a_transfer() {
    run("show3-coordinator", |lab| {
        let (hub, _bootstrap) = Hub::start_separate(lab)?;
        outage(Mesh::around(lab, hub, |_, node| Ok(node))?)
    });
}

fn outage(mut mesh: Mesh) -> Result<()> {
    mesh.wait_until_logged_in(BACK)?;
    let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
    alice.node.wait_for_path(bob.name(), "direct", DIRECT)?;
    bob.node.wait_for_path(alice.name(), "direct", DIRECT)?;
    let before = [tunnel_state(alice, bob)?, tunnel_state(bob, alice)?];
    let payload = Payload {
        rate: RATE,
        ..Payload::default()
    };
    let transfer = Transfer::start(
        &alice.node.host.ns,
        (&bob.node.host.ns, bob.overlay.v4.into()),
        payload,
    )?;
    moves_on(&transfer, "the transfer is under way")?;

    let killed_at = jiff::Timestamp::now();
    mesh.hub.process.kill()?;
    everybody_notices(&mesh, killed_at)?;
    moves_on(&transfer, "the transfer goes on without a coordinator")?;

    let start = Instant::now();
    mesh.hub.start_again()?;
    let left = BACK.saturating_sub(start.elapsed());
    mesh.wait_until_logged_in(left)?;
    moves_on(&transfer, "the transfer goes on after the return")?;
    let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
    ensure!(
        before == [tunnel_state(alice, bob)?, tunnel_state(bob, alice)?],
        "the tunnel noticed"
    );
    transfer.stop();
    let report = transfer.finish()?;
    note(format_args!(
        "{} MB, longest gap {:?}, equal hashes",
        report.received / 1_000_000,
        report.longest_gap
    ));
    ensure!(report.sent_sha256 == report.received_sha256, "{report:?}");
    ensure!(
        report.longest_gap < LONGEST_GAP,
        "the transfer stood still for {:?}",
        report.longest_gap
    );
    mesh.wait_until_connected(DIRECT)
}

fn moves_on(transfer: &Transfer, what: &str) -> Result<()> {
    let goal = transfer.progress() + RATE;
    eventually(Duration::from_secs(10), what, || {
        ensure!(!transfer.is_finished(), "the transfer ended");
        ensure!(
            transfer.progress() >= goal,
            "{} of {goal} bytes",
            transfer.progress()
        );
        Ok(())
    })
}

/// Every member says within ten seconds that the coordinator is unreachable and since when, and goes on answering.
fn everybody_notices(mesh: &Mesh, killed_at: jiff::Timestamp) -> Result<()> {
    let start = Instant::now();
    for member in &mesh.members {
        let left = NOTICED.saturating_sub(start.elapsed());
        let status = member.node.wait_for_coordinator("unreachable", left)?;
        let since = status.0["coordinator"]["since"]
            .as_str()
            .context("no coordinator.since")?
            .to_owned();
        let since: jiff::Timestamp = since.parse()?;
        // RFC 3339 may be cut to whole seconds.
        let after_kill = since.as_second() - killed_at.as_second();
        ensure!(
            (0..=20).contains(&after_kill),
            "killed at {killed_at}, unreachable since {since}"
        );
        let list = member.node.json(&["list"])?;
        ensure!(
            list["networks"][0]["members"]
                .as_array()
                .is_some_and(|members| members.len() >= 2),
            "{list}"
        );
    }
    Ok(())
}
