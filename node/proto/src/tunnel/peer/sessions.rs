//! The keys of one member: half-open answers, confirmed sessions, and which of them is sent with.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    super::{
        context::Context,
        event::{CloseReason, Event},
        mac::Mac16,
        noise::{Keys, Responder},
        payload::{HandshakeCounter, Payload, RESPONSE_PAYLOAD_LEN},
        session::{Session, SessionInfo},
        timers,
        wire::{self, HANDSHAKE_LEN, MAC1_AT, MAC2_AT},
    },
    Peer,
};
use crate::path::Order;

/// A confirmed session.
pub(super) struct Live {
    pub(super) session: Arc<Session>,
    pub(super) created: Instant,
    /// When this node took part in the handshake: as responder some time before the session was confirmed.
    begun: Instant,
    /// When this node starts its successor.
    pub(super) rekey_at: Instant,
    /// The same without chance: sessions at rest that were made together have their successors together.
    pub(super) rekey_from: Instant,
}

/// What a handshake has led to.
pub(super) struct Agreed {
    pub(super) local_index: u32,
    pub(super) remote_index: u32,
    pub(super) keys: Keys,
    /// Bits that the member has.
    pub(super) capabilities: u64,
    /// Did this node start it?
    pub(super) initiator: bool,
}

/// The packet that confirmed a session.
struct Arrival {
    from: SocketAddr,
    counter: u64,
    at: Instant,
}

/// A handshake of the member that was answered; nothing of it counts before its first packet.
pub(super) struct Pending {
    session: Arc<Session>,
    created: Instant,
    init: [u8; HANDSHAKE_LEN],
    answer: Box<[u8; HANDSHAKE_LEN]>,
    answers: u8,
    payload: Payload,
}

impl Pending {
    fn mac1(&self) -> Mac16 {
        let mut mac1 = [0; 16];
        mac1.copy_from_slice(&self.init[MAC1_AT..MAC2_AT]);
        mac1
    }
}

impl Peer {
    /// Sends the cached answer if this very init was answered before. mac2 may differ.
    pub(crate) fn repeat_answer(
        &mut self,
        cx: &mut Context,
        from: SocketAddr,
        init: &wire::Init<'_>,
    ) -> bool {
        let same = |p: &&mut Pending| p.init[..MAC2_AT] == init.bytes[..MAC2_AT];
        let Some(pending) = self.pending.iter_mut().find(same) else {
            return false;
        };
        cx.counters.repeated += 1;
        if pending.answers < timers::MAX_REPEATED_ANSWERS {
            pending.answers += 1;
            cx.transmit(from, pending.answer.to_vec());
        }
        true
    }

    /// Answers an init that decrypted to this member's key.
    pub(crate) fn answer(
        &mut self,
        cx: &mut Context,
        from: SocketAddr,
        init: &wire::Init<'_>,
        noise: Responder,
        payload: Payload,
        now: Instant,
    ) {
        let old = self.newest.is_some_and(|newest| payload.counter <= newest);
        if old || payload.index != init.sender {
            cx.counters.refused += 1;
            return;
        }
        if !self.make_room(cx, now) {
            cx.counters.crowded_out += 1;
            return;
        }
        let local_index = cx.new_index(self.id());
        let Some((keys, frame)) = self.write_answer(cx, local_index, init, noise, payload.counter)
        else {
            cx.indices.remove(&local_index);
            return;
        };
        let agreed = Agreed {
            local_index,
            remote_index: init.sender,
            keys,
            capabilities: payload.capabilities,
            initiator: false,
        };
        let session = self.session(cx, agreed, now);
        let pending = Pending {
            session: Arc::clone(&session),
            created: now,
            init: *init.bytes,
            answer: frame,
            answers: 1,
            payload,
        };
        cx.half_open.insert(pending.mac1(), self.id());
        cx.transmit(from, pending.answer.to_vec());
        self.pending.push(pending);
        let peer = self.id();
        cx.events.push_back(Event::SessionPending { peer, session });
    }

    fn write_answer(
        &self,
        cx: &mut Context,
        local_index: u32,
        init: &wire::Init<'_>,
        noise: Responder,
        counter: HandshakeCounter,
    ) -> Option<(Keys, Box<[u8; HANDSHAKE_LEN]>)> {
        let payload = cx
            .payload(&self.config.networks, local_index, counter)
            .encode(RESPONSE_PAYLOAD_LEN)?;
        let mut frame = wire::response_frame(local_index, init.sender);
        let keys = noise.answer(&payload, &mut frame[12..MAC1_AT]).ok()?;
        self.macs.sign_mac1(&mut frame);
        Some((keys, frame))
    }

    /// At most three half-open answers: the oldest gives way, but never one that is still fresh, so neither a replay
    /// nor a forgery pushes out a handshake that is running.
    fn make_room(&mut self, cx: &mut Context, now: Instant) -> bool {
        if self.pending.len() < timers::MAX_PENDING_PER_PEER {
            return cx.half_open.len() < timers::MAX_PENDING;
        }
        let oldest = (0..self.pending.len()).min_by_key(|at| self.pending[*at].created);
        match oldest {
            Some(at) if now >= self.pending[at].created + timers::PENDING_PROTECTED => {
                self.forget_pending(cx, at);
                true
            }
            _ => false,
        }
    }

    fn forget_pending(&mut self, cx: &mut Context, at: usize) {
        let pending = self.pending.remove(at);
        cx.half_open.remove(&pending.mac1());
        self.closed(cx, &pending.session, CloseReason::Unconfirmed);
    }

    fn session(&self, cx: &Context, agreed: Agreed, now: Instant) -> Arc<Session> {
        let info = SessionInfo {
            peer: self.id(),
            local_index: agreed.local_index,
            remote_index: agreed.remote_index,
            capabilities: cx.config.capabilities & agreed.capabilities,
            initiator: agreed.initiator,
            created_ms: cx.millis(now),
        };
        let (engine, keys) = (cx.config.engine, agreed.keys);
        let (seal, open) = (engine.cipher(keys.seal), engine.cipher(keys.open));
        Arc::new(Session::new(info, seal, open))
    }

    /// The member has answered our init: a session that may send at once.
    pub(super) fn adopt(
        &mut self,
        cx: &mut Context,
        agreed: Agreed,
        from: SocketAddr,
        now: Instant,
    ) {
        let session = self.session(cx, agreed, now);
        let arrival = Arrival {
            from,
            counter: 0,
            at: now,
        };
        self.promote(cx, session, now, arrival);
    }

    /// A packet was authenticated with this session: if it was half-open, it is confirmed now. Returns whether the
    /// session is still there.
    pub(super) fn confirm(
        &mut self,
        cx: &mut Context,
        local_index: u32,
        from: SocketAddr,
        counter: u64,
        now: Instant,
    ) -> bool {
        let at = (self.pending.iter()).position(|p| p.session.local_index() == local_index);
        let Some(at) = at else {
            return self
                .sessions
                .iter()
                .any(|l| l.session.local_index() == local_index);
        };
        let pending = self.pending.remove(at);
        cx.half_open.remove(&pending.mac1());
        self.newest = self.newest.max(Some(pending.payload.counter));
        // Answers to older inits are of no use any more.
        for at in (0..self.pending.len()).rev() {
            if Some(self.pending[at].payload.counter) <= self.newest {
                self.forget_pending(cx, at);
            }
        }
        self.stop_attempt(cx);
        self.retry_at = None;
        pending.session.confirm();
        let arrival = Arrival {
            from,
            counter,
            at: now,
        };
        self.promote(cx, pending.session, pending.created, arrival);
        let payload = pending.payload;
        self.heard_epochs(cx, payload.generation, payload.epochs, now);
        true
    }

    /// Takes a confirmed session into use, unless it crossed with one that both sides prefer.
    fn promote(
        &mut self,
        cx: &mut Context,
        session: Arc<Session>,
        begun: Instant,
        arrival: Arrival,
    ) {
        let Arrival {
            from,
            counter,
            at: now,
        } = arrival;
        let rekey_after = cx.config.rekey_after.min(timers::REKEY_AFTER);
        let jitter = cx.entropy.below(millis(rekey_after / 12) + 1);
        let later = if session.info().initiator {
            Duration::ZERO
        } else {
            timers::REKEY_AFTER_AS_RESPONDER
        };
        let preferred = self.is_preferred(&session, begun);
        let order = Order {
            session: session.local_index(),
            current: true,
            counter,
        };
        cx.counters.handshakes += 1;
        self.sessions.push(Live {
            session: Arc::clone(&session),
            created: now,
            begun,
            rekey_at: now + rekey_after + later + Duration::from_millis(jitter),
            rekey_from: now + rekey_after + later,
        });
        let peer = self.id();
        if !preferred {
            cx.events.push_back(Event::SessionPending { peer, session });
            return;
        }
        self.current = Some(session.local_index());
        let change = self.paths.established(from, order, now);
        let endpoint = self.paths.primary().map_or(from, |p| p.endpoint);
        // A peer that begins again may have moved; a rekey looks no different from here.
        self.mtus.doubt();
        self.follow_path(cx, now);
        cx.events.push_back(Event::SessionUp {
            peer,
            session,
            endpoint,
        });
        if self.up_since.is_some() {
            self.path_changed(cx, change, now);
        }
        self.up_since.get_or_insert(now);
        self.drop_surplus(cx);
        self.greet(cx, now);
    }

    /// When both sides start at once, two sessions come up. Both sides then settle on the one that the node with the
    /// smaller id started; the other keeps receiving, so nothing is lost while they do.
    fn is_preferred(&self, new: &Session, begun: Instant) -> bool {
        let Some(current) = self.current_live() else {
            return true;
        };
        // Ours was still under way when we answered theirs. Our own session has both times in one.
        let crossed =
            current.session.info().initiator != new.info().initiator && begun <= current.begun;
        !crossed || new.info().initiator == self.controls
    }

    /// Loss can hide from one side that two handshakes crossed, and each side then sends in another session. Both
    /// work, but the next rekey would cross again: so the end that does not control takes the session of the other.
    pub(super) fn settle(&mut self, cx: &mut Context, local_index: u32, now: Instant) {
        let (Some(current), Some(theirs)) = (self.current_live(), self.live(local_index)) else {
            return;
        };
        let (first, last) = (
            current.created.min(theirs.created),
            current.created.max(theirs.created),
        );
        let other = current.session.local_index() != local_index
            && current.session.info().initiator != theirs.session.info().initiator;
        if self.controls
            || !other
            || last >= first + timers::CROSSED
            || now < last + timers::CROSSED_SETTLED
        {
            return;
        }
        let (peer, session) = (self.id(), Arc::clone(&theirs.session));
        if let Some(path) = self.paths.primary() {
            self.current = Some(local_index);
            let endpoint = path.endpoint;
            cx.events.push_back(Event::SessionUp {
                peer,
                session,
                endpoint,
            });
        }
    }

    fn drop_surplus(&mut self, cx: &mut Context) {
        while self.sessions.len() > timers::MAX_SESSIONS_PER_PEER {
            let oldest =
                (self.sessions.iter()).position(|l| Some(l.session.local_index()) != self.current);
            let Some(at) = oldest else { return };
            let live = self.sessions.remove(at);
            self.closed(cx, &live.session, CloseReason::Replaced);
        }
    }

    /// Closes sessions and half-open answers whose time has come.
    pub(super) fn expire(&mut self, cx: &mut Context, now: Instant) {
        for at in (0..self.pending.len()).rev() {
            if now >= self.pending[at].created + timers::PENDING {
                self.forget_pending(cx, at);
            }
        }
        let replaced = self.replaced(cx, now);
        for at in (0..self.sessions.len()).rev() {
            let index = self.sessions[at].session.local_index();
            let replaced = replaced.is_some_and(|by| by != index);
            if now >= self.sessions[at].expires() || replaced {
                let live = self.sessions.remove(at);
                let current = Some(live.session.local_index()) == self.current;
                let reason = if current {
                    CloseReason::Expired
                } else {
                    CloseReason::Replaced
                };
                self.closed(cx, &live.session, reason);
                if current {
                    self.session_lost(cx, now);
                }
            }
        }
    }

    /// The session at rest that has taken the place of all others: the member uses it too, nothing late comes in them any more,
    /// and no timer has to go off for their end.
    fn replaced(&self, cx: &Context, now: Instant) -> Option<u32> {
        let current = self.current_live()?;
        let (session, created) = (&current.session, current.created);
        let settled = now >= created + timers::REPLACED_AT_REST;
        let used = session.stats().last_rx_ms > cx.millis(created + timers::CROSSED);
        (settled && used && session.is_asleep()).then(|| session.local_index())
    }

    fn session_lost(&mut self, cx: &mut Context, now: Instant) {
        self.current = None;
        self.up_since = None;
        self.paths.disconnected();
        self.mtus.leave();
        if self.wanted && self.attempt.is_none() && self.retry_at.is_none() {
            self.begin(cx, timers::ATTEMPT, now);
        }
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        let pending = self.pending.iter().map(|p| p.created + timers::PENDING);
        pending.chain(self.sessions.iter().map(Live::expires)).min()
    }

    /// Closes everything at once, also for the packet threads.
    pub(super) fn close_all(&mut self, cx: &mut Context, reason: CloseReason) {
        for at in (0..self.pending.len()).rev() {
            self.forget_pending(cx, at);
        }
        for live in std::mem::take(&mut self.sessions) {
            self.closed(cx, &live.session, reason);
        }
        self.current = None;
        self.up_since = None;
        self.paths.disconnected();
        self.mtus.leave();
    }

    fn closed(&self, cx: &mut Context, session: &Session, reason: CloseReason) {
        session.close();
        cx.indices.remove(&session.local_index());
        cx.events.push_back(Event::SessionClosed {
            peer: self.id(),
            local_index: session.local_index(),
            reason,
        });
    }
}

impl Live {
    fn expires(&self) -> Instant {
        self.created + Duration::from_millis(timers::REJECT_AFTER_MS)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
