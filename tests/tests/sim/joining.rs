//! Joining, in good weather and in bad.

use std::time::Duration;

use kanpachi_tests::{
    note,
    sim::{Plan, Weather, World, node::Joined},
};

use super::{for_seeds, ms, secs};

#[test]
fn two_machines_join_by_invite_and_talk_within_five_seconds() {
    for_seeds("join", 20, |seed| {
        let mut world = World::new(&Plan::new(seed, 2));
        world.join(0);
        world.join(1);
        let time = world.run_until(secs(5), |w| w.is_in(0) && w.is_in(1));
        assert!(time.is_some(), "not in after 5 s");
        world.flow(0, 1, ms(50));
        world.flow(1, 0, ms(50));
        let left = secs(5) - world.elapsed();
        let time = world.run_until(left, |w| {
            w.traffic.score(0, 1).delivered > 0 && w.traffic.score(1, 0).delivered > 0
        });
        assert!(time.is_some(), "no packet both ways after 5 s");
        world
    });
}

#[test]
fn at_30_percent_loss_every_pair_has_a_tunnel_within_90_seconds() {
    let mut slowest = Duration::ZERO;
    for_seeds("storm", 300, |seed| {
        let nodes = 2 + (seed % 4) as usize;
        let all: Vec<usize> = (0..nodes).collect();
        let mut world = World::new(&Plan::new(seed, nodes).weather(Weather::STORM));
        for index in &all {
            world.join(*index);
        }
        // A join that nobody answers for 12 s says so, and whoever typed it types it again.
        while !world.all_up(&all) {
            assert!(
                world.elapsed() < secs(90),
                "a pair has no tunnel after 90 s"
            );
            world.run_until(secs(1), |w| w.all_up(&all));
            for index in &all {
                if matches!(world.nodes[*index].joined(), Joined::Failed(why) if why == "nobody answers")
                {
                    note(format_args!("seed {seed}: {index} joins again"));
                    world.join(*index);
                }
            }
        }
        slowest = slowest.max(world.elapsed());
        world
    });
    note(format_args!("slowest mesh: {:.1} s", slowest.as_secs_f64()));
}

#[test]
fn a_used_or_unknown_invite_lets_nobody_in() {
    for_seeds("invites", 5, |seed| {
        let mut world = World::new(&Plan::new(seed, 3));
        let invite = world.invite(Some(1));
        world.join_with(0, invite.clone());
        world.run_for(secs(2));
        assert!(world.is_in(0));
        world.join_with(1, invite);
        let mut wrong = world.invite(Some(1));
        wrong.secret.0[0] ^= 1;
        world.join_with(2, wrong);
        world.run_for(secs(5));
        for index in [1, 2] {
            assert!(matches!(world.nodes[index].joined(), Joined::Failed(_)));
            assert_eq!(
                world.nodes[index].disk.org(),
                None,
                "something was written for a refusal"
            );
        }
        // The same machine with a good one.
        world.join(1);
        world.join(2);
        let up = world.run_until(secs(10), |w| w.all_up(&[0, 1, 2]));
        assert!(up.is_some());
        world
    });
}

/// A run with everything in it, for the comparison below.
fn eventful(seed: u64) -> World {
    let plan = Plan::new(seed, 4)
        .weather(Weather::STORM)
        .rekey_after(secs(5))
        .recorded();
    let mut world = World::new(&plan);
    for index in 0..4 {
        world.join(index);
    }
    world.flow(0, 1, ms(200));
    world.flow(2, 3, ms(200));
    world.run_for(secs(20));
    world.kill_coordinator();
    world.stop_node(1, false);
    world.run_for(secs(10));
    world.start_coordinator();
    world.start_node(1);
    world.run_for(secs(30));
    world
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for_seeds("twice", 3, |seed| {
        let (one, two) = (eventful(seed), eventful(seed));
        for (number, (a, b)) in one.log.lines().zip(two.log.lines()).enumerate() {
            assert_eq!(a, b, "line {number}");
        }
        assert_eq!(one.log.summary(), two.log.summary());
        assert_ne!(one.log.summary(), eventful(seed + 1).log.summary());
        assert!(one.log.lines().count() > 1000);
        one
    });
}
