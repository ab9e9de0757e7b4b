//! Who is no member finds no DHT at a node; a member does.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use futures::StreamExt as _;
use kanpachi_tests::client::Node;
use kanpachi_tests::hostile::{NodeKeys, Silent};
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{DIRECT, Hub, Member, reach};
use kanpachi_tests::netns::Netns;
use kanpachi_tests::note;
use kanpachi_tests::wait::scaled;
use kanpachi_transport::swarm::{Options, swarm};
use kanpachi_transport::{AddressFilter, SharedSocket, keypair_from_seed};
use libp2p::{Multiaddr, identify, swarm::SwarmEvent};

const SOON: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(10);

#[test]
fn a_stranger_is_offered_no_dht_and_a_member_is() {
    run("gate", |lab| {
        let hub_host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &hub_host, &["--no-node"])?;
        let (alice, bob) = (lab.public_host("alice")?, lab.public_host("bob")?);
        let alice = Member::join(Node::new(lab, &alice)?, hub.invite()?)?;
        let mut bob = Member::join(Node::new(lab, &bob)?, &alice.node.invite("lan", &[])?)?;
        reach(&alice, &bob, DIRECT)?;
        bob.process.terminate(SOON)?;
        let ns = &bob.node.host.ns;
        let status = alice.node.status()?;
        let listen: SocketAddr = status.0["listen"][0]
            .as_str()
            .context("alice listens nowhere")?
            .parse()?;
        let at = format!("/ip4/{}/udp/{}/quic-v1", alice.node.host.v4, listen.port()).parse()?;
        let stranger = protocols(ns, &NodeKeys::of_a_stranger(), &at)?;
        let member = protocols(ns, &NodeKeys::read(&bob.node.state_dir)?, &at)?;
        note(format_args!(
            "a stranger: {stranger:?}; a member: {member:?}"
        ));
        let dht = |offered: &[String]| offered.iter().any(|name| name.ends_with("/kad/1"));
        ensure!(dht(&member), "alice offers a member no DHT: {member:?}");
        ensure!(!dht(&stranger), "alice offers a stranger {stranger:?}");
        Ok(())
    });
}

/// What a node offers to whoever comes with these keys.
fn protocols(ns: &Netns, keys: &NodeKeys, at: &Multiaddr) -> Result<Vec<String>> {
    ns.run_async(async || {
        let keypair = keypair_from_seed(&keys.identity.seed());
        let socket = SharedSocket::bind_port(0)?;
        let _reader = socket.spawn_reader(Silent)?;
        let config = identify::Config::new("/kanpachi/1".to_owned(), keypair.public());
        let options = Options {
            keypair,
            socket,
            filter: AddressFilter::allow_all(),
            relay: None,
            tcp: false,
            proxy: None,
            dials: None,
        };
        let mut swarm = swarm(options, identify::Behaviour::new(config))?;
        swarm.dial(at.clone())?;
        let told = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::Behaviour(identify::Event::Received { info, .. }) => {
                        let names = info.protocols.iter().map(ToString::to_string);
                        return Ok(names.collect());
                    }
                    SwarmEvent::OutgoingConnectionError { error, .. } => bail!("{error}"),
                    _ => {}
                }
            }
        };
        tokio::time::timeout(scaled(ANSWER), told)
            .await
            .context("the node says nothing")?
    })
}
