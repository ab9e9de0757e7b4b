//! A record whose nearest places are all the attackers', looked for by nothing but the DHT: its owner is dead by then, the
//! coordinator is dead, there is no mDNS, no other member answers, and nobody remembers an address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use kanpachi_common::record::open;
use kanpachi_common::wire::kademlia;
use kanpachi_tests::hostile::{DhtPeer, NodeKeys};
use kanpachi_tests::lab::{Host, run};
use kanpachi_tests::mesh::Mesh;
use kanpachi_tests::note;
use kanpachi_tests::process::Process;
use kanpachi_tests::wait::{eventually, scaled};
use kanpachi_transport::peer_id;
use nix::sys::signal::Signal;

use super::stage::{Prey, Stage, forget_addresses, inside, stage, take_over};
use super::withheld::{Circle, LOOK, begin, join_all};

/// Where bob is when he publishes among the attackers, and was not before.
const PORT: u16 = 13_100;
/// Servers that a record is given to, and that a look-up ends with.
const NEAREST: usize = 20;
/// Until all places are theirs. One that the bootstrap has, which is not there, is given up after 60 s.
const TAKEN: Duration = Duration::from_secs(90);
/// From when the bootstrap can be reached again: a node comes back to it within 10 s, and a handshake that was lost is
/// given up within 5 s.
const FOUND: Duration = Duration::from_secs(25);

/// Asks one server for bob's record until the answer is what it should be.
async fn answers(
    prey: &Prey,
    keys: &NodeKeys,
    server: usize,
    what: &str,
    limit: Duration,
    right: impl Fn(&[u8]) -> Result<bool>,
) -> Result<()> {
    let mut peer = DhtPeer::withholding(&keys.identity, prey.org)?;
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
    carol: NodeKeys,
    circles: Arc<Vec<Circle>>,
}

impl Scene {
    /// Waits until all twenty that a member knows nearest to bob's record are the attackers'.
    fn surrounded(&self, member: usize) -> Result<()> {
        let sybils: Vec<_> = self.circles.iter().flat_map(Circle::ids).collect();
        let start = Instant::now();
        inside(&self.host, async || {
            let what = "the attackers do not come to stand where they should";
            answers(&self.prey, &self.carol, member, what, TAKEN, |answer| {
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
        let bob = self.prey.members[1].0;
        inside(&self.host, async || {
            let what = "the bootstrap is not given bob's record";
            answers(&self.prey, &self.carol, 0, what, FOUND, |answer| {
                let Some((length, begin)) = kademlia::length(answer)? else {
                    return Ok(false);
                };
                let message = answer.get(begin..begin + length);
                let value = kademlia::value(message.context("cut off")?)?;
                let Some(opened) =
                    value.and_then(|v| open(v, &self.prey.secret, &bob, self.prey.day).ok())
                else {
                    return Ok(false);
                };
                let mut candidates = opened.record.candidates.iter();
                Ok(candidates.any(|c| c.addr.port() == PORT))
            })
            .await
        })
    }

    /// bob comes back among the attackers, publishes, and dies.
    fn publish(&mut self) -> Result<()> {
        let bob = &mut self.mesh.members[1];
        forget_addresses(&bob.node)?;
        bob.process = bob.node.start(&["up", "--listen", &PORT.to_string()])?;
        self.surrounded(2)?;
        self.bootstrap.signal(Signal::SIGCONT)?;
        self.given()?;
        self.mesh.members[1].process.kill()?;
        self.bootstrap.signal(Signal::SIGSTOP)
    }

    /// alice, who has nothing and is among the attackers, looks for bob.
    fn look_up(&mut self) -> Result<()> {
        let alice = &mut self.mesh.members[0];
        forget_addresses(&alice.node)?;
        alice.start_again()?;
        self.surrounded(1)?;
        self.bootstrap.signal(Signal::SIGCONT)?;
        let alice = &self.mesh.members[0].node;
        eventually(FOUND, "alice finds bob's record in the DHT", || {
            let told = alice.json(&["peer", "bob"])?;
            let sources = told["peer"]["underlay"].as_array();
            let sources = sources.context("nothing is known of bob")?;
            let from_dht = sources.iter().filter(|from| from["source"] == "dht");
            let mut addresses = from_dht.filter_map(|from| from["address"].as_str());
            let port = format!(":{PORT}");
            ensure!(addresses.any(|a| a.ends_with(&port)), "{sources:?}");
            note(format_args!("alice knows of bob {sources:?}"));
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
        let circle = Circle::of_the_living(prey.key(&prey.members[1].0));
        let circles = Arc::new(vec![circle]);
        let host = join_all(lab, &mesh, &circles)?;
        let (_, carol) = take_over(&mut mesh)?;
        mesh.hub.process.kill()?;
        for member in mesh.members.iter_mut().take(2) {
            member.process.kill()?;
        }
        bootstrap.signal(Signal::SIGSTOP)?;
        prey.members[1].1.set_port(PORT);
        let stop = Arc::new(AtomicBool::new(false));
        let attack = begin(&host, &prey, &circles, &stop);
        let mut scene = Scene {
            mesh,
            bootstrap,
            prey,
            host,
            carol,
            circles,
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
