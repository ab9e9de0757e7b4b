//! The packet path: what moves packets between the adapter and the shared socket.
//!
//! Two plain threads, no async task: [`outbound`] reads the adapter, [`Inbound`] runs on the socket's reader. Each
//! handles a packet to completion, and they share nothing that either could wait for: tables are published by pointer
//! ([`peers`]), sealing takes an atomic counter, opening the lock of its session's replay window. Decisions (handshakes,
//! paths, rosters) are the engine's, which gets what it needs by bounded channels ([`queues`]).

mod batch;
mod checksum;
pub mod counters;
mod crowd;
mod fragments;
mod inbound;
pub mod mss;
mod outbound;
pub mod packet;
mod parking;
pub mod peers;
mod publisher;
pub mod queues;
mod relays;
mod sockets;
pub mod too_big;

use std::hash::{BuildHasher as _, RandomState};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use arc_swap::ArcSwapOption;
use kanpachi_common::NodeId;
use kanpachi_proto::path::Via;
use kanpachi_transport::SharedSocket;

pub use counters::Counters;
pub use inbound::{Aside, Inbound};
pub use parking::Parking;
pub use peers::{Member, Own, Peer, Tables};
pub use publisher::Publisher;
pub use queues::{FromPeer, FromStranger, Inbox, Later, Waiting};
pub use relays::{RelayTable, STREAM_QUEUE, Streamed};

use crate::{
    clock,
    platform::{Adapter, PacketWriter},
};

/// What both directions and the engine hold.
#[derive(Debug)]
pub(crate) struct Shared {
    tables: Arc<Tables>,
    sockets: Arc<sockets::Sockets>,
    counters: Arc<Counters>,
    queues: queues::Queues,
    clock: Clock,
    urgent: crowd::Urgent,
    /// This node as libp2p calls it.
    name: String,
}

/// Milliseconds since the start that the tunnels were given too.
#[derive(Debug, Clone, Copy)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn now_ms(self) -> u64 {
        u64::try_from(clock::since(self.start).as_millis()).unwrap_or(u64::MAX)
    }
}

/// The packet path of a node; `W` writes to its adapter.
#[derive(Debug)]
pub struct Dataplane<W> {
    shared: Arc<Shared>,
    socket: SharedSocket,
    adapter: Arc<ArcSwapOption<W>>,
}

impl<W: PacketWriter> Dataplane<W> {
    /// A packet path without sessions and without an adapter. `start` is the instant given to `Tunnels::new`, `name` this
    /// node's libp2p peer id.
    pub fn new(socket: SharedSocket, start: Instant, name: String) -> (Self, Publisher, Inbox) {
        let tables = Arc::new(Tables::default());
        let (queues, inbox) = queues::channels();
        let publisher = Publisher::new(Arc::clone(&tables));
        let shared = Arc::new(Shared {
            tables,
            sockets: Arc::default(),
            counters: Arc::default(),
            queues,
            clock: Clock { start },
            urgent: crowd::Urgent::default(),
            name,
        });
        (
            Self {
                shared,
                socket,
                adapter: Arc::default(),
            },
            publisher,
            inbox,
        )
    }

    /// The handler for [`SharedSocket::spawn_reader`].
    pub fn inbound(&self) -> Inbound<W> {
        let (shared, adapter) = (Arc::clone(&self.shared), Arc::clone(&self.adapter));
        // The standard library seeds this from the system, and it cannot fail: the keys need no more than this.
        let seed = || RandomState::new().hash_one(0_u8).to_le_bytes();
        let mut secret = [0; 16];
        secret[..8].copy_from_slice(&seed());
        secret[8..].copy_from_slice(&seed());
        Inbound::new(shared, self.socket.clone(), adapter, secret)
    }

    /// Connects the adapter: packets from the overlay are written to it from now on, and a thread reads what the
    /// machine sends, until the adapter is stopped.
    pub fn attach<A: Adapter<Writer = W>>(&self, adapter: &A) -> io::Result<OutboundThread> {
        let mut outbound =
            outbound::Outbound::new(adapter, self.socket.clone(), Arc::clone(&self.shared));
        let thread = std::thread::Builder::new()
            .name("adapter-reader".to_owned())
            .spawn(move || {
                kanpachi_transport::priority::go_first();
                outbound.run()
            })?;
        self.adapter.store(Some(Arc::new(adapter.writer())));
        Ok(OutboundThread { thread })
    }

    /// Lets go of the adapter: what arrives from now on is dropped and counted.
    pub fn detach(&self) {
        self.adapter.store(None);
    }

    /// Sends a packet that the packet thread found no session for, if there is one by now, and parks it otherwise.
    /// `true` if it is parked: then the peer is to be connected to.
    pub fn send_or_park(
        &self,
        publisher: &Publisher,
        parking: &mut Parking,
        waiting: Waiting,
        now: Instant,
    ) -> bool {
        // A peer that left the roster meanwhile.
        let Some(peer) = publisher.peer(&waiting.peer) else {
            self.counters().drop_waiting.one();
            return false;
        };
        if self.send(peer, &waiting.packet) {
            return false;
        }
        self.counters().drop_waiting.add(parking.park(waiting, now));
        true
    }

    /// Sends what waits for a peer that has a session now; to be called after each `SessionUp` was applied.
    pub fn send_parked(&self, publisher: &Publisher, parking: &mut Parking, node_id: &NodeId) {
        let packets = parking.take(node_id);
        let Some(peer) = publisher.peer(node_id) else {
            return;
        };
        for packet in packets {
            if !self.send(peer, &packet) {
                self.counters().drop_waiting.one();
            }
        }
    }

    /// Sends a datagram of the tunnels' own, over a relay where its address says so.
    pub fn transmit(&self, to: SocketAddr, datagram: &[u8]) -> io::Result<()> {
        outbound::send_to(&self.socket, &self.shared, to, datagram, None)
    }

    /// Opens the sockets of a birthday punch: paths over them have [`Via::Socket`](kanpachi_proto::path::Via) addresses.
    pub fn open_sockets(&self, attempt: u32, to: SocketAddr) -> io::Result<()>
    where
        W: 'static,
    {
        self.shared.sockets.open(attempt, to, || self.inbound())
    }

    /// Where datagrams to this address really go; `None` over a relay.
    pub fn leads_to(&self, addr: SocketAddr) -> Option<SocketAddr> {
        match Via::of(addr) {
            None => Some(addr),
            Some(Via::Socket { .. }) => self.shared.sockets.leads_to(addr),
            Some(Via::Relay { .. }) => None,
        }
    }

    /// Says what paths over relays stand for from now on.
    pub fn set_relays(&self, table: RelayTable) {
        self.shared.tables.relays.store(Arc::new(table));
    }

    /// Seals and sends one inner packet as it is, from any thread. `false` if there is no session.
    pub fn send(&self, peer: &Peer, packet: &[u8]) -> bool {
        outbound::send_one(&self.socket, &self.shared, peer, packet)
    }

    /// What was counted so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }
}

/// The thread that reads the adapter.
#[derive(Debug)]
pub struct OutboundThread {
    thread: JoinHandle<io::Result<()>>,
}

impl OutboundThread {
    /// Whether it has ended: the adapter was stopped or died.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for its end, after [`Adapter::stop`]; the error is what the adapter died of before.
    pub fn join(self) -> io::Result<()> {
        self.thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}
