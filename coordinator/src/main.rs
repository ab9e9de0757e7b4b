//! `kanpachi-coordinator`: the coordinator as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kanpachi_coordinator::cli::main()
}
