//! The only place of the daemon where clocks are read.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kanpachi_common::UnixTime;

/// Wall clock. A clock set before 1970 counts as 1970.
#[must_use]
pub fn wall() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| d.as_secs()),
    )
}

/// Turns a moment of the monotonic clock into wall time, for display.
#[must_use]
pub fn wall_of(moment: Instant) -> jiff::Timestamp {
    let age = Instant::now().saturating_duration_since(moment);
    jiff::Timestamp::now() - age
}

/// Waits for a moment, or for ever.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
