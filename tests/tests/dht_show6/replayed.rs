//! Records of yesterday: validly signed by whom they are about, put back by somebody else when they are true no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use kanpachi_common::record::{MAX_TTL, Opened, enclose, open};
use kanpachi_common::roster::Position;
use kanpachi_common::wire::member::{Ask, Holds, MemberMessage, RecordIs};
use kanpachi_common::{Hash, NodeId, UnixTime, cbor};
use kanpachi_tests::client::NODE_PORT;
use kanpachi_tests::hostile::{DhtPeer, NodeKeys, StolenCoordinator, answer_members, ask_member};
use kanpachi_tests::lab::{Host, run};
use kanpachi_tests::mesh::{DIRECT, Mesh, reach};
use kanpachi_tests::note;
use kanpachi_tests::wait::scaled;

use super::stage::{Prey, Stage, memory, rises_little, stage, start_with_nothing, take_over};

/// Where alice and bob were when the old records were true.
const OLD_PORT: u16 = 13_000;
/// Until a record is in the DHT, or a question is asked.
const SOON: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(300);

/// Somebody's record that was true once, and the number of the start that it is of.
struct Old {
    node: NodeId,
    /// As it lay in the DHT.
    value: Vec<u8>,
    opened: Opened,
}

impl Old {
    /// What its owner signed, in an envelope with a number that its owner never reaches: everybody who knows the
    /// network's secret can make one.
    fn anew(&self, prey: &Prey) -> Vec<u8> {
        let inner = cbor::encode(self.opened.record.signed());
        enclose(&inner, &self.node, MAX_TTL, &prey.sealing(u64::MAX))
    }

    fn is_older_than(&self, record: &Opened) -> bool {
        let number = |opened: &Opened| (opened.record.boot, opened.record.seq);
        number(&self.opened) < number(record)
    }
}

/// Starts alice and bob again, on another port.
fn start_at(mesh: &mut Mesh, port: u16) -> Result<()> {
    for member in mesh.members.iter_mut().take(2) {
        member.process.kill()?;
        let port = port.to_string();
        member.process = member.node.start(&["up", "--listen", &port])?;
    }
    let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
    reach(alice, bob, DIRECT)
}

/// Waits until the DHT gives a record of a member that says this port, and returns it.
async fn published(prey: &Prey, peer: &mut DhtPeer, node: &NodeId, port: u16) -> Result<Old> {
    let waits = async {
        let mut look = tokio::time::interval(LOOK);
        loop {
            look.tick().await;
            for value in peer.get(&prey.key(node)).await? {
                let Ok(opened) = open(&value, &prey.secret, node, prey.day) else {
                    continue;
                };
                let candidates = &opened.record.candidates;
                if candidates.iter().any(|c| c.addr.port() == port) {
                    let node = *node;
                    return Ok(Old {
                        node,
                        value,
                        opened,
                    });
                }
            }
        }
    };
    let found = tokio::time::timeout(scaled(SOON), waits).await;
    found.with_context(|| format!("no record that says port {port}"))?
}

/// The records of both, once they say this port.
fn both(prey: &Prey, host: &Host, keys: &NodeKeys, port: u16) -> Result<Vec<Old>> {
    host.ns.run_async(async || {
        let mut peer = DhtPeer::withholding(&keys.identity, prey.org)?;
        peer.meet(&prey.bootstrap.0, prey.bootstrap.1).await?;
        let mut records = Vec::new();
        for (node, _) in &prey.members {
            records.push(published(prey, &mut peer, node, port).await?);
        }
        peer.leave().await;
        Ok(records)
    })
}

/// A question by somebody who claims to hold a roster that is ahead, and so is asked back.
fn question(stolen: &StolenCoordinator) -> Result<Ask> {
    let head = stolen.head()?;
    let head: kanpachi_common::roster::Head = cbor::decode(&head.payload, 65_536)?;
    Ok(Ask {
        generation: head.generation,
        directory: 0,
        held: vec![Holds {
            network: head.network,
            position: Position {
                generation: head.generation,
                epoch: head.epoch + 1,
            },
            root: Hash([7; 32]),
            issued_at: UnixTime(0),
            secret: None,
        }],
        suspends: vec![],
        proofs: vec![],
        records: true,
        ext: vec![],
    })
}

/// Every record that a member holds of another must be newer than the old one.
fn holds_newer(prey: &Prey, old: &Old, answers: &[MemberMessage]) -> Result<()> {
    let records = answers.iter().filter_map(|answer| match answer {
        MemberMessage::Record(record) => {
            open(&record.value, &prey.secret, &old.node, prey.day).ok()
        }
        _ => None,
    });
    let records: Vec<_> = records.collect();
    ensure!(!records.is_empty(), "it holds no record of {}", old.node);
    ensure!(
        records.iter().all(|record| old.is_older_than(record)),
        "it believes an old record: {records:?}"
    );
    Ok(())
}

/// Puts old records back wherever records are kept, and brings them to whoever asks. Then both must hold the new ones.
async fn replay(
    prey: &Prey,
    keys: &NodeKeys,
    old: &[Old],
    stolen: &StolenCoordinator,
) -> Result<()> {
    let mut peer = DhtPeer::withholding(&keys.identity, prey.org)?;
    for (target, at) in prey.targets() {
        peer.meet(&target, at).await?;
        for old in old {
            // As it was, and to those who can read it as new as can be.
            peer.put(&target, &prey.key(&old.node), old.value.clone())
                .await?;
            if target != prey.bootstrap.0 {
                peer.put(&target, &prey.key(&old.node), old.anew(prey))
                    .await?;
            }
        }
    }
    // Whoever stores them gives the new ones still.
    for old in old {
        for value in peer.get(&prey.key(&old.node)).await? {
            let record = open(&value, &prey.secret, &old.node, prey.day)?;
            ensure!(old.is_older_than(&record), "the DHT went back: {record:?}");
        }
    }
    let brought = old
        .iter()
        .flat_map(|old| [old.value.clone(), old.anew(prey)]);
    let brought = brought.map(|value| {
        MemberMessage::Record(RecordIs {
            network: stolen.network,
            value,
        })
    });
    let asked = answer_members(peer.streams(), brought.collect())?;
    let (control, ask) = (peer.streams(), question(stolen)?);
    let never = AtomicBool::new(false);
    let script = async {
        let mut look = tokio::time::interval(LOOK);
        for ((reader, _), about) in prey.members.iter().zip(old.iter().rev()) {
            let before = asked.load(Ordering::Relaxed);
            ask_member(control.clone(), reader, ask.clone()).await?;
            while asked.load(Ordering::Relaxed) == before {
                look.tick().await;
            }
            let answers = ask_member(control.clone(), reader, ask.clone()).await?;
            holds_newer(prey, about, &answers)?;
        }
        Ok(())
    };
    let limit = tokio::time::timeout(scaled(SOON), script);
    let outcome = tokio::select! {
        outcome = limit => outcome.context("nobody asks back")?,
        () = peer.haunt(&[], &never) => Err(anyhow!("told to stop")),
    };
    peer.leave().await;
    outcome
}

/// Gives old records to everybody who looks for anybody, the bootstrap's own store included.
async fn mislead(prey: &Prey, keys: &NodeKeys, old: &[Old], stop: &AtomicBool) -> Result<()> {
    let mut peer = DhtPeer::new(&keys.identity, prey.org)?;
    peer.meet(&prey.bootstrap.0, prey.bootstrap.1).await?;
    for old in old {
        let value = old.anew(prey);
        peer.put(&prey.bootstrap.0, &prey.key(&old.node), value.clone())
            .await?;
        peer.keep(&prey.key(&old.node), value)?;
    }
    let whom: Vec<_> = prey.targets().collect();
    peer.haunt(&whom, stop).await;
    Ok(())
}

#[test]
fn old_records_that_are_put_back_mislead_nobody() {
    run("dht6-replayed", |lab| {
        let Stage {
            mut mesh,
            bootstrap,
            prey,
        } = stage(lab)?;
        let (host, keys) = take_over(&mut mesh)?;
        let before = memory(&bootstrap, &mesh)?;
        start_at(&mut mesh, OLD_PORT)?;
        let old = Arc::new(both(&prey, &host, &keys, OLD_PORT)?);
        start_at(&mut mesh, NODE_PORT)?;
        let new = both(&prey, &host, &keys, NODE_PORT)?;
        for (old, new) in old.iter().zip(&new) {
            ensure!(
                old.is_older_than(&new.opened),
                "the new record is not newer"
            );
        }
        let stolen = StolenCoordinator::read(&mesh.hub.node.state_dir)?;
        host.ns
            .run_async(async || replay(&prey, &keys, &old, &stolen).await)?;
        note("old records were brought by the DHT and by a member, and believed by nobody");
        mesh.hub.process.kill()?;
        let stop = Arc::new(AtomicBool::new(false));
        let attack = {
            let (prey, old, stop) = (prey.clone(), Arc::clone(&old), Arc::clone(&stop));
            let work = async move { mislead(&prey, &keys, &old, &stop).await };
            host.ns.spawn_async(work)
        };
        let outcome = (|| {
            start_with_nothing(&mut mesh)?;
            rises_little(&before, &memory(&bootstrap, &mesh)?)
        })();
        stop.store(true, Ordering::Relaxed);
        attack
            .join()
            .map_err(|_| anyhow!("the attack panicked"))??;
        outcome
    });
}
