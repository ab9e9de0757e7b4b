//! Where segmentation offload did not work lately, so that it is tried again later and elsewhere at once.
//!
//! Whether the kernel takes a batch depends on the route: on its MTU, on a driver, on IPsec. quinn-udp turns the
//! offload off for the whole socket at the first refusal; one peer behind a small link must not cost all others.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    net::IpAddr,
    sync::atomic::{AtomicU32, Ordering},
    time::Instant,
};

/// Slots of the table. Two destinations in one slot share a refusal, which costs speed only.
const SLOTS: usize = 256;
/// Seconds until a destination that refused is tried again: routes change, and one failed call a minute is nothing.
const RETRY_AFTER: u32 = 60;

/// Refusals by destination. No locks: senders on several threads read and write it at once.
#[derive(Debug)]
pub(crate) struct Refusals {
    /// Second (since `start`) before which the offload is not tried; 0 for never refused.
    until: Box<[AtomicU32]>,
    start: Instant,
}

impl Refusals {
    pub(crate) fn new() -> Self {
        Self {
            until: (0..SLOTS).map(|_| AtomicU32::new(0)).collect(),
            start: Instant::now(),
        }
    }

    /// Was the offload refused for this destination within the last minute?
    pub(crate) fn refused(&self, to: IpAddr) -> bool {
        let until = self.slot(to).load(Ordering::Relaxed);
        // Nobody refused is the rule; the clock is read only otherwise.
        until != 0 && self.seconds() < until
    }

    /// Notes a refusal.
    pub(crate) fn refuse(&self, to: IpAddr) {
        let until = self.seconds().saturating_add(RETRY_AFTER);
        self.slot(to).store(until, Ordering::Relaxed);
    }

    fn slot(&self, to: IpAddr) -> &AtomicU32 {
        let mut hasher = DefaultHasher::new();
        to.hash(&mut hasher);
        // The remainder is below the number of slots, and truncating a hash loses nothing that matters.
        let index = usize::try_from(hasher.finish() % self.until.len() as u64).unwrap_or(0);
        &self.until[index]
    }

    fn seconds(&self) -> u32 {
        u32::try_from(self.start.elapsed().as_secs()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_counts_for_its_destination() {
        let refusals = Refusals::new();
        let one: IpAddr = "192.0.2.1".parse().unwrap();
        assert!(!refusals.refused(one));
        refusals.refuse(one);
        assert!(refusals.refused(one));
        let others = (0..200u8)
            .map(|n| IpAddr::from([198, 51, 100, n]))
            .filter(|ip| refusals.refused(*ip))
            .count();
        assert!(others < 20, "{others} of 200 share the slot");
    }
}
