//! Coordinators and nodes that die, come back, or are somebody else.

use kanpachi_tests::sim::{Plan, Weather, World};

use super::{for_seeds, ms, secs};

#[test]
fn a_killed_coordinator_cuts_nothing_and_everybody_comes_back() {
    for_seeds("outage", 30, |seed| {
        let all = [0, 1, 2];
        let mut world = World::mesh(&Plan::new(seed, 3));
        for (from, to) in [(0, 1), (1, 0), (1, 2), (2, 0)] {
            world.flow(from, to, ms(100));
        }
        let pause = ms(world.rng.below(4000));
        world.run_for(secs(5) + pause);
        let (sessions, before) = (world.sessions(), world.traffic.longest_gap(world.elapsed()));
        assert!(before < secs(1), "a gap of {before:?} in good weather");

        world.kill_coordinator();
        world.run_for(secs(10));
        for index in all {
            assert!(
                world.nodes[index].is_unreachable(),
                "{index} after 10 s: {:?}",
                world.nodes[index].login()
            );
        }
        let outage = ms(world.rng.below(40_000));
        world.run_for(outage);
        world.start_coordinator();
        let back = world.run_until(secs(15), |w| w.all_connected(&all));
        assert!(back.is_some(), "somebody is not logged in after 15 s");
        world.run_for(secs(5));
        assert_eq!(
            world.sessions(),
            sessions,
            "a session was replaced because of the coordinator"
        );
        let gap = world.traffic.longest_gap(world.elapsed());
        assert!(gap < secs(1), "no packet for {gap:?}");
        world
    });
}

#[test]
fn an_outage_in_bad_weather_replaces_no_session_either() {
    for_seeds("rough outage", 20, |seed| {
        let all = [0, 1, 2];
        let mut world = World::mesh(&Plan::new(seed, 3).weather(Weather::ROUGH));
        world.flow(0, 1, ms(100));
        world.flow(1, 2, ms(100));
        // Two handshakes that crossed settle on one session by then, also where nothing but keepalives passes.
        world.run_for(secs(50));
        // An idle pair takes a few lost keepalives for silence, coordinator or not: the busy ones are looked at.
        let busy = |w: &World| {
            let idle = [0, 2].map(|n| w.nodes[n].id());
            let mut sessions = w.sessions();
            sessions.retain(|(index, peer), _| *index == 1 || !idle.contains(peer));
            sessions
        };
        let sessions = busy(&world);
        world.kill_coordinator();
        world.run_for(secs(30));
        assert!(all.iter().all(|n| world.nodes[*n].is_unreachable()));
        world.start_coordinator();
        let back = world.run_until(secs(15), |w| w.all_connected(&all));
        assert!(back.is_some(), "somebody is not logged in after 15 s");
        world.run_for(secs(5));
        assert_eq!(busy(&world), sessions);
        let gap = world.traffic.longest_gap(world.elapsed());
        assert!(gap < ms(2500), "no packet for {gap:?}");
        world
    });
}

#[test]
fn ten_restarts_of_every_node_and_the_coordinator_change_no_address() {
    for_seeds("restarts", 5, |seed| {
        let all = [0, 1, 2];
        let mut world = World::mesh(&Plan::new(seed, 3));
        let own = |w: &World, n: usize| w.nodes[n].process.as_ref().and_then(|p| p.own());
        let before: Vec<_> = all.iter().map(|n| own(&world, *n)).collect();
        assert!(
            before
                .iter()
                .all(|own| own.is_some_and(|o| o.ipv4.is_some()))
        );
        for round in 0..10 {
            for index in all {
                world.stop_node(index, round % 2 == 0);
            }
            world.kill_coordinator();
            world.run_for(ms(500));
            for index in all {
                world.start_node(index);
                // The addresses are there before the coordinator is.
                assert_eq!(own(&world, index), before[index], "in round {round}");
            }
            world.run_for(secs(1));
            world.start_coordinator();
            let up = world.run_until(secs(60), |w| w.all_up(&all) && w.all_connected(&all));
            assert!(up.is_some(), "no mesh in round {round}");
            let after: Vec<_> = all.iter().map(|n| own(&world, *n)).collect();
            assert_eq!(after, before, "in round {round}");
        }
        world
    });
}

#[test]
fn nodes_find_each_other_without_a_coordinator_after_a_restart() {
    for_seeds("cold start", 10, |seed| {
        let all = [0, 1, 2];
        let mut world = World::mesh(&Plan::new(seed, 3).weather(Weather::ROUGH));
        world.kill_coordinator();
        for index in all {
            world.stop_node(index, false);
        }
        world.run_for(secs(60));
        for index in all {
            world.start_node(index);
        }
        let up = world.run_until(secs(20), |w| w.all_up(&all));
        assert!(up.is_some(), "no mesh from what the disks remember");
        world
    });
}

#[test]
fn a_coordinator_set_up_anew_is_another_organisation_and_refused() {
    for_seeds("wiped", 10, |seed| {
        let all = [0, 1];
        let mut world = World::mesh(&Plan::new(seed, 3));
        world.flow(0, 1, ms(100));
        world.run_for(secs(2));
        let disks: Vec<_> = all
            .iter()
            .map(|n| world.nodes[*n].disk.counters().clone())
            .collect();
        let sessions = world.sessions();
        world.wipe_coordinator();
        world.run_for(secs(60));
        for index in all {
            assert!(
                world.nodes[index].sees_other_organisation(),
                "{index}: {:?}",
                world.nodes[index].login()
            );
            assert_eq!(*world.nodes[index].disk.counters(), disks[index]);
        }
        assert_eq!(world.sessions(), sessions);
        assert!(world.traffic.longest_gap(world.elapsed()) < secs(1));
        // Not even somebody with an invite of the old one gets in, and whoever starts again refuses it again.
        world.stop_node(2, true);
        world.start_node(2);
        let seen = world.run_until(secs(20), |w| w.nodes[2].sees_other_organisation());
        assert!(seen.is_some(), "a restart made it believe");
        world
    });
}
