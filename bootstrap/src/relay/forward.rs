//! Passes datagrams on: who may send how much, where to, and many in one system call.

use std::{io, net::SocketAddr, sync::Arc};

use kanpachi_common::wire::relay::datagram::{HEADER_LEN, encode_header};
use kanpachi_transport::SharedSocket;

use super::{
    Shared,
    counters::count,
    table::{Lane, Session},
};

/// Datagrams in one send at the most (`UDP_MAX_SEGMENTS` of Linux before 6.9).
const MAX_SEGMENTS: usize = 64;
/// Bytes in one send at the most: one UDP packet with room for an IPv6 header and an option or two.
const MAX_BYTES: usize = 65_000;

/// What sends.
pub(crate) trait Sender: Send {
    /// As [`SharedSocket::send`].
    fn send(&self, to: SocketAddr, data: &[u8], segment_size: Option<usize>) -> io::Result<()>;
}

impl Sender for SharedSocket {
    fn send(&self, to: SocketAddr, data: &[u8], segment_size: Option<usize>) -> io::Result<()> {
        Self::send(self, to, data, segment_size)
    }
}

/// Collects datagrams by where they go and sends them together. Each thread or task that forwards has its own.
#[derive(Debug)]
pub(crate) struct Forwarder<S> {
    socket: S,
    shared: Arc<Shared>,
    batches: Vec<Batch>,
    /// Batches in use; the others keep their memory.
    open: usize,
    max_batches: usize,
}

#[derive(Debug, Default)]
struct Batch {
    to: Option<SocketAddr>,
    segment: usize,
    count: usize,
    /// The last datagram was shorter: none can follow.
    full: bool,
    data: Vec<u8>,
}

impl<S: Sender> Forwarder<S> {
    /// For so many destinations at once.
    pub(crate) const fn new(socket: S, shared: Arc<Shared>, max_batches: usize) -> Self {
        Self {
            socket,
            shared,
            batches: Vec::new(),
            open: 0,
            max_batches,
        }
    }

    pub(crate) fn socket(&self) -> &S {
        &self.socket
    }

    /// Passes on what a member sent on a channel.
    pub(crate) fn forward(&mut self, from: &Session, channel: u16, datagram: &[u8], now: u64) {
        let shared = Arc::clone(&self.shared);
        let counters = &shared.counters;
        let lanes = from.lanes.load();
        let Some(lane) = lanes.get(&channel).filter(|lane| lane.to.is_open(now)) else {
            count(&counters.drop_stranger, 1);
            return;
        };
        let len = datagram.len() as u64;
        let allowed = from.allowance.take(len, shared.pace.member(), now)
            && lane.allowance.take(len, shared.pace.pair(), now);
        if !allowed {
            count(&counters.drop_rate, 1);
            return;
        }
        if let Some(to) = lane.to.bound() {
            self.push(to, lane, datagram);
            return;
        }
        let outbox = lane.to.outbox.load();
        let taken = outbox
            .as_ref()
            .is_some_and(|outbox| outbox.push(lane.channel, datagram, now));
        if taken {
            count(&counters.forwarded, 1);
            count(&counters.forwarded_bytes, datagram.len());
        } else {
            count(&counters.drop_full, 1);
        }
    }

    fn push(&mut self, to: SocketAddr, lane: &Lane, datagram: &[u8]) {
        let len = HEADER_LEN + datagram.len();
        let at = self.batch(to, len);
        let Some(batch) = self.batches.get_mut(at) else {
            return;
        };
        if batch.count == 0 {
            batch.segment = len;
        }
        batch.full = len < batch.segment;
        batch.count += 1;
        let header = encode_header(lane.to.number, lane.channel);
        batch.data.extend_from_slice(&header);
        batch.data.extend_from_slice(datagram);
    }

    /// The batch that a datagram of this length goes to; sends what is in its way.
    fn batch(&mut self, to: SocketAddr, len: usize) -> usize {
        let open = self.batches.iter().take(self.open);
        let found = { open }.position(|batch| batch.to == Some(to));
        if let Some(at) = found {
            if !self.batches.get(at).is_some_and(|batch| batch.fits(len)) {
                self.send(at);
            }
            return at;
        }
        if self.open == self.max_batches {
            self.flush();
        }
        let at = self.open;
        if at == self.batches.len() {
            self.batches.push(Batch::default());
        }
        self.open += 1;
        if let Some(batch) = self.batches.get_mut(at) {
            batch.to = Some(to);
        }
        at
    }

    /// Sends everything that was collected.
    pub(crate) fn flush(&mut self) {
        for at in 0..std::mem::take(&mut self.open) {
            self.send(at);
        }
    }

    /// Gives the memory back, for those who forward little.
    pub(crate) fn release(&mut self) {
        self.flush();
        self.batches = Vec::new();
    }

    fn send(&mut self, at: usize) {
        let Some(batch) = self.batches.get_mut(at) else {
            return;
        };
        let Some(to) = batch.to.filter(|_| batch.count > 0) else {
            return;
        };
        let segment = (batch.count > 1).then_some(batch.segment);
        let counters = &self.shared.counters;
        // A full buffer of the kernel is a full link: what does not fit is dropped.
        match self.socket.send(to, &batch.data, segment) {
            Ok(()) => {
                count(&counters.forwarded, batch.count);
                let bytes = batch.data.len() - batch.count * HEADER_LEN;
                count(&counters.forwarded_bytes, bytes);
            }
            Err(_) => count(&counters.drop_full, batch.count),
        }
        batch.data.clear();
        (batch.count, batch.full) = (0, false);
    }
}

impl Batch {
    fn fits(&self, len: usize) -> bool {
        self.count == 0
            || !self.full
                && len <= self.segment
                && self.count < MAX_SEGMENTS
                && self.data.len() + len <= MAX_BYTES
    }
}
