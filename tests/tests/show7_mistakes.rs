//! Show 7: a newcomer's mistakes. Each gets one clear sentence that says what to do and the documented exit code, and
//! nothing is lost or half-written: once the mistake is mended, the same command works.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kanpachi_common::wire::control::{Refused, codes};
use kanpachi_tests::client::{COORDINATOR_PORT, Node, Overlay};
use kanpachi_tests::disk::SmallDisk;
use kanpachi_tests::hostile::{Greeting, Impostor, StolenCoordinator};
use kanpachi_tests::lab::{Lab, run};
use kanpachi_tests::mesh::{Hub, Member};
use kanpachi_tests::note;
use kanpachi_tests::process::{
    CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, Output, Without, binary,
};
use kanpachi_tests::wait::eventually;

/// What a refused command must say: exit code, `error.code`, and words that the sentence holds.
struct Complaint {
    exit: i32,
    code: &'static str,
    words: &'static [&'static str],
}

/// Runs a command twice, for people and with `--json`, and checks that both complain as they should.
fn complains(node: &Node, args: &[&str], without: &Without, expected: &Complaint) -> Result<()> {
    let plain = node.run_without(args, without)?;
    check_sentence(&plain, expected)
        .with_context(|| format!("kanpachi {}: {plain:?}", args.join(" ")))?;
    let with_json: Vec<&str> = ["--json"].iter().chain(args).copied().collect();
    let json = node.run_without(&with_json, without)?;
    check_json(&json, expected)
        .with_context(|| format!("kanpachi {}: {json:?}", with_json.join(" ")))
}

fn check_sentence(output: &Output, expected: &Complaint) -> Result<()> {
    ensure!(
        output.status.code() == Some(expected.exit),
        "exit code {:?}, not {}",
        output.status.code(),
        expected.exit
    );
    let errors: Vec<&str> = output
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    let [sentence] = errors[..] else {
        bail!("{} lines of error", errors.len())
    };
    let advice = output
        .stderr
        .lines()
        .find(|line| line.starts_with("hint: "))
        .unwrap_or_default();
    note(format_args!("{sentence}  {advice}"));
    let said = format!("{sentence} {advice}");
    for word in expected.words {
        ensure!(said.contains(word), "it does not say {word:?}");
    }
    ensure!(
        !output.stderr.contains("panicked") && !output.stderr.contains("RUST_BACKTRACE"),
        "it panicked"
    );
    Ok(())
}

fn check_json(output: &Output, expected: &Complaint) -> Result<()> {
    ensure!(
        output.status.code() == Some(expected.exit),
        "exit code {:?}, not {}",
        output.status.code(),
        expected.exit
    );
    let line = output.stdout.lines().last().context("nothing on stdout")?;
    let error = serde_json::from_str::<serde_json::Value>(line)?["error"].clone();
    ensure!(
        error["code"] == expected.code,
        "code {}, not {}",
        error["code"],
        expected.code
    );
    ensure!(
        error["message"]
            .as_str()
            .is_some_and(|message| message.len() > 10),
        "no message"
    );
    Ok(())
}

/// A hub, an invite by it, and a host on which nothing runs yet.
fn hub_and_newcomer(lab: &mut Lab) -> Result<(Hub, String, Node)> {
    let host = lab.public_host("hub")?;
    let hub = Hub::start(lab, &host, &[])?;
    let invite = hub.invite()?.to_owned();
    let host = lab.public_host("alice")?;
    let newcomer = Node::new(lab, &host)?;
    Ok((hub, invite, newcomer))
}

/// The mistake is mended: the same invite must still do.
fn now_it_works(node: &Node, invite: &str) -> Result<Member> {
    Member::join(node.clone(), invite).context("after the mistake was mended")
}

#[test]
fn no_capability() {
    run("show7-capability", |lab| {
        let (_hub, invite, alice) = hub_and_newcomer(lab)?;
        let without = Without {
            capabilities: vec![CAP_NET_ADMIN],
            ..Without::default()
        };
        let expected = Complaint {
            exit: 3,
            code: "no_capability",
            words: &["CAP_NET_ADMIN", "root"],
        };
        complains(&alice, &["join", &invite], &without, &expected)?;
        complains(&alice, &["up"], &without, &expected)?;
        now_it_works(&alice, &invite).map(drop)
    });
}

#[test]
fn no_tun_device() {
    run("show7-tun", |lab| {
        let (_hub, invite, alice) = hub_and_newcomer(lab)?;
        let without = Without {
            tun: true,
            ..Without::default()
        };
        let expected = Complaint {
            exit: 1,
            code: "no_tun",
            words: &["/dev/net/tun", "modprobe"],
        };
        complains(&alice, &["join", &invite], &without, &expected)?;
        now_it_works(&alice, &invite).map(drop)
    });
}

#[test]
fn port_taken() {
    run("show7-port", |lab| {
        let (hub, invite, alice) = hub_and_newcomer(lab)?;
        let squatter = alice
            .host
            .ns
            .run(|| Ok(UdpSocket::bind("0.0.0.0:12976")?))?;
        let expected = Complaint {
            exit: 1,
            code: "port_in_use",
            words: &["12976"],
        };
        complains(
            &alice,
            &["up", "--listen", "12976"],
            &Without::default(),
            &expected,
        )?;
        // The default port being busy is no reason to stop: a node takes a free one.
        let member = now_it_works(&alice, &invite)?;
        let listen = member.node.status()?.0["listen"].to_string();
        ensure!(!listen.contains(":12976"), "{listen}");
        drop((squatter, member));
        let second = lab.public_host("second")?;
        let squatter = second.ns.run(|| Ok(UdpSocket::bind("0.0.0.0:12975")?))?;
        let expected = Complaint {
            exit: 1,
            code: "port_in_use",
            words: &["12975"],
        };
        complains(
            &Node::new(lab, &second)?,
            &["host"],
            &Without::default(),
            &expected,
        )?;
        drop((squatter, hub));
        Ok(())
    });
}

#[test]
fn bad_invite() {
    run("show7-bad-invite", |lab| {
        let (_hub, invite, alice) = hub_and_newcomer(lab)?;
        let expected = Complaint {
            exit: 2,
            code: "bad_invite",
            words: &["invite"],
        };
        let half = &invite[..invite.len() / 2];
        let without_end = &invite[..invite.len() - 1];
        for bad in ["hello!", "https://example.org/", half, without_end] {
            complains(&alice, &["join", bad], &Without::default(), &expected)
                .with_context(|| format!("invite {bad:?}"))?;
        }
        for mistyped in mistyped(&invite) {
            complains(&alice, &["join", &mistyped], &Without::default(), &expected)
                .with_context(|| format!("mistyped invite {mistyped:?}"))?;
        }
        // A word could be the name of a network.
        let expected = Complaint {
            exit: 2,
            code: "usage",
            words: &["invite", "password"],
        };
        complains(&alice, &["join", "hello"], &Without::default(), &expected)?;
        now_it_works(&alice, &invite).map(drop)
    });
}

/// The invite with another letter in one place or another behind the `#`.
fn mistyped(invite: &str) -> Vec<String> {
    let secret = invite.find('#').map_or(0, |at| at + 1);
    let swap = |at: usize| {
        let other = if &invite[at..=at] == "A" { "B" } else { "A" };
        format!("{}{other}{}", &invite[..at], &invite[at + 1..])
    };
    (secret..invite.len()).step_by(17).map(swap).collect()
}

#[test]
fn expired_invite() {
    run("show7-expired", |lab| {
        let (hub, good, alice) = hub_and_newcomer(lab)?;
        let line = hub.node.json(&["invite", "lan", "--expires", "1s"])?;
        let expires: jiff::Timestamp = line["expires_at"]
            .as_str()
            .context("no expires_at")?
            .parse()?;
        eventually(Duration::from_secs(5), "the invite expires", || {
            let now = jiff::Timestamp::now();
            ensure!(
                now.as_second() > expires.as_second(),
                "{now}, good until {expires}"
            );
            Ok(())
        })?;
        let invite = line["invite"].as_str().context("no invite")?;
        let expected = Complaint {
            exit: 5,
            code: "invite_expired",
            words: &["expired"],
        };
        complains(&alice, &["join", invite], &Without::default(), &expected)?;
        now_it_works(&alice, &good).map(drop)
    });
}

#[test]
fn used_invite() {
    run("show7-used", |lab| {
        let (hub, invite, alice) = hub_and_newcomer(lab)?;
        let _alice = Member::join(alice, &invite)?;
        let host = lab.public_host("bob")?;
        let bob = Node::new(lab, &host)?;
        let expected = Complaint {
            exit: 5,
            code: "invite_used",
            words: &["used"],
        };
        complains(&bob, &["join", &invite], &Without::default(), &expected)?;
        now_it_works(&bob, &hub.node.invite("lan", &[])?).map(drop)
    });
}

#[test]
fn no_daemon() {
    run("show7-no-daemon", |lab| {
        let host = lab.public_host("alice")?;
        let alice = Node::new(lab, &host)?;
        let expected = Complaint {
            exit: 4,
            code: "no_daemon",
            words: &["kanpachi"],
        };
        let commands: [&[&str]; 7] = [
            &["status"],
            &["list"],
            &["peer", "bob"],
            &["ping", "bob"],
            &["invite", "lan"],
            &["set-nick", "al"],
            &["down"],
        ];
        for command in commands {
            complains(&alice, command, &Without::default(), &expected)?;
        }
        ensure!(
            !alice.state_dir.exists(),
            "a question made {}",
            alice.state_dir.display()
        );
        Ok(())
    });
}

#[test]
fn two_daemons_on_one_state_directory() {
    run("show7-two-daemons", |lab| {
        let (_hub, invite, alice) = hub_and_newcomer(lab)?;
        let first = Member::join(alice.clone(), &invite)?;
        let mut second = alice;
        second.socket = lab.directory().join("second.sock");
        second.interface = "kanpachi1".to_owned();
        let expected = Complaint {
            exit: 5,
            code: "daemon_running",
            words: &["another"],
        };
        complains(&second, &["up"], &Without::default(), &expected)?;
        ensure!(
            first.node.overlay()? == first.overlay,
            "the first daemon was disturbed"
        );
        Ok(())
    });
}

#[test]
fn unreadable_state() {
    run("show7-unreadable", |lab| {
        let (_hub, invite, alice) = hub_and_newcomer(lab)?;
        let overlay = join_and_stop(&alice, &invite)?;
        // Root without these is like any user who may not read the file.
        let without = Without {
            capabilities: vec![CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH],
            ..Without::default()
        };
        let expected = Complaint {
            exit: 3,
            code: "state_unreadable",
            words: &[],
        };
        for file in state_files(&alice)? {
            let mode = fs::metadata(&file)?.permissions();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o000))?;
            let result = complains(&alice, &["up"], &without, &expected);
            fs::set_permissions(&file, mode)?;
            result.with_context(|| file.display().to_string())?;
        }
        comes_back(&alice, &overlay)
    });
}

#[test]
fn damaged_state() {
    run("show7-damaged", |lab| {
        let (_hub, invite, alice) = hub_and_newcomer(lab)?;
        let overlay = join_and_stop(&alice, &invite)?;
        let expected = Complaint {
            exit: 1,
            code: "state_damaged",
            words: &[],
        };
        for file in state_files(&alice)? {
            let good = fs::read(&file)?;
            let torn = good[..good.len() / 2].to_vec();
            let scribbled: Vec<u8> = good.iter().map(|byte| byte ^ 0x5a).collect();
            for bad in [torn, scribbled] {
                fs::write(&file, &bad)?;
                complains(&alice, &["up"], &Without::default(), &expected)
                    .with_context(|| format!("{} damaged", file.display()))?;
                ensure!(
                    fs::read(&file)? == bad,
                    "{} was changed: what could be saved is lost",
                    file.display()
                );
            }
            fs::write(&file, &good)?;
        }
        comes_back(&alice, &overlay)
    });
}

#[test]
fn disk_full() {
    run("show7-disk-full", |lab| {
        let (_hub, invite, alice) = hub_and_newcomer(lab)?;
        let disk = SmallDisk::mount(&alice.state_dir, 4096)?;
        let expected = Complaint {
            exit: 1,
            code: "disk_full",
            words: &["full"],
        };
        for leave_kib in [0, 4, 16] {
            disk.fill(leave_kib)?;
            complains(&alice, &["join", &invite], &Without::default(), &expected)
                .with_context(|| format!("{leave_kib} KiB free"))?;
            disk.clear()?;
        }
        let overlay = join_and_stop(&alice, &invite)?;
        disk.fill(0)?;
        // A node that has all it needs may come up on a full disk; if it does not, it says why.
        let outcome = alice.up();
        disk.clear()?;
        match outcome {
            Ok(process) => drop(process),
            Err(error) => ensure!(format!("{error:#}").contains("full"), "{error:#}"),
        }
        comes_back(&alice, &overlay)
    });
}

#[test]
fn another_protocol_version() {
    run("show7-version", |lab| {
        let (mut hub, invite, alice) = hub_and_newcomer(lab)?;
        hub.process.kill()?;
        let stolen = StolenCoordinator::read(&hub.node.state_dir)?;
        let message = "this coordinator speaks versions 7 to 9 of the protocol".to_owned();
        let refused = Refused {
            code: codes::VERSION,
            message,
            retry_ms: None,
        };
        let newer = Impostor::start(
            &hub.node.host,
            COORDINATOR_PORT,
            &stolen,
            Greeting::Refused(refused),
        )?;
        let expected = Complaint {
            exit: 5,
            code: "protocol_version",
            words: &["version"],
        };
        complains(&alice, &["join", &invite], &Without::default(), &expected)?;
        drop(newer);
        hub.start_again()?;
        now_it_works(&alice, &invite).map(drop)
    });
}

#[test]
fn wrong_clock() {
    const TWENTY_YEARS: i64 = 20 * 365 * 86_400;
    run("show7-clock", |lab| {
        let (_hub, invite, alice) = hub_and_newcomer(lab)?;
        let preload = binary("examples/libclockshift.so")?;
        for shift in [-TWENTY_YEARS, TWENTY_YEARS] {
            let wrong = alice
                .clone()
                .set("LD_PRELOAD", &preload.display().to_string())
                .set("KANPACHI_CLOCKSHIFT", &shift.to_string());
            let expected = Complaint {
                exit: 5,
                code: "wrong_clock",
                words: &["clock"],
            };
            complains(&wrong, &["join", &invite], &Without::default(), &expected)?;
        }
        now_it_works(&alice, &invite).map(drop)
    });
}

/// Joins, and stops the daemon in order.
fn join_and_stop(node: &Node, invite: &str) -> Result<Overlay> {
    let mut member = now_it_works(node, invite)?;
    let status = member.process.terminate(Duration::from_secs(10))?;
    ensure!(status.success(), "{status} on SIGTERM");
    Ok(member.overlay)
}

/// The node starts and is who it was.
fn comes_back(node: &Node, overlay: &Overlay) -> Result<()> {
    let _process = node.up()?;
    node.wait_for_coordinator("connected", Duration::from_secs(15))?;
    let now = node.overlay()?;
    ensure!(now == *overlay, "{overlay:?} became {now:?}");
    Ok(())
}

/// The regular files in a node's state directory that hold something.
fn state_files(node: &Node) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(&node.state_dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && entry.metadata()?.len() > 0 {
            files.push(entry.path());
        }
    }
    ensure!(
        !files.is_empty(),
        "no state in {}",
        node.state_dir.display()
    );
    Ok(files)
}
