//! The DHT instead of a coordinator: restarted members find each other, with what they remember and without, and two
//! that never had a tunnel do.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{Host, Lab, Segment, run};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, Mesh};
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::{eventually, quietly};
use kanpachi_tests::{loss, process::Process};
use nix::sys::signal::Signal;

/// A restarted node whose peers are where they were.
const REMEMBERED: Duration = Duration::from_secs(3);
/// One that has to ask the DHT.
const LOOKED_UP: Duration = Duration::from_secs(10);
/// A port that is not the usual one.
const ELSEWHERE: &str = "13100";
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
        // Carol came last, and nothing has happened since.
        mesh.members.iter().try_for_each(published)?;
        mesh.hub.process.kill()?;
        let start = restart(&mut mesh.members[0])?;
        for to in ["bob", "carol"] {
            let took = reaches(mesh.member("alice")?, mesh.member(to)?, start, REMEMBERED)?;
            note(format_args!("alice remembers {to}: {took:?}"));
        }
        let alice = &mut mesh.members[0];
        alice.process.kill()?;
        alice.node.forget_addresses()?;
        let start = Instant::now();
        // Where the others remember her nobody is any more.
        alice.process = alice.node.start(&["up", "--listen", ELSEWHERE])?;
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

/// Two members that never had a tunnel, on segments of their own, stopped, with no address of each other left; and the
/// bootstrap. The coordinator is dead.
struct Strangers {
    mesh: Mesh,
    _bootstrap: Process,
}

impl Strangers {
    fn new(lab: &mut Lab, guarded: bool) -> Result<Self> {
        let (hub, bootstrap) = Hub::start_separate(lab)?;
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
            member.node.forget_addresses()?;
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
        Ok(Self {
            mesh,
            _bootstrap: bootstrap,
        })
    }
}

/// Where a member says that it has the addresses of another from, each once.
fn sources(member: &Member, other: &str) -> Result<BTreeSet<String>> {
    let reply = member.node.json(&["peer", other])?;
    let underlay = reply["peer"]["underlay"].as_array();
    let underlay = underlay.into_iter().flatten();
    let sources = underlay.filter_map(|from| from["source"].as_str());
    Ok(sources.map(str::to_owned).collect())
}

/// The same, where a coordinator or a disk must have had no part in it.
fn sources_now(member: &Member, other: &str) -> Result<BTreeSet<String>> {
    let sources = sources(member, other)?;
    let old = ["coordinator", "disk"].iter().any(|s| sources.contains(*s));
    ensure!(!old, "{sources:?}");
    Ok(sources)
}

fn strangers(lab: &mut Lab, guarded: bool) -> Result<()> {
    let mut strangers = Strangers::new(lab, guarded)?;
    let start = Instant::now();
    for member in &mut strangers.mesh.members {
        member.start_again()?;
    }
    let mesh = &strangers.mesh;
    let (alice, bob) = (mesh.member("alice")?, mesh.member("bob")?);
    let took = reaches(alice, bob, start, LOOKED_UP)?;
    note(format_args!("found through the DHT: {took:?}"));
    eventually(LOOKED_UP, "a record tells where the other is", || {
        let told = [sources_now(alice, "bob")?, sources_now(bob, "alice")?];
        let told = told.iter().any(|sources| sources.contains("dht"));
        ensure!(told, "neither was told by the DHT");
        Ok(())
    })
}

/// Waits until a server of the DHT has the record of a member.
fn published(member: &Member) -> Result<()> {
    let what = format!("the record of {} is taken", member.name());
    eventually(LOOKED_UP, &what, || {
        let taken = member.node.status()?.counter("record_taken");
        ensure!(taken > 0, "{taken} rounds");
        Ok(())
    })
}

/// In a small network every member is one of the servers that a record is given to, and has it without asking. Here nobody
/// is there to be given it: who publishes stands still while the other looks.
#[test]
fn a_record_of_somebody_who_stands_still_is_looked_up_by_one_who_was_not_there() {
    run("dht1-look-up", |lab| {
        let mut strangers = Strangers::new(lab, false)?;
        let members = &mut strangers.mesh.members;
        members[0].start_again()?;
        published(&members[0])?;
        members[0].process.signal(Signal::SIGSTOP)?;
        members[1].start_again()?;
        let (alice, bob) = (&members[0], &members[1]);
        let found = eventually(LOOKED_UP, "bob looks alice up", || {
            let sources = sources_now(bob, "alice")?;
            ensure!(sources.iter().eq(["dht"]), "{sources:?}");
            Ok(())
        });
        // A process that is stopped cannot be told to end.
        alice.process.signal(Signal::SIGCONT)?;
        found?;
        reaches(bob, alice, Instant::now(), LOOKED_UP)?;
        Ok(())
    });
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
            member.node.forget_addresses()?;
        }
        let start = Instant::now();
        for member in &mut mesh.members {
            member.start_again()?;
        }
        let started = start.elapsed();
        for (from, to) in mesh.pairs() {
            quietly(TWENTY.saturating_sub(start.elapsed()), || {
                ping::once(&from.node.host.ns, to.overlay.v4.into())
            })
            .with_context(|| format!("{} pings {}", from.name(), to.name()))?;
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
            published(member)?;
        }
        let outcome = each_looks_up_all(&mut mesh);
        for member in &mesh.members {
            // A process that is stopped cannot be told to end.
            member.process.signal(Signal::SIGCONT)?;
        }
        outcome
    });
}

/// One member after the other starts with nothing among others that stand still, and looks all of them up.
fn each_looks_up_all(mesh: &mut Mesh) -> Result<()> {
    for member in &mesh.members {
        member.process.signal(Signal::SIGSTOP)?;
    }
    let names: Vec<String> = mesh.members.iter().map(|m| m.name().to_owned()).collect();
    let mut took = Vec::new();
    for seeker in &mut mesh.members {
        seeker.process.kill()?;
        seeker.node.forget_addresses()?;
        let start = Instant::now();
        seeker.start_again()?;
        for other in names.iter().filter(|name| *name != seeker.name()) {
            quietly(LOOKED_UP, || {
                let sources = sources_now(seeker, other)?;
                ensure!(sources.iter().eq(["dht"]), "{sources:?}");
                Ok(())
            })
            .with_context(|| format!("{} looks {other} up", seeker.name()))?;
        }
        took.push(start.elapsed());
        seeker.process.signal(Signal::SIGSTOP)?;
    }
    let (all, slowest) = (names.len() * (names.len() - 1), took.iter().max());
    note(format_args!(
        "{all} look-ups found what they were for; the slowest 19, with the start: {slowest:?}"
    ));
    Ok(())
}
