//! All peers of a node: routes inputs to them, keeps their timers, and stands at the door for strangers.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    time::Instant,
};

use kanpachi_common::{NetworkId, NodeId, OrgId, nat::NatBehaviour};
use zeroize::Zeroizing;

use super::{
    admission::{Admission, Verdict},
    context::{Config, Context, LocalIdentity},
    event::{CloseReason, Counters, Event, PeerStatus, Transmit},
    mac::CookieJar,
    noise::Responder,
    payload::Payload,
    peer::{Peer, PeerConfig},
    rest::Receipt,
    timers,
    wire::{self, Handshake, MAC1_AT, MAC2_AT, canonical},
};
use crate::path::{Candidate, PROBE_IDLE_EARLY};

/// The tunnels of one node. One thread owns it; packet threads hold the sessions that it hands out.
///
/// After every call drain [`poll_transmit`](Self::poll_transmit) and [`poll_event`](Self::poll_event), then arm the
/// timer from [`poll_timeout`](Self::poll_timeout). Rejected input changes nothing but a counter.
pub struct Tunnels {
    cx: Context,
    peers: BTreeMap<NodeId, Peer>,
    timers: BTreeSet<(Instant, NodeId)>,
    admission: Admission,
    jar: CookieJar,
}

impl fmt::Debug for Tunnels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnels")
            .field("identity", &self.cx.identity)
            .field("peers", &self.peers.len())
            .finish_non_exhaustive()
    }
}

impl Tunnels {
    /// No peers yet.
    ///
    /// `seed` is 32 fresh random bytes. `handshake_counter_floor` is above every value ever given here before with the
    /// same tunnel key: `max(stored + 1, wall seconds)`, stored durably before this call.
    #[must_use]
    pub fn new(
        identity: LocalIdentity,
        config: Config,
        seed: [u8; 32],
        handshake_counter_floor: u64,
        now: Instant,
    ) -> Self {
        let admission = Admission::new(config.initiations_per_second);
        let mut cx = Context::new(identity, config, seed, handshake_counter_floor, now);
        let jar = CookieJar::new(&mut cx.entropy, now);
        Self {
            cx,
            peers: BTreeMap::new(),
            timers: BTreeSet::new(),
            admission,
            jar,
        }
    }

    /// The time of the packet path: milliseconds since `new`.
    #[must_use]
    pub fn millis(&self, now: Instant) -> u64 {
        self.cx.millis(now)
    }

    /// Keepalives of pairs at rest are due at this moment and at all that are a multiple of
    /// [`PERSISTENT_KEEPALIVE`](timers::PERSISTENT_KEEPALIVE) away from it. Where all nodes have the same, each of them sends its
    /// own and hears those of the others in one go.
    pub fn set_beat(&mut self, moment: Instant) {
        self.cx.beat = Some(moment);
    }

    /// Authorises a member, or updates what is known of it. A new tunnel key ends its sessions.
    pub fn set_peer(&mut self, config: PeerConfig, now: Instant) {
        let id = config.node_id;
        if id == self.cx.identity.node_id {
            return;
        }
        let mut wanted = false;
        if let Some(peer) = self.peers.get_mut(&id) {
            if peer.config().tunnel_key == config.tunnel_key {
                peer.update(config);
                return;
            }
            wanted = peer.is_wanted();
            self.remove(&id, CloseReason::KeyChanged, now);
        }
        let peer = Peer::new(config, &self.cx, now);
        self.peers.insert(id, peer);
        if wanted {
            self.connect(&id, now);
        }
    }

    /// The member is not authorised any more: its sessions neither seal nor open from now on.
    pub fn remove_peer(&mut self, peer: &NodeId, now: Instant) {
        self.remove(peer, CloseReason::Removed, now);
    }

    fn remove(&mut self, id: &NodeId, reason: CloseReason, now: Instant) {
        let Some(mut peer) = self.peers.remove(id) else {
            return;
        };
        peer.shut(&mut self.cx, reason, now);
        if let Some(at) = peer.deadline {
            self.timers.remove(&(at, *id));
        }
    }

    /// Replaces the addresses where the member may be; at most 16, implausible ones left out.
    pub fn set_candidates(&mut self, peer: &NodeId, candidates: &[Candidate], now: Instant) {
        let loopback = self.cx.config.allow_loopback;
        let mut good = Vec::with_capacity(candidates.len().min(16));
        for candidate in candidates {
            let addr = canonical(candidate.addr);
            let plausible = kanpachi_common::Candidate {
                addr,
                kind: kanpachi_common::CandidateKind::Host,
            }
            .is_plausible();
            let allowed = plausible || (loopback && addr.ip().is_loopback() && addr.port() != 0);
            if allowed && good.iter().all(|c: &Candidate| c.addr != addr) {
                good.push(Candidate { addr, ..*candidate });
            }
        }
        self.with(peer, now, |peer, cx| peer.offer(cx, &good, now));
    }

    /// Replaces the ways to the member over relays, each named by a [`Via`](crate::path::Via) address.
    pub fn set_relayed(&mut self, peer: &NodeId, ways: &[SocketAddr], now: Instant) {
        self.with(peer, now, |peer, cx| peer.relayed(cx, ways, now));
    }

    /// What the NAT in front of this node does, as far as it is known.
    pub fn set_nat(&mut self, nat: Option<NatBehaviour>, now: Instant) {
        if self.cx.nat == nat {
            return;
        }
        self.cx.nat = nat;
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            self.with(&id, now, |peer, cx| peer.nat_changed(cx, now));
        }
    }

    /// The same of a member.
    pub fn set_peer_nat(&mut self, peer: &NodeId, nat: Option<NatBehaviour>, now: Instant) {
        self.with(peer, now, |peer, cx| peer.set_nat(cx, nat, now));
    }

    /// What this node knows: told to all live sessions, to whoever is behind until it is not, and in every handshake. Each peer is told of networks in
    /// common only.
    pub fn set_epochs(&mut self, generation: u64, epochs: Vec<(NetworkId, u64)>, now: Instant) {
        self.cx.generation = generation;
        self.cx.epochs = epochs.into_iter().collect();
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            self.with(&id, now, |peer, cx| peer.tell_epochs(cx, now));
        }
    }

    /// Keep a session with this member from now on.
    pub fn connect(&mut self, peer: &NodeId, now: Instant) {
        self.with(peer, now, |peer, cx| peer.connect(cx, now));
    }

    /// Ends the session and stops trying. The member stays authorised and may call.
    pub fn disconnect(&mut self, peer: &NodeId, now: Instant) {
        self.with(peer, now, |peer, cx| {
            peer.shut(cx, CloseReason::Disconnected, now);
        });
    }

    /// Addresses of this machine have changed, or it has slept: probe all paths now and try again where trying had
    /// stopped.
    pub fn handle_network_change(&mut self, now: Instant) {
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            self.with(&id, now, |peer, cx| peer.network_changed(cx, now));
        }
    }

    /// The organisation became known after the start. Only handshakes from now on are under it.
    pub fn set_org(&mut self, org: OrgId) {
        self.cx.set_org(org);
    }

    /// All authorised members.
    pub fn peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.keys().copied()
    }

    /// Asks the member for an answer over the path that data takes: [`Event::Pong`] with the token, or nothing.
    /// `false` when there is no session to ask in.
    pub fn ping(&mut self, peer: &NodeId, token: u64, now: Instant) -> bool {
        let mut asked = false;
        self.with(peer, now, |peer, cx| asked = peer.ping(cx, token, now));
        asked
    }

    /// A datagram that [`classify`](wire::classify) calls a handshake.
    pub fn handle_datagram(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        let from = canonical(from);
        match Handshake::parse(datagram) {
            Some(Handshake::Init(init)) => self.handle_init(from, &init, now),
            Some(Handshake::Response(response)) => {
                if !self.cx.macs.check_mac1(response.bytes) {
                    self.cx.counters.bad_mac += 1;
                    return;
                }
                self.with_index(response.receiver, now, |peer, cx| {
                    peer.handle_response(cx, from, &response, now);
                });
            }
            Some(Handshake::Cookie(reply)) => {
                self.with_index(reply.receiver, now, |peer, cx| {
                    peer.handle_cookie(cx, from, &reply, now);
                });
            }
            None => self.cx.counters.malformed += 1,
        }
    }

    /// In this order: mac1, memory, cookie and budget, arithmetic, membership, counter.
    fn handle_init(&mut self, from: SocketAddr, init: &wire::Init<'_>, now: Instant) {
        if !self.cx.macs.check_mac1(init.bytes) {
            self.cx.counters.bad_mac += 1;
            return;
        }
        let known = self
            .cx
            .half_open
            .get(&init.bytes[MAC1_AT..MAC2_AT])
            .copied();
        if let Some(peer) = known.and_then(|id| self.peers.get_mut(&id))
            && peer.repeat_answer(&mut self.cx, from, init)
        {
            return;
        }
        if !self.admit(from, init, now) {
            return;
        }
        let secret = Zeroizing::new(self.cx.identity.tunnel_secret.to_bytes());
        let seed = self.cx.entropy.draw();
        let noise = Responder::read(&secret, &self.cx.own_prologue, seed, init.noise());
        let Ok(noise) = noise else {
            self.cx.counters.undecryptable += 1;
            return;
        };
        let Some(payload) = Payload::decode(&noise.payload) else {
            self.cx.counters.refused += 1;
            return;
        };
        let id = payload.node;
        let known = self.peers.get(&id).map(Peer::config);
        if known.is_none_or(|config| config.tunnel_key != noise.initiator) {
            self.cx.counters.unknown_peer += 1;
            return;
        }
        self.with(&id, now, |peer, cx| {
            peer.answer(cx, from, init, noise, payload, now);
        });
    }

    fn admit(&mut self, from: SocketAddr, init: &wire::Init<'_>, now: Instant) -> bool {
        let cx = &mut self.cx;
        let proven = init.bytes[MAC2_AT..].iter().any(|b| *b != 0)
            && self.jar.check_mac2(init.bytes, from, &mut cx.entropy, now);
        let crowded = cx.half_open.len() >= timers::MAX_PENDING / 4 * 3;
        match (self.admission).judge(from.ip(), proven, crowded, cx.millis(now)) {
            Verdict::Answer => true,
            Verdict::Drop => {
                cx.counters.rate_limited += 1;
                false
            }
            Verdict::Cookie => {
                let entropy = &mut cx.entropy;
                let reply = (self.jar).reply(&cx.macs, init.bytes, init.sender, from, entropy, now);
                if let Some(reply) = reply {
                    cx.counters.cookies_sent += 1;
                    cx.transmit(from, reply);
                }
                false
            }
        }
    }

    /// A kind-3 payload that was authenticated and passed the replay window.
    pub fn handle_opened_control(&mut self, receipt: Receipt, payload: &[u8], now: Instant) {
        self.handle_control(receipt, payload, false, now);
    }

    /// The same of one that a packet thread has [attended](super::attend) to, and when that was.
    pub fn handle_attended(&mut self, receipt: Receipt, payload: &[u8], then: Instant) {
        self.handle_control(receipt, payload, true, then);
    }

    fn handle_control(&mut self, receipt: Receipt, payload: &[u8], attended: bool, at: Instant) {
        let from = canonical(receipt.from);
        let receipt = Receipt { from, ..receipt };
        self.with_index(receipt.local_index, at, |peer, cx| {
            peer.handle_control(cx, &receipt, payload, attended, at);
        });
    }

    /// A data packet was authenticated and passed the replay window, and either its session is not confirmed yet or it
    /// came from another address than the endpoint.
    pub fn handle_authenticated(
        &mut self,
        local_index: u32,
        from: SocketAddr,
        counter: u64,
        now: Instant,
    ) {
        let from = canonical(from);
        self.with_index(local_index, now, |peer, cx| {
            peer.handle_authenticated(cx, local_index, from, counter, now);
        });
    }

    /// A session carries data after a rest: [`Session::wakes`](super::Session::wakes) said so.
    pub fn handle_woken(&mut self, local_index: u32, now: Instant) {
        self.with_index(local_index, now, |peer, cx| peer.woken(cx, now));
    }

    /// Does what was due. Call at [`poll_timeout`](Self::poll_timeout).
    pub fn handle_timeout(&mut self, now: Instant) {
        let mut woken = false;
        while let Some((at, id)) = self.timers.first().copied()
            && at <= now
        {
            woken = true;
            self.timers.pop_first();
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.deadline = None;
            }
            self.with(&id, now, |peer, cx| peer.handle_timeout(cx, now));
        }
        if woken {
            self.keep_together(now);
        }
    }

    /// Keepalives that are due soon go out now: one waking serves many.
    fn keep_together(&mut self, now: Instant) {
        let soon = now + PROBE_IDLE_EARLY;
        let soon = self.timers.iter().take_while(|(at, _)| *at <= soon);
        let soon: Vec<NodeId> = soon.map(|(_, id)| *id).collect();
        for id in soon {
            self.with(&id, now, |peer, cx| peer.keep_early(cx, now));
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.cx.transmits.pop_front()
    }

    /// The next thing to act on.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.cx.events.pop_front()
    }

    /// A member, for a status display.
    #[must_use]
    pub fn status(&self, peer: &NodeId, now: Instant) -> Option<PeerStatus> {
        Some(self.peers.get(peer)?.status(now))
    }

    /// What was refused, and why.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.cx.counters
    }

    fn with_index(&mut self, index: u32, now: Instant, f: impl FnOnce(&mut Peer, &mut Context)) {
        match self.cx.indices.get(&index).copied() {
            Some(id) => self.with(&id, now, f),
            None => self.cx.counters.refused += 1,
        }
    }

    /// Runs something on one peer and sets its timer anew.
    fn with(&mut self, id: &NodeId, now: Instant, f: impl FnOnce(&mut Peer, &mut Context)) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        f(peer, &mut self.cx);
        // Never at once: a timer that is always due must not keep its thread.
        let soonest = now + timers::SOONEST;
        let deadline = peer.poll_timeout(&self.cx, now).map(|at| at.max(soonest));
        if deadline == peer.deadline {
            return;
        }
        if let Some(old) = peer.deadline {
            self.timers.remove(&(old, *id));
        }
        if let Some(new) = deadline {
            self.timers.insert((new, *id));
        }
        peer.deadline = deadline;
    }
}
