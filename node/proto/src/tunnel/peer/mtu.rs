//! Path MTU inside a session: sends the probes that [`PathMtus`](crate::path) asks for and says what it found.

use std::{net::SocketAddr, time::Instant};

use super::{
    super::{context::Context, control::Control, event::Event, wire::OVERHEAD},
    Peer,
};
use crate::path::mtu::{SizeProbe, Use};

/// Data within this long counts as traffic.
const ACTIVE_MS: u64 = 5000;
/// Data has gone out for this long and none came back.
const UNHEARD_MS: u64 = 1000;

impl Peer {
    /// The path that data takes may be another one now. What may be sent on it is told before anything is sent there.
    pub(super) fn follow_path(&mut self, cx: &mut Context, now: Instant) {
        if let Some(path) = self.paths.primary() {
            self.mtus.follow(path, now);
            self.tell_mtu(cx);
        }
    }

    fn tell_mtu(&mut self, cx: &mut Context) {
        let known = self.mtus.limit();
        if let Some((endpoint, limit)) = known
            && self.told.mtu != known
        {
            self.told.mtu = known;
            let peer = self.id();
            cx.events.push_back(Event::PathMtu {
                peer,
                endpoint,
                limit,
            });
        }
    }

    /// `None` while the path is in trouble, or has not proved yet that the peer is there: nobody is sent large datagrams
    /// on somebody else's word.
    fn mtu_use(&self, cx: &Context, now: Instant) -> Option<Use> {
        let path = self.paths.primary_status(now)?;
        if !path.alive || !self.paths.is_healthy() {
            return None;
        }
        let session = &self.current_live()?.session;
        let now_ms = cx.millis(now);
        let (sent, heard) = (session.last_data_tx_ms(), session.last_data_rx_ms());
        let since = |ms: u64| now_ms.saturating_sub(ms);
        let active = sent.max(heard) != 0 && since(sent.max(heard)) < ACTIVE_MS;
        Some(Use {
            rtt: path.rtt,
            active,
            unheard: active && sent > heard && since(heard) >= UNHEARD_MS,
        })
    }

    pub(super) fn drive_mtu(&mut self, cx: &mut Context, now: Instant) {
        let Some(using) = self.mtu_use(cx, now) else {
            return;
        };
        loop {
            let entropy = &mut cx.entropy;
            let Some(probe) = self.mtus.poll(&using, now, || entropy.u64()) else {
                break;
            };
            self.ask_size(cx, &probe, now);
        }
        self.tell_mtu(cx);
    }

    fn ask_size(&self, cx: &mut Context, probe: &SizeProbe, now: Instant) {
        let payload = usize::from(probe.size).saturating_sub(OVERHEAD);
        if let Some(message) = padded(probe.nonce, payload) {
            self.say(cx, probe.addr, &message, now);
        }
    }

    /// The member asks whether a payload of this length came through. It did.
    pub(super) fn handle_mtu_probe(
        &mut self,
        cx: &mut Context,
        nonce: u64,
        payload: usize,
        from: SocketAddr,
        now: Instant,
    ) {
        let size = u16::try_from(payload).unwrap_or(u16::MAX);
        self.say(cx, from, &Control::MtuAck { nonce, size }, now);
        if let Ok(size) = u16::try_from(payload + OVERHEAD) {
            self.mtus.asked(size, now);
        }
    }

    /// A probe with this number came through, as payload of this size.
    pub(super) fn handle_mtu_ack(&mut self, cx: &mut Context, nonce: u64, size: u16, now: Instant) {
        let using = self.mtu_use(cx, now).unwrap_or_default();
        let size = usize::from(size) + OVERHEAD;
        if let Ok(size) = u16::try_from(size) {
            self.mtus.acked(nonce, size, &using, now);
            self.tell_mtu(cx);
        }
    }

    /// When [`drive_mtu`](Self::drive_mtu) has something to do.
    pub(super) fn next_mtu(&self, cx: &Context, now: Instant) -> Option<Instant> {
        self.mtus.poll_timeout(&self.mtu_use(cx, now)?, now)
    }
}

/// A probe of exactly this many bytes; `None` when it cannot be so short, or there is none of this length.
fn padded(nonce: u64, payload: usize) -> Option<Control> {
    let probe = |pad| Control::MtuProbe {
        nonce,
        pad: vec![0; pad],
    };
    let pad = payload.checked_sub(probe(0).encode().len())?;
    // The length of the padding stands before it, in up to four bytes more than that of none.
    (0..=4)
        .map_while(|more| pad.checked_sub(more))
        .map(probe)
        .find(|message| message.encode().len() == payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_have_exactly_the_length_asked_for() {
        for nonce in [0, 500, u64::MAX] {
            for payload in (68..=250).chain(300..=1500).chain([9000, 9216]) {
                let message = padded(nonce, payload);
                assert_eq!(
                    message.map(|m| m.encode().len()),
                    Some(payload),
                    "{nonce} {payload}"
                );
            }
        }
        assert_eq!(padded(u64::MAX, 20), None);
    }
}
