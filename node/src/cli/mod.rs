//! The command line: what is typed ([`args`]), what is done ([`commands`]), what is shown ([`render`], [`steps`]).
//!
//! Standard output has results and steps, standard error has errors and logs. With `--json` standard output has
//! nothing but JSON, errors included.

pub mod args;
pub mod commands;
pub mod console;
pub mod drill;
pub mod generate;
pub mod logging;
mod netcheck;
pub mod networks;
pub mod render;
pub mod service;
pub mod steps;

mod by_code;
mod hamachi;
mod mistakes;
mod password;

use std::{future::Future, pin::Pin, sync::Arc};

use clap::Parser as _;
use serde::Serialize;

use crate::{
    ipc::error::{ApiError, ErrorReply, ExitCode},
    options::{DaemonOptions, HostOptions},
};
use args::{Cli, Command};
use console::Console;
use steps::Progress;

/// A daemon that runs until it is told to stop.
pub type Running = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

/// Starts a daemon that tells how far it is.
pub type Start<O> = fn(O, Arc<dyn Progress>) -> Running;

/// What the program can become. The command line itself is a client and knows no daemon.
#[derive(Clone, Copy, Debug, Default)]
pub struct Entry {
    /// `kanpachi up`, and `join` without a daemon.
    pub node: Option<Start<DaemonOptions>>,
    /// `kanpachi host`
    pub host: Option<Start<HostOptions>>,
}

/// The whole program.
#[must_use]
pub fn main(entry: Entry) -> std::process::ExitCode {
    let console = Console::new();
    let cli = match Cli::try_parse_from(hamachi::translate(std::env::args_os())) {
        Ok(cli) => cli,
        Err(error) => return mistakes::explain(&error, console).into(),
    };
    if let Command::Hamachi { args } = &cli.command {
        return hamachi::run(args, &cli.global, console).into();
    }
    let json = cli.global.json;
    match commands::run(cli, entry, console) {
        Ok(()) => ExitCode::Done.into(),
        Err(error) => fail(&error, json, console).into(),
    }
}

/// Prints an error where it belongs.
fn fail(error: &ApiError, json: bool, console: Console) -> ExitCode {
    if json {
        console.print(&json_line(&ErrorReply {
            error: error.clone(),
        }));
    } else {
        console.print_err(&render::error(error, &console.err()));
    }
    error.exit
}

/// A value as one line.
fn json_line(value: &impl Serialize) -> String {
    // Serialising the types of the contract cannot fail: their maps have string keys and they write into memory.
    let mut line = serde_json::to_string(value).unwrap_or_default();
    line.push('\n');
    line
}
