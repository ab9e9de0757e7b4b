//! The one error that a person sees: a code for programs, a sentence, a hint, and the exit code that goes with it.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::platform::PlatformError;

/// What the process says to its caller. The numbers are a contract (`docs/cli.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Something went wrong that none of the others names.
    Failed = 1,
    /// The request makes no sense as it stands.
    Usage = 2,
    /// The caller, or the daemon, may not do this.
    NoPermission = 3,
    /// No daemon answers on the socket.
    NoDaemon = 4,
    /// Understood and declined: by the coordinator, by a rule, or because of the state things are in.
    Refused = 5,
    /// Nobody answered in time.
    Unreachable = 6,
}

impl ExitCode {
    /// The HTTP status that carries this on the control socket.
    #[must_use]
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Done => 200,
            Self::Failed => 500,
            Self::Usage => 400,
            Self::NoPermission => 403,
            Self::NoDaemon => 503,
            Self::Refused => 409,
            Self::Unreachable => 504,
        }
    }

    /// The other way round. Statuses that this program never sends count by their class.
    #[must_use]
    pub const fn from_http_status(status: u16) -> Self {
        match status {
            200..=299 => Self::Done,
            403 => Self::NoPermission,
            409 => Self::Refused,
            503 => Self::NoDaemon,
            504 => Self::Unreachable,
            400..=499 => Self::Usage,
            _ => Self::Failed,
        }
    }
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        Self::from(code as u8)
    }
}

/// The words in `error.code`. Programs match on them, so they never change; new ones may come.
pub mod code {
    /// Something inside went wrong; the message has the chain of causes.
    pub const FAILED: &str = "failed";
    /// Command line or request is malformed.
    pub const USAGE: &str = "usage";
    /// Only root and the group `kanpachi` may do this.
    pub const NO_PERMISSION: &str = "no_permission";
    /// No daemon on the socket.
    pub const NO_DAEMON: &str = "no_daemon";
    /// The daemon is there but did not answer in time.
    pub const DAEMON_SILENT: &str = "daemon_silent";
    /// Another daemon holds the socket or the state directory.
    pub const DAEMON_RUNNING: &str = "daemon_running";
    /// The daemon speaks another version of the control protocol.
    pub const DAEMON_VERSION: &str = "daemon_version";
    /// Too many requests at once.
    pub const BUSY: &str = "busy";
    /// The capability `CAP_NET_ADMIN` is missing.
    pub const NO_CAPABILITY: &str = "no_capability";
    /// `/dev/net/tun` is missing or cannot be opened.
    pub const NO_TUN: &str = "no_tun";
    /// The interface name is taken.
    pub const INTERFACE_IN_USE: &str = "interface_in_use";
    /// The port is taken.
    pub const PORT_IN_USE: &str = "port_in_use";
    /// A state file cannot be read.
    pub const STATE_UNREADABLE: &str = "state_unreadable";
    /// A state file is damaged.
    pub const STATE_DAMAGED: &str = "state_damaged";
    /// No room on the disk.
    pub const DISK_FULL: &str = "disk_full";
    /// Not an invite, or not a whole one.
    pub const BAD_INVITE: &str = "bad_invite";
    /// The code of a host is another one.
    pub const WRONG_CODE: &str = "wrong_code";
    /// No host is seen on this LAN.
    pub const NO_HOST: &str = "no_host";
    /// The invite is too old.
    pub const INVITE_EXPIRED: &str = "invite_expired";
    /// The invite was used up.
    pub const INVITE_USED: &str = "invite_used";
    /// The invite was withdrawn or never existed.
    pub const INVITE_UNKNOWN: &str = "invite_unknown";
    /// Another organisation than the one this node belongs to.
    pub const OTHER_ORGANISATION: &str = "other_organisation";
    /// The node belongs to no organisation yet.
    pub const NOT_JOINED: &str = "not_joined";
    /// No network of that name.
    pub const UNKNOWN_NETWORK: &str = "unknown_network";
    /// No member of that name or address.
    pub const UNKNOWN_PEER: &str = "unknown_peer";
    /// More than one member of that name.
    pub const AMBIGUOUS_PEER: &str = "ambiguous_peer";
    /// A network of that name exists.
    pub const NETWORK_EXISTS: &str = "network_exists";
    /// No network has this name and password: unknown, wrong, or without a password. Never said which.
    pub const WRONG_PASSWORD: &str = "wrong_password";
    /// The network takes nobody new.
    pub const NETWORK_LOCKED: &str = "network_locked";
    /// As many members as a network may have.
    pub const NETWORK_FULL: &str = "network_full";
    /// The coordinator is older than its members and waits for its operator.
    pub const RECOVERY: &str = "recovery";
    /// This machine was evicted from the network.
    pub const EVICTED: &str = "evicted";
    /// The only owner: somebody must follow, or the network end.
    pub const LAST_OWNER: &str = "last_owner";
    /// Only owners of the network may do this.
    pub const NOT_ALLOWED: &str = "not_allowed";
    /// Is a member of the network already.
    pub const ALREADY_MEMBER: &str = "already_member";
    /// Awaits approval already.
    pub const ALREADY_WAITING: &str = "already_waiting";
    /// Not a name.
    pub const BAD_NAME: &str = "bad_name";
    /// Understood and declined by the coordinator.
    pub const REFUSED: &str = "refused";
    /// The other side speaks another version of the protocol.
    pub const PROTOCOL_VERSION: &str = "protocol_version";
    /// The clock of this machine is wrong.
    pub const WRONG_CLOCK: &str = "wrong_clock";
    /// No coordinator answers.
    pub const COORDINATOR_UNREACHABLE: &str = "coordinator_unreachable";
    /// The peer does not answer.
    pub const NO_ANSWER: &str = "no_answer";
    /// This machine is logged out.
    pub const LOGGED_OUT: &str = "logged_out";
}

/// An error as the command line prints it and the control socket sends it.
///
/// It is a [`std::error::Error`], so that it can sit anywhere in an `anyhow` chain: the command line looks for the
/// outermost one and prints that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiError {
    /// One of [`code`].
    pub code: String,
    /// One sentence: what is the matter. No capital at the start, no full stop at the end.
    pub message: String,
    /// What to do about it, when there is something to do.
    pub hint: Option<String>,
    /// Not on the wire: the HTTP status says it.
    #[serde(skip, default = "failed")]
    pub exit: ExitCode,
}

const fn failed() -> ExitCode {
    ExitCode::Failed
}

impl ApiError {
    /// An error without a hint.
    #[must_use]
    pub fn new(exit: ExitCode, code: &str, message: impl fmt::Display) -> Self {
        Self {
            code: code.to_owned(),
            message: message.to_string(),
            hint: None,
            exit,
        }
    }

    /// Exit code 1.
    #[must_use]
    pub fn failed(code: &str, message: impl fmt::Display) -> Self {
        Self::new(ExitCode::Failed, code, message)
    }

    /// Exit code 2.
    #[must_use]
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(ExitCode::Usage, code::USAGE, message)
    }

    /// Exit code 3.
    #[must_use]
    pub fn no_permission(code: &str, message: impl fmt::Display) -> Self {
        Self::new(ExitCode::NoPermission, code, message)
    }

    /// Exit code 5.
    #[must_use]
    pub fn refused(code: &str, message: impl fmt::Display) -> Self {
        Self::new(ExitCode::Refused, code, message)
    }

    /// Exit code 6.
    #[must_use]
    pub fn unreachable(code: &str, message: impl fmt::Display) -> Self {
        Self::new(ExitCode::Unreachable, code, message)
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// The outermost [`ApiError`] or [`PlatformError`] of a chain; a chain without one becomes code `failed` with all its causes.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Self {
        let known = |cause: &(dyn std::error::Error + 'static)| {
            let platform = cause.downcast_ref::<PlatformError>().map(Self::from);
            cause.downcast_ref::<Self>().cloned().or(platform)
        };
        error
            .chain()
            .find_map(known)
            .unwrap_or_else(|| Self::failed(code::FAILED, format_args!("{error:#}")))
    }
}

impl From<&PlatformError> for ApiError {
    fn from(error: &PlatformError) -> Self {
        let (exit, code) = match error {
            PlatformError::NoNetAdmin => (ExitCode::NoPermission, code::NO_CAPABILITY),
            PlatformError::TunDeviceMissing { .. } => (ExitCode::Failed, code::NO_TUN),
            PlatformError::TunDeviceRefused { .. } => (ExitCode::NoPermission, code::NO_TUN),
            PlatformError::InterfaceTaken { .. } => (ExitCode::Failed, code::INTERFACE_IN_USE),
            PlatformError::InterfaceName { .. } | PlatformError::Mtu { .. } => {
                (ExitCode::Usage, code::USAGE)
            }
            other if other.is_permission() => (ExitCode::NoPermission, code::NO_PERMISSION),
            _ => (ExitCode::Failed, code::FAILED),
        };
        let source = std::error::Error::source(error)
            .map(|source| format!(" ({source})"))
            .unwrap_or_default();
        // These sentences say what is the matter, and behind a colon what to do.
        match error.to_string().split_once(": ") {
            Some((matter, remedy)) => {
                Self::new(exit, code, format_args!("{matter}{source}")).hint(remedy)
            }
            None => Self::new(exit, code, format_args!("{error}{source}")),
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for ApiError {}

/// `{"error": {…}}`, on the socket and with `--json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReply {
    /// The error.
    pub error: ApiError,
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn every_exit_code_survives_the_way_over_http() {
        use ExitCode::*;
        for code in [
            Done,
            Failed,
            Usage,
            NoPermission,
            NoDaemon,
            Refused,
            Unreachable,
        ] {
            assert_eq!(ExitCode::from_http_status(code.http_status()), code);
        }
        assert_eq!(ExitCode::from_http_status(404), Usage);
        assert_eq!(ExitCode::from_http_status(502), Failed);
    }

    #[test]
    fn an_error_deep_in_a_chain_is_found_and_anything_else_keeps_its_causes() {
        let inner =
            ApiError::refused(code::INVITE_USED, "the invite was used up").hint("ask for another");
        let chain = Err::<(), _>(inner.clone())
            .context("login")
            .context("join")
            .unwrap_err();
        assert_eq!(ApiError::of(&chain), inner);
        let other = Err::<(), _>(std::io::Error::other("disk on fire"))
            .context("cannot write the state")
            .unwrap_err();
        let seen = ApiError::of(&other);
        assert_eq!(
            (seen.code.as_str(), seen.message.as_str()),
            ("failed", "cannot write the state: disk on fire")
        );
        assert_eq!(seen.exit, ExitCode::Failed);
    }

    #[test]
    fn what_the_system_refuses_becomes_a_sentence_and_a_hint() {
        let error =
            ApiError::of(&anyhow::Error::from(PlatformError::NoNetAdmin).context("adapter"));
        assert_eq!(
            (error.exit, error.code.as_str()),
            (ExitCode::NoPermission, code::NO_CAPABILITY)
        );
        assert!(
            error.message.ends_with("(CAP_NET_ADMIN is missing)"),
            "{error}"
        );
        assert!(error.hint.unwrap().starts_with("run it as root"));
        let taken = ApiError::from(&PlatformError::InterfaceTaken {
            name: "k0".to_owned(),
        });
        assert_eq!(
            (taken.message.as_str(), taken.code.as_str()),
            (
                "the network interface `k0` already exists",
                code::INTERFACE_IN_USE
            )
        );
    }

    #[test]
    fn on_the_wire_an_error_has_exactly_the_documented_fields() {
        let reply = ErrorReply {
            error: ApiError::usage("no"),
        };
        assert_eq!(
            serde_json::to_string(&reply).unwrap(),
            r#"{"error":{"code":"usage","message":"no","hint":null}}"#
        );
    }
}
