//! A service without systemd: a root directory to install into, and a stand-in for the service manager that reads the
//! unit, starts what it says as whom it says, listens on the notify socket and restarts by the unit's own rules.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};

use crate::client::READY;
use crate::lab::{Host, Lab};
use crate::process::{OnHost, Output, Process, binary};
use crate::wait::{eventually, give_up};

/// The watchdog's limit for tests; the unit's would make them wait.
const WATCHDOG: Duration = Duration::from_millis(400);

/// Starts a program as the unit's user with the unit's only capability. `$1` is the user, `$2` the program.
///
/// Where the device is for root alone, as in containers without udev, the process gets one as udev makes it.
const AS_USER: &str = "\
if [ \"$(stat -c %a /dev/net/tun)\" != 666 ]; then
    mount -t tmpfs none /dev/net && mknod -m 666 /dev/net/tun c 10 200 || exit 97
fi
user=$1; shift
umask 0077
exec setpriv --reuid \"$user\" --regid \"$user\" --clear-groups --no-new-privs --pdeathsig KILL \
    --inh-caps=-all,+net_admin --ambient-caps=-all,+net_admin --bounding-set=-all,+net_admin \"$@\"";

/// A directory with a system in it, as far as a service needs one.
#[derive(Debug, Clone)]
pub struct Root {
    pub path: PathBuf,
    host: Host,
    logs: PathBuf,
}

impl Root {
    /// Makes it, with the program in `/usr/local/bin` and an empty list of users.
    pub fn new(lab: &Lab, host: &Host) -> Result<Self> {
        let path = lab.directory().join(format!("{}-root", host.name));
        for directory in ["usr/local/bin", "usr/bin", "etc", "run", "var/lib"] {
            fs::create_dir_all(path.join(directory))?;
        }
        for file in ["passwd", "group", "shadow", "gshadow"] {
            fs::write(path.join("etc").join(file), "")?;
        }
        let root = Self {
            path,
            host: host.clone(),
            logs: lab.directory().to_owned(),
        };
        fs::copy(binary("kanpachi")?, root.program())?;
        fs::set_permissions(root.program(), fs::Permissions::from_mode(0o755))?;
        Ok(root)
    }

    pub fn program(&self) -> PathBuf {
        self.path.join("usr/local/bin/kanpachi")
    }

    pub fn unit(&self) -> PathBuf {
        self.path.join("etc/systemd/system/kanpachi.service")
    }

    pub fn state(&self) -> PathBuf {
        self.path.join("var/lib/kanpachi")
    }

    pub fn socket(&self) -> PathBuf {
        self.path.join("run/kanpachi/kanpachi.sock")
    }

    /// The program on the host, with the service's socket.
    pub fn kanpachi(&self, args: &[&str]) -> OnHost {
        OnHost::new(&self.host, &self.program())
            .args([OsString::from("--socket"), self.socket().into()])
            .args(args)
    }

    /// `kanpachi --json service … --root …`
    pub fn service(&self, args: &[&str]) -> Result<Output> {
        let root = self.path.display().to_string();
        let args = [&["--json", "service"], args, &["--root", &root]].concat();
        self.kanpachi(&args).output("")
    }

    /// The user's number in the root's own list.
    pub fn uid(&self) -> Result<u32> {
        let text = fs::read_to_string(self.path.join("etc/passwd"))?;
        let line = text
            .lines()
            .find(|line| line.starts_with("kanpachi:"))
            .context("no user kanpachi")?;
        Ok(line.split(':').nth(2).context("odd passwd")?.parse()?)
    }
}

/// What a unit says, as far as the stand-in goes by it.
#[derive(Debug)]
struct Unit(String);

impl Unit {
    fn value(&self, key: &str) -> Result<&str> {
        self.0
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| format!("the unit has no {key}"))
    }
}

/// The stand-in for the service manager.
#[derive(Debug)]
pub struct Manager {
    root: Root,
    unit: Unit,
    notify: UnixDatagram,
    notify_path: PathBuf,
    pub process: Process,
    /// Everything that was said on the notify socket since the last start, line by line.
    pub said: Vec<String>,
}

impl Manager {
    /// Starts the installed unit and waits for `READY=1`.
    pub fn start(root: &Root) -> Result<Self> {
        let unit = Unit(fs::read_to_string(root.unit())?);
        ensure!(unit.value("Type")? == "notify" && unit.value("User")? == "kanpachi");
        ensure!(unit.value("CapabilityBoundingSet")? == "CAP_NET_ADMIN");
        ensure!(unit.value("WatchdogSec")?.parse::<u32>()? > 0);
        let notify_path = root.logs.join(format!("{}.notify", root.host.name));
        let _ = fs::remove_file(&notify_path);
        let notify = UnixDatagram::bind(&notify_path)?;
        fs::set_permissions(&notify_path, fs::Permissions::from_mode(0o666))?;
        notify.set_nonblocking(true)?;
        let process = Self::launch(root, &unit, &notify_path)?;
        let mut manager = Self {
            root: root.clone(),
            unit,
            notify,
            notify_path,
            process,
            said: Vec::new(),
        };
        manager.wait_for("READY=1", READY)?;
        Ok(manager)
    }

    /// As `StateDirectory=`, `RuntimeDirectory=`, `User=` and `ExecStart=` say.
    fn launch(root: &Root, unit: &Unit, notify: &Path) -> Result<Process> {
        let uid = root.uid()?;
        let runtime = root.socket().parent().context("no directory")?.to_owned();
        for (directory, key) in [
            (root.state(), "StateDirectoryMode"),
            (runtime, "RuntimeDirectoryMode"),
        ] {
            fs::create_dir_all(&directory)?;
            chown(&directory, Some(uid), Some(uid))?;
            let mode = u32::from_str_radix(unit.value(key)?, 8)?;
            fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
        }
        let mut words = unit.value("ExecStart")?.split(' ');
        let program = words.next().context("no program")?.trim_start_matches('/');
        OnHost::new(&root.host, Path::new("/usr/bin/unshare"))
            .args(["--mount", "sh", "-c", AS_USER, "sh", &uid.to_string()])
            .args([root.path.join(program)])
            .args(words)
            .envs([
                ("NOTIFY_SOCKET", OsString::from(notify)),
                ("WATCHDOG_USEC", WATCHDOG.as_micros().to_string().into()),
                ("KANPACHI_STATE_DIR", root.state().into()),
                ("KANPACHI_SOCKET", root.socket().into()),
            ])
            .start(&root.logs, &format!("{}-service", root.host.name))
    }

    /// Takes what was said on the notify socket.
    fn listen(&mut self) {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.notify.recv(&mut buffer) {
            let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
            self.said.extend(text.lines().map(str::to_owned));
        }
    }

    /// Waits until this was said on the notify socket.
    pub fn wait_for(&mut self, line: &str, limit: Duration) -> Result<()> {
        let what = format!("{} says {line}", self.process.name);
        eventually(limit, &what, || {
            self.listen();
            if self.said.iter().any(|said| said == line) {
                return Ok(());
            }
            match self.process.exited() {
                Some(status) => Err(give_up(format!("{status}: {}", self.process.stderr()))),
                None => bail!("{:?}", self.said),
            }
        })
    }

    /// Signs of life that came from now on, within so many limits of the watchdog.
    pub fn signs_of_life(&mut self, limits: u32) -> Result<usize> {
        self.listen();
        self.said.clear();
        let wanted = limits as usize * 2 - 1;
        eventually(WATCHDOG * limits * 4, "signs of life come in time", || {
            self.listen();
            let count = self.said.iter().filter(|s| *s == "WATCHDOG=1").count();
            ensure!(count >= wanted, "{count} of {wanted}");
            Ok(count)
        })
    }

    /// What the service manager does after the process ended: by the unit's rules it is started anew, or not.
    pub fn after_the_end(&mut self) -> Result<bool> {
        let status = self.process.wait(Duration::from_secs(10))?;
        if !self.restarts(status)? {
            return Ok(false);
        }
        self.listen();
        self.said.clear();
        self.process = Self::launch(&self.root, &self.unit, &self.notify_path)?;
        self.wait_for("READY=1", READY)?;
        Ok(true)
    }

    fn restarts(&self, status: ExitStatus) -> Result<bool> {
        ensure!(self.unit.value("Restart")? == "always");
        let mut prevented = self.unit.value("RestartPreventExitStatus")?.split(' ');
        Ok(status
            .code()
            .is_none_or(|code| prevented.all(|word| word != code.to_string())))
    }

    /// SIGTERM, as at the end of a service.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        let status = self.process.terminate(Duration::from_secs(15))?;
        self.listen();
        Ok(status)
    }
}
