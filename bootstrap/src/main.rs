//! `kanpachi-bootstrap`: the bootstrap as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    kanpachi_bootstrap::cli::main()
}
