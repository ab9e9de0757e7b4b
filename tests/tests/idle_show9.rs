//! Part 4, show 9: what a node costs that has twenty direct peers and nothing to do, and one without a network.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::capture::{Capture, TCP, UDP};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{HOST_INTERFACE, Host, Lab, run};
use kanpachi_tests::mesh::{Hub, Member, NETWORK};
use kanpachi_tests::nat::behaviour::Behaviour;
use kanpachi_tests::nat::gateway::Made;
use kanpachi_tests::nat::world::World;
use kanpachi_tests::note;
use kanpachi_tests::wait::{eventually, quietly};
use kanpachi_tests::wakeups::Wakeups;

/// Peers on the public segment, and each behind a router of its own.
const IN_THE_OPEN: usize = 10;
const AT_HOME: usize = 10;
/// Until everybody has joined, and the two that are looked at have direct paths to all.
const JOINED: Duration = Duration::from_secs(60);
/// Paths are looked for, measured and compared when they are new; a minute after the last has come, those who stand at
/// better places now leave the others and say so. This is about what comes after. Records that are not new, and questions whether
/// there is any news, come later.
const SETTLED: Duration = Duration::from_secs(180);
/// How long is counted: a session at rest has its successor at the sixth beat of 25 s, so each has one in this.
const COUNTED: Duration = Duration::from_secs(150);
/// How often the others are looked at meanwhile: threads of theirs may end.
const LOOK: Duration = Duration::from_secs(2);
/// And without a network.
const DOWN: Duration = Duration::from_secs(30);

/// What a minute is to cost at the most.
const PROMISED: (u64, u64) = (120, 60 * 1024);
/// Without a network: timers go on, and nothing turns in circles.
const KEPT_DOWN: (u64, Duration) = (800, Duration::from_secs(1));

/// What one minute cost.
#[derive(Debug)]
struct Cost {
    wakeups: u64,
    /// Both directions, of IP packets with TCP and UDP: what the link puts around them, and the looking for neighbours on it,
    /// which the kernel does, are not the node's.
    bytes: u64,
    processor: Duration,
}

#[test]
fn a_node_at_rest_among_twenty_peers_hardly_wakes_up() {
    run("idle-show9", |lab| {
        let (_hub, _world, members) = build(lab)?;
        let (home, open) = (&members[0], &members[1]);
        for node in [home, open] {
            wait_for_direct(node)?;
        }
        pass(SETTLED)?;
        let looked_at = [("behind a router", home), ("in the open", open)];
        let others: Vec<&Member> = members[2..].iter().collect();
        let (costs, wakeups) = measure(&looked_at, &others, COUNTED)?;
        for node in [home, open] {
            direct(node)?;
        }
        note(format_args!(
            "promised are {} wake-ups and {} KiB",
            PROMISED.0,
            PROMISED.1 / 1024
        ));
        for cost in &costs {
            let within = cost.wakeups <= PROMISED.0 && cost.bytes <= PROMISED.1;
            ensure!(within, "{cost:?}");
        }
        note(format_args!("wake-ups a minute of the others: {wakeups:?}"));
        ensure!(
            wakeups.iter().all(|count| *count <= PROMISED.0),
            "{wakeups:?}"
        );
        without_network(home)
    });
}

/// A node whose cable is out waits for it to come back, and then has its paths again.
fn without_network(member: &Member) -> Result<()> {
    let ns = &member.node.host.ns;
    ns.ip(&format!("link set {HOST_INTERFACE} down\n"))?;
    let (costs, _) = measure(&[("without a network", member)], &[], DOWN)?;
    ns.ip(&format!("link set {HOST_INTERFACE} up\n"))?;
    let gateway = Ipv4Addr::from(u32::from(member.node.host.v4) & 0xffff_ff00 | 1);
    ns.ip(&format!("route replace default via {gateway}\n"))?;
    for cost in &costs {
        let within = cost.wakeups <= KEPT_DOWN.0 && cost.processor <= KEPT_DOWN.1;
        ensure!(within, "{cost:?}");
    }
    wait_for_direct(member)
}

/// A hub without a node, and the members: the first behind a router, then those in the open, then those at home.
fn build(lab: &mut Lab) -> Result<(Hub, World, Vec<Member>)> {
    let mut world = World::default();
    let hub = lab.public_host("hub")?;
    let hub = Hub::start(lab, &hub, &["--no-node"])?;
    let first = at_home(lab, &mut world, "me")?;
    let owner = Member::join(
        Node::new(lab, &first)?.set("KANPACHI_LOG_LEVEL", "debug"),
        hub.invite()?,
    )?;
    let mut hosts = Vec::new();
    for at in 0..IN_THE_OPEN {
        hosts.push(lab.public_host(&format!("open-{at}"))?);
    }
    for at in 0..AT_HOME {
        hosts.push(at_home(lab, &mut world, &format!("home-{at}"))?);
    }
    let uses = hosts.len().to_string();
    let invite = owner.node.invite(NETWORK, &["--uses", &uses])?;
    let mut members = vec![owner];
    for host in &hosts {
        members.push(Member::join(Node::new(lab, host)?, &invite)?);
    }
    Ok((hub, world, members))
}

fn at_home(lab: &mut Lab, world: &mut World, name: &str) -> Result<Host> {
    world.home(lab, name, Behaviour::PORT_RESTRICTED, Made::ByKernel)?;
    Ok(world.site(name)?.host.clone())
}

/// Says all twenty peers are direct.
fn direct(member: &Member) -> Result<()> {
    let status = member.node.status()?;
    let direct = status
        .members()
        .filter(|peer| peer["path"] == "direct" || peer["path"] == "lan");
    let (direct, all) = (direct.count(), IN_THE_OPEN + AT_HOME);
    ensure!(direct == all, "{direct} of {all} direct");
    Ok(())
}

fn wait_for_direct(member: &Member) -> Result<()> {
    let what = format!("{} has direct paths to all", member.name());
    eventually(JOINED, &what, || direct(member))
}

/// Lets time pass.
fn pass(time: Duration) -> Result<()> {
    let start = Instant::now();
    quietly(time * 2, || {
        ensure!(start.elapsed() >= time, "not yet");
        Ok(())
    })
}

/// What a minute costs these, and how often others wake up at the same time.
fn measure(
    nodes: &[(&'static str, &Member)],
    others: &[&Member],
    time: Duration,
) -> Result<(Vec<Cost>, Vec<u64>)> {
    let start = Instant::now();
    let before = nodes.iter().map(|(_, member)| {
        let capture = Capture::start(&member.node.host.ns, HOST_INTERFACE, b"")?;
        let (bytes, process) = (on_the_link(member)?, &member.process);
        let wakeups = Wakeups::of(process.pid())?;
        Ok((wakeups, capture, bytes, process.cpu_time()?))
    });
    let mut before: Vec<_> = before.collect::<Result<_>>()?;
    let others = others
        .iter()
        .map(|member| Wakeups::of(member.process.pid()));
    let mut others: Vec<_> = others.collect::<Result<_>>()?;
    let mut next = LOOK;
    quietly(time * 2, || {
        for (wakeups, ..) in &mut before {
            wakeups.look()?;
        }
        if start.elapsed() >= next {
            // All of them each time would be work enough to be seen.
            next += LOOK;
            others.iter_mut().try_for_each(Wakeups::look)?;
        }
        ensure!(start.elapsed() >= time, "not yet");
        others.iter_mut().try_for_each(Wakeups::look)
    })?;
    let costs = nodes.iter().zip(before).map(|((name, member), before)| {
        let (wakeups, capture, bytes_before, processor) = before;
        let report = capture.finish()?;
        ensure!(report.dropped == 0, "{} packets not seen", report.dropped);
        let ours = report.sum(|flow| matches!(flow.protocol, UDP | TCP));
        let on_the_link = on_the_link(member)? - bytes_before;
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        let by_minute = |count: u64| (count as f64 / minutes).ceil() as u64;
        let cost = Cost {
            wakeups: by_minute(wakeups.total()),
            bytes: by_minute(ours.bytes),
            processor: (member.process.cpu_time()? - processor).div_f64(minutes),
        };
        note(format_args!(
            "{name}: {} wake-ups a minute, {:.1} KiB ({:.1} on the link), {:.0?} of processor time; by thread in all {:?}",
            cost.wakeups,
            cost.bytes as f64 / 1024.0,
            by_minute(on_the_link) as f64 / 1024.0,
            cost.processor,
            wakeups.by_thread()
        ));
        Ok(cost)
    });
    let costs = costs.collect::<Result<_>>()?;
    let minutes = start.elapsed().as_secs_f64() / 60.0;
    let others = others
        .iter()
        .map(|wakeups| (wakeups.total() as f64 / minutes).ceil() as u64);
    Ok((costs, others.collect()))
}

/// All bytes that went by the interface of a member's host so far, whosever they are.
fn on_the_link(member: &Member) -> Result<u64> {
    let (received, sent) = member.node.host.ns.interface_bytes(HOST_INTERFACE)?;
    received.checked_add(sent).context("too many bytes")
}
