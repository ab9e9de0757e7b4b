//! Show 6: who may do what, and who may touch what. The commands and paths are taken from `docs/cli.md`, so that a new
//! one is tried as nobody from the day it is written down.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use kanpachi_tests::client::Node;
use kanpachi_tests::lab::{Lab, run};
use kanpachi_tests::mesh::{Hub, Member};
use kanpachi_tests::note;
use kanpachi_tests::process::{OnHost, Output, binary};

const PAGE: &str = include_str!("../../docs/cli.md");
const OPERATIONS: &str = include_str!("../../docs/operations.md");
/// User and group `nobody`.
const NOBODY: u32 = 65534;

/// The rows of the table under this heading, without its own two lines: cells, with `\|` read as `|`.
fn table(heading: &str) -> Vec<Vec<String>> {
    let (_, rest) = PAGE.split_once(heading).expect("the table has moved");
    let rows = rest
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let row = row.replace("\\|", "\u{1}");
        let cells = row.trim_matches('|').split('|');
        cells
            .map(|cell| cell.trim().replace('\u{1}', "|"))
            .collect()
    })
    .collect()
}

/// What stands between the first two backticks.
fn quoted(cell: &str) -> Result<&str> {
    cell.split('`').nth(1).with_context(|| cell.to_owned())
}

/// A line of the documentation with everything filled in.
fn filled_in(words: &str, invite: &str, peer: &str) -> Result<Vec<String>> {
    let mut args = Vec::new();
    for word in words.split(' ').filter(|word| !word.starts_with('[')) {
        args.push(match word {
            "INVITE" => invite.to_owned(),
            "NETWORK" => "lan".to_owned(),
            "MEMBER" | "NAME|ADDRESS" => peer.to_owned(),
            "NAME" => "somebody".to_owned(),
            choice if choice.contains('|') => choice.split('|').next().unwrap_or(choice).to_owned(),
            verb if verb.chars().all(|c| c.is_ascii_lowercase() || c == '-') => verb.to_owned(),
            other => bail!("what is {other}?"),
        });
    }
    Ok(args)
}

/// A hub with a node and a member, and a copy of the program that everybody can run.
struct Place {
    hub: Hub,
    alice: Member,
    program: PathBuf,
}

impl Place {
    fn new(lab: &mut Lab) -> Result<Self> {
        let host = lab.public_host("hub")?;
        let hub = Hub::start(lab, &host, &[])?;
        let host = lab.public_host("alice")?;
        let alice = Member::join(Node::new(lab, &host)?, hub.invite()?)?;
        let program = lab.directory().join("kanpachi");
        fs::copy(binary("kanpachi")?, &program)?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(Self {
            hub,
            alice,
            program,
        })
    }

    /// Runs a command as nobody, against alice's daemon.
    fn as_nobody(&self, args: &[String]) -> Result<Output> {
        let id = NOBODY.to_string();
        OnHost::new(&self.alice.node.host, Path::new("/usr/bin/setpriv"))
            .args(["--reuid", &id, "--regid", &id, "--clear-groups"])
            .args(["--inh-caps=-all", "--"])
            .args([&self.program])
            .args(["--json", "--socket"])
            .args([&self.alice.node.socket])
            .args(args)
            .output("a-password\n")
    }
}

/// The error code that `--json` printed, if the command failed.
fn code(output: &Output) -> Option<String> {
    let line = output.stdout.lines().last()?;
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    Some(value["error"]["code"].as_str()?.to_owned())
}

#[test]
fn every_command_answers_nobody_as_documented() {
    run("show6-commands", |lab| {
        let place = Place::new(lab)?;
        let hub = place.hub.node.overlay()?.name;
        let before = place.alice.node.status()?.0["networks"].to_string();
        let mut tried = (0, 0);
        for row in table("| command | what it does | who may |") {
            let [command, _, who] = &row[..] else {
                bail!("odd row: {row:?}")
            };
            let words = quoted(command)?.trim_start_matches("kanpachi ");
            if words == "hamachi …" {
                // It has Hamachi's words and codes for everything: node/tests/control/hamachi.rs.
                continue;
            }
            let mut args = filled_in(words, place.hub.invite()?, &hub)?;
            // Asked for on standard input rather than on a terminal.
            if ["create", "set-password"].contains(&args[0].as_str()) || words == "join NETWORK" {
                args.extend(["--password-file".to_owned(), "-".to_owned()]);
            }
            let output = place.as_nobody(&args)?;
            let (exit, code) = (output.status.code(), code(&output));
            let context = || format!("kanpachi {words}: {output:?}");
            if who == "everybody" {
                ensure!(exit == Some(0), context());
                tried.0 += 1;
            } else {
                let expected = if who.contains("CAP_NET_ADMIN") {
                    ["no_capability", "no_tun"]
                } else {
                    ["no_permission"; 2]
                };
                let code = code.unwrap_or_default();
                ensure!(
                    exit == Some(3) && expected.contains(&code.as_str()),
                    context()
                );
                tried.1 += 1;
            }
        }
        note(format_args!(
            "as nobody: {} commands work, {} are refused",
            tried.0, tried.1
        ));
        ensure!(tried.0 >= 5 && tried.1 >= 8, "the table has shrunk");
        let after = place.alice.node.status()?;
        ensure!(
            after.0["name"] == place.alice.overlay.name,
            "nobody renamed it"
        );
        ensure!(
            after.0["networks"].to_string().len() >= before.len() / 2,
            "networks went"
        );
        Ok(())
    });
}

#[test]
fn every_path_of_the_socket_answers_nobody_as_documented() {
    run("show6-paths", |lab| {
        let place = Place::new(lab)?;
        let hub = place.hub.node.overlay()?.name;
        let mut tried = (0, 0);
        for row in table("| method and path |") {
            let (Some(first), Some(who)) = (row.first(), row.last()) else {
                bail!("odd row: {row:?}")
            };
            let line = quoted(first)?.replace("NAME", &hub);
            let body = if line.ends_with("/ping") {
                format!("{{\"target\":\"{hub}\",\"count\":1}}")
            } else {
                "{}".to_owned()
            };
            let answer = ask_as_nobody(&place.alice.node.socket, &line, &body)?;
            let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
            if who == "everybody" {
                ensure!(status == "200", "{line}: {answer}");
                tried.0 += 1;
            } else {
                let refused = answer.contains("\"code\":\"no_permission\"");
                ensure!(status == "403" && refused, "{line}: {answer}");
                tried.1 += 1;
            }
        }
        note(format_args!(
            "as nobody: {} paths answer, {} refuse",
            tried.0, tried.1
        ));
        ensure!(tried.0 >= 5 && tried.1 >= 4, "the table has shrunk");
        ensure!(place.alice.node.overlay()? == place.alice.overlay);
        Ok(())
    });
}

/// One request on a connection that a thread of user nobody opened: the kernel records who connects.
fn ask_as_nobody(socket: &Path, line: &str, body: &str) -> Result<String> {
    let request = format!(
        "{line} HTTP/1.1\r\nhost: kanpachi\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    let socket = socket.to_owned();
    let asking = std::thread::spawn(move || -> Result<String> {
        become_nobody()?;
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    });
    asking.join().ok().context("the asking thread panicked")?
}

/// This thread alone gives up user and groups: the C library's functions would change all of them.
#[expect(unsafe_code, reason = "the bare system calls have no safe wrapper")]
fn become_nobody() -> Result<()> {
    // SAFETY: the calls take integers, and a list of no groups.
    let results = unsafe {
        [
            libc::syscall(
                libc::SYS_setgroups,
                0_usize,
                std::ptr::null::<libc::gid_t>(),
            ),
            libc::syscall(libc::SYS_setresgid, NOBODY, NOBODY, NOBODY),
            libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY),
        ]
    };
    ensure!(results == [0; 3], "{}", std::io::Error::last_os_error());
    Ok(())
}

/// Everything below a directory, itself included.
fn everything(directory: &Path, into: &mut Vec<PathBuf>) -> Result<()> {
    into.push(directory.to_owned());
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            everything(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

#[test]
fn state_is_for_its_owner_and_the_socket_for_everybody() {
    run("show6-modes", |lab| {
        let place = Place::new(lab)?;
        let mut files = Vec::new();
        for node in [&place.hub.node, &place.alice.node] {
            everything(&node.state_dir, &mut files)?;
        }
        for path in &files {
            let meta = fs::symlink_metadata(path)?;
            let expected = if meta.is_dir() { 0o700 } else { 0o600 };
            let mode = meta.mode() & 0o7777;
            ensure!(
                mode == expected && meta.uid() == 0 && meta.gid() == 0,
                "{}: {mode:o}, of {}:{}",
                path.display(),
                meta.uid(),
                meta.gid()
            );
        }
        let named = |end: &str| files.iter().any(|path| path.ends_with(end));
        ensure!(
            named("identity.key") && named("tunnel.key") && named("node.db"),
            "{files:?}"
        );
        ensure!(named("coordinator"), "{files:?}");
        note(format_args!(
            "{} files and directories for root alone",
            files.len()
        ));
        let meta = fs::symlink_metadata(&place.alice.node.socket)?;
        ensure!(meta.file_type().is_socket() && meta.mode() & 0o7777 == 0o666);
        Ok(())
    });
}

/// The command of the operator's page that makes the archive, for another place.
fn backup_command(parent: &Path, directory: &str, archive: &Path) -> Result<String> {
    let line = OPERATIONS
        .lines()
        .find(|line| line.contains("tar -C"))
        .context("the page makes no archive")?;
    let command = line.split('\'').nth(1).context("no command in it")?;
    let documented = "tar -C /var/lib -cf kanpachi.tar kanpachi";
    ensure!(command.contains(documented), "{command}");
    let here = format!(
        "tar -C {} -cf {} {directory}",
        parent.display(),
        archive.display()
    );
    Ok(command.replace(documented, &here))
}

#[test]
fn the_documented_backup_is_for_its_owner_and_so_is_what_is_restored_from_it() {
    run("show6-backup", |lab| {
        let Place { hub, alice, .. } = &mut Place::new(lab)?;
        hub.process.terminate(Duration::from_secs(10))?;
        alice.process.terminate(Duration::from_secs(10))?;
        for (node, key) in [(&hub.node, "coordinator"), (&alice.node, "identity.key")] {
            let archive = lab.directory().join(format!("{}.tar", node.host.name));
            let parent = node.state_dir.parent().context("a directory above")?;
            let command = backup_command(parent, &node.host.name, &archive)?;
            let made = std::process::Command::new("sh")
                .args(["-c", &command])
                .status()?;
            ensure!(made.success(), "{command}: {made}");
            let meta = fs::symlink_metadata(&archive)?;
            let mode = meta.mode() & 0o7777;
            ensure!(mode == 0o600 && meta.uid() == 0, "the archive: {mode:o}");
            let place = lab.directory().join(format!("{}-restored", node.host.name));
            fs::create_dir(&place)?;
            let restored = std::process::Command::new("tar")
                .args(["-p".as_ref(), "-C".as_ref(), place.as_os_str()])
                .args(["-xf".as_ref(), archive.as_os_str()])
                .status()?;
            ensure!(restored.success(), "{restored}");
            let mut files = Vec::new();
            everything(&place.join(&node.host.name), &mut files)?;
            ensure!(files.iter().any(|path| path.ends_with(key)), "{files:?}");
            for path in &files {
                let meta = fs::symlink_metadata(path)?;
                let expected = if meta.is_dir() { 0o700 } else { 0o600 };
                let mode = meta.mode() & 0o7777;
                ensure!(mode == expected, "{}: {mode:o}", path.display());
            }
        }
        Ok(())
    });
}

#[test]
fn a_link_in_the_way_is_refused_and_nothing_goes_through_it() {
    run("show6-links", |lab| {
        let Place { hub, mut alice, .. } = Place::new(lab)?;
        ensure!(alice.process.terminate(Duration::from_secs(10))?.success());
        let victim = lab.directory().join("victim");
        fs::write(&victim, "precious")?;
        let state = alice.node.state_dir.clone();
        let names = [
            "identity.key",
            "tunnel.key",
            "lock",
            "node.db",
            "node.db-wal",
            "node.db-shm",
        ];
        for path in names
            .map(|name| state.join(name))
            .iter()
            .chain([&alice.node.socket])
        {
            let aside = lab.directory().join("aside");
            let was_there = fs::rename(path, &aside).is_ok();
            symlink(&victim, path)?;
            let output = alice.node.run(&["up"])?;
            let sentences = output.stderr.lines().filter(|l| l.starts_with("error: "));
            let sentences: Vec<&str> = sentences.collect();
            ensure!(
                !output.status.success() && sentences.len() == 1,
                "{}: {output:?}",
                path.display()
            );
            note(sentences[0]);
            ensure!(
                fs::read(&victim)? == b"precious",
                "written through {}",
                path.display()
            );
            fs::remove_file(path)?;
            if was_there {
                fs::rename(&aside, path)?;
            }
        }
        // A link in the place of the directory itself.
        let aside = lab.directory().join("moved");
        fs::rename(&state, &aside)?;
        symlink(&aside, &state)?;
        ensure!(
            !alice.node.run(&["up"])?.status.success(),
            "a linked directory was taken"
        );
        fs::remove_file(&state)?;
        fs::rename(&aside, &state)?;

        alice.start_again()?;
        ensure!(alice.node.overlay()? == alice.overlay, "not who it was");
        drop(hub);
        Ok(())
    });
}
