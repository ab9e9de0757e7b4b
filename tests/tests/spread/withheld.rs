//! Show 7: somebody shows a newer head that is validly signed, and never serves the roster behind it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use kanpachi_common::roster::{Proof, VerifiedRoster};
use kanpachi_common::wire::member::{Ask, Holds};
use kanpachi_common::{NodeId, OrgId};
use kanpachi_tests::client::{NODE_PORT, Node};
use kanpachi_tests::hostile::{DhtPeer, NodeKeys, StolenCoordinator, answer_members, ask_member};
use kanpachi_tests::mesh::{Member, Mesh, NETWORK, reach, tunnel_state};
use kanpachi_tests::traffic::ping;
use kanpachi_tests::{lab::run, loss, wait::eventually};

use super::town::{SOON, epoch, wall};

/// From the roster being within reach to everybody holding it.
const ACROSS: Duration = Duration::from_secs(60);
/// How often each of the two must have come for the roster in vain.
const IN_VAIN: usize = 2;
/// Between two announcements.
const AGAIN: Duration = Duration::from_millis(500);

/// Whom carol tells of the head.
struct Told {
    org: OrgId,
    whom: Vec<(NodeId, std::net::SocketAddr)>,
    ask: Ask,
}

/// What carol says: she holds this roster, and here is her own membership under it.
fn announcement(roster: &VerifiedRoster, me: &NodeId) -> Ask {
    let head = roster.head();
    Ask {
        generation: head.generation,
        directory: 0,
        held: vec![Holds {
            network: head.network,
            position: head.position(),
            root: head.root,
            issued_at: head.issued_at,
            secret: Some(head.secret_id),
        }],
        suspends: vec![],
        proofs: Proof::of(roster, me, true).into_iter().collect(),
        records: false,
        ext: vec![],
    }
}

/// Says so again and again, and answers whoever comes for the roster with nothing.
async fn withhold(
    told: Told,
    keys: &NodeKeys,
    asked: &AtomicUsize,
    stop: &AtomicBool,
) -> Result<()> {
    let mut peer = DhtPeer::withholding(&keys.identity, told.org)?;
    for (node, at) in &told.whom {
        peer.meet(node, *at).await?;
    }
    let count = answer_members(peer.streams(), vec![])?;
    let control = peer.streams();
    let talk = async {
        let mut again = tokio::time::interval(AGAIN);
        loop {
            again.tick().await;
            for (node, _) in &told.whom {
                // One that is not there at the moment is told the next time.
                let _ = ask_member(control.clone(), node, told.ask.clone()).await;
            }
            asked.store(count.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    };
    tokio::select! {
        () = talk => {}
        () = peer.haunt(&told.whom, stop) => {}
    }
    peer.leave().await;
    Ok(())
}

/// Lets dora join where only she and the hub know of it. Returns the epoch of the roster that names her.
fn join_unseen(lab: &mut kanpachi_tests::lab::Lab, mesh: &mut Mesh) -> Result<u64> {
    let invite = mesh.member("alice")?.node.invite(NETWORK, &[])?;
    let lan = lab.lan("dora-lan")?;
    let host = lab.host("dora", &lan)?;
    let hub = mesh.hub.node.host.clone();
    for lan in &mesh.lans {
        wall(lan, &[&hub, &host])?;
    }
    let dora = Member::join(Node::new(lab, &host)?, &invite)?;
    let names = mesh
        .members
        .iter()
        .map(|m| &m.node.host)
        .collect::<Vec<_>>();
    wall(&lan, &names)?;
    mesh.lans.push(lan);
    let newest = epoch(&dora.node)?;
    mesh.members.push(dora);
    mesh.hub.process.kill()?;
    Ok(newest)
}

#[test]
fn a_head_whose_roster_is_withheld_blocks_nobody() {
    run("spread-withheld", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node"])?;
        let wanted = join_unseen(lab, &mut mesh)?;
        let carol = &mut mesh.members[2];
        let keys = NodeKeys::read(&carol.node.state_dir)?;
        carol.process.kill()?;
        let host = carol.node.host.clone();
        let stolen = StolenCoordinator::read(&mesh.hub.node.state_dir)?;
        let roster = stolen.roster()?;
        ensure!(
            roster.head().epoch == wanted,
            "not the roster that dora has"
        );
        for name in ["alice", "bob"] {
            ensure!(
                epoch(&mesh.member(name)?.node)? < wanted,
                "{name} has it already"
            );
        }
        let whom = ["alice", "bob"].map(|name| {
            let member = stolen.member(name)?;
            let at = mesh.member(name)?.node.host.v4;
            anyhow::Ok((member.node, (at, NODE_PORT).into()))
        });
        let told = Told {
            org: stolen.org(),
            whom: whom.into_iter().collect::<Result<_>>()?,
            ask: announcement(&roster, &keys.identity.node_id()),
        };
        let (asked, stop) = (
            Arc::new(AtomicUsize::new(0)),
            Arc::new(AtomicBool::new(false)),
        );
        let attack = {
            let (asked, stop) = (Arc::clone(&asked), Arc::clone(&stop));
            let work = async move { withhold(told, &keys, &asked, &stop).await };
            host.ns.spawn_async(work)
        };
        let outcome = nobody_is_blocked(&mut mesh, &asked, wanted);
        stop.store(true, Ordering::Relaxed);
        attack
            .join()
            .map_err(|_| anyhow!("the attack panicked"))??;
        outcome
    });
}

fn nobody_is_blocked(mesh: &mut Mesh, asked: &AtomicUsize, wanted: u64) -> Result<()> {
    let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
    let before = tunnel_state(alice, bob)?;
    eventually(ACROSS, "both come for the roster in vain", || {
        let asked = asked.load(Ordering::Relaxed);
        ensure!(asked >= 2 * IN_VAIN, "{asked} questions");
        Ok(())
    })?;
    // The session that there was goes on, undisturbed.
    ping::once(&alice.node.host.ns, bob.overlay.v4.into())?;
    ensure!(
        tunnel_state(alice, bob)? == before,
        "the tunnel was made anew"
    );
    ensure!(epoch(&alice.node)? < wanted, "somebody served the roster");
    // A new one comes about: both have seen the head, and hold the roster before it.
    mesh.members[1].process.kill()?;
    mesh.members[1].start_again()?;
    let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
    reach(alice, bob, SOON)?;
    reach(bob, alice, SOON)?;
    // Dora has it, and comes within reach.
    for lan in [&mesh.lans[0], &mesh.lans[1], &mesh.lans[3]] {
        loss::restore(&lan.ns)?;
    }
    let dora = mesh.member("dora")?;
    for member in [alice, bob] {
        eventually(ACROSS, "the roster comes from somebody else", || {
            let now = epoch(&member.node)?;
            ensure!(now == wanted, "{now} and not {wanted}");
            Ok(())
        })?;
        reach(member, dora, SOON)?;
    }
    Ok(())
}
