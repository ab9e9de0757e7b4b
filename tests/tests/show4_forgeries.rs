//! Show 4: forged, stale and damaged objects are refused, counted and logged once; so are packets under another's address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_common::roster::{Delta, Head, Position};
use kanpachi_common::wire::control::ServerMessage;
use kanpachi_common::{Hash, PublicKey, SecretKey, Signed, cbor};
use kanpachi_tests::capture::Capture;
use kanpachi_tests::client::{COORDINATOR_PORT, Node, Status};
use kanpachi_tests::hostile::{
    Greeting, HostileMember, Impostor, NodeKeys, StolenCoordinator, packet,
};
use kanpachi_tests::lab::{Lab, run};
use kanpachi_tests::mesh::{DIRECT, Member, Mesh};
use kanpachi_tests::note;
use kanpachi_tests::wait::eventually;

const LOGIN: Duration = Duration::from_secs(15);
const SOON: Duration = Duration::from_secs(5);
/// How often each forgery is shown: counted every time, logged once.
const TIMES: u64 = 5;

#[test]
fn forged_heads_are_refused_counted_and_logged_once() {
    run("show4-heads", |lab| {
        let mut mesh = Mesh::three(lab, &["--no-node"])?;
        mesh.hub.process.kill()?;
        let stolen = StolenCoordinator::read(&mesh.hub.node.state_dir)?;
        let impostor = Impostor::start(
            &mesh.hub.node.host,
            COORDINATOR_PORT,
            &stolen,
            Greeting::Welcome,
        )?;
        eventually(LOGIN, "all three are logged in at the impostor", || {
            ensure!(impostor.sessions() == 3, "{} are", impostor.sessions());
            Ok(())
        })?;
        let before = rosters(&mesh)?;
        for (what, counter, delta) in forgeries(&stolen)? {
            shown(&mesh, &impostor, what, counter, &delta)?;
        }
        ensure!(rosters(&mesh)? == before, "a roster changed");
        for member in &mesh.members {
            let log = member.process.stderr();
            let lines: Vec<&str> = log
                .lines()
                .filter(|line| line.contains("refused"))
                .collect();
            note(format_args!(
                "{} logged {} lines: {lines:#?}",
                member.name(),
                lines.len()
            ));
            let mut distinct = lines
                .iter()
                .map(|line| without_time(line))
                .collect::<Vec<_>>();
            distinct.sort_unstable();
            distinct.dedup();
            ensure!(!lines.is_empty(), "{} logged nothing", member.name());
            ensure!(
                distinct.len() == lines.len(),
                "{} logged the same twice: {log}",
                member.name()
            );
        }
        mesh.wait_until_connected(DIRECT)
    });
}

/// The forgeries with the counter that each must raise.
fn forgeries(stolen: &StolenCoordinator) -> Result<Vec<(&'static str, &'static str, Delta)>> {
    let newest = stolen.head()?;
    let stale = stolen.heads.first().context("no head")?;
    let real: Head = cbor::decode(&newest.payload, 4096)?;
    ensure!(stolen.heads.len() > 1, "only one head was ever signed");
    let mut bent = newest.clone();
    // The epoch's last byte or whatever stands there: any change at all must do.
    let middle = bent.payload.len() / 2;
    bent.payload[middle] ^= 1;
    let mut bent_signature = newest.clone();
    bent_signature.sig[10] ^= 1;
    // What a thief without the signing key would like: the next epoch, with a root of his own.
    let wish = Head {
        epoch: real.epoch + 1,
        prev_root: real.root,
        root: Hash([7; 32]),
        ..real.clone()
    };
    let own_key = SecretKey::from_seed(&[3; 32]);
    let by_own_key = Signed::sign(&wish, &own_key);
    let mut under_real_name = Signed::sign(&wish, &own_key);
    under_real_name.key = PublicKey(newest.key.0);
    Ok(vec![
        (
            "a head with one byte changed",
            "roster_bad_signature",
            delta(stolen, &real, bent),
        ),
        (
            "a head with one bit of its signature changed",
            "roster_bad_signature",
            delta(stolen, &real, bent_signature),
        ),
        (
            "a stale head",
            "roster_stale",
            delta(stolen, &real, stale.clone()),
        ),
        (
            "a head signed by a stranger's key",
            "roster_bad_signature",
            delta(stolen, &real, by_own_key),
        ),
        (
            "a head under the real key's name",
            "roster_bad_signature",
            delta(stolen, &real, under_real_name),
        ),
    ])
}

fn delta(stolen: &StolenCoordinator, base: &Head, head: Signed<Head>) -> Delta {
    Delta {
        network: stolen.network,
        base: Position {
            generation: base.generation,
            epoch: base.epoch,
        },
        base_root: base.root,
        head,
        settings: None,
        upserts: Vec::new(),
        removed: Vec::new(),
    }
}

/// Shows one forgery several times to everybody, and waits until everybody has counted each.
fn shown(mesh: &Mesh, impostor: &Impostor, what: &str, counter: &str, delta: &Delta) -> Result<()> {
    let count = |member: &Member| Ok::<_, anyhow::Error>(member.node.status()?.counter(counter));
    let before = mesh.members.iter().map(count).collect::<Result<Vec<_>>>()?;
    for _ in 0..TIMES {
        impostor.push(&ServerMessage::Delta(Box::new(delta.clone())));
    }
    for (member, before) in mesh.members.iter().zip(before) {
        eventually(
            SOON,
            &format!("{} counts {what} as {counter}", member.name()),
            || {
                let now = count(member)?;
                ensure!(now == before + TIMES, "{before} before, {now} now");
                Ok(())
            },
        )?;
    }
    Ok(())
}

/// What every member believes of its network.
fn rosters(mesh: &Mesh) -> Result<Vec<(String, String)>> {
    let believed = |Status(status): Status| {
        let network = &status["networks"][0];
        let members = network["members"].as_array().into_iter().flatten();
        let members: Vec<String> = members
            .map(|member| format!("{} {}", member["name"], member["ipv4"]))
            .collect();
        (
            format!("{}.{}", network["generation"], network["epoch"]),
            members.join(", "),
        )
    };
    mesh.members
        .iter()
        .map(|member| Ok(believed(member.node.status()?)))
        .collect()
}

/// A log line from its first word after the time on.
fn without_time(line: &str) -> &str {
    line.trim_start_matches(|c: char| c.is_ascii_digit() || "T:-.Z ".contains(c))
}

#[test]
fn an_inner_packet_under_another_members_address_is_dropped_and_counted() {
    const CANARY: &[u8] = b"A-PACKET-UNDER-A-FALSE-NAME";
    run("show4-source", |lab| {
        let (mesh, mallory) = mesh_with_mallory(lab)?;
        let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
        let mut hostile = connected_to(&mesh, &mallory, alice)?;
        let (own, alice_v4, alice_v6) = (&mallory.overlay, alice.overlay.v4, alice.overlay.v6);
        hostile.send(&packet::echo_v4(own.v4, alice_v4, 1, b"honest"))?;
        hostile
            .receive(SOON, |packet| packet::is_echo_reply(packet, b"honest"))
            .context("IPv4 under its own address")?;
        hostile.send(&packet::echo_v6(own.v6, alice_v6, 1, b"honest"))?;
        hostile
            .receive(SOON, |packet| packet::is_echo_reply(packet, b"honest"))
            .context("IPv6 under its own address")?;

        let capture = Capture::start(&alice.node.host.ns, &alice.node.interface, CANARY)?;
        let before = alice.node.status()?.counter("drop_source");
        let outside = Ipv4Addr::new(192, 0, 2, 77);
        for sequence in 0..TIMES as u16 {
            hostile.send(&packet::echo_v4(bob.overlay.v4, alice_v4, sequence, CANARY))?;
            hostile.send(&packet::echo_v6(bob.overlay.v6, alice_v6, sequence, CANARY))?;
            hostile.send(&packet::echo_v4(outside, alice_v4, sequence, CANARY))?;
            hostile.send(&packet::echo_v4(alice_v4, alice_v4, sequence, CANARY))?;
        }
        eventually(SOON, "alice counts them as drop_source", || {
            let now = alice.node.status()?.counter("drop_source");
            ensure!(now == before + 4 * TIMES, "{before} before, {now} now");
            Ok(())
        })?;
        hostile.send(&packet::echo_v4(own.v4, alice_v4, 2, b"honest again"))?;
        hostile.receive(SOON, |packet| {
            packet::is_echo_reply(packet, b"honest again")
        })?;
        let seen = capture.finish()?;
        ensure!(
            seen.packets > 0 && seen.with_canary == 0,
            "{} false packets came out at alice",
            seen.with_canary
        );
        Ok(())
    });
}

#[test]
fn a_stranger_gets_no_tunnel() {
    run("show4-stranger", |lab| {
        let (mesh, mallory) = mesh_with_mallory(lab)?;
        let alice = mesh.member("alice")?;
        let stolen = StolenCoordinator::read(&mesh.hub.node.state_dir)?;
        let before = alice.node.status()?.counter("handshake_unknown_peer");
        // It knows alice's tunnel key and where she is, and is in no roster.
        let mut stranger =
            HostileMember::new(&mallory.node.host, &NodeKeys::of_a_stranger(), stolen.org())?;
        let outcome = stranger.connect(
            &stolen.member("alice")?,
            stolen.network,
            listens_at(alice)?,
            SOON,
        );
        ensure!(outcome.is_err(), "alice shook hands with a stranger");
        let after = alice.node.status()?.counter("handshake_unknown_peer");
        ensure!(
            after > before,
            "alice counted nothing: {before} before, {after} now"
        );
        Ok(())
    });
}

/// Three members, and a fourth whose node has joined and is gone, leaving its keys.
fn mesh_with_mallory(lab: &mut Lab) -> Result<(Mesh, Member)> {
    let mut mesh = Mesh::three(lab, &["--no-node"])?;
    let host = lab.public_host("mallory")?;
    let invite = mesh.fresh_invite()?;
    let mut mallory = Member::join(Node::new(lab, &host)?, &invite)?;
    for member in &mut mesh.members {
        kanpachi_tests::mesh::reach(&mallory, member, DIRECT)?;
    }
    mallory.process.terminate(SOON)?;
    Ok((mesh, mallory))
}

fn connected_to(mesh: &Mesh, mallory: &Member, victim: &Member) -> Result<HostileMember> {
    let stolen = StolenCoordinator::read(&mesh.hub.node.state_dir)?;
    let keys = NodeKeys::read(&mallory.node.state_dir)?;
    let mut hostile = HostileMember::new(&mallory.node.host, &keys, stolen.org())?;
    hostile.connect(
        &stolen.member(victim.name())?,
        stolen.network,
        listens_at(victim)?,
        DIRECT,
    )?;
    Ok(hostile)
}

/// The underlay address of a member's tunnel socket.
fn listens_at(member: &Member) -> Result<SocketAddr> {
    let status = member.node.status()?;
    let listen: SocketAddr = status.0["listen"][0]
        .as_str()
        .context("it listens nowhere")?
        .parse()?;
    Ok(SocketAddr::new(
        IpAddr::V4(member.node.host.v4),
        listen.port(),
    ))
}
