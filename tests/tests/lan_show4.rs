//! Show 4: one segment, no default route, no coordinator, no bootstrap: members that start cold find each other, and when
//! a host is started there, a new machine joins by its short code.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::capture::Capture;
use kanpachi_tests::client::{COORDINATOR_PORT, Node, Overlay, READY};
use kanpachi_tests::lab::{Host, Lab, Segment, run};
use kanpachi_tests::mesh::{DIRECT, Hub, Member, Mesh, NAMES};
use kanpachi_tests::note;
use kanpachi_tests::process::Output;
use kanpachi_tests::wait::{eventually, scaled};

/// All pairs, from the first start of a daemon on.
const COLD: Duration = Duration::from_secs(15);
/// The exit code of what a host refused.
const REFUSED: i32 = 5;

/// A LAN that leads nowhere.
struct Island {
    lan: Segment,
}

impl Island {
    fn new(lab: &mut Lab) -> Result<Self> {
        let lan = lab.lan("party")?;
        Ok(Self { lan })
    }

    fn host(&self, lab: &mut Lab, name: &str) -> Result<Host> {
        let host = lab.host(name, &self.lan)?;
        let (gateway4, gateway6) = self.lan.address(1);
        host.ns.ip(&format!(
            "route del default via {gateway4}\nroute del default via {gateway6}\n"
        ))?;
        Ok(host)
    }
}

/// A file with a code, as a person would pass it to a script.
fn code_file(lab: &Lab, code: &str) -> Result<PathBuf> {
    let path = lab.directory().join("code.txt");
    std::fs::write(&path, format!("{code}\n"))?;
    Ok(path)
}

fn text(path: &std::path::Path) -> Result<&str> {
    path.to_str().context("an odd path")
}

/// Joins by a code on a host on which nothing runs.
fn join_by_code(lab: &Lab, node: Node, code: &str) -> Result<Member> {
    let file = code_file(lab, code)?;
    let mut process = node.start(&["--json", "join", "--code-file", text(&file)?])?;
    let line = process.expect_json(READY, "ipv4")?;
    let overlay = Overlay::from(&line)?;
    Ok(Member {
        node,
        process,
        overlay,
    })
}

/// Tries a code that is refused, and returns the error.
fn try_code(lab: &Lab, node: &Node, code: &str) -> Result<Output> {
    let file = code_file(lab, code)?;
    node.run(&["--json", "join", "--code-file", text(&file)?])
}

fn message(output: &Output) -> Result<String> {
    let line = output.stdout.lines().next().context("no line")?;
    let value: serde_json::Value = serde_json::from_str(line)?;
    let message = &value["error"]["message"];
    Ok(message.as_str().context("no message")?.to_owned())
}

/// The newest code that a host has shown.
fn shown_code(hub: &Hub) -> Result<String> {
    let text = hub.process.stdout();
    let mut codes = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter_map(|value| value["code"].as_str().map(ToOwned::to_owned));
    codes.next_back().context("no code is shown")
}

#[test]
fn members_on_one_segment_start_cold_and_a_new_one_joins_by_code() {
    run("show4-cold", |lab| {
        let island = Island::new(lab)?;
        let hub_host = island.host(lab, "hub")?;
        let hub = Hub::start(lab, &hub_host, &[])?;
        let mut mesh = Mesh {
            hub,
            members: Vec::new(),
            lans: vec![island.lan.clone()],
        };
        for name in NAMES {
            let host = island.host(lab, name)?;
            mesh.add(Node::new(lab, &host)?)?;
        }
        mesh.wait_until_connected(DIRECT)?;
        mesh.hub.process.kill()?;
        for member in &mut mesh.members {
            member.process.kill()?;
            let forgotten = member.node.forget_addresses()?;
            ensure!(forgotten > 0, "{} knew nobody", member.name());
        }
        let start = Instant::now();
        for member in &mut mesh.members {
            member.start_again()?;
        }
        let left = scaled(COLD).saturating_sub(start.elapsed());
        mesh.wait_until_connected(left)?;
        note(format_args!(
            "{:7.3} s of 15 s: every pair pings after a cold start",
            start.elapsed().as_secs_f64()
        ));
        ensure!(start.elapsed() <= scaled(COLD), "{:?}", start.elapsed());
        for member in &mesh.members {
            let status = member.node.status()?;
            ensure!(status.coordinator_state() != "connected", "who answers?");
        }

        mesh.hub.start_again()?;
        let code = shown_code(&mesh.hub)?;
        let start = Instant::now();
        let host = island.host(lab, "dave")?;
        let dave = join_by_code(lab, Node::new(lab, &host)?, &code)?;
        note(format_args!(
            "{:7.3} s: a new machine joined by code",
            start.elapsed().as_secs_f64()
        ));
        mesh.members.push(dave);
        mesh.wait_until_connected(DIRECT)
    });
}

#[test]
fn wrong_codes_make_a_new_one_and_a_listener_sees_none_of_it() {
    run("show4-codes", |lab| {
        let island = Island::new(lab)?;
        let hub_host = island.host(lab, "hub")?;
        let hub = Hub::start(lab, &hub_host, &[])?;
        let old = shown_code(&hub)?;
        let plain = old.replace('-', "");
        let listen = |canary: &[u8]| Capture::start(&island.lan.ns, island.lan.bridge, canary);
        let secrets = [old.as_bytes(), plain.as_bytes(), b"kanpachi://join/"];
        let listeners: Vec<Capture> = secrets.iter().map(|s| listen(s)).collect::<Result<_>>()?;
        let announcement = listen(b"_kanpachi")?;
        let on_overlay = Capture::start(&hub_host.ns, &hub.node.interface, b"_kanpachi")?;

        let host = island.host(lab, "dave")?;
        let node = Node::new(lab, &host)?;
        let wrong = if plain.starts_with('A') {
            "CCCC-3333"
        } else {
            "AAAA-3333"
        };
        for left in ["2 tries left", "1 try left", "was the last try"] {
            let output = try_code(lab, &node, wrong)?;
            ensure!(output.status.code() == Some(REFUSED), "{output:?}");
            ensure!(message(&output)?.contains(left), "{output:?}");
        }
        let new = eventually(Duration::from_secs(2), "the host shows a new code", || {
            let code = shown_code(&hub)?;
            ensure!(code != old, "still the old one");
            Ok(code)
        })?;
        // Whoever tried wrong three times waits a little, and the program waits with it.
        let output = try_code(lab, &node, &old)?;
        ensure!(message(&output)?.contains("2 tries left"), "{output:?}");
        let listener = listen(new.as_bytes())?;
        let joined = join_by_code(lab, node, &new)?;
        ensure!(joined.overlay.name == "dave", "{:?}", joined.overlay);

        let hub = [IpAddr::from(hub_host.v4), IpAddr::from(hub_host.v6)];
        for capture in listeners.into_iter().chain([listener]) {
            let report = capture.finish()?;
            let talk =
                report.sum(|flow| hub.contains(&flow.to) && flow.to_port == COORDINATOR_PORT);
            ensure!(talk.packets > 4, "nothing was captured");
            ensure!(report.with_canary == 0, "a listener sees it");
        }
        let seen = announcement.finish()?.with_canary;
        ensure!(seen > 0, "no announcement was captured");
        let leaked = on_overlay.finish()?.with_canary;
        ensure!(leaked == 0, "announced on the overlay");
        Ok(())
    });
}

/// Of one address, at once. The host listens to four of them at a time.
const CROWD: usize = 9;

#[test]
fn a_crowd_at_one_address_is_asked_to_wait_and_nobody_is_hung_up_on() {
    run("show4-crowd", |lab| {
        let island = Island::new(lab)?;
        let hub_host = island.host(lab, "hub")?;
        let _hub = Hub::start(lab, &hub_host, &[])?;
        let host = island.host(lab, "dave")?;
        let node = Node::new(lab, &host)?;
        let file = code_file(lab, "AAAA-3333")?;
        let args = ["--json", "join", "--code-file", text(&file)?];
        let start = |_| node.start(&args);
        let mut crowd: Vec<_> = (0..CROWD).map(start).collect::<Result<_>>()?;
        for one in &mut crowd {
            one.wait(Duration::from_secs(120))?;
        }
        let errors: Vec<String> = crowd.iter().map(|one| one.stdout()).collect();
        for error in &errors {
            let known = ["wrong_code", "busy"].iter().any(|c| error.contains(c));
            ensure!(known, "somebody was told otherwise: {error}");
        }
        let wrong = errors.iter().filter(|e| e.contains("wrong_code")).count();
        ensure!(wrong >= 3, "{wrong} tries were taken: {errors:?}");
        Ok(())
    });
}

#[test]
fn a_host_is_chosen_by_name_and_one_that_hides_is_not_seen() {
    run("show4-hosts", |lab| {
        let island = Island::new(lab)?;
        let (one, two, three) = (
            island.host(lab, "one")?,
            island.host(lab, "two")?,
            island.host(lab, "three")?,
        );
        let host = island.host(lab, "dave")?;
        let node = Node::new(lab, &host)?;
        let file = code_file(lab, "ACDE-3467")?;
        let nobody = node.run(&["--json", "join", "--code-file", text(&file)?])?;
        ensure!(nobody.status.code() == Some(6), "{nobody:?}");
        ensure!(
            message(&nobody)? == "no host is seen on this LAN",
            "{nobody:?}"
        );

        let hidden = Hub::start(lab, &three, &["--no-lan"])?;
        ensure!(hidden.ready["code"].is_null(), "{}", hidden.ready);
        let mut first = Hub::start(lab, &one, &["--network", "games"])?;
        let second = Hub::start(lab, &two, &[])?;
        let several = node.run(&["--json", "join", "--code-file", text(&file)?])?;
        let listed = message(&several)?;
        ensure!(
            listed.starts_with("2 hosts are seen on this LAN: one (network games) at ")
                && listed.contains("; two (network lan) at "),
            "{listed}"
        );
        // A host that was killed and comes back is found again, with the code of its new life.
        first.process.kill()?;
        first.start_again()?;
        let file = code_file(lab, &shown_code(&first)?)?;
        let mut joined = node.start(&[
            "--json",
            "join",
            "--host",
            "ONE",
            "--code-file",
            text(&file)?,
        ])?;
        let line = joined.expect_json(READY, "ipv4")?;
        ensure!(line["networks"][0] == "games", "{line}");
        drop(second);
        Ok(())
    });
}
