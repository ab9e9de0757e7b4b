//! Show 1 of Part 4, the hard pairs: a symmetric NAT and one that lets in only what was sent to meet by luck.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kanpachi_tests::{
    client::Node,
    lab::{Lab, run},
    mesh::{Hub, Member, NETWORK, reach},
    nat::{behaviour::Behaviour, gateway::Made, world::World},
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
        let (mut good, mut slowest) = (0, Duration::ZERO);
        for _ in 0..ROUNDS {
            hard.process.terminate(STOP)?;
            hard.start_again()?;
            let start = Instant::now();
            for other in &others {
                reach(&hard, other, LIMIT)?;
            }
            for (other, took) in others.iter().zip(all_direct(&hard, &others, start)) {
                if let Some(took) = took.filter(|took| *took <= scaled(LIMIT)) {
                    (good, slowest) = (good + 1, slowest.max(took));
                } else {
                    note(format_args!("{} is late: {took:?}", other.name()));
                    reach(&hard, other, LIMIT)?;
                }
            }
        }
        let all = OTHERS * ROUNDS;
        note(format_args!(
            "{good} of {all} direct, after {:.1} s at the latest",
            slowest.as_secs_f64()
        ));
        ensure!(good + 1 >= all, "{good} of {all} hard pairs became direct");
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
