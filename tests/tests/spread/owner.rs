//! Show 3: an owner evicts while the coordinator is dead, and it holds when it is back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::{
    client::Node,
    lab::run,
    mesh::{Mesh, NETWORK, reach},
    note,
    wait::eventually,
};

use super::town::{OUT, SOON, STOP, epoch, four, out_of_reach, silent};

/// From the start of a coordinator that finds itself older than its members to what it signs after that.
const RECOVERED: Duration = Duration::from_secs(60);
/// What it says then, by what told it.
const SAYS_OLDER: [&str; 2] = ["this coordinator is older", "a mirror shows epoch"];

#[test]
fn an_owner_evicts_without_a_coordinator_and_its_return_changes_nothing() {
    run("spread-show3", |lab| {
        let mut mesh = four(lab)?;
        mesh.hub.process.kill()?;
        let alice = mesh.member("alice")?;
        alice.node.wait_for_coordinator("unreachable", SOON)?;
        let evicted = alice.node.json(&["evict", NETWORK, "carol"])?;
        ensure!(evicted["suspended"] == true, "{evicted}");
        let carol = mesh.member("carol")?;
        for name in ["alice", "bob", "dora"] {
            let time = silent(carol, mesh.member(name)?, OUT)?;
            note(format_args!("{name} after {:.1} s", time.as_secs_f64()));
        }
        // Neither her restart nor that of somebody who obeys brings her back.
        for at in [2, 1] {
            mesh.members[at].process.kill()?;
            mesh.members[at].start_again()?;
        }
        reach(mesh.member("bob")?, mesh.member("dora")?, SOON)?;
        out(&mesh, "after restarts")?;
        settled_by_the_coordinator(&mut mesh, &[], SOON)?;
        out(&mesh, "after the coordinator's return")
    });
}

#[test]
fn an_owner_evicts_without_a_coordinator_and_an_old_backup_changes_nothing() {
    run("spread-show3-backup", |lab| {
        let mut mesh = four(lab)?;
        let backup = lab.directory().join("backup");
        mesh.hub.process.terminate(STOP)?;
        mesh.hub.back_up(&backup)?;
        mesh.hub.start_again()?;
        mesh.wait_until_logged_in(RECOVERED)?;
        // Something that the backup does not know either: the rosters are newer than it.
        let host = lab.public_host("erin")?;
        mesh.add(Node::new(lab, &host)?)?;
        let newest = epoch(&mesh.member("erin")?.node)?;
        for name in ["alice", "bob", "dora"] {
            let node = &mesh.member(name)?.node;
            eventually(SOON, &format!("{name} knows of erin"), || {
                let now = epoch(node)?;
                ensure!(now >= newest, "epoch {now}");
                Ok(())
            })?;
        }
        mesh.hub.process.kill()?;
        let alice = mesh.member("alice")?;
        alice.node.wait_for_coordinator("unreachable", SOON)?;
        let evicted = alice.node.json(&["evict", NETWORK, "carol"])?;
        ensure!(evicted["suspended"] == true, "{evicted}");
        for name in ["alice", "bob", "dora"] {
            silent(mesh.member("carol")?, mesh.member(name)?, OUT)?;
        }
        mesh.hub.restore(&backup)?;
        mesh.hub.start_anew(&[])?;
        eventually(RECOVERED, "the coordinator says that it is older", || {
            let log = mesh.hub.process.stderr();
            ensure!(SAYS_OLDER.iter().any(|words| log.contains(words)), "{log}");
            Ok(())
        })?;
        out(&mesh, "while the coordinator is in recovery")?;
        mesh.hub.process.terminate(STOP)?;
        settled_by_the_coordinator(&mut mesh, &["--recover"], RECOVERED)?;
        out(&mesh, "after the return of an old backup")?;
        reach(mesh.member("alice")?, mesh.member("erin")?, SOON)
    });
}

fn out(mesh: &Mesh, when: &str) -> Result<()> {
    let others = ["alice", "bob", "dora"].map(|name| mesh.member(name));
    let others = others.into_iter().collect::<Result<Vec<_>>>()?;
    out_of_reach(mesh.member("carol")?, &others, when)
}

/// The coordinator comes back with a database that never heard of it, and makes an eviction of it.
fn settled_by_the_coordinator(mesh: &mut Mesh, more: &[&str], limit: Duration) -> Result<()> {
    let before = epoch(&mesh.member("dora")?.node)?;
    mesh.hub.start_anew(more)?;
    for name in ["alice", "bob", "dora"] {
        let node = &mesh.member(name)?.node;
        let what = format!("{name}'s roster names carol no more");
        eventually(limit, &what, || {
            let now = epoch(node)?;
            ensure!(now > before, "epoch {now}");
            ensure!(node.status()?.peer("carol").is_err(), "she is listed");
            Ok(())
        })?;
    }
    let carol = &mut mesh.members[2];
    carol.process.terminate(STOP).context("carol")?;
    let node = carol.node.clone();
    // She may be told before anybody could see her with a name, so nobody waits for one.
    carol.process = node.start(&["up"])?;
    eventually(limit, "carol is told that she is out", || {
        let networks = node.status()?.0["networks"].clone();
        ensure!(networks == serde_json::json!([]), "{networks}");
        Ok(())
    })
}
