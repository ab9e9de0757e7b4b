//! Show 1 of Part 4, the hard pairs: a symmetric NAT and one that lets in only what was sent to meet by luck. How long it took
//! is what both ends say; that they tell the truth is read from packets on the public segment.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kanpachi_tests::{
    capture::Capture,
    client::Node,
    lab::{Lab, run},
    mesh::{Hub, Member, NETWORK, reach},
    nat::{
        behaviour::Behaviour,
        gateway::Made,
        matrix::{Found, Pair},
        world::World,
    },
    note,
    wait::{eventually, scaled},
};

/// Pairs of one symmetric side and five others, each tried four times.
const OTHERS: usize = 5;
const ROUNDS: usize = 4;
/// From the start of the symmetric side to a direct path.
const LIMIT: Duration = Duration::from_secs(15);
/// How long a pair is waited for before it counts as one that stays on the relay.
const PATIENCE: Duration = Duration::from_secs(25);
const STOP: Duration = Duration::from_secs(5);
/// Until a burst shows what the status says.
const SHOWN: Duration = Duration::from_secs(5);

#[test]
fn nineteen_of_twenty_hard_pairs_become_direct_and_the_rest_has_a_relay() {
    run("nat-birthday", |lab| {
        let mut world = World::default();
        let hub = lab.public_host("hub")?;
        let hub = Hub::start(lab, &hub, &["--no-node"])?;
        let mut hard = start(lab, &mut world, "hard", Behaviour::SYMMETRIC, hub.invite()?)?;
        let uses = OTHERS.to_string();
        let invite = hard.node.invite(NETWORK, &["--uses", &uses])?;
        let mut others = Vec::new();
        for at in 0..OTHERS {
            let behaviour = if at % 2 == 0 {
                Behaviour::PORT_RESTRICTED
            } else {
                Behaviour::PORT_SHIFTED
            };
            others.push(start(
                lab,
                &mut world,
                &format!("easy-{at}"),
                behaviour,
                &invite,
            )?);
        }
        let capture = Capture::start(&lab.public().ns, lab.public().bridge, b"")?;
        let (mut good, mut slowest) = (0, Duration::ZERO);
        for _ in 0..ROUNDS {
            hard.process.terminate(STOP)?;
            hard.start_again()?;
            let start = Instant::now();
            for other in &others {
                reach(&hard, other, LIMIT)?;
            }
            for (other, took) in others.iter().zip(all_direct(&hard, &others, start)) {
                let pair = Pair {
                    one: (world.site(hard.name())?, &hard),
                    other: (world.site(other.name())?, other),
                };
                let cell = pair.probe(&capture, (0, 1), SHOWN)?;
                let in_time = took.filter(|took| *took <= scaled(LIMIT));
                if let Some(took) = in_time.filter(|_| cell.is_good()) {
                    (good, slowest) = (good + 1, slowest.max(took));
                } else {
                    note(format_args!("{} is late: {took:?}, {cell:?}", other.name()));
                    // It has a relay meanwhile.
                    let found = cell.found;
                    ensure!(matches!(found, Found::Direct | Found::Relay), "{found:?}");
                }
            }
        }
        let all = OTHERS * ROUNDS;
        note(format_args!(
            "{good} of {all} direct, after {:.1} s at the latest",
            slowest.as_secs_f64()
        ));
        ensure!(
            good + 1 >= all,
            "{good} of {all} hard pairs became direct, by packets too"
        );
        Ok(())
    });
}

fn start(
    lab: &mut Lab,
    world: &mut World,
    name: &str,
    behaviour: Behaviour,
    invite: &str,
) -> Result<Member> {
    world.home(lab, name, behaviour, Made::ByKernel)?;
    let node = Node::new(lab, &world.site(name)?.host)?;
    Member::join(node, invite)
}

/// How long after `start` each pair was direct. All are waited for at once: nobody's time counts for another.
fn all_direct(hard: &Member, others: &[Member], start: Instant) -> Vec<Option<Duration>> {
    std::thread::scope(|scope| {
        let waits: Vec<_> = others
            .iter()
            .map(|other| scope.spawn(|| direct(hard, other).ok().map(|()| start.elapsed())))
            .collect();
        let took = |wait: std::thread::ScopedJoinHandle<'_, _>| wait.join().ok().flatten();
        waits.into_iter().map(took).collect()
    })
}

/// Waits until both ends say that the pair is direct.
fn direct(one: &Member, other: &Member) -> Result<()> {
    let what = format!("{} and {} are direct", one.name(), other.name());
    eventually(PATIENCE, &what, || {
        for (from, to) in [(one, other), (other, one)] {
            let peer = from.node.status()?.peer(to.name())?;
            ensure!(peer["path"] == "direct", "path {}", peer["path"]);
        }
        Ok(())
    })
}
