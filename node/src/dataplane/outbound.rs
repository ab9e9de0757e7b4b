//! From the adapter to the socket: one plain thread that reads a packet, looks up its peer, seals it where it lies and
//! sends it with its neighbours. No lock, and no allocation but for packets that must wait for a handshake.
//!
//! What the path to its peer does not carry takes the slow way ([`Outbound::squeeze`]): the machine is told the size that
//! fits, or the packet is cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kanpachi_proto::path::Via;
use kanpachi_proto::tunnel::{FRAGMENT_HEADER_LEN, HEADER_LEN, Kind, OVERHEAD};
use kanpachi_transport::SharedSocket;

use super::Shared;
use super::batch::{Batch, Send};
use super::fragments::Cut;
use super::packet::{self, Addresses};
use super::peers::{Destination, Peer, Routes, Sending};
use super::{mss, too_big};
use crate::platform::{Adapter, PacketReader, PacketWriter, Readiness};

/// Bytes that sealed datagrams are collected in before they are sent: a full segmented send, and it stays in cache.
const ARENA: usize = 65_536;
/// Packets between two looks at the clock and the routes.
const ROUND: usize = 256;
/// How long a full socket may hold up the adapter; its own queue, which programs feel, fills meanwhile.
const SEND_WAIT: Duration = Duration::from_millis(20);

/// "Too big" answers to the machine in a second, to all its programs.
const ANSWERS_PER_SECOND: u32 = 200;

/// The reading side of the adapter, to be run on a thread.
pub(super) struct Outbound<R, W> {
    reader: R,
    /// For answers to the machine about packets that are too big.
    writer: W,
    socket: SharedSocket,
    shared: Arc<Shared>,
    /// Largest packet, in bytes.
    mtu: usize,
    arena: Vec<u8>,
    batch: Batch,
    /// A packet that goes to everyone, while it is sealed for each.
    original: Vec<u8>,
    /// A packet while it is cut.
    whole: Vec<u8>,
    answers: Answers,
}

impl<R: PacketReader, W: PacketWriter> Outbound<R, W> {
    pub(super) fn new<A>(adapter: &A, socket: SharedSocket, shared: Arc<Shared>) -> Self
    where
        A: Adapter<Reader = R, Writer = W>,
    {
        let mtu = usize::from(adapter.mtu());
        Self {
            reader: adapter.reader(),
            writer: adapter.writer(),
            socket,
            shared,
            mtu,
            arena: vec![0; ARENA.max(2 * (mtu + OVERHEAD))],
            batch: Batch::default(),
            original: vec![0; mtu],
            whole: vec![0; mtu],
            answers: Answers::default(),
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
                if !self.seal(peer, Only::One, len, now_ms) {
                    let start = self.batch.end() + HEADER_LEN;
                    let packet = &self.arena[start..start + len];
                    self.shared
                        .queues
                        .wait(peer.node_id(), packet, &self.shared.counters);
                }
            }
            Destination::Everyone if packet::is_own_mdns(packet, &self.shared.name) => {}
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
            self.seal(peer, Only::Each, len, now_ms);
        }
    }

    /// Seals the packet that lies in the arena's free room; `false` if there is no session to do it with, and then
    /// the packet is as it was.
    fn seal(&mut self, peer: &Peer, only: Only, len: usize, now_ms: u64) -> bool {
        let sending = peer.load_sending();
        let Some(sending) = &*sending else {
            return false;
        };
        if !sending.limit.full {
            return self.squeeze(peer, sending, only, len, now_ms);
        }
        self.seal_as(sending, Kind::Ip, len, now_ms)
    }

    /// Seals a payload that lies in the arena's free room.
    fn seal_as(&mut self, sending: &Sending, kind: Kind, len: usize, now_ms: u64) -> bool {
        let datagram = &mut self.arena[self.batch.end()..];
        let Ok(total) = sending.session.seal_into(kind, datagram, len, now_ms) else {
            return false;
        };
        self.shared.queues.woken(&sending.session);
        if let Some(send) = self.batch.push(sending.endpoint, total) {
            transmit(&self.socket, &self.arena, &send, &self.shared);
        }
        true
    }

    /// As [`Outbound::seal`] where the path may be too small for the packet.
    ///
    /// While the size of the path is not known yet nothing is refused: what the machine is told of it would stay for
    /// minutes, and the search takes less than a second.
    fn squeeze(
        &mut self,
        peer: &Peer,
        sending: &Sending,
        only: Only,
        len: usize,
        now_ms: u64,
    ) -> bool {
        let (limit, start) = (sending.limit, self.batch.end() + HEADER_LEN);
        let packet = &mut self.arena[start..start + len];
        if limit.settled {
            mss::clamp(packet, limit.payload());
        }
        if len <= limit.payload() {
            return self.seal_as(sending, Kind::Ip, len, now_ms);
        }
        if limit.settled
            && only == Only::One
            && let Some(answer) = too_big::answer(packet, limit.payload())
            && self.answers.allow(now_ms)
        {
            if let Err(error) = self.writer.write(&answer) {
                tracing::trace!(%error, "the machine was not told that its packet is too big");
            }
            // TCP heeds the answer and would still wait for its timer, which has grown long in a black hole. For others the
            // loss is the message: they may be looking for the size themselves.
            if !mss::is_tcp(packet) {
                self.shared.counters.drop_too_big.one();
                return true;
            }
        }
        self.whole[..len].copy_from_slice(packet);
        let Some(cut) = Cut::new(peer.next_fragment_id(), len, limit.payload()) else {
            self.shared.counters.drop_too_big.one();
            return true;
        };
        for index in 0..cut.count() {
            let start = self.room();
            let room = &mut self.arena[start..];
            let Some(piece) = cut.write(&self.whole[..len], index, room) else {
                break;
            };
            if !self.seal_as(sending, Kind::Fragment, piece, now_ms) {
                let start = self.room();
                self.arena[start..start + len].copy_from_slice(&self.whole[..len]);
                return false;
            }
        }
        true
    }

    fn flush(&mut self) {
        if let Some(send) = self.batch.finish() {
            transmit(&self.socket, &self.arena, &send, &self.shared);
        }
    }
}

/// Is a packet for one peer, who may be refused it, or a copy for each?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    One,
    Each,
}

/// Bounds how often the machine is told that a packet is too big. Whoever does not listen is cut instead.
#[derive(Debug, Default)]
struct Answers {
    second: u64,
    given: u32,
}

impl Answers {
    fn allow(&mut self, now_ms: u64) -> bool {
        let second = now_ms / 1000;
        if self.second != second {
            (self.second, self.given) = (second, 0);
        }
        self.given += 1;
        self.given <= ANSWERS_PER_SECOND
    }
}

/// Sends a group, waiting a little when the socket is full: the adapter's queue is the better place to drop.
fn transmit(socket: &SharedSocket, arena: &[u8], send: &Send, shared: &Shared) {
    let datagrams = &arena[send.range.clone()];
    let again = || send_to(socket, shared, send.to, datagrams, Some(send.segment));
    let result = match again() {
        // What of the group went out before will come twice, and the replay window takes it once.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            socket.wait_writable(SEND_WAIT).and_then(|_| again())
        }
        result => result,
    };
    if let Err(error) = result {
        shared.counters.drop_send.add(send.count());
        tracing::trace!(%error, "datagrams not sent");
    }
}

/// Sends datagrams to an address, or over what it stands for.
pub(super) fn send_to(
    socket: &SharedSocket,
    shared: &Shared,
    to: SocketAddr,
    datagrams: &[u8],
    segment: Option<usize>,
) -> io::Result<()> {
    let each = segment.unwrap_or(datagrams.len());
    match Via::of(to) {
        None => socket.send(to, datagrams, segment),
        Some(Via::Relay { .. }) => {
            let relays = shared.tables.relays.load();
            relays.send(socket, to, datagrams, each)
        }
        Some(Via::Socket { .. }) => shared.sockets.send(to, datagrams, each),
    }
}

/// Seals and sends one packet from any thread, for those that waited for a session; `false` if there is none. What does
/// not fit the path is cut.
pub(super) fn send_one(socket: &SharedSocket, shared: &Shared, peer: &Peer, packet: &[u8]) -> bool {
    let sending = peer.load_sending();
    let Some(sending) = &*sending else {
        return false;
    };
    let limit = sending.limit;
    let mut datagram = vec![0; packet.len() + FRAGMENT_HEADER_LEN + OVERHEAD];
    let send = |kind, len: usize, datagram: &mut [u8]| {
        let now_ms = shared.clock.now_ms();
        let Ok(len) = sending.session.seal_into(kind, datagram, len, now_ms) else {
            return false;
        };
        shared.queues.woken(&sending.session);
        let send = Send {
            to: sending.endpoint,
            range: 0..len,
            segment: len,
        };
        transmit(socket, datagram, &send, shared);
        true
    };
    if limit.full || packet.len() <= limit.payload() {
        let payload = &mut datagram[HEADER_LEN..HEADER_LEN + packet.len()];
        payload.copy_from_slice(packet);
        if limit.settled && !limit.full {
            mss::clamp(payload, limit.payload());
        }
        return send(Kind::Ip, packet.len(), &mut datagram);
    }
    let Some(cut) = Cut::new(peer.next_fragment_id(), packet.len(), limit.payload()) else {
        shared.counters.drop_too_big.one();
        return true;
    };
    (0..cut.count()).all(|index| {
        let piece = cut.write(packet, index, &mut datagram[HEADER_LEN..]);
        piece.is_some_and(|len| send(Kind::Fragment, len, &mut datagram))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_told_a_bounded_number_of_times_a_second() {
        let mut answers = Answers::default();
        let mut given = 0;
        for now_ms in 0..3000 {
            given += u32::from(answers.allow(now_ms));
        }
        assert_eq!(given, 3 * ANSWERS_PER_SECOND);
    }
}
