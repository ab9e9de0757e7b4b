//! Members that are removed, and rosters that are not what they seem.

use kanpachi_common::wire::control::ServerMessage;
use kanpachi_tests::sim::{
    Plan, Weather, World,
    forge::{self, Forgery},
};

use super::{for_seeds, ms, secs};

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
            process.is_some_and(|p| {
                p.session_peers()
                    .chain(p.authorised())
                    .any(|peer| peer == id)
            })
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
fn two_rosters_for_one_epoch_keep_sessions_and_let_nobody_new_in_not_even_after_a_restart() {
    for_seeds("equivocation", 5, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 4));
        // Handshakes that crossed settle on one session in the first seconds.
        world.run_for(secs(20));
        let before = world.sessions();
        let refused = forge::refusals(&world, 0);
        let lie = forge::equivocation(&world);
        forge::push(&mut world, 0, &lie);
        world.run_for(secs(1));
        assert_eq!(forge::refusals(&world, 0)[3], refused[3] + 1);
        assert_eq!(world.sessions(), before);
        for restarted in [false, true] {
            if restarted {
                world.stop_node(0, true);
                world.start_node(0);
            }
            let name = format!("late{restarted}");
            forge::rename(&world, 3, &name);
            world.with_coordinator(|c, _| c.changed());
            world.run_for(secs(10));
            assert_eq!(forge::name_of(&world, 1, 3), Some(name.clone()));
            assert_ne!(forge::name_of(&world, 0, 3), Some(name), "{restarted}");
            assert!(world.all_up(&[0, 1, 2, 3]));
        }
        world
    });
}
