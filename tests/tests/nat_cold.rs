//! Part 4, show 1, from cold: hosts behind every kind of NAT, all of their nodes killed and started at once, as after a
//! power cut, and every pair has its first answer as soon as when all were up.
//!
//! The first packet of a pair is the first that can be sent and taken: the clock of a pair starts when the adapter is up
//! at both of its ends, which is the moment from which an application at either end has an address to talk from. A node
//! has its adapter long before it has found its coordinator; that time counts. The hub stays up, but for the last round.

use std::fmt;
use std::net::{IpAddr, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::Member;
use kanpachi_tests::nat::joined::{Joined, join};
use kanpachi_tests::nat::matrix::{FIRST_ANSWER, spread};
use kanpachi_tests::nat::world::{Kind, World};
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::{quietly, scaled};

const ROUNDS: usize = 3;
/// Until the adapter of a node is up that was started with all others.
const UP: Duration = Duration::from_secs(10);
/// A pair is given up after this; what comes between [`FIRST_ANSWER`] and this is told as what it is, late.
const LATE: Duration = Duration::from_secs(20);
/// Any port: nothing is sent there.
const DISCARD: u16 = 9;

#[test]
fn every_pair_answers_soon_after_all_were_killed() {
    run("nat-cold", |lab| {
        let world = World::of(lab, &Kind::ALL)?;
        let (mut hub, mut members) = join(lab, &world)?;
        ensure!(members.len() == world.sites.len(), "not everybody joined");
        let mut late = Vec::new();
        for round in 1..=ROUNDS + 1 {
            let with_hub = round > ROUNDS;
            let begun = Instant::now();
            kill_all(&mut members)?;
            if with_hub {
                hub.process.kill()?;
            }
            let started = Instant::now();
            start_all(&mut members)?;
            if with_hub {
                // After the nodes: nobody finds it at the first try.
                hub.start_anew(&[])?;
            }
            let firsts = first_answers(&members, round)?;
            let up = firsts.iter().map(|first| first.begun).max();
            let (median, slowest) = spread(firsts.iter().filter_map(|first| first.took))?;
            println!(
                "round {round}{}: {} pairs, all adapters up after {:.2?}; first answer: median {median:.0?}, slowest {slowest:.2?}; {:.1?} in all, of which the nodes had {:.1?} of processor time",
                if with_hub { ", hub and all" } else { "" },
                firsts.len(),
                up.context("no pairs")?.duration_since(started),
                begun.elapsed(),
                cpu_time(&members)?,
            );
            let missed = firsts.iter().filter(|first| !first.is_in_time());
            late.extend(missed.map(|first| format!("round {round}: {first}")));
        }
        ensure!(
            late.is_empty(),
            "not within {:?}:\n{}",
            scaled(FIRST_ANSWER),
            late.join("\n")
        );
        Ok(())
    });
}

/// What the nodes have used since they were started, together. Here they share the processors of one machine, which have
/// nothing left while they start: a round is as slow as this is much.
fn cpu_time(members: &Joined<'_>) -> Result<Duration> {
    let times = members.iter().map(|(_, member)| member.process.cpu_time());
    times.sum()
}

/// What became of a pair.
struct First {
    from: String,
    to: String,
    /// When both adapters were up.
    begun: Instant,
    /// From then to the first answer.
    took: Option<Duration>,
}

impl First {
    fn is_in_time(&self) -> bool {
        self.took.is_some_and(|took| took <= scaled(FIRST_ANSWER))
    }
}

impl fmt::Display for First {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}: ", self.from, self.to)?;
        match self.took {
            Some(took) => write!(f, "{took:.2?}"),
            None => f.write_str("no answer"),
        }
    }
}

/// SIGKILL to all before any is waited for.
fn kill_all(members: &mut Joined<'_>) -> Result<()> {
    for (_, member) in &*members {
        member.process.signal(nix::sys::signal::Signal::SIGKILL)?;
    }
    members
        .iter_mut()
        .try_for_each(|(_, member)| member.process.kill())
}

fn start_all(members: &mut Joined<'_>) -> Result<()> {
    members.iter_mut().try_for_each(|(_, member)| {
        member.process = member.node.start(&["up"])?;
        Ok(())
    })
}

/// Pings every pair from the moment at which both have their adapter, each by a process of its own. Who of a pair pings
/// changes with each round.
fn first_answers(members: &Joined<'_>, round: usize) -> Result<Vec<First>> {
    thread::scope(|scope| {
        let (tell, up) = mpsc::channel();
        for at in 0..members.len() {
            let tell = tell.clone();
            scope.spawn(move || tell.send((at, wait_until_up(members, at))));
        }
        drop(tell);
        let (mut there, mut pings): (Vec<usize>, _) = (Vec::new(), Vec::new());
        for (at, outcome) in up {
            outcome?;
            for other in there.iter().copied() {
                let (one, other) = (at.min(other), at.max(other));
                let turned = (one + other + round).is_multiple_of(2);
                let (from, to) = if turned { (other, one) } else { (one, other) };
                pings.push(scope.spawn(move || first(&members[from].1, &members[to].1)));
            }
            there.push(at);
        }
        let pings = pings.into_iter();
        pings
            .map(|ping| {
                ping.join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect()
    })
}

fn first(from: &Member, to: &Member) -> Result<First> {
    let begun = Instant::now();
    let took = ping::first(&from.node.host.ns, to.overlay.v4.into(), scaled(LATE))?;
    Ok(First {
        from: from.name().to_owned(),
        to: to.name().to_owned(),
        begun,
        took,
    })
}

/// Waits until the kernel would send to another member by this one's adapter.
fn wait_until_up(members: &Joined<'_>, at: usize) -> Result<()> {
    let other = if at == 0 { 1 } else { 0 };
    let (own, other) = (&members[at].1, members[other].1.overlay.v4);
    let look = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((other, DISCARD))?;
        let from = socket.local_addr()?.ip();
        ensure!(from == IpAddr::V4(own.overlay.v4), "sends from {from}");
        Ok(())
    };
    let waited = own.node.host.ns.run(|| quietly(UP, look));
    waited.with_context(|| format!("{} has no adapter", own.name()))
}
