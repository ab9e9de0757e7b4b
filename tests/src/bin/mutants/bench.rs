//! The copy of the source with all faults in it: made, built, and its tests run.
//!
//! The copy is another version of every package, so that nothing built of it is ever taken for what is built of the
//! source itself. Packages from elsewhere are the same, and what `target` has of them is used.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{sys::signal, unistd::Pid};
use serde_json::Value;

use crate::fault::{Fault, Finder, VARIABLE};

/// Longest time for one test, and for the labs of others that it waits for. One that hangs has not found anything.
const PATIENCE: Duration = Duration::from_secs(600);

/// What became of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Passed,
    Failed,
    /// There is no such test.
    Missing,
    /// It did not end.
    Hung,
}

/// The copy, built.
pub(crate) struct Bench {
    tree: PathBuf,
    target: PathBuf,
    /// Test programs by directory of the package and name, empty for a library.
    programs: BTreeMap<(String, String), PathBuf>,
}

impl Bench {
    /// Makes the copy of the workspace at `root`, and builds it.
    pub(crate) fn new(root: &Path, faults: &[&Fault]) -> Result<Self> {
        let target = root.join("target");
        let mut bench = Self {
            tree: target.join("mutants"),
            target,
            programs: BTreeMap::new(),
        };
        bench.copy(root, faults)?;
        bench.build()?;
        Ok(bench)
    }

    /// Where the output of the tests is, a file for each fault and test.
    pub(crate) fn logs(&self) -> PathBuf {
        self.built().join("logs")
    }

    /// Brings the copy up to date: what is unchanged keeps its time, and is not built again.
    fn copy(&self, root: &Path, faults: &[&Fault]) -> Result<()> {
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
        let (mut placed, mut kept) = (0, BTreeSet::from([self.tree.join("Cargo.lock")]));
        for name in list.stdout.split(|byte| *byte == 0) {
            let name = std::str::from_utf8(name).context("a file name")?;
            let from = root.join(name);
            // Cargo keeps the list of versions of the copy itself.
            if name.is_empty() || !from.is_file() || name == "Cargo.lock" && self.has(name) {
                continue;
            }
            let mut contents = fs::read(&from).context(from.display().to_string())?;
            if name == "Cargo.toml" {
                contents = other_manifest(contents)?;
            }
            for fault in faults {
                for edit in fault.edits.iter().filter(|(file, ..)| *file == name) {
                    contents = fault.put(edit, contents)?;
                    placed += 1;
                }
            }
            let to = self.tree.join(name);
            write(&to, &contents)?;
            fs::set_permissions(&to, fs::metadata(&from)?.permissions())?;
            kept.insert(to);
        }
        let edits: usize = faults.iter().map(|fault| fault.edits.len()).sum();
        ensure!(placed == edits, "a file with a fault is not there any more");
        self.sweep(&self.tree, &kept)
            .context("old files of the copy")
    }

    /// Removes what an earlier copy had and this one has not.
    fn sweep(&self, folder: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let (path, kind) = entry.and_then(|e| Ok((e.path(), e.file_type()?)))?;
            if kind.is_dir() && path != self.built() {
                self.sweep(&path, kept)?;
            } else if !kind.is_dir() && !kept.contains(&path) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }

    fn has(&self, name: &str) -> bool {
        self.tree.join(name).is_file()
    }

    /// Where the programs of the copy go.
    fn built(&self) -> PathBuf {
        self.tree.join("target")
    }

    fn build(&mut self) -> Result<()> {
        let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args([
                "build",
                "--release",
                "--workspace",
                "--bins",
                "--tests",
                "--examples",
            ])
            .arg("--message-format=json-render-diagnostics")
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", self.built())
            .env("CARGO_BUILD_BUILD_DIR", &self.target)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .context("cargo")?;
        ensure!(output.status.success(), "the copy does not build");
        for line in output.stdout.split(|byte| *byte == b'\n') {
            let Ok(message) = serde_json::from_slice::<Value>(line) else {
                continue;
            };
            if let Some((key, path)) = self.test_program(&message) {
                self.programs.insert(key, path);
            }
        }
        Ok(())
    }

    /// The test program that one of cargo's messages is about.
    fn test_program(&self, message: &Value) -> Option<((String, String), PathBuf)> {
        let path = PathBuf::from(message["executable"].as_str()?);
        let manifest = Path::new(message["manifest_path"].as_str()?);
        let package = manifest.parent()?.strip_prefix(&self.tree).ok()?;
        let target = &message["target"];
        let name = match target["kind"][0].as_str()? {
            "lib" => "",
            "test" => target["name"].as_str()?,
            _ => return None,
        };
        Some(((package.to_str()?.to_owned(), name.to_owned()), path))
    }

    /// Runs a test with a fault, or with none.
    pub(crate) fn test(&self, finder: &Finder, fault: &str) -> Result<Outcome> {
        let key = (finder.package.to_owned(), finder.program.to_owned());
        let Some(program) = self.programs.get(&key) else {
            return Ok(Outcome::Missing);
        };
        fs::create_dir_all(self.logs())?;
        let log = self.logs().join(format!("{fault}, {}.log", finder.test));
        let out = File::create(&log).context("the log of a test")?;
        let package = format!("kanpachi-{}", finder.package.replace('/', "-"));
        let mut child = Command::new(self.tree.join("tests/lab-runner"))
            .arg(program)
            .args(["--exact", finder.test])
            .current_dir(self.tree.join(finder.package))
            .env("CARGO_PKG_NAME", package)
            .env("KANPACHI_BIN_DIR", self.built().join("release"))
            .env(VARIABLE, fault)
            .env_remove("KANPACHI_SEED")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .context("tests/lab-runner")?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                let group = Pid::from_raw(i32::try_from(child.id())?);
                signal::killpg(group, signal::Signal::SIGKILL)?;
                child.wait()?;
                return Ok(Outcome::Hung);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(match () {
            () if text.contains("test result: ok. 1 passed") => Outcome::Passed,
            () if text.contains("test result: FAILED. 0 passed; 1 failed") => Outcome::Failed,
            () => Outcome::Missing,
        })
    }
}

/// The manifest of the workspace, with another version for its packages, and without a word on how a fault is written.
fn other_manifest(contents: Vec<u8>) -> Result<Vec<u8>> {
    let text = String::from_utf8(contents).context("the manifest")?;
    let (before, rest) = text
        .split_once("\nversion = \"")
        .context("the manifest has no version")?;
    let (version, after) = rest.split_once('"').context("the version has no end")?;
    let lints = "[workspace.lints.rust]\n";
    let after = after.replace(lints, &format!("{lints}unused_parens = \"allow\"\n"));
    Ok(format!("{before}\nversion = \"{version}+mutants\"{after}").into_bytes())
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
