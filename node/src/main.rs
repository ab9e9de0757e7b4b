//! `kanpachi`: the daemon and its command line in one binary.

use std::process::ExitCode;

use kanpachi_node::{
    cli::{self, Entry},
    daemon,
};

fn main() -> ExitCode {
    cli::main(Entry {
        node: Some(|options, progress| Box::pin(daemon::run(options, progress))),
        host: None,
    })
}
