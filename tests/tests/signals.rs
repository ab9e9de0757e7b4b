//! Members pass signals on for each other: with the host dead, two behind NATs meet by way of a third, and whoever was
//! evicted finds nobody to do that for it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_common::NodeId;
use kanpachi_tests::client::{NODE_PORT, Node};
use kanpachi_tests::hostile::{NodeKeys, SignalGuest};
use kanpachi_tests::lab::{Lab, run};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, NETWORK};
use kanpachi_tests::nat::behaviour::Behaviour;
use kanpachi_tests::nat::gateway::{Gateway, Made};
use kanpachi_tests::nat::world::{Kind, World};
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::{eventually, scaled};

/// From a start at a new address to the first answer of one behind another NAT.
const MET: Duration = Duration::from_secs(10);
/// From a start at the old address to the first answer where the other end can be reached.
const REMEMBERED: Duration = Duration::from_secs(3);

/// A whole host, a member on the public segment, and two behind NATs of their own; no mDNS.
struct Town {
    hub: Hub,
    world: World,
    carol: Member,
    alice: Member,
    bob: Member,
}

impl Town {
    fn start(lab: &mut Lab) -> Result<Self> {
        let mut world = World::of(lab, &[Kind::OnlyV4])?;
        let plain = Behaviour::PORT_RESTRICTED;
        world.home(lab, "alice", plain, Made::ByKernel)?;
        world.home(lab, "bob", plain, Made::ByKernel)?;
        let host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &host, &[])?;
        let join = |lab: &Lab, site: &str| {
            let node = Node::new(lab, &world.site(site)?.host)?.set("KANPACHI_NO_MDNS", "1");
            Member::join(node, &hub.node.invite(NETWORK, &[])?)
        };
        let (carol, alice, bob) = (
            join(lab, "only-v4")?,
            join(lab, "alice")?,
            join(lab, "bob")?,
        );
        let town = Self {
            hub,
            world,
            carol,
            alice,
            bob,
        };
        town.settle()?;
        Ok(town)
    }

    /// Until everybody has a direct path to everybody, and those behind NATs stand at whoever is not.
    fn settle(&self) -> Result<()> {
        let everybody = [&self.alice, &self.bob, &self.carol];
        for (from, to) in everybody.iter().flat_map(|a| everybody.map(|b| (a, b))) {
            if from.name() != to.name() {
                direct(from, to, DIRECT)?;
            }
        }
        for member in [&self.alice, &self.bob] {
            let what = format!("{} stands at members", member.name());
            eventually(DIRECT, &what, || {
                let held = member.node.status()?.counter("signal_reservations");
                ensure!(held >= 2, "{held} reservations");
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Waits until a path goes directly. Carol and the outsides of the NATs are on one segment, which counts as a LAN.
fn direct(from: &Member, to: &Member, limit: Duration) -> Result<()> {
    let what = format!("{} reaches {} directly", from.name(), to.name());
    eventually(limit, &what, || {
        let path = &from.node.status()?.peer(to.name())?["path"];
        ensure!(path == "direct" || path == "lan", "path {path}");
        Ok(())
    })
}

fn node_id(member: &Member) -> Result<NodeId> {
    let status = member.node.status()?;
    let text = status.0["node_id"].as_str().context("no node id")?;
    NodeId::parse(text).context("an odd node id")
}

/// Deletes all that a stopped node remembers of where another is.
fn forget(node: &Node, other: &NodeId) -> Result<()> {
    let db = rusqlite::Connection::open(node.state_dir.join("node.db"))?;
    for table in ["candidates", "records"] {
        let sql = format!("DELETE FROM {table} WHERE node = ?");
        db.execute(&sql, [other.0.as_slice()])?;
    }
    Ok(())
}

/// Starts a stopped member; says when another one answered it first, and how.
fn starts_and_meets(from: &mut Member, to: &Member) -> Result<(Duration, Instant)> {
    let start = Instant::now();
    from.start_again()?;
    let limit = scaled(3 * MET);
    let first = ping::first(&from.node.host.ns, to.overlay.v4.into(), limit)?;
    first.with_context(|| format!("{} never answers {}", to.name(), from.name()))?;
    Ok((start.elapsed(), start))
}

/// Where this member heard of the address that its path to another leads to.
fn sources(from: &Member, to: &Member) -> Result<String> {
    let reply = from.node.json(&["peer", to.name()])?;
    let peer = &reply["peer"];
    let underlay = peer["underlay"].as_array().cloned().unwrap_or_default();
    let at = underlay.iter().filter(|u| u["address"] == peer["endpoint"]);
    let sources: Vec<&str> = at.filter_map(|u| u["source"].as_str()).collect();
    Ok(sources.join(", "))
}

#[test]
fn two_behind_nats_meet_by_way_of_a_member_after_the_whole_host_died() {
    run("signals-meet", |lab| {
        let mut town = Town::start(lab)?;
        let bob = node_id(&town.bob)?;
        town.hub.process.kill()?;
        let elsewhere = [
            ("hotel", 7, Behaviour::PORT_RESTRICTED),
            ("office", 8, Behaviour::CARRIER),
            ("friend", 9, Behaviour::PORT_SHIFTED),
        ];
        let mut slow = Vec::new();
        for (name, subnet, behaviour) in elsewhere {
            let (upstream, lan) = (lab.public().clone(), [192, 168, subnet, 0].into());
            let made = match behaviour {
                Behaviour::CARRIER => Made::InUserSpace(Duration::from_secs(60)),
                _ => Made::ByKernel,
            };
            let gateway = Gateway::new(lab, name, &upstream, &[lan], behaviour, made)?;
            town.alice.process.kill()?;
            forget(&town.alice.node, &bob)?;
            gateway.move_in(lab, &town.alice.node.host, 0)?;
            town.world.gateways.push(gateway);
            let (took, start) = starts_and_meets(&mut town.alice, &town.bob)?;
            let status = town.alice.node.status()?;
            let way = &status.peer("bob")?["path"];
            note(format_args!(
                "{name}: bob answers after {took:?}, path {way}, {}, {} introductions",
                sources(&town.alice, &town.bob)?,
                status.counter("signal_introductions")
            ));
            direct(&town.alice, &town.bob, MET)?;
            note(format_args!("{name}: direct after {:?}", start.elapsed()));
            if start.elapsed() > scaled(MET) {
                slow.push(format!("{name}: {:?}", start.elapsed()));
            }
        }
        ensure!(slow.is_empty(), "{}", slow.join("; "));
        Ok(())
    });
}

#[test]
fn a_restarted_member_reaches_the_others_through_their_nats_after_the_whole_host_died() {
    run("signals-restart", |lab| {
        let mut town = Town::start(lab)?;
        let bob = node_id(&town.bob)?;
        town.hub.process.kill()?;
        for wiped in [false, true] {
            town.alice.process.kill()?;
            if wiped {
                forget(&town.alice.node, &bob)?;
            }
            let (took, start) = starts_and_meets(&mut town.alice, &town.carol)?;
            note(format_args!(
                "wiped {wiped}: carol, who is reachable, after {took:?}"
            ));
            ensure!(took <= scaled(REMEMBERED), "carol only after {took:?}");
            direct(&town.alice, &town.bob, MET)?;
            let took = start.elapsed();
            note(format_args!(
                "wiped {wiped}: bob, behind a NAT, after {took:?}, {}",
                sources(&town.alice, &town.bob)?
            ));
            ensure!(took <= scaled(MET), "bob only after {took:?}");
        }
        Ok(())
    });
}

#[test]
fn no_member_passes_signals_on_for_a_stranger_or_for_whoever_was_evicted() {
    run("signals-evicted", |lab| {
        let mut town = Town::start(lab)?;
        let (bob, carol) = (node_id(&town.bob)?, node_id(&town.carol)?);
        let at = (town.carol.node.host.v4, NODE_PORT).into();
        let host = town.alice.node.host.clone();
        // Alice's machine is stopped, and a thief has her keys.
        town.alice.process.kill()?;
        let keys = NodeKeys::read(&town.alice.node.state_dir)?;
        let stranger = kanpachi_common::SecretKey::from_seed(&[77; 32]);
        let refused = host.ns.run_async(async || {
            let mut guest = SignalGuest::new(&stranger)?;
            let reserved = guest.reserve(&carol, at).await;
            let reached = guest.reach(&bob, &carol, at).await;
            Ok((reserved.is_err(), reached.is_err()))
        })?;
        ensure!(refused == (true, true), "a stranger: {refused:?}");
        let hub = &town.hub.node;
        host.ns.run_async(async || {
            let mut guest = SignalGuest::new(&keys.identity)?;
            guest.reserve(&carol, at).await.context("as a member")?;
            guest.reach(&bob, &carol, at).await.context("as a member")?;
            hub.json(&["evict", NETWORK, "alice"])?;
            guest.is_left_by(&[bob, carol]).await?;
            let mut again = SignalGuest::new(&keys.identity)?;
            let reserved = again.reserve(&carol, at).await;
            ensure!(reserved.is_err(), "an evicted member has a reservation");
            let reached = again.reach(&bob, &carol, at).await;
            ensure!(reached.is_err(), "an evicted member has a circuit");
            Ok(())
        })
    });
}
