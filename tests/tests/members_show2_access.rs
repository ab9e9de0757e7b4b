//! Members, show 2: locks, approval, owners and successors, and two networks that share a tunnel.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{DIRECT, Mesh, NETWORK, reach, tunnel_state};
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::eventually;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(5);
const PASSWORD: &str = "swordfish in the pond";

/// Runs a command with the password on its standard input.
fn with_password(node: &Node, args: &[&str], password: &str) -> Result<Value> {
    let args: Vec<&str> = ["--json"]
        .iter()
        .chain(args)
        .copied()
        .chain(["--password-file", "-"])
        .collect();
    let output = node.command(&args).output(password)?;
    serde_json::from_str(output.stdout.lines().last().context("no answer")?)
        .with_context(|| format!("{output:?}"))
}

/// Runs a command that must be refused, and returns the code.
fn refusal(node: &Node, args: &[&str]) -> Result<String> {
    let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
    let output = node.run(&args)?;
    ensure!(output.status.code() == Some(5), "{args:?}: {output:?}");
    code(&serde_json::from_str(output.stdout.trim())?)
}

fn code(reply: &Value) -> Result<String> {
    let code = reply["error"]["code"].as_str();
    let message = reply["error"]["message"].as_str().unwrap_or_default();
    note(format_args!("{}: {message}", code.unwrap_or("no error")));
    Ok(code
        .with_context(|| format!("no error: {reply}"))?
        .to_owned())
}

/// The network of this name in a status, if it is there.
fn network(node: &Node, name: &str) -> Result<Option<Value>> {
    let status = node.status()?.0;
    let networks = status["networks"].as_array().cloned().unwrap_or_default();
    Ok(networks.into_iter().find(|n| n["name"] == name))
}

fn wait_for(node: &Node, name: &str, there: bool) -> Result<()> {
    let what = format!(
        "{} {} {name}",
        node.host.name,
        if there { "is in" } else { "is out of" }
    );
    eventually(SOON, &what, || {
        ensure!(network(node, name)?.is_some() == there, "not yet");
        Ok(())
    })
}

#[test]
fn locks_approval_owners_and_successors() {
    run("members-show2", |lab| {
        let mesh = Mesh::three(lab, &["--no-node"])?;
        let [alice, bob, carol] = &mesh.members[..] else {
            unreachable!("three were asked for");
        };
        let (alice, bob, carol) = (&alice.node, &bob.node, &carol.node);
        with_password(alice, &["create", "games"], PASSWORD)?;
        ensure!(refusal(bob, &["create", "Games"])? == "network_exists");

        // Unknown and wrong are one answer.
        let unknown = code(&with_password(bob, &["join", "gamez"], PASSWORD)?)?;
        let wrong = code(&with_password(bob, &["join", "games"], "swordfish")?)?;
        ensure!(unknown == "wrong_password" && wrong == unknown);

        alice.json(&["set-access", "games", "lock"])?;
        ensure!(code(&with_password(bob, &["join", "games"], PASSWORD)?)? == "network_locked");
        alice.json(&["set-access", "games", "unlock", "manual"])?;

        // Bob waits, is rejected, asks again, is approved.
        let waiting = with_password(bob, &["join", "games"], PASSWORD)?;
        ensure!(
            waiting["waiting"] == serde_json::json!(["games"]),
            "{waiting}"
        );
        wait_for(bob, "games", false)?;
        member_waits(alice, "bob")?;
        alice.json(&["reject", "games", "bob"])?;
        eventually(SOON, "bob waits no more", || {
            let status = bob.status()?.0;
            ensure!(
                status["waiting"] == serde_json::json!([]),
                "{}",
                status["waiting"]
            );
            Ok(())
        })?;
        with_password(bob, &["join", "games"], PASSWORD)?;
        member_waits(alice, "bob")?;
        alice.json(&["approve", "games", "bob"])?;
        wait_for(bob, "games", true)?;

        // Leave, and come back.
        alice.json(&["set-access", "games", "auto"])?;
        bob.json(&["leave", "games"])?;
        wait_for(bob, "games", false)?;
        with_password(bob, &["join", "games"], PASSWORD)?;
        wait_for(bob, "games", true)?;

        // The only owner says what becomes of the network.
        ensure!(refusal(alice, &["leave", "games"])? == "last_owner");
        ensure!(refusal(bob, &["delete", "games"])? == "not_allowed");
        alice.json(&["leave", "games", "--heir", "bob"])?;
        wait_for(alice, "games", false)?;
        eventually(SOON, "bob owns it", || {
            let games = network(bob, "games")?.context("no network")?;
            ensure!(games["role"] == "owner", "{}", games["role"]);
            Ok(())
        })?;
        with_password(carol, &["join", "games"], PASSWORD)?;
        wait_for(carol, "games", true)?;
        bob.json(&["delete", "games"])?;
        wait_for(bob, "games", false)?;
        wait_for(carol, "games", false)?;
        with_password(carol, &["create", "games"], PASSWORD)?;
        Ok(())
    });
}

fn member_waits(owner: &Node, name: &str) -> Result<()> {
    let what = format!("{} sees that {name} waits", owner.host.name);
    eventually(SOON, &what, || {
        let games = network(owner, "games")?.context("no network")?;
        let members = games["members"].as_array().cloned().unwrap_or_default();
        let waits = members
            .iter()
            .any(|m| m["name"] == name && m["waiting"] == true);
        ensure!(waits, "{members:?}");
        Ok(())
    })
}

#[test]
fn two_networks_share_one_tunnel_and_leaving_one_keeps_it() {
    run("members-show2-shared", |lab| {
        let mesh = Mesh::three(lab, &["--no-node"])?;
        let [alice, bob, _] = &mesh.members[..] else {
            unreachable!("three were asked for");
        };
        reach(alice, bob, DIRECT)?;
        let before = tunnel_state(alice, bob)?;
        with_password(&alice.node, &["create", "games"], PASSWORD)?;
        with_password(&bob.node, &["join", "games"], PASSWORD)?;
        wait_for(&bob.node, "games", true)?;
        ensure!(tunnel_state(alice, bob)? == before, "another tunnel");
        bob.node.json(&["leave", "games"])?;
        wait_for(&bob.node, "games", false)?;
        reach(alice, bob, SOON)?;
        ensure!(
            tunnel_state(alice, bob)? == before,
            "the tunnel was made anew"
        );

        // The other way round: it is the older network that goes.
        with_password(&bob.node, &["join", "games"], PASSWORD)?;
        wait_for(&bob.node, "games", true)?;
        bob.node.json(&["leave", NETWORK])?;
        wait_for(&bob.node, NETWORK, false)?;
        reach(alice, bob, SOON)?;
        ensure!(
            tunnel_state(alice, bob)? == before,
            "the tunnel was made anew"
        );

        ensure!(
            !bob.process.stderr().contains("no member any more"),
            "bob is warned of what he asked for"
        );

        // Offline in the only network in common: gone for each other, and back.
        bob.node.json(&["go-offline", "games"])?;
        eventually(SOON, "bob is out of reach", || {
            let reached = ping::once(&alice.node.host.ns, bob.overlay.v4.into());
            ensure!(reached.is_err(), "still there");
            Ok(())
        })?;
        bob.node.json(&["go-online", "games"])?;
        reach(alice, bob, DIRECT)
    });
}
