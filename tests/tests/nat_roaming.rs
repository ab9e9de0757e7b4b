//! Part 4, show 4: a node moves, to the other address family too, its router forgets it, or it sleeps while the world does, and
//! traffic flows again.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{Families, Host, Lab, Segment, run};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, NETWORK, reach};
use kanpachi_tests::nat::behaviour::{Behaviour, Ports};
use kanpachi_tests::nat::gateway::{Gateway, Made};
use kanpachi_tests::nat::world::{Kind, World};
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::{eventually, give_up, quietly, scaled};
use nix::sys::signal::Signal;

/// From the answer after a move to a direct path.
const DIRECT_AGAIN: Duration = Duration::from_secs(15);
/// From the new address to the first answer.
const AFTER_A_MOVE: Duration = Duration::from_secs(2);
const MOVES: usize = 10;
/// From when a router has forgotten a node, which nobody is told of, to the first answer: as when a path is cut.
const AFTER_IT_FORGOT: Duration = Duration::from_secs(5);
/// How long one is off, how often, and from when it is on again to the first answer.
const OFF: Duration = Duration::from_secs(15);
const OUTAGES: usize = 2;
const AFTER_AN_OUTAGE: Duration = Duration::from_secs(10);
/// How long the sleeper's first NAT keeps a mapping, and how long the sleeper sleeps: no session and no connection is left.
const FORGETS_AFTER: Duration = Duration::from_secs(30);
const SLEEP: Duration = Duration::from_secs(200);
/// From waking to the first answer.
const AFTER_A_SLEEP: Duration = Duration::from_secs(10);
/// So long after the last answer nobody may call a path direct that is dead.
const NOTICED: Duration = Duration::from_secs(6);
/// Two pings are at most so far apart that the first answer may be a little older than it looks.
const PING_GRAIN: Duration = Duration::from_millis(400);

/// A peer on the public segment, and one behind a port-restricted NAT.
const TWO: &[(Kind, &str)] = &[(Kind::OnlyV4, "only-v4"), (Kind::PortRestricted, "port")];

/// A hub without a node, peers that stay where they are, and one that is to move.
struct Roaming {
    _hub: Hub,
    _world: World,
    stays: Vec<Member>,
    mover: Member,
}

impl Roaming {
    fn start(lab: &mut Lab, mover: &Host, stays: &[(Kind, &str)]) -> Result<Self> {
        let kinds: Vec<Kind> = stays.iter().map(|(kind, _)| *kind).collect();
        let world = World::of(lab, &kinds)?;
        let host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &host, &["--no-node"])?;
        let (mut invite, mut members) = (hub.invite()?.to_owned(), Vec::new());
        for (_, name) in stays {
            let node = Node::new(lab, &world.site(name)?.host)?;
            let member = Member::join(node, &invite)?;
            if members.is_empty() {
                invite = member.node.invite(NETWORK, &["--uses", "2"])?;
            }
            members.push(member);
        }
        let mover = Member::join(Node::new(lab, mover)?, &invite)?;
        let stays = members;
        for peer in &stays {
            reach(&mover, peer, DIRECT)?;
            mover.node.wait_for_path(peer.name(), "direct", DIRECT)?;
        }
        Ok(Self {
            _hub: hub,
            _world: world,
            stays,
            mover,
        })
    }
}

/// Somewhere to move to.
enum Elsewhere {
    Routed(Segment),
    Home(Gateway),
}

impl Elsewhere {
    fn go(&self, lab: &mut Lab, host: &Host) -> Result<Host> {
        match self {
            Self::Routed(segment) => lab.replug(host, segment, Families::OnlyV4),
            Self::Home(gateway) => gateway.move_in(lab, host, 0),
        }
    }
}

fn home(
    lab: &mut Lab,
    name: &str,
    subnet: u8,
    behaviour: Behaviour,
    made: Made,
) -> Result<Gateway> {
    let (upstream, lan) = (lab.public().clone(), [192, 168, subnet, 0].into());
    Gateway::new(lab, name, &upstream, &[lan], behaviour, made)
}

/// A router that gives a node another port when it has forgotten the one of before.
fn forgetful(lab: &mut Lab) -> Result<Gateway> {
    let random = Behaviour {
        ports: Ports::Random,
        ..Behaviour::PORT_RESTRICTED
    };
    let user = Made::InUserSpace(Duration::from_secs(60));
    home(lab, "home", 1, random, user)
}

#[test]
fn traffic_flows_two_seconds_after_each_of_ten_moves() {
    run("nat-moves", |lab| {
        let start = lab.lan("start")?;
        let host = lab.host_with("mover", &start, Families::OnlyV4)?;
        let Roaming { stays, mover, .. } = &Roaming::start(lab, &host, TWO)?;
        let plain = Behaviour::PORT_RESTRICTED;
        let user = Made::InUserSpace(Duration::from_secs(60));
        let places = [
            Elsewhere::Routed(lab.lan("cafe")?),
            Elsewhere::Home(home(lab, "home", 1, plain, Made::ByKernel)?),
            Elsewhere::Home(home(lab, "office", 7, Behaviour::ADDRESS_RESTRICTED, user)?),
            Elsewhere::Home(home(lab, "friend", 1, Behaviour::CARRIER, user)?),
            Elsewhere::Routed(start),
        ];
        let mut host = host;
        all_answer_soon(mover, stays, MOVES, AFTER_A_MOVE, |number| {
            host = places[number % places.len()].go(lab, &host)?;
            Ok(())
        })
    });
}

#[test]
fn traffic_flows_two_seconds_after_a_move_to_the_other_address_family() {
    run("nat-families", |lab| {
        let places = [lab.lan("start")?, lab.lan("cafe")?];
        let mut host = lab.host_with("mover", &places[0], Families::OnlyV4)?;
        let stays = &[(Kind::Open, "open")];
        let Roaming { stays, mover, .. } = &Roaming::start(lab, &host, stays)?;
        let families = [Families::OnlyV6, Families::OnlyV4, Families::OnlyV6];
        all_answer_soon(mover, stays, families.len(), AFTER_A_MOVE, |number| {
            let place = &places[(number + 1) % places.len()];
            host = lab.replug(&host, place, families[number])?;
            Ok(())
        })
    });
}

#[test]
fn traffic_flows_five_seconds_after_a_router_has_forgotten_everything() {
    run("nat-forgets", |lab| {
        let router = forgetful(lab)?;
        let host = router.host(lab, "mover", 0)?;
        let Roaming { stays, mover, .. } = &Roaming::start(lab, &host, TWO)?;
        all_answer_soon(mover, stays, MOVES / 2, AFTER_IT_FORGOT, |_| {
            router.forget()
        })
    });
}

#[test]
fn traffic_flows_ten_seconds_after_a_router_was_off_for_fifteen() {
    run("nat-off", |lab| {
        let router = forgetful(lab)?;
        let host = router.host(lab, "mover", 0)?;
        let Roaming { stays, mover, .. } = &Roaming::start(lab, &host, TWO)?;
        all_answer_soon(mover, stays, OUTAGES, AFTER_AN_OUTAGE, |_| {
            router.power(false)?;
            let since = Instant::now();
            // Somebody waits for it to come back.
            for peer in stays {
                let (ns, to) = (&mover.node.host.ns, peer.overlay.v4.into());
                ensure!(
                    ping::first(ns, to, OFF / 3)?.is_none(),
                    "a router that is off lets something through"
                );
            }
            quietly(2 * OFF, || {
                ensure!(since.elapsed() >= OFF);
                Ok(())
            })?;
            router.power(true)
        })
    });
}

/// Every time that this has happened to one, all answer it soon.
fn all_answer_soon(
    mover: &Member,
    stays: &[Member],
    times: usize,
    limit: Duration,
    mut happens: impl FnMut(usize) -> Result<()>,
) -> Result<()> {
    let mut slow = Vec::new();
    for number in 0..times {
        settle(mover, stays)?;
        happens(number)?;
        for took in first_answers(mover, stays, limit)? {
            note(format_args!("move {number}: {} after {:?}", took.0, took.1));
            if took.1.is_none_or(|took| took > scaled(limit)) {
                slow.push(format!("move {number}, {}: {:?}", took.0, took.1));
            }
        }
    }
    ensure!(slow.is_empty(), "{}", slow.join("; "));
    Ok(())
}

/// Until everything is as it was before a move.
fn settle(mover: &Member, stays: &[Member]) -> Result<()> {
    mover.node.wait_for_coordinator("connected", DIRECT)?;
    for peer in stays {
        for (from, to) in [(mover, peer), (peer, mover)] {
            let what = format!("{} reaches {} directly", from.name(), to.name());
            eventually(DIRECT_AGAIN, &what, || {
                let path = path(from, to)?;
                // The outside of a router may be on the same segment as a public host.
                ensure!(is_direct(&path), "path {path}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Pings all of them at once and says when each answered first.
fn first_answers(
    from: &Member,
    to: &[Member],
    limit: Duration,
) -> Result<Vec<(String, Option<Duration>)>> {
    // What is late is told as what it is.
    let limit = scaled(2 * limit + AFTER_A_MOVE);
    std::thread::scope(|scope| {
        let pings: Vec<_> = to
            .iter()
            .map(|peer| {
                let (ns, address) = (&from.node.host.ns, peer.overlay.v4.into());
                (
                    peer.name().to_owned(),
                    scope.spawn(move || ping::first(ns, address, limit)),
                )
            })
            .collect();
        pings
            .into_iter()
            .map(|(name, ping)| Ok((name, ping.join().ok().context("a ping panicked")??)))
            .collect()
    })
}

#[test]
fn a_sleeper_that_wakes_elsewhere_is_reached_and_nobody_lies_meanwhile() {
    run("nat-sleep", |lab| {
        let forgets = Made::InUserSpace(FORGETS_AFTER);
        let bed = home(lab, "bed", 1, Behaviour::CARRIER, forgets)?;
        let host = bed.host(lab, "sleeper", 0)?;
        let Roaming { stays, mover, .. } = &Roaming::start(lab, &host, TWO)?;
        let train = home(lab, "train", 9, Behaviour::PORT_RESTRICTED, Made::ByKernel)?;
        mover.process.signal(Signal::SIGSTOP)?;
        let asleep = Instant::now();
        let moved = train.move_in(lab, &host, 0)?;
        ensure!(moved.v4 != host.v4, "the same address");
        // Traffic to the sleeper goes on, as from somebody who waits for it.
        for peer in stays {
            let from = &peer.node.host.ns;
            ensure!(
                ping::first(from, mover.overlay.v4.into(), NOTICED)?.is_none(),
                "a stopped process answers"
            );
        }
        eventually(2 * SLEEP, "the sleeper has slept", || {
            for peer in stays {
                let path = path(peer, mover)?;
                if is_direct(&path) {
                    let who = peer.name();
                    return Err(give_up(format!("{who} calls the path to a sleeper {path}")));
                }
            }
            ensure!(asleep.elapsed() >= SLEEP, "not yet");
            Ok(())
        })?;
        mover.process.signal(Signal::SIGCONT)?;
        wakes(mover, stays)?;
        settle(mover, stays)
    });
}

/// Traffic flows in time, and until it does neither end calls the path direct.
fn wakes(mover: &Member, stays: &[Member]) -> Result<()> {
    let woken = Instant::now();
    let limit = scaled(2 * AFTER_A_SLEEP);
    let mut claims = Vec::new();
    let answers = std::thread::scope(|scope| {
        let pings: Vec<_> = stays
            .iter()
            .map(|peer| {
                let (from, to) = (&mover.node.host.ns, peer.overlay.v4.into());
                scope.spawn(move || {
                    let first = ping::first(from, to, limit)?;
                    Ok::<_, anyhow::Error>(first.map(|_| woken.elapsed()))
                })
            })
            .collect();
        while !pings.iter().all(|ping| ping.is_finished()) {
            for peer in stays {
                for (from, to) in [(mover, peer), (peer, mover)] {
                    let path = path(from, to)?;
                    if is_direct(&path) {
                        let claim =
                            format!("{} calls its path to {} {path}", from.name(), to.name());
                        claims.push((peer.name(), woken.elapsed(), claim));
                    }
                }
            }
        }
        pings
            .into_iter()
            .map(|ping| ping.join().ok().context("a ping panicked")?)
            .collect::<Result<Vec<_>>>()
    })?;
    for (peer, first) in stays.iter().zip(answers) {
        let first = first.with_context(|| format!("{} never answers", peer.name()))?;
        note(format_args!(
            "{} answers {first:?} after waking",
            peer.name()
        ));
        ensure!(
            first <= scaled(AFTER_A_SLEEP),
            "{} answers only after {first:?}",
            peer.name()
        );
        let lie = claims
            .iter()
            .find(|(about, at, _)| *about == peer.name() && *at + PING_GRAIN < first);
        ensure!(
            lie.is_none(),
            "{lie:?}, and the first answer came after {first:?}"
        );
    }
    Ok(())
}

fn path(from: &Member, to: &Member) -> Result<String> {
    let peer = from.node.status()?.peer(to.name())?;
    Ok(peer["path"].as_str().unwrap_or("none").to_owned())
}

fn is_direct(path: &str) -> bool {
    matches!(path, "direct" | "lan")
}
