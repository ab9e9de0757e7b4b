//! The simulation: nodes and a coordinator in virtual time, with loss, reordering, cuts and crashes, thousands of
//! virtual seconds in a few real ones. See `kanpachi_tests::sim`.
//!
//! `KANPACHI_SEED=7 cargo test --test sim NAME` runs one test with one seed; a test that fails names the seed.

use std::{
    net::IpAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{UnixTime, wire::control::ServerMessage};
use kanpachi_proto::tunnel::CloseReason;
use kanpachi_tests::{
    note,
    rng::Rng,
    sim::{
        Plan, Weather, World,
        forge::{self, Forgery},
        node::Joined,
        scenario,
    },
};

/// Ten years in seconds.
const TEN_YEARS: i64 = 10 * 365 * 86_400;

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Runs a scenario for each seed, and says what it took.
fn for_seeds(name: &str, count: u64, mut run: impl FnMut(u64) -> World) {
    let asked = std::env::var(scenario::SEED).ok();
    let seeds = scenario::seeds(asked.as_deref(), count);
    let (began, mut virtual_time, mut steps) = (Instant::now(), Duration::ZERO, 0);
    for seed in &seeds {
        let world = run(*seed);
        virtual_time += world.elapsed();
        steps += world.steps();
    }
    note(format_args!(
        "{name}: {} seeds, {} virtual seconds, {steps} steps in {:.1} s",
        seeds.len(),
        virtual_time.as_secs(),
        began.elapsed().as_secs_f64()
    ));
}

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
        let up = world.run_until(secs(90), |w| w.all_up(&all));
        let up = up.unwrap_or_else(|| panic!("a pair has no tunnel after 90 s"));
        slowest = slowest.max(up);
        world
    });
    note(format_args!("slowest mesh: {:.1} s", slowest.as_secs_f64()));
}

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
        let sessions = world.sessions();
        world.kill_coordinator();
        world.run_for(secs(30));
        assert!(all.iter().all(|n| world.nodes[*n].is_unreachable()));
        world.start_coordinator();
        let back = world.run_until(secs(15), |w| w.all_connected(&all));
        assert!(back.is_some(), "somebody is not logged in after 15 s");
        world.run_for(secs(5));
        assert_eq!(world.sessions(), sessions);
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

#[test]
fn a_removed_member_loses_its_sessions_the_moment_the_news_arrive() {
    for_seeds("removed", 40, |seed| {
        let nodes = 3 + (seed % 3) as usize;
        let gone = (seed % nodes as u64) as usize;
        let others: Vec<usize> = (0..nodes).filter(|n| *n != gone).collect();
        let mut world = World::mesh(&Plan::new(seed, nodes).weather(Weather::ROUGH));
        let id = world.nodes[gone].id();
        for other in &others {
            world.flow(gone, *other, ms(50));
            world.flow(*other, gone, ms(50));
        }
        world.run_for(secs(3));
        // Whoever is removed may not want to hear of it.
        if seed % 2 == 0 {
            let (own, server) = (world.nodes[gone].addr.ip(), world.coordinator.ip());
            world.net.set_cut(own, server, true);
        }
        world.with_coordinator(|c, clock| c.remove(id, clock));
        // Step by step: in whichever step the news arrive, the sessions are gone after it.
        let lists = |w: &World, n: usize| {
            let process = w.nodes[n].process.as_ref();
            process.is_some_and(|p| p.members(w.clock.now()).contains_key(&id))
        };
        let talks = |w: &World, n: usize| {
            let process = w.nodes[n].process.as_ref();
            process.is_some_and(|p| p.session_peers().any(|peer| peer == id))
        };
        let end = world.elapsed() + secs(20);
        let mut told = 0;
        while world.step(end) && told < others.len() {
            told = others.iter().filter(|n| !lists(&world, **n)).count();
            for index in others.iter().filter(|n| !lists(&world, **n)) {
                assert!(!talks(&world, *index), "{index} still has a session");
            }
        }
        assert_eq!(told, others.len(), "the news did not arrive");
        // What was sealed before is not opened any more, and no new session comes about.
        let delivered = |w: &World| -> u64 {
            others
                .iter()
                .map(|n| w.traffic.score(gone, *n).delivered)
                .sum()
        };
        let before = delivered(&world);
        world.run_for(secs(60));
        assert_eq!(delivered(&world), before, "its packets still come through");
        assert!(others.iter().all(|n| !talks(&world, *n)));
        assert!(world.all_up(&others), "the others lost each other");
        world
    });
}

#[test]
fn whoever_was_away_when_a_member_was_removed_learns_it_from_the_coordinator() {
    for_seeds("away", 20, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 3));
        let id = world.nodes[2].id();
        world.stop_node(1, true);
        world.with_coordinator(|c, clock| c.remove(id, clock));
        world.run_for(secs(5));
        world.start_node(1);
        let learned = world.run_until(secs(10), |w| {
            let process = w.nodes[1].process.as_ref();
            process.is_some_and(|p| {
                w.nodes[1].is_connected() && !p.members(w.clock.now()).contains_key(&id)
            })
        });
        assert!(learned.is_some(), "it still believes the old roster");
        let up = world.run_until(secs(20), |w| w.is_up(0, 1));
        assert!(up.is_some());
        world
    });
}

#[test]
fn a_removed_member_comes_back_by_a_new_invite() {
    for_seeds("back", 10, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 3));
        let id = world.nodes[2].id();
        world.with_coordinator(|c, clock| c.remove(id, clock));
        world.run_for(secs(5));
        assert!(!world.is_up(0, 2));
        world.join(2);
        let up = world.run_until(secs(20), |w| w.is_in(2) && w.all_up(&[0, 1, 2]));
        assert!(up.is_some(), "{:?}", world.nodes[2].joined());
        world
    });
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

#[test]
fn stale_forged_and_foreign_rosters_change_nothing_and_are_counted() {
    for_seeds("forgeries", 10, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 3));
        let stale = forge::whole(&world);
        // The roster moves on twice: what was whole is stale, and of the newest the nodes are not told.
        world.with_coordinator(|c, _| c.changed());
        forge::rename(&world, 2, "other");
        world.with_coordinator(|c, _| c.changed());
        world.run_for(secs(2));
        forge::rename(&world, 2, "third");
        let delta = forge::delta(&world, 0);
        let forgeries = forge::all(&stale, &delta, &forge::whole(&world));
        let sessions = world.sessions();
        // Whoever asks now gets no answer: what changes, changes because of what is said here.
        world.kill_coordinator();
        for Forgery {
            what,
            messages,
            counted,
        } in forgeries
        {
            let writes = world.nodes[0].disk.writes;
            let state = |w: &World| {
                let process = w.nodes[0].process.as_ref().expect("it runs");
                let rosters = process.rosters().expect("it is in");
                (rosters.held(), process.members(w.clock.now()))
            };
            let (before, refused) = (state(&world), forge::refusals(&world, 0));
            for message in &messages {
                forge::push(&mut world, 0, message);
            }
            world.run_for(ms(100));
            assert_eq!(state(&world), before, "{what} was believed");
            assert_eq!(world.nodes[0].disk.writes, writes, "{what} was written");
            let refused: Vec<u64> = (forge::refusals(&world, 0).iter().zip(refused))
                .map(|(now, then)| now - then)
                .collect();
            assert_eq!(refused, counted, "{what} was not counted as such");
        }
        assert_eq!(world.sessions(), sessions);
        // The true one is still believed.
        forge::push(&mut world, 0, &ServerMessage::Delta(Box::new(delta)));
        world.run_for(ms(100));
        assert_eq!(forge::name_of(&world, 0, 2).as_deref(), Some("third"));
        world
    });
}

#[test]
fn inner_packets_with_a_source_of_somebody_else_are_dropped_and_counted() {
    for_seeds("sources", 5, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 3));
        let own = |w: &World, n: usize| w.nodes[n].process.as_ref().unwrap().own().unwrap();
        let (target, third) = (own(&world, 1), own(&world, 2));
        let sources: [IpAddr; 5] = [
            third.ipv4.unwrap().into(),
            third.ipv6.into(),
            target.ipv4.unwrap().into(),
            [198, 19, 200, 200].into(),
            [8, 8, 8, 8].into(),
        ];
        for source in sources {
            let destination: IpAddr = match source {
                IpAddr::V4(_) => target.ipv4.unwrap().into(),
                IpAddr::V6(_) => target.ipv6.into(),
            };
            world.send_forged(0, 1, source, destination);
        }
        // For somebody else: no member is a router into another's network.
        let honest = own(&world, 0).ipv4.unwrap().into();
        world.send_forged(0, 1, honest, [8, 8, 8, 8].into());
        world.run_for(secs(1));
        let drops = world.nodes[1].process.as_ref().unwrap().drops;
        assert_eq!((drops.source, drops.destination), (5, 1));
        world
    });
}

#[test]
fn rekeys_every_few_seconds_lose_double_and_alter_nothing() {
    for_seeds("rekey", 8, |seed| {
        let plan = Plan::new(seed, 2)
            .weather(Weather::ROUGH)
            .rekey_after(secs(3));
        let mut world = World::mesh(&plan);
        world.flow(0, 1, ms(10));
        world.flow(1, 0, ms(10));
        world.run_for(secs(120));
        let gap = world.traffic.longest_gap(world.elapsed());
        assert!(gap < secs(1), "no packet for {gap:?}");
        for (from, to) in [(0, 1), (1, 0)] {
            let score = world.traffic.score(from, to);
            let lost = 1.0 - score.delivered as f64 / score.sent as f64;
            // A tenth is lost on the wire; rekeying must not add to it.
            assert!((0.07..0.13).contains(&lost), "{:.3} lost", lost);
        }
        let rekeys = world.closed(0, CloseReason::Replaced);
        assert!(rekeys > 20, "only {rekeys} sessions had a successor");
        world
    });
}

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
        }
        assert!(world.nodes[0].disk.counters().boot > start);
        // A clock ten years ahead at the start calls the roster expired; one that is right does not.
        let now = world.nodes[0].wall.read(&world.clock);
        assert!(now > UnixTime(0));
        let up = world.run_until(secs(60), |w| w.is_up(0, 1));
        assert!(up.is_some(), "no session after the clock was right again");
        world
    });
}

#[test]
fn a_full_disk_keeps_news_from_counting_until_there_is_room() {
    for_seeds("full disk", 5, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 3));
        let id = world.nodes[2].id();
        world.nodes[0].disk.full = true;
        let before = world.nodes[0].disk.counters().clone();
        world.with_coordinator(|c, clock| c.remove(id, clock));
        world.run_for(secs(5));
        assert_eq!(*world.nodes[0].disk.counters(), before);
        let lists = |w: &World, n: usize| {
            let process = w.nodes[n].process.as_ref();
            process.is_some_and(|p| p.members(w.clock.now()).contains_key(&id))
        };
        assert!(lists(&world, 0), "it acted on what it did not write");
        assert!(!lists(&world, 1));
        world.nodes[0].disk.full = false;
        let learned = world.run_until(secs(30), |w| !lists(w, 0));
        assert!(learned.is_some(), "the news were lost");
        world
    });
}

#[test]
fn a_machine_with_a_new_address_or_a_new_tunnel_key_is_found_again() {
    for_seeds("moves", 15, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 3).weather(Weather::ROUGH));
        world.flow(0, 1, ms(100));
        world.flow(1, 0, ms(100));
        world.run_for(secs(3));
        let moved = std::net::SocketAddr::from(([203, 0, 113, 7], 4444));
        world.with_node(1, |node, now| node.move_to(moved, now));
        world.traffic.reset();
        let found = world.run_until(secs(10), |w| w.traffic.score(0, 1).delivered > 5);
        assert!(found.is_some(), "not found at its new address");

        world.stop_node(1, seed % 2 == 0);
        let mut rng = Rng::new(seed);
        world.nodes[1].disk.replace_tunnel_key(&mut rng);
        world.run_for(secs(2));
        world.start_node(1);
        let up = world.run_until(secs(30), |w| w.all_up(&[0, 1, 2]));
        assert!(up.is_some(), "no session under the new tunnel key");
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
        world.with_coordinator(|c, clock| c.renew(clock));
        let up = world.run_until(secs(60), |w| w.is_up(0, 1));
        assert!(up.is_some(), "no session after the renewal");
        world
    });
}

/// Machines that were removed, and those of them that were invited again.
#[derive(Default)]
struct Removed {
    out: Vec<usize>,
    back: Vec<usize>,
}

/// One of the things that happen to machines.
fn mishap(world: &mut World, removed: &mut Removed) {
    let nodes = world.nodes.len() as u64;
    let (index, other) = (
        world.rng.below(nodes) as usize,
        world.rng.below(nodes) as usize,
    );
    let runs = world.nodes[index].process.is_some();
    match world.rng.below(16) {
        0 | 1 if runs => world.stop_node(index, false),
        2 if runs => world.stop_node(index, true),
        0..=2 => drop(world.start_node(index)),
        3 | 4 if world.coordinator.is_running() => world.kill_coordinator(),
        3 | 4 => world.start_coordinator(),
        5 => world.cut_lines(index),
        6 => world.isolate(index),
        7 => {
            let (a, b) = (world.nodes[index].addr.ip(), world.nodes[other].addr.ip());
            world.net.set_cut(a, b, true);
        }
        8 => world.net.heal(),
        9 => {
            let kinds = [
                Weather::CLEAR,
                Weather::ROUGH,
                Weather::STORM,
                Weather::HOSTILE,
            ];
            world.net.weather = kinds[world.rng.below(4) as usize];
        }
        10 if removed.out.is_empty() && removed.back.is_empty() && nodes > 2 => {
            let id = world.nodes[index].id();
            removed.out.push(index);
            world.with_coordinator(|c, clock| c.remove(id, clock));
        }
        10 => {
            if let Some(index) = removed.out.pop() {
                removed.back.push(index);
                if world.nodes[index].process.is_none() {
                    world.start_node(index);
                }
                world.join(index);
            }
        }
        // Ahead of its roster's expiry a clock would be believed at the next start.
        11 => world.nodes[index]
            .wall
            .jump([-TEN_YEARS, 86_400][other % 2]),
        12 => world.nodes[index].disk.full ^= true,
        13 if !runs => {
            let mut rng = Rng::new(world.rng.next_u64());
            world.nodes[index].disk.replace_tunnel_key(&mut rng);
        }
        14 if runs => {
            let host = world.rng.below(250) as u8;
            let addr = std::net::SocketAddr::from(([203, 0, 113, host + 1], 12976 + index as u16));
            world.with_node(index, |node, now| node.move_to(addr, now));
        }
        15 if !removed.out.contains(&index) && !removed.back.contains(&index) => {
            let name = format!("name{}", world.rng.below(9));
            forge::rename(world, index, &name);
            world.with_coordinator(|c, _| c.changed());
        }
        _ => {}
    }
}

/// Whatever went wrong is put right, but nobody's process is touched.
fn put_right(world: &mut World, removed: &Removed) {
    world.net.heal();
    world.net.weather = Weather::CLEAR;
    if !world.coordinator.is_running() {
        world.start_coordinator();
    }
    for index in 0..world.nodes.len() {
        world.nodes[index].disk.full = false;
        if world.nodes[index].process.is_none() {
            world.start_node(index);
        }
    }
    for index in &removed.back {
        // The join may have met with a mishap: people try again. Whoever is in already uses up nothing.
        for _ in 0..3 {
            world.run_until(secs(40), |w| w.nodes[*index].joined() != Joined::Waiting);
            if !world.is_in(*index) {
                world.join(*index);
            }
        }
    }
}

#[test]
fn whatever_happens_the_invariants_hold_and_everybody_finds_together_again() {
    let mut slowest = Duration::ZERO;
    for_seeds("mishaps", 60, |seed| {
        let nodes = 2 + (seed % 4) as usize;
        let plan = Plan::new(seed, nodes)
            .weather(Weather::ROUGH)
            .rekey_after(secs(8));
        let mut world = World::mesh(&plan);
        for from in 0..nodes {
            world.flow(from, (from + 1) % nodes, ms(250));
        }
        let mut removed = Removed::default();
        for _ in 0..12 {
            let pause = ms(world.rng.below(12_000));
            world.run_for(pause);
            mishap(&mut world, &mut removed);
        }
        put_right(&mut world, &removed);
        let out = removed.out;
        let members: Vec<usize> = (0..nodes).filter(|n| !out.contains(n)).collect();
        let up = world.run_until(secs(100), |w| {
            w.all_connected(&members) && w.all_up(&members)
        });
        let up = up.unwrap_or_else(|| panic!("members {members:?} do not find each other"));
        slowest = slowest.max(up);
        // A node whose disk was full asks again within half a minute.
        let apart = |w: &World| out.iter().all(|o| members.iter().all(|m| !w.is_up(*o, *m)));
        world.run_until(secs(30), apart);
        world.run_for(secs(5));
        assert!(apart(&world), "{out:?} was removed and is still there");
        world
    });
    note(format_args!(
        "slowest to find together: {:.1} s",
        slowest.as_secs_f64()
    ));
}
