//! `kanpachi join` without an invite: which hosts are on this LAN, which one is meant, and what is its code.

use std::{
    fs::File,
    io::{self, BufRead as _, IsTerminal as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use kanpachi_common::wire::code::CodeRefusal;
use kanpachi_proto::code::Code;
use zeroize::Zeroizing;

use super::{commands::block_on, console::Console, render};
use crate::{
    ipc::{
        api::Secret,
        error::{ApiError, ExitCode, code},
    },
    lan::{
        ask::{Asker, Denied},
        browse::{self, Found},
    },
};

/// Bytes of a line that may hold a code or a number.
const MAX_LINE: u64 = 256;

/// Options of `join` without an invite.
#[derive(Args, Clone, Debug, Default)]
pub struct ByCode {
    /// The host on this LAN to join by its code, by name or address
    #[arg(long, value_name = "NAME|ADDRESS", conflicts_with = "target")]
    pub host: Option<String>,

    /// A file with the code that the host shows, or `-` to read it from standard input
    #[arg(long, value_name = "FILE|-", conflicts_with = "target")]
    pub code_file: Option<PathBuf>,
}

/// The person at the terminal, or whoever stands in.
#[derive(Debug)]
pub(super) struct Screen {
    console: Console,
    json: bool,
}

impl Screen {
    /// With `--json` a program listens, which is neither told nor asked.
    pub(super) const fn new(console: Console, json: bool) -> Self {
        Self { console, json }
    }

    fn can_ask(&self) -> bool {
        !self.json && self.console.err_terminal && io::stdin().is_terminal()
    }

    fn say(&self, text: &str) {
        if !self.json {
            self.console.print_err(text);
        }
    }

    /// One line, shown as it is typed: a code is on another screen anyway, and easier to get right when seen.
    fn ask(&self, question: &str) -> Result<Zeroizing<String>, ApiError> {
        self.console.print_err(question);
        line(io::stdin().lock(), "the terminal").inspect_err(|_| self.console.print_err("\n"))
    }
}

impl ByCode {
    /// An invite from the host that was chosen.
    ///
    /// # Errors
    /// `no_host`, `wrong_code`, `usage` and what else keeps it from being had.
    pub(super) fn invite(&self, interface: &str, screen: &Screen) -> Result<Secret, ApiError> {
        // A code that cannot be read is told before anybody looks around.
        let given = self.given_code(screen)?;
        screen.say("Looking for hosts on this LAN ...\n");
        let hosts = browse::look(interface, self.host.as_deref()).map_err(|error| {
            ApiError::failed(
                code::FAILED,
                format_args!("cannot look around on this LAN: {error}"),
            )
        })?;
        let host = self.choose(hosts, screen)?;
        if !host.compatible {
            return Err(ApiError::new(
                ExitCode::Refused,
                code::PROTOCOL_VERSION,
                format_args!(
                    "{} has another version of Kanpachi, which hands out its codes otherwise",
                    host.name
                ),
            )
            .hint("update the older of the two, or join by an invite"));
        }
        match given {
            Some(given) => ask(&host, &given, screen)?.map_err(|denied| told(&host, denied)),
            None => converse(&host, screen),
        }
    }

    /// The code from a file or standard input; `None` when somebody is asked for it.
    fn given_code(&self, screen: &Screen) -> Result<Option<Code>, ApiError> {
        let text = match &self.code_file {
            Some(path) if path.as_os_str() != "-" => from_file(path)?,
            None if screen.can_ask() => return Ok(None),
            None if io::stdin().is_terminal() => {
                return Err(
                    ApiError::usage("nobody can be asked for the code of the host")
                        .hint("kanpachi join --code-file FILE, or - for standard input"),
                );
            }
            _ => line(io::stdin().lock(), "standard input")?,
        };
        Code::parse(&text).map(Some).map_err(ApiError::usage)
    }

    fn choose(&self, mut hosts: Vec<Found>, screen: &Screen) -> Result<Found, ApiError> {
        if let Some(wanted) = &self.host {
            hosts.retain(|h| h.answers_to(wanted));
        }
        match (hosts.len(), &self.host) {
            (0, None) => Err(ApiError::unreachable(code::NO_HOST, "no host is seen on this LAN")
                .hint("start kanpachi host on a machine here (a firewall must let UDP port 5353 through), or join by an invite")),
            (0, Some(wanted)) => Err(ApiError::unreachable(
                code::NO_HOST,
                format_args!("no host {wanted} is seen on this LAN"),
            )
            .hint("kanpachi join lists the hosts that are")),
            (1, _) => {
                let host = hosts.remove(0);
                screen.say(&render::hosts(std::slice::from_ref(&host)));
                Ok(host)
            }
            (several, _) if !screen.can_ask() => {
                let places: Vec<String> = hosts.iter().map(render::host_at).collect();
                Err(ApiError::usage(format_args!("{several} hosts are seen on this LAN: {}", places.join("; ")))
                    .hint("say which: kanpachi join --host NAME|ADDRESS"))
            }
            _ => {
                screen.say(&render::hosts(&hosts));
                loop {
                    let answer = screen.ask(&format!("Which one (1 to {})? ", hosts.len()))?;
                    if let Ok(number @ 1..) = answer.trim().parse::<usize>()
                        && number <= hosts.len()
                    {
                        return Ok(hosts.swap_remove(number - 1));
                    }
                }
            }
        }
    }
}

/// Asks for the code until it is right, or until asking makes no sense.
fn converse(host: &Found, screen: &Screen) -> Result<Secret, ApiError> {
    loop {
        let typed = screen.ask("The code that its screen shows: ")?;
        let typed = match Code::parse(&typed) {
            Ok(typed) => typed,
            Err(error) => {
                screen.say(&format!("{error}\n"));
                continue;
            }
        };
        match ask(host, &typed, screen)? {
            Ok(invite) => return Ok(invite),
            Err(denied @ Denied::Wrong(_)) => screen.say(&format!("{}\n", told(host, denied))),
            Err(denied) => return Err(told(host, denied)),
        }
    }
}

/// Tries one code, over a connection that nobody has to keep alive while the next one is typed.
fn ask(host: &Found, code: &Code, screen: &Screen) -> Result<Result<Secret, Denied>, ApiError> {
    let waiting = |pause: Duration| {
        screen.say(&format!(
            "Too many wrong codes were tried at {}; trying again in {} s ...\n",
            host.name,
            pause.as_secs() + 1
        ));
    };
    block_on(async {
        let mut asker = Asker::connect(host).await.map_err(Denied::Failed)?;
        asker.ask(code, waiting).await.map(Secret::from)
    })
}

fn unreachable(host: &Found, error: &anyhow::Error) -> ApiError {
    ApiError::unreachable(
        code::NO_HOST,
        format_args!("{} is seen on this LAN, but {error:#}", host.name),
    )
    .hint("a firewall there must let its port through, UDP or TCP")
}

/// One sentence for whoever typed the code.
fn told(host: &Found, denied: Denied) -> ApiError {
    let name = &host.name;
    match denied {
        Denied::Wrong(0) => ApiError::refused(
            code::WRONG_CODE,
            format_args!(
                "that is not the code of {name}, and was the last try: it shows a new code now"
            ),
        ),
        Denied::Wrong(left) => ApiError::refused(
            code::WRONG_CODE,
            format_args!(
                "that is not the code of {name}; {left} {} left before it makes a new one",
                if left == 1 { "try" } else { "tries" }
            ),
        ),
        Denied::Impostor => ApiError::refused(
            code::WRONG_CODE,
            format_args!("what answers as {name} does not know this code: it may be somebody else"),
        ),
        Denied::Later(pause) => ApiError::refused(
            code::BUSY,
            format_args!(
                "too many wrong codes were tried at {name}; it takes none for {} s",
                pause.as_secs() + 1
            ),
        ),
        Denied::Refused(CodeRefusal::Elsewhere) => ApiError::refused(
            code::REFUSED,
            format_args!("{name} takes codes from its own LAN only"),
        )
        .hint("join by an invite"),
        Denied::Refused(CodeRefusal::Version) => ApiError::refused(
            code::PROTOCOL_VERSION,
            format_args!("{name} has another version of Kanpachi"),
        )
        .hint("update the older of the two"),
        Denied::Refused(CodeRefusal::NoInvite) => ApiError::refused(
            code::REFUSED,
            format_args!("the code is right, but {name} can make no invite at the moment"),
        )
        .hint("its screen or log says why"),
        Denied::Refused(_) => ApiError::refused(
            code::REFUSED,
            format_args!("{name} did not understand, or hosts another organisation by now"),
        ),
        Denied::Failed(error) => unreachable(host, &error),
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, ApiError> {
    let name = format!("the code file {}", path.display());
    let file = File::open(path)
        .map_err(|error| ApiError::usage(format_args!("{name} cannot be opened: {error}")))?;
    line(io::BufReader::new(file), &name)
}

/// The first line, within bounds.
fn line(input: impl io::BufRead, name: &str) -> Result<Zeroizing<String>, ApiError> {
    let mut text = Zeroizing::new(String::new());
    let read = input.take(MAX_LINE).read_line(&mut text);
    match read.map_err(|error| ApiError::usage(format_args!("{name} cannot be read: {error}")))? {
        0 => Err(ApiError::usage(format_args!("{name} has no code"))),
        _ => Ok(text),
    }
}

#[cfg(test)]
mod tests {
    use kanpachi_common::{NodeId, OrgId};

    use super::*;

    fn found(name: &str, last: u8) -> Found {
        Found {
            org: OrgId([1; 32]),
            host: NodeId([last; 32]),
            name: name.to_owned(),
            network: "lan".to_owned(),
            addresses: vec![([192, 0, 2, last], 12975).into()],
            compatible: true,
        }
    }

    /// With `--json` nobody is asked, wherever this test runs.
    fn screen() -> Screen {
        Screen::new(Console::new(), true)
    }

    #[test]
    fn one_host_needs_no_choice_and_several_need_a_name() {
        let any = ByCode::default();
        let two = || vec![found("desk", 1), found("lamp", 2)];
        assert_eq!(
            any.choose(vec![found("desk", 1)], &screen()).unwrap().name,
            "desk"
        );
        let none = any.choose(Vec::new(), &screen()).unwrap_err();
        assert_eq!(
            (none.exit, none.code.as_str()),
            (ExitCode::Unreachable, code::NO_HOST)
        );
        let which = any.choose(two(), &screen()).unwrap_err();
        assert_eq!(
            which.message,
            "2 hosts are seen on this LAN: desk (network lan) at 192.0.2.1:12975; lamp (network lan) at 192.0.2.2:12975"
        );
        let named = ByCode {
            host: Some("Lamp".to_owned()),
            code_file: None,
        };
        assert_eq!(named.choose(two(), &screen()).unwrap().name, "lamp");
        let other = named.choose(vec![found("desk", 1)], &screen()).unwrap_err();
        assert_eq!(other.message, "no host Lamp is seen on this LAN");
    }

    #[test]
    fn only_the_first_line_counts_and_it_is_bounded() {
        let read = |text: &str| line(text.as_bytes(), "it").map(|line| line.to_string());
        assert_eq!(read("ACDE-3467\nmore\n").unwrap(), "ACDE-3467\n");
        assert_eq!(read(&"x".repeat(9000)).unwrap().len(), 256);
        assert_eq!(read("").unwrap_err().message, "it has no code");
        assert_eq!(
            line(&b"\xff\n"[..], "it").unwrap_err().exit,
            ExitCode::Usage
        );
    }

    #[test]
    fn what_a_wrong_code_leads_to_is_one_sentence() {
        let host = found("desk", 1);
        for (left, sentence) in [
            (
                2,
                "that is not the code of desk; 2 tries left before it makes a new one",
            ),
            (
                1,
                "that is not the code of desk; 1 try left before it makes a new one",
            ),
            (
                0,
                "that is not the code of desk, and was the last try: it shows a new code now",
            ),
        ] {
            let error = told(&host, Denied::Wrong(left));
            assert_eq!(
                (error.exit, error.message.as_str()),
                (ExitCode::Refused, sentence)
            );
        }
    }
}
