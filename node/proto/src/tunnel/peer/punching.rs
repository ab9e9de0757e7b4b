//! Birthday punches: when this node opens sockets, when it guesses ports, and what goes out then.

use std::time::Instant;

use kanpachi_common::nat::NatBehaviour;

use super::{
    super::{context::Context, control::Control, event::Event},
    Peer,
};
use crate::path::{
    PathKind, Via,
    punch::{Part, SOCKETS, public_address},
};

impl Peer {
    pub(crate) fn set_nat(&mut self, cx: &mut Context, nat: Option<NatBehaviour>, now: Instant) {
        if self.nat != nat {
            self.nat = nat;
            self.nat_changed(cx, now);
        }
    }

    pub(crate) fn nat_changed(&mut self, cx: &mut Context, now: Instant) {
        let part = match (&cx.nat, &self.nat) {
            (Some(own), Some(peer)) => Part::of(own, peer),
            _ => None,
        };
        self.punch.set_part(part);
        self.drive_punch(cx, now);
    }

    /// Opens sockets, or guesses, when that is due.
    pub(super) fn drive_punch(&mut self, cx: &mut Context, now: Instant) {
        // Who guesses has been told that the other end has no way but the relay: what still looks alive here may be the way
        // to a socket that is closed.
        let missing = if self.punch.guesses() {
            self.paths.takes_relay()
        } else {
            self.wanted && self.paths.lacks_direct(now)
        };
        if let Some(path) = self.paths.primary()
            && path.kind != PathKind::Relay
        {
            self.punch.handle_direct(path.endpoint.ip());
        }
        if self.punch.review(missing && self.current.is_some(), now) {
            self.open_sockets(cx, now);
        }
        loop {
            let entropy = &mut cx.entropy;
            let Some(to) = self.punch.poll_guess(now, || entropy.u64()) else {
                return;
            };
            let nonce = cx.entropy.u64();
            let primary = false;
            self.say(cx, to, &Control::Ping { nonce, primary }, now);
        }
    }

    fn open_sockets(&self, cx: &mut Context, now: Instant) {
        let Some(to) = public_address(self.paths.addresses()) else {
            return;
        };
        cx.punches = cx.punches.wrapping_add(1);
        let (peer, attempt) = (self.id(), cx.punches);
        cx.events
            .push_back(Event::OpenSockets { peer, attempt, to });
        for socket in 0..SOCKETS {
            let nonce = cx.entropy.u64();
            let primary = false;
            let via = Via::Socket { socket, attempt }.addr();
            self.say(cx, via, &Control::Ping { nonce, primary }, now);
        }
        self.say_primary(cx, &Control::Punch { ports: SOCKETS }, now);
    }

    /// The member has opened its sockets.
    pub(super) fn handle_punch(&mut self, cx: &mut Context, now: Instant) {
        let hosts = public_address(self.paths.addresses()).map(|addr| addr.ip());
        if self.paths.takes_relay() && self.punch.handle_opened(hosts, now) {
            self.drive_punch(cx, now);
        }
    }
}
