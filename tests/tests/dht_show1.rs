//! The DHT instead of a coordinator: restarted members find each other, with what they remember and without, and two
//! that never had a tunnel do.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{Host, Lab, Segment, run};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, Mesh};
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::eventually;
use kanpachi_tests::{loss, process::Process};

/// A restarted node whose peers are where they were.
const REMEMBERED: Duration = Duration::from_secs(3);
/// One that has to ask the DHT.
const LOOKED_UP: Duration = Duration::from_secs(10);
/// All pairs of twenty, all started at once on one machine.
const TWENTY: Duration = Duration::from_secs(60);

fn quiet(node: Node) -> Node {
    node.set("KANPACHI_NO_MDNS", "1")
}

/// Waits until one member can ping another; says how long it took since `start`.
fn reaches(from: &Member, to: &Member, start: Instant, limit: Duration) -> Result<Duration> {
    let what = format!("{} pings {}", from.name(), to.name());
    let left = limit.saturating_sub(start.elapsed());
    eventually(left, &what, || {
        ping::once(&from.node.host.ns, to.overlay.v4.into())
    })?;
    Ok(start.elapsed())
}

/// Deletes all that a stopped node remembers of where others are.
fn forget_addresses(node: &Node) -> Result<()> {
    let db = rusqlite::Connection::open(node.state_dir.join("node.db"))?;
    db.execute_batch("DELETE FROM candidates; DELETE FROM records;")
        .context("forget the addresses")
}

fn knows_no_address(node: &Node) -> Result<()> {
    let db = rusqlite::Connection::open(node.state_dir.join("node.db"))?;
    for table in ["candidates", "records"] {
        let sql = format!("SELECT count(*) FROM {table}");
        let rows: i64 = db.query_row(&sql, [], |row| row.get(0))?;
        ensure!(rows == 0, "{rows} rows in {table}");
    }
    Ok(())
}

fn restart(member: &mut Member) -> Result<Instant> {
    member.process.kill()?;
    let start = Instant::now();
    member.start_again()?;
    Ok(start)
}

fn separate(lab: &mut Lab) -> Result<(Mesh, Process)> {
    let (hub, bootstrap) = Hub::start_separate(lab)?;
    let mesh = Mesh::around(lab, hub, |_, node| Ok(quiet(node)))?;
    Ok((mesh, bootstrap))
}

#[test]
fn a_node_restarted_without_a_coordinator_reaches_the_others() {
    run("dht1-coordinator", |lab| {
        let (mut mesh, _bootstrap) = separate(lab)?;
        mesh.hub.process.kill()?;
        let start = restart(&mut mesh.members[0])?;
        for to in ["bob", "carol"] {
            let took = reaches(mesh.member("alice")?, mesh.member(to)?, start, REMEMBERED)?;
            note(format_args!("alice remembers {to}: {took:?}"));
        }
        mesh.members[0].process.kill()?;
        forget_addresses(&mesh.members[0].node)?;
        let start = Instant::now();
        mesh.members[0].start_again()?;
        for to in ["bob", "carol"] {
            let took = reaches(mesh.member("alice")?, mesh.member(to)?, start, LOOKED_UP)?;
            note(format_args!("alice finds {to} again: {took:?}"));
        }
        Ok(())
    });
}

#[test]
fn a_node_restarted_after_the_whole_host_died_reaches_the_others() {
    run("dht1-host", |lab| {
        let mut mesh = Mesh::three_with(lab, &[], |_, node| Ok(quiet(node)))?;
        mesh.hub.process.kill()?;
        let start = restart(&mut mesh.members[0])?;
        for to in ["bob", "carol"] {
            let took = reaches(mesh.member("alice")?, mesh.member(to)?, start, REMEMBERED)?;
            note(format_args!("alice remembers {to}: {took:?}"));
        }
        Ok(())
    });
}

#[test]
fn two_that_never_had_a_tunnel_find_each_other_through_the_dht_alone() {
    run("dht1-strangers", |lab| strangers(lab, false));
}

#[test]
fn two_behind_firewalls_that_never_had_a_tunnel_find_each_other_through_the_dht_alone() {
    run("dht1-guarded", |lab| strangers(lab, true));
}

/// A router that lets in only what answers.
fn guard(lan: &Segment, host: &Host) -> Result<()> {
    let rules = [
        format!("ip daddr {} ct state new", host.v4),
        format!("ip6 daddr {} ct state new", host.v6),
    ];
    loss::block(lan, &rules.join(" counter drop\n"))
}

fn strangers(lab: &mut Lab, guarded: bool) -> Result<()> {
    let (hub, _bootstrap) = Hub::start_separate(lab)?;
    let mut mesh = Mesh {
        hub,
        members: Vec::new(),
        lans: Vec::new(),
    };
    let (one, two) = (lab.lan("alice-lan")?, lab.lan("bob-lan")?);
    let (alice, bob) = (lab.host("alice", &one)?, lab.host("bob", &two)?);
    // Nothing passes between them until both have forgotten what the coordinator said.
    let rules = [
        format!("ip daddr {}", bob.v4),
        format!("ip saddr {}", bob.v4),
        format!("ip6 daddr {}", bob.v6),
        format!("ip6 saddr {}", bob.v6),
    ];
    loss::block(&one, &rules.join(" counter drop\n"))?;
    mesh.add(quiet(Node::new(lab, &alice)?))?;
    mesh.add(quiet(Node::new(lab, &bob)?))?;
    eventually(DIRECT, "alice hears of bob", || {
        let peer = mesh.members[0].node.status()?.peer("bob")?;
        ensure!(peer["online"] == true, "{peer}");
        Ok(())
    })?;
    mesh.hub.process.kill()?;
    for member in &mut mesh.members {
        let peers = member.node.status()?;
        let met = peers.members().any(|m| !m["last_handshake"].is_null());
        ensure!(!met, "they had a tunnel");
        member.process.kill()?;
        forget_addresses(&member.node)?;
        knows_no_address(&member.node)?;
    }
    loss::restore(&one.ns)?;
    if guarded {
        guard(&one, &alice)?;
        guard(&two, &bob)?;
        for (from, to) in [(&alice, &bob), (&bob, &alice)] {
            let passed = ping::once(&from.ns, to.v4.into());
            ensure!(passed.is_err(), "the firewall of {} lets in", to.name);
        }
    }
    let start = Instant::now();
    for member in &mut mesh.members {
        member.start_again()?;
    }
    let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
    let took = reaches(alice, bob, start, LOOKED_UP)?;
    note(format_args!("found through the DHT: {took:?}"));
    eventually(LOOKED_UP, "a record tells where the other is", || {
        let both = [(alice, "bob"), (bob, "alice")];
        let told = both.iter().map(|(member, other)| {
            let reply = member.node.json(&["peer", other])?;
            let underlay = reply["peer"]["underlay"].as_array().cloned();
            let sources = underlay.unwrap_or_default();
            ensure!(
                !sources
                    .iter()
                    .any(|u| u["source"] == "coordinator" || u["source"] == "disk"),
                "{sources:?}"
            );
            Ok(sources.iter().any(|u| u["source"] == "dht"))
        });
        let told = told.collect::<Result<Vec<bool>>>()?;
        ensure!(told.contains(&true), "neither was told by the DHT");
        Ok(())
    })
}

#[test]
fn of_twenty_members_that_forgot_everything_each_finds_every_other() {
    run("dht1-twenty", |lab| {
        let (hub, _bootstrap) = Hub::start_separate(lab)?;
        let mut mesh = Mesh {
            hub,
            members: Vec::new(),
            lans: Vec::new(),
        };
        for segment in 0..10 {
            let lan = lab.lan(&format!("lan{segment}"))?;
            for n in 0..2 {
                let host = lab.host(&format!("m{}", segment * 2 + n), &lan)?;
                mesh.add(quiet(Node::new(lab, &host)?))?;
            }
        }
        // The one that joined first has the roster with the one that joined last.
        let all = |member: &Member| -> Result<()> {
            let known = member.node.status()?.members().count();
            ensure!(known == 19, "{} knows {known}", member.name());
            Ok(())
        };
        for member in &mesh.members {
            eventually(DIRECT, "everybody is known", || all(member))?;
        }
        mesh.hub.process.kill()?;
        for member in &mut mesh.members {
            member.process.kill()?;
            forget_addresses(&member.node)?;
        }
        let start = Instant::now();
        for member in &mut mesh.members {
            member.start_again()?;
        }
        let started = start.elapsed();
        for (from, to) in mesh.pairs() {
            reaches(from, to, start, TWENTY)?;
        }
        note(format_args!(
            "20 started in {started:?}, all pairs after {:?}",
            start.elapsed()
        ));
        for member in &mesh.members {
            let status = member.node.status()?;
            let (lookups, invalid) = (
                status.counter("record_lookups"),
                status.counter("record_invalid"),
            );
            ensure!(
                invalid == 0,
                "{}: {invalid} of {lookups} invalid",
                member.name()
            );
        }
        Ok(())
    });
}
