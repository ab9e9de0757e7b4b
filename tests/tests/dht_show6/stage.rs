//! Who is attacked, and what must hold after it: alice and bob, a bootstrap, and carol whose keys the attackers have.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_common::record::{OuterRecord, Sealing};
use kanpachi_common::secret::NetworkSecret;
use kanpachi_common::time::DAY;
use kanpachi_common::{NodeId, OrgId};
use kanpachi_tests::client::{COORDINATOR_PORT, NODE_PORT};
use kanpachi_tests::hostile::{NodeKeys, StolenCoordinator, stolen_secret};
use kanpachi_tests::lab::{Host, Lab};
use kanpachi_tests::mesh::{Hub, Mesh};
use kanpachi_tests::note;
use kanpachi_tests::process::Process;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::eventually;

/// What an attack may cost a process.
const MEMORY: u64 = 32 << 20;
/// Until the victims reach each other again, with nothing remembered and no coordinator.
const FOUND: Duration = Duration::from_secs(10);

/// What the attackers go for.
#[derive(Debug, Clone)]
pub(crate) struct Prey {
    pub(crate) org: OrgId,
    pub(crate) secret: NetworkSecret,
    pub(crate) day: u64,
    pub(crate) bootstrap: (NodeId, SocketAddr),
    pub(crate) members: Vec<(NodeId, SocketAddr)>,
}

impl Prey {
    pub(crate) fn key(&self, node: &NodeId) -> [u8; 32] {
        let key = self.secret.record_key(node, self.day).public_key();
        OuterRecord::dht_key(&key).0
    }

    pub(crate) fn sealing(&self, seq: u64) -> Sealing<'_> {
        Sealing {
            secret: &self.secret,
            day: self.day,
            seq,
            nonce: [7; 12],
        }
    }

    pub(crate) fn targets(&self) -> impl Iterator<Item = (NodeId, SocketAddr)> {
        [self.bootstrap].into_iter().chain(self.members.clone())
    }
}

pub(crate) struct Stage {
    pub(crate) mesh: Mesh,
    pub(crate) bootstrap: Process,
    pub(crate) prey: Prey,
}

pub(crate) fn stage(lab: &mut Lab) -> Result<Stage> {
    let (hub, bootstrap) = Hub::start_separate(lab)?;
    let mesh = Mesh::around(lab, hub, |_, node| Ok(node.set("KANPACHI_NO_MDNS", "1")))?;
    let status = mesh.member("alice")?.node.status()?.0;
    let org = status["org"]
        .as_str()
        .and_then(OrgId::parse)
        .context("no org")?;
    let secret = stolen_secret(&mesh.member("carol")?.node.state_dir)?;
    let id = |name: &str| -> Result<NodeId> {
        let keys = NodeKeys::read(&mesh.member(name)?.node.state_dir)?;
        Ok(keys.identity.node_id())
    };
    let members = ["alice", "bob"].map(|name| {
        let host = &mesh.member(name)?.node.host;
        Ok((id(name)?, (host.v4, NODE_PORT).into()))
    });
    let directory = StolenCoordinator::read(&mesh.hub.node.state_dir)?;
    let directory: kanpachi_common::org::Directory =
        kanpachi_common::cbor::decode(&directory.directory.payload, 65_536)?;
    let server = directory.bootstraps.first().context("no bootstrap")?;
    let at = server.addresses.first().context("no address")?;
    let prey = Prey {
        org,
        secret,
        day: u64::try_from(jiff::Timestamp::now().as_second())? / DAY,
        bootstrap: (
            server.id,
            (at.host.parse::<std::net::IpAddr>()?, COORDINATOR_PORT).into(),
        ),
        members: members.into_iter().collect::<Result<_>>()?,
    };
    Ok(Stage {
        mesh,
        bootstrap,
        prey,
    })
}

/// Ends carol's own program: from now on her keys are the attackers'.
pub(crate) fn take_over(mesh: &mut Mesh) -> Result<(Host, NodeKeys)> {
    let carol = mesh.members.iter_mut().find(|m| m.name() == "carol");
    let carol = carol.context("no carol")?;
    carol.process.kill()?;
    let keys = NodeKeys::read(&carol.node.state_dir)?;
    Ok((carol.node.host.clone(), keys))
}

/// What the bootstrap, alice and bob take, in bytes.
pub(crate) fn memory(bootstrap: &Process, mesh: &Mesh) -> Result<[u64; 3]> {
    let [alice, bob] = ["alice", "bob"].map(|name| mesh.member(name));
    Ok([bootstrap.rss()?, alice?.process.rss()?, bob?.process.rss()?])
}

pub(crate) fn rises_little(before: &[u64; 3], after: &[u64; 3]) -> Result<()> {
    for (before, after) in before.iter().zip(after) {
        note(format_args!(
            "memory {} MiB, then {} MiB",
            before >> 20,
            after >> 20
        ));
        ensure!(*after < before + MEMORY, "{before} bytes grew to {after}");
    }
    Ok(())
}

/// Kills alice and bob, lets them forget where anybody is, and waits until they have found each other again.
pub(crate) fn start_with_nothing(mesh: &mut Mesh) -> Result<()> {
    for member in mesh.members.iter_mut().take(2) {
        member.process.kill()?;
        member.node.forget_addresses()?;
    }
    let start = Instant::now();
    for member in mesh.members.iter_mut().take(2) {
        member.start_again()?;
    }
    let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
    eventually(FOUND, "alice reaches bob in spite of it", || {
        ping::once(&alice.node.host.ns, bob.overlay.v4.into())
    })?;
    note(format_args!("found each other after {:?}", start.elapsed()));
    Ok(())
}
