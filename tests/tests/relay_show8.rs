//! Show 8 of Part 4: a relay gives nothing to strangers and to the evicted, and nobody can aim it at others.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use kanpachi_common::wire::control::{Announce, ClientMessage};
use kanpachi_common::wire::relay::datagram::{BIND, BIND_LEN, BOUND};
use kanpachi_common::wire::relay::{Reason, RelayMessage};
use kanpachi_common::{Candidate, CandidateKind, SecretKey};
use kanpachi_tests::capture::{Capture, TCP, UDP};
use kanpachi_tests::hostile::{Guest, NodeKeys, RelayGuest, StolenCoordinator, Target};
use kanpachi_tests::lab::{HOST_INTERFACE, Host, run};
use kanpachi_tests::mesh::{Mesh, NETWORK};
use kanpachi_tests::note;

/// From the eviction to the last byte that is relayed.
const OUT: Duration = Duration::from_secs(10);
const STOP: Duration = Duration::from_secs(10);
/// Until everybody is logged in at a coordinator that was started again.
const BACK: Duration = Duration::from_secs(30);
const PORT: u16 = 12975;
/// Datagrams of a stranger, none of which may be answered.
const TRIES: usize = 500;
/// Answers to a member that binds wherever it likes: a burst, and one a second.
const MOST_ANSWERS: usize = 20;
/// How long a member says that it is where somebody else is, and the most bytes that two others send there meanwhile: most of
/// that are dials of libp2p, each some datagrams of 1200 bytes.
const AIMED: Duration = Duration::from_secs(60);
const MOST_AIMED: u64 = 1_250_000;

#[test]
fn strangers_and_the_evicted_get_no_bytes_and_nobody_is_aimed_at() {
    run("relay-show8", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node"])?;
        let intruder = lab.public_host("intruder")?;
        never_expire(&mut mesh)?;
        let hub = mesh.hub.node.host.v4;
        let stolen = StolenCoordinator::read(&mesh.hub.coordinator_dir())?;
        ensure!(
            stolen.roster()?.head().hard_expires_at.is_none(),
            "proofs expire"
        );
        let target = Target {
            org: stolen.org(),
            server: stolen.identity.node_id(),
            addr: SocketAddr::from((hub, PORT)),
        };
        // Bob and carol are run by somebody else from here on.
        let mut keys = Vec::new();
        for member in &mut mesh.members[1..] {
            member.process.terminate(STOP)?;
            keys.push(NodeKeys::read(&member.node.state_dir)?.identity);
        }
        let scene = Scene {
            intruder: &intruder,
            target,
            stolen: &stolen,
            mesh: &mesh,
            bob: &keys[0],
            carol: &keys[1],
        };
        intruder.ns.run_async(async || scene.play().await)
    });
}

#[test]
fn a_member_that_says_it_is_where_somebody_else_is_sends_little_there() {
    run("relay-show8-aimed", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node"])?;
        let (liar, victim) = (lab.public_host("liar")?, lab.public_host("victim")?);
        let stolen = StolenCoordinator::read(&mesh.hub.coordinator_dir())?;
        let target = Target {
            org: stolen.org(),
            server: stolen.identity.node_id(),
            addr: SocketAddr::from((mesh.hub.node.host.v4, PORT)),
        };
        let carol = &mut mesh.members[2];
        carol.process.terminate(STOP)?;
        let seed = NodeKeys::read(&carol.node.state_dir)?.identity.seed();
        let capture = Capture::start(&victim.ns, HOST_INTERFACE, b"")?;
        liar.ns.run_async(async || {
            let mut guest = Guest::connect_with(target, liar.v4.into(), *seed, 1 << 40).await?;
            // As often as a coordinator listens, and each time of other ports.
            for round in 0..AIMED.as_secs() {
                let candidates = (0..16).map(|n| Candidate {
                    addr: SocketAddr::from((victim.v4, 1000 + (round % 1000) as u16 * 16 + n)),
                    kind: CandidateKind::Reflexive,
                });
                let announce = Announce {
                    candidates: candidates.collect(),
                    nat: None,
                };
                guest.ask(&ClientMessage::Announce(announce)).await?;
                tokio::time::sleep(Duration::from_millis(1020)).await;
            }
            Ok(())
        })?;
        let report = capture.finish()?;
        let there = |protocol| {
            report.sum(|flow| flow.protocol == protocol && flow.to == IpAddr::from(victim.v4))
        };
        let (udp, tcp) = (there(UDP), there(TCP));
        note(format_args!(
            "in {AIMED:.0?} by two members: {udp:?} UDP, {tcp:?} TCP"
        ));
        ensure!(udp.packets > 50, "nobody was aimed at all");
        ensure!(udp.bytes + tcp.bytes < MOST_AIMED, "{udp:?} {tcp:?}");
        Ok(())
    });
}

/// Has the coordinator sign rosters that are good for ever: only the relay's own news can end an old proof then.
fn never_expire(mesh: &mut Mesh) -> Result<()> {
    mesh.hub.process.terminate(STOP)?;
    let db = mesh.hub.coordinator_dir().join("coordinator.db");
    let changed =
        rusqlite::Connection::open(db)?.execute("UPDATE network SET hard_seconds = NULL", [])?;
    ensure!(changed == 1, "{changed} networks");
    mesh.hub.start_again()?;
    mesh.wait_until_logged_in(BACK)?;
    // Each change is signed anew.
    let alice = &mesh.member("alice")?.node;
    alice.json(&["set-access", NETWORK, "lock"]).map(drop)
}

struct Scene<'a> {
    intruder: &'a Host,
    target: Target,
    stolen: &'a StolenCoordinator,
    mesh: &'a Mesh,
    bob: &'a SecretKey,
    carol: &'a SecretKey,
}

impl Scene<'_> {
    async fn connect(&self, who: &SecretKey) -> Result<RelayGuest> {
        RelayGuest::connect(self.target, self.intruder.v4.into(), who).await
    }

    async fn play(&self) -> Result<()> {
        let (mut bob, mut carol) = (
            self.connect(self.bob).await?,
            self.connect(self.carol).await?,
        );
        bob.get_in(self.stolen).await?;
        carol.get_in(self.stolen).await?;
        carol.pair(7, &mut bob).await?;
        carol.send(7, b"hello")?;
        ensure!(
            bob.receives(7)?.as_deref() == Some(b"hello"),
            "no relay at all"
        );

        self.stranger(&carol, &bob).await?;
        self.aim(&carol)?;
        carol.send(7, b"still there")?;
        ensure!(bob.receives(7)?.is_some(), "the rest is undisturbed");
        self.evicted(&mut carol, &bob).await
    }

    /// With somebody else's proof, and with what it overheard of two members.
    async fn stranger(&self, carol: &RelayGuest, bob: &RelayGuest) -> Result<()> {
        let nobody = SecretKey::from_seed(&[0x77; 32]);
        let mut stranger = self.connect(&nobody).await?;
        let overheard = self.stolen.proof(&carol.node)?;
        let answer = stranger.open(self.stolen, vec![overheard]).await?;
        ensure!(
            matches!(&answer, RelayMessage::Refused(r) if r.reason == Reason::NotAMember),
            "{answer:?}"
        );
        let mut forged = carol.bind_datagram();
        forged[BIND_LEN - 1] ^= 1;
        let replayed = carol.datagram(7, b"from somewhere else");
        for _ in 0..TRIES {
            for datagram in [
                &forged[..],
                &[BIND; BIND_LEN],
                &[BOUND; BIND_LEN],
                &replayed,
            ] {
                stranger.udp.send_to(datagram, self.target.addr)?;
            }
        }
        ensure!(stranger.receive()?.is_none(), "a stranger was answered");
        ensure!(bob.receive()?.is_none(), "a stranger's data was passed on");
        Ok(())
    }

    /// A member that asks for answers to an address that it does not have.
    fn aim(&self, carol: &RelayGuest) -> Result<()> {
        let victim = UdpSocket::bind((self.intruder.v4, 0))?;
        victim.set_read_timeout(Some(Duration::from_millis(300)))?;
        let start = Instant::now();
        for _ in 0..TRIES {
            victim.send_to(&carol.bind_datagram(), self.target.addr)?;
        }
        let (mut answers, mut buf) = (0, [0; 2048]);
        while let Ok(n) = victim.recv(&mut buf) {
            ensure!(n <= BIND_LEN, "an answer of {n} bytes");
            answers += 1;
        }
        let most = MOST_ANSWERS + usize::try_from(start.elapsed().as_secs())?;
        note(format_args!(
            "{answers} answers to {TRIES} binds from elsewhere"
        ));
        ensure!((1..=most).contains(&answers), "{answers} answers");
        Ok(())
    }

    async fn evicted(&self, carol: &mut RelayGuest, bob: &RelayGuest) -> Result<()> {
        let old = self.stolen.proof(&carol.node)?;
        let alice = &self.mesh.member("alice")?.node;
        alice.json(&["evict", NETWORK, "carol"])?;
        let evicted = Instant::now();
        let mut last = None;
        while evicted.elapsed() < OUT {
            carol.send(7, b"from the evicted")?;
            bob.send(7, b"to the evicted")?;
            let came = [bob.receives(7)?, carol.receives(7)?];
            if came.iter().any(Option::is_some) {
                last = Some(evicted.elapsed());
            } else if last.is_none_or(|last| evicted.elapsed() > last + Duration::from_secs(2)) {
                break;
            }
        }
        note(format_args!("the last byte {last:?} after the eviction"));
        carol.send(7, b"from the evicted")?;
        bob.send(7, b"to the evicted")?;
        ensure!(bob.receive()?.is_none() && carol.receive()?.is_none());
        // Its stream was told so, and a new one with the old proof is told the same, with the head.
        let refused = loop {
            match carol.hears().await? {
                RelayMessage::Refused(refused) => break refused,
                _ => continue,
            }
        };
        ensure!(refused.reason == Reason::NotAMember, "{refused:?}");
        let mut again = self.connect(self.carol).await?;
        let answer = again.open(self.stolen, vec![old]).await?;
        ensure!(
            matches!(&answer, RelayMessage::Refused(r) if r.reason == Reason::NotAMember && r.head.is_some()),
            "{answer:?}"
        );
        again
            .udp
            .send_to(&carol.bind_datagram(), self.target.addr)?;
        ensure!(
            again.receive()?.is_none(),
            "an evicted member's bind was answered"
        );
        Ok(())
    }
}
