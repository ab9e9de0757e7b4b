//! What the core task should know of the tunnels, until it has room for it.

use std::{
    collections::{HashMap, VecDeque},
    mem::{Discriminant, discriminant},
    net::SocketAddr,
};

use kanpachi_common::{NetworkId, NodeId};
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// What the core task should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A tunnel is up, at this address.
    Up(NodeId, SocketAddr),
    /// A tunnel that should be up is not.
    Down(NodeId),
    /// A peer holds these rosters.
    Epochs {
        peer: NodeId,
        generation: u64,
        epochs: Vec<(NetworkId, u64)>,
    },
    /// A peer sees our packets come from here.
    Observed(NodeId, SocketAddr),
    /// A reflector sees them come from `observed`.
    Reflected {
        reflector: SocketAddr,
        observed: SocketAddr,
    },
    /// Nothing comes through to some peer any more.
    Trouble,
}

/// What an event is news of: the newest of each is what counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum About {
    /// Whether there is a tunnel.
    Tunnel(NodeId),
    Peer(Discriminant<Event>, NodeId),
    Reflector(SocketAddr),
    Trouble,
}

impl Event {
    fn about(&self) -> About {
        match self {
            Self::Up(peer, _) | Self::Down(peer) => About::Tunnel(*peer),
            Self::Epochs { peer, .. } | Self::Observed(peer, _) => {
                About::Peer(discriminant(self), *peer)
            }
            Self::Reflected { reflector, .. } => About::Reflector(*reflector),
            Self::Trouble => About::Trouble,
        }
    }
}

/// Events that were not sent yet. Of each peer there are as many as there are kinds, so this is bounded by the rosters; of
/// reflectors as many as are asked.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    events: HashMap<About, Event>,
    /// Oldest first.
    order: VecDeque<About>,
}

impl Backlog {
    /// Keeps an event, in place of an older one about the same.
    pub(super) fn push(&mut self, event: Event) {
        let about = event.about();
        if self.events.insert(about, event).is_none() {
            self.order.push_back(about);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// Sends what there is room for. The core task is never waited for: it may be waiting for the engine.
    pub(super) fn flush(&mut self, to: &Sender<Event>) {
        while let Some(about) = self.order.pop_front() {
            let Some(event) = self.events.remove(&about) else {
                continue;
            };
            match to.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    tracing::debug!(waiting = self.order.len() + 1, "the core task is behind");
                    self.events.insert(about, event);
                    self.order.push_front(about);
                    return;
                }
                // Nobody listens any more.
                Err(TrySendError::Closed(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    const PEER: NodeId = NodeId([1; 32]);
    const OTHER: NodeId = NodeId([2; 32]);

    fn at(port: u16) -> SocketAddr {
        ([192, 0, 2, 1], port).into()
    }

    fn epochs(epoch: u64) -> Event {
        Event::Epochs {
            peer: PEER,
            generation: 1,
            epochs: vec![(NetworkId([3; 32]), epoch)],
        }
    }

    #[test]
    fn what_finds_no_room_is_sent_when_there_is_some_and_only_the_newest_of_its_kind() {
        let (sender, mut receiver) = mpsc::channel(1);
        let mut backlog = Backlog::default();
        backlog.push(Event::Up(PEER, at(1)));
        backlog.push(epochs(1));
        backlog.push(Event::Up(OTHER, at(2)));
        backlog.flush(&sender);
        assert!(!backlog.is_empty());
        // It goes on meanwhile.
        for event in [epochs(2), Event::Down(OTHER), Event::Observed(PEER, at(3))] {
            backlog.push(event);
        }
        let mut seen = Vec::new();
        while let Ok(event) = receiver.try_recv() {
            seen.push(event);
            backlog.flush(&sender);
        }
        let expected = [
            Event::Up(PEER, at(1)),
            epochs(2),
            Event::Down(OTHER),
            Event::Observed(PEER, at(3)),
        ];
        assert_eq!(seen, expected);
        assert!(backlog.is_empty());
    }

    #[test]
    fn nothing_is_kept_for_a_core_that_has_ended() {
        let (sender, receiver) = mpsc::channel(1);
        drop(receiver);
        let mut backlog = Backlog::default();
        backlog.push(Event::Down(PEER));
        backlog.push(Event::Down(OTHER));
        backlog.flush(&sender);
        assert!(backlog.is_empty());
    }
}
