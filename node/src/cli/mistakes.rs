//! Slips on the command line, in one sentence with a hint, like every other error.

use std::env;

use clap::{
    CommandFactory as _,
    builder::StyledStr,
    error::{ContextKind, ErrorKind},
};

use super::{args::Cli, console::Console, fail, json_line};
use crate::ipc::{
    api::SCHEMA,
    error::{ApiError, ExitCode},
};

/// Prints help or version, or says what is wrong with the command line.
pub(super) fn explain(error: &clap::Error, console: Console) -> ExitCode {
    // Clap failed before there was an option to look at.
    let json = env::args_os()
        .skip(1)
        .take_while(|arg| arg != "--")
        .any(|arg| arg == "--json");
    match error.kind() {
        ErrorKind::DisplayVersion if json => {
            console.print(&json_line(
                &serde_json::json!({ "version": env!("CARGO_PKG_VERSION"), "schema": SCHEMA }),
            ));
            ExitCode::Done
        }
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            console.print(&styled(error.render(), console.out().color));
            ExitCode::Done
        }
        // Not a mistake but somebody who wants to know what there is.
        _ if env::args_os().len() <= 1 => {
            console.print_err(&styled(Cli::command().render_help(), console.err().color));
            ExitCode::Usage
        }
        _ => fail(&to_api(error), json, console),
    }
}

fn styled(text: StyledStr, color: bool) -> String {
    if color {
        text.ansi().to_string()
    } else {
        text.to_string()
    }
}

/// Clap's report is paragraphs: the mistake, tips, usage. The first is the sentence, the tips are the hint.
fn to_api(error: &clap::Error) -> ApiError {
    if error.kind() == ErrorKind::MissingSubcommand {
        return ApiError::usage("a command is missing").hint("kanpachi help");
    }
    let text = error.render().to_string();
    let mut paragraphs = text.split("\n\n");
    let sentence = paragraphs
        .next()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    let sentence = sentence.split_whitespace().collect::<Vec<_>>().join(" ");
    let tips: Vec<&str> = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix("tip: "))
        .collect();
    let usage = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Usage: "));
    let hint = match (tips.as_slice(), usage) {
        ([], Some(usage)) if error.get(ContextKind::InvalidSubcommand).is_none() => {
            usage.to_owned()
        }
        ([], _) => "kanpachi help".to_owned(),
        (tips, _) => tips.join("; "),
    };
    ApiError::usage(sentence).hint(hint)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn slip(args: &[&str]) -> (String, String) {
        let error = to_api(&Cli::try_parse_from([&["kanpachi"], args].concat()).unwrap_err());
        assert_eq!(error.exit, ExitCode::Usage);
        (error.message, error.hint.unwrap())
    }

    #[test]
    fn each_slip_is_one_sentence_with_a_way_out() {
        let expected = [
            (
                &["jion", "x"][..],
                "unrecognized subcommand 'jion'",
                "a similar subcommand exists: 'join'",
            ),
            (
                &["frobnicate"],
                "unrecognized subcommand 'frobnicate'",
                "kanpachi help",
            ),
            (
                &["create"],
                "the following required arguments were not provided: <NETWORK>",
                "kanpachi create <NETWORK>",
            ),
            (
                &["list", "--jsno"],
                "unexpected argument '--jsno' found",
                "a similar argument exists: '--json'",
            ),
            (
                &["up", "--listen", "0"],
                "invalid value '0' for '--listen <PORT>': 0 is not in 1..=65535",
                "For more information, try '--help'.",
            ),
        ];
        for (args, message, hint) in expected {
            let (said, hinted) = slip(args);
            assert_eq!(said, message);
            assert!(hinted == hint || hint.starts_with("For"), "{hinted}");
        }
        let (said, _) = slip(&["set-nick", "a b"]);
        assert_eq!(
            said,
            "invalid value 'a b' for '<NAME>': a name is made of letters, digits and hyphens, not ' '"
        );
        let (said, _) = slip(&["invite", "lan", "--expires", "soon"]);
        assert!(
            said.ends_with("use a number and a unit: 30m, 12h, 7d, 2w"),
            "{said}"
        );
        let (said, _) = slip(&["host", "--pool", "fd00::/8"]);
        assert!(said.contains("must be an IPv4 range"), "{said}");
        assert_eq!(slip(&["--json"]).0, "a command is missing");
    }
}
