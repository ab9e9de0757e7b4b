//! Members, show 4: what opens a door is found nowhere: not in the database, its log, the logs, the process list or the
//! part of a link that travels.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_common::invite::Invite;
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::run;
use kanpachi_tests::mesh::{Hub, Member, NETWORK};
use kanpachi_tests::note;
use kanpachi_tests::process::Process;
use kanpachi_tests::wait::eventually;

const FIRST: &str = "kanarienvogel eins auf der stange";
const SECOND: &str = "kanarienvogel zwei auf dem dach";
const WRONG: &str = "kanarienvogel drei im falschen kaefig";
const SOON: Duration = Duration::from_secs(20);

/// A secret in one of its shapes.
struct Canary {
    what: &'static str,
    bytes: Vec<u8>,
}

fn canaries(link: &str) -> Result<Vec<Canary>> {
    let invite = Invite::parse(link)?;
    let (before, fragment) = link.split_once('#').context("no fragment")?;
    let canary = |what, bytes: &[u8]| Canary {
        what,
        bytes: bytes.to_vec(),
    };
    ensure!(!before.contains(&fragment[..8]), "{before}");
    Ok(vec![
        canary("a password", FIRST.as_bytes()),
        canary("the second password", SECOND.as_bytes()),
        canary("a wrong password", WRONG.as_bytes()),
        canary("the fragment of an invite", fragment.as_bytes()),
        canary("the secret of an invite", &invite.secret.0),
        canary("the token of an invite", &invite.secret.token()),
    ])
}

fn search(place: &str, bytes: &[u8], canaries: &[Canary]) -> Result<()> {
    for canary in canaries {
        let found = bytes.windows(canary.bytes.len()).any(|w| w == canary.bytes);
        ensure!(!found, "{} is in {place}", canary.what);
    }
    Ok(())
}

/// Every file under a directory; how many, and how many bytes.
fn search_files(directory: &Path, canaries: &[Canary]) -> Result<(usize, usize)> {
    let (mut files, mut size) = (0, 0);
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let (more, bytes) = search_files(&entry.path(), canaries)?;
            (files, size) = (files + more, size + bytes);
        } else if kind.is_file() {
            let bytes = fs::read(entry.path())?;
            search(&entry.path().display().to_string(), &bytes, canaries)?;
            (files, size) = (files + 1, size + bytes.len());
        }
    }
    Ok((files, size))
}

fn search_process(process: &Process, canaries: &[Canary]) -> Result<()> {
    for file in ["cmdline", "environ"] {
        let path = format!("/proc/{}/{file}", process.pid());
        search(&path, &fs::read(&path)?, canaries)?;
    }
    Ok(())
}

#[test]
fn secrets_are_in_no_file_no_log_and_no_process_list() {
    run("members-show4", |lab| {
        let host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &host, &["--no-node"])?;
        let host = lab.public_host("alice")?;
        let node = Node::new(lab, &host)?.set("KANPACHI_LOG_LEVEL", "trace");
        // Its standard input is the invite, not its command line.
        let alice = join_by_stdin(node, hub.invite()?)?;
        let link = alice.node.invite(NETWORK, &["--uses", "3"])?;
        let host = lab.public_host("bob")?;
        let node = Node::new(lab, &host)?.set("KANPACHI_LOG_LEVEL", "trace");
        let bob = join_by_stdin(node, &link)?;
        let canaries = canaries(&link)?;
        let say = |node: &Node, args: &[&str], password: &str| {
            let args: Vec<&str> = args
                .iter()
                .copied()
                .chain(["--password-file", "-"])
                .collect();
            node.command(&args).output(password)
        };
        ensure!(
            say(&alice.node, &["create", "games"], FIRST)?
                .status
                .success()
        );
        ensure!(!say(&bob.node, &["join", "games"], WRONG)?.status.success());
        ensure!(say(&bob.node, &["join", "games"], FIRST)?.status.success());
        ensure!(
            say(&alice.node, &["set-password", "games"], SECOND)?
                .status
                .success()
        );
        eventually(SOON, "bob is in", || {
            let status = bob.node.status()?.0;
            ensure!(
                status["networks"].as_array().is_some_and(|n| n.len() == 2),
                "not yet"
            );
            Ok(())
        })?;
        for process in [&hub.process, &alice.process, &bob.process] {
            search_process(process, &canaries)?;
        }
        // The invite that alice makes is on her screen, so the captured output of commands is not searched; daemons' is.
        let (files, bytes) = search_files(lab.directory(), &canaries)?;
        note(format_args!("nothing in {files} files of {bytes} bytes"));
        ensure!(files > 6, "the state directories are somewhere else");
        ensure!(
            alice.process.stderr().contains("TRACE"),
            "nothing was logged"
        );
        Ok(())
    });
}

fn join_by_stdin(node: Node, invite: &str) -> Result<Member> {
    let mut process = node.command(&["--json", "join", "-"]).start_with_input(
        node.logs(),
        &node.host.name,
        invite,
    )?;
    let line = process.expect_json(SOON, "ipv4")?;
    let overlay = kanpachi_tests::client::Overlay::from(&line)?;
    Ok(Member {
        node,
        process,
        overlay,
    })
}
