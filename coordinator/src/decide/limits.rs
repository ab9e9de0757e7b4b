//! How often somebody may ask: counted by node and by address, in bounded memory.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

/// Keys that are remembered at the most. Beyond that, newcomers share one count.
const MAX_KEYS: usize = 65_536;

/// A rate: a number at once, and one more every so often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    burst: u32,
    every: Duration,
}

impl Rate {
    pub(super) const fn new(burst: u32, every: Duration) -> Self {
        Self { burst, every }
    }

    /// How far the schedule may run ahead of the clock.
    fn slack(&self) -> Duration {
        self.every.saturating_mul(self.burst.saturating_sub(1))
    }
}

/// One count: the generic cell rate algorithm (ITU-T I.371), whose whole state is the time at which the next
/// request would be on schedule.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meter {
    due: Instant,
}

impl Meter {
    pub(super) const fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// Counts a request; when it comes too early, how long to wait.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let due = self.due.max(now);
        let ahead = due.saturating_duration_since(now);
        let slack = rate.slack();
        if ahead > slack {
            return Err(ahead.saturating_sub(slack));
        }
        self.due = due.checked_add(rate.every).unwrap_or(due);
        Ok(())
    }

    /// Takes a request back.
    pub(super) fn give_back(&mut self, rate: Rate) {
        self.due = self.due.checked_sub(rate.every).unwrap_or(self.due);
    }
}

/// One count for each key.
#[derive(Debug)]
pub(super) struct Keyed<K> {
    rate: Rate,
    meters: BTreeMap<K, Meter>,
    /// For keys that find no place.
    shared: Meter,
}

impl<K: Ord + Copy> Keyed<K> {
    pub(super) const fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            meters: BTreeMap::new(),
            shared: Meter::new(now),
        }
    }

    pub(super) fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let rate = self.rate;
        self.meter(key, now).take(rate, now)
    }

    pub(super) fn give_back(&mut self, key: K) {
        let rate = self.rate;
        self.meters
            .get_mut(&key)
            .unwrap_or(&mut self.shared)
            .give_back(rate);
    }

    fn meter(&mut self, key: K, now: Instant) -> &mut Meter {
        if self.meters.len() >= MAX_KEYS && !self.meters.contains_key(&key) {
            self.meters.retain(|_, meter| meter.due > now);
            if self.meters.len() >= MAX_KEYS {
                return &mut self.shared;
            }
        }
        self.meters.entry(key).or_insert(Meter::new(now))
    }
}

/// What requests from an address are counted by: an IPv6 customer has a whole /64.
pub(super) fn source(addr: IpAddr) -> IpAddr {
    match addr.to_canonical() {
        IpAddr::V6(a) => Ipv6Addr::from_bits(a.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate::new(3, Duration::from_secs(10));

    #[test]
    fn a_burst_passes_then_one_for_every_interval() {
        let start = Instant::now();
        let mut keyed = Keyed::new(RATE, start);
        for _ in 0..3 {
            assert_eq!(keyed.take(1, start), Ok(()));
        }
        assert_eq!(keyed.take(1, start), Err(Duration::from_secs(10)));
        assert_eq!(keyed.take(2, start), Ok(()), "others are not affected");
        let later = start + Duration::from_secs(10);
        assert_eq!(keyed.take(1, later), Ok(()));
        assert!(keyed.take(1, later).is_err());
        keyed.give_back(1);
        assert_eq!(keyed.take(1, later), Ok(()));
    }

    #[test]
    fn memory_is_bounded_and_old_keys_make_room() {
        let start = Instant::now();
        let mut keyed = Keyed::new(RATE, start);
        for key in 0..MAX_KEYS + 10 {
            let _ = keyed.take(key, start);
        }
        assert_eq!(keyed.meters.len(), MAX_KEYS);
        assert!(
            keyed.take(MAX_KEYS + 11, start).is_err(),
            "the shared count is used up"
        );
        let later = start + Duration::from_secs(60);
        assert_eq!(keyed.take(MAX_KEYS + 12, later), Ok(()));
        assert_eq!(keyed.meters.len(), 1);
    }

    #[test]
    fn an_ipv6_customer_is_one_source() {
        let of = |text: &str| source(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:1"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
    }
}
