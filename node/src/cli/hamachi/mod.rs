//! `hamachi`: the command line of LogMeIn Hamachi for Linux on top of Kanpachi, so that fingers and programs that know it
//! go on as before. Called by that name, or as `kanpachi hamachi …`.
//!
//! What is typed becomes a [`verbs::Verb`], what is answered is written by [`render`]. Replies go to standard output,
//! failures included, since that is where programs look for them.

mod render;
mod verbs;

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use super::{
    args::Global, commands::block_on, console::Console, logging, networks::Order,
    password::Terminal,
};
use crate::ipc::{
    api::Status,
    client::Client,
    error::{ApiError, ExitCode, code},
};
use kanpachi_common::name;
use verbs::Verb;

/// The name that the program listens to.
const NAME: &str = "hamachi";

/// The command line as Kanpachi reads it: called `hamachi`, everything behind is Hamachi's.
pub(super) fn translate(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter();
    let called = args.next().unwrap_or_else(|| "kanpachi".into());
    if Path::new(&called).file_name() != Some(OsStr::new(NAME)) {
        return std::iter::once(called).chain(args).collect();
    }
    let head = ["kanpachi", NAME, "--"].map(OsString::from);
    head.into_iter().chain(args).collect()
}

/// Does what Hamachi would do.
pub(super) fn run(args: &[String], global: &Global, console: Console) -> ExitCode {
    let level = global
        .log_level
        .as_deref()
        .filter(|level| !level.is_empty());
    if let Ok(filter) = logging::filter(level.unwrap_or("warn")) {
        logging::start(console, filter);
    }
    let terminal = Terminal::new(console, false);
    let verb = match verbs::parse(args, &terminal) {
        Ok(verb) => verb,
        Err(error) => {
            console.print_err(&render::slip(&error));
            return error.exit;
        }
    };
    let client = Client::new(global.socket());
    match block_on(answer(verb, &client)) {
        Ok(answer) => {
            console.print(&answer.out);
            console.print_err(&answer.err);
            answer.exit
        }
        Err(error) => {
            console.print_err(&render::slip(&error));
            error.exit
        }
    }
}

/// What is said to a verb.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    out: String,
    err: String,
    exit: ExitCode,
}

impl Answer {
    const fn done(out: String) -> Self {
        Self {
            out,
            err: String::new(),
            exit: ExitCode::Done,
        }
    }
}

async fn answer(verb: Verb, client: &Client) -> Answer {
    match verb {
        Verb::Help => Answer::done(render::help()),
        Verb::Version => Answer::done(render::version()),
        Verb::Says { out, exit } => Answer {
            out,
            err: String::new(),
            exit,
        },
        Verb::Info => shown(client, "", |status| Ok(render::info(&status))).await,
        Verb::List => {
            let now = jiff::Timestamp::now();
            shown(client, "", |status| Ok(render::list(&status, now))).await
        }
        Verb::Network(name) => {
            let doing = format!("Looking up {name}");
            shown(client, &doing, |status| render::network(&status, &name)).await
        }
        Verb::Peer(target) => {
            let doing = format!("Looking up {target}");
            shown(client, &doing, |status| {
                status.find(&target).map(|p| render::peer(&p))
            })
            .await
        }
        Verb::Nick(name) => {
            let done = client.set_nick(name).await.map(|_| "ok");
            reply("Setting nickname", done)
        }
        Verb::Join(request) => {
            let doing = format!("Joining {}", request.network);
            let done = match client.join_network(&request).await {
                Ok(joined) if has(&joined.waiting, &request.network) => Ok("ok, request sent"),
                Ok(_) => Ok("ok"),
                Err(error) if error.code == code::ALREADY_WAITING => Ok("ok, request sent"),
                Err(error) => Err(already(error, &request.network, client).await),
            };
            reply(&doing, done)
        }
        Verb::Order { doing, order } => ordered(&doing, order, client).await,
    }
}

/// What is read from the status.
async fn shown(
    client: &Client,
    doing: &str,
    show: impl FnOnce(Status) -> Result<String, ApiError>,
) -> Answer {
    match client.status().await.and_then(show) {
        Ok(text) => Answer::done(text),
        Err(error) => failed(doing, &error),
    }
}

async fn ordered(doing: &str, order: Order, client: &Client) -> Answer {
    match order {
        Order::Create(request) => reply(doing, client.create(&request).await.map(|_| "ok")),
        Order::LoggedIn(wanted) => match client.set_logged_in(wanted).await {
            Ok(session) if session.already => Answer::done(render::already(wanted)),
            done => reply(doing, done.map(|_| "ok")),
        },
        Order::Change(request) => match client.change(&request).await {
            Ok(changed) => Answer {
                err: render::note(&changed),
                ..reply(doing, Ok("ok"))
            },
            Err(error) => failed(doing, &error),
        },
    }
}

/// Hamachi has another word for a member who owns the network.
async fn already(error: ApiError, network: &str, client: &Client) -> ApiError {
    if error.code != code::ALREADY_MEMBER {
        return error;
    }
    let owner = client.status().await.is_ok_and(|status| {
        let mut own = status.networks.iter().filter(|n| n.role == "owner");
        own.any(|n| name::fold(&n.name) == name::fold(network))
    });
    match owner {
        true => ApiError::refused(code::LAST_OWNER, "this machine owns the network"),
        false => error,
    }
}

/// Names are the same in upper and lower case.
fn has(networks: &[String], name: &str) -> bool {
    networks.iter().any(|n| name::fold(n) == name::fold(name))
}

fn reply(doing: &str, done: Result<&str, ApiError>) -> Answer {
    match done {
        Ok(word) => Answer::done(render::reply(doing, word)),
        Err(error) => failed(doing, &error),
    }
}

fn failed(doing: &str, error: &ApiError) -> Answer {
    Answer {
        out: render::failed(doing, error),
        err: String::new(),
        exit: error.exit,
    }
}

#[cfg(test)]
mod tests;
