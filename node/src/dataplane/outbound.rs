//! From the adapter to the socket: one plain thread that reads a packet, looks up its peer, seals it where it lies and
//! sends it with its neighbours. No lock, and no allocation but for packets that must wait for a handshake.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use kanpachi_proto::tunnel::{HEADER_LEN, Kind, OVERHEAD};
use kanpachi_transport::SharedSocket;

use super::Shared;
use super::batch::{Batch, Send};
use super::packet::Addresses;
use super::peers::{Destination, Peer, Routes};
use crate::platform::{PacketReader, Readiness};

/// Bytes that sealed datagrams are collected in before they are sent: a full segmented send, and it stays in cache.
const ARENA: usize = 65_536;
/// Packets between two looks at the clock and the routes.
const ROUND: usize = 256;
/// How long a full socket may hold up the adapter; its own queue, which programs feel, fills meanwhile.
const SEND_WAIT: Duration = Duration::from_millis(20);

/// The reading side of the adapter, to be run on a thread.
pub(super) struct Outbound<R> {
    reader: R,
    socket: SharedSocket,
    shared: Arc<Shared>,
    /// Largest packet, in bytes.
    mtu: usize,
    arena: Vec<u8>,
    batch: Batch,
    /// A packet that goes to everyone, while it is sealed for each.
    original: Vec<u8>,
}

impl<R: PacketReader> Outbound<R> {
    pub(super) fn new(reader: R, mtu: u16, socket: SharedSocket, shared: Arc<Shared>) -> Self {
        let mtu = usize::from(mtu);
        Self {
            reader,
            socket,
            shared,
            mtu,
            arena: vec![0; ARENA.max(2 * (mtu + OVERHEAD))],
            batch: Batch::default(),
            original: vec![0; mtu],
        }
    }

    /// Runs until the adapter is stopped, or the error it died of.
    pub(super) fn run(&mut self) -> io::Result<()> {
        loop {
            match self.reader.wait(None)? {
                Readiness::Closed => return Ok(()),
                Readiness::TimedOut => {}
                // After a round the order to stop is looked for again, however much there is to read.
                Readiness::Readable => self.round()?,
            }
        }
    }

    /// Handles the packets that are there, up to [`ROUND`].
    fn round(&mut self) -> io::Result<()> {
        let routes = self.shared.tables.routes.load_full();
        let now_ms = self.shared.clock.now_ms();
        for _ in 0..ROUND {
            let start = self.room();
            let Some(len) = self.reader.read(&mut self.arena[start..start + self.mtu])? else {
                break;
            };
            self.forward(&routes, start, len, now_ms);
        }
        self.flush();
        Ok(())
    }

    /// Where the payload of the next datagram begins; sends what is collected if it would not fit.
    fn room(&mut self) -> usize {
        if self.batch.end() + self.mtu + OVERHEAD > self.arena.len() {
            self.flush();
        }
        self.batch.end() + HEADER_LEN
    }

    fn forward(&mut self, routes: &Routes, start: usize, len: usize, now_ms: u64) {
        let counters = &self.shared.counters;
        let packet = &self.arena[start..start + len];
        let Some(addresses) = Addresses::parse(packet) else {
            counters.drop_malformed_out.one();
            return;
        };
        if !routes.is_own(addresses.source) {
            counters.drop_own_source.one();
            return;
        }
        match routes.destination(addresses.destination) {
            Destination::Peer(peer) => {
                if !self.seal(peer, len, now_ms) {
                    let packet = &self.arena[start..start + len];
                    self.shared
                        .queues
                        .wait(peer.node_id(), packet, &self.shared.counters);
                }
            }
            Destination::Everyone => self.replicate(routes, start, len, now_ms),
            Destination::Nobody => counters.drop_no_route.one(),
        }
    }

    /// Seals a copy for each peer that is online.
    fn replicate(&mut self, routes: &Routes, start: usize, len: usize, now_ms: u64) {
        self.original[..len].copy_from_slice(&self.arena[start..start + len]);
        for peer in routes.everyone() {
            let start = self.room();
            self.arena[start..start + len].copy_from_slice(&self.original[..len]);
            // Without a session the peer is not online, and there is nobody to wait for.
            self.seal(peer, len, now_ms);
        }
    }

    /// Seals the packet that lies in the arena's free room; `false` if there is no session to do it with, and then
    /// the packet is as it was.
    fn seal(&mut self, peer: &Peer, len: usize, now_ms: u64) -> bool {
        let sending = peer.load_sending();
        let Some(sending) = &*sending else {
            return false;
        };
        let datagram = &mut self.arena[self.batch.end()..];
        let Ok(total) = sending.session.seal_into(Kind::Ip, datagram, len, now_ms) else {
            return false;
        };
        if let Some(send) = self.batch.push(sending.endpoint, total) {
            transmit(&self.socket, &self.arena, &send, &self.shared);
        }
        true
    }

    fn flush(&mut self) {
        if let Some(send) = self.batch.finish() {
            transmit(&self.socket, &self.arena, &send, &self.shared);
        }
    }
}

/// Sends a group, waiting a little when the socket is full: the adapter's queue is the better place to drop.
fn transmit(socket: &SharedSocket, arena: &[u8], send: &Send, shared: &Shared) {
    let datagrams = &arena[send.range.clone()];
    let result = match socket.send(send.to, datagrams, Some(send.segment)) {
        // What of the group went out before will come twice, and the replay window takes it once.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => socket
            .wait_writable(SEND_WAIT)
            .and_then(|_| socket.send(send.to, datagrams, Some(send.segment))),
        result => result,
    };
    if let Err(error) = result {
        shared.counters.drop_send.add(send.count());
        tracing::trace!(%error, "datagrams not sent");
    }
}

/// Seals and sends one packet from any thread, for those that waited for a session; `false` if there is none.
pub(super) fn send_one(socket: &SharedSocket, shared: &Shared, peer: &Peer, packet: &[u8]) -> bool {
    let sending = peer.load_sending();
    let Some(sending) = &*sending else {
        return false;
    };
    let mut datagram = vec![0; packet.len() + OVERHEAD];
    datagram[HEADER_LEN..HEADER_LEN + packet.len()].copy_from_slice(packet);
    let sealed =
        sending
            .session
            .seal_into(Kind::Ip, &mut datagram, packet.len(), shared.clock.now_ms());
    let Ok(len) = sealed else { return false };
    let send = Send {
        to: sending.endpoint,
        range: 0..len,
        segment: len,
    };
    transmit(socket, &datagram, &send, shared);
    true
}
