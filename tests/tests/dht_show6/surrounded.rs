//! A record whose nearest places are all the attackers', looked for by nothing but the DHT: its owner is dead by then, the
//! coordinator is dead, there is no mDNS, no other member answers, and nobody remembers an address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use kanpachi_common::NodeId;
use kanpachi_common::record::open;
use kanpachi_common::wire::kademlia;
use kanpachi_tests::client::{NODE_PORT, Node};
use kanpachi_tests::hostile::{DhtPeer, NodeKeys};
use kanpachi_tests::lab::{Host, Lab, run};
use kanpachi_tests::mesh::Mesh;
use kanpachi_tests::note;
use kanpachi_tests::process::Process;
use kanpachi_tests::wait::{eventually, scaled};
use kanpachi_transport::peer_id;
use libp2p::kad;
use nix::sys::signal::Signal;

use super::stage::{Prey, Stage, stage};
use super::withheld::{Circle, LOOK, begin, join_all};

/// Where the publisher is when it publishes among the attackers, and was not before.
const PORT: u16 = 13_100;
/// Members that are added at the most.
const MORE: usize = 12;
/// Servers that a record is given to, and that a look-up ends with.
const NEAREST: usize = 20;
/// Until all places are theirs.
const TAKEN: Duration = Duration::from_secs(30);
/// From when the bootstrap can be reached again: a node comes back to it within 10 s, and a handshake that was lost is
/// given up within 5 s.
const FOUND: Duration = Duration::from_secs(25);

/// Asks one server for the publisher's record until the answer is what it should be.
async fn answers(
    prey: &Prey,
    keys: &NodeKeys,
    server: usize,
    what: &str,
    limit: Duration,
    right: impl Fn(&[u8]) -> Result<bool>,
) -> Result<()> {
    // One in the routing table would have a place that the attackers are to have.
    let mut peer = DhtPeer::asking(&keys.identity, prey.org)?;
    let (node, at) = prey.targets().nth(server).context("no such server")?;
    let waits = async {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            if peer.meet(&node, at).await.is_err() {
                continue;
            }
            let answer = peer.asks_one(&node, &prey.key(&prey.members[1].0)).await;
            if let Ok(answer) = answer
                && right(&answer)?
            {
                return Ok(());
            }
        }
    };
    let found = tokio::time::timeout(scaled(limit), waits).await;
    peer.leave().await;
    found.with_context(|| what.to_owned())?
}

/// The stage as it is during the attack.
struct Scene {
    mesh: Mesh,
    bootstrap: Process,
    prey: Prey,
    host: Host,
    observer: NodeKeys,
    circles: Arc<Vec<Circle>>,
    cast: Cast,
}

/// Who is who, by their place among the members.
#[derive(Debug, Clone, Copy)]
struct Cast {
    seeker: usize,
    publisher: usize,
    observer: usize,
}

impl Cast {
    /// Of the members that are there, if some fit: a node's routing table has twenty places for each distance, and where
    /// the bootstrap or the observer lies as far from a node as the record does, it keeps one that the attackers want.
    fn of(prey: &Prey, ids: &[NodeId]) -> Option<Self> {
        let place = |id: &NodeId| kad::KBucketKey::from(peer_id(*id));
        let fits = |cast: &Self| {
            let key = kad::RecordKey::new(&prey.key(&ids[cast.publisher]));
            let key = kad::KBucketKey::new(key);
            [cast.seeker, cast.publisher].iter().all(|node| {
                let node = place(&ids[*node]);
                let others = [&prey.bootstrap.0, &ids[cast.observer]];
                let mut others = others.map(place).into_iter();
                others.all(|other| node.distance(&other).ilog2() != node.distance(&key).ilog2())
            })
        };
        let all = || 0..ids.len();
        let casts = all().flat_map(|seeker| {
            let rest = all().filter(move |n| *n != seeker);
            rest.flat_map(move |publisher| {
                let rest = all().filter(move |n| *n != seeker && *n != publisher);
                rest.map(move |observer| Self {
                    seeker,
                    publisher,
                    observer,
                })
            })
        });
        casts.into_iter().find(fits)
    }

    /// The same, with more members where they are needed, and makes of two of them who is attacked.
    fn choose(lab: &mut Lab, mesh: &mut Mesh, prey: &mut Prey) -> Result<Self> {
        for more in 0.. {
            let keys = mesh
                .members
                .iter()
                .map(|m| NodeKeys::read(&m.node.state_dir));
            let keys = keys.collect::<Result<Vec<_>>>()?;
            let ids: Vec<_> = keys.iter().map(|k| k.identity.node_id()).collect();
            if let Some(cast) = Self::of(prey, &ids) {
                let at = |n: usize, port| (mesh.members[n].node.host.v4, port).into();
                prey.members = vec![
                    (ids[cast.seeker], at(cast.seeker, NODE_PORT)),
                    (ids[cast.publisher], at(cast.publisher, PORT)),
                ];
                return Ok(cast);
            }
            ensure!(more < MORE, "no members fit");
            let host = lab.public_host(&format!("more{more}"))?;
            mesh.add(Node::new(lab, &host)?.set("KANPACHI_NO_MDNS", "1"))?;
        }
        unreachable!("it ends above")
    }
}

impl Scene {
    /// Waits until all twenty that a member knows nearest to the publisher's record are the attackers'.
    fn surrounded(&self, member: usize) -> Result<()> {
        let sybils: Vec<_> = self.circles.iter().flat_map(Circle::ids).collect();
        let start = Instant::now();
        self.host.ns.run_async(async || {
            let what = "the attackers do not come to stand where they should";
            answers(&self.prey, &self.observer, member, what, TAKEN, |answer| {
                let names = |id| {
                    let id = peer_id(id).to_bytes();
                    answer.windows(id.len()).any(|bytes| bytes == id)
                };
                Ok(sybils.iter().filter(|id| names(**id)).count() == NEAREST)
            })
            .await
        })?;
        let took = start.elapsed();
        note(format_args!("surrounded after {took:?}"));
        Ok(())
    }

    /// Waits until the bootstrap has the record that bob published among the attackers.
    fn given(&self) -> Result<()> {
        let publisher = self.prey.members[1].0;
        self.host.ns.run_async(async || {
            let what = "the bootstrap is not given the publisher's record";
            answers(&self.prey, &self.observer, 0, what, FOUND, |answer| {
                let Some((length, begin)) = kademlia::length(answer)? else {
                    return Ok(false);
                };
                let message = answer.get(begin..begin + length);
                let value = kademlia::value(message.context("cut off")?)?;
                let Some(opened) =
                    value.and_then(|v| open(v, &self.prey.secret, &publisher, self.prey.day).ok())
                else {
                    return Ok(false);
                };
                let mut candidates = opened.record.candidates.iter();
                Ok(candidates.any(|c| c.addr.port() == PORT))
            })
            .await
        })
    }

    /// The publisher comes back among the attackers, publishes, and dies.
    fn publish(&mut self) -> Result<()> {
        let member = &mut self.mesh.members[self.cast.publisher];
        member.node.forget_addresses()?;
        member.process = member.node.start(&["up", "--listen", &PORT.to_string()])?;
        self.surrounded(2)?;
        self.bootstrap.signal(Signal::SIGCONT)?;
        self.given()?;
        self.mesh.members[self.cast.publisher].process.kill()?;
        self.bootstrap.signal(Signal::SIGSTOP)
    }

    /// The seeker, which has nothing and is among the attackers, looks for the publisher.
    fn look_up(&mut self) -> Result<()> {
        let seeker = &mut self.mesh.members[self.cast.seeker];
        seeker.node.forget_addresses()?;
        seeker.start_again()?;
        self.surrounded(1)?;
        self.bootstrap.signal(Signal::SIGCONT)?;
        let publisher = self.mesh.members[self.cast.publisher].name();
        let node = &self.mesh.members[self.cast.seeker].node;
        eventually(FOUND, "the record is found in the DHT", || {
            let told = node.json(&["peer", publisher])?;
            let sources = told["peer"]["underlay"].as_array();
            let sources = sources.context("nothing is known of it")?;
            let from_dht = sources.iter().filter(|from| from["source"] == "dht");
            let mut addresses = from_dht.filter_map(|from| from["address"].as_str());
            let port = format!(":{PORT}");
            ensure!(addresses.any(|a| a.ends_with(&port)), "{sources:?}");
            note(format_args!("known of it: {sources:?}"));
            Ok(())
        })
    }
}

#[test]
fn a_record_that_members_surround_and_withhold_is_found_by_the_dht_alone() {
    run("dht6-surrounded", |lab| {
        let Stage {
            mut mesh,
            bootstrap,
            mut prey,
        } = stage(lab)?;
        let cast = Cast::choose(lab, &mut mesh, &mut prey)?;
        note(format_args!("{cast:?}"));
        let circle = Circle::of_the_living(prey.key(&prey.members[1].0));
        let circles = Arc::new(vec![circle]);
        let host = join_all(lab, &mesh, &circles)?;
        let observer = NodeKeys::read(&mesh.members[cast.observer].node.state_dir)?;
        mesh.hub.process.kill()?;
        for member in &mut mesh.members {
            member.process.kill()?;
        }
        bootstrap.signal(Signal::SIGSTOP)?;
        let stop = Arc::new(AtomicBool::new(false));
        let attack = begin(&host, &prey, &circles, &stop);
        let mut scene = Scene {
            mesh,
            bootstrap,
            prey,
            host,
            observer,
            circles,
            cast,
        };
        let outcome = scene.publish().and_then(|()| scene.look_up());
        // A process that is stopped cannot be told to end.
        let _ = scene.bootstrap.signal(Signal::SIGCONT);
        stop.store(true, Ordering::Relaxed);
        attack
            .join()
            .map_err(|_| anyhow!("the attack panicked"))??;
        outcome
    });
}
