//! `kanpachi drill`: rehearses an outage.

use std::time::Duration;

use clap::Subcommand;

use super::commands::Session;
use crate::ipc::{
    drill::{DrillReply, DrillRequest},
    error::{ApiError, code},
};

/// What is rehearsed.
#[derive(Clone, Debug, Subcommand)]
pub enum DrillCommand {
    /// Cut this node off from coordinator and bootstrap, and report what goes on without them
    ///
    /// For the time given, this node dials neither, lets neither in and uses nothing of theirs; the other members notice
    /// nothing. Then it connects again and tells which members answered, by which path, where their addresses are known
    /// from, how old the rosters are, and what waits for a coordinator. Ctrl-C ends it early. Should this command be
    /// killed, or the daemon, the node connects again by itself.
    #[command(after_help = "\
Examples:
  sudo kanpachi drill coordinator-down
  sudo kanpachi drill coordinator-down --minutes 10 --json")]
    CoordinatorDown {
        /// How long, 0.1 to 60
        #[arg(long, value_name = "N", default_value = "2", value_parser = minutes)]
        minutes: Duration,
    },
}

fn minutes(text: &str) -> Result<Duration, String> {
    text.parse::<f64>()
        .ok()
        .filter(|minutes| (0.1..=60.0).contains(minutes))
        .map(|minutes| Duration::from_secs((minutes * 60.0).round() as u64))
        .ok_or_else(|| "use 0.1 to 60".to_owned())
}

/// Runs a drill to its report; the first Ctrl-C ends it early.
pub(super) async fn run(session: &Session, command: DrillCommand) -> Result<(), ApiError> {
    let DrillCommand::CoordinatorDown { minutes } = command;
    let request = DrillRequest {
        seconds: minutes.as_secs(),
    };
    let client = session.client();
    let mut lines = client.drill(&request).await?;
    let mut ended = false;
    loop {
        let next = tokio::select! {
            next = lines.next() => next?,
            // A second one ends this process, and with it the drill.
            _ = tokio::signal::ctrl_c(), if !ended => {
                ended = true;
                client.end_drill().await?;
                continue;
            }
            _ = tokio::signal::ctrl_c() => None,
        };
        let Some(reply) = next else { break };
        session.show_drill(&reply);
        if matches!(reply, DrillReply::Report(_)) {
            return Ok(());
        }
    }
    Err(ApiError::failed(
        code::FAILED,
        "the drill ended without a report",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_may_have_a_fraction_and_have_bounds() {
        assert_eq!(minutes("2"), Ok(Duration::from_secs(120)));
        assert_eq!(minutes("0.1"), Ok(Duration::from_secs(6)));
        for bad in ["", "0", "61", "-1", "nan", "two"] {
            assert!(minutes(bad).is_err(), "{bad}");
        }
    }
}
