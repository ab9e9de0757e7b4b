//! Show 7: a member between two parts of a network carries news across.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::{
    lab::run,
    loss,
    mesh::{Member, Mesh, NETWORK},
    note,
    wait::eventually,
};

use super::town::{SOON, epoch, epoch_of, evict_with_one_witness, four, silent, wall};

/// From the bridge being there to the news on the other side.
const ACROSS: Duration = Duration::from_secs(60);
/// A network beside the one of the hub.
const SECOND: &str = "second";

#[test]
fn a_bridge_carries_an_eviction_to_those_who_never_see_the_witness() {
    run("spread-show7", |lab| {
        let mut mesh = four(lab)?;
        evict_with_one_witness(&mut mesh)?;
        let [alice, bob, carol, dora] = &mesh.members[..] else {
            unreachable!("four were asked for");
        };
        let wanted = epoch(&alice.node)?;
        ensure!(epoch(&bob.node)? < wanted, "bob knows already");
        // Dora sees alice and bob. Alice and bob never see each other, and carol sees bob alone.
        loss::restore(&mesh.lans[3].ns)?;
        wall(&mesh.lans[0], &[&bob.node.host, &carol.node.host])?;
        eventually(ACROSS, "bob holds the roster that alice holds", || {
            let now = epoch(&bob.node)?;
            ensure!(now == wanted, "{now} and not {wanted}");
            Ok(())
        })?;
        let time = silent(carol, bob, ACROSS)?;
        note(format_args!("silent {:.1} s later", time.as_secs_f64()));
        ensure!(epoch(&dora.node)? == wanted, "the bridge itself is behind");
        Ok(())
    });
}

/// Without a coordinator each part puts carol out of the network that is owned there, and dora is in both parts.
#[test]
fn a_bridge_carries_the_news_of_each_part_to_the_other() {
    run("spread-show7-both", |lab| {
        let mut mesh = four(lab)?;
        second_network(&mesh)?;
        let [alice, bob, carol, dora] = &mesh.members[..] else {
            unreachable!("four were asked for");
        };
        mesh.hub.process.kill()?;
        for (at, lan) in mesh.lans.iter().enumerate() {
            let others = mesh.members.iter().enumerate();
            let others = others.filter(|(other, _)| *other != at);
            wall(lan, &others.map(|(_, m)| &m.node.host).collect::<Vec<_>>())?;
        }
        for (owner, network) in [(alice, NETWORK), (bob, SECOND)] {
            owner.node.wait_for_coordinator("unreachable", SOON)?;
            let evicted = owner.node.json(&["evict", network, "carol"])?;
            ensure!(evicted["suspended"] == true, "{evicted}");
        }
        for (member, known) in [(alice, [true, false]), (bob, [false, true])] {
            let now = carol_is_out_of(member)?;
            ensure!(now == known, "{} knows {now:?}", member.name());
        }
        // Dora sees both; alice and bob see nobody else.
        wall(&mesh.lans[0], &[&bob.node.host, &carol.node.host])?;
        wall(&mesh.lans[1], &[&alice.node.host, &carol.node.host])?;
        loss::restore(&mesh.lans[3].ns)?;
        for member in [dora, alice, bob] {
            let what = format!("{} knows what each part knew", member.name());
            eventually(ACROSS, &what, || {
                let now = carol_is_out_of(member)?;
                ensure!(now == [true; 2], "{now:?}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// Which of the two networks carol is put out of, as a member knows.
fn carol_is_out_of(member: &Member) -> Result<[bool; 2]> {
    let status = member.node.status()?.0;
    let networks = status["networks"].as_array().context("no networks")?;
    let out = |name: &str| {
        let network = networks.iter().find(|n| n["name"] == name);
        let members = network.and_then(|n| n["members"].as_array());
        let mut members = members.into_iter().flatten();
        let carol = members.find(|m| m["name"] == "carol");
        let carol = carol.with_context(|| format!("no carol in {name}: {status}"))?;
        anyhow::Ok(carol["suspended"] == true)
    };
    Ok([out(NETWORK)?, out(SECOND)?])
}

/// Bob makes a network of his own, and everybody joins.
fn second_network(mesh: &Mesh) -> Result<()> {
    let bob = mesh.member("bob")?;
    bob.node.json(&["create", SECOND])?;
    let others = mesh.members.iter().filter(|m| m.name() != "bob");
    for member in others {
        let invite = bob.node.invite(SECOND, &[])?;
        member.node.json(&["join", &invite])?;
    }
    let newest = epoch_of(&bob.node, SECOND)?;
    for member in &mesh.members {
        eventually(
            SOON,
            &format!("{} knows of everybody", member.name()),
            || {
                let now = epoch_of(&member.node, SECOND)?;
                ensure!(now >= newest, "epoch {now}");
                Ok(())
            },
        )?;
    }
    Ok(())
}
