//! Grouping of sealed datagrams into segmented sends: consecutive ones to one endpoint, all of one length but for a
//! shorter last one, lying one after the other in the arena (UDP_SEGMENT wants exactly that).

use std::net::SocketAddr;
use std::ops::Range;

/// Datagrams in one send at the most (`UDP_MAX_SEGMENTS` of Linux before 6.9 was 64).
const MAX_SEGMENTS: usize = 64;
/// Bytes in one send at the most: the kernel builds one UDP packet of them first, which must fit a 16-bit length with
/// an IPv6 header and an option or two.
const MAX_BYTES: usize = 65_000;

/// Datagrams that go out in one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Send {
    pub(super) to: SocketAddr,
    /// Where they lie in the arena.
    pub(super) range: Range<usize>,
    /// Length of each but the last.
    pub(super) segment: usize,
}

impl Send {
    /// How many datagrams these are.
    pub(super) fn count(&self) -> u64 {
        self.range.len().div_ceil(self.segment.max(1)) as u64
    }
}

/// The group that is being collected, and where the next datagram goes.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// Start of the next datagram in the arena.
    end: usize,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    to: SocketAddr,
    start: usize,
    segment: usize,
    count: usize,
    /// The last datagram was shorter: none can follow.
    full: bool,
}

impl Batch {
    /// Where the next datagram is to be written.
    pub(super) fn end(&self) -> usize {
        self.end
    }

    /// Takes the datagram of `len` bytes that was written at [`Batch::end`]. Returns the group before it when that
    /// cannot grow by it.
    pub(super) fn push(&mut self, to: SocketAddr, len: usize) -> Option<Send> {
        let start = self.end;
        self.end += len;
        if let Some(open) = &mut self.open
            && open.fits(to, len, start)
        {
            open.count += 1;
            open.full = len < open.segment || open.count == MAX_SEGMENTS;
            return None;
        }
        let before = self.open.replace(Open {
            to,
            start,
            segment: len,
            count: 1,
            full: false,
        });
        before.map(|open| open.send(start))
    }

    /// Ends the group and starts again at the front of the arena.
    pub(super) fn finish(&mut self) -> Option<Send> {
        let end = std::mem::take(&mut self.end);
        self.open.take().map(|open| open.send(end))
    }
}

impl Open {
    fn fits(&self, to: SocketAddr, len: usize, end: usize) -> bool {
        !self.full && self.to == to && len <= self.segment && end + len - self.start <= MAX_BYTES
    }

    fn send(self, end: usize) -> Send {
        Send {
            to: self.to,
            range: self.start..end,
            segment: self.segment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn endpoint(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn collect(datagrams: &[(u16, usize)]) -> Vec<Send> {
        let mut batch = Batch::default();
        let mut sends = Vec::new();
        for (port, len) in datagrams {
            sends.extend(batch.push(endpoint(*port), *len));
        }
        sends.extend(batch.finish());
        sends
    }

    #[test]
    fn equal_datagrams_to_one_peer_go_out_together_and_a_shorter_one_ends_the_group() {
        let sends = collect(&[
            (1, 1432),
            (1, 1432),
            (1, 80),
            (1, 1432),
            (2, 1432),
            (2, 1500),
        ]);
        let seen: Vec<(u16, u64)> = sends
            .iter()
            .map(|send| (send.to.port(), send.count()))
            .collect();
        assert_eq!(seen, [(1, 3), (1, 1), (2, 1), (2, 1)]);
        assert_eq!(sends[0].range, 0..1432 * 2 + 80);
    }

    proptest! {
        /// Taking the groups apart by their segment length gives the datagrams back, in order, within the limits.
        #[test]
        fn groups_come_apart_into_what_went_in(
            datagrams in prop::collection::vec((1u16..3, prop_oneof![Just(33usize), Just(1432), 33usize..1500]), 0..300)
        ) {
            let mut apart = Vec::new();
            for send in collect(&datagrams) {
                prop_assert!(send.range.len() <= MAX_BYTES && send.count() <= MAX_SEGMENTS as u64);
                let mut left = send.range.len();
                while left > 0 {
                    let len = left.min(send.segment);
                    apart.push((send.to.port(), len));
                    left -= len;
                }
            }
            prop_assert_eq!(apart, datagrams);
        }
    }
}
