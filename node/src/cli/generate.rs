//! `kanpachi generate`, for packagers: shell completions and man pages out of the definition of the command line.

use std::path::PathBuf;

use clap::{CommandFactory as _, Subcommand};
use clap_complete::Shell;

use super::{args::Cli, console::Console};
use crate::ipc::error::{ApiError, code};

/// `kanpachi generate …`
#[derive(Debug, Subcommand)]
pub enum Generate {
    /// Print the completions of a shell
    Completions {
        /// Which shell.
        shell: Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// Where; must exist.
        directory: PathBuf,
    },
}

/// Does what was asked for.
///
/// # Errors
/// When the directory cannot be written to.
pub fn run(what: &Generate, console: Console) -> Result<(), ApiError> {
    match what {
        Generate::Completions { shell } => {
            console.print(&completions(*shell));
            Ok(())
        }
        Generate::Man { directory } => {
            clap_mangen::generate_to(Cli::command(), directory).map_err(|error| {
                ApiError::failed(
                    code::FAILED,
                    format_args!("cannot write man pages to {}: {error}", directory.display()),
                )
            })
        }
    }
}

fn completions(shell: Shell) -> String {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kanpachi", &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shell_completes_the_verbs_and_every_verb_has_a_page() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            assert!(completions(shell).contains("set-nick"), "{shell}");
        }
        let dir = tempfile::tempdir().unwrap();
        let what = Generate::Man {
            directory: dir.path().to_owned(),
        };
        run(&what, Console::new()).unwrap();
        for page in ["kanpachi", "kanpachi-join", "kanpachi-service-install"] {
            let text = std::fs::read_to_string(dir.path().join(format!("{page}.1"))).unwrap();
            assert!(text.contains(".SH NAME"), "{page}");
        }
        for none in ["kanpachi-generate", "kanpachi-help", "kanpachi-help-join"] {
            assert!(!dir.path().join(format!("{none}.1")).exists(), "{none}");
        }
        let nowhere = Generate::Man {
            directory: dir.path().join("nowhere"),
        };
        assert!(run(&nowhere, Console::new()).is_err());
    }
}
