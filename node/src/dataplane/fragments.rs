//! Cutting packets that do not fit the path and may not be refused, and what is put together of such on arrival.

use std::collections::HashMap;

use kanpachi_common::NodeId;
use kanpachi_proto::tunnel::{
    FRAGMENT_HEADER_LEN, FragmentHeader, Kind, MAX_FRAGMENTS, Reassembly, Whole,
};

/// How a packet is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    id: u32,
    count: u8,
    /// Bytes of the packet in each piece but the last.
    each: usize,
}

impl Cut {
    /// Cuts a packet of `len` bytes into pieces of about one length, of which each fits a payload of `most` bytes. `None`
    /// if that takes too many.
    pub(super) fn new(id: u32, len: usize, most: usize) -> Option<Self> {
        let room = most
            .checked_sub(FRAGMENT_HEADER_LEN)
            .filter(|room| *room > 0)?;
        let count = len.div_ceil(room);
        let each = len.div_ceil(count.max(1));
        let count = u8::try_from(count)
            .ok()
            .filter(|n| (1..=MAX_FRAGMENTS).contains(n))?;
        Some(Self { id, count, each })
    }

    /// How many pieces.
    pub(super) const fn count(self) -> u8 {
        self.count
    }

    /// Writes a piece as payload of a datagram; returns its length, `None` if there is no room or no such piece.
    pub(super) fn write(self, packet: &[u8], index: u8, to: &mut [u8]) -> Option<usize> {
        let piece = packet.chunks(self.each.max(1)).nth(usize::from(index))?;
        let header = FragmentHeader {
            id: self.id,
            kind: Kind::Ip,
            index,
            count: self.count,
        };
        let len = FRAGMENT_HEADER_LEN + piece.len();
        let (head, body) = to.get_mut(..len)?.split_at_mut(FRAGMENT_HEADER_LEN);
        head.copy_from_slice(&header.encode());
        body.copy_from_slice(piece);
        Some(len)
    }
}

/// The unfinished packets of all peers.
#[derive(Debug, Default)]
pub(super) struct Unfinished {
    peers: HashMap<NodeId, Reassembly>,
}

impl Unfinished {
    /// Takes a fragment. Returns what it completes, and how much was lost.
    pub(super) fn add(
        &mut self,
        peer: NodeId,
        payload: &[u8],
        now_ms: u64,
    ) -> (Option<Whole>, u64) {
        let all = self.peers.entry(peer).or_default();
        let whole = all.add(payload, now_ms);
        let lost = all.take_lost();
        if all.is_empty() {
            self.peers.remove(&peer);
        }
        (whole, lost)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Forgets what has waited too long; how much that was.
    pub(super) fn expire(&mut self, now_ms: u64) -> u64 {
        let mut lost = 0;
        self.peers.retain(|_, all| {
            all.expire(now_ms);
            lost += all.take_lost();
            !all.is_empty()
        });
        lost
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_cut_fits_and_is_put_together_again(packet in prop::collection::vec(any::<u8>(), 1..3000), most in 0usize..1500) {
            let Some(cut) = Cut::new(9, packet.len(), most) else {
                prop_assert!(most <= FRAGMENT_HEADER_LEN || packet.len() > 8 * (most - FRAGMENT_HEADER_LEN));
                return Ok(());
            };
            let (mut all, mut room) = (Unfinished::default(), [0; 3100]);
            for index in 0..cut.count() {
                let len = cut.write(&packet, index, &mut room).unwrap();
                prop_assert!(len <= most);
                let (whole, lost) = all.add(NodeId([1; 32]), &room[..len], 5);
                prop_assert_eq!(lost, 0);
                let expected = (index + 1 == cut.count()).then(|| Whole { kind: Kind::Ip, bytes: packet.clone() });
                prop_assert_eq!(whole, expected);
            }
            prop_assert!(all.is_empty());
            prop_assert_eq!(cut.write(&packet, cut.count(), &mut room), None);
        }
    }

    #[test]
    fn pieces_of_two_peers_are_never_put_together() {
        let packet = [1; 100];
        let cut = Cut::new(1, 100, 60).unwrap();
        let (mut all, mut room) = (Unfinished::default(), [0; 100]);
        for index in 0..2 {
            let len = cut.write(&packet, index, &mut room).unwrap();
            assert_eq!(all.add(NodeId([index; 32]), &room[..len], 0), (None, 0));
        }
        assert_eq!((all.expire(999), all.is_empty()), (0, false));
        assert_eq!((all.expire(1000), all.is_empty()), (2, true));
    }
}
