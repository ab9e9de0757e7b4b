//! The relay of data: for pairs of members that no direct path joins.
//!
//! [`core`] decides on sessions and channels and knows nothing of streams, sockets or clocks; [`table`] is what it publishes.
//! [`packet`] forwards datagrams on the thread that reads the socket, [`service`] what comes on streams; both by
//! [`forward`]. A bootstrap runs one, and so may any node: who is a member is asked of a [`Judge`].

mod bucket;
mod core;
mod counters;
mod forward;
mod judge;
mod outbox;
mod pace;
mod packet;
mod service;
mod table;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Instant,
};

use arc_swap::ArcSwap;
use kanpachi_common::wire::relay::SessionKey;
use kanpachi_transport::SharedSocket;

use self::{core::Core, outbox::Budget, pace::Pace, table::Sessions};
pub use self::{counters::Counters, judge::Judge, packet::PacketPart};

/// Limits of a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Members with a session at once. Each node has one.
    pub sessions: usize,
    /// Bytes a second that each member may send, 0 for as much as goes. Under load it is less: a member that floods leaves
    /// the others theirs.
    pub rate: u64,
}

impl Limits {
    /// Of a bootstrap, which relays for everybody: as many members as a network has, 500 Mbit/s each.
    pub const BOOTSTRAP: Self = Self {
        sessions: 4096,
        rate: 62_500_000,
    };
    /// Of a member that relays for others on the side: 100 Mbit/s each.
    pub const MEMBER: Self = Self {
        sessions: 256,
        rate: 12_500_000,
    };
}

/// What a relay is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Members with a session.
    pub sessions: usize,
    /// Channels that are open at both ends.
    pub pairs: usize,
    /// Datagrams passed on.
    pub forwarded: u64,
    /// Bytes in them.
    pub forwarded_bytes: u64,
    /// Datagrams not passed on: no open channel, above the rate, or the partner takes no more.
    pub dropped: u64,
}

/// A relay. Cloning gives another handle to the same one.
#[derive(Clone)]
pub struct Relay {
    shared: Arc<Shared>,
    socket: SharedSocket,
    judge: Arc<dyn Judge>,
    secret: SessionKey,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// What all parts hold.
#[derive(Debug)]
struct Shared {
    core: Mutex<Core>,
    table: Arc<ArcSwap<Sessions>>,
    pace: Pace,
    counters: Counters,
    budget: Budget,
    clock: Clock,
}

/// The relay's own clock, which starts with it.
#[derive(Debug)]
enum Clock {
    System(Instant),
    #[cfg(test)]
    Test(std::sync::atomic::AtomicU64),
}

impl Shared {
    fn new(limits: Limits, clock: Clock) -> Self {
        let table = Arc::default();
        let pace = Pace::new(limits.rate);
        let core = Core::new(limits.sessions, pace.configured(), Arc::clone(&table));
        Self {
            core: Mutex::new(core),
            table,
            pace,
            counters: Counters::default(),
            budget: Budget::default(),
            clock,
        }
    }

    /// Nanoseconds since the start.
    fn now(&self) -> u64 {
        match &self.clock {
            Clock::System(start) => u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX),
            #[cfg(test)]
            Clock::Test(now) => now.load(Relaxed),
        }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // The core does not panic halfway through a change that others rely on: what is forwarded is in the table.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Relay {
    /// A relay on this socket that nobody uses yet.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(
        socket: SharedSocket,
        judge: Arc<dyn Judge>,
        limits: Limits,
    ) -> Result<Self, getrandom::Error> {
        let mut secret = SessionKey([0; 32]);
        getrandom::fill(&mut secret.0)?;
        Ok(Self {
            shared: Arc::new(Shared::new(limits, Clock::System(Instant::now()))),
            socket,
            judge,
            secret,
        })
    }

    /// For the handler of the socket: there is one.
    #[must_use]
    pub fn packet_part(&self) -> PacketPart {
        PacketPart::new(self.socket.clone(), Arc::clone(&self.shared), self.secret)
    }

    /// What it does at the moment.
    #[must_use]
    pub fn status(&self) -> Status {
        let (sessions, pairs) = self.shared.core().sizes();
        let counters = &self.shared.counters;
        let dropped = [
            &counters.drop_stranger,
            &counters.drop_rate,
            &counters.drop_full,
        ];
        Status {
            sessions,
            pairs,
            forwarded: counters.forwarded.load(Relaxed),
            forwarded_bytes: counters.forwarded_bytes.load(Relaxed),
            dropped: dropped.iter().map(|counter| counter.load(Relaxed)).sum(),
        }
    }

    /// What it has counted.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.shared.counters
    }
}
