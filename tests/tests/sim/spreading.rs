//! What members tell each other while no coordinator does: evictions, newcomers, secrets, an owner's word.

use kanpachi_common::NetworkId;
use kanpachi_tests::sim::{Plan, Weather, World};

use super::{for_seeds, ms, secs};

/// The one network of a world.
fn lan(world: &World) -> NetworkId {
    world.coordinator.network
}

fn epoch(world: &World, index: usize) -> u64 {
    let rosters = world.nodes[index]
        .process
        .as_ref()
        .and_then(|p| p.rosters());
    let roster = rosters.and_then(|r| r.roster(&lan(world)));
    roster.map_or(0, |r| r.head().epoch)
}

/// Has this node a session with the other?
fn talks_to(world: &World, index: usize, other: usize) -> bool {
    let process = world.nodes[index].process.as_ref();
    process.is_some_and(|p| p.session_peers().any(|p| p == world.nodes[other].id()))
}

/// Does this node have the secrets that its rosters name?
fn has_secrets(world: &World, index: usize) -> bool {
    let rosters = world.nodes[index]
        .process
        .as_ref()
        .and_then(|p| p.rosters());
    rosters.is_some_and(|r| !r.lacks_secret())
}

/// All but the informed are cut off from the coordinator, which removes a member and is killed.
fn evicted_behind_their_backs(world: &mut World, informed: &[usize], out: usize) {
    let server = world.coordinator.ip();
    let hidden: Vec<usize> = (0..world.nodes.len())
        .filter(|n| !informed.contains(n))
        .collect();
    for index in hidden {
        let own = world.nodes[index].addr.ip();
        world.net.set_cut(own, server, true);
    }
    let id = world.nodes[out].id();
    world.with_coordinator(|c, clock| c.remove(id, clock));
    let knows = |w: &World, n: usize| !talks_to(w, n, out) && has_secrets(w, n);
    let told = world.run_until(secs(5), |w| informed.iter().all(|n| knows(w, *n)));
    assert!(told.is_some(), "the coordinator's own word did not arrive");
    world.kill_coordinator();
}

#[test]
fn one_informed_member_spreads_an_eviction_and_the_new_secret() {
    for_seeds("witness", 30, |seed| {
        let weather = if seed % 2 == 0 {
            Weather::ROUGH
        } else {
            Weather::CLEAR
        };
        let mut world = World::mesh(&Plan::new(seed, 6).weather(weather));
        evicted_behind_their_backs(&mut world, &[0], 5);
        let gone = world.run_until(secs(10), |w| (0..5).all(|n| !talks_to(w, n, 5)));
        assert!(gone.is_some(), "a session with the evicted after 10 s");
        let all = world.run_until(secs(20), |w| (0..5).all(|n| has_secrets(w, n)));
        assert!(all.is_some(), "somebody lacks the new secret");
        // It cannot come back by starting again.
        world.stop_node(5, false);
        world.start_node(5);
        world.run_for(secs(30));
        assert!((0..5).all(|n| !talks_to(&world, n, 5)));
        assert!(world.all_up(&[0, 1, 2, 3, 4]));
        world
    });
}

#[test]
fn a_member_that_was_away_hears_of_it_from_a_member_and_refuses_the_evicted() {
    for_seeds("away", 30, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 5));
        world.stop_node(3, seed % 2 == 0);
        evicted_behind_their_backs(&mut world, &[0], 4);
        world.run_for(secs(10));
        world.start_node(3);
        let up = world.run_until(secs(15), |w| w.all_up(&[0, 1, 2, 3]));
        assert!(up.is_some(), "it found nobody");
        let knows = world.run_until(secs(10), |w| epoch(w, 3) == epoch(w, 0));
        assert!(knows.is_some(), "it goes by the old roster");
        assert!(!talks_to(&world, 3, 4));
        assert!(has_secrets(&world, 3));
        world
    });
}

#[test]
fn an_owner_puts_a_member_out_while_the_coordinator_is_dead_and_it_stays_out() {
    for_seeds("suspend", 30, |seed| {
        let mut world = World::owned_mesh(&Plan::new(seed, 5));
        world.kill_coordinator();
        world.run_for(secs(12));
        let network = lan(&world);
        let out = world.nodes[4].id();
        let (member, _) = world.nodes[0].listed(&network, &out).expect("a member");
        assert!(world.with_node(0, |node, now| node.suspend(network, member, now)));
        let gone = world.run_until(secs(10), |w| (0..4).all(|n| !talks_to(w, n, 4)));
        assert!(gone.is_some(), "a session with the suspended after 10 s");
        world.stop_node(2, false);
        world.start_node(2);
        world.run_for(secs(20));
        assert!((0..4).all(|n| !talks_to(&world, n, 4)), "it came back");
        assert!(world.all_up(&[0, 1, 2, 3]));
        world
    });
}

#[test]
fn a_newcomer_that_only_some_know_is_let_in_by_its_proof() {
    for_seeds("newcomer", 30, |seed| {
        let mut world = World::new(&Plan::new(seed, 4));
        for index in 0..3 {
            world.join(index);
        }
        let up = world.run_until(secs(60), |w| w.all_up(&[0, 1, 2]));
        assert!(up.is_some());
        // Nobody but the newcomer reaches the coordinator, and nobody knows the newcomer.
        let server = world.coordinator.ip();
        for index in 0..3 {
            let own = world.nodes[index].addr.ip();
            world.net.set_cut(own, server, true);
        }
        world.join(3);
        let joined = world.run_until(secs(20), |w| w.is_in(3));
        assert!(joined.is_some(), "it did not join");
        world.kill_coordinator();
        let met = world.run_until(secs(15), |w| w.all_up(&[0, 1, 2, 3]));
        assert!(met.is_some(), "somebody does not talk to the newcomer");
        let same = world.run_until(secs(15), |w| (0..4).all(|n| epoch(w, n) == epoch(w, 3)));
        assert!(same.is_some(), "somebody goes by the old roster");
        world
    });
}

#[test]
fn a_bridge_carries_news_between_two_parts_within_a_minute() {
    for_seeds("bridge", 20, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 6));
        let cut = |world: &mut World, cut: bool| {
            for left in 0..3 {
                for right in 3..5 {
                    let [a, b] = [left, right].map(|n| world.nodes[n].addr.ip());
                    world.net.set_cut(a, b, cut);
                }
            }
        };
        cut(&mut world, true);
        // The bridge, node 5, is away while the left part hears of an eviction.
        world.stop_node(5, false);
        evicted_behind_their_backs(&mut world, &[0, 1], 2);
        world.run_for(secs(20));
        assert!(epoch(&world, 3) < epoch(&world, 0));
        world.start_node(5);
        let crossed = world.run_until(secs(60), |w| {
            epoch(w, 3) == epoch(w, 0) && epoch(w, 4) == epoch(w, 0)
        });
        assert!(crossed.is_some(), "the right part goes by the old roster");
        world
    });
}

#[test]
fn news_that_were_told_while_nothing_passed_are_told_again_when_it_does() {
    for_seeds("deaf", 20, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 4));
        // No question of the beginning is under way any more, and the next look at what ages is not due.
        world.run_for(secs(5));
        // The witness sees the coordinator alone, for so short a time that no tunnel notices.
        let others = [1, 2, 3].map(|n| world.nodes[n].addr.ip());
        let own = world.nodes[0].addr.ip();
        for other in others {
            world.net.set_cut(own, other, true);
        }
        evicted_behind_their_backs(&mut world, &[0], 3);
        // Nor does the dead coordinator's word arrive late.
        for line in (1..4)
            .flat_map(|n| world.net.lines_of(n))
            .collect::<Vec<_>>()
        {
            world.net.forget(line);
        }
        world.net.heal();
        let gone = world.run_until(secs(6), |w| (0..3).all(|n| !talks_to(w, n, 3)));
        assert!(gone.is_some(), "a session with the evicted after 6 s");
        world
    });
}

#[test]
fn spreading_is_not_a_storm() {
    for_seeds("quiet", 3, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 8));
        world.kill_coordinator();
        world.run_for(secs(30));
        let before = world.questions();
        world.run_for(secs(600));
        let asked = world.questions() - before;
        // Every pair once in five minutes, both ways.
        assert!(asked <= 8 * 7 * 3, "{asked} questions in ten minutes");
        world.run_for(ms(1));
        world
    });
}
