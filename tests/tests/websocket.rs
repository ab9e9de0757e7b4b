//! A network that lets nothing out but HTTP to port 443: WebSocket gets through where plain TCP does not.

use std::time::{Duration, Instant};

use anyhow::ensure;
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{Hub, Member, NETWORK, reach};
use kanpachi_tests::nat::behaviour::Behaviour;
use kanpachi_tests::nat::gateway::{Lets, Made};
use kanpachi_tests::nat::world::World;
use kanpachi_tests::note;

/// From the join on: QUIC and TCP have to fail first.
const THROUGH: Duration = Duration::from_secs(20);

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
