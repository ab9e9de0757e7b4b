//! What the core itself says and hears inside a session: keepalives, probes, farewells; and when it is time for them.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::NetworkId;

use super::{
    super::{
        context::Context,
        control::Control,
        event::{CloseReason, Event},
        rest::{Receipt, seal},
        session::Session,
        timers,
    },
    Peer,
};
use crate::path::{Activity, Order, PathKind};

/// Data within this long counts as traffic.
const ACTIVE_MS: u64 = 5000;
/// Data sent within this long makes a rekey worth it when nobody asked for the pair.
const IN_USE_MS: u64 = 15_000;
/// Data that came this long ago has been answered, by a keepalive if by nothing else.
const REST_AFTER_MS: u64 = 11_000;
/// At most one [`Event::Rtt`] per peer in this time.
const RTT_EVENT_EVERY: Duration = Duration::from_secs(1);
/// And that nothing answers, whether it is the same trouble or another.
const TROUBLE_EVENT_EVERY: Duration = Duration::from_secs(5);
/// What a peer sees is told again after so long: whoever heard of it asks after it for some minutes only.
const OBSERVED_EVENT_EVERY: Duration = Duration::from_secs(90);

/// A peer that says that it held a ping for longer is not believed: naps are shorter.
const HELD_AT_MOST: Duration = Duration::from_millis(20);
/// Pings on somebody's order under way at once; the oldest gives way.
const MAX_PINGS: usize = 256;

impl Peer {
    pub(super) fn say(&self, cx: &mut Context, to: SocketAddr, message: &Control, now: Instant) {
        if let Some(session) = self.current_session()
            && let Some(datagram) = seal(&session, message, cx.millis(now))
        {
            cx.transmit(to, datagram);
        }
    }

    fn keepalive(&self, cx: &Context) -> Control {
        Control::Keepalive {
            generation: cx.generation,
            epochs: cx.epochs_for(&self.config.networks),
        }
    }

    pub(super) fn say_primary(&self, cx: &mut Context, message: &Control, now: Instant) {
        if let Some(path) = self.paths.primary() {
            self.say(cx, path.endpoint, message, now);
        }
    }

    /// First words in a new session: confirms it to a responder, and starts the probes.
    pub(super) fn greet(&mut self, cx: &mut Context, now: Instant) {
        self.say_primary(cx, &self.keepalive(cx), now);
        self.next_tick = now;
        self.drive_session(cx, now);
        self.drive_mtu(cx, now);
    }

    /// Tells the member what this node knows now, and again until it says that it is not behind: what it is told may
    /// be lost, and it may be about an eviction.
    pub(crate) fn tell_epochs(&mut self, cx: &mut Context, now: Instant) {
        let ours = (cx.generation, cx.epochs_for(&self.config.networks));
        if self.said.replace(ours.clone()) == Some(ours) {
            return;
        }
        self.tell_again = Some((now, timers::TELL_AGAIN.0));
        self.say_primary(cx, &self.keepalive(cx), now);
        self.plan_telling(cx, now);
    }

    pub(super) fn tell_again(&mut self, cx: &mut Context, now: Instant) {
        if self.tell_again.is_some_and(|(at, _)| at <= now) {
            if self.is_behind(cx) {
                self.say_primary(cx, &self.keepalive(cx), now);
            }
            self.plan_telling(cx, now);
        }
    }

    pub(super) fn plan_telling(&mut self, cx: &Context, now: Instant) {
        let pause = self.tell_again.map_or(timers::TELL_AGAIN.0, |(_, p)| p);
        let next = (now + pause, (pause * 2).min(timers::TELL_AGAIN.1));
        self.tell_again = (self.current.is_some() && self.is_behind(cx)).then_some(next);
    }

    /// Does this node hold a newer roster than the member said last?
    fn is_behind(&self, cx: &Context) -> bool {
        let ours = cx.epochs_for(&self.config.networks);
        let Some((generation, theirs)) = &self.told.epochs else {
            return !ours.is_empty();
        };
        // A network that the member does not name is none that it holds.
        let older = |(network, ours): &(NetworkId, u64)| {
            theirs
                .iter()
                .any(|(n, theirs)| n == network && theirs < ours)
        };
        *generation < cx.generation || ours.iter().any(older)
    }

    pub(super) fn say_close(&self, cx: &mut Context, reason: CloseReason, now: Instant) {
        let reason = u8::from(reason != CloseReason::Disconnected);
        self.say_primary(cx, &Control::Close { reason }, now);
    }

    /// Asks for an answer on the primary path.
    pub(crate) fn ping(&mut self, cx: &mut Context, token: u64, now: Instant) -> bool {
        let (Some(path), Some(_)) = (self.paths.primary(), self.current_live()) else {
            return false;
        };
        // The answer is waited for.
        self.awake_until = Some(now + timers::PING_WAIT);
        self.end_rest(now);
        let nonce = cx.entropy.u64();
        if cx.pings.len() >= MAX_PINGS {
            cx.pings.pop_front();
        }
        cx.pings.push_back((nonce, token, now));
        let primary = true;
        self.say(cx, path.endpoint, &Control::Ping { nonce, primary }, now);
        true
    }

    /// An authenticated data packet came in, from an address that is not the endpoint or in a session that was not
    /// confirmed yet.
    pub(crate) fn handle_authenticated(
        &mut self,
        cx: &mut Context,
        local_index: u32,
        from: SocketAddr,
        counter: u64,
        now: Instant,
    ) {
        if self.confirm(cx, local_index, from, counter, now) {
            self.paths.heard_from(from, now);
            self.heard(cx, local_index, from, counter, now);
            self.report(cx);
        }
    }

    fn heard(
        &mut self,
        cx: &mut Context,
        local_index: u32,
        from: SocketAddr,
        counter: u64,
        now: Instant,
    ) {
        if self.current.is_some() {
            let order = Order {
                session: local_index,
                current: self.current == Some(local_index),
                counter,
            };
            let change = self.paths.heard(from, order, self.controls, now);
            self.path_changed(cx, change, now);
        }
    }

    /// A control payload came in, authenticated and not a repetition. `attended` says that a packet thread has answered what
    /// is to be answered.
    pub(crate) fn handle_control(
        &mut self,
        cx: &mut Context,
        receipt: &Receipt,
        payload: &[u8],
        attended: bool,
        now: Instant,
    ) {
        let Receipt {
            local_index,
            from,
            counter,
            held,
        } = *receipt;
        if !self.confirm(cx, local_index, from, counter, now) {
            return;
        }
        self.paths.heard_from(from, now);
        match Control::decode(payload) {
            Some(Control::Keepalive { generation, epochs }) => {
                self.settle(cx, local_index, now);
                self.heard(cx, local_index, from, counter, now);
                self.heard_epochs(cx, generation, epochs, now);
            }
            Some(Control::Ping { nonce, primary }) => {
                if primary {
                    self.settle(cx, local_index, now);
                    self.heard(cx, local_index, from, counter, now);
                    self.paths.kept(from, now);
                } else {
                    self.paths.asked(from, now);
                }
                if !attended {
                    let (seen, held) = (from, receipt.held_ms());
                    self.say(cx, from, &Control::Pong { nonce, seen, held }, now);
                }
            }
            Some(Control::Pong {
                nonce,
                seen,
                held: there,
            }) => {
                let there = Duration::from_millis(there.into()).min(HELD_AT_MOST);
                self.answer_ping(cx, nonce, from, held + there, now);
                self.handle_pong(cx, nonce, seen, held + there, now);
            }
            Some(Control::MtuProbe { nonce, .. }) => {
                self.handle_mtu_probe(cx, nonce, payload.len(), from, now);
            }
            Some(Control::MtuAck { nonce, size }) => {
                self.handle_mtu_ack(cx, nonce, size, now);
            }
            Some(Control::Punch { .. }) => self.handle_punch(cx, now),
            Some(Control::Close { .. }) => self.closed_by_peer(cx, now),
            None => {}
        }
        if attended {
            self.expire(cx, now);
        }
        self.report(cx);
    }

    fn closed_by_peer(&mut self, cx: &mut Context, now: Instant) {
        self.close_all(cx, CloseReason::ClosedByPeer);
        self.stop_attempt(cx);
        if self.wanted {
            self.retry_at = Some(now + timers::RETRY_WHEN_DOWN);
        }
    }

    fn answer_ping(
        &self,
        cx: &mut Context,
        nonce: u64,
        endpoint: SocketAddr,
        idle: Duration,
        now: Instant,
    ) {
        let Some(at) = cx.pings.iter().position(|(asked, ..)| *asked == nonce) else {
            return;
        };
        if let Some((_, token, sent)) = cx.pings.remove(at) {
            let (peer, took) = (self.id(), now.saturating_duration_since(sent));
            let rtt = self.paths.on_the_way(endpoint, took, idle);
            cx.events.push_back(Event::Pong {
                peer,
                token,
                endpoint,
                rtt,
            });
        }
    }

    fn handle_pong(
        &mut self,
        cx: &mut Context,
        nonce: u64,
        seen: SocketAddr,
        idle: Duration,
        now: Instant,
    ) {
        let Some(path) = self.paths.answered(nonce, now, idle) else {
            return;
        };
        let peer = self.id();
        let known = (self.told.observed)
            .is_some_and(|(addr, at)| addr == seen && now < at + OBSERVED_EVENT_EVERY);
        if path.kind != PathKind::Relay && !known {
            self.told.observed = Some((seen, now));
            cx.events.push_back(Event::Observed { peer, addr: seen });
        }
        if path.primary
            && let Some(rtt) = path.rtt
            && self
                .told
                .rtt_at
                .is_none_or(|at| now >= at + RTT_EVENT_EVERY)
        {
            self.told.rtt_at = Some(now);
            cx.events.push_back(Event::Rtt {
                peer,
                endpoint: path.addr,
                rtt,
                loss: path.loss,
            });
        }
        self.review(cx, now);
    }

    fn review(&mut self, cx: &mut Context, now: Instant) {
        if let Some(activity) = self.activity(cx, now) {
            let change = self.paths.review(&activity, now);
            self.tell_trouble(cx, now);
            self.path_changed(cx, change, now);
        }
    }

    /// Says that nothing answers, and says it again: whoever is asked then where this node is seen may not be reached before the
    /// router is back.
    fn tell_trouble(&mut self, cx: &mut Context, now: Instant) {
        let again = |at| now >= at + TROUBLE_EVENT_EVERY;
        if self.paths.trouble_since().is_some() && self.told.trouble_at.is_none_or(again) {
            self.told.trouble_at = Some(now);
            let peer = self.id();
            cx.events.push_back(Event::Trouble { peer });
        }
    }

    fn activity(&self, cx: &Context, now: Instant) -> Option<Activity> {
        let live = self.current_live()?;
        let session = &live.session;
        let now_ms = cx.millis(now);
        let last_data = session.last_data_rx_ms().max(session.last_data_tx_ms());
        let unheard = session.stats().rx_packets == 0 && now < live.created + timers::CONFIRM_FOR;
        Some(Activity {
            active: last_data != 0 && now_ms.saturating_sub(last_data) < ACTIVE_MS,
            wanted: self.wanted,
            eager: unheard.then_some(timers::CONFIRM_EVERY),
            waiting_since: session.waiting_since_ms().map(|ms| cx.instant(ms)),
            controls: self.controls,
            beat: cx.beat,
        })
    }

    /// Everything that happens by time inside the current session.
    pub(super) fn drive_session(&mut self, cx: &mut Context, now: Instant) {
        self.review(cx, now);
        if !self.paths.is_healthy() {
            self.end_rest(now);
        }
        if now >= self.next_tick {
            self.next_tick = now + timers::TICK;
            self.tick(cx, now);
        }
        self.send_probes(cx, now);
        self.succeed_along(cx, now);
        self.drive_punch(cx, now);
    }

    fn send_probes(&mut self, cx: &mut Context, now: Instant) {
        while let Some(activity) = self.activity(cx, now) {
            let entropy = &mut cx.entropy;
            let Some(probe) = self.paths.poll_probe(&activity, now, || entropy.u64()) else {
                break;
            };
            let (nonce, primary) = (probe.nonce, probe.primary);
            self.say(cx, probe.addr, &Control::Ping { nonce, primary }, now);
        }
    }

    /// Others are being kept alive now. A session at rest joins in, if its time is near.
    pub(crate) fn keep_early(&mut self, cx: &mut Context, now: Instant) {
        self.send_probes(cx, now);
        self.succeed_along(cx, now);
    }

    /// A session at rest gets its successor when its time has come and the node is awake anyway.
    fn succeed_along(&mut self, cx: &mut Context, now: Instant) {
        let old = self.current_live().is_some_and(|live| {
            let from = live.rekey_from + timers::REKEY_AT_REST.0;
            from.min(live.created + timers::SAFE_AGE) <= now
        });
        if old && self.wanted && self.attempt.is_none() && self.paths.is_healthy() {
            self.begin(cx, timers::ATTEMPT, now);
        }
    }

    fn tick(&mut self, cx: &mut Context, now: Instant) {
        let Some(live) = self.current_live() else {
            return;
        };
        let (session, created, rekey_at) = (live.session.clone(), live.created, live.rekey_at);
        let (stats, now_ms) = (session.stats(), cx.millis(now));
        let since = |ms: u64| Duration::from_millis(now_ms.saturating_sub(ms));

        // Something came and nothing went back: let the member know that it arrived.
        if session.last_data_rx_ms() > stats.last_tx_ms
            && since(stats.last_tx_ms) >= timers::KEEPALIVE
        {
            self.say_primary(cx, &self.keepalive(cx), now);
        }
        if self.attempt.is_some() {
            return;
        }
        let in_use = self.wanted
            || (session.last_data_tx_ms() != 0
                && now_ms.saturating_sub(session.last_data_tx_ms()) < IN_USE_MS);
        let silent = since(stats.last_rx_ms).min(now.saturating_duration_since(created));
        let dead = self.paths.trouble_since().is_some() && silent >= timers::DEAD_PEER;
        let old = in_use && now >= rekey_at;
        if dead || old || session.is_running_out() {
            self.begin(cx, timers::ATTEMPT, now);
        } else if self.may_rest(cx, &session, now_ms) {
            session.sleep();
            self.next_tick = if self.wanted {
                let latest = rekey_at + timers::REKEY_AT_REST.1;
                let latest = latest.min(created + timers::SAFE_AGE);
                latest.max(now + timers::TICK)
            } else {
                now + timers::REST
            };
        }
    }

    /// Has the session been idle for so long that there is nothing to look at before it carries data again?
    fn may_rest(&self, cx: &Context, session: &Session, now_ms: u64) -> bool {
        let last_data = session.last_data_rx_ms().max(session.last_data_tx_ms());
        let idle = last_data == 0 || now_ms.saturating_sub(last_data) > REST_AFTER_MS;
        let quiet = self.paths.is_healthy() && session.waiting_since_ms().is_none();
        let awaits = self
            .awake_until
            .is_some_and(|until| cx.millis(until) > now_ms);
        idle && quiet && !awaits && session.stats().rx_packets > 0
    }

    /// The session carries data after a rest.
    pub(crate) fn woken(&mut self, cx: &mut Context, now: Instant) {
        self.next_tick = now;
        self.drive_session(cx, now);
    }

    /// The session has to be looked at again.
    fn end_rest(&mut self, now: Instant) {
        // Who carries data from now on has nothing to tell.
        if self.current_live().is_some_and(|l| l.session.wakes()) {
            self.next_tick = now;
        }
    }

    /// When [`drive_session`](Self::drive_session) has something to do.
    pub(super) fn next_live(&self, cx: &Context, now: Instant) -> Option<Instant> {
        let activity = self.activity(cx, now)?;
        let probe = self.paths.poll_timeout(&activity, now);
        [probe, self.punch.poll_timeout(), Some(self.next_tick)]
            .into_iter()
            .flatten()
            .min()
    }
}
