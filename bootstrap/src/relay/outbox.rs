//! What waits to be written on a stream: a member's messages, and datagrams for one that UDP does not reach.
//!
//! Bounded in both. Messages that do not fit end the stream, since a member that missed one would be wrong about its
//! channels; datagrams that do not fit, or have waited too long, are dropped as a full link drops them.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use kanpachi_common::wire::relay::RelayMessage;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// Nanoseconds after which a datagram is not worth sending any more.
const MAX_AGE: u64 = 200_000_000;
/// Bytes of datagrams that wait for one stream at the most.
const MAX_BYTES: usize = 256 * 1024;
/// Bytes of datagrams that wait for all streams at the most.
const MAX_ALL_BYTES: usize = 64 << 20;
/// Messages that wait: one for each channel, twice.
const MAX_MESSAGES: usize = 2048;

/// Bytes that wait in all outboxes of one relay.
pub(crate) type Budget = Arc<AtomicUsize>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Outbox {
    inner: Mutex<Inner>,
    ready: Notify,
    over: CancellationToken,
    budget: Budget,
}

#[derive(Debug, Default)]
struct Inner {
    messages: VecDeque<RelayMessage>,
    datagrams: VecDeque<Queued>,
    bytes: usize,
    /// Nothing is taken in any more.
    closed: bool,
}

#[derive(Debug)]
struct Queued {
    at: u64,
    channel: u16,
    datagram: Vec<u8>,
}

/// What is to be written next.
#[derive(Debug)]
pub(crate) enum Next {
    Message(RelayMessage),
    Data(u16, Vec<u8>),
    /// Nothing more, ever.
    End,
}

impl Outbox {
    pub(crate) fn new(budget: Budget) -> Self {
        Self {
            inner: Mutex::default(),
            ready: Notify::new(),
            over: CancellationToken::new(),
            budget,
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing below panics halfway through a change, so a poisoned one is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in a message.
    pub(crate) fn tell(&self, message: RelayMessage) {
        let mut inner = self.inner();
        if inner.closed {
            return;
        }
        if inner.messages.len() < MAX_MESSAGES {
            inner.messages.push_back(message);
        } else {
            inner.messages.clear();
            inner.closed = true;
            self.over.cancel();
        }
        drop(inner);
        self.ready.notify_one();
    }

    /// The last message, if there is one to say.
    pub(crate) fn end(&self, message: Option<RelayMessage>) {
        if let Some(message) = message {
            self.tell(message);
        }
        let mut inner = self.inner();
        inner.closed = true;
        self.budget.fetch_sub(inner.bytes, Relaxed);
        inner.bytes = 0;
        inner.datagrams.clear();
        drop(inner);
        self.over.cancel();
        self.ready.notify_one();
    }

    /// Waits until nothing is taken in any more; something may still be written.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Takes in a datagram; `false` if it is dropped.
    pub(crate) fn push(&self, channel: u16, datagram: &[u8], now: u64) -> bool {
        let mut inner = self.inner();
        // What is too old makes room, so that a stalled stream holds 200 ms and not its last 256 KiB.
        inner.drop_old(&self.budget, now);
        let len = datagram.len();
        if inner.closed || inner.bytes + len > MAX_BYTES {
            return false;
        }
        if self.budget.fetch_add(len, Relaxed) + len > MAX_ALL_BYTES {
            self.budget.fetch_sub(len, Relaxed);
            return false;
        }
        inner.bytes += len;
        inner.datagrams.push_back(Queued {
            at: now,
            channel,
            datagram: datagram.to_vec(),
        });
        drop(inner);
        self.ready.notify_one();
        true
    }

    /// What is there at the moment.
    pub(crate) fn take(&self, now: u64) -> Option<Next> {
        let mut inner = self.inner();
        if let Some(message) = inner.messages.pop_front() {
            return Some(Next::Message(message));
        }
        if inner.closed {
            return Some(Next::End);
        }
        inner.drop_old(&self.budget, now);
        let next = inner.pop(&self.budget)?;
        Some(Next::Data(next.channel, next.datagram))
    }

    /// Waits until there may be something.
    pub(crate) async fn ready(&self) {
        self.ready.notified().await;
    }
}

impl Inner {
    fn pop(&mut self, budget: &Budget) -> Option<Queued> {
        let next = self.datagrams.pop_front()?;
        self.bytes -= next.datagram.len();
        budget.fetch_sub(next.datagram.len(), Relaxed);
        Some(next)
    }

    fn drop_old(&mut self, budget: &Budget, now: u64) {
        while self
            .datagrams
            .front()
            .is_some_and(|queued| now.saturating_sub(queued.at) > MAX_AGE)
        {
            self.pop(budget);
        }
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.end(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_in_bytes_and_time() {
        let budget = Budget::default();
        let outbox = Outbox::new(Arc::clone(&budget));
        let pushed = (0..1000).filter(|_| outbox.push(1, &[0; 1000], 5)).count();
        assert_eq!(pushed, MAX_BYTES / 1000);
        assert_eq!(budget.load(Relaxed), pushed * 1000);
        assert!(outbox.push(2, &[1; 1000], 6 + MAX_AGE), "the old make room");
        let Some(Next::Data(2, datagram)) = outbox.take(6 + MAX_AGE) else {
            panic!("the old are dropped");
        };
        assert_eq!((datagram, budget.load(Relaxed)), (vec![1; 1000], 0));
        assert!(outbox.push(2, &[1; 1000], 0));
        assert!(outbox.take(MAX_AGE + 1).is_none());
        assert!(outbox.push(2, &[1; 1000], 0));
        drop(outbox);
        assert_eq!(budget.load(Relaxed), 0, "what is thrown away is given back");
    }

    #[test]
    fn a_stream_that_takes_no_messages_ends() {
        let outbox = Outbox::new(Budget::default());
        for kind in 0..=MAX_MESSAGES {
            outbox.tell(RelayMessage::Unknown(u16::try_from(kind).unwrap()));
        }
        assert!(matches!(outbox.take(0), Some(Next::End)));
        assert!(!outbox.push(1, &[1], 0));
    }
}
