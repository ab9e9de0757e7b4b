//! Show 3: an owner evicts while the coordinator is dead, and it holds when it is back.

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::{
    lab::run,
    mesh::{Mesh, NETWORK, reach},
    note,
    wait::eventually,
};

use super::town::{OUT, SOON, STOP, epoch, four, out_of_reach, silent};

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
        settled_by_the_coordinator(&mut mesh)?;
        out(&mesh, "after the coordinator's return")
    });
}

fn out(mesh: &Mesh, when: &str) -> Result<()> {
    let others = ["alice", "bob", "dora"].map(|name| mesh.member(name));
    let others = others.into_iter().collect::<Result<Vec<_>>>()?;
    out_of_reach(mesh.member("carol")?, &others, when)
}

/// The coordinator comes back with a database that never heard of it, and makes an eviction of it.
fn settled_by_the_coordinator(mesh: &mut Mesh) -> Result<()> {
    let before = epoch(&mesh.member("dora")?.node)?;
    mesh.hub.start_again()?;
    for name in ["alice", "bob", "dora"] {
        let node = &mesh.member(name)?.node;
        let what = format!("{name}'s roster names carol no more");
        eventually(SOON, &what, || {
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
    eventually(SOON, "carol is told that she is out", || {
        let networks = node.status()?.0["networks"].clone();
        ensure!(networks == serde_json::json!([]), "{networks}");
        Ok(())
    })
}
