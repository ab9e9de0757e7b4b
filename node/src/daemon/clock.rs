//! The only place of the daemon where clocks are read.

use std::{
    sync::OnceLock,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use jiff::{Timestamp, Unit};
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

/// Turns a moment of the monotonic clock into wall time, for display: the same moment always into the same time.
#[must_use]
pub fn wall_of(moment: Instant) -> Timestamp {
    static ANCHOR: OnceLock<(Instant, Timestamp)> = OnceLock::new();
    let (at, wall) = *ANCHOR.get_or_init(|| (Instant::now(), Timestamp::now()));
    let time = match moment.checked_duration_since(at) {
        Some(later) => wall.checked_add(later),
        None => wall.checked_sub(at.saturating_duration_since(moment)),
    };
    time.and_then(|t| t.round(Unit::Millisecond))
        .unwrap_or(wall)
}

/// Waits for a moment, or for ever.
pub(super) async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}
