//! A node on every site of a world, all in one network.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::world::{Site, World};
use crate::client::{Node, Overlay};
use crate::lab::Lab;
use crate::mesh::{Hub, Member, NETWORK};
use crate::note;
use crate::process::Process;
use crate::wait::eventually;

/// Until every node that can join has joined, and all know of each other.
const JOINED: Duration = Duration::from_secs(30);

/// Sites with their nodes, in the order of the world.
pub type Joined<'a> = Vec<(&'a Site, Member)>;

/// A hub without a node of its own, and a node on every site. Who cannot join is left out.
pub fn join<'a>(lab: &mut Lab, world: &'a World) -> Result<(Hub, Joined<'a>)> {
    let hub = lab.public_host("hub")?;
    let hub = Hub::start(lab, &hub, &["--no-node", "--listen-tcp", "443"])?;
    let (first, others) = world.sites.split_first().context("no sites")?;
    let owner = Member::join(node(lab, first)?, hub.invite()?)?;
    let uses = others.len().to_string();
    let invite = owner.node.invite(NETWORK, &["--uses", &uses])?;
    let started = others.iter().map(|site| {
        let node = node(lab, site)?;
        let process = node.start(&["--json", "join", &invite])?;
        Ok((site, node, process))
    });
    let started: Vec<(&Site, Node, Process)> = started.collect::<Result<_>>()?;
    let mut members = vec![(first, owner)];
    for (site, node, mut process) in started {
        match process.expect_json(JOINED, "ipv4") {
            Ok(line) => {
                let overlay = Overlay::from(&line)?;
                members.push((
                    site,
                    Member {
                        node,
                        process,
                        overlay,
                    },
                ));
            }
            Err(error) => note(format_args!("{} did not join: {error:#}", site.name())),
        }
    }
    eventually(JOINED, "everybody knows of everybody", || {
        members
            .iter()
            .try_for_each(|(site, member)| sees(site, member, members.len()))
    })?;
    Ok((hub, members))
}

/// Does a member see so many online, itself included?
fn sees(site: &Site, member: &Member, all: usize) -> Result<()> {
    let status = member.node.status()?;
    let online = status.members().filter(|peer| peer["online"] == true);
    let online = online.count() + 1;
    ensure!(online == all, "{} sees {online} of {all}", site.name());
    Ok(())
}

fn node(lab: &Lab, site: &Site) -> Result<Node> {
    let node = Node::new(lab, &site.host)?;
    Ok(match &site.proxy {
        Some(proxy) => node.set("HTTPS_PROXY", proxy),
        None => node,
    })
}
