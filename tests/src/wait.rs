//! Waiting for conditions with a limit: the only place in the tests that sleeps.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(20);

/// Factor on every limit, from `KANPACHI_TEST_SLACK` (default 1): slow machines get more time, conditions stay the same.
pub fn slack() -> f64 {
    std::env::var("KANPACHI_TEST_SLACK")
        .ok()
        .and_then(|text| text.parse().ok())
        .filter(|f: &f64| *f >= 1.0)
        .unwrap_or(1.0)
}

/// `limit` times [`slack`].
pub fn scaled(limit: Duration) -> Duration {
    limit.mul_f64(slack())
}

/// A condition that can no longer come true, for instance because the process is gone. See [`give_up`].
#[derive(Debug)]
struct GiveUp(String);

impl fmt::Display for GiveUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for GiveUp {}

/// An error that ends [`eventually`] at once instead of being tried again.
pub fn give_up(reason: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(GiveUp(reason.into()))
}

/// Waits until `condition` returns `Ok`, at most `limit` times [`slack`], prints how long it took and returns its value.
///
/// # Errors
/// After the limit, or at once after [`give_up`]: what was waited for, and what the condition said last.
pub fn eventually<T>(
    limit: Duration,
    what: &str,
    condition: impl FnMut() -> Result<T>,
) -> Result<T> {
    let start = Instant::now();
    let value = quietly(limit, condition).context(what.to_owned())?;
    let (took, limit) = (start.elapsed().as_secs_f64(), scaled(limit).as_secs_f64());
    crate::note(format_args!("{took:7.3} s of {limit:.0} s: {what}"));
    Ok(value)
}

/// [`eventually`] for what nobody wants to read about unless it fails.
///
/// # Errors
/// Like [`eventually`], without the name.
pub fn quietly<T>(limit: Duration, mut condition: impl FnMut() -> Result<T>) -> Result<T> {
    let limit = scaled(limit);
    let start = Instant::now();
    loop {
        let last = match condition() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        let waited = start.elapsed();
        if last.is::<GiveUp>() || waited >= limit {
            let outcome = if waited >= limit {
                "did not happen"
            } else {
                "cannot happen any more"
            };
            return Err(anyhow!(
                "{outcome} ({:.1} s of {:.0} s); last seen: {last:#}",
                waited.as_secs_f64(),
                limit.as_secs_f64()
            ));
        }
        std::thread::sleep(POLL);
    }
}

/// Looks at something once each `pace` until `look` says that it has seen all, at most `limit` times [`slack`]. For what costs
/// those it looks at so much that it cannot be looked at all the time. Returns whether all was seen.
///
/// # Errors
/// The first that `look` has.
pub fn watch(
    limit: Duration,
    pace: Duration,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<bool> {
    let (start, limit) = (Instant::now(), scaled(limit));
    loop {
        let begun = Instant::now();
        if look()? {
            return Ok(true);
        }
        if start.elapsed() >= limit {
            return Ok(false);
        }
        std::thread::sleep(pace.saturating_sub(begun.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use anyhow::bail;

    use super::{eventually, give_up, watch};

    #[test]
    fn a_timeout_names_the_last_observation() {
        let mut n = 0;
        let error = eventually::<()>(Duration::from_millis(60), "three apples", || {
            n += 1;
            bail!("{n} apples")
        })
        .unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains("three apples") && error.contains(&format!("last seen: {n} apples")),
            "{error}"
        );
    }

    #[test]
    fn giving_up_ends_at_once() {
        let mut looks = 0;
        let result = eventually::<()>(Duration::from_secs(60), "a dead process", || {
            looks += 1;
            Err(give_up("exited"))
        });
        assert!(result.is_err());
        assert_eq!(looks, 1);
    }

    #[test]
    fn who_watches_looks_at_a_pace_and_not_for_ever() {
        let (limit, pace) = (Duration::from_millis(60), Duration::from_millis(25));
        let mut looks = 0;
        let mut look = |enough| {
            looks += 1;
            Ok(looks == enough)
        };
        assert!(watch(limit, pace, || look(2)).unwrap());
        assert!(!watch(limit, pace, || look(0)).unwrap());
        assert!(looks <= 2 + 4 * super::slack() as u32, "{looks} looks");
        assert!(watch(limit, pace, || bail!("gone")).is_err());
    }
}
