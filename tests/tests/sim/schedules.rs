//! Schedules drawn from a seed: whatever happens in whatever order, the invariants hold at every step, and once
//! everything works again members find each other and nobody else is let in.
//!
//! `make soak` runs this test with random seeds until somebody stops it.

use std::time::Duration;

use kanpachi_proto::roster::Rosters;
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

#[test]
fn without_a_coordinator_whoever_could_know_of_an_eviction_obeys_it() {
    let mut events = 0;
    for_seeds("alone", SEEDS, |seed| {
        let schedule = Schedule::of(seed);
        let told = Told(&schedule);
        events += schedule.events.len();
        let mut run = Run::new(&schedule);
        run.play(&schedule);
        run.mend_alone();
        let mut world = run.world;
        // A tunnel that broke is tried again for a minute and a half, then every half minute.
        world.run_for(secs(130));
        for index in 0..world.nodes.len() {
            obeys(&world, index);
        }
        drop(told);
        world
    });
    note(format_args!("{events} events"));
}

/// Whoever is connected goes by one roster and one set of suspensions, and talks to nobody whom these leave out.
fn obeys(world: &World, index: usize) {
    let network = world.coordinator.network;
    let part = world.part_of(index);
    let newest = part.iter().filter_map(|n| world.position(*n)).max();
    if part.len() > 1 {
        assert_eq!(
            world.position(index),
            newest,
            "{index} is behind in {part:?}"
        );
    }
    let Some(rosters) = world.held(index) else {
        return;
    };
    for other in part.iter().filter(|n| world.is_up(index, **n)) {
        let id = world.nodes[*other].id();
        assert!(
            rosters.is_member(&network, &id),
            "{index} talks to {other}, who is no member"
        );
        let theirs = world.held(*other).expect("it has a tunnel");
        let words = |r: &Rosters| {
            let mut words: Vec<_> = r.suspends().map(|s| s.member).collect();
            words.sort_unstable();
            words
        };
        assert_eq!(words(rosters), words(theirs), "{index} and {other} differ");
        assert!(
            !rosters.lacks_secret() || theirs.lacks_secret(),
            "{index} lacks what {other} has"
        );
    }
    // Members who know the way to each other and hold the same roster are connected.
    for other in 0..world.nodes.len() {
        let id = world.nodes[other].id();
        let same = world.position(other) == newest && world.position(index) == newest;
        let both = rosters.is_member(&network, &id)
            && rosters.is_member(&network, &rosters.me())
            && world.held(other).is_some_and(|r| {
                r.is_member(&network, &r.me()) && r.is_member(&network, &rosters.me())
            });
        let known = world.nodes[index].disk.known().get(&id);
        // A tunnel key that no roster names yet opens nothing.
        let keys = [index, other].map(|n| {
            let roster = rosters
                .roster(&network)
                .and_then(|r| r.member(&world.nodes[n].id()));
            roster.is_some_and(|m| m.tunnel.serial == world.nodes[n].disk.counters().serial)
        });
        let both = both && keys == [true; 2];
        let way = known.is_some_and(|k| k.contains(&world.nodes[other].addr));
        if other != index && same && both && way {
            assert!(world.is_up(index, other), "{index} does not find {other}");
        }
    }
}
