//! Part 4, show 3: the direct path is cut while data flows, and heals; the relay is killed.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::capture::{Capture, UDP};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{Host, Lab, run};
use kanpachi_tests::loss;
use kanpachi_tests::mesh::{DIRECT, Hub, Member, NETWORK, reach};
use kanpachi_tests::nat::world::{Kind, World};
use kanpachi_tests::note;
use kanpachi_tests::process::Process;
use kanpachi_tests::traffic::tcp::{Payload, Transfer};
use kanpachi_tests::traffic::udp::{Load, UdpFlow};
use kanpachi_tests::wait::{eventually, quietly, scaled};

/// From the cut of a path, or the death of a relay, until packets arrive again.
const OVER: Duration = Duration::from_secs(5);
/// From the healed path until data takes it.
const BACK: Duration = Duration::from_secs(30);
/// The status may be behind the packets by so much.
const TOLD: Duration = Duration::from_secs(1);
/// A transfer whose packets were lost waits ever longer before it tries again.
const GOES_ON: Duration = Duration::from_secs(15);
const LOAD: Load = Load {
    packets_per_second: 100,
    size: 400,
};
/// Packets that show that a flow flows.
const SOME: u64 = 5;

struct Scene {
    _hub: Hub,
    world: World,
    relays: Vec<(Host, Process)>,
    members: Vec<Member>,
}

impl Scene {
    /// Two members behind port-restricted NATs with a direct path, and two relays.
    fn start(lab: &mut Lab) -> Result<Self> {
        let hosts = vec![lab.public_host("relay-a")?, lab.public_host("relay-b")?];
        let (hub, relays) = Hub::start_beside(lab, &hosts)?;
        let world = World::of(lab, &[Kind::PortRestricted, Kind::PortShifted])?;
        let mut members: Vec<Member> = Vec::new();
        for site in &world.sites {
            let invite = match members.first() {
                None => hub.invite()?.to_owned(),
                Some(owner) => owner.node.invite(NETWORK, &[])?,
            };
            members.push(Member::join(Node::new(lab, &site.host)?, &invite)?);
        }
        let scene = Self {
            _hub: hub,
            world,
            relays: hosts.into_iter().zip(relays).collect(),
            members,
        };
        reach(&scene.members[0], &scene.members[1], DIRECT)?;
        scene.wait_for("direct", DIRECT)?;
        Ok(scene)
    }

    fn outside(&self, at: usize) -> Result<IpAddr> {
        let outside = self.world.sites[at].outside.first();
        outside.copied().context("no outside address")
    }

    /// Cuts the two off from each other in the first one's router.
    fn cut(&self) -> Result<()> {
        loss::part(&self.world.gateways[0].lans[0], self.outside(1)?)
    }

    fn heal(&self) -> Result<()> {
        loss::restore(&self.world.gateways[0].ns)
    }

    fn wait_for(&self, path: &str, limit: Duration) -> Result<()> {
        for (at, member) in self.members.iter().enumerate() {
            let other = self.members[1 - at].name();
            member.node.wait_for_path(other, path, limit)?;
        }
        Ok(())
    }

    fn flow(&self) -> Result<UdpFlow> {
        let [one, other] = [&self.members[0], &self.members[1]];
        let to = (&other.node.host.ns, other.overlay.v4.into());
        let flow = UdpFlow::start(&one.node.host.ns, to, LOAD)?;
        arrive(&flow, "the flow begins")?;
        Ok(flow)
    }

    /// The address of the relay that the first one uses.
    fn via(&self) -> Result<String> {
        let peer = self.members[0]
            .node
            .status()?
            .peer(self.members[1].name())?;
        Ok(peer["via"].as_str().context("no relay")?.to_owned())
    }
}

/// Until some more packets arrive.
fn arrive(flow: &UdpFlow, what: &str) -> Result<Duration> {
    let (start, before) = (Instant::now(), flow.arrived());
    quietly(2 * OVER, || {
        ensure!(flow.arrived() >= before + SOME, "{}", flow.arrived());
        Ok(())
    })
    .context(what.to_owned())?;
    Ok(start.elapsed())
}

/// Does something that stops a flow, and waits until it flows again: how long that took.
fn interrupt(flow: &UdpFlow, what: &str, act: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let start = Instant::now();
    act()?;
    // What was on its way still arrives.
    let mut last = (flow.arrived(), Instant::now());
    quietly(TOLD, || {
        let arrived = flow.arrived();
        if arrived != last.0 {
            last = (arrived, Instant::now());
        }
        ensure!(last.1.elapsed() > Duration::from_millis(200), "it flows on");
        Ok(())
    })
    .context(what.to_owned())?;
    arrive(flow, what)?;
    let took = start.elapsed();
    note(format_args!("{what}: packets arrive again after {took:?}"));
    ensure!(took <= scaled(OVER), "{what}: only after {took:?}");
    Ok(took)
}

fn goes_on(transfer: &Transfer, what: &str) -> Result<()> {
    let before = transfer.progress();
    eventually(GOES_ON, what, || {
        ensure!(!transfer.is_finished(), "the transfer ended");
        ensure!(transfer.progress() > before + 500_000, "no progress");
        Ok(())
    })
}

#[test]
fn a_cut_path_is_replaced_by_a_relay_and_a_dead_relay_by_the_next() {
    run("relay-show3", |lab| {
        let mut scene = Scene::start(lab)?;
        let [one, other] = [&scene.members[0], &scene.members[1]];
        let payload = Payload {
            rate: 2_000_000,
            ..Payload::default()
        };
        let to = (&other.node.host.ns, other.overlay.v6.into());
        let transfer = Transfer::start(&one.node.host.ns, to, payload)?;
        goes_on(&transfer, "the transfer runs")?;

        let flow = scene.flow()?;
        interrupt(&flow, "the direct path is cut", || scene.cut())?;
        scene.wait_for("relay", TOLD)?;
        goes_on(&transfer, "the transfer goes on over the relay")?;
        let report = flow.finish()?;
        ensure!(report.altered + report.duplicates == 0, "{report:?}");

        let flow = scene.flow()?;
        let capture = Capture::start(&lab.public().ns, lab.public().bridge, b"")?;
        scene.heal()?;
        scene.wait_for("direct", BACK)?;
        let direct = || -> Result<u64> {
            let report = capture.report();
            Ok(report
                .between(UDP, scene.outside(0)?, scene.outside(1)?)
                .packets)
        };
        let before = direct()?;
        arrive(&flow, "the flow goes on")?;
        ensure!(direct()? >= before + SOME, "the packets do not go directly");
        let report = flow.finish()?;
        note(format_args!("while it healed: {report:?}"));
        ensure!(
            report.loss_percent() < 2.0 && report.longest_gap < scaled(Duration::from_secs(1)),
            "a burst of loss while the path healed: {report:?}"
        );

        let flow = scene.flow()?;
        interrupt(&flow, "the path is cut again", || scene.cut())?;
        scene.wait_for("relay", TOLD)?;
        let via = scene.via()?;
        let used = scene
            .relays
            .iter()
            .position(|(host, _)| host.v4.to_string() == via);
        let used = used.with_context(|| format!("{via} is no relay"))?;
        let (_, process) = &mut scene.relays[used];
        interrupt(&flow, "the relay is killed", || process.kill())?;
        scene.wait_for("relay", TOLD)?;
        let next = scene.via()?;
        ensure!(next != via, "still {next}");
        let report = flow.finish()?;
        ensure!(report.altered + report.duplicates == 0, "{report:?}");
        goes_on(&transfer, "the transfer goes on over the next relay")?;

        transfer.stop();
        let report = transfer.finish()?;
        ensure!(report.sent_sha256 == report.received_sha256, "{report:?}");
        Ok(())
    });
}
