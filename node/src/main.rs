//! `kanpachi`: the daemon and its command line in one binary.

use std::process::ExitCode;

use kanpachi_node::{
    cli::{self, Entry, Start},
    daemon,
    options::HostOptions,
};

#[cfg(feature = "host")]
const HOST: Option<Start<HostOptions>> =
    Some(|options, progress| Box::pin(kanpachi_node::host::run(options, progress)));
#[cfg(not(feature = "host"))]
const HOST: Option<Start<HostOptions>> = None;

fn main() -> ExitCode {
    cli::main(Entry {
        node: Some(|options, progress| Box::pin(daemon::run(options, progress))),
        host: HOST,
    })
}
