//! `make mutants`: faults are put into a copy of the source, and a named test must find each of them.
//!
//! All faults are built at once, each behind a look at the environment, so that one build serves for all. Without a
//! fault each test must pass, with it the test must fail. The copy lies in `target/mutants` and shares what is built
//! already. A fault whose place is not in the source any more is an error: it moves with the code.

#![expect(
    clippy::print_stdout,
    reason = "this program is a report on standard output"
)]

use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{sys::signal, unistd::Pid};

/// Longest time for one test, building included.
const PATIENCE: Duration = Duration::from_secs(900);

/// Names the fault that is there.
const FAULT: &str = "KANPACHI_FAULT";

/// Something that somebody might break.
struct Fault {
    name: &'static str,
    /// File, the text in it, what stands there instead; the word `FAULT` in that is whether the fault is there.
    edits: &'static [(&'static str, &'static str, &'static str)],
    finder: Finder,
}

/// A test: package, which of its test programs, its name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Finder {
    package: &'static str,
    program: &'static [&'static str],
    test: &'static str,
}

impl Fault {
    /// Puts one edit into the contents of its file.
    fn put(
        &self,
        (file, text, instead): &(&str, &str, &str),
        contents: Vec<u8>,
    ) -> Result<Vec<u8>> {
        let source = String::from_utf8(contents).context("source text")?;
        ensure!(
            source.matches(text).count() == 1,
            "{}: not once in {file}: {text}",
            self.name
        );
        let there = format!(
            "std::env::var({FAULT:?}).is_ok_and(|fault| fault == {:?})",
            self.name
        );
        Ok(source
            .replace(text, &instead.replace("FAULT", &there))
            .into_bytes())
    }
}

const fn sim(test: &'static str) -> Finder {
    Finder {
        package: "kanpachi-tests",
        program: &["--test", "sim"],
        test,
    }
}

const fn lib(package: &'static str, test: &'static str) -> Finder {
    Finder {
        package,
        program: &["--lib"],
        test,
    }
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "address reused too early",
        edits: &[(
            "coordinator/src/store/sqlite/addresses.rs",
            "now.0.saturating_sub(REST)",
            "now.0.saturating_sub(if FAULT { 0 } else { REST })",
        )],
        finder: lib(
            "kanpachi-coordinator",
            "store::sqlite::tests::in_memory::an_address_is_kept_for_life_and_rests_when_it_is_free",
        ),
    },
    Fault {
        name: "invite not used up",
        edits: &[(
            "coordinator/src/store/sqlite/invites.rs",
            "if self.uses_left == Some(0) {",
            "if FAULT { return Ok(()); }
             if self.uses_left == Some(0) {",
        )],
        finder: sim("joining::a_used_or_unknown_invite_lets_nobody_in"),
    },
    Fault {
        name: "persist skipped: news of the organisation",
        edits: &[(
            "tests/src/sim/node/members.rs",
            "if self.disk.save(&update).is_err()",
            "if !FAULT && self.disk.save(&update).is_err()",
        )],
        finder: sim("joining::two_machines_join_by_invite_and_talk_within_five_seconds"),
    },
    Fault {
        name: "persist skipped: number of the start",
        edits: &[(
            "node/src/daemon/state/db.rs",
            "self.set_blob(\"boot\", &boot.to_be_bytes())?;",
            "if !FAULT { self.set_blob(\"boot\", &boot.to_be_bytes())?; }",
        )],
        finder: lib(
            "kanpachi-node",
            "daemon::state::tests::boots_rise_also_when_the_clock_falls",
        ),
    },
    Fault {
        name: "replay check before authentication",
        edits: &[
            (
                "node/src/dataplane/inbound.rs",
                "let opened = match receiving.session.open_in_place(datagram, now_ms) {",
                "let early = datagram[8..16].try_into().map_or(0, u64::from_le_bytes);
                 let early = FAULT.then(|| receiving.window.lock().is_ok_and(|mut w| w.check_and_set(early)));
                 let opened = match receiving.session.open_in_place(datagram, now_ms) {",
            ),
            (
                "node/src/dataplane/inbound.rs",
                "window.check_and_set(opened.counter)",
                "early.unwrap_or_else(|| window.check_and_set(opened.counter))",
            ),
        ],
        finder: Finder {
            package: "kanpachi-node",
            program: &["--test", "packet_path"],
            test: "a_forged_packet_moves_no_replay_window",
        },
    },
    Fault {
        name: "replayed packets let through",
        edits: &[(
            "node/proto/src/tunnel/replay.rs",
            "let fresh = *slot & bit == 0;",
            "let fresh = *slot & bit == 0 || FAULT;",
        )],
        finder: sim(
            "mishaps::whatever_happens_the_invariants_hold_and_everybody_finds_together_again",
        ),
    },
    Fault {
        name: "lower epoch accepted",
        edits: &[(
            "node/proto/src/roster/check.rs",
            "if let Some(seen) = self.floor(&head.network).filter(|seen| position < *seen) {",
            "if let Some(seen) = self.floor(&head.network).filter(|seen| position < *seen && !FAULT) {",
        )],
        finder: sim("rosters::stale_forged_and_foreign_rosters_change_nothing_and_are_counted"),
    },
    Fault {
        name: "eviction ignored by live sessions",
        edits: &[(
            "node/proto/src/tunnel/tunnels.rs",
            "self.remove(peer, CloseReason::Removed, now);",
            "if !FAULT { self.remove(peer, CloseReason::Removed, now); }",
        )],
        finder: sim("rosters::a_removed_member_loses_its_sessions_the_moment_the_news_arrive"),
    },
    Fault {
        name: "eviction told to nobody",
        edits: &[(
            "coordinator/src/decide/mod.rs",
            "pub fn handle_changed(&mut self, network: NetworkId) {",
            "pub fn handle_changed(&mut self, network: NetworkId) {
                 if FAULT { return; }",
        )],
        finder: sim(
            "schedules::whatever_the_schedule_members_reach_each_other_in_the_end_and_nobody_else_does",
        ),
    },
    Fault {
        name: "two rosters of one epoch accepted",
        edits: &[(
            "node/proto/src/roster/check.rs",
            ".is_some_and(|(seen, root)| seen == position && root != head.root)",
            ".is_some_and(|(seen, root)| seen == position && root != head.root && !FAULT)",
        )],
        finder: sim(
            "rosters::two_rosters_for_one_epoch_keep_sessions_and_let_nobody_new_in_not_even_after_a_restart",
        ),
    },
];

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            println!("mutants: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// `true` when everything was found.
fn run() -> Result<bool> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = tests.parent().context("the workspace above")?;
    let target = root.join("target");
    let bench = Bench {
        tree: target.join("mutants"),
        target,
    };
    bench.copy(root)?;
    let only = std::env::args().nth(1).unwrap_or_default();
    let faults = || FAULTS.iter().filter(|fault| fault.name.contains(&only));
    let finders: BTreeSet<Finder> = faults().map(|fault| fault.finder).collect();
    for finder in finders {
        ensure!(
            bench.test(finder, "")? == Outcome::Passed,
            "{} does not pass without a fault; see {}",
            finder.test,
            bench.log().display()
        );
    }
    let mut all = true;
    for fault in faults() {
        let (begin, outcome) = (Instant::now(), bench.test(fault.finder, fault.name)?);
        let found = match outcome {
            Outcome::Failed => "found",
            Outcome::Passed => "NOT FOUND",
            Outcome::Neither => "no such test",
        };
        all &= outcome == Outcome::Failed;
        let (name, test) = (fault.name, fault.finder.test);
        let seconds = begin.elapsed().as_secs();
        println!("{name:<42} {found:<10} {seconds:>3} s  {test}");
    }
    Ok(all)
}

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// It was not run.
    Neither,
}

/// The copy and where it is built.
struct Bench {
    tree: PathBuf,
    target: PathBuf,
}

impl Bench {
    /// Brings the copy up to date, faults included: what is unchanged keeps its time, and is not built again.
    fn copy(&self, root: &Path) -> Result<()> {
        let list = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(root)
            .output()
            .context("git lists the files to copy")?;
        ensure!(list.status.success(), "git does not list the files to copy");
        let mut placed = 0;
        for name in list.stdout.split(|byte| *byte == 0) {
            let name = std::str::from_utf8(name).context("a file name")?;
            let from = root.join(name);
            if name.is_empty() || !from.is_file() {
                continue;
            }
            let mut contents = fs::read(&from).context(from.display().to_string())?;
            for fault in FAULTS {
                for edit in fault.edits.iter().filter(|(file, ..)| *file == name) {
                    contents = fault.put(edit, contents)?;
                    placed += 1;
                }
            }
            write(&self.tree.join(name), &contents)?;
        }
        let edits: usize = FAULTS.iter().map(|fault| fault.edits.len()).sum();
        ensure!(placed == edits, "a file with a fault is not there any more");
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.target.join("mutants.log")
    }

    /// Runs a test with a fault, or with none.
    fn test(&self, finder: Finder, fault: &str) -> Result<Outcome> {
        let log = self.log();
        let out = fs::File::create(&log).context("the log of a test")?;
        let mut child = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["test", "--release", "--quiet", "-p", finder.package])
            .args(finder.program)
            .args(["--", "--exact", finder.test])
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .env(FAULT, fault)
            .env_remove("KANPACHI_SEED")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .context("cargo")?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                let group = Pid::from_raw(i32::try_from(child.id())?);
                signal::killpg(group, signal::Signal::SIGKILL)?;
                child.wait()?;
                bail!("{} takes too long; see {}", finder.test, log.display());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(match () {
            () if text.contains("test result: ok. 1 passed") => Outcome::Passed,
            () if text.contains("test result: FAILED. 0 passed; 1 failed") => Outcome::Failed,
            () => Outcome::Neither,
        })
    }
}

/// Writes a file unless it has these contents already.
fn write(path: &Path, contents: &[u8]) -> io::Result<()> {
    if fs::read(path).is_ok_and(|found| found == contents) {
        return Ok(());
    }
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, contents)
}
