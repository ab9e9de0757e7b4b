//! Recovery: a coordinator comes back from a backup that has forgotten a member and an eviction.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{Lab, run};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, Mesh, NETWORK, reach};
use kanpachi_tests::note;
use kanpachi_tests::process::{OnHost, binary};
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::eventually;

const STOP: Duration = Duration::from_secs(10);
const BACK: Duration = Duration::from_secs(20);
/// From the first member that logs in to the recovery, and from the eviction to its end.
const SOON: Duration = Duration::from_secs(20);
/// Where epochs go on after a recovery.
const JUMP: u64 = 1 << 32;
const WORDS: &str = "this coordinator is older than its members";

#[test]
fn a_host_restored_as_a_whole_learns_from_its_members_what_it_forgot() {
    run("recovery-host", |lab| {
        let mesh = Mesh::three(lab, &["--no-node"])?;
        forgotten(lab, mesh, |hub| {
            hub.start_anew(&["--recover"])?;
            hub.ready = hub.process.expect_json(BACK, "invite")?;
            Ok(())
        })
    });
}

#[test]
fn a_coordinator_whose_database_is_old_is_told_by_the_mirror_and_shown_by_members() {
    run("recovery-coordinator", |lab| {
        let (hub, _bootstrap) = Hub::start_separate(lab)?;
        let mesh = Mesh::around(lab, hub, |_, node| Ok(node))?;
        forgotten(lab, mesh, |hub| {
            let recover = OnHost::new(&hub.node.host, &binary("kanpachi-coordinator")?)
                .args(["recover", "--json", "--yes", "--state-dir"])
                .args([hub.coordinator_dir()]);
            let ended = recover.output("")?.json()?;
            note(format_args!("recover says {ended}"));
            ensure!(ended["networks"] == 1, "{ended}");
            hub.start_again()
        })
    });
}

fn forgotten(
    lab: &mut Lab,
    mut mesh: Mesh,
    end_recovery: impl FnOnce(&mut Hub) -> Result<()>,
) -> Result<()> {
    let carols = mesh
        .member("alice")?
        .node
        .invite(NETWORK, &["--uses", "5"])?;
    let backup = lab.directory().join("backup");
    mesh.hub.process.terminate(STOP)?;
    mesh.hub.back_up(&backup)?;
    mesh.hub.start_again()?;
    mesh.wait_until_logged_in(BACK)?;

    // What the backup does not know: dora is in, carol is out.
    let host = lab.public_host("dora")?;
    mesh.add(Node::new(lab, &host)?)?;
    mesh.member("alice")?
        .node
        .json(&["evict", NETWORK, "carol"])?;
    let newest = everybody_is_past(&mesh, 0)?;

    mesh.hub.process.kill()?;
    mesh.hub.restore(&backup)?;
    mesh.hub.start_anew(&[])?;
    eventually(BACK, "the coordinator says that it is older", || {
        let log = mesh.hub.process.stderr();
        ensure!(
            log.contains(WORDS) || log.contains("a mirror shows epoch"),
            "{log}"
        );
        Ok(())
    })?;
    in_recovery(&mesh, newest)?;

    mesh.hub.process.terminate(STOP)?;
    end_recovery(&mut mesh.hub)?;
    mesh.wait_until_logged_in(BACK)?;
    let after = everybody_is_past(&mesh, JUMP)?;
    note(format_args!("epoch {newest}, {after} after the recovery"));
    let host = lab.public_host("erin")?;
    mesh.add(Node::new(lab, &host)?)?;
    nobody_has_the_address_of_another(&mesh)?;
    for name in ["bob", "dora", "erin"] {
        reach(mesh.member("alice")?, mesh.member(name)?, DIRECT)?;
    }
    let carol = mesh.member("carol")?;
    let refused = carol.node.run(&["join", &carols])?;
    ensure!(
        refused.status.code() == Some(5),
        "carol came back: {refused:?}"
    );
    carol_is_out(&mesh)
}

/// Members talk, nothing is changed, and what was forgotten comes back.
fn in_recovery(mesh: &Mesh, newest: u64) -> Result<()> {
    let (alice, dora) = (mesh.member("alice")?, mesh.member("dora")?);
    alice.node.wait_for_coordinator("connected", BACK)?;
    dora.node.wait_for_coordinator("connected", BACK)?;
    eventually(SOON, "nobody is invited in recovery", || {
        let refused = alice.node.run(&["--json", "invite", NETWORK])?;
        ensure!(refused.stdout.contains("\"recovery\""), "{refused:?}");
        Ok(())
    })?;
    for (from, to) in [("alice", "bob"), ("bob", "dora"), ("dora", "alice")] {
        reach(mesh.member(from)?, mesh.member(to)?, DIRECT)?;
    }
    eventually(SOON, "carol has no network", || {
        let status = mesh.member("carol")?.node.status()?;
        ensure!(
            status.0["networks"] == serde_json::json!([]),
            "{}",
            status.0["networks"]
        );
        Ok(())
    })?;
    carol_is_out(mesh)?;
    let epoch = epoch(alice)?;
    ensure!(
        epoch == newest,
        "epoch {epoch} was signed in recovery, after {newest}"
    );
    Ok(())
}

fn carol_is_out(mesh: &Mesh) -> Result<()> {
    let carol = mesh.member("carol")?;
    for other in ["alice", "bob", "dora"] {
        let other = mesh.member(other)?;
        ensure!(
            ping::once(&carol.node.host.ns, other.overlay.v4.into()).is_err(),
            "carol reaches {}",
            other.name()
        );
        let listed = other.node.status()?.peer("carol");
        ensure!(listed.is_err(), "{} lists carol", other.name());
    }
    Ok(())
}

fn epoch(member: &Member) -> Result<u64> {
    let status = member.node.status()?;
    status.0["networks"][0]["epoch"]
        .as_u64()
        .with_context(|| format!("no epoch in {}", status.0["networks"]))
}

/// Waits until all who are in hold one roster, of an epoch above; returns its epoch.
fn everybody_is_past(mesh: &Mesh, floor: u64) -> Result<u64> {
    let mut agreed = 0;
    eventually(SOON, "everybody holds the newest roster", || {
        let epochs = ["alice", "bob", "dora"].map(|name| mesh.member(name).and_then(epoch));
        let [alice, bob, dora] = epochs;
        let (alice, bob, dora) = (alice?, bob?, dora?);
        ensure!(
            alice > floor && alice == bob && bob == dora,
            "{alice}, {bob}, {dora}"
        );
        agreed = alice;
        Ok(())
    })?;
    eventually(SOON, "carol is off the list", || carol_is_out(mesh))?;
    Ok(agreed)
}

fn nobody_has_the_address_of_another(mesh: &Mesh) -> Result<()> {
    let mut seen = std::collections::BTreeMap::new();
    // Carol, who is out, has an address of her own still, and no name.
    for member in mesh.members.iter().filter(|m| m.name() != "carol") {
        let address = member.node.overlay()?.v4;
        ensure!(
            address == member.overlay.v4,
            "{} has another address than before",
            member.name()
        );
        if let Some(other) = seen.insert(address, member.name()) {
            anyhow::bail!("{other} and {} both have {address}", member.name());
        }
    }
    Ok(())
}
