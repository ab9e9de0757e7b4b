//! Records that are withheld: the nodes that are nearest to them are the attacker's, and members like any other.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use kanpachi_common::invite::Invite;
use kanpachi_common::org::Directory;
use kanpachi_common::wire::control::{ClientMessage, Join, ServerMessage};
use kanpachi_common::{NodeId, SecretKey, cbor};
use kanpachi_tests::client::COORDINATOR_PORT;
use kanpachi_tests::hostile::{DhtPeer, Guest, StolenCoordinator, Target, seeds_near};
use kanpachi_tests::lab::{Host, Lab, run};
use kanpachi_tests::mesh::{Mesh, NETWORK};
use kanpachi_tests::note;
use kanpachi_tests::wait::{eventually, scaled};
use kanpachi_transport::peer_id;
use tokio::task::JoinSet;

use super::stage::{Prey, Stage, memory, rises_little, stage, start_with_nothing, take_over};

/// At each of the two victims' keys; a record is given to the twenty that are nearest.
const AT_A_KEY: usize = 24;
/// With those that exist nowhere and that the others tell of.
const WITH_GHOSTS: usize = 100;
/// Addresses that the Sybils join from: a coordinator takes a few strangers from each.
const ADDRESSES: u32 = 16;
/// Until everybody knows the Sybils for members, and they stand where they should.
const SETTLED: Duration = Duration::from_secs(30);
pub(crate) const LOOK: Duration = Duration::from_millis(500);
/// So many of those who answer next to a key are the attackers' before anything is killed.
const NEAREST: usize = 3;

/// Identities at one key: those that are there, and those of which the others only tell.
pub(crate) struct Circle {
    key: [u8; 32],
    sybils: Vec<[u8; 32]>,
    ghosts: Vec<NodeId>,
}

impl Circle {
    /// Those that are there, and ghosts.
    pub(crate) fn around(key: [u8; 32]) -> Self {
        let seeds = seeds_near(&key, WITH_GHOSTS).into_iter().enumerate();
        // By turns, so that the nearest of all are of both kinds.
        let lives = |n: usize| n < 2 * AT_A_KEY && n.is_multiple_of(2);
        let (sybils, ghosts): (Vec<_>, Vec<_>) = seeds.partition(|(n, _)| lives(*n));
        let ghosts = ghosts.into_iter();
        Self {
            key,
            sybils: sybils.into_iter().map(|(_, seed)| seed).collect(),
            ghosts: ghosts
                .map(|(_, seed)| SecretKey::from_seed(&seed).node_id())
                .collect(),
        }
    }

    /// So many that are there, and no others: whoever asks them comes to an end.
    pub(crate) fn of_the_living(key: [u8; 32]) -> Self {
        let seeds = seeds_near(&key, AT_A_KEY).into_iter();
        Self {
            key,
            sybils: seeds.collect(),
            ghosts: Vec::new(),
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> {
        let sybils = self.sybils.iter().map(SecretKey::from_seed);
        sybils.map(|identity| identity.node_id())
    }
}

/// A host with many addresses, for many who must not look like one.
fn crowd(lab: &mut Lab) -> Result<(Host, Vec<IpAddr>)> {
    let host = lab.public_host("crowd")?;
    let mut addresses = Vec::new();
    for n in 100..100 + ADDRESSES {
        let (v4, _) = lab.public().address(n);
        host.ns.ip(&format!("addr add {v4}/24 dev eth0\n"))?;
        addresses.push(v4.into());
    }
    Ok((host, addresses))
}

/// All of them become members by an invite.
async fn join(target: Target, token: [u8; 32], from: &[IpAddr], circles: &[Circle]) -> Result<()> {
    let seeds = circles.iter().flat_map(|circle| &circle.sybils);
    for (n, seed) in seeds.enumerate() {
        let mut guest = Guest::connect(target, from[n % from.len()], *seed).await?;
        let name = format!("sybil-{n}");
        let answer = guest
            .request(&ClientMessage::Join(Join { token, name }))
            .await?;
        ensure!(
            matches!(answer, ServerMessage::Joined(_)),
            "sybil {n}: {answer:?}"
        );
    }
    Ok(())
}

/// All of them become members by an invite, and their addresses are those of the host that is returned.
pub(crate) fn join_all(lab: &mut Lab, mesh: &Mesh, circles: &[Circle]) -> Result<Host> {
    let (host, addresses) = crowd(lab)?;
    let uses = circles.iter().map(|circle| circle.sybils.len());
    let uses = uses.sum::<usize>();
    let alice = &mesh.member("alice")?.node;
    let invite = alice.invite(NETWORK, &["--uses", &uses.to_string()])?;
    let (target, token) = (coordinator(mesh)?, Invite::parse(&invite)?.secret.token());
    host.ns
        .run_async(async || join(target, token, &addresses, circles).await)?;
    for node in mesh.members.iter().map(|member| &member.node) {
        eventually(SETTLED, "everybody is known for a member", || {
            let members = node.status()?.members().count();
            ensure!(members >= uses + 2, "{members} members");
            Ok(())
        })?;
    }
    Ok(host)
}

/// Begins to withhold; ends when it is told to.
pub(crate) fn begin(
    host: &Host,
    prey: &Prey,
    circles: &Arc<Vec<Circle>>,
    stop: &Arc<AtomicBool>,
) -> JoinHandle<Result<()>> {
    let (prey, circles, stop) = (prey.clone(), Arc::clone(circles), Arc::clone(stop));
    let here = host.v4.into();
    host.ns
        .spawn_async(async move { withhold(&prey, here, &circles, stop).await })
}

/// They are there for everybody, keep nothing, and tell of each other and of ghosts only.
async fn withhold(
    prey: &Prey,
    here: IpAddr,
    circles: &[Circle],
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let mut all = JoinSet::new();
    for circle in circles {
        let mut peers = Vec::new();
        for seed in &circle.sybils {
            let identity = SecretKey::from_seed(seed);
            let peer = DhtPeer::withholding(&identity, prey.org)?;
            peers.push((identity.node_id(), peer));
        }
        let ports: Vec<_> = peers.iter().map(|(id, peer)| (*id, peer.port())).collect();
        for (me, mut peer) in peers {
            for (id, port) in ports.iter().filter(|(id, _)| *id != me) {
                peer.tell_of(id, (here, *port).into());
            }
            // Whoever believes it waits for somebody who never answers.
            let nowhere: SocketAddr = ([192, 0, 2, 1], 9).into();
            for ghost in &circle.ghosts {
                peer.tell_of(ghost, nowhere);
            }
            let (whom, stop) = (prey.targets().collect::<Vec<_>>(), Arc::clone(&stop));
            all.spawn(async move { peer.haunt(&whom, &stop).await });
        }
    }
    while let Some(ended) = all.join_next().await {
        ended?;
    }
    Ok(())
}

/// Waits until the attackers hold the places next to each key, as somebody at the bootstrap is told.
async fn surrounded(prey: &Prey, identity: &SecretKey, circles: &[Circle]) -> Result<()> {
    let mut peer = DhtPeer::withholding(identity, prey.org)?;
    peer.meet(&prey.bootstrap.0, prey.bootstrap.1).await?;
    let mut look = tokio::time::interval(LOOK);
    for circle in circles {
        let theirs: BTreeSet<_> = circle.ids().map(peer_id).collect();
        loop {
            look.tick().await;
            let near = peer.closest(circle.key.to_vec()).await?;
            // Those of them that answered in time: the others are ghosts.
            let near: Vec<_> = near.iter().take(NEAREST).collect();
            if near.len() == NEAREST && near.iter().all(|(peer, _)| theirs.contains(peer)) {
                break;
            }
        }
    }
    Ok(())
}

fn coordinator(mesh: &Mesh) -> Result<Target> {
    let stolen = StolenCoordinator::read(&mesh.hub.node.state_dir)?;
    let directory: Directory = cbor::decode(&stolen.directory.payload, 64 * 1024)?;
    Ok(Target {
        org: stolen.org(),
        server: directory.coordinators.first().context("no coordinator")?.id,
        addr: (mesh.hub.node.host.v4, COORDINATOR_PORT).into(),
    })
}

#[test]
fn members_that_surround_a_record_and_withhold_it_cut_nobody_off() {
    run("dht6-withheld", |lab| {
        let Stage {
            mut mesh,
            bootstrap,
            prey,
        } = stage(lab)?;
        let before = memory(&bootstrap, &mesh)?;
        let circles: Arc<Vec<Circle>> = Arc::new(
            prey.members
                .iter()
                .map(|(victim, _)| Circle::around(prey.key(victim)))
                .collect(),
        );
        let host = join_all(lab, &mesh, &circles)?;
        let (_, carol) = take_over(&mut mesh)?;
        let stop = Arc::new(AtomicBool::new(false));
        let attack = begin(&host, &prey, &circles, &stop);
        let outcome = (|| {
            host.ns.run_async(async || {
                let waits = surrounded(&prey, &carol.identity, &circles);
                let waited = tokio::time::timeout(scaled(SETTLED), waits).await;
                waited.context("the attackers do not come to stand where they should")?
            })?;
            rises_little(&before, &memory(&bootstrap, &mesh)?)?;
            mesh.hub.process.kill()?;
            start_with_nothing(&mut mesh)?;
            let told = mesh.member("alice")?.node.json(&["peer", "bob"])?;
            note(format_args!(
                "alice knows of bob {}",
                told["peer"]["underlay"]
            ));
            rises_little(&before, &memory(&bootstrap, &mesh)?)
        })();
        stop.store(true, Ordering::Relaxed);
        attack
            .join()
            .map_err(|_| anyhow!("the attack panicked"))??;
        outcome
    });
}
