//! Who gets the four Diffie-Hellman operations that answering an init costs.
//!
//! A source that asks too often goes into cookie mode alone; everybody does only when too many *different* sources
//! ask at once, which is what forged addresses look like. A source with a valid cookie has a budget of its own that
//! nobody can spend by forging its address.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use crate::path::Via;

/// Inits that one source may send per second, and at once.
const PER_SOURCE: u32 = 20;
/// Tokens are counted in thousandths, so that one millisecond is a whole number of them.
const TOKEN: u32 = 1000;
/// Sources remembered per class; more are taken for a flood.
const MAX_SOURCES: usize = 4096;
/// With cookies, this many times the threshold is answered; more is dropped.
const HARD_LIMIT: u32 = 8;

/// What to do with an init whose mac1 is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Answer,
    /// Ask for proof of the source address.
    Cookie,
    Drop,
}

#[derive(Clone, Copy)]
struct Bucket {
    tokens: u32,
    at_ms: u64,
}

#[derive(Default)]
struct Buckets(BTreeMap<IpAddr, Bucket>);

impl Buckets {
    fn take(&mut self, source: IpAddr, now_ms: u64) -> bool {
        if self.0.len() >= MAX_SOURCES && !self.0.contains_key(&source) {
            // A bucket untouched for a second is full again: forgetting it changes nothing.
            self.0.retain(|_, b| now_ms.saturating_sub(b.at_ms) < 1000);
            if self.0.len() >= MAX_SOURCES {
                return false;
            }
        }
        let full = PER_SOURCE * TOKEN;
        let bucket = self.0.entry(source).or_insert(Bucket {
            tokens: full,
            at_ms: now_ms,
        });
        let refill = now_ms
            .saturating_sub(bucket.at_ms)
            .saturating_mul(u64::from(PER_SOURCE));
        bucket.tokens = u32::try_from(refill)
            .unwrap_or(full)
            .saturating_add(bucket.tokens)
            .min(full);
        bucket.at_ms = now_ms;
        match bucket.tokens.checked_sub(TOKEN) {
            Some(rest) => {
                bucket.tokens = rest;
                true
            }
            None => false,
        }
    }
}

/// The doorkeeper in front of the handshake.
pub(crate) struct Admission {
    /// Above this many inits a second everybody needs a cookie.
    threshold: u32,
    second: u64,
    current: u32,
    previous: u32,
    unproven: Buckets,
    proven: Buckets,
}

impl Admission {
    pub(crate) fn new(threshold: u32) -> Self {
        Self {
            threshold,
            second: 0,
            current: 0,
            previous: 0,
            unproven: Buckets::default(),
            proven: Buckets::default(),
        }
    }

    /// Inits taken up in the last second, the part of the last whole one estimated.
    fn rate(&mut self, now_ms: u64) -> u32 {
        let second = now_ms / 1000;
        if second != self.second {
            self.previous = if second == self.second + 1 {
                self.current
            } else {
                0
            };
            (self.second, self.current) = (second, 0);
        }
        let left = 1000 - u32::try_from(now_ms % 1000).unwrap_or(0);
        let tail = u64::from(self.previous) * u64::from(left) / 1000;
        self.current
            .saturating_add(u32::try_from(tail).unwrap_or(u32::MAX))
    }

    /// `proven`: the init carries a valid mac2. `crowded`: half-open handshakes are near their limit.
    pub(crate) fn judge(
        &mut self,
        from: IpAddr,
        proven: bool,
        crowded: bool,
        now_ms: u64,
    ) -> Verdict {
        let rate = self.rate(now_ms);
        let source = source(from);
        let verdict = if proven {
            if rate < self.threshold.saturating_mul(HARD_LIMIT) && self.proven.take(source, now_ms)
            {
                Verdict::Answer
            } else {
                Verdict::Drop
            }
        } else if crowded || rate >= self.threshold || !self.unproven.take(source, now_ms) {
            Verdict::Cookie
        } else {
            Verdict::Answer
        };
        if verdict == Verdict::Answer {
            self.current = self.current.saturating_add(1);
        }
        verdict
    }
}

/// The members that one relay leads to are so many sources.
const OF_ONE_RELAY: u32 = 8;

/// IPv4 addresses count one by one, IPv6 addresses by /64. Members that are reached over one relay count as a few: not as one,
/// which would make them wait for each other, and not one by one, since the relay says who they are.
pub(crate) fn source(ip: IpAddr) -> IpAddr {
    match (ip, Via::of((ip, 1).into())) {
        (_, Some(Via::Relay { relay, pair, .. })) => {
            let (pair, channel) = (pair % OF_ONE_RELAY, 1);
            let group = Via::Relay {
                relay,
                pair,
                channel,
            };
            group.addr().ip()
        }
        (IpAddr::V4(_), _) => ip,
        (IpAddr::V6(v6), _) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn v4(n: u32) -> IpAddr {
        IpAddr::V4(n.into())
    }

    #[test]
    fn members_that_are_reached_over_one_relay_count_as_a_few() {
        let over_relay = |relay, pair| {
            let channel = 7;
            let via = Via::Relay {
                relay,
                pair,
                channel,
            };
            source(via.addr().ip())
        };
        let one: BTreeSet<IpAddr> = (0..1000).map(|pair| over_relay(1, pair)).collect();
        assert_eq!(one.len(), OF_ONE_RELAY as usize);
        assert!(!one.contains(&over_relay(2, 1)));
        let socket = |socket| Via::Socket { socket, attempt: 3 }.addr().ip();
        assert_eq!(source(socket(1)), source(socket(2)));
        let in_one = |text: &str| source(text.parse().unwrap());
        assert_eq!(in_one("2001:db8::1"), in_one("2001:db8::2"));
    }

    /// Row C5 of the attack checklist.
    #[test]
    fn one_flooder_does_not_put_others_in_cookie_mode() {
        let mut admission = Admission::new(500);
        let mut answered = 0;
        for ms in 0..5000 {
            for _ in 0..20 {
                match admission.judge(v4(1), false, false, ms) {
                    Verdict::Answer => answered += 1,
                    verdict => assert_eq!(verdict, Verdict::Cookie),
                }
            }
            if ms % 100 == 0 {
                assert_eq!(
                    admission.judge(v4(2), false, false, ms),
                    Verdict::Answer,
                    "{ms}"
                );
            }
        }
        assert!(answered <= PER_SOURCE * 6, "{answered}");
    }

    #[test]
    fn forged_sources_put_everybody_in_cookie_mode_and_cookies_still_work() {
        let mut admission = Admission::new(500);
        let verdicts: Vec<_> = (0..10_000)
            .map(|n| admission.judge(v4(n), false, false, 10))
            .collect();
        let answered = verdicts.iter().filter(|v| **v == Verdict::Answer).count();
        assert_eq!(answered, 500);
        assert_eq!(admission.judge(v4(7), true, false, 20), Verdict::Answer);
        // Forging a proven source does not spend its budget.
        for _ in 0..100 {
            assert_eq!(admission.judge(v4(7), false, false, 20), Verdict::Cookie);
        }
        assert_eq!(admission.judge(v4(7), true, false, 20), Verdict::Answer);
        // And it passes.
        assert_eq!(admission.judge(v4(9), false, false, 3000), Verdict::Answer);
        assert!(admission.unproven.0.len() <= MAX_SOURCES);
    }

    #[test]
    fn a_proven_flooder_is_dropped() {
        let mut admission = Admission::new(500);
        let answered = (0..1000)
            .filter(|_| admission.judge(v4(1), true, false, 0) == Verdict::Answer)
            .count();
        assert_eq!(answered, PER_SOURCE as usize);
    }

    #[test]
    fn ipv6_counts_by_64() {
        let mut admission = Admission::new(500);
        let answered = (0..100_u128)
            .map(|n| IpAddr::V6(Ipv6Addr::from_bits((0x2001_0db8 << 96) | n)))
            .filter(|ip| admission.judge(*ip, false, false, 0) == Verdict::Answer)
            .count();
        assert_eq!(answered, PER_SOURCE as usize);
    }

    #[test]
    fn a_crowd_of_half_open_handshakes_asks_for_cookies() {
        let mut admission = Admission::new(500);
        assert_eq!(admission.judge(v4(1), false, true, 0), Verdict::Cookie);
        assert_eq!(admission.judge(v4(1), true, true, 0), Verdict::Answer);
    }
}
