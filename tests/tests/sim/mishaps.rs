//! Everything at once.

use std::{net::SocketAddr, time::Duration};

use kanpachi_tests::{
    note,
    rng::Rng,
    sim::{Plan, Weather, World, forge, node::Joined},
};

use super::{TEN_YEARS, for_seeds, ms, secs};

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
    match world.rng.below(17) {
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
            let addr = SocketAddr::from(([203, 0, 113, host + 1], 12976 + index as u16));
            world.with_node(index, |node, now| node.move_to(addr, now));
        }
        15 if !removed.out.contains(&index) && !removed.back.contains(&index) => {
            let name = format!("name{}", world.rng.below(9));
            forge::rename(world, index, &name);
            world.with_coordinator(|c, _| c.changed());
        }
        16 if runs => {
            let time = ms(world.rng.below(600_000));
            world.sleep(index, time);
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
        world.wake(index);
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
