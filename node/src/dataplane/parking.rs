//! Packets that wait for a handshake: a few per peer, for a few seconds. Owned by the engine; takes time as input.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use kanpachi_common::NodeId;

use super::queues::Waiting;

/// Packets per peer. A program's first flight; the rest it sends again.
const PER_PEER: usize = 16;
/// Peers that something may wait for. Whoever scans the whole pool does not get more memory than this.
const PEERS: usize = 256;
/// How long a packet waits. A handshake through several candidates takes less, and programs give up or repeat.
const LIFETIME: Duration = Duration::from_secs(5);

/// The packets in waiting.
#[derive(Debug, Default)]
pub struct Parking {
    peers: HashMap<NodeId, VecDeque<Parked>>,
}

#[derive(Debug)]
struct Parked {
    since: Instant,
    packet: Box<[u8]>,
}

impl Parking {
    /// Keeps a packet. The number of packets that had to go for it: the oldest of that peer, or this one when too
    /// many peers are waited for.
    pub fn park(&mut self, waiting: Waiting, now: Instant) -> u64 {
        if self.peers.len() >= PEERS && !self.peers.contains_key(&waiting.peer) {
            return 1;
        }
        let queue = self.peers.entry(waiting.peer).or_default();
        queue.push_back(Parked {
            since: now,
            packet: waiting.packet,
        });
        if queue.len() > PER_PEER {
            queue.pop_front();
            return 1;
        }
        0
    }

    /// What waits for this peer, oldest first.
    pub fn take(&mut self, peer: &NodeId) -> impl Iterator<Item = Box<[u8]>> + use<> {
        self.peers
            .remove(peer)
            .unwrap_or_default()
            .into_iter()
            .map(|parked| parked.packet)
    }

    /// Forgets what waited too long; how many that were.
    pub fn expire(&mut self, now: Instant) -> u64 {
        let mut expired = 0;
        self.peers.retain(|_, queue| {
            while queue
                .front()
                .is_some_and(|oldest| now.saturating_duration_since(oldest.since) >= LIFETIME)
            {
                queue.pop_front();
                expired += 1;
            }
            !queue.is_empty()
        });
        expired
    }

    /// When [`Parking::expire`] has something to do.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.peers
            .values()
            .filter_map(|queue| queue.front())
            .map(|oldest| oldest.since + LIFETIME)
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(peer: u16, number: u8) -> Waiting {
        let mut id = [0; 32];
        id[..2].copy_from_slice(&peer.to_be_bytes());
        Waiting {
            peer: NodeId(id),
            packet: Box::new([number]),
        }
    }

    #[test]
    fn the_newest_packets_wait_in_order() {
        let (mut parking, now) = (Parking::default(), Instant::now());
        let dropped: u64 = (0..20)
            .map(|number| parking.park(waiting(1, number), now))
            .sum();
        assert_eq!(dropped, 4);
        let taken: Vec<u8> = parking
            .take(&waiting(1, 0).peer)
            .map(|packet| packet[0])
            .collect();
        assert_eq!(taken, (4..20).collect::<Vec<u8>>());
        assert_eq!(parking.take(&waiting(1, 0).peer).count(), 0);
    }

    #[test]
    fn many_peers_do_not_take_more_memory() {
        let (mut parking, now) = (Parking::default(), Instant::now());
        let dropped: u64 = (0..1000)
            .map(|peer| parking.park(waiting(peer, 0), now))
            .sum();
        assert_eq!(dropped, 1000 - PEERS as u64);
        // A peer that is waited for already still has its room.
        assert_eq!(parking.park(waiting(0, 1), now), 0);
    }

    #[test]
    fn packets_expire_one_by_one() {
        let (mut parking, now) = (Parking::default(), Instant::now());
        parking.park(waiting(1, 1), now);
        parking.park(waiting(1, 2), now + Duration::from_secs(1));
        assert_eq!(parking.poll_timeout(), Some(now + LIFETIME));
        assert_eq!(parking.expire(now + LIFETIME - Duration::from_millis(1)), 0);
        assert_eq!(parking.expire(now + LIFETIME), 1);
        assert_eq!(
            parking
                .take(&waiting(1, 0).peer)
                .map(|packet| packet[0])
                .collect::<Vec<_>>(),
            [2]
        );
        assert_eq!(parking.poll_timeout(), None);
    }
}
