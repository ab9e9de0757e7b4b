//! Puts together what a peer cut into fragments because it did not fit the path.
//!
//! Only authenticated fragments come here, but a member may lie: memory is bounded whatever they say, nothing is set aside
//! for what a header announces, and a piece never lies over another, for pieces have places and not offsets.

use super::wire::{FragmentHeader, Kind, MAX_FRAGMENTS};

/// Payloads of one peer that wait for more pieces, at the most; the oldest gives way.
pub const MAX_OPEN: usize = 64;
/// How long they wait, in milliseconds: pieces are sent one right after the other.
pub const LIFETIME_MS: u64 = 1000;
/// Longest payload that is put together: the largest inner packet of any adapter.
pub const MAX_WHOLE: usize = 9216;
/// Bytes of one peer that wait, at the most; the oldest gives way.
pub const MAX_HELD: usize = 128 * 1024;

/// A payload that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole {
    /// What it is; never a fragment.
    pub kind: Kind,
    /// All of it.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
struct Open {
    id: u32,
    kind: Kind,
    count: u8,
    since_ms: u64,
    pieces: [Option<Box<[u8]>>; MAX_FRAGMENTS as usize],
}

impl Open {
    fn len(&self) -> usize {
        self.pieces.iter().flatten().map(|piece| piece.len()).sum()
    }

    fn is_complete(&self) -> bool {
        self.pieces.iter().flatten().count() == usize::from(self.count)
    }
}

/// The fragments of one peer.
#[derive(Debug, Default)]
pub struct Reassembly {
    /// Oldest first.
    open: Vec<Open>,
    lost: u64,
}

impl Reassembly {
    /// Takes the payload of a fragment; returns the whole that it completes.
    pub fn add(&mut self, payload: &[u8], now_ms: u64) -> Option<Whole> {
        self.expire(now_ms);
        let Some((header, piece)) = FragmentHeader::decode(payload) else {
            self.lost += 1;
            return None;
        };
        let at = match self.open.iter().position(|open| open.id == header.id) {
            Some(at) => at,
            None => {
                self.open.push(Open {
                    id: header.id,
                    kind: header.kind,
                    count: header.count,
                    since_ms: now_ms,
                    pieces: Default::default(),
                });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[at];
        let agrees = (open.kind, open.count) == (header.kind, header.count);
        if !agrees || open.len() + piece.len() > MAX_WHOLE {
            // Whoever contradicts itself gets nothing.
            self.open.remove(at);
            self.lost += 1;
            return None;
        }
        match &mut open.pieces[usize::from(header.index)] {
            Some(_) => self.lost += 1,
            place @ None => *place = Some(piece.into()),
        }
        if open.is_complete() {
            let open = self.open.remove(at);
            let bytes = open
                .pieces
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .concat();
            return Some(Whole {
                kind: open.kind,
                bytes,
            });
        }
        self.make_room();
        None
    }

    fn make_room(&mut self) {
        while self.open.len() > MAX_OPEN || self.held() > MAX_HELD {
            self.open.remove(0);
            self.lost += 1;
        }
    }

    /// Forgets what has waited too long.
    pub fn expire(&mut self, now_ms: u64) {
        let before = self.open.len();
        self.open
            .retain(|open| now_ms < open.since_ms.saturating_add(LIFETIME_MS));
        self.lost += (before - self.open.len()) as u64;
    }

    /// Does nothing wait?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Bytes that wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.open.iter().map(Open::len).sum()
    }

    /// Payloads that wait.
    #[must_use]
    pub const fn waiting(&self) -> usize {
        self.open.len()
    }

    /// How many pieces and unfinished payloads were dropped since this was asked last.
    pub const fn take_lost(&mut self) -> u64 {
        std::mem::replace(&mut self.lost, 0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fragment(id: u32, index: u8, count: u8, piece: &[u8]) -> Vec<u8> {
        let header = FragmentHeader {
            id,
            kind: Kind::Ip,
            index,
            count,
        };
        [&header.encode()[..], piece].concat()
    }

    proptest! {
        /// In whatever order, twice, between others.
        #[test]
        fn pieces_in_any_order_make_the_whole(bytes in proptest::collection::vec(any::<u8>(), 8..3000), count in 1u8..=8, order in Just((0..8u8).collect::<Vec<_>>()).prop_shuffle(), noise: u8) {
            let mut all = Reassembly::default();
            let len = bytes.len().div_ceil(usize::from(count));
            let pieces: Vec<&[u8]> = bytes.chunks(len).collect();
            let count = pieces.len() as u8;
            let mut whole = None;
            for index in order.into_iter().filter(|n| *n < count) {
                let piece = fragment(7, index, count, pieces[usize::from(index)]);
                prop_assert_eq!(&whole, &None);
                whole = all.add(&piece, 10);
                if whole.is_none() {
                    prop_assert_eq!(all.add(&piece, 10), None);
                }
                prop_assert_eq!(all.add(&fragment(8, noise % 2, 2, b"x"), 10).filter(|_| noise > 1), None);
            }
            prop_assert_eq!(whole, Some(Whole { kind: Kind::Ip, bytes }));
        }

        #[test]
        fn memory_is_bounded_whatever_comes(all in proptest::collection::vec((0u32..200, 0u8..9, 0u8..9, 0usize..2000, 0u64..30), 0..400)) {
            let mut reassembly = Reassembly::default();
            let mut now = 0;
            for (id, index, count, len, pause) in all {
                now += pause;
                let whole = reassembly.add(&fragment(id, index, count, &vec![1; len]), now);
                prop_assert!(whole.is_none_or(|whole| whole.bytes.len() <= MAX_WHOLE));
                prop_assert!(reassembly.waiting() <= MAX_OPEN && reassembly.held() <= MAX_HELD);
            }
            reassembly.expire(now + LIFETIME_MS);
            prop_assert!(reassembly.is_empty() && reassembly.held() == 0);
        }
    }

    #[test]
    fn pieces_that_contradict_each_other_are_dropped_with_the_rest() {
        let mut all = Reassembly::default();
        assert_eq!(all.add(&fragment(1, 0, 2, b"a"), 0), None);
        assert_eq!(all.add(&fragment(1, 1, 3, b"b"), 0), None);
        assert!(all.is_empty());
        assert_eq!(all.add(&fragment(1, 1, 2, b"b"), 0), None);
        // The first of two with one place counts.
        assert_eq!(all.add(&fragment(1, 1, 2, b"c"), 0), None);
        let whole = all.add(&fragment(1, 0, 2, b"a"), 0).unwrap();
        assert_eq!(whole.bytes, b"ab");
        assert_eq!(all.take_lost(), 2);
        assert_eq!(all.take_lost(), 0);
    }

    #[test]
    fn an_unfinished_payload_waits_a_second_and_no_longer() {
        let mut all = Reassembly::default();
        assert_eq!(all.add(&fragment(1, 0, 2, b"a"), 5), None);
        assert!(all.add(&fragment(1, 1, 2, b"b"), 1004).is_some());
        assert_eq!(all.add(&fragment(2, 0, 2, b"a"), 5), None);
        assert_eq!(all.add(&fragment(2, 1, 2, b"b"), 1005), None);
        assert_eq!((all.waiting(), all.take_lost()), (1, 1));
    }

    #[test]
    fn the_oldest_gives_way_and_nothing_is_longer_than_a_packet() {
        let mut all = Reassembly::default();
        for id in 0..70 {
            assert_eq!(all.add(&fragment(id, 0, 2, b"a"), 0), None);
        }
        assert_eq!((all.waiting(), all.take_lost()), (MAX_OPEN, 6));
        assert_eq!(all.add(&fragment(5, 1, 2, b"b"), 0), None);
        assert!(all.add(&fragment(69, 1, 2, b"b"), 0).is_some());
        let mut all = Reassembly::default();
        assert_eq!(all.add(&fragment(1, 0, 2, &[0; MAX_WHOLE]), 0), None);
        assert_eq!(all.add(&fragment(1, 1, 2, &[0]), 0), None);
        assert!(all.is_empty());
        assert_eq!(
            all.add(&fragment(1, 0, 1, b"whole"), 0).unwrap().bytes,
            b"whole"
        );
    }
}
