//! What those who forward look things up in: sessions by number, and the channels of each.
//!
//! Written by [`core`](super::core) alone, but for the address that a session is bound to, which the packet thread writes.
//! Readers load a pointer and never wait. A session that has ended says so itself, so that nothing is forwarded by a
//! pointer that was loaded before.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use arc_swap::{ArcSwap, ArcSwapOption};
use kanpachi_common::wire::relay::SessionKey;

use super::{
    bucket::{Bucket, Rate},
    outbox::Outbox,
};

/// All sessions by number.
pub(crate) type Sessions = HashMap<u32, Arc<Session>>;

/// Binds that a session may make: a few addresses at once, then one a second. Each is answered by as many bytes.
const BINDS: Rate = Rate {
    per_second: 1,
    burst: 16,
};
/// Nanoseconds without a datagram from the bound address after which a member that sends on its stream is answered there.
const SILENT: u64 = 5_000_000_000;

/// A member's session, as the forwarding side sees it.
pub(crate) struct Session {
    pub(crate) number: u32,
    pub(crate) key: SessionKey,
    closed: AtomicBool,
    /// When it ends unless it is renewed, in nanoseconds of the relay's clock.
    expires_at: AtomicU64,
    bound: ArcSwapOption<SocketAddr>,
    /// Counts changes of `bound`: a cookie is good for one of them.
    generation: AtomicU64,
    /// When something last came from the bound address.
    heard_at: AtomicU64,
    /// What the node sends. Shared by its sessions, so that a new one is no new allowance.
    pub(crate) allowance: Arc<Bucket>,
    binds: Bucket,
    pub(crate) lanes: ArcSwap<HashMap<u16, Lane>>,
    pub(crate) outbox: ArcSwapOption<Outbox>,
}

// Sessions that are paired lead to each other.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Where the datagrams of a channel go.
#[derive(Clone, Debug)]
pub(crate) struct Lane {
    pub(crate) to: Arc<Session>,
    /// The partner's number of it.
    pub(crate) channel: u16,
    /// Of the pair, both ways.
    pub(crate) allowance: Arc<Bucket>,
}

impl Session {
    pub(crate) fn new(
        number: u32,
        key: SessionKey,
        expires_at: u64,
        outbox: Arc<Outbox>,
        allowance: Arc<Bucket>,
    ) -> Self {
        Self {
            number,
            key,
            closed: AtomicBool::new(false),
            expires_at: AtomicU64::new(expires_at),
            bound: ArcSwapOption::empty(),
            generation: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            allowance,
            binds: Bucket::default(),
            lanes: ArcSwap::default(),
            outbox: ArcSwapOption::new(Some(outbox)),
        }
    }

    /// May anything be forwarded from or to it?
    pub(crate) fn is_open(&self, now: u64) -> bool {
        !self.closed.load(Relaxed) && now < self.expires_at()
    }

    pub(crate) fn expires_at(&self) -> u64 {
        self.expires_at.load(Relaxed)
    }

    pub(crate) fn renew(&self, expires_at: u64) {
        self.expires_at.store(expires_at, Relaxed);
    }

    /// Nothing goes through it from here on, whoever still holds it.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        self.lanes.store(Arc::default());
        self.outbox.store(None);
    }

    pub(crate) fn bound(&self) -> Option<SocketAddr> {
        self.bound.load().as_deref().copied()
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    pub(crate) fn may_bind(&self, now: u64) -> bool {
        self.binds.take(1, BINDS, now)
    }

    /// The member has shown that it is there.
    pub(crate) fn bind(&self, address: SocketAddr, now: u64) {
        self.heard(now);
        self.bound.store(Some(Arc::new(address)));
        self.generation.fetch_add(1, Relaxed);
    }

    /// Something came from the bound address.
    pub(crate) fn heard(&self, now: u64) {
        self.heard_at.store(now, Relaxed);
    }

    /// The member sends data on its stream. When its address has been silent meanwhile, UDP does not reach it any more.
    pub(crate) fn heard_on_stream(&self, now: u64) {
        let silent = now.saturating_sub(self.heard_at.load(Relaxed)) > SILENT;
        if silent && self.bound.load().is_some() {
            self.bound.store(None);
            self.generation.fetch_add(1, Relaxed);
        }
    }

    /// Sets or removes a channel.
    pub(crate) fn set_lane(&self, channel: u16, lane: Option<&Lane>) {
        self.lanes.rcu(|lanes| {
            let mut lanes = HashMap::clone(lanes);
            match lane {
                Some(lane) => lanes.insert(channel, lane.clone()),
                None => lanes.remove(&channel),
            };
            lanes
        });
    }
}
