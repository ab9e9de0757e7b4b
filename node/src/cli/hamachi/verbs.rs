//! Hamachi's verbs as they are typed, and what each is in Kanpachi.

use std::path::Path;

use kanpachi_common::name;

use super::render;
use crate::{
    cli::{
        networks::Order,
        password::{self, Asker},
    },
    ipc::{
        api::{ChangeRequest, NetworkRequest, Secret},
        error::{ApiError, ExitCode, code},
        query::check_target,
    },
};

/// What was typed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verb {
    /// `-h`
    Help,
    /// `-v`
    Version,
    /// Nothing: this machine.
    Info,
    /// `list`
    List,
    /// `network <id>`
    Network(String),
    /// `peer <client id>`
    Peer(String),
    /// `set-nick <nick>`
    Nick(String),
    /// `join <id> [pw]`
    Join(NetworkRequest),
    /// A request to the daemon, and how its reply begins.
    Order { doing: String, order: Order },
    /// What needs no daemon.
    Says { out: String, exit: ExitCode },
}

/// Reads a command line of Hamachi.
///
/// # Errors
/// Exit code 2: no such verb, too many or too few words, not a name, not a password.
pub(super) fn parse(args: &[String], asker: &dyn Asker) -> Result<Verb, ApiError> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let Some((&verb, rest)) = words.split_first() else {
        return Ok(Verb::Info);
    };
    match (verb, rest) {
        ("-h" | "--help" | "help" | "?", _) => Ok(Verb::Help),
        ("-v" | "--version", _) => Ok(Verb::Version),
        ("list", []) => Ok(Verb::List),
        ("login" | "logon", []) => Ok(order("Logging in", Order::LoggedIn(true))),
        ("logout" | "logoff", []) => Ok(order("Logging out", Order::LoggedIn(false))),
        ("set-nick", [nick]) => named("Setting nickname", nick, Verb::Nick),
        ("network", [id]) => named(&format!("Looking up {id}"), id, Verb::Network),
        ("peer", [id]) => Ok(Verb::Peer((*id).to_owned())),
        ("create", [id, pw @ ..]) if pw.len() <= 1 => create(id, pw.first().copied()),
        ("join" | "do-join", [id, pw @ ..]) if pw.len() <= 1 => {
            join(id, pw.first().copied(), asker)
        }
        ("set-pass", [id, pw @ ..]) if pw.len() <= 1 => set_pass(id, pw.first().copied()),
        ("set-access", [id, words @ ..]) if (1..=2).contains(&words.len()) => access(id, words),
        ("delete", [id]) => change(&format!("Deleting {id}"), id, |network| {
            ChangeRequest::Delete { network }
        }),
        ("leave", [id]) => change(&format!("Leaving {id}"), id, |network| {
            ChangeRequest::Leave {
                network,
                heir: None,
            }
        }),
        ("go-online", [id]) => change(&format!("Going online in {id}"), id, |network| {
            ChangeRequest::GoOnline { network }
        }),
        ("go-offline", [id]) => change(&format!("Going offline in {id}"), id, |network| {
            ChangeRequest::GoOffline { network }
        }),
        ("evict" | "approve" | "reject", [id, client]) => about_member(verb, id, client),
        ("attach" | "attach-net", [account]) => Ok(says(
            &format!("Attaching to {account}"),
            "failed, Kanpachi has no accounts",
            ExitCode::Refused,
        )),
        ("cancel", []) => Ok(says(
            "Cancelling",
            "failed, there is nothing to cancel",
            ExitCode::Refused,
        )),
        ("set-ip-mode", ["both"]) => Ok(says("Setting IP mode", "ok", ExitCode::Done)),
        ("set-ip-mode", ["ipv4" | "ipv6"]) => Ok(says(
            "Setting IP mode",
            "failed, Kanpachi always has both",
            ExitCode::Refused,
        )),
        ("check-update", []) => Ok(says(
            "Checking for updates",
            "failed, Kanpachi is updated by whoever installed it",
            ExitCode::Refused,
        )),
        _ => Err(ApiError::usage("this is not how hamachi is used").hint("hamachi -h")),
    }
}

fn order(doing: &str, order: Order) -> Verb {
    Verb::Order {
        doing: doing.to_owned(),
        order,
    }
}

fn says(doing: &str, word: &str, exit: ExitCode) -> Verb {
    Verb::Says {
        out: render::reply(doing, word),
        exit,
    }
}

/// A verb about a name. What is none is a reply like any other refusal: Hamachi allows more in names.
fn named(doing: &str, text: &str, verb: impl FnOnce(String) -> Verb) -> Result<Verb, ApiError> {
    match name::check(text) {
        Ok(name) => Ok(verb(name)),
        Err(error) => Ok(Verb::Says {
            out: render::failed(
                doing,
                &ApiError::new(ExitCode::Usage, code::BAD_NAME, error),
            ),
            exit: ExitCode::Usage,
        }),
    }
}

fn change(
    doing: &str,
    id: &str,
    request: impl FnOnce(String) -> ChangeRequest,
) -> Result<Verb, ApiError> {
    named(doing, id, |network| {
        order(doing, Order::Change(request(network)))
    })
}

fn create(id: &str, pw: Option<&str>) -> Result<Verb, ApiError> {
    let password = password(pw)?;
    let doing = format!("Creating {id}");
    named(&doing, id, |network| {
        order(&doing, Order::Create(NetworkRequest { network, password }))
    })
}

fn join(id: &str, pw: Option<&str>, asker: &dyn Asker) -> Result<Verb, ApiError> {
    let password = match pw {
        None if asker.can_ask() => Some(password::checked(&asker.ask("Password: ")?)?),
        pw => password(pw)?,
    };
    let doing = format!("Joining {id}");
    if password.is_none() {
        // What the coordinator would say to it, without asking it.
        let error = ApiError::refused(code::WRONG_PASSWORD, "no network has no password");
        return Ok(Verb::Says {
            out: render::failed(&doing, &error),
            exit: error.exit,
        });
    }
    named(&doing, id, |network| {
        Verb::Join(NetworkRequest { network, password })
    })
}

fn set_pass(id: &str, pw: Option<&str>) -> Result<Verb, ApiError> {
    let password = password(pw)?;
    change(&format!("Setting password of {id}"), id, |network| {
        ChangeRequest::SetPassword { network, password }
    })
}

/// Hamachi's way is on the command line; `-` is standard input, and nothing or an empty text is none.
fn password(given: Option<&str>) -> Result<Option<Secret>, ApiError> {
    match given {
        None | Some("") => Ok(None),
        Some("-") => password::from_file(Path::new("-")).map(Some),
        Some(text) => password::checked(text).map(Some),
    }
}

fn access(id: &str, words: &[&str]) -> Result<Verb, ApiError> {
    let (mut locked, mut approval) = (None, None);
    for word in words {
        let (setting, value) = match *word {
            "lock" => (&mut locked, true),
            "unlock" => (&mut locked, false),
            "manual" => (&mut approval, true),
            "auto" => (&mut approval, false),
            _ => return Err(ApiError::usage("access is lock or unlock, manual or auto")),
        };
        if setting.replace(value).is_some() {
            return Err(ApiError::usage("access is lock or unlock, manual or auto"));
        }
    }
    change(&format!("Setting access to {id}"), id, |network| {
        ChangeRequest::SetAccess {
            network,
            locked,
            approval,
        }
    })
}

fn about_member(verb: &str, id: &str, client: &str) -> Result<Verb, ApiError> {
    check_target(client)?;
    let member = client.to_owned();
    match verb {
        "evict" => change(&format!("Evicting {client} from {id}"), id, |network| {
            ChangeRequest::Evict {
                network,
                member,
                password: None,
            }
        }),
        "approve" => change(&format!("Approving {client} in {id}"), id, |network| {
            ChangeRequest::Approve { network, member }
        }),
        _ => change(&format!("Rejecting {client} in {id}"), id, |network| {
            ChangeRequest::Reject { network, member }
        }),
    }
}
