//! Wall clocks that jump, and what expires.

use kanpachi_tests::sim::{Plan, World};

use super::{TEN_YEARS, for_seeds, ms, secs};

#[test]
fn a_clock_that_jumps_ten_years_changes_no_counter_and_no_session() {
    for_seeds("clocks", 6, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 2));
        world.flow(0, 1, ms(100));
        world.flow(1, 0, ms(100));
        world.run_for(secs(5));
        let counters = |w: &World| [0, 1].map(|n| w.nodes[n].disk.counters().clone());
        let before = (counters(&world), world.sessions());
        for years in [TEN_YEARS, -2 * TEN_YEARS, TEN_YEARS] {
            world.nodes[0].wall.jump(years);
            world.run_for(secs(30));
            assert_eq!((counters(&world), world.sessions()), before);
        }
        let gap = world.traffic.longest_gap(world.elapsed());
        assert!(gap < secs(1), "no packet for {gap:?}");
        world
    });
}

#[test]
fn a_start_with_a_wrong_clock_never_brings_a_counter_back() {
    for_seeds("wrong starts", 6, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 2));
        let start = world.nodes[0].disk.counters().boot;
        let mut jumps = vec![-TEN_YEARS, TEN_YEARS, TEN_YEARS, -TEN_YEARS];
        let shift = world.rng.below(4) as usize;
        jumps.rotate_left(shift);
        for jump in jumps {
            world.nodes[0].wall.jump(jump);
            world.stop_node(0, false);
            let before = world.nodes[0].disk.counters().clone();
            world.run_for(secs(20));
            world.start_node(0);
            let after = world.nodes[0].disk.counters();
            assert_eq!(after.fell_below(&before), None);
            assert!(after.boot > before.boot);
            // By its own clock the roster may have expired long ago; the coordinator knows better.
            let up = world.run_until(secs(60), |w| w.is_up(0, 1));
            assert!(up.is_some(), "no session after a start with {jump} s");
        }
        assert!(world.nodes[0].disk.counters().boot > start);
        world
    });
}

#[test]
fn of_a_wrong_clock_nothing_is_left_once_it_is_right_and_nobody_has_to_say_so() {
    for_seeds("mended clocks", 6, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 2));
        let years = if seed % 2 == 0 { TEN_YEARS } else { -TEN_YEARS };
        // Wrong with a coordinator that says so, and then without one.
        for alone in [false, true] {
            if alone {
                world.kill_coordinator();
            }
            world.stop_node(0, false);
            world.nodes[0].wall.jump(years);
            world.start_node(0);
            world.run_for(secs(60));
            // The second time while the program does not run.
            if alone {
                world.stop_node(0, false);
            }
            world.nodes[0].wall.jump(-years);
            if alone {
                world.start_node(0);
            }
            let up = world.run_until(secs(60), |w| w.is_up(0, 1));
            assert!(up.is_some(), "no session after a clock was right again");
        }
        world
    });
}

#[test]
fn machines_that_all_start_ten_years_ahead_find_each_other_by_the_coordinators_clock() {
    for_seeds("all ahead", 6, |seed| {
        let all = [0, 1, 2];
        let mut world = World::mesh(&Plan::new(seed, 3));
        for index in all {
            world.stop_node(index, false);
            world.nodes[index].wall.jump(TEN_YEARS);
        }
        for index in all {
            world.start_node(index);
        }
        let up = world.run_until(secs(60), |w| w.all_up(&all));
        assert!(up.is_some(), "no sessions although the rosters are good");
        world
    });
}

#[test]
fn heads_are_renewed_before_they_are_a_day_old() {
    for_seeds("renewal", 3, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 2));
        let head = |w: &World| {
            let rosters = w.nodes[0].process.as_ref().unwrap().rosters().unwrap();
            let roster = rosters.rosters().next().unwrap().head();
            (roster.position(), roster.issued_at)
        };
        let before = head(&world);
        world.coordinator.wall.jump(20 * 3600);
        world.run_for(secs(3700));
        let renewed = head(&world);
        assert_eq!(renewed.0, before.0, "a renewal is no new epoch");
        assert!(renewed.1.since(before.1) >= 20 * 3600, "not renewed");
        world
    });
}

#[test]
fn a_roster_that_expired_opens_sessions_again_once_it_is_renewed() {
    for_seeds("expired", 4, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 2));
        world.kill_coordinator();
        for index in [0, 1] {
            world.stop_node(index, false);
            world.nodes[index].wall.jump(31 * 86_400);
            world.start_node(index);
        }
        world.run_for(secs(120));
        assert!(!world.is_up(0, 1), "a session under an expired roster");
        world.coordinator.wall.jump(31 * 86_400);
        world.start_coordinator();
        world.with_coordinator(|c, clock| c.renew(86_400, clock));
        let up = world.run_until(secs(60), |w| w.is_up(0, 1));
        assert!(up.is_some(), "no session after the renewal");
        world
    });
}

#[test]
fn a_month_without_a_coordinator_ends_sessions_and_its_return_brings_them_back() {
    for_seeds("expiry", 5, |seed| {
        let plan = Plan::new(seed, 3).lifetime(300, 600);
        let mut world = World::mesh(&plan);
        world.flow(0, 1, ms(500));
        world.kill_coordinator();
        world.run_for(secs(590));
        assert!(
            world.all_up(&[0, 1, 2]),
            "a session ended before the expiry"
        );
        let gap = world.traffic.longest_gap(world.elapsed());
        assert!(gap < secs(2), "no packet for {gap:?}");
        world.run_for(secs(60));
        assert!(world.sessions().is_empty(), "a session outlived the expiry");
        world.start_coordinator();
        world.with_coordinator(|c, clock| c.renew(0, clock));
        let up = world.run_until(secs(30), |w| w.all_up(&[0, 1, 2]));
        assert!(up.is_some(), "no sessions after the renewal");
        world
    });
}
