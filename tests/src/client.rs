//! A node as its user sees it: the `kanpachi` command on a host of the lab, and the JSON it prints.

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{Host, Lab};
use crate::process::{OnHost, Output, Process, Without, binary};
use crate::wait::eventually;

/// How long a node may take until it says that it is ready.
pub const READY: Duration = Duration::from_secs(20);
/// Default UDP and TCP port of coordinator, bootstrap and relay.
pub const COORDINATOR_PORT: u16 = 12975;
/// Default port of a node.
pub const NODE_PORT: u16 = 12976;

/// One node: a host of the lab with a state directory, a control socket and an interface name.
#[derive(Debug, Clone)]
pub struct Node {
    pub host: Host,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub interface: String,
    logs: PathBuf,
    program: PathBuf,
    settings: Vec<(String, OsString)>,
}

/// A node's own addresses in the overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Overlay {
    pub name: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

impl Node {
    /// The node of a host; nothing runs yet.
    pub fn new(lab: &Lab, host: &Host) -> Result<Self> {
        Ok(Self {
            host: host.clone(),
            state_dir: lab.directory().join(&host.name),
            socket: lab.directory().join(format!("{}.sock", host.name)),
            interface: "kanpachi0".to_owned(),
            logs: lab.directory().to_owned(),
            program: binary("kanpachi")?,
            settings: Vec::new(),
        })
    }

    /// Makes it forget where others are, while it does not run. Says how much that was.
    pub fn forget_addresses(&self) -> Result<usize> {
        let db = rusqlite::Connection::open(self.state_dir.join("node.db"))?;
        let candidates = db.execute("DELETE FROM candidates", [])?;
        Ok(candidates + db.execute("DELETE FROM records", [])?)
    }

    /// Adds an environment variable to everything that this node runs.
    pub fn set(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.into()));
        self
    }

    /// The command with the node's global options, then `args`.
    pub fn command(&self, args: &[&str]) -> OnHost {
        OnHost::new(&self.host, &self.program)
            .envs(
                self.settings
                    .iter()
                    .map(|(name, value)| (name.as_str(), value.clone())),
            )
            .args([OsString::from("--state-dir"), self.state_dir.clone().into()])
            .args([OsString::from("--socket"), self.socket.clone().into()])
            .args(["--interface", self.interface.as_str()])
            .args(args)
    }

    /// Where the output of its processes is captured.
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Runs a command to its end, whatever that is.
    pub fn run(&self, args: &[&str]) -> Result<Output> {
        self.command(args).output("")
    }

    /// Like [`Node::run`], with things taken away.
    pub fn run_without(&self, args: &[&str], without: &Without) -> Result<Output> {
        self.command(args).without(without).output("")
    }

    /// Runs a command with `--json` and returns what it printed.
    ///
    /// # Errors
    /// If it fails or prints no JSON.
    pub fn json(&self, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
        self.run(&args)?
            .json()
            .with_context(|| format!("kanpachi {} on {}", args.join(" "), self.host.name))
    }

    /// Starts a command that stays in the foreground, such as `up`.
    pub fn start(&self, args: &[&str]) -> Result<Process> {
        self.command(args).start(&self.logs, &self.host.name)
    }

    /// Starts `kanpachi host --json …` and waits for its line; returns it with the process.
    pub fn host(&self, args: &[&str]) -> Result<(Process, Value)> {
        let args: Vec<&str> = ["--json", "host"].iter().chain(args).copied().collect();
        let mut process = self.start(&args)?;
        let ready = process.expect_json(READY, "invite")?;
        Ok((process, ready))
    }

    /// Starts `kanpachi join --json INVITE` on a host without a daemon and waits until its adapter is up.
    pub fn join(&self, invite: &str) -> Result<(Process, Value)> {
        let mut process = self.start(&["--json", "join", invite])?;
        let ready = process.expect_json(READY, "ipv4")?;
        Ok((process, ready))
    }

    /// Starts `kanpachi up` and waits until `status` answers with the adapter's addresses.
    pub fn up(&self) -> Result<Process> {
        let mut process = self.start(&["up"])?;
        let what = format!("{} is up", self.host.name);
        eventually(READY, &what, || {
            if let Some(status) = process.exited() {
                return Err(crate::wait::give_up(format!(
                    "{status}: {}",
                    process.stderr()
                )));
            }
            self.overlay().map(drop)
        })?;
        Ok(process)
    }

    pub fn status(&self) -> Result<Status> {
        Ok(Status(self.json(&["status"])?))
    }

    /// The node's own name and addresses, from `status`.
    pub fn overlay(&self) -> Result<Overlay> {
        self.status()?.overlay()
    }

    /// A fresh single-use invite made on this node.
    pub fn invite(&self, network: &str, args: &[&str]) -> Result<String> {
        let args: Vec<&str> = ["invite", network].iter().chain(args).copied().collect();
        let value = self.json(&args)?;
        Ok(value["invite"].as_str().context("no invite")?.to_owned())
    }

    /// Waits until the peer of this name has an established path, and returns its entry.
    pub fn wait_for_path(&self, peer: &str, wanted: &str, limit: Duration) -> Result<Value> {
        let what = format!("{} reaches {peer} by a {wanted} path", self.host.name);
        eventually(limit, &what, || {
            let member = self.status()?.peer(peer)?;
            ensure!(member["path"] == wanted, "path {}", member["path"]);
            Ok(member)
        })
    }

    /// Waits until `coordinator.state` is as wanted, and returns the status.
    pub fn wait_for_coordinator(&self, wanted: &str, limit: Duration) -> Result<Status> {
        let what = format!("{} says that the coordinator is {wanted}", self.host.name);
        eventually(limit, &what, || {
            let status = self.status()?;
            ensure!(
                status.coordinator_state() == wanted,
                "{}",
                status.0["coordinator"]
            );
            Ok(status)
        })
    }
}

/// The object that `kanpachi status --json` prints.
#[derive(Debug, Clone)]
pub struct Status(pub Value);

impl Status {
    pub fn overlay(&self) -> Result<Overlay> {
        Overlay::from(&self.0)
    }

    pub fn coordinator_state(&self) -> &str {
        self.0["coordinator"]["state"].as_str().unwrap_or("missing")
    }

    /// A counter by name; one that does not exist yet is 0.
    pub fn counter(&self, name: &str) -> u64 {
        self.0["counters"][name].as_u64().unwrap_or(0)
    }

    /// The members of all networks.
    pub fn members(&self) -> impl Iterator<Item = &Value> {
        let networks = self.0["networks"]
            .as_array()
            .map(Vec::as_slice)
            .unwrap_or_default();
        networks.iter().flat_map(|network| {
            network["members"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default()
        })
    }

    /// A member by name or by one of its overlay addresses.
    pub fn peer(&self, who: &str) -> Result<Value> {
        let found = self.members().find(|member| {
            ["name", "ipv4", "ipv6"]
                .iter()
                .any(|field| member[*field] == who)
        });
        match found {
            Some(member) => Ok(member.clone()),
            None => bail!(
                "no member {who} among {:?}",
                self.members()
                    .map(|member| member["name"].as_str())
                    .collect::<Vec<_>>()
            ),
        }
    }
}

impl Overlay {
    /// From an object with `name`, `ipv4` and `ipv6`: a status, or the line that `join` prints.
    pub fn from(value: &Value) -> Result<Self> {
        let text = |field: &str| {
            value[field]
                .as_str()
                .with_context(|| format!("no {field} in {value}"))
        };
        Ok(Self {
            name: text("name")?.to_owned(),
            v4: text("ipv4")?.parse()?,
            v6: text("ipv6")?.parse()?,
        })
    }

    /// IPv4, then IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}
