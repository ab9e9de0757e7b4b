//! `kanpachi`: the daemon and its command line in one binary.

use std::process::ExitCode;

use kanpachi_node::cli::{self, Entry};

fn main() -> ExitCode {
    cli::main(Entry::default())
}
