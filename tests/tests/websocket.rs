//! A network that lets nothing out but HTTP to port 443: WebSocket gets through where plain TCP does not.

use std::time::{Duration, Instant};

use anyhow::ensure;
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{Hub, Member, NETWORK, reach};
use kanpachi_tests::nat::behaviour::Behaviour;
use kanpachi_tests::nat::gateway::{Gateway, Lets, Made};
use kanpachi_tests::nat::world::World;
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::scaled;

/// From the join on: QUIC and TCP have to fail first.
const THROUGH: Duration = Duration::from_secs(20);
/// From the new address to the first answer.
const AFTER_A_MOVE: Duration = Duration::from_secs(10);

#[test]
fn a_member_whose_network_lets_only_http_through_is_reached_over_a_websocket() {
    run("websocket", |lab| {
        let host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &host, &["--listen-tcp", "443"])?;
        let mut world = World::default();
        let plain = Behaviour::PORT_RESTRICTED;
        world.home(lab, "alice", plain, Made::ByKernel)?;
        world.home(lab, "bob", plain, Made::ByKernel)?;
        world.gateway("alice")?.filter(Lets::OnlyHttp)?;
        let mut members = Vec::new();
        for site in &world.sites {
            let invite = hub.node.invite(NETWORK, &[])?;
            let start = Instant::now();
            members.push(Member::join(Node::new(lab, &site.host)?, &invite)?);
            let took = start.elapsed();
            note(format_args!("{} joined in {took:?}", site.name()));
        }
        reach(&members[0], &members[1], THROUGH)?;
        let peer = members[0].node.status()?.peer(members[1].name())?;
        ensure!(peer["path"] == "relay", "{peer}");
        Ok(())
    });
}

#[test]
fn a_member_whose_networks_let_only_tcp_through_is_reached_after_it_has_moved() {
    run("tcp-moves", |lab| {
        let host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &host, &["--no-node"])?;
        let mut world = World::default();
        let plain = Behaviour::PORT_RESTRICTED;
        world.home(lab, "mover", plain, Made::ByKernel)?;
        world.home(lab, "bob", plain, Made::ByKernel)?;
        world.gateway("mover")?.filter(Lets::OnlyTcp)?;
        let (upstream, lan) = (lab.public().clone(), [192, 168, 77, 0].into());
        let office = Gateway::new(lab, "office", &upstream, &[lan], plain, Made::ByKernel)?;
        office.filter(Lets::OnlyTcp)?;
        let mover = Node::new(lab, &world.site("mover")?.host)?;
        let mover = Member::join(mover, hub.invite()?)?;
        let invite = mover.node.invite(NETWORK, &[])?;
        let bob = Member::join(Node::new(lab, &world.site("bob")?.host)?, &invite)?;
        reach(&mover, &bob, THROUGH)?;
        let mut host = mover.node.host.clone();
        let mut slow = Vec::new();
        for to in [&office, world.gateway("mover")?, &office] {
            mover.node.wait_for_coordinator("connected", THROUGH)?;
            reach(&mover, &bob, THROUGH)?;
            host = to.move_in(lab, &host, 0)?;
            let (from, address) = (&mover.node.host.ns, bob.overlay.v4.into());
            let start = Instant::now();
            let first = ping::first(from, address, scaled(2 * AFTER_A_MOVE))?;
            let took = first.map(|_| start.elapsed());
            note(format_args!("the first answer at {}: {took:?}", to.name));
            if took.is_none_or(|took| took > scaled(AFTER_A_MOVE)) {
                slow.push((to.name.clone(), took));
            }
        }
        ensure!(slow.is_empty(), "{slow:?}");
        Ok(())
    });
}
