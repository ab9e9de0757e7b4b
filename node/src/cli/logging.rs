//! Logs: to standard error, with a level per command. No secret is ever logged; that is up to who logs.

use std::env;

use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

use super::console::{Console, LogWriter};

/// Warns of circuits to peers that are not there, which says nothing to anybody.
const QUIET: &str = "libp2p_relay=error";

/// Reads `--log-level`: a level, or directives as in `warn,kanpachi_node::daemon=trace`.
///
/// A bare level is meant for this program: below `warn` the libraries stay at `warn`, since their chatter would bury
/// everything else. The directives reach them.
///
/// # Errors
/// Neither the one nor the other.
pub fn filter(text: &str) -> Result<EnvFilter, ParseError> {
    let level = text.trim().to_ascii_lowercase();
    match level.as_str() {
        "info" | "debug" | "trace" => EnvFilter::try_new(format!("warn,{QUIET},kanpachi={level}")),
        "warn" => EnvFilter::try_new(format!("warn,{QUIET}")),
        _ => EnvFilter::try_new(text),
    }
}

/// Starts logging. A second call changes nothing.
pub fn start(console: Console, filter: EnvFilter) {
    // The journal has its own clock and shows no colours.
    let journal = env::var_os("JOURNAL_STREAM").is_some();
    let ansi = console.err().color && !journal;
    let builder = fmt()
        .with_env_filter(filter)
        .with_writer(move || LogWriter(console))
        .with_ansi(ansi)
        .with_target(false);
    // Whoever embeds this may have set up logging already.
    let _ = if journal {
        builder.without_time().try_init()
    } else {
        builder.try_init()
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_for_this_program_and_directives_are_taken_as_they_are() {
        assert_eq!(
            filter("debug").unwrap().to_string(),
            "libp2p_relay=error,kanpachi=debug,warn"
        );
        assert_eq!(filter("ERROR").unwrap().to_string(), "error");
        assert_eq!(filter("off").unwrap().to_string(), "off");
        assert!(
            filter("warn,libp2p_kad=trace")
                .unwrap()
                .to_string()
                .contains("libp2p_kad=trace")
        );
        assert!(filter("kanpachi=loud").is_err());
    }
}
