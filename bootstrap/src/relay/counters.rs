//! What the relay has done since it was started. Statistics: nothing is ordered by them.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counted since the start; they only rise.
#[derive(Debug, Default)]
pub struct Counters {
    /// Datagrams passed on.
    pub forwarded: AtomicU64,
    /// Bytes in them.
    pub forwarded_bytes: AtomicU64,
    /// Addresses that members have bound to their sessions.
    pub bound: AtomicU64,
    /// From no session, from another address than the bound one, or on no open channel.
    pub drop_stranger: AtomicU64,
    /// Above what a member or a pair may send.
    pub drop_rate: AtomicU64,
    /// The partner takes no more, or could not be sent to.
    pub drop_full: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}
