//! From the socket to the adapter: runs on the socket's reader thread. A datagram is opened where it lies, checked
//! against the replay window and the sender's entry, and written to the adapter before the next one is looked at.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption, Cache};
use kanpachi_common::NodeId;
use kanpachi_common::wire::relay::datagram as relay;
use kanpachi_proto::tunnel::{
    Attended, Datagram, Doorstep, Kind, OpenError, Opened, Receipt, attend, classify,
};
use kanpachi_transport::{DatagramHandler, Expected, SharedSocket};

use super::Shared;
use super::crowd::Crowd;
use super::fragments::Unfinished;
use super::mss;
use super::outbound::send_to;
use super::packet::Addresses;
use super::peers::{Receiving, Routes, Sending, Sessions};
use super::queues::FromPeer;
use super::relays::RelayTable;
use crate::{clock, platform::PacketWriter};

/// How often, in milliseconds, the engine is told that a peer sends from another address than we send to. Deciding
/// takes it one probe, which takes longer.
const TELL_EVERY_MS: u64 = 10;

/// Takes tunnel datagrams from the shared socket.
pub struct Inbound<W> {
    shared: Arc<Shared>,
    /// For answers that need nobody else.
    socket: SharedSocket,
    adapter: Arc<ArcSwapOption<W>>,
    routes: Snapshot<Routes>,
    sessions: Snapshot<Sessions>,
    relays: Snapshot<RelayTable>,
    doorstep: Doorstep,
    aside: Option<Box<dyn Aside>>,
    unfinished: Unfinished,
    /// The time of the current batch.
    now_ms: Option<u64>,
    crowd: Crowd,
    /// For how long at the most what is read lay unread.
    held: Duration,
}

/// Somebody else who takes datagrams on this socket: the relay of a node that relays for others.
pub trait Aside: Send {
    /// Takes a datagram, or leaves it with `false`.
    fn handle(&mut self, from: SocketAddr, datagram: &[u8]) -> bool;
    /// As [`DatagramHandler::end_of_batch`].
    fn end_of_batch(&mut self);
    /// As [`DatagramHandler::end_of_read`].
    fn end_of_read(&mut self, full: bool);
}

type Snapshot<T> = Cache<Arc<ArcSwap<T>>, Arc<T>>;

impl<W> std::fmt::Debug for Inbound<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound").finish_non_exhaustive()
    }
}

impl<W: PacketWriter> Inbound<W> {
    pub(super) fn new(
        shared: Arc<Shared>,
        socket: SharedSocket,
        adapter: Arc<ArcSwapOption<W>>,
        secret: [u8; 16],
    ) -> Self {
        let crowd = Crowd::new(&shared.urgent);
        let routes = Cache::new(Arc::clone(&shared.tables.routes));
        let sessions = Cache::new(Arc::clone(&shared.tables.sessions));
        let relays = Cache::new(Arc::clone(&shared.tables.relays));
        Self {
            shared,
            socket,
            adapter,
            routes,
            sessions,
            relays,
            doorstep: Doorstep::new(secret),
            aside: None,
            unfinished: Unfinished::default(),
            now_ms: None,
            crowd,
            held: Duration::ZERO,
        }
    }

    /// Somebody else is asked first about the datagrams of relays.
    #[must_use]
    pub fn beside(mut self, aside: Option<Box<dyn Aside>>) -> Self {
        self.aside = aside;
        self
    }

    /// Is this the somebody else's?
    fn is_aside(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let relays = matches!(datagram.first(), Some(&relay::BIND | &relay::DATA));
        relays
            && self
                .aside
                .as_mut()
                .is_some_and(|aside| aside.handle(from, datagram))
    }

    fn now_ms(&mut self) -> u64 {
        *self
            .now_ms
            .get_or_insert_with(|| self.shared.clock.now_ms())
    }

    fn handshake(&mut self, from: SocketAddr, datagram: &[u8]) {
        let now_ms = self.now_ms();
        let counters = &self.shared.counters;
        if self.doorstep.admit(from.ip(), datagram, now_ms) {
            self.shared.queues.stranger(from, datagram, counters);
            self.crowd.handshake();
        } else {
            counters.drop_flood.one();
        }
    }

    fn transport(&mut self, from: SocketAddr, receiver: u32, datagram: &mut [u8]) {
        let now_ms = self.now_ms();
        let counters = &self.shared.counters;
        let Some(receiving) = self.sessions.load().get(&receiver) else {
            counters.drop_session.one();
            return;
        };
        let opened = match receiving.session.open_in_place(datagram, now_ms) {
            Ok(opened) => opened,
            Err(error) => {
                match error {
                    OpenError::Closed | OpenError::Expired => counters.drop_expired.one(),
                    OpenError::Malformed => counters.drop_malformed.one(),
                    OpenError::Exhausted | OpenError::Forged => counters.drop_forged.one(),
                }
                return;
            }
        };
        let fresh = {
            // A panic while the lock was held cannot have left half a window: it is set in one step.
            let mut window = receiving
                .window
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            window.check_and_set(opened.counter)
        };
        if !fresh {
            counters.drop_replay.one();
            return;
        }
        receiving
            .session
            .record_rx(opened.kind, datagram.len(), now_ms);
        let payload = &mut datagram[opened.payload.clone()];
        if opened.kind == Kind::Control {
            if !receiving.peer.may_say(now_ms) {
                counters.drop_flood.one();
                return;
            }
            let receipt = Receipt {
                local_index: receiving.session.local_index(),
                from,
                counter: opened.counter,
                held: self.held,
            };
            match control(&self.shared, &self.socket, receiving, receipt, payload) {
                Taken::Here => self.crowd.keepalive(),
                Taken::ByEngine => self.crowd.message(),
            }
            return;
        }
        self.crowd.urgent(now_ms);
        self.shared.queues.woken(&receiving.session);
        let sending = receiving.peer.load_sending();
        let sending = sending.as_deref();
        tell_engine(&self.shared, receiving, sending, from, &opened, now_ms);
        let to = Delivery {
            shared: &self.shared,
            routes: self.routes.load(),
            adapter: &self.adapter,
            receiving,
            sending,
        };
        match opened.kind {
            Kind::Ip => to.deliver(payload),
            Kind::Fragment => {
                let peer = receiving.peer.node_id();
                let (whole, lost) = self.unfinished.add(peer, payload, now_ms);
                counters.drop_fragment.add(lost);
                match whole {
                    Some(mut whole) if whole.kind == Kind::Ip => to.deliver(&mut whole.bytes),
                    Some(_) => counters.drop_kind.one(),
                    None => {}
                }
            }
            Kind::Ethernet | Kind::Control => counters.drop_kind.one(),
        }
    }
}

impl<W: PacketWriter> Inbound<W> {
    /// Takes a datagram that came over the stream of a relay.
    pub fn handle_streamed(&mut self, relay: &NodeId, channel: u16, datagram: &mut [u8]) {
        match self.relays.load().by_stream(relay, channel) {
            Some(via) => self.tunnel(via, datagram),
            None => self.shared.counters.drop_relay.one(),
        }
        self.end_of_batch();
    }

    fn relayed(&mut self, from: SocketAddr, session: u32, channel: u16, datagram: &mut [u8]) {
        let via = self.relays.load().by_datagram(from, session, channel);
        match (via, datagram.get_mut(relay::HEADER_LEN..)) {
            (Some(via), Some(datagram)) => self.tunnel(via, datagram),
            _ => self.shared.counters.drop_relay.one(),
        }
    }

    fn tunnel(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        match classify(datagram) {
            Some(Datagram::Transport { receiver }) => self.transport(from, receiver, datagram),
            Some(Datagram::Handshake) => self.handshake(from, datagram),
            None => self.shared.counters.drop_malformed.one(),
        }
    }
}

impl<W: PacketWriter> DatagramHandler for Inbound<W> {
    fn handle(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        if self.is_aside(from, datagram) {
            // Bindings come when keepalives do, and data when somebody waits for it.
            if datagram.first() == Some(&relay::DATA) {
                let now_ms = self.now_ms();
                self.crowd.urgent(now_ms);
            } else {
                self.crowd.keepalive();
            }
            return;
        }
        if let Some((session, channel)) = relay::decode_header(datagram) {
            self.relayed(from, session, channel, datagram);
        } else if is_answer(datagram, self.relays.load()) {
            let counters = &self.shared.counters;
            self.shared.queues.stranger(from, datagram, counters);
            match relay::decode_bound(datagram) {
                Some((relay::Step::Bound, _)) => self.crowd.keepalive(),
                Some((relay::Step::Challenge, _)) => self.crowd.handshake(),
                None => {}
            }
        } else {
            self.tunnel(from, datagram);
        }
    }

    fn end_of_batch(&mut self) {
        if !self.unfinished.is_empty() {
            let now_ms = self.now_ms();
            let lost = self.unfinished.expire(now_ms);
            self.shared.counters.drop_fragment.add(lost);
        }
        self.now_ms = None;
        if let Some(aside) = &mut self.aside {
            aside.end_of_batch();
        }
    }

    fn expects(&mut self) -> Expected {
        let clock = &self.shared.clock;
        self.crowd.expects(|| clock.now_ms())
    }

    fn held(&mut self, at_most: Duration) {
        self.held = at_most;
    }

    fn end_of_read(&mut self, full: bool) {
        if let Some(aside) = &mut self.aside {
            aside.end_of_read(full);
        }
    }
}

/// An answer of a reflector, or of a relay that this node has a session with.
fn is_answer(datagram: &[u8], relays: &RelayTable) -> bool {
    match datagram.first() {
        Some(0x05 | 0x06) => true,
        Some(&relay::BOUND) => {
            relay::decode_bound(datagram).is_some_and(|(_, bind)| relays.has(bind.session))
        }
        _ => false,
    }
}

/// What became of a control message.
enum Taken {
    /// Attended to, as of a session at rest.
    Here,
    /// The engine was woken for it.
    ByEngine,
}

/// A control message: one of a session at rest is attended to here, and all others wake the engine.
fn control(
    shared: &Shared,
    socket: &SharedSocket,
    receiving: &Receiving,
    receipt: Receipt,
    payload: &[u8],
) -> Taken {
    let (session, from) = (&receiving.session, receipt.from);
    let sending = receiving.peer.load_sending();
    // In the session that this node sends with, from where it sends to.
    let usual = sending.as_deref().is_some_and(|sending| {
        sending.endpoint == from && sending.session.local_index() == receipt.local_index
    });
    let attended = if usual {
        attend(session, &receipt, payload, shared.clock.now_ms())
    } else {
        Attended::No
    };
    if let Attended::Answered(answer) = &attended
        && let Err(error) = send_to(socket, shared, from, answer, None)
    {
        // The peer asks again.
        tracing::trace!(to = %from, %error, "not sent");
    }
    let payload = payload.to_vec();
    match attended {
        Attended::No => {
            let message = FromPeer::Control { receipt, payload };
            shared.queues.peer(message, &shared.counters);
            Taken::ByEngine
        }
        Attended::Later | Attended::Answered(_) => {
            let at = clock::now();
            let message = FromPeer::Attended {
                receipt,
                payload,
                at,
            };
            shared.queues.later(message, &shared.counters);
            Taken::Here
        }
    }
}

/// Tells the engine of what only it can decide: a session is confirmed, or the peer sends from elsewhere.
fn tell_engine(
    shared: &Shared,
    receiving: &Receiving,
    sending: Option<&Sending>,
    from: SocketAddr,
    opened: &Opened,
    now_ms: u64,
) {
    let usual =
        receiving.session.is_confirmed() && sending.is_some_and(|sending| sending.endpoint == from);
    if usual {
        return;
    }
    let told = receiving.told_ms.load(Relaxed);
    if told != 0 && now_ms < told.saturating_add(TELL_EVERY_MS) {
        return;
    }
    receiving.told_ms.store(now_ms.max(1), Relaxed);
    let local_index = receiving.session.local_index();
    let message = FromPeer::Authenticated {
        local_index,
        from,
        counter: opened.counter,
    };
    shared.queues.peer(message, &shared.counters);
}

/// Where inner packets of one session go.
struct Delivery<'a, W> {
    shared: &'a Shared,
    routes: &'a Routes,
    adapter: &'a ArcSwapOption<W>,
    receiving: &'a Receiving,
    /// How the peer is answered.
    sending: Option<&'a Sending>,
}

impl<W: PacketWriter> Delivery<'_, W> {
    /// Writes an inner packet to the adapter if its sender may have sent it and it is for us.
    fn deliver(&self, packet: &mut [u8]) {
        let (counters, routes, receiving) = (&self.shared.counters, self.routes, self.receiving);
        let Some(addresses) = Addresses::parse(packet) else {
            counters.drop_malformed.one();
            return;
        };
        if !routes.accepts_source(&receiving.peer, addresses.source) {
            counters.drop_source.one();
            return;
        }
        if !routes.accepts_destination(addresses.destination) {
            counters.drop_destination.one();
            return;
        }
        if let Some(Sending { limit, .. }) = self.sending
            && limit.settled
            && !limit.full
        {
            // What our machine may send to its peer must fit the way back, which may be a narrower one.
            mss::clamp(packet, limit.payload());
        }
        let adapter = self.adapter.load();
        let written = adapter
            .as_ref()
            .is_some_and(|adapter| adapter.write(packet).is_ok());
        if !written {
            counters.drop_adapter.one();
        }
    }
}
