//! The two clocks of the machine, read here and nowhere else.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use kanpachi_common::UnixTime;

use crate::decide::Now;

/// Wall clock. A clock before 1970 counts as 1970.
#[must_use]
pub fn wall() -> UnixTime {
    UnixTime(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
    )
}

/// Both clocks at once.
#[must_use]
pub(crate) fn now() -> Now {
    Now {
        at: Instant::now(),
        wall: wall(),
    }
}
