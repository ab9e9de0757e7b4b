//! Real programs inside the lab: started in a namespace, their output captured to files, ended on drop.

use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::lab::Host;
use crate::wait::{eventually, give_up};

/// How much of each log is shown after a failure.
const TAIL_LINES: usize = 40;
/// Settings of the caller's own installation that must not reach a lab's processes.
const FOREIGN_SETTINGS: [&str; 5] = [
    "KANPACHI_STATE_DIR",
    "KANPACHI_SOCKET",
    "KANPACHI_INTERFACE",
    "KANPACHI_NO_MDNS",
    "KANPACHI_LOG_LEVEL",
];

/// A release binary of the workspace: beside the running test (`target/<profile>`), or in `KANPACHI_BIN_DIR`.
///
/// # Errors
/// If it has not been built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let directory = match std::env::var_os("KANPACHI_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let own = std::env::current_exe()?;
            let parent = own
                .parent()
                .context("the test executable has no directory")?;
            // Tests are in target/<profile>/deps, the demo is in target/<profile>.
            if parent.ends_with("deps") {
                parent.parent().unwrap_or(parent).to_owned()
            } else {
                parent.to_owned()
            }
        }
    };
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run `cargo build --release --workspace --bins`",
        path.display()
    );
    Ok(path)
}

/// What a process is not given, to test how it takes that.
#[derive(Debug, Clone, Default)]
pub struct Without {
    /// Capabilities (numbers of `linux/capability.h`) taken from the bounding set, so that root does not regain them.
    pub capabilities: Vec<u32>,
    /// Hides `/dev/net/tun`.
    pub tun: bool,
}

/// `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`, `CAP_NET_ADMIN`.
pub const CAP_DAC_OVERRIDE: u32 = 1;
pub const CAP_DAC_READ_SEARCH: u32 = 2;
pub const CAP_NET_ADMIN: u32 = 12;

/// A command that runs on a host of the lab.
#[derive(Debug)]
pub struct OnHost {
    command: Command,
}

impl OnHost {
    /// `program` with the host's network and host name. The caller's `KANPACHI_…` settings are not passed on.
    pub fn new(host: &Host, program: &Path) -> Self {
        let mut command = Command::new(program);
        for name in FOREIGN_SETTINGS {
            command.env_remove(name);
        }
        let netns = host.ns.clone();
        let name = host.name.clone();
        in_child(&mut command, move || {
            setns(netns.file(), CloneFlags::CLONE_NEWNET)?;
            unshare(CloneFlags::CLONE_NEWUTS)?;
            nix::unistd::sethostname(&name)?;
            // The demo blocks signals to handle them in one thread; its children must not inherit that.
            SigSet::empty().thread_set_mask()?;
            Ok(())
        });
        Self { command }
    }

    pub fn args<S: AsRef<std::ffi::OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub fn envs<'a>(mut self, settings: impl IntoIterator<Item = (&'a str, OsString)>) -> Self {
        self.command.envs(settings);
        self
    }

    /// Takes things away from the process.
    pub fn without(mut self, without: &Without) -> Self {
        let Without { capabilities, tun } = without.clone();
        in_child(&mut self.command, move || {
            if tun {
                unshare(CloneFlags::CLONE_NEWNS)?;
                mount(
                    None::<&str>,
                    "/",
                    None::<&str>,
                    MsFlags::MS_PRIVATE | MsFlags::MS_REC,
                    None::<&str>,
                )?;
                mount(
                    Some("none"),
                    "/dev/net",
                    Some("tmpfs"),
                    MsFlags::empty(),
                    None::<&str>,
                )?;
            }
            capabilities
                .iter()
                .try_for_each(|capability| drop_from_bounding_set(*capability))
        });
        self
    }

    /// Runs the command to its end.
    ///
    /// # Errors
    /// If it cannot be started or takes longer than a minute.
    pub fn output(mut self, stdin: &str) -> Result<Output> {
        use std::io::Write as _;
        const LIMIT: Duration = Duration::from_secs(60);
        let shown = format!("{:?}", self.command);
        self.command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .command
            .spawn()
            .with_context(|| format!("start {shown}"))?;
        if let Some(mut pipe) = child.stdin.take() {
            // A command that does not read its input is fine.
            let _ = pipe.write_all(stdin.as_bytes());
        }
        let pid = Pid::from_raw(child.id() as i32);
        let (done, is_done) = std::sync::mpsc::channel();
        let watchdog = std::thread::spawn(move || {
            let late = is_done.recv_timeout(crate::wait::scaled(LIMIT)).is_err();
            if late {
                let _ = kill(pid, Signal::SIGKILL);
            }
            late
        });
        let output = child.wait_with_output();
        let _ = done.send(());
        ensure!(
            !watchdog.join().unwrap_or(false),
            "{shown} did not end within {LIMIT:?}"
        );
        let output = output?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Starts the command in the background, with its output in `<logs>/<name>.stdout` and `.stderr`.
    ///
    /// It dies with the thread that called this, so that nothing runs on when a test is killed: start long-lived
    /// processes from the test's own thread.
    pub fn start(self, logs: &Path, name: &str) -> Result<Process> {
        self.start_from(Stdio::null(), logs, name)
    }

    /// [`OnHost::start`], with something short on its standard input.
    pub fn start_with_input(self, logs: &Path, name: &str, input: &str) -> Result<Process> {
        use std::io::Write as _;
        // A pipe holds 64 KiB: nobody has to wait for the other end.
        let (read, mut write) = std::io::pipe()?;
        write.write_all(input.as_bytes())?;
        drop(write);
        self.start_from(read.into(), logs, name)
    }

    fn start_from(mut self, stdin: Stdio, logs: &Path, name: &str) -> Result<Process> {
        let (stdout, stderr) = (
            logs.join(format!("{name}.stdout")),
            logs.join(format!("{name}.stderr")),
        );
        in_child(&mut self.command, || {
            Ok(nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?)
        });
        let append = |path: &Path| {
            File::options()
                .create(true)
                .append(true)
                .open(path)
                .with_context(|| path.display().to_string())
        };
        let read_from = append(&stdout)?.metadata()?.len();
        // A group of its own: Ctrl-C in a terminal reaches the demo, which then ends its children in order.
        self.command
            .stdin(stdin)
            .stdout(append(&stdout)?)
            .stderr(append(&stderr)?)
            .process_group(0);
        let child = self
            .command
            .spawn()
            .with_context(|| format!("start {:?}", self.command))?;
        Ok(Process {
            name: name.to_owned(),
            child,
            stdout,
            stderr,
            read_from,
        })
    }
}

/// What a finished command said.
#[derive(Debug, Clone)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// Its stdout as one JSON value.
    ///
    /// # Errors
    /// If it failed or did not print JSON; the message holds all it said.
    pub fn json(&self) -> Result<Value> {
        ensure!(
            self.status.success(),
            "{}: {}{}",
            self.status,
            self.stdout,
            self.stderr
        );
        serde_json::from_str(self.stdout.trim())
            .with_context(|| format!("not JSON: {:?}", self.stdout))
    }
}

/// A process in the background. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    pub name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Where this process' part of the log begins: a restarted node writes to the same files.
    read_from: u64,
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid() as i32), signal)
            .with_context(|| format!("{signal} to {}", self.name))
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, and waits for the end: at most `limit`.
    pub fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(limit)
    }

    /// Waits for the end without asking for it.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        eventually(limit, &what, || {
            self.child.try_wait()?.context("still running")
        })
    }

    /// `None` while it runs.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// What it has written to stdout so far.
    pub fn stdout(&self) -> String {
        let bytes = fs::read(&self.stdout).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.read_from as usize..).unwrap_or_default())
            .into_owned()
    }

    /// What it, and an earlier process of the same name, has written to stderr.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.stderr).unwrap_or_default()).into_owned()
    }

    /// Waits for the first whole line on stdout that is a JSON object with this key.
    ///
    /// # Errors
    /// After `limit`, or at once when the process ends before.
    pub fn expect_json(&mut self, limit: Duration, key: &str) -> Result<Value> {
        let what = format!("{} prints a JSON line with {key:?}", self.name);
        eventually(limit, &what, || {
            // Looked at before the output: what a process wrote before its end counts.
            let ended = self.exited();
            let text = self.stdout();
            let lines = text
                .split_inclusive('\n')
                .filter(|line| line.ends_with('\n'));
            let found = lines
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|value| value.get(key).is_some());
            match (found, ended) {
                (Some(value), _) => Ok(value),
                (None, Some(status)) => Err(give_up(format!(
                    "{}; it said: {}{}",
                    describe(status),
                    tail(&text),
                    tail(&self.stderr())
                ))),
                (None, None) => bail!("stdout {text:?}"),
            }
        })
    }

    /// Resident memory in bytes.
    pub fn rss(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Processor time used so far, user and system together.
    pub fn cpu_time(&self) -> Result<Duration> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields = stat_fields(&stat)?;
        let ticks: u64 = fields.get(11).context("no utime")?.parse::<u64>()?
            + fields.get(12).context("no stime")?.parse::<u64>()?;
        let per_second =
            nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no clock tick")?;
        Ok(Duration::from_secs_f64(ticks as f64 / per_second as f64))
    }

    /// How nice each thread of this name is.
    pub fn niceness(&self, thread: &str) -> Result<Vec<i32>> {
        let mut nice = Vec::new();
        for task in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let task = task?.path();
            if fs::read_to_string(task.join("comm"))?.trim_end() == thread {
                let stat = fs::read_to_string(task.join("stat"))?;
                nice.push(
                    stat_fields(&stat)?
                        .get(16)
                        .context("no niceness")?
                        .parse()?,
                );
            }
        }
        Ok(nice)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// An exit status in words.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it exited with {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

/// Prints the end of every captured log of a lab.
pub fn print_log_tails(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    let mut logs: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    logs.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "stdout" || extension == "stderr")
    });
    logs.sort();
    for path in logs {
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        if !text.trim().is_empty() {
            eprintln!(
                "---- end of {} ----\n{}",
                path.file_name().unwrap_or_default().to_string_lossy(),
                tail(&text)
            );
        }
    }
}

fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

/// Runs `work` in the child between fork and exec.
#[expect(
    unsafe_code,
    reason = "running code between fork and exec is unsafe by nature"
)]
fn in_child(
    command: &mut Command,
    work: impl FnMut() -> std::io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: every closure given here only makes system calls on values prepared before the fork: it takes no lock,
    // and allocates nothing on its success path.
    unsafe {
        command.pre_exec(work);
    }
}

#[expect(unsafe_code, reason = "prctl has no safe wrapper for the bounding set")]
fn drop_from_bounding_set(capability: u32) -> std::io::Result<()> {
    // SAFETY: PR_CAPBSET_DROP takes one integer and touches no memory.
    let result = unsafe {
        libc::prctl(
            libc::PR_CAPBSET_DROP,
            libc::c_ulong::from(capability),
            0,
            0,
            0,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// What comes after the name in a line of /proc: it may have spaces in it.
fn stat_fields(stat: &str) -> Result<Vec<&str>> {
    let (_, fields) = stat.rsplit_once(") ").context("odd /proc stat")?;
    Ok(fields.split(' ').collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_are_short() {
        let text = (0..100).map(|n| format!("{n}\n")).collect::<String>();
        assert_eq!(tail(&text).lines().count(), TAIL_LINES);
        assert!(tail(&text).ends_with("99"));
    }
}
