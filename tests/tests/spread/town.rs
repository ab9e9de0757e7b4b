//! Four members on networks of their own, and what may pass between them.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::{
    client::Node,
    lab::{Host, Lab, Segment},
    loss,
    mesh::{Member, Mesh, NETWORK, reach},
    traffic::ping,
    wait::eventually,
};

/// From a member that knows being reachable to the last packet of the evicted.
pub(crate) const OUT: Duration = Duration::from_secs(10);
/// Until something that needs no waiting is there.
pub(crate) const SOON: Duration = Duration::from_secs(15);
/// For a process to end.
pub(crate) const STOP: Duration = Duration::from_secs(10);
/// Packets that would have come in this many tries if anything came through.
const TRIES: usize = 4;

/// A hub without a node of its own, so that alice owns the network; she, bob, carol and dora each behind a router.
pub(crate) fn four(lab: &mut Lab) -> Result<Mesh> {
    let mut mesh = Mesh::three(lab, &["--no-node"])?;
    let lan = lab.lan("dora-lan")?;
    let host = lab.host("dora", &lan)?;
    mesh.lans.push(lan);
    mesh.add(Node::new(lab, &host)?)?;
    mesh.wait_until_connected(SOON)?;
    Ok(mesh)
}

/// Lets a member's router pass nothing to or from these hosts.
pub(crate) fn wall(lan: &Segment, hosts: &[&Host]) -> Result<()> {
    let rules: Vec<String> = hosts
        .iter()
        .flat_map(|host| {
            let (v4, v6) = (host.v4, host.v6);
            [
                format!("ip daddr {v4}"),
                format!("ip saddr {v4}"),
                format!("ip6 daddr {v6}"),
                format!("ip6 saddr {v6}"),
            ]
        })
        .collect();
    loss::block(lan, &rules.join(" counter drop\n    "))
}

/// Waits until one of them takes no packet of the other's.
pub(crate) fn silent(from: &Member, to: &Member, limit: Duration) -> Result<Duration> {
    let began = std::time::Instant::now();
    let what = format!("{} takes nothing of {}'s", to.name(), from.name());
    let mut silence = 0;
    eventually(limit, &what, || {
        let answered = ping::once(&from.node.host.ns, to.overlay.v4.into()).is_ok();
        silence = if answered { 0 } else { silence + 1 };
        ensure!(silence >= 2, "it answers");
        Ok(())
    })?;
    Ok(began.elapsed())
}

pub(crate) fn out_of_reach(from: &Member, others: &[&Member], when: &str) -> Result<()> {
    for other in others {
        for _ in 0..TRIES {
            ensure!(
                ping::once(&from.node.host.ns, other.overlay.v4.into()).is_err(),
                "{} reaches {} {when}",
                from.name(),
                other.name()
            );
        }
    }
    Ok(())
}

/// The epoch of the roster that a node holds.
pub(crate) fn epoch(node: &Node) -> Result<u64> {
    epoch_of(node, NETWORK)
}

/// The epoch of the roster of a network that a node holds.
pub(crate) fn epoch_of(node: &Node, network: &str) -> Result<u64> {
    let status = node.status()?.0;
    let mut networks = status["networks"].as_array().into_iter().flatten();
    networks
        .find(|n| n["name"] == network)
        .and_then(|n| n["epoch"].as_u64())
        .with_context(|| format!("no network {network}: {status}"))
}

/// The highest number of a network secret on a node's disk.
pub(crate) fn secret(state_dir: &Path) -> Result<u32> {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = rusqlite::Connection::open_with_flags(state_dir.join("node.db"), flags)?;
    Ok(db.query_row("SELECT MAX(id) FROM secrets", [], |row| row.get(0))?)
}

/// Evicts carol while alice is the only one who sees the coordinator, and sees nobody else; then the coordinator is
/// killed. Whoever is not alice still talks with carol.
pub(crate) fn evict_with_one_witness(mesh: &mut Mesh) -> Result<()> {
    let [alice, bob, carol, dora] = &mesh.members[..] else {
        unreachable!("four were asked for");
    };
    let hub = &mesh.hub.node.host;
    let others = [bob, carol, dora].map(|m| &m.node.host);
    for lan in &mesh.lans[1..] {
        wall(lan, &[hub, &alice.node.host])?;
    }
    wall(&mesh.lans[0], &others)?;
    let before = secret(&alice.node.state_dir)?;
    let evicted = alice.node.json(&["evict", NETWORK, "carol"])?;
    ensure!(evicted["suspended"] == false, "{evicted}");
    eventually(SOON, "alice has the new secret", || {
        let now = secret(&alice.node.state_dir)?;
        ensure!(now > before, "it is still {now}");
        Ok(())
    })?;
    mesh.hub.process.kill()?;
    reach(carol, bob, SOON).context("bob has not heard of anything")
}
