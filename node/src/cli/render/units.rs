//! Sizes, spans of time and shares as people read them.

use std::time::Duration;

use jiff::Timestamp;

/// `1.5 KiB`: three digits that count, powers of 1024.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // 1023.5 would be shown as 1024.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", digits(value), UNITS[unit])
}

/// `1.23 ms`, `48.7 ms`, `1.2 s`.
#[must_use]
pub fn millis(ms: f64) -> String {
    if ms >= 999.5 {
        format!("{:.1} s", ms / 1e3)
    } else {
        format!("{} ms", digits(ms.max(0.0)))
    }
}

/// `12 ms`, `1.3 s`, `2 min 5 s`, `3 h 20 min`, `4 d 2 h`: the two largest units that count.
#[must_use]
pub fn duration(span: Duration) -> String {
    let seconds = span.as_secs();
    let two = |large: u64, unit: &str, small: u64, sub: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {sub}"),
    };
    match seconds {
        0 => format!("{} ms", span.as_millis()),
        1..10 if span.subsec_millis() >= 100 => {
            format!("{seconds}.{} s", span.subsec_millis() / 100)
        }
        1..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// Whole seconds from a time to now; `None` when it has not come yet.
#[must_use]
pub fn since(time: Timestamp, now: Timestamp) -> Option<Duration> {
    let seconds = now.as_second().checked_sub(time.as_second())?;
    u64::try_from(seconds).ok().map(Duration::from_secs)
}

/// `12.5 %` of a share from 0 to 1.
#[must_use]
pub fn percent(share: f64) -> String {
    let percent = (share * 100.0).clamp(0.0, 100.0);
    if percent > 0.0 && percent < 10.0 {
        format!("{percent:.1} %")
    } else {
        format!("{percent:.0} %")
    }
}

fn digits(value: f64) -> String {
    match value {
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits_at_every_magnitude() {
        let expected = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.00 KiB"),
            (1536, "1.50 KiB"),
            (10_239, "10.0 KiB"),
            (209_715_200, "200 MiB"),
            (1_048_063, "1023 KiB"),
            (1_048_575, "1.00 MiB"),
            (u64::MAX, "16.0 EiB"),
        ];
        for (count, text) in expected {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        let expected = [
            (0, "0 ms"),
            (12, "12 ms"),
            (1_000, "1 s"),
            (1_340, "1.3 s"),
            (59_900, "59 s"),
            (60_000, "1 min"),
            (125_000, "2 min 5 s"),
            (12_000_000, "3 h 20 min"),
            (353_000_000, "4 d 2 h"),
        ];
        for (ms, text) in expected {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn round_trips_and_shares_are_short() {
        for (ms, text) in [
            (0.0512, "0.05 ms"),
            (1.234, "1.23 ms"),
            (48.72, "48.7 ms"),
            (256.4, "256 ms"),
            (1234.0, "1.2 s"),
        ] {
            assert_eq!(millis(ms), text);
        }
        for (share, text) in [
            (0.0, "0 %"),
            (0.004, "0.4 %"),
            (0.125, "12 %"),
            (1.0, "100 %"),
            (7.0, "100 %"),
            (f64::NAN, "NaN %"),
        ] {
            assert_eq!(percent(share), text);
        }
    }

    #[test]
    fn a_time_to_come_has_no_age() {
        let time: Timestamp = "2026-11-23T09:00:00Z".parse().unwrap();
        assert_eq!(since(time, "2026-11-23T08:59:59Z".parse().unwrap()), None);
        assert_eq!(
            since(time, "2026-11-23T09:00:05Z".parse().unwrap()),
            Some(Duration::from_secs(5))
        );
        assert!(since(Timestamp::MIN, Timestamp::MAX).is_some());
    }
}
