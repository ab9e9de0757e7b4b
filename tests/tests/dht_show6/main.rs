//! A hostile member of the DHT and a hundred strangers: nobody is cut off, nobody's memory grows, no stranger learns where
//! a member is.

mod replayed;
mod stage;
mod surrounded;
mod withheld;

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Result, ensure};
use kanpachi_common::record::{MAX_TTL, OuterRecord, PeerRecord, enclose, seal};
use kanpachi_common::{NodeId, SecretKey};
use kanpachi_tests::hostile::{DhtPeer, NodeKeys};
use kanpachi_tests::lab::run;
use kanpachi_tests::note;

use self::stage::{Prey, Stage, memory, rises_little, stage, start_with_nothing, take_over};

/// Records under keys of the attacker's own, and records of what it claims to provide.
const SPAM: u32 = 2000;
const PROVIDED: u32 = 300;
const SYBILS: u8 = 100;

/// Everything that a member can do to the records of others.
async fn attack(prey: &Prey, me: &SecretKey) -> Result<()> {
    let mut peer = DhtPeer::new(me, prey.org)?;
    for (target, at) in prey.targets() {
        peer.meet(&target, at).await?;
        for (victim, _) in &prey.members {
            let key = prey.key(victim);
            let lie = PeerRecord {
                node: *victim,
                boot: u64::MAX,
                seq: u64::MAX,
                candidates: vec![],
                relays: vec![],
                epochs: vec![],
                ttl: MAX_TTL,
                nat: None,
            };
            // Signed by the wrong one, empty, too long, foreign, and not even CBOR; all with numbers that cannot be passed.
            let squats = [
                seal(&lie, me, &prey.sealing(u64::MAX - 1)),
                enclose(b"", victim, MAX_TTL, &prey.sealing(u64::MAX)),
                vec![0x5a; 9000],
                enclose(b"", &me.node_id(), MAX_TTL, &prey.sealing(u64::MAX)),
                b"junk".to_vec(),
            ];
            for value in squats {
                peer.put(&target, &key, value).await?;
            }
        }
        for n in 0..SPAM {
            let own = SecretKey::from_seed(
                &[&n.to_be_bytes()[..], &[9; 28]]
                    .concat()
                    .try_into()
                    .expect("32 bytes"),
            );
            let outer = enclose(&[1; 3000], &own.node_id(), MAX_TTL, &prey.sealing(1));
            let key = prey
                .secret
                .record_key(&own.node_id(), prey.day)
                .public_key();
            peer.put(&target, &OuterRecord::dht_key(&key).0, outer)
                .await?;
        }
    }
    for n in 0..PROVIDED {
        peer.provide(&n.to_be_bytes()).await?;
    }
    Ok(())
}

/// A hundred strangers at one key, and what they learn.
async fn surround(prey: &Prey) -> Result<()> {
    let victim = prey.members[0].0;
    let mut all = Vec::new();
    for n in 0..SYBILS {
        let sybil = SecretKey::from_seed(&[n.wrapping_add(100); 32]);
        let mut peer = DhtPeer::new(&sybil, prey.org)?;
        let (bootstrap, at) = prey.bootstrap;
        peer.meet(&bootstrap, at).await?;
        peer.put(&bootstrap, &prey.key(&victim), vec![n; 300])
            .await?;
        // All of them stay until the last one has come.
        all.push(peer);
    }
    Ok(())
}

/// What `server` tells somebody with this identity of where a member is: an address of any of them, and its record.
async fn learns(
    prey: &Prey,
    identity: &SecretKey,
    server: (NodeId, SocketAddr),
    of: &NodeId,
) -> Result<(bool, bool)> {
    let mut peer = DhtPeer::new(identity, prey.org)?;
    peer.meet(&server.0, server.1).await?;
    let around = format!("{:?}", peer.around(of).await?);
    let others = prey.members.iter().filter(|(id, _)| *id != server.0);
    let mut ips = others.map(|(_, at)| at.ip().to_string());
    let told = ips.any(|ip| around.contains(&ip));
    let value = !peer.get(&prey.key(of)).await?.is_empty();
    Ok((told, value))
}

#[test]
fn a_hostile_member_of_the_dht_cuts_nobody_off_and_fills_no_memory() {
    run("dht6-hostile", |lab| {
        let Stage {
            mut mesh,
            bootstrap,
            prey,
        } = stage(lab)?;
        let (host, keys) = take_over(&mut mesh)?;
        let before = memory(&bootstrap, &mesh)?;
        let start = Instant::now();
        host.ns
            .run_async(async || attack(&prey, &keys.identity).await)?;
        host.ns.run_async(async || surround(&prey).await)?;
        note(format_args!("the attack took {:?}", start.elapsed()));
        rises_little(&before, &memory(&bootstrap, &mesh)?)?;
        mesh.hub.process.kill()?;
        start_with_nothing(&mut mesh)
    });
}

#[test]
fn a_stranger_who_knows_the_organisation_learns_where_no_member_is() {
    run("dht6-stranger", |lab| {
        let Stage {
            mesh,
            bootstrap: _bootstrap,
            prey,
        } = stage(lab)?;
        let host = lab.public_host("stranger")?;
        let alice = prey.members[0].0;
        let carol = NodeKeys::read(&mesh.member("carol")?.node.state_dir)?.identity;
        let asks = |identity: SecretKey, server| {
            host.ns
                .run_async(async || learns(&prey, &identity, server, &alice).await)
        };
        // A member is told, so the question is a good one.
        let (told, value) = asks(carol, prey.bootstrap)?;
        ensure!(told && value, "a member was told nothing: {told} {value}");
        for server in [prey.bootstrap, prey.members[1]] {
            let stranger = NodeKeys::of_a_stranger().identity;
            let (told, value) = asks(stranger, server)?;
            ensure!(!told && !value, "a stranger was told: {told} {value}");
        }
        Ok(())
    });
}
