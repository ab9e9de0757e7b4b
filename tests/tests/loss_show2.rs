//! Show 2 of Part 4 on real processes: every pair connects while 30 in 100 frames are lost, each way.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::{
    client::{Node, Overlay},
    lab::run,
    mesh::{Hub, NETWORK},
    note,
    process::Process,
    traffic::{
        ping,
        udp::{Load, UdpFlow},
    },
    wait::eventually,
    wire::Settings,
};

/// Seven make 21 pairs; one more than the twenty that are asked for.
const MEMBERS: usize = 7;
const LIMIT: Duration = Duration::from_secs(90);
const BAD: Settings = Settings {
    delay: Duration::from_millis(150),
    jitter: Duration::from_millis(20),
    reorder_percent: 5.0,
    reorder_by: Duration::from_millis(60),
    // Between two members are two of these wires: 30 in 100 are lost, each way.
    loss_percent: 16.4,
    duplicate_percent: 5.0,
    seed: 2,
};
const LOAD: Load = Load {
    packets_per_second: 100,
    size: 900,
};

struct Member {
    node: Node,
    process: Process,
    overlay: Overlay,
}

#[test]
fn every_pair_connects_at_thirty_percent_loss_and_nothing_comes_twice() {
    run("loss-show2", |lab| {
        let hub = lab.public_host("hub")?;
        let hub = Hub::start(lab, &hub, &[])?;
        let invite = hub
            .node
            .invite(NETWORK, &["--uses", &MEMBERS.to_string()])?;
        let public = lab.public().clone();
        let (mut members, mut wires) = (Vec::new(), Vec::new());
        for at in 0..MEMBERS {
            // Joined on a good network, and switched off again.
            let name = format!("member-{at}");
            let (host, wire) = lab.host_by_wire(&name, &public, Settings::default())?;
            let node = Node::new(lab, &host)?;
            let (mut process, line) = node.join(&invite)?;
            process.kill()?;
            let overlay = Overlay::from(&line)?;
            members.push(Member {
                node,
                process,
                overlay,
            });
            wires.push(wire);
        }
        for (seed, wire) in (1..).zip(&wires) {
            wire.set(Settings { seed, ..BAD });
        }
        let start = Instant::now();
        for member in &mut members {
            member.process = member.node.start(&["up"])?;
        }
        let of = |at: usize| members[at + 1..].iter().map(move |other| (at, other));
        let pairs: Vec<(usize, &Member)> = (0..MEMBERS).flat_map(of).collect();
        let answers: Vec<Result<()>> = std::thread::scope(|scope| {
            let ask = |(at, other): &(usize, &Member)| connected(&members[*at], other);
            let asked: Vec<_> = pairs
                .iter()
                .map(|pair| scope.spawn(move || ask(pair)))
                .collect();
            let answers = asked.into_iter().map(|asked| asked.join());
            answers
                .map(|a| a.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        answers.into_iter().collect::<Result<()>>()?;
        note(format_args!(
            "{} of {} pairs after {:.1} s",
            pairs.len(),
            pairs.len(),
            start.elapsed().as_secs_f64()
        ));
        let (one, other) = (&members[0], &members[1]);
        let to = (&other.node.host.ns, IpAddr::from(other.overlay.v4));
        let flow = UdpFlow::start(&one.node.host.ns, to, LOAD)?;
        eventually(Duration::from_secs(20), "half of 600 packets come", || {
            ensure!(flow.arrived() >= 300, "{}", flow.arrived());
            Ok(())
        })?;
        let report = flow.finish()?;
        ensure!(report.duplicates == 0 && report.altered == 0, "{report:?}");
        let lost = wires.first().context("no wire")?.counters();
        note(format_args!("{report:?}; the first wire: {lost:?}"));
        Ok(())
    });
}

/// Waits until a ping has come back.
fn connected(one: &Member, other: &Member) -> Result<()> {
    let what = format!("{} pings {}", one.overlay.name, other.overlay.name);
    let to = IpAddr::from(other.overlay.v4);
    eventually(LIMIT, &what, || ping::once(&one.node.host.ns, to)).map(drop)
}
