//! Schedules drawn from a seed: whatever happens in whatever order, the invariants hold at every step, and once
//! everything works again members find each other and nobody else is let in.
//!
//! `make soak` runs this test with random seeds until somebody stops it.

use std::time::Duration;

use kanpachi_tests::{
    note,
    sim::{
        World,
        schedule::{Run, Schedule},
    },
};

use super::{for_seeds, ms, secs};

/// Seeds of the usual run.
const SEEDS: u64 = 60;

/// Prints the schedule of a run that went wrong.
struct Told<'a>(&'a Schedule);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            note(self.0);
        }
    }
}

#[test]
fn whatever_the_schedule_members_reach_each_other_in_the_end_and_nobody_else_does() {
    let (mut slowest, mut events) = (Duration::ZERO, 0);
    for_seeds("schedules", SEEDS, |seed| {
        let schedule = Schedule::of(seed);
        let told = Told(&schedule);
        events += schedule.events.len();
        let mut run = Run::new(&schedule);
        run.play(&schedule);
        run.mend();
        let (members, others) = run.sides();
        assert_eq!(members, run.wanted(), "not who was invited");
        let mut world = run.world;
        let up = world.run_until(secs(100), |w| {
            w.all_connected(&members) && w.all_up(&members)
        });
        let up = up.unwrap_or_else(|| panic!("members {members:?} do not find each other"));
        slowest = slowest.max(up);
        // A node whose disk was full asks again within half a minute.
        let apart = |w: &World| (others.iter()).all(|o| members.iter().all(|m| !w.is_up(*o, *m)));
        world.run_until(secs(30), apart);
        packets_go_where_they_may(&mut world, &members, &others);
        assert!(apart(&world), "{others:?} are no members and are connected");
        drop(told);
        world
    });
    note(format_args!(
        "{events} events; slowest to find together: {:.1} s",
        slowest.as_secs_f64()
    ));
}

/// Everybody sends to everybody: members hear members, and nobody hears or is heard by anybody else.
fn packets_go_where_they_may(world: &mut World, members: &[usize], others: &[usize]) {
    let all = || members.iter().chain(others).copied();
    let pairs = || all().flat_map(|a| all().filter(move |b| a != *b).map(move |b| (a, b)));
    world.traffic.flows.clear();
    world.run_for(secs(2));
    world.traffic.reset();
    for (from, to) in pairs() {
        world.flow(from, to, ms(500));
    }
    let inside = |(from, to): (usize, usize)| [from, to].map(|n| members.contains(&n));
    // Whoever moved at the end may have to be found first.
    let heard = |w: &World, pair: (usize, usize)| w.traffic.score(pair.0, pair.1).delivered > 0;
    let all_heard = |w: &World| pairs().all(|pair| inside(pair) != [true; 2] || heard(w, pair));
    let time = world.run_until(secs(30), all_heard);
    assert!(time.is_some(), "members do not hear each other");
    world.run_for(secs(2));
    for pair in pairs().filter(|pair| inside(*pair)[0] != inside(*pair)[1]) {
        assert!(!heard(world, pair), "{pair:?} hear each other");
    }
}
