//! A ready-made organisation in the lab: a hub on the public segment, members on LANs of their own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::client::{COORDINATOR_PORT, Node, Overlay, READY};
use crate::lab::{Host, Lab, Segment};
use crate::loss;
use crate::process::{OnHost, Process, binary};
use crate::traffic::ping;
use crate::wait::eventually;

/// The network that `kanpachi host` makes when it is not told a name.
pub const NETWORK: &str = "lan";
/// Names of the members, in the order in which they join.
pub const NAMES: [&str; 3] = ["alice", "bob", "carol"];
/// From joining, or from a path found, to the first answered ping.
pub const FIRST_PING: Duration = Duration::from_secs(5);
/// How long a path may take to become direct.
pub const DIRECT: Duration = Duration::from_secs(15);

/// What the organisation hangs on: `kanpachi host`, or a coordinator of its own, on the public segment.
#[derive(Debug)]
pub struct Hub {
    /// Its host and state directory; commands to its node only if it runs one.
    pub node: Node,
    pub process: Process,
    /// The JSON line that it printed.
    pub ready: Value,
    launch: Launch,
}

/// How a hub is started, and started again.
#[derive(Debug, Clone)]
enum Launch {
    /// `kanpachi host` with these arguments.
    Host(Vec<String>),
    /// `kanpachi-coordinator serve`, with the bootstraps that it names.
    Coordinator { bootstraps: Vec<String> },
}

impl Launch {
    fn start(&self, node: &Node) -> Result<(Process, Value)> {
        match self {
            Self::Host(arguments) => {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                node.host(&arguments)
            }
            Self::Coordinator { .. } => {
                let serve = self.command(node, &[])?;
                let mut process = serve.start(node.logs(), &node.host.name)?;
                let ready = process.expect_json(READY, "invite")?;
                Ok((process, ready))
            }
        }
    }

    fn command(&self, node: &Node, more: &[&str]) -> Result<OnHost> {
        Ok(match self {
            Self::Host(arguments) => {
                let arguments = arguments.iter().map(String::as_str);
                let arguments = ["--json", "host"].into_iter().chain(arguments);
                let arguments: Vec<&str> = arguments.chain(more.iter().copied()).collect();
                node.command(&arguments)
            }
            Self::Coordinator { bootstraps } => {
                let named = bootstraps.iter().flat_map(|b| ["--bootstrap", b]);
                OnHost::new(&node.host, &binary("kanpachi-coordinator")?)
                    .args(["serve", "--json"])
                    .args(named)
                    .args(["--state-dir"])
                    .args([&node.state_dir])
                    .args(more)
            }
        })
    }

    fn has_node(&self) -> bool {
        matches!(self, Self::Host(arguments) if !arguments.iter().any(|argument| argument == "--no-node"))
    }
}

impl Hub {
    /// Starts `kanpachi host` with these arguments on a public host.
    pub fn start(lab: &Lab, host: &Host, arguments: &[&str]) -> Result<Self> {
        let arguments = arguments
            .iter()
            .map(|argument| (*argument).to_owned())
            .collect();
        Self::launch(Node::new(lab, host)?, Launch::Host(arguments))
    }

    /// Starts `kanpachi-coordinator` and, on a public host of its own, `kanpachi-bootstrap`, which is returned too.
    pub fn start_separate(lab: &mut Lab) -> Result<(Self, Process)> {
        let beside = lab.public_host("bootstrap")?;
        let (hub, mut bootstraps) = Self::start_beside(lab, &[beside])?;
        Ok((hub, bootstraps.remove(0)))
    }

    /// The same with a `kanpachi-bootstrap` on each of these hosts.
    pub fn start_beside(lab: &mut Lab, hosts: &[Host]) -> Result<(Self, Vec<Process>)> {
        let hub = lab.public_host("hub")?;
        let node = Node::new(lab, &hub)?;
        let init = OnHost::new(&hub, &binary("kanpachi-coordinator")?);
        let init = init
            .args(["init", "--json", "--state-dir"])
            .args([&node.state_dir])
            .output("")?
            .json()?;
        let org = init["org"].as_str().context("no organisation")?.to_owned();
        let (mut bootstraps, mut running) = (Vec::new(), Vec::new());
        for host in hosts {
            let serve = OnHost::new(host, &binary("kanpachi-bootstrap")?);
            let serve = serve.args(["serve", "--json", "--org", &org, "--state-dir"]);
            let mut bootstrap = serve
                .args([lab.directory().join(&host.name)])
                .start(lab.directory(), &host.name)?;
            let ready = bootstrap.expect_json(READY, "id")?;
            let id = ready["id"].as_str().context("no id")?;
            bootstraps.push(format!("{}:{COORDINATOR_PORT}/{id}", host.v4));
            running.push(bootstrap);
        }
        let hub = Self::launch(node, Launch::Coordinator { bootstraps })?;
        Ok((hub, running))
    }

    fn launch(node: Node, launch: Launch) -> Result<Self> {
        let (process, ready) = launch.start(&node)?;
        Ok(Self {
            node,
            process,
            ready,
            launch,
        })
    }

    /// Starts it again in the same state directory, after it was ended.
    pub fn start_again(&mut self) -> Result<()> {
        (self.process, self.ready) = self.launch.start(&self.node)?;
        Ok(())
    }

    /// The same with more arguments, and without waiting for an invite: while it signs nothing there is none.
    pub fn start_anew(&mut self, more: &[&str]) -> Result<()> {
        let command = self.launch.command(&self.node, more)?;
        self.process = command.start(self.node.logs(), &self.node.host.name)?;
        Ok(())
    }

    /// Copies what its coordinator keeps, while it does not run.
    pub fn back_up(&self, to: &Path) -> Result<()> {
        copy(&self.coordinator_dir(), to)
    }

    /// Puts such a copy in place of what its coordinator keeps.
    pub fn restore(&self, from: &Path) -> Result<()> {
        let dir = self.coordinator_dir();
        std::fs::remove_dir_all(&dir)?;
        copy(from, &dir)
    }

    /// Where its coordinator keeps its state.
    #[must_use]
    pub fn coordinator_dir(&self) -> PathBuf {
        match self.launch {
            Launch::Host(_) => self.node.state_dir.join("coordinator"),
            Launch::Coordinator { .. } => self.node.state_dir.clone(),
        }
    }

    /// The invite that it printed when it was ready.
    pub fn invite(&self) -> Result<&str> {
        self.ready["invite"]
            .as_str()
            .context("the hub printed no invite")
    }
}

/// A node that runs, with the addresses it got.
#[derive(Debug)]
pub struct Member {
    pub node: Node,
    pub process: Process,
    pub overlay: Overlay,
}

impl Member {
    /// Joins by an invite on a host on which nothing runs.
    pub fn join(node: Node, invite: &str) -> Result<Self> {
        let (process, line) = node.join(invite)?;
        let overlay = Overlay::from(&line)?;
        Ok(Self {
            node,
            process,
            overlay,
        })
    }

    /// Starts the daemon again, after it was ended.
    pub fn start_again(&mut self) -> Result<()> {
        self.process = self.node.up()?;
        Ok(())
    }

    pub fn name(&self) -> &str {
        &self.overlay.name
    }
}

/// A hub and members on three LANs.
#[derive(Debug)]
pub struct Mesh {
    pub hub: Hub,
    pub members: Vec<Member>,
    pub lans: Vec<Segment>,
}

impl Mesh {
    /// `kanpachi host` with these arguments, and the three [`NAMES`] each on its own LAN, joined and reaching each other.
    pub fn three(lab: &mut Lab, arguments: &[&str]) -> Result<Self> {
        Self::three_with(lab, arguments, |_, node| Ok(node))
    }

    /// [`Mesh::three`], with a say in how each node is set up.
    pub fn three_with(
        lab: &mut Lab,
        arguments: &[&str],
        adjust: impl Fn(&str, Node) -> Result<Node>,
    ) -> Result<Self> {
        let host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &host, arguments)?;
        Self::around(lab, hub, adjust)
    }

    /// The three [`NAMES`] around a hub that runs.
    pub fn around(
        lab: &mut Lab,
        hub: Hub,
        adjust: impl Fn(&str, Node) -> Result<Node>,
    ) -> Result<Self> {
        let mut mesh = Self {
            hub,
            members: Vec::new(),
            lans: Vec::new(),
        };
        for name in NAMES {
            let lan = lab.lan(&format!("{name}-lan"))?;
            let host = lab.host(name, &lan)?;
            mesh.lans.push(lan);
            mesh.add(adjust(name, Node::new(lab, &host)?)?)?;
        }
        mesh.wait_until_connected(DIRECT)?;
        Ok(mesh)
    }

    /// Lets one more node join.
    pub fn add(&mut self, node: Node) -> Result<()> {
        let invite = self.fresh_invite()?;
        self.members.push(Member::join(node, &invite)?);
        Ok(())
    }

    /// The hub's own first invite, then invites by the first member, who owns the network when the hub has no node.
    pub fn fresh_invite(&self) -> Result<String> {
        match self.members.first() {
            None => Ok(self.hub.invite()?.to_owned()),
            Some(_) if self.hub.launch.has_node() => self.hub.node.invite(NETWORK, &[]),
            Some(owner) => owner.node.invite(NETWORK, &[]),
        }
    }

    pub fn member(&self, name: &str) -> Result<&Member> {
        self.members
            .iter()
            .find(|member| member.name() == name)
            .with_context(|| format!("no member {name}"))
    }

    /// Keeps two members on LANs of their own from reaching each other but over a relay, and waits until they do so.
    pub fn cut_direct(&self, one: usize, other: usize, limit: Duration) -> Result<()> {
        let host = &self.members[other].node.host;
        let rules = ["daddr", "saddr"].map(|side| {
            let (v4, v6) = (host.v4, host.v6);
            format!("ip {side} {v4} counter drop\n ip6 {side} {v6} counter drop")
        });
        loss::block_all(&self.lans[one], &rules.join("\n "))?;
        for (from, to) in [(one, other), (other, one)] {
            let to = self.members[to].name();
            self.members[from].node.wait_for_path(to, "relay", limit)?;
        }
        Ok(())
    }

    /// Every ordered pair of members.
    pub fn pairs(&self) -> impl Iterator<Item = (&Member, &Member)> {
        let members = &self.members;
        members.iter().flat_map(move |from| {
            members
                .iter()
                .filter(|to| to.name() != from.name())
                .map(move |to| (from, to))
        })
    }

    /// Waits until every member can ping every other by IPv4 and IPv6.
    pub fn wait_until_connected(&self, limit: Duration) -> Result<()> {
        for (from, to) in self.pairs() {
            reach(from, to, limit)?;
        }
        Ok(())
    }

    /// Waits until every member says that it is logged in.
    pub fn wait_until_logged_in(&self, limit: Duration) -> Result<()> {
        self.members.iter().try_for_each(|member| {
            member
                .node
                .wait_for_coordinator("connected", limit)
                .map(drop)
        })
    }
}

/// Waits until one member can ping another by both of its addresses.
pub fn reach(from: &Member, to: &Member, limit: Duration) -> Result<()> {
    for address in to.overlay.addresses() {
        let what = format!("{} pings {} at {address}", from.name(), to.name());
        eventually(limit, &what, || ping::once(&from.node.host.ns, address))?;
    }
    Ok(())
}

/// What must not change while a tunnel lives undisturbed: path, since when, and under which handshake.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct TunnelState {
    path: Value,
    path_since: Value,
}

/// How one member's tunnel to another stands.
pub fn tunnel_state(from: &Member, to: &Member) -> Result<TunnelState> {
    let peer = from.node.status()?.peer(to.name())?;
    ensure!(
        peer["path"].is_string(),
        "{} has no path to {}: {peer}",
        from.name(),
        to.name()
    );
    Ok(TunnelState {
        path: peer["path"].clone(),
        path_since: peer["path_since"].clone(),
    })
}

/// Copies a directory without directories in it.
fn copy(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for file in std::fs::read_dir(from)? {
        let file = file?;
        std::fs::copy(file.path(), to.join(file.file_name()))?;
    }
    Ok(())
}
