//! Whole conversations: any bytes on the control stream, in either direction, in a simulation of everything else.

use std::{collections::BTreeSet, time::Duration};

use kanpachi_tests::sim::{
    Plan, World,
    net::{End, Item},
};

/// Longest time that the rest of the world gets, in virtual seconds.
const PATIENCE: Duration = Duration::from_secs(40);

/// Two members of a network; the first one's stream is the one that is spoken on.
fn members() -> World {
    World::mesh(&Plan::new(1, 2))
}

fn addresses(world: &World) -> BTreeSet<String> {
    let own = |node: &kanpachi_tests::sim::node::Node| format!("{:?}", node.disk.ipv4());
    world.nodes.iter().map(own).collect()
}

/// Bytes from a node to the coordinator: before the greeting on one stream, behind the login on another.
///
/// # Panics
/// When the coordinator panics, cannot serve the other node any more, or gives addresses away.
pub fn coordinator_session(data: &[u8]) {
    let mut world = members();
    let before = addresses(&world);
    // A stream that was just opened, and has said nothing.
    world.with_node(0, |_, _| ());
    let (ip, server, now) = (
        world.nodes[0].addr.ip(),
        world.coordinator.addr,
        world.elapsed(),
    );
    let nobody = kanpachi_proto::login::Attempt(u64::MAX);
    let fresh = world.net.dial((0, u64::MAX, nobody), ip, server, now);
    world
        .net
        .put(fresh, End::Server, Item::Bytes(data.to_vec()), now);
    for line in world.net.lines_of(0) {
        if line != fresh {
            world
                .net
                .put(line, End::Server, Item::Bytes(data.to_vec()), now);
        }
    }
    world.run_for(Duration::from_secs(2));
    assert!(world.coordinator.is_running());
    assert!(
        world.nodes[1].is_connected(),
        "another node lost its session"
    );
    let after = addresses(&world);
    assert_eq!(before, after, "somebody has another address");
    // Whoever spoke nonsense may have been sent away; it logs in again like anybody.
    let back = world.run_until(PATIENCE, |w| w.all_connected(&[0, 1]));
    assert!(back.is_some(), "somebody cannot log in any more");
}

/// Bytes from the coordinator to a node that is logged in.
///
/// # Panics
/// When the node panics, forgets what it held, or does not come back.
pub fn node_session(data: &[u8]) {
    let mut world = members();
    let before = world.nodes[0].disk.counters().clone();
    let (sessions, now) = (world.sessions().len(), world.elapsed());
    for line in world.net.lines_of(0) {
        world
            .net
            .put(line, End::Node, Item::Bytes(data.to_vec()), now);
    }
    world.run_for(Duration::from_secs(2));
    let after = world.nodes[0].disk.counters();
    assert_eq!(after.fell_below(&before), None);
    assert_eq!(world.sessions().len(), sessions, "a session ended or began");
    let back = world.run_until(PATIENCE, |w| w.all_connected(&[0, 1]));
    assert!(back.is_some(), "it does not log in any more");
}
