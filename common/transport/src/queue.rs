//! The bounded queue of QUIC packets between the reader thread and quinn.
//!
//! A ring of fixed slots: nothing is allocated after the start. Its lock is shared by the reader and quinn's
//! receiving task only, and only QUIC packets touch it; tunnels never do.

use std::{
    io::IoSliceMut,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use quinn::udp::{EcnCodepoint, RecvMeta};

/// Packets that wait for quinn at the most; about 0.8 MB. More than one full read of the socket brings.
const SLOTS: usize = 512;
/// Longest QUIC packet in bytes. We announce quinn's default limit of 1,472 to peers, so nobody sends more.
pub(crate) const MAX_PACKET: u16 = 1472;
const SLOT_LEN: usize = MAX_PACKET as usize;

/// See the module.
#[derive(Debug)]
pub(crate) struct QuicQueue {
    ring: Mutex<Ring>,
}

#[derive(Debug)]
struct Ring {
    data: Box<[u8]>,
    meta: Box<[RecvMeta]>,
    head: usize,
    len: usize,
    waker: Option<Waker>,
    /// Is anybody there to read it?
    open: bool,
    /// The reader is gone for good: QUIC on this socket ends.
    dead: bool,
}

impl QuicQueue {
    pub(crate) fn new() -> Self {
        Self {
            ring: Mutex::new(Ring {
                // The memory is zero pages until it is used, and an empty ring starts over at its first slot, so
                // a quiet process touches little of it.
                data: vec![0; SLOTS * SLOT_LEN].into(),
                meta: vec![RecvMeta::default(); SLOTS].into(),
                head: 0,
                len: 0,
                waker: None,
                open: false,
                dead: false,
            }),
        }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        // Nothing below panics halfway through a change, so a poisoned ring is still whole.
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts or ends reading. What waited is forgotten.
    pub(crate) fn set_open(&self, open: bool) {
        let mut ring = self.ring();
        ring.open = open;
        ring.head = 0;
        ring.len = 0;
    }

    /// The reader is gone, or back.
    pub(crate) fn set_dead(&self, dead: bool) {
        let waker = {
            let mut ring = self.ring();
            ring.dead = dead;
            ring.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Copies a packet in; `false` when it was dropped: too long, no room, nobody there.
    pub(crate) fn push(
        &self,
        addr: SocketAddr,
        dst_ip: Option<IpAddr>,
        ecn: Option<EcnCodepoint>,
        packet: &[u8],
    ) -> bool {
        let mut ring = self.ring();
        if !ring.open || ring.len == SLOTS || packet.len() > SLOT_LEN {
            return false;
        }
        let slot = (ring.head + ring.len) % SLOTS;
        let start = slot * SLOT_LEN;
        ring.data[start..start + packet.len()].copy_from_slice(packet);
        // `RecvMeta` can grow fields, so it is changed in place.
        let meta = &mut ring.meta[slot];
        meta.addr = addr;
        meta.len = packet.len();
        meta.stride = packet.len();
        meta.ecn = ecn;
        meta.dst_ip = dst_ip;
        ring.len += 1;
        true
    }

    /// Tells quinn that packets are there; once for a whole read of the socket.
    pub(crate) fn wake(&self) {
        let waker = self.ring().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Fills quinn's buffers. `Err` when no packet will ever come again.
    pub(crate) fn poll_pop(
        &self,
        cx: &Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<std::io::Result<usize>> {
        let mut ring = self.ring();
        let mut filled = 0;
        for (buf, out) in bufs.iter_mut().zip(meta) {
            if ring.len == 0 {
                break;
            }
            let slot = ring.head;
            let found = ring.meta[slot];
            ring.head = (slot + 1) % SLOTS;
            ring.len -= 1;
            // A buffer that is too short cannot happen with our limits; the packet would be worthless in part.
            let Some(room) = buf.get_mut(..found.len) else {
                continue;
            };
            let start = slot * SLOT_LEN;
            room.copy_from_slice(&ring.data[start..start + found.len]);
            *out = found;
            filled += 1;
        }
        if ring.len == 0 {
            ring.head = 0;
        }
        if filled > 0 {
            return Poll::Ready(Ok(filled));
        }
        if ring.dead {
            return Poll::Ready(Err(std::io::Error::other(
                "the thread that reads the UDP socket has ended",
            )));
        }
        if !ring.waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            ring.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures::task::noop_waker;

    use super::*;

    fn pop(queue: &QuicQueue, count: usize) -> Vec<Vec<u8>> {
        let mut memory = vec![[0u8; SLOT_LEN]; count];
        let mut bufs: Vec<_> = memory.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        let mut meta = vec![RecvMeta::default(); count];
        let waker = noop_waker();
        match queue.poll_pop(&Context::from_waker(&waker), &mut bufs, &mut meta) {
            Poll::Ready(Ok(n)) => (0..n).map(|i| bufs[i][..meta[i].len].to_vec()).collect(),
            Poll::Ready(Err(e)) => panic!("{e}"),
            Poll::Pending => Vec::new(),
        }
    }

    #[test]
    fn packets_come_out_in_order_and_the_queue_is_bounded() {
        let queue = QuicQueue::new();
        let from = "192.0.2.1:1".parse().unwrap();
        assert!(!queue.push(from, None, None, b"early"), "nobody reads yet");
        queue.set_open(true);
        let mut expected = 0u32;
        let mut next = 0u32;
        for round in 0..5 {
            while queue.push(from, None, None, &next.to_be_bytes()) {
                next += 1;
            }
            assert_eq!((next - expected) as usize, SLOTS, "round {round}");
            for packet in pop(&queue, 100) {
                assert_eq!(packet, expected.to_be_bytes());
                expected += 1;
            }
        }
        while let packets = pop(&queue, 32)
            && !packets.is_empty()
        {
            for packet in packets {
                assert_eq!(packet, expected.to_be_bytes());
                expected += 1;
            }
        }
        assert_eq!(expected, next);
        assert!(queue.push(from, None, None, &[1; SLOT_LEN]));
        assert!(!queue.push(from, None, None, &[1; SLOT_LEN + 1]));
    }
}
