//! The packet path, as `node/src/dataplane` has it on its threads: tables, sealing, opening, the checks of inner
//! addresses, and packets that wait for a session.

use std::{
    collections::{BTreeMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use kanpachi_common::NodeId;
use kanpachi_proto::tunnel::{
    Datagram, Event, HEADER_LEN, Kind, OVERHEAD, Receipt, ReplayWindow, Session, classify,
};

use super::{Node, Out};
use crate::sim::inner;

/// Packets that wait for a session with one peer.
const PARKED: usize = 16;
/// How long they wait.
const PARKED_FOR: Duration = Duration::from_secs(5);

/// This node's overlay addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    pub ipv4: Option<Ipv4Addr>,
    pub ipv6: Ipv6Addr,
}

/// What packets to a peer are sealed with, and where they go.
#[derive(Clone, Debug)]
pub struct Sending {
    pub session: Arc<Session>,
    pub endpoint: SocketAddr,
}

/// Packets that were dropped, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops {
    /// No such session.
    pub session: u64,
    /// Did not open.
    pub sealed: u64,
    /// Seen before, or too old.
    pub replay: u64,
    /// The inner source is not the sender's.
    pub source: u64,
    /// The inner destination is not this node's.
    pub destination: u64,
    /// Waited too long for a session.
    pub waiting: u64,
}

#[derive(Debug)]
struct Receiving {
    session: Arc<Session>,
    window: ReplayWindow,
}

/// What the packet path looks things up in.
#[derive(Debug, Default)]
pub(super) struct Tables {
    pub(super) own: Option<Own>,
    /// Members with their overlay addresses.
    members: BTreeMap<NodeId, [Option<IpAddr>; 2]>,
    routes: BTreeMap<IpAddr, NodeId>,
    sessions: BTreeMap<u32, Receiving>,
    sending: BTreeMap<NodeId, Sending>,
    parked: BTreeMap<NodeId, VecDeque<(Instant, Vec<u8>)>>,
}

impl Tables {
    pub(super) fn set_members(
        &mut self,
        members: impl Iterator<Item = (NodeId, Option<Ipv4Addr>, Ipv6Addr)>,
    ) {
        let addresses =
            |v4: Option<Ipv4Addr>, v6: Ipv6Addr| [v4.map(IpAddr::from), Some(v6.into())];
        self.members = members
            .map(|(id, v4, v6)| (id, addresses(v4, v6)))
            .collect();
        self.routes.clear();
        for (id, addresses) in &self.members {
            for address in addresses.iter().flatten() {
                self.routes.entry(*address).or_insert(*id);
            }
        }
        let members = &self.members;
        self.sending.retain(|id, _| members.contains_key(id));
        (self.sessions).retain(|_, r| members.contains_key(&r.session.peer()));
    }

    pub(super) fn apply(&mut self, event: &Event) {
        match event {
            Event::SessionPending { session, .. } => self.install(session),
            Event::SessionUp {
                peer,
                session,
                endpoint,
            } if self.members.contains_key(peer) => {
                self.install(session);
                let (session, endpoint) = (Arc::clone(session), *endpoint);
                self.sending.insert(*peer, Sending { session, endpoint });
            }
            Event::SessionClosed {
                peer, local_index, ..
            } => {
                self.sessions.remove(local_index);
                if (self.sending.get(peer)).is_some_and(|s| s.session.local_index() == *local_index)
                {
                    self.sending.remove(peer);
                }
            }
            Event::EndpointChanged { peer, endpoint, .. } => {
                if let Some(sending) = self.sending.get_mut(peer) {
                    sending.endpoint = *endpoint;
                }
            }
            _ => {}
        }
    }

    fn install(&mut self, session: &Arc<Session>) {
        if self.members.contains_key(&session.peer()) {
            let (session, window) = (Arc::clone(session), ReplayWindow::new());
            self.sessions
                .entry(session.local_index())
                .or_insert(Receiving { session, window });
        }
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let oldest = self.parked.values().filter_map(|queue| queue.front());
        oldest.map(|(since, _)| *since + PARKED_FOR).min()
    }

    pub(super) fn expire(&mut self, now: Instant, drops: &mut Drops) {
        self.parked.retain(|_, queue| {
            let before = queue.len();
            queue.retain(|(since, _)| now < *since + PARKED_FOR);
            drops.waiting += (before - queue.len()) as u64;
            !queue.is_empty()
        });
    }
}

impl super::Process {
    /// This node's overlay addresses, once it has them.
    pub fn own(&self) -> Option<Own> {
        self.packets.own
    }

    /// Peers of all sessions that packets are received or sent with.
    pub fn session_peers(&self) -> impl Iterator<Item = NodeId> {
        let receiving = self.packets.sessions.values().map(|r| r.session.peer());
        receiving.chain(self.packets.sending.keys().copied())
    }

    /// Whom the tunnels let in.
    pub fn authorised(&self) -> impl Iterator<Item = NodeId> {
        self.tunnels.peers()
    }

    /// How packets to a peer are sent.
    pub fn sending(&self, peer: &NodeId) -> Option<&Sending> {
        self.packets.sending.get(peer)
    }

    /// Can packets be received under this index?
    pub fn receives(&self, index: u32) -> bool {
        (self.packets.sessions.get(&index)).is_some_and(|r| !r.session.is_closed())
    }
}

impl Node {
    /// A datagram came from the underlay.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &mut [u8], now: Instant) {
        match classify(datagram) {
            None => {}
            Some(Datagram::Handshake) => {
                if let Some(process) = &mut self.process {
                    process.tunnels.handle_datagram(from, datagram, now);
                }
            }
            Some(Datagram::Transport { receiver }) => {
                self.handle_transport(from, receiver, datagram, now);
            }
        }
        self.drive(now);
    }

    fn handle_transport(
        &mut self,
        from: SocketAddr,
        receiver: u32,
        datagram: &mut [u8],
        now: Instant,
    ) {
        let Some(process) = &mut self.process else {
            return;
        };
        let now_ms = process.tunnels.millis(now);
        let Some(receiving) = process.packets.sessions.get_mut(&receiver) else {
            process.drops.session += 1;
            return;
        };
        let session = Arc::clone(&receiving.session);
        let Ok(opened) = session.open_in_place(datagram, now_ms) else {
            process.drops.sealed += 1;
            return;
        };
        if !receiving.window.check_and_set(opened.counter) {
            process.drops.replay += 1;
            return;
        }
        session.record_rx(opened.kind, datagram.len(), now_ms);
        let (counter, payload) = (opened.counter, &datagram[opened.payload]);
        if opened.kind == Kind::Control {
            let receipt = Receipt::at_once(receiver, from, counter);
            (process.tunnels).handle_opened_control(receipt, payload, now);
            return;
        }
        if session.wakes() {
            process.tunnels.handle_woken(receiver, now);
        }
        let peer = session.peer();
        let sending = process.packets.sending.get(&peer);
        if !session.is_confirmed() || sending.is_none_or(|s| s.endpoint != from) {
            (process.tunnels).handle_authenticated(receiver, from, counter, now);
        }
        if opened.kind == Kind::Ip {
            self.deliver(peer, payload);
        }
    }

    /// Hands an inner packet to the machine if its sender may have sent it and it is for us.
    fn deliver(&mut self, peer: NodeId, packet: &[u8]) {
        let Some(process) = &mut self.process else {
            return;
        };
        let (Some(inner), Some(own)) = (inner::read(packet), process.packets.own) else {
            process.drops.destination += 1;
            return;
        };
        if process.packets.routes.get(&inner.source) != Some(&peer) {
            process.drops.source += 1;
            return;
        }
        let mine = [own.ipv4.map(IpAddr::from), Some(own.ipv6.into())];
        if !mine.contains(&Some(inner.destination)) {
            process.drops.destination += 1;
            return;
        }
        self.outs.push_back(Out::Deliver(peer, packet.to_vec()));
    }

    /// The machine sends an inner packet. Is there a member of that address?
    pub fn send_inner(&mut self, packet: &[u8], now: Instant) -> bool {
        let Some(process) = &mut self.process else {
            return false;
        };
        let destination = inner::read(packet).map(|inner| inner.destination);
        let peer = destination.and_then(|d| process.packets.routes.get(&d).copied());
        let Some(peer) = peer else {
            return false;
        };
        if !self.seal(&peer, packet, now)
            && let Some(process) = &mut self.process
        {
            let queue = process.packets.parked.entry(peer).or_default();
            queue.push_back((now, packet.to_vec()));
            if queue.len() > PARKED {
                queue.pop_front();
                process.drops.waiting += 1;
            }
            process.tunnels.connect(&peer, now);
        }
        self.drive(now);
        true
    }

    /// Seals a packet to a peer whatever its addresses say, as a changed program could.
    pub fn send_raw(&mut self, peer: &NodeId, packet: &[u8], now: Instant) -> bool {
        self.seal(peer, packet, now)
    }

    fn seal(&mut self, peer: &NodeId, packet: &[u8], now: Instant) -> bool {
        let Some(process) = &mut self.process else {
            return false;
        };
        let Some(Sending { session, endpoint }) = process.packets.sending.get(peer) else {
            return false;
        };
        let mut datagram = vec![0; packet.len() + OVERHEAD];
        datagram[HEADER_LEN..HEADER_LEN + packet.len()].copy_from_slice(packet);
        let now_ms = process.tunnels.millis(now);
        let sealed = session.seal_into(Kind::Ip, &mut datagram, packet.len(), now_ms);
        if sealed.is_ok() && session.wakes() {
            (process.tunnels).handle_woken(session.local_index(), now);
        }
        if sealed.is_ok() {
            self.outs.push_back(Out::Datagram(*endpoint, datagram));
        }
        sealed.is_ok()
    }

    pub(super) fn send_parked(&mut self, peer: &NodeId, now: Instant) {
        let process = self.process.as_mut();
        let parked = process.and_then(|p| p.packets.parked.remove(peer));
        for (_, packet) in parked.into_iter().flatten() {
            if !self.seal(peer, &packet, now)
                && let Some(process) = &mut self.process
            {
                process.drops.waiting += 1;
            }
        }
    }
}
