//! Packets, rekeys, and peers that move.

use std::net::{IpAddr, SocketAddr};

use kanpachi_proto::tunnel::CloseReason;
use kanpachi_tests::{
    rng::Rng,
    sim::{Plan, Weather, World},
};

use super::{for_seeds, ms, secs};

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
fn a_machine_with_a_new_address_or_a_new_tunnel_key_is_found_again() {
    for_seeds("moves", 15, |seed| {
        let mut world = World::mesh(&Plan::new(seed, 3).weather(Weather::ROUGH));
        world.flow(0, 1, ms(100));
        world.flow(1, 0, ms(100));
        world.run_for(secs(3));
        let moved = SocketAddr::from(([203, 0, 113, 7], 4444));
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
