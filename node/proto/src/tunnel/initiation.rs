//! Handshakes that this node starts: one init raced over all addresses, a new one every five seconds.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::NodeId;

use super::{
    context::Context,
    mac::{self, Mac16},
    noise::{self, Initiator, Keys},
    payload::{HandshakeCounter, INIT_PAYLOAD_LEN, Payload},
    peer::PeerConfig,
    timers,
    wire::{self, HANDSHAKE_LEN, MAC1_AT, MAC2_AT},
};
use crate::path::Via;

/// Forged answers looked at per init; behind that the init is as good as lost.
const MAX_BAD_ANSWERS: u32 = 64;

/// Cookies that a peer has asked us to show, by the address it was asked at.
#[derive(Default)]
pub(crate) struct Cookies(BTreeMap<SocketAddr, (Mac16, Instant)>);

impl Cookies {
    fn get(&self, to: SocketAddr, now: Instant) -> Option<&Mac16> {
        let (cookie, since) = self.0.get(&to)?;
        (now < *since + timers::COOKIE).then_some(cookie)
    }

    fn put(&mut self, to: SocketAddr, cookie: Mac16, now: Instant) {
        self.0.retain(|_, (_, since)| now < *since + timers::COOKIE);
        self.0.insert(to, (cookie, now));
    }
}

struct Target {
    addr: SocketAddr,
    first: Instant,
    sent: usize,
    /// A cookie came: once more, now.
    again: bool,
}

impl Target {
    fn due(&self, now: Instant) -> Option<Instant> {
        if self.again {
            return Some(now);
        }
        timers::RESEND
            .get(self.sent)
            .map(|after| self.first + *after)
    }
}

/// One init on its way.
pub(crate) struct Round {
    peer: NodeId,
    pub(crate) index: u32,
    noise: Initiator,
    pub(crate) counter: HandshakeCounter,
    frame: Box<[u8; HANDSHAKE_LEN]>,
    targets: Vec<Target>,
    next_slot: Instant,
    pub(crate) ends: Instant,
    bad_answers: u32,
}

/// Trying to get a new session.
pub(crate) struct Attempt {
    pub(crate) gives_up: Instant,
    /// `None` while there is no address to try.
    pub(crate) round: Option<Round>,
}

impl Round {
    /// A new init. `preferred` goes first, the rest joins after `rest_after`.
    pub(crate) fn start(
        cx: &mut Context,
        peer: &PeerConfig,
        macs: &mac::PublicMacs,
        order: &[SocketAddr],
        rest_after: Duration,
        now: Instant,
    ) -> Option<Self> {
        if order.is_empty() {
            return None;
        }
        let index = cx.new_index(peer.node_id);
        let counter = cx.next_counter();
        let started = Self::write(cx, peer, index, counter);
        let Some((noise, mut frame)) = started else {
            // A tunnel key of small order; the roster should not have let it in.
            cx.indices.remove(&index);
            return None;
        };
        macs.sign_mac1(&mut frame);
        let jitter = cx.entropy.below(timers::RETRY_JITTER_MS + 1);
        let mut round = Self {
            peer: peer.node_id,
            index,
            noise,
            counter,
            frame,
            targets: Vec::with_capacity(order.len()),
            next_slot: now,
            ends: now + timers::RETRY + Duration::from_millis(jitter),
            bad_answers: 0,
        };
        for (rank, addr) in order.iter().enumerate() {
            let first = if rank == 0 { now } else { now + rest_after };
            round.add(*addr, first);
        }
        Some(round)
    }

    fn write(
        cx: &mut Context,
        peer: &PeerConfig,
        index: u32,
        counter: HandshakeCounter,
    ) -> Option<(Initiator, Box<[u8; HANDSHAKE_LEN]>)> {
        let payload = cx
            .payload(&peer.networks, index, counter)
            .encode(INIT_PAYLOAD_LEN)?;
        let mut frame = wire::init_frame(index);
        let noise = Initiator::start(
            cx.identity.tunnel_secret.as_bytes(),
            &peer.tunnel_key,
            &noise::prologue(&cx.identity.org, &peer.node_id),
            cx.entropy.draw(),
            &payload,
            &mut frame[8..MAC1_AT],
        )
        .ok()?;
        Some((noise, frame))
    }

    /// Tries one more address in this round.
    pub(crate) fn add(&mut self, addr: SocketAddr, first: Instant) {
        if self.targets.iter().all(|t| t.addr != addr) {
            self.targets.push(Target {
                addr,
                first,
                sent: 0,
                again: false,
            });
        }
    }

    /// Sends at most one init: the one that is due for longest. One that `allowed` says no to is as good as lost.
    pub(crate) fn send_due(
        &mut self,
        cx: &mut Context,
        cookies: &Cookies,
        allowed: impl FnOnce(SocketAddr) -> bool,
        now: Instant,
    ) {
        if now < self.next_slot {
            return;
        }
        let due = (self.targets.iter_mut().enumerate())
            .filter_map(|(rank, t)| Some((t.due(now).filter(|at| *at <= now)?, rank, t)))
            .min_by_key(|(at, rank, _)| (*at, *rank));
        let Some((.., target)) = due else { return };
        if target.again {
            target.again = false;
        } else {
            target.sent += 1;
        }
        self.next_slot = now + timers::INIT_SPACING;
        if !allowed(target.addr) {
            return;
        }
        self.frame[MAC2_AT..].fill(0);
        if let Some(cookie) = cookies.get(target.addr, now) {
            mac::sign_mac2(&mut self.frame, cookie);
        }
        cx.transmit(target.addr, self.frame.to_vec());
    }

    /// Was it sent over a relay?
    pub(crate) fn went_over_relays(&self) -> bool {
        let relayed = |t: &Target| t.sent > 0 && matches!(Via::of(t.addr), Some(Via::Relay { .. }));
        self.targets.iter().any(relayed)
    }

    /// When something is to be sent, or the round ends.
    pub(crate) fn poll_timeout(&self, now: Instant) -> Instant {
        let due = self.targets.iter().filter_map(|t| t.due(now)).min();
        due.map_or(self.ends, |at| at.max(self.next_slot).min(self.ends))
    }

    /// Takes a cookie for an address that this init was sent to. Moves no path.
    pub(crate) fn handle_cookie(
        &mut self,
        reply: &wire::CookieReply<'_>,
        from: SocketAddr,
        macs: &mac::PublicMacs,
        cookies: &mut Cookies,
        now: Instant,
    ) -> bool {
        let target = self
            .targets
            .iter_mut()
            .find(|t| t.addr == from && t.sent > 0);
        let Some(target) = target else { return false };
        let Some(cookie) = macs.open_cookie(reply, &self.frame[MAC1_AT..MAC2_AT]) else {
            return false;
        };
        // The same cookie again is no reason to send again.
        if cookies.get(from, now) != Some(&cookie) {
            target.again = true;
            cookies.put(from, cookie, now);
        }
        true
    }

    /// Keys and payload, if this is the answer.
    pub(crate) fn finish(&mut self, response: &wire::Response<'_>) -> Option<(Keys, Payload)> {
        if self.bad_answers >= MAX_BAD_ANSWERS {
            return None;
        }
        let Ok((keys, payload)) = self.noise.finish(response.noise()) else {
            self.bad_answers += 1;
            return None;
        };
        let payload = Payload::decode(&payload)?;
        let fits = payload.node == self.peer
            && payload.index == response.sender
            && payload.counter == self.counter;
        fits.then_some((keys, payload))
    }
}
