//! Several networks with the same members, and members that are not there: who has a session with whom.

use std::time::Instant;

use kanpachi_common::{
    NetworkId, NodeId, Password,
    roster::Caps,
    wire::{
        control::ClientMessage,
        membership::{CreateNetwork, Evict, JoinByPassword, Leave, SetAccess, Settle},
    },
};
use kanpachi_proto::tunnel::CloseReason;
use kanpachi_tests::sim::{
    Plan, Weather, World,
    node::{Joined, Node},
};

use super::{for_seeds, ms, secs};

fn password() -> Password {
    Password::new("geheim").expect("a password")
}

fn ask(world: &mut World, index: usize, message: ClientMessage) {
    world.with_node(index, |node: &mut Node, now: Instant| {
        node.ask(&message, now)
    });
}

/// The first node makes one more network and the others join it by its password.
fn second_network(world: &mut World, others: &[usize]) -> NetworkId {
    let create = CreateNetwork {
        network: NetworkId([9; 32]),
        name: "club".to_owned(),
        password: Some(password()),
        member_name: "first".to_owned(),
    };
    ask(world, 0, ClientMessage::CreateNetwork(create));
    let made = world.run_until(secs(10), |w| w.nodes[0].network("club").is_some());
    assert!(made.is_some(), "the network was not made");
    for index in others {
        let join = JoinByPassword {
            network: "CLUB".to_owned(),
            password: password(),
            member_name: format!("node{index}"),
        };
        ask(world, *index, ClientMessage::JoinByPassword(join));
    }
    let ids: Vec<NodeId> = others.iter().map(|n| world.nodes[*n].id()).collect();
    let club = NetworkId([9; 32]);
    let joined = world.run_until(secs(10), |w| {
        let all = std::iter::once(&0).chain(others);
        all.into_iter()
            .all(|n| ids.iter().all(|id| w.nodes[*n].listed(&club, id).is_some()))
    });
    assert!(joined.is_some(), "not all are in the second network");
    club
}

/// Does a node authorise another?
fn lists(world: &World, index: usize, other: usize) -> bool {
    let id = world.nodes[other].id();
    let process = world.nodes[index].process.as_ref();
    process.is_some_and(|p| p.members(world.clock.now()).contains_key(&id))
}

fn talks(world: &World, index: usize, other: usize) -> bool {
    let id = world.nodes[other].id();
    let process = world.nodes[index].process.as_ref();
    process.is_some_and(|p| p.session_peers().any(|peer| peer == id))
}

/// Sessions between the first two nodes, as both see them.
fn pair(world: &World) -> Vec<Option<u32>> {
    let (a, b) = (world.nodes[0].id(), world.nodes[1].id());
    let sessions = world.sessions();
    [(0, b), (1, a)]
        .iter()
        .map(|key| sessions.get(key).copied())
        .collect()
}

#[test]
fn two_networks_with_a_common_peer_share_one_session_and_leaving_one_keeps_it() {
    for_seeds("two networks", 10, |seed| {
        let mut world = World::owned_mesh(&Plan::new(seed, 3));
        // Handshakes that crossed settle on one session in the first seconds.
        world.run_for(secs(20));
        let before = world.sessions();
        second_network(&mut world, &[1]);
        world.run_for(secs(5));
        assert_eq!(world.sessions(), before, "a second session came about");
        world.flow(0, 1, ms(50));
        world.flow(1, 0, ms(50));
        let lan = world.coordinator.network;
        let leave = Leave {
            network: lan,
            heir: None,
        };
        ask(&mut world, 1, ClientMessage::Leave(leave));
        let id = world.nodes[1].id();
        let left = world.run_until(secs(10), |w| {
            let told = |n: usize| w.nodes[n].listed(&lan, &id).is_none();
            w.nodes[1].network("lan").is_none() && told(0) && told(2)
        });
        assert!(left.is_some(), "the news did not arrive");
        world.run_for(secs(10));
        assert!(!talks(&world, 2, 1) && !talks(&world, 1, 2));
        let kept = before.iter().filter(|((index, _), _)| *index < 2);
        let gone = world.nodes[2].id();
        for ((index, peer), session) in kept.filter(|((_, peer), _)| *peer != gone) {
            assert_eq!(world.sessions().get(&(*index, *peer)), Some(session));
        }
        assert!(world.is_up(0, 2), "who stayed lost each other");
        let score = world.traffic.score(0, 1);
        assert!(
            score.sent > 100 && score.delivered + 2 >= score.sent,
            "{score:?}"
        );
        world
    });
}

#[test]
fn whoever_is_evicted_from_one_of_two_networks_keeps_its_session_and_from_both_loses_it_at_once() {
    for_seeds("evicted twice", 10, |seed| {
        let mut world = World::owned_mesh(&Plan::new(seed, 2).weather(Weather::ROUGH));
        let club = second_network(&mut world, &[1]);
        let lan = world.coordinator.network;
        world.run_for(secs(20));
        let before = pair(&world);
        assert!(before.iter().all(Option::is_some));
        let evict = |w: &mut World, network: NetworkId| {
            let id = w.nodes[1].id();
            let (member, _) = w.nodes[0].listed(&network, &id).expect("it is a member");
            let message = Evict {
                network,
                member,
                password: None,
            };
            ask(w, 0, ClientMessage::Evict(message));
            let told = w.run_until(secs(10), |w| w.nodes[0].listed(&network, &id).is_none());
            assert!(told.is_some(), "the news did not arrive");
        };
        evict(&mut world, lan);
        assert!(lists(&world, 0, 1));
        world.run_for(secs(5));
        assert_eq!(pair(&world), before, "the other network did not keep it");
        assert_eq!(world.closed(0, CloseReason::Removed), 0);
        evict(&mut world, club);
        // In the very step in which the news arrived.
        assert!(!talks(&world, 0, 1), "the session outlived both networks");
        world.run_for(secs(30));
        assert!(!talks(&world, 0, 1) && !talks(&world, 1, 0));
        assert!(world.nodes[1].network("club").is_none());
        world
    });
}

#[test]
fn a_pending_member_is_authorised_by_nobody_until_an_owner_approves() {
    for_seeds("pending", 10, |seed| {
        let plan = Plan::new(seed, 3);
        let mut world = World::new(&plan);
        let invite = world.coordinator.founder_invite(&world.clock);
        world.join_with(0, invite);
        world.join(1);
        let up = world.run_until(secs(30), |w| w.is_up(0, 1));
        assert!(up.is_some());
        let network = world.coordinator.network;
        let access = SetAccess {
            network,
            locked: None,
            approval: Some(true),
        };
        ask(&mut world, 0, ClientMessage::SetAccess(access));
        world.run_for(secs(2));
        world.join(2);
        let id = world.nodes[2].id();
        let listed = world.run_until(secs(10), |w| {
            let caps = |n: usize| w.nodes[n].listed(&network, &id).map(|(_, caps)| caps);
            [0, 1]
                .iter()
                .all(|n| caps(*n).is_some_and(|c| c.has(Caps::PENDING)))
                && w.nodes[2].joined() == Joined::AwaitsApproval
        });
        assert!(listed.is_some(), "{:?}", world.nodes[2].joined());
        world.flow(0, 2, ms(200));
        world.flow(2, 0, ms(200));
        world.run_for(secs(30));
        assert!(!lists(&world, 0, 2) && !lists(&world, 1, 2));
        assert!(world.nodes[2].network("lan").is_none(), "it got the roster");
        assert!((0..2).all(|n| !talks(&world, n, 2) && !talks(&world, 2, n)));
        assert_eq!(world.traffic.score(0, 2).delivered, 0);

        let approved = seed % 2 == 0;
        let (member, _) = world.nodes[0].listed(&network, &id).expect("it is listed");
        let settle = Settle {
            network,
            member,
            approved,
        };
        ask(&mut world, 0, ClientMessage::Settle(settle));
        if approved {
            let up = world.run_until(secs(20), |w| w.all_up(&[0, 1, 2]));
            assert!(up.is_some(), "the approved one has no tunnel");
        } else {
            let gone = world.run_until(secs(10), |w| w.nodes[1].listed(&network, &id).is_none());
            assert!(gone.is_some(), "the rejected one is still listed");
            world.run_for(secs(10));
            assert!(world.nodes[2].network("lan").is_none());
        }
        world
    });
}

#[test]
fn a_node_that_is_offline_in_a_network_is_there_for_nobody_in_it_also_after_a_restart() {
    for_seeds("offline", 10, |seed| {
        let mut world = World::owned_mesh(&Plan::new(seed, 3));
        second_network(&mut world, &[1]);
        let lan = world.coordinator.network;
        world.run_for(secs(20));
        let before = pair(&world);
        world.with_node(1, |node, now| node.set_online(lan, false, now));
        assert!(!talks(&world, 1, 2), "the session outlived the network");
        assert_eq!(pair(&world), before, "the other network did not keep it");
        world.run_for(secs(5));
        assert!(!talks(&world, 2, 1), "the other side was not told");
        world.flow(2, 1, ms(200));
        for farewell in [true, false] {
            world.stop_node(1, farewell);
            world.run_for(secs(2));
            world.start_node(1);
            let up = world.run_until(secs(30), |w| w.is_up(0, 1));
            assert!(up.is_some(), "not found in the network that it is there in");
            world.run_for(secs(20));
            assert!(!talks(&world, 1, 2) && !talks(&world, 2, 1));
        }
        assert_eq!(world.traffic.score(2, 1).delivered, 0);
        world.with_node(1, |node, now| node.set_online(lan, true, now));
        let up = world.run_until(secs(20), |w| w.all_up(&[0, 1, 2]));
        assert!(up.is_some(), "it did not come back");
        world
    });
}
