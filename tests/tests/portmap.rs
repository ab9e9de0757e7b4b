//! Routers that forward ports when they are asked: nodes and hosts behind them are reached from everywhere.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::{NODE_PORT, Node};
use kanpachi_tests::lab::{Lab, run};
use kanpachi_tests::mesh::{Hub, Member};
use kanpachi_tests::nat::behaviour::Behaviour;
use kanpachi_tests::nat::forwarder::{Forwarder, Speaks};
use kanpachi_tests::nat::gateway::Made;
use kanpachi_tests::nat::world::World;
use kanpachi_tests::wait::eventually;

/// Until a mapping is there and known.
const MAPPED: Duration = Duration::from_secs(20);
/// For a daemon to end.
const END: Duration = Duration::from_secs(10);

/// Two nodes behind NATs that give each destination another port: nothing but a mapping joins them directly.
fn symmetric_pair(lab: &mut Lab, speaks: Speaks) -> Result<()> {
    let host = lab.public_host("hub")?;
    let hub = Hub::start(lab, &host, &[])?;
    let mut world = World::default();
    for name in ["mapped", "plain"] {
        world.home(lab, name, Behaviour::SYMMETRIC, Made::ByKernel)?;
    }
    let gateway = world.gateway("mapped")?;
    let forwarder = Forwarder::start(gateway, speaks)?;
    let mut members = Vec::new();
    for site in &world.sites {
        let invite = match members.is_empty() {
            true => hub.invite()?.to_owned(),
            false => hub.node.invite("lan", &[])?,
        };
        members.push(Member::join(Node::new(lab, &site.host)?, &invite)?);
    }
    let [mapped, plain] = &mut members[..] else {
        anyhow::bail!("two members");
    };
    let external = format!("{}:{NODE_PORT}", gateway.outside);
    eventually(MAPPED, "the mapping is there", || {
        let said = mapped.node.json(&["netcheck"])?;
        let mapping = &said["port_mapping"];
        ensure!(mapping["external"] == *external, "{mapping}");
        let field = match speaks {
            Speaks::Pcp => "pcp",
            Speaks::NatPmp => "nat_pmp",
            Speaks::Upnp => "upnp",
        };
        ensure!(mapping[field] == true, "{mapping}");
        Ok(())
    })?;
    let inside = (mapped.node.host.v4, NODE_PORT);
    ensure!(forwarder.rules().get(&("udp", NODE_PORT)) == Some(&inside));
    for (one, other) in [(&*mapped, &*plain), (&*plain, &*mapped)] {
        one.node.wait_for_path(other.name(), "direct", MAPPED)?;
    }
    let known = plain.node.json(&["peer", "mapped"])?.to_string();
    ensure!(known.contains(&external), "{known}");
    let nothing = plain.node.json(&["netcheck"])?;
    ensure!(nothing["port_mapping"]["external"].is_null(), "{nothing}");
    // What ends is forwarded to no longer.
    mapped.process.terminate(END)?;
    eventually(END, "the mapping is given back", || {
        ensure!(forwarder.rules().is_empty(), "{:?}", forwarder.rules());
        Ok(())
    })?;
    Ok(())
}

#[test]
fn a_node_is_reached_by_a_mapping_of_pcp() {
    run("portmap-pcp", |lab| symmetric_pair(lab, Speaks::Pcp));
}

#[test]
fn a_node_is_reached_by_a_mapping_of_nat_pmp() {
    run("portmap-pmp", |lab| symmetric_pair(lab, Speaks::NatPmp));
}

#[test]
fn a_node_is_reached_by_a_mapping_of_upnp() {
    run("portmap-upnp", |lab| symmetric_pair(lab, Speaks::Upnp));
}

#[test]
fn a_host_at_home_invites_by_the_address_that_its_router_forwards() {
    run("portmap-host", |lab| {
        let mut world = World::default();
        world.home(lab, "home", Behaviour::PORT_RESTRICTED, Made::ByKernel)?;
        let gateway = world.gateway("home")?;
        let forwarder = Forwarder::start(gateway, Speaks::Pcp)?;
        let hub = Hub::start(lab, &world.site("home")?.host, &[])?;
        let listen = hub.ready["listen"].to_string();
        ensure!(
            listen.contains(&format!("{}:12975", gateway.outside)),
            "{listen}"
        );
        eventually(MAPPED, "the node has a mapping too", || {
            let rules = forwarder.rules();
            ensure!(rules.len() == 3, "{rules:?}");
            Ok(())
        })?;
        let warned = hub.process.stderr();
        ensure!(!warned.contains("private"), "{warned}");
        let guest = lab.public_host("guest")?;
        let guest = Member::join(Node::new(lab, &guest)?, hub.invite()?)?;
        let name = hub.node.status()?.0["name"]
            .as_str()
            .context("no name")?
            .to_owned();
        // The router's public address is on the segment that the guest is on.
        guest.node.wait_for_path(&name, "lan", MAPPED)?;
        Ok(())
    });
}

#[test]
fn a_host_that_may_not_ask_leaves_the_router_alone_and_says_what_is_missing() {
    run("portmap-off", |lab| {
        let mut world = World::default();
        world.home(lab, "home", Behaviour::PORT_RESTRICTED, Made::ByKernel)?;
        let forwarder = Forwarder::start(world.gateway("home")?, Speaks::Pcp)?;
        let host = &world.site("home")?.host;
        let hub = Hub::start(lab, host, &["--no-port-mapping"])?;
        ensure!(forwarder.asked() == 0 && forwarder.rules().is_empty());
        let said = hub.process.stderr();
        ensure!(said.contains("private"), "{said}");
        let said = hub.node.json(&["netcheck"])?;
        ensure!(said["port_mapping"]["enabled"] == false, "{said}");
        Ok(())
    });
}
