//! Members, show 1: whoever is evicted is out within 5 s, whatever it does, and stays out.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{Lab, run};
use kanpachi_tests::loss;
use kanpachi_tests::mesh::{DIRECT, Member, Mesh, NETWORK, reach};
use kanpachi_tests::note;
use kanpachi_tests::process::Output;
use kanpachi_tests::traffic::{ping, udp};
use kanpachi_tests::wait::eventually;

/// From the eviction to the last packet that a member takes.
const OUT: Duration = Duration::from_secs(5);
const STOP: Duration = Duration::from_secs(10);
const LOAD: udp::Load = udp::Load {
    packets_per_second: 200,
    size: 200,
};
/// Everybody in the network knows it, carol too.
const PASSWORD: &str = "swordfish in the pond";
/// Packets that would have come in this many tries if anything came through.
const TRIES: usize = 5;

#[test]
fn an_evicted_member_is_out_at_once_and_cannot_come_back() {
    run("members-show1", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node"])?;
        let carols_first = mesh.members[0].node.invite(NETWORK, &["--uses", "5"])?;
        let carols_own = make_owner_and_invite(&mesh)?;
        let set = with_password(&mesh.members[0].node, &["set-password", NETWORK])?;
        ensure!(set.status.success(), "{set:?}");
        // Carol does not hear of it: the coordinator is behind a wall for her.
        let hub = mesh.hub.node.host.v4;
        loss::block(&mesh.lans[2], &format!("ip daddr {hub}"))?;
        let [alice, bob, carol] = &mesh.members[..] else {
            unreachable!("three were asked for");
        };
        let flows = [alice, bob].map(|to| {
            udp::UdpFlow::start(
                &carol.node.host.ns,
                (&to.node.host.ns, to.overlay.v4.into()),
                LOAD,
            )
        });
        for flow in &flows {
            let flow = flow
                .as_ref()
                .map_err(|error| anyhow::anyhow!("{error:#}"))?;
            eventually(OUT, "carol's packets arrive", || {
                ensure!(flow.arrived() > 20, "{} arrived", flow.arrived());
                Ok(())
            })?;
        }
        let evicted = alice.node.json(&["evict", NETWORK, "carol"])?;
        note(format_args!("evict says {evicted}"));
        ensure!(evicted["member"] == "carol", "{evicted}");
        ensure!(
            evicted["revoked_invites"].as_u64() >= Some(2),
            "her invites are still good: {evicted}"
        );
        for (flow, to) in flows.into_iter().zip([alice, bob]) {
            let flow = flow?;
            let what = format!("{} takes no packet of carol's any more", to.name());
            let mut last = flow.arrived();
            let mut still = 0;
            eventually(OUT, &what, || {
                let now = flow.arrived();
                still = if now == last { still + 1 } else { 0 };
                last = now;
                // 200 packets a second, looked at every 20 ms: 20 times nothing is 400 ms of silence.
                ensure!(still >= 20, "{now} arrived");
                Ok(())
            })?;
            let report = flow.finish()?;
            ensure!(
                report.received < report.sent,
                "all of it came through: {report:?}"
            );
        }
        loss::restore(&mesh.lans[2].ns)?;
        cannot_come_back(lab, &mut mesh, &[carols_first, carols_own])?;
        reach(&mesh.members[0], &mesh.members[1], DIRECT)
    });
}

/// Carol becomes an owner and makes an invite of her own.
fn make_owner_and_invite(mesh: &Mesh) -> Result<String> {
    let (alice, carol) = (mesh.member("alice")?, mesh.member("carol")?);
    alice.node.json(&["set-role", NETWORK, "carol", "owner"])?;
    eventually(OUT, "carol makes an invite", || {
        carol.node.invite(NETWORK, &["--uses", "5"])
    })
}

/// Runs a command with the password on its standard input.
fn with_password(node: &Node, args: &[&str]) -> Result<Output> {
    let args = [args, &["--password-file", "-"]].concat();
    node.command(&args).output(PASSWORD)
}

fn cannot_come_back(lab: &mut Lab, mesh: &mut Mesh, invites: &[String]) -> Result<()> {
    let carol = &mut mesh.members[2];
    let node = carol.node.clone();
    carol.process.terminate(STOP)?;
    carol.process = node.start(&["up"])?;
    eventually(STOP, "carol is back, without the network", || {
        let status = node.status()?;
        ensure!(status.coordinator_state() == "connected", "not logged in");
        ensure!(
            status.0["networks"] == serde_json::json!([]),
            "{}",
            status.0["networks"]
        );
        Ok(())
    })?;
    out_of_reach(mesh, "after a restart")?;
    refused(&with_password(&node, &["join", NETWORK])?).context("carol, the password")?;
    for (what, invite) in ["the invite she could use", "the invite she made"]
        .iter()
        .zip(invites)
    {
        refused(&node.run(&["join", invite])?).with_context(|| format!("carol, {what}"))?;
    }
    out_of_reach(mesh, "after trying her invites")?;
    mesh.members[2].process.terminate(STOP)?;
    std::fs::remove_dir_all(&node.state_dir)?;
    for (what, invite) in ["the invite she could use", "the invite she made"]
        .iter()
        .zip(invites)
    {
        refused(&node.run(&["join", invite])?)
            .with_context(|| format!("carol with a wiped state directory, {what}"))?;
    }
    // An honest newcomer with a fresh invite is let in.
    let host = lab.public_host("dora")?;
    let invite = mesh.members[0].node.invite(NETWORK, &[])?;
    let dora = Member::join(Node::new(lab, &host)?, &invite)?;
    reach(&dora, &mesh.members[0], DIRECT)
}

fn refused(output: &Output) -> Result<()> {
    ensure!(
        output.status.code() == Some(5),
        "exit code {:?}: {output:?}",
        output.status.code()
    );
    note(format_args!(
        "{}",
        output.stderr.lines().next().unwrap_or_default()
    ));
    Ok(())
}

fn out_of_reach(mesh: &Mesh, when: &str) -> Result<()> {
    let carol = &mesh.members[2];
    for other in &mesh.members[..2] {
        for _ in 0..TRIES {
            ensure!(
                ping::once(&carol.node.host.ns, other.overlay.v4.into()).is_err(),
                "carol reaches {} {when}",
                other.name()
            );
        }
        let listed = other.node.status()?.peer("carol");
        ensure!(listed.is_err(), "{} lists carol {when}", other.name());
    }
    Ok(())
}
