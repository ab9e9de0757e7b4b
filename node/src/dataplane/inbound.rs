//! From the socket to the adapter: runs on the socket's reader thread. A datagram is opened where it lies, checked
//! against the replay window and the sender's entry, and written to the adapter before the next one is looked at.

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption, Cache};
use kanpachi_proto::tunnel::{Datagram, Doorstep, Kind, OpenError, Opened, classify};
use kanpachi_transport::DatagramHandler;

use super::Shared;
use super::packet::Addresses;
use super::peers::{Receiving, Routes, Sessions};
use super::queues::FromPeer;
use crate::platform::PacketWriter;

/// How often, in milliseconds, the engine is told that a peer sends from another address than we send to. Deciding
/// takes it one probe, which takes longer.
const TELL_EVERY_MS: u64 = 10;

/// Takes tunnel datagrams from the shared socket.
pub struct Inbound<W> {
    shared: Arc<Shared>,
    adapter: Arc<ArcSwapOption<W>>,
    routes: Snapshot<Routes>,
    sessions: Snapshot<Sessions>,
    doorstep: Doorstep,
    /// The time of the current batch.
    now_ms: Option<u64>,
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
        adapter: Arc<ArcSwapOption<W>>,
        secret: [u8; 16],
    ) -> Self {
        let routes = Cache::new(Arc::clone(&shared.tables.routes));
        let sessions = Cache::new(Arc::clone(&shared.tables.sessions));
        Self {
            shared,
            adapter,
            routes,
            sessions,
            doorstep: Doorstep::new(secret),
            now_ms: None,
        }
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
        let payload = &datagram[opened.payload.clone()];
        if opened.kind == Kind::Control {
            let message = FromPeer::Control {
                local_index: receiver,
                from,
                counter: opened.counter,
                payload: payload.to_vec(),
            };
            self.shared.queues.peer(message, counters);
            return;
        }
        tell_engine(&self.shared, receiving, from, &opened, now_ms);
        match opened.kind {
            Kind::Ip => deliver(
                &self.shared,
                self.routes.load(),
                &self.adapter,
                receiving,
                payload,
            ),
            Kind::Ethernet | Kind::Fragment | Kind::Control => counters.drop_kind.one(),
        }
    }
}

impl<W: PacketWriter> DatagramHandler for Inbound<W> {
    fn handle(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        match classify(datagram) {
            Some(Datagram::Transport { receiver }) => self.transport(from, receiver, datagram),
            Some(Datagram::Handshake) => self.handshake(from, datagram),
            None if is_reflector(datagram) => {
                self.shared
                    .queues
                    .stranger(from, datagram, &self.shared.counters)
            }
            None => self.shared.counters.drop_malformed.one(),
        }
    }

    fn end_of_batch(&mut self) {
        self.now_ms = None;
    }
}

/// Reflector request and answer, in the registry of first bytes.
fn is_reflector(datagram: &[u8]) -> bool {
    matches!(datagram.first(), Some(0x05 | 0x06))
}

/// Tells the engine of what only it can decide: a session is confirmed, or the peer sends from elsewhere.
fn tell_engine(
    shared: &Shared,
    receiving: &Receiving,
    from: SocketAddr,
    opened: &Opened,
    now_ms: u64,
) {
    let usual = receiving.session.is_confirmed()
        && receiving
            .peer
            .load_sending()
            .as_ref()
            .is_some_and(|sending| sending.endpoint == from);
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

/// Writes an inner packet to the adapter if its sender may have sent it and it is for us.
fn deliver<W: PacketWriter>(
    shared: &Shared,
    routes: &Routes,
    adapter: &ArcSwapOption<W>,
    receiving: &Receiving,
    packet: &[u8],
) {
    let counters = &shared.counters;
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
    let written = adapter
        .load()
        .as_ref()
        .is_some_and(|adapter| adapter.write(packet).is_ok());
    if !written {
        counters.drop_adapter.one();
    }
}
