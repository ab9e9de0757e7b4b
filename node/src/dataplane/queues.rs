//! What the packet threads hand to the engine: bounded channels, one per kind of sender, so that strangers who flood
//! us cannot crowd out authenticated peers, and neither can our own programs.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use kanpachi_common::NodeId;
use kanpachi_proto::tunnel::{Receipt, Session};
use tokio::sync::mpsc;

use super::counters::Counters;

/// Opened control messages. Each of some thousand peers may have a few on the way.
const FROM_PEERS: usize = 1024;
/// Handshakes and reflector messages. A flood costs at most this many kilobytes; the tunnels answer it with cookies.
const FROM_STRANGERS: usize = 256;
/// Packets of our own programs to peers without a session.
const WAITING: usize = 256;
/// Longest message of a stranger that is worth copying; handshakes are a few hundred bytes.
const MAX_STRANGER: usize = 2048;

/// Something that a peer proved to have sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromPeer {
    /// The content of a control packet: `Tunnels::handle_opened_control`.
    Control {
        /// How it came.
        receipt: Receipt,
        /// The opened payload.
        payload: Vec<u8>,
    },
    /// The same of a session at rest, attended to on the packet thread: `Tunnels::handle_attended`.
    Attended {
        /// How it came.
        receipt: Receipt,
        /// The opened payload.
        payload: Vec<u8>,
        /// When it was read.
        at: Instant,
    },
    /// A session carries data after a rest: `Tunnels::handle_woken`.
    Woken {
        /// Our index of the session.
        local_index: u32,
    },
    /// A data packet confirmed the session, or came from another address than we send to:
    /// `Tunnels::handle_authenticated`.
    Authenticated {
        /// Our index of the session.
        local_index: u32,
        /// Canonical address it came from.
        from: SocketAddr,
        /// Its counter.
        counter: u64,
    },
}

/// A datagram that nothing vouches for: a handshake message, or one of the reflector's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromStranger {
    /// Canonical address it came from.
    pub from: SocketAddr,
    /// All of it.
    pub datagram: Vec<u8>,
}

/// A packet for a peer without a session. The engine keeps it ([`Parking`](super::Parking)) and connects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// Whom it is for.
    pub peer: NodeId,
    /// The inner IP packet.
    pub packet: Box<[u8]>,
}

/// The engine's ends of the channels.
#[derive(Debug)]
pub struct Inbox {
    /// From authenticated peers; to be emptied first.
    pub peers: mpsc::Receiver<FromPeer>,
    /// From them too, and older than anything else that is waiting: to be emptied before anything else is handled. Nobody is
    /// woken for it.
    pub later: Later,
    /// From anybody.
    pub strangers: mpsc::Receiver<FromStranger>,
    /// From this machine.
    pub waiting: mpsc::Receiver<Waiting>,
}

/// What the engine is to know when it is awake anyway.
#[derive(Debug, Clone, Default)]
pub struct Later(Arc<Mutex<Vec<FromPeer>>>);

impl Later {
    /// Everything so far, in order.
    pub fn take(&self) -> Vec<FromPeer> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves a message; gives it back when there are too many.
    fn leave(&self, message: FromPeer) -> Option<FromPeer> {
        let mut left = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if left.len() >= FROM_PEERS {
            return Some(message);
        }
        left.push(message);
        None
    }
}

/// The packet threads' ends. Nothing here waits: what finds no room is counted and dropped.
#[derive(Debug, Clone)]
pub(super) struct Queues {
    peers: mpsc::Sender<FromPeer>,
    later: Later,
    strangers: mpsc::Sender<FromStranger>,
    waiting: mpsc::Sender<Waiting>,
}

pub(super) fn channels() -> (Queues, Inbox) {
    let (peers, from_peers) = mpsc::channel(FROM_PEERS);
    let (strangers, from_strangers) = mpsc::channel(FROM_STRANGERS);
    let (waiting, from_programs) = mpsc::channel(WAITING);
    let later = Later::default();
    let inbox = Inbox {
        peers: from_peers,
        later: later.clone(),
        strangers: from_strangers,
        waiting: from_programs,
    };
    (
        Queues {
            peers,
            later,
            strangers,
            waiting,
        },
        inbox,
    )
}

impl Queues {
    /// Tells the engine that a session carries data again, if it rested.
    pub(super) fn woken(&self, session: &Session) {
        if !session.wakes() {
            return;
        }
        let local_index = session.local_index();
        if self
            .peers
            .try_send(FromPeer::Woken { local_index })
            .is_err()
        {
            // The next packet tries again.
            session.sleep();
        }
    }

    pub(super) fn peer(&self, message: FromPeer, counters: &Counters) {
        if self.peers.try_send(message).is_err() {
            counters.drop_engine.one();
        }
    }

    /// Leaves a message for when the engine is awake, and wakes it only when many wait.
    pub(super) fn later(&self, message: FromPeer, counters: &Counters) {
        if let Some(message) = self.later.leave(message) {
            self.peer(message, counters);
        }
    }

    pub(super) fn stranger(&self, from: SocketAddr, datagram: &[u8], counters: &Counters) {
        if datagram.len() > MAX_STRANGER {
            counters.drop_malformed.one();
            return;
        }
        // Room first: a flood must not cost an allocation per datagram.
        match self.strangers.try_reserve() {
            Ok(room) => room.send(FromStranger {
                from,
                datagram: datagram.to_vec(),
            }),
            Err(_) => counters.drop_engine.one(),
        }
    }

    pub(super) fn wait(&self, peer: NodeId, packet: &[u8], counters: &Counters) {
        match self.waiting.try_reserve() {
            Ok(room) => room.send(Waiting {
                peer,
                packet: packet.into(),
            }),
            Err(_) => counters.drop_waiting.one(),
        }
    }
}
