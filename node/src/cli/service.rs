//! `kanpachi service` and `join --service`: the daemon as a service of systemd.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::args::Global;
use crate::{
    ipc::{
        client::Client,
        error::{ApiError, code},
    },
    platform::{
        DEFAULT_INTERFACE, Native, Platform as _,
        linux::service::{Done, ProgramError, ServiceError, System},
    },
};

/// How long a started service may take to answer on its socket.
const PATIENCE: Duration = Duration::from_secs(20);

/// `kanpachi service …`
#[derive(Debug, Subcommand)]
pub enum ServiceCommand {
    /// Install the service of this program, start it now and at every start of the machine
    ///
    /// Makes the system user and group `kanpachi`, writes a unit for `kanpachi up` with this program's path, and starts it
    /// where systemd runs. Members of the group may change things without being root. Doing it again mends what is missing.
    #[command(after_help = "\
Examples:
  sudo kanpachi service install
  sudo usermod -aG kanpachi $USER             lets you change things without sudo, from the next login on")]
    Install {
        /// The system is below this directory.
        #[arg(long, hide = true, value_name = "DIR")]
        root: Option<PathBuf>,
    },

    /// Stop the service and remove its unit
    #[command(after_help = "\
Examples:
  sudo kanpachi service uninstall             keeps the keys: this machine can come back
  sudo kanpachi service uninstall --purge     removes them, the user and the group too")]
    Uninstall {
        /// Remove the state (keys, addresses, networks), the user and the group too
        #[arg(long)]
        purge: bool,

        /// The system is below this directory.
        #[arg(long, hide = true, value_name = "DIR")]
        root: Option<PathBuf>,
    },
}

/// Options of `join` that make the daemon a service first.
#[derive(Args, Clone, Debug, Default)]
pub struct AsService {
    /// Install and start the service first, then join through it
    #[arg(long)]
    pub service: bool,

    /// The system is below this directory.
    #[arg(long, hide = true, value_name = "DIR", requires = "service")]
    pub root: Option<PathBuf>,
}

/// What `service --json` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceReply {
    /// Whether there is a service now.
    pub installed: bool,
    /// Whether systemd keeps it running.
    pub running: bool,
    /// The unit, or the one that was removed; null when there was none.
    pub unit: Option<PathBuf>,
}

impl ServiceReply {
    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let unit = self
            .unit
            .as_ref()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        match (self.installed, self.running) {
            (true, true) => format!(
                "the service runs, now and after every start of this machine ({unit})\n\
                 its log: journalctl -u kanpachi\n"
            ),
            (true, false) => format!(
                "the unit was written ({unit}), but systemd does not run here, so nothing was started\n"
            ),
            (false, _) if self.unit.is_some() => format!("the service is removed ({unit})\n"),
            (false, _) => "no service is installed\n".to_owned(),
        }
    }
}

/// Does what was asked for.
///
/// # Errors
/// One sentence.
pub fn run(command: &ServiceCommand, global: &Global) -> Result<ServiceReply, ApiError> {
    must_be_root()?;
    match command {
        ServiceCommand::Install { root } => {
            install(global, root.clone()).map(|done| ServiceReply {
                installed: true,
                running: done.systemd,
                unit: done.unit,
            })
        }
        ServiceCommand::Uninstall { purge, root } => {
            let done = System::new(root.clone()).uninstall(*purge)?;
            Ok(ServiceReply {
                installed: false,
                running: false,
                unit: done.unit,
            })
        }
    }
}

/// Installs the service and waits until it answers.
///
/// # Errors
/// One sentence.
pub async fn start(options: &AsService, global: &Global, client: &Client) -> Result<(), ApiError> {
    must_be_root()?;
    let done = install(global, options.root.clone())?;
    if !done.systemd {
        return Err(ApiError::failed(
            code::FAILED,
            "systemd does not run here, so the service could not be started and nothing was joined",
        )
        .hint("leave --service out: then this command becomes the daemon"));
    }
    let deadline = Instant::now() + PATIENCE;
    while !client.is_running().await? {
        if Instant::now() > deadline {
            return Err(ApiError::failed(
                code::DAEMON_SILENT,
                "the service was started but does not answer",
            )
            .hint("see why: journalctl -u kanpachi"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

fn install(global: &Global, root: Option<PathBuf>) -> Result<Done, ApiError> {
    let usual = Native::default().default_paths();
    let options = global.daemon(None);
    if root.is_none() && (options.state_dir != usual.state_dir || options.socket != usual.socket) {
        return Err(ApiError::usage(format_args!(
            "the service keeps its state in {} and its socket at {}, so --state-dir and --socket cannot be chosen",
            usual.state_dir.display(),
            usual.socket.display()
        ))
        .hint("leave them out, and unset KANPACHI_STATE_DIR and KANPACHI_SOCKET"));
    }
    // It becomes a word in a unit file.
    Native::default().check_interface(&options.interface)?;
    let interface = Some(options.interface.as_str()).filter(|name| *name != DEFAULT_INTERFACE);
    Ok(System::new(root).install(interface)?)
}

fn must_be_root() -> Result<(), ApiError> {
    if nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    Err(ApiError::no_permission(
        code::NO_PERMISSION,
        "only root may install or remove a service",
    )
    .hint("run it with sudo"))
}

impl From<ServiceError> for ApiError {
    fn from(error: ServiceError) -> Self {
        let text = error.to_string();
        let code = match &error {
            ServiceError::Io { .. } | ServiceError::Program(ProgramError::Gone { .. }) => {
                return Self::failed(code::FAILED, text);
            }
            ServiceError::Tool { command, .. } => {
                let failed = Self::failed(code::FAILED, &text);
                return if command.contains("systemctl") {
                    failed.hint("see why: journalctl -u kanpachi")
                } else {
                    failed
                };
            }
            ServiceError::Running => code::DAEMON_RUNNING,
            ServiceError::Program(_) | ServiceError::Link { .. } | ServiceError::NoUserTool => {
                code::FAILED
            }
        };
        // These say what is the matter, and behind a colon what to do.
        match text.split_once(": ") {
            Some((matter, remedy)) => Self::refused(code, matter).hint(remedy),
            None => Self::refused(code, text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::ExitCode;

    #[test]
    fn each_reason_is_a_sentence_and_a_way_out() {
        let running = ApiError::from(ServiceError::Running);
        assert_eq!(
            (running.code.as_str(), running.exit),
            (code::DAEMON_RUNNING, ExitCode::Refused)
        );
        assert_eq!(running.message, "another daemon is running");
        let build = ApiError::from(ServiceError::Program(ProgramError::Build {
            path: "/src/target/release/kanpachi".into(),
        }));
        assert!(build.message.ends_with("which the next build changes"));
        assert_eq!(build.hint.unwrap(), "install it first, with `make install`");
        let tool = ApiError::from(ServiceError::Tool {
            command: "systemctl start kanpachi.service".into(),
            said: "Job failed".into(),
        });
        assert_eq!(tool.exit, ExitCode::Failed);
        assert!(tool.hint.unwrap().contains("journalctl"));
    }

    #[test]
    fn the_reply_tells_what_is_there_now() {
        let reply = |installed, running, unit: Option<&str>| ServiceReply {
            installed,
            running,
            unit: unit.map(Into::into),
        };
        assert!(
            reply(true, true, Some("/u"))
                .text()
                .starts_with("the service runs")
        );
        assert!(
            reply(true, false, Some("/u"))
                .text()
                .contains("nothing was started")
        );
        assert!(reply(false, false, Some("/u")).text().contains("removed"));
        assert_eq!(
            reply(false, false, None).text(),
            "no service is installed\n"
        );
    }
}
