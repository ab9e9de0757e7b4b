//! `kanpachi netcheck` behind real NATs of every kind: what it says is what they are.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::{COORDINATOR_PORT, Node};
use kanpachi_tests::lab::{Host, Lab, run};
use kanpachi_tests::mesh::{Hub, Member};
use kanpachi_tests::nat::behaviour::{Carries, Dependence, Ports, composed};
use kanpachi_tests::nat::world::{Kind, Site, World};
use kanpachi_tests::note;
use kanpachi_tests::wait::eventually;
use serde_json::Value;

/// Until a daemon has checked its network and told the others.
const TOLD: Duration = Duration::from_secs(30);

const fn word(dependence: Dependence) -> &'static str {
    match dependence {
        Dependence::EndpointIndependent => "endpoint_independent",
        Dependence::Address => "address_dependent",
        Dependence::AddressAndPort => "address_and_port_dependent",
    }
}

/// Two public hosts for bootstraps; the first has two addresses.
fn servers(lab: &mut Lab) -> Result<Vec<Host>> {
    let (one, other) = (lab.public_host("first")?, lab.public_host("second")?);
    one.ns.ip("address add 203.0.113.251/24 dev eth0\n")?;
    Ok(vec![one, other])
}

fn netcheck(node: &Node, servers: &[Host]) -> Result<Value> {
    let by_v4 = servers
        .iter()
        .map(|s| format!("{}:{COORDINATOR_PORT}", s.v4));
    let by_v6 = servers
        .iter()
        .map(|s| format!("[{}]:{COORDINATOR_PORT}", s.v6));
    let servers: Vec<String> = by_v4.chain(by_v6).collect();
    let mut args = vec!["--json", "netcheck"];
    for server in &servers {
        args.extend(["--server", server]);
    }
    node.run(&args)?.json()
}

/// Is that what stands between the host and the servers?
fn judge(site: &Site, said: &Value) -> Result<()> {
    let (mapping, filtering) = composed(&site.place.nats);
    let udp = site.place.carries == Carries::Everything;
    let behind = !site.place.nats.is_empty();
    let expected = |field: &str, wanted: Value| {
        let got = said.pointer(field).cloned().unwrap_or_default();
        ensure!(
            got == wanted,
            "{}: {field} is {got}, not {wanted}: {said}",
            site.name()
        );
        Ok(())
    };
    expected("/udp", udp.into())?;
    expected("/ipv4/works", (udp && site.place.ipv4).into())?;
    expected("/ipv6/works", (udp && site.place.ipv6).into())?;
    if !udp {
        expected("/mapping", "blocked".into())?;
        let advice = said["advice"].to_string();
        ensure!(advice.contains("UDP is blocked"), "{advice}");
        return Ok(());
    }
    expected("/mapping", word(mapping).into())?;
    if site.place.ipv4 {
        expected("/filtering", word(filtering).into())?;
        expected("/filtering_exact", true.into())?;
        expected("/ipv4/nat", behind.into())?;
        let address = said["ipv4"]["address"].as_str().context("no address")?;
        let outside = site.outside.first().context("no address outside")?;
        ensure!(address.starts_with(&format!("{outside}:")), "{address}");
    }
    if let Some(outermost) = site.place.nats.last() {
        // The shifted one shifts the port of the node alone, and a check has ports of its own.
        let ports = outermost.behaviour.ports;
        if ports != Ports::Shifted {
            expected("/port_preserved", (ports == Ports::Preserved).into())?;
        }
        if mapping == Dependence::EndpointIndependent {
            expected("/hairpinning", outermost.behaviour.hairpin.into())?;
        }
    }
    Ok(())
}

#[test]
fn every_kind_of_network_is_told_for_what_it_is() {
    run("netcheck", |lab| {
        let servers = servers(lab)?;
        let (_hub, _bootstraps) = Hub::start_beside(lab, &servers)?;
        let world = World::of(
            lab,
            &[
                Kind::Open,
                Kind::OnlyV6,
                Kind::FullCone,
                Kind::AddressRestricted,
                Kind::PortRestricted,
                Kind::PortShifted,
                Kind::Symmetric,
                Kind::Hairpin,
                Kind::OnlyTcp,
            ],
        )?;
        for site in &world.sites {
            let said = netcheck(&Node::new(lab, &site.host)?, &servers)?;
            note(format_args!(
                "{}: udp {}, mapping {}, filtering {}, hairpinning {}",
                site.name(),
                said["udp"],
                said["mapping"],
                said["filtering"],
                said["hairpinning"]
            ));
            judge(site, &said)?;
        }
        Ok(())
    });
}

#[test]
fn a_daemon_knows_its_own_network_and_those_of_its_peers() {
    run("netcheck-daemon", |lab| {
        let servers = servers(lab)?;
        let (hub, _bootstraps) = Hub::start_beside(lab, &servers)?;
        let kinds = [
            Kind::PortRestricted,
            Kind::Symmetric,
            Kind::Open,
            Kind::OneRouter,
        ];
        let world = World::of(lab, &kinds)?;
        let mut members: Vec<Member> = Vec::new();
        for site in &world.sites {
            let node = Node::new(lab, &site.host)?;
            let invite = match members.first() {
                None => hub.invite()?.to_owned(),
                Some(owner) => owner.node.invite("lan", &[])?,
            };
            members.push(Member::join(node, &invite)?);
        }
        let expected = [
            (
                "port",
                "symmetric",
                "birthday",
                "address_and_port_dependent",
            ),
            ("symmetric", "port", "birthday", "endpoint_independent"),
            ("port", "open", "direct", "endpoint_independent"),
            ("open", "symmetric", "direct", "address_and_port_dependent"),
            // Behind one router that does not turn packets around.
            ("one-a", "one-guest", "relay", "endpoint_independent"),
            ("one-a", "port", "direct", "endpoint_independent"),
        ];
        for (one, other, prospect, mapping) in expected {
            let node = &members
                .iter()
                .find(|m| m.name() == one)
                .context("no such member")?
                .node;
            eventually(
                TOLD,
                &format!("{one} knows what to expect of {other}"),
                || {
                    let said = node.json(&["netcheck"])?;
                    let peers = said["peers"].as_array().context("no peers")?;
                    let peer = peers.iter().find(|p| p["name"] == other);
                    let peer = peer.with_context(|| format!("no {other} in {said}"))?;
                    let direct = matches!(peer["path"].as_str(), Some("direct" | "lan"));
                    let wanted = if direct { "direct" } else { prospect };
                    ensure!(peer["mapping"] == mapping, "{peer}");
                    ensure!(peer["prospect"] == wanted, "{peer}");
                    let reflectors = said["reflectors"].as_array().context("no reflectors")?;
                    ensure!(reflectors.len() == 2, "{said}");
                    ensure!(
                        reflectors
                            .iter()
                            .all(|r| r["latency_ms"].is_f64() && r["node_id"].is_string()),
                        "{said}"
                    );
                    Ok(())
                },
            )?;
        }
        Ok(())
    });
}
