//! Part 4, show 1, from cold: hosts behind every kind of NAT, all of their nodes killed and started at once, as after a
//! power cut, and every pair has its first answer, and is direct if it can be, as soon as when all were up. When it is direct
//! is what both ends say; after the last round packets on the public segment show that they tell the truth.
//!
//! The first packet of a pair is the first that can be sent and taken: the clock of a pair starts when the adapter is up
//! at both of its ends, which is the moment from which an application at either end has an address to talk from. A node
//! has its adapter long before it has found its coordinator; that time counts. The hub stays up, but for the last rounds.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, UdpSocket};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::capture::Capture;
use kanpachi_tests::lab::run;
use kanpachi_tests::nat::behaviour::Verdict;
use kanpachi_tests::nat::joined::{Joined, join};
use kanpachi_tests::nat::matrix::{Cell, FIRST_ANSWER, limit, pair, probe_all, spread};
use kanpachi_tests::nat::world::{Kind, World};
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::{quietly, scaled, watch};

const ROUNDS: usize = 2;
/// And with the hub: nodes that connect while it starts once had streams to it that led nowhere, in one round of six.
const WITH_HUB: usize = 3;
/// Until the adapter of a node is up that was started with all others.
const UP: Duration = Duration::from_secs(10);
/// A pair is given up after this; what comes between [`FIRST_ANSWER`] and this is told as what it is, late.
const LATE: Duration = Duration::from_secs(20);
/// How often all are asked which pairs are direct: each answer is a process that takes time from the nodes.
const LOOK: Duration = Duration::from_secs(1);
/// Until it is seen which pairs that need luck have none.
const LUCK: Duration = Duration::from_secs(20);
/// Of those one in twenty may have none, and as there are few, so many more: where the chance is just that, fewer runs than one
/// in ten see more.
const SPREAD: usize = 2;
/// Any port: nothing is sent there.
const DISCARD: u16 = 9;

#[test]
fn every_pair_answers_soon_after_all_were_killed() {
    run("nat-cold", |lab| {
        let world = World::of(lab, &Kind::ALL)?;
        let (mut hub, mut members) = join(lab, &world)?;
        ensure!(members.len() == world.sites.len(), "not everybody joined");
        let (mut late, mut unlucky) = (Vec::new(), Vec::new());
        for round in 1..=ROUNDS + WITH_HUB {
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
            for pair in become_direct(&members, &firsts)? {
                let line = format!("round {round}: {pair}");
                if pair.verdict == Verdict::Direct {
                    late.push(line);
                } else {
                    unlucky.push(line);
                }
            }
        }
        let hard = (ROUNDS + WITH_HUB) * hard_pairs(&members);
        println!("of {hard} pairs that need luck {} had none", unlucky.len());
        ensure!(
            late.is_empty(),
            "not within {:?}, or not direct within {:?}:\n{}",
            scaled(FIRST_ANSWER),
            scaled(limit(Verdict::Direct)),
            late.join("\n")
        );
        ensure!(
            unlucky.len() <= hard / 20 + SPREAD,
            "not direct:\n{}",
            unlucky.join("\n")
        );
        let capture = Capture::start(&lab.public().ns, lab.public().bridge, b"")?;
        let cells = probe_all(&members, &capture)?;
        let good = |cell: &&Cell| match cell.expected {
            // Whether luck was with it was looked at above.
            Verdict::DirectByBirthday => {
                (cell.status.iter()).all(|path| cell.found.agrees_with(path))
            }
            _ => cell.is_good(),
        };
        let bad: Vec<String> = (cells.iter().filter(|cell| !good(cell)))
            .map(|cell| format!("{cell:?}"))
            .collect();
        ensure!(bad.is_empty(), "not as they say:\n{}", bad.join("\n"));
        Ok(())
    });
}

/// What the nodes have used since they were started, together. Here they share the processors of one machine, which have
/// nothing left while they start: a round is as slow as this is much.
fn cpu_time(members: &Joined<'_>) -> Result<Duration> {
    let times = members.iter().map(|(_, member)| member.process.cpu_time());
    times.sum()
}

/// A pair that was not direct in time.
struct Indirect {
    names: [String; 2],
    verdict: Verdict,
    /// When it was seen to be, if at all.
    took: Option<Duration>,
}

impl fmt::Display for Indirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [one, other] = &self.names;
        match self.took {
            Some(took) => write!(f, "{one} and {other} direct after {took:.2?}"),
            None => write!(f, "{one} and {other} not direct"),
        }
    }
}

fn hard_pairs(members: &Joined<'_>) -> usize {
    let all = (0..members.len()).flat_map(|one| (0..one).map(move |other| (other, one)));
    let verdicts = all.map(|at| pair(members, at).expected());
    verdicts
        .filter(|verdict| *verdict == Verdict::DirectByBirthday)
        .count()
}

/// Waits until both ends of each pair that can be direct say that it is. Returns those for which that took too long.
fn become_direct(members: &Joined<'_>, firsts: &[First]) -> Result<Vec<Indirect>> {
    let mut open: Vec<(&First, Verdict)> = firsts
        .iter()
        .map(|first| (first, pair(members, first.pair).expected()))
        .filter(|(_, verdict)| matches!(verdict, Verdict::Direct | Verdict::DirectByBirthday))
        .collect();
    let (mut seen, mut late) = (Vec::new(), Vec::new());
    watch(LUCK, LOOK, || {
        let paths = paths(members)?;
        let now = Instant::now();
        open.retain(|(first, verdict)| {
            let (one, other) = first.pair;
            let direct = |from: usize, to: usize| paths[from].contains(members[to].1.name());
            if !(direct(one, other) && direct(other, one)) {
                return true;
            }
            let took = now.duration_since(first.begun);
            seen.push(took);
            if took > scaled(limit(*verdict)) {
                late.push(Indirect::new(first, *verdict, Some(took)));
            }
            false
        });
        Ok(open.is_empty())
    })?;
    let (median, slowest) = spread(seen.into_iter())?;
    note(format_args!(
        "direct: median {median:.1?}, slowest {slowest:.1?}, not {}",
        open.len()
    ));
    let never = open.into_iter();
    late.extend(never.map(|(first, verdict)| Indirect::new(first, verdict, None)));
    Ok(late)
}

impl Indirect {
    fn new(first: &First, verdict: Verdict, took: Option<Duration>) -> Self {
        Self {
            names: [first.from.clone(), first.to.clone()],
            verdict,
            took,
        }
    }
}

/// Whom each member calls direct.
fn paths(members: &Joined<'_>) -> Result<Vec<BTreeSet<String>>> {
    let told = members.iter().map(|(_, member)| {
        let status = member.node.status()?;
        let direct = status.members().filter(|peer| {
            let path = peer["path"].as_str();
            matches!(path, Some("lan" | "direct"))
        });
        let names = direct.filter_map(|peer| peer["name"].as_str());
        Ok(names.map(str::to_owned).collect())
    });
    told.collect()
}

/// What became of a pair.
struct First {
    pair: (usize, usize),
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
                pings.push(scope.spawn(move || first(members, from, to)));
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

fn first(members: &Joined<'_>, from: usize, to: usize) -> Result<First> {
    let pair = (from, to);
    let (from, to) = (&members[from].1, &members[to].1);
    let begun = Instant::now();
    let took = ping::first(&from.node.host.ns, to.overlay.v4.into(), scaled(LATE))?;
    Ok(First {
        pair,
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
