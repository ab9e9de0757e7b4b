//! Show 5 of part 2: a node under 50 thousand datagrams a second from strangers works as if they went to somebody else.

mod attack;
mod paced;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_common::roster::Member as Entry;
use kanpachi_common::{NetworkId, OrgId};
use kanpachi_tests::client::Node;
use kanpachi_tests::hostile::{HostileMember, NodeKeys, StolenCoordinator};
use kanpachi_tests::lab::{HOST_INTERFACE, Lab, run};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, reach};
use kanpachi_tests::netns::Netns;
use kanpachi_tests::note;
use kanpachi_tests::wait::{eventually, quietly};
use kanpachi_transport::SharedSocket;

use crate::paced::{Batch, Paced, Sink};

/// Datagrams of a flood in a second, and how many of them must leave for the test to show anything.
const FLOOD: u32 = 50_000;
const FLOOD_AT_LEAST: f64 = 40_000.0;
/// Addresses that the flood comes from.
const SOURCES: u8 = 16;
/// The traffic in the tunnel: 300 Mbit/s.
const PAYLOAD: usize = 1300;
const RATE: f64 = 300e6;
/// Of what the tunnel carries while the flood goes elsewhere.
const KEEPS: f64 = 0.7;
/// Sink and node are flooded in turn, so that whatever else the machine does meets both.
const ROUNDS: usize = 3;
const WINDOW: Duration = Duration::from_secs(2);
const HANDSHAKE: Duration = Duration::from_secs(10);
const MEMORY: u64 = 32 << 20;
/// Initiations of strangers, in all of the floods together, that may cost more than a look at who sent them.
const WORKED_ON: u64 = 10_000;
const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_flood_of_garbage_costs_little() {
    run("show5-garbage", |lab| {
        let scene = Scene::set(lab)?;
        let initiations = scene.initiations()?;
        scene.flooded(&attack::garbage(&initiations, 5))
    });
}

#[test]
fn a_flood_of_initiations_costs_little() {
    run("show5-initiations", |lab| {
        let scene = Scene::set(lab)?;
        let initiations = scene.initiations()?;
        scene.flooded(&attack::honest_looking(&initiations))
    });
}

/// Alice sends to bob through a tunnel; mallory floods bob's host; carol, whose node is not running, will call bob.
struct Scene {
    alice: Member,
    bob: Member,
    carol: Member,
    mallory: Netns,
    /// Mallory's sockets.
    sources: Vec<SharedSocket>,
    bob_at: SocketAddr,
    bob_entry: Entry,
    org: OrgId,
    network: NetworkId,
    _hub: Hub,
}

/// Takes in what is sent to bob: the flood that is to be compared with, and what alice sends through the tunnel.
struct Sinks {
    bare: Sink,
    tunnel: Sink,
}

impl Scene {
    fn set(lab: &mut Lab) -> Result<Self> {
        let hub_host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &hub_host, &["--no-node"])?;
        let host = lab.public_host("alice")?;
        let alice = Member::join(Node::new(lab, &host)?, hub.invite()?)?;
        let mut join = |name: &str| {
            let host = lab.public_host(name)?;
            Member::join(Node::new(lab, &host)?, &alice.node.invite("lan", &[])?)
        };
        let (bob, mut carol) = (join("bob")?, join("carol")?);
        reach(&alice, &bob, DIRECT)?;
        reach(&carol, &bob, DIRECT)?;
        carol.process.terminate(SOON)?;
        let mallory = lab.public_host("mallory")?.ns;
        let sources = sources(&mallory)?;
        let stolen = StolenCoordinator::read(&hub.node.state_dir)?;
        Ok(Self {
            bob_at: listens_at(&bob)?,
            bob_entry: stolen.member("bob")?,
            org: stolen.org(),
            network: stolen.network,
            alice,
            bob,
            carol,
            mallory,
            sources,
            _hub: hub,
        })
    }

    fn initiations(&self) -> Result<Vec<Vec<u8>>> {
        attack::initiations(&self.bob_entry, self.org, self.network, self.bob_at)
    }

    /// Floods sink and node in turn and compares.
    fn flooded(mut self, flood: &Arc<[Batch]>) -> Result<()> {
        let ns = &self.bob.node.host.ns;
        let sinks = Sinks {
            bare: Sink::new(ns, self.bob.node.host.v4.into())?,
            tunnel: Sink::new(ns, self.bob.overlay.v4.into())?,
        };
        let traffic = self.traffic(sinks.tunnel.address())?;
        quietly(SOON, || {
            ensure!(sinks.tunnel.bytes() > 0, "nothing comes through the tunnel");
            Ok(())
        })?;
        let before = self.memory("VmRSS:")?;
        // From now on the peak is the peak since now.
        fs::write(format!("/proc/{}/clear_refs", self.bob.process.pid()), "5")?;
        let (mut beside, mut at_node) = (Vec::new(), Vec::new());
        let mut bytes = (0, 0);
        for round in 1..=ROUNDS {
            beside.push(self.flood(flood, sinks.bare.address(), &sinks.tunnel)?);
            let (rx, tx) = self.mallory.interface_bytes(HOST_INTERFACE)?;
            at_node.push(self.flood(flood, self.bob_at, &sinks.tunnel)?);
            let (rx_after, tx_after) = self.mallory.interface_bytes(HOST_INTERFACE)?;
            bytes = (bytes.0 + tx_after - tx, bytes.1 + rx_after - rx);
            note(format_args!(
                "round {round}: {:.0} Mbit/s with the flood at the sink, {:.0} Mbit/s with it at the node",
                beside[round - 1] / 1e6,
                at_node[round - 1] / 1e6
            ));
        }
        self.call(flood)?;
        note(format_args!(
            "{:.0} Mbit/s offered in the tunnel",
            traffic.stop()? * PAYLOAD as f64 * 8.0 / 1e6
        ));
        self.judge(mean(&at_node) / mean(&beside), before, bytes)
    }

    fn judge(&mut self, keeps: f64, before: u64, (sent, answered): (u64, u64)) -> Result<()> {
        let memory = self.memory("VmHWM:")?.saturating_sub(before);
        let status = self.bob.node.status()?;
        note(format_args!(
            "the tunnel keeps {:.0} %; memory rose by {} KiB from {} KiB; {answered} bytes for {sent}; counters {}",
            keeps * 100.0,
            memory >> 10,
            before >> 10,
            status.0["counters"]
        ));
        ensure!(
            self.bob.process.exited().is_none() && !self.bob.process.stderr().contains("panicked"),
            "bob's daemon died"
        );
        ensure!(keeps >= KEEPS, "the tunnel keeps {:.0} %", keeps * 100.0);
        ensure!(memory <= MEMORY, "memory rose by {memory} bytes");
        let worked_on = status.counter("handshake_unknown_peer");
        ensure!(
            worked_on <= WORKED_ON,
            "{worked_on} initiations of strangers were worked on"
        );
        ensure!(
            answered <= sent,
            "{answered} bytes went out for {sent} that came in"
        );
        Ok(())
    }

    /// Floods a place for a while; returns what the tunnel carries meanwhile, in bits a second.
    fn flood(&self, flood: &Arc<[Batch]>, at: SocketAddr, tunnel: &Sink) -> Result<f64> {
        let flood = Paced::start(&self.sources, at, flood, FLOOD);
        passes(WINDOW / 4)?;
        let (start, bytes) = (Instant::now(), tunnel.bytes());
        passes(WINDOW)?;
        let rate = (tunnel.bytes() - bytes) as f64 * 8.0 / start.elapsed().as_secs_f64();
        let sent = flood.stop()?;
        ensure!(
            sent >= FLOOD_AT_LEAST,
            "the flood had only {sent:.0} datagrams a second: this machine is too busy"
        );
        Ok(rate)
    }

    /// Carol calls bob in the middle of a flood.
    fn call(&self, flood: &Arc<[Batch]>) -> Result<()> {
        let keys = NodeKeys::read(&self.carol.node.state_dir)?;
        let flood = Paced::start(&self.sources, self.bob_at, flood, FLOOD);
        passes(WINDOW / 4)?;
        let start = Instant::now();
        let mut carol = HostileMember::new(&self.carol.node.host, &keys, self.org)?;
        let outcome = carol.connect(&self.bob_entry, self.network, self.bob_at, HANDSHAKE);
        let took = start.elapsed();
        flood.stop()?;
        outcome.context("a handshake during the flood")?;
        note(format_args!(
            "a handshake in {:.0} ms",
            took.as_secs_f64() * 1e3
        ));
        Ok(())
    }

    fn traffic(&self, to: SocketAddr) -> Result<Paced> {
        let socket = paced::bind(&self.alice.node.host.ns, self.alice.overlay.v4.into())?;
        let batch = Batch {
            bytes: vec![0; 10 * PAYLOAD],
            size: PAYLOAD,
        };
        let per_second = (RATE / (PAYLOAD as f64 * 8.0)) as u32;
        Ok(Paced::start(&[socket], to, &Arc::from([batch]), per_second))
    }

    /// A number of bob's memory, in bytes.
    fn memory(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.bob.process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        let line = line.with_context(|| format!("no {field}"))?;
        Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Gives mallory more addresses and a socket on each.
fn sources(mallory: &Netns) -> Result<Vec<SharedSocket>> {
    (0..SOURCES)
        .map(|number| {
            let address = IpAddr::from([203, 0, 113, 100 + number]);
            mallory.ip(&format!("address add {address}/24 dev {HOST_INTERFACE}\n"))?;
            paced::bind(mallory, address)
        })
        .collect()
}

/// Waits until this much time has passed: what is measured is what happens in it.
fn passes(time: Duration) -> Result<()> {
    let start = Instant::now();
    quietly(2 * time, || {
        ensure!(start.elapsed() >= time, "not yet");
        Ok(())
    })
}

/// The underlay address of a member's tunnel socket.
fn listens_at(member: &Member) -> Result<SocketAddr> {
    eventually(SOON, "a port", || {
        let status = member.node.status()?;
        let listen = status.0["listen"][0].as_str();
        let listen: SocketAddr = listen.context("it listens nowhere")?.parse()?;
        Ok((member.node.host.v4, listen.port()).into())
    })
}
