//! In front of the door: what a packet thread asks before it troubles the thread that owns the tunnels.
//!
//! Admission decides on the tunnels' own thread, behind a queue and a MAC. A single source that floods would fill that
//! queue, and its datagrams would cost a copy and a MAC each. Here it costs a hash and a comparison, in a table of
//! fixed size. Nothing is decided for a source that shows a cookie: whoever forges its address cannot spend its turn.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
};

use super::{
    admission::source,
    wire::{self, MAC2_AT},
};

/// Inits without a cookie that one source may bring in a second, and at once. An honest node sends at most 20.
const PER_SOURCE: u64 = 64;
/// Sources share a place when there are more of them. With forged ones by the million everybody still gets through:
/// all places together let pass what the tunnels can answer with cookies.
const PLACES: usize = 1024;
/// Tokens are counted in thousandths, so that one millisecond is a whole number of them.
const TOKEN: u64 = 1000;
const FULL: u64 = PER_SOURCE * TOKEN;

#[derive(Clone, Copy)]
struct Place {
    tokens: u64,
    at_ms: u64,
}

/// Bounds what each source may bring before it has a cookie. Belongs to one packet thread.
pub struct Doorstep {
    /// Nobody outside can say who shares a place with whom.
    secret: [u8; 16],
    places: Box<[Place]>,
}

impl std::fmt::Debug for Doorstep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Doorstep").finish_non_exhaustive()
    }
}

impl Doorstep {
    /// `secret` is 16 fresh random bytes.
    #[must_use]
    pub fn new(secret: [u8; 16]) -> Self {
        let full = Place {
            tokens: FULL,
            at_ms: 0,
        };
        Self {
            secret,
            places: vec![full; PLACES].into_boxed_slice(),
        }
    }

    /// May this datagram, which [`classify`](wire::classify) calls a handshake, go on to
    /// [`Tunnels::handle_datagram`](super::Tunnels::handle_datagram)? Times are milliseconds of any clock that rises.
    pub fn admit(&mut self, from: IpAddr, datagram: &[u8], now_ms: u64) -> bool {
        if !wire::is_init(datagram) || has_mac2(datagram) {
            return true;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(&self.secret);
        source(from).hash(&mut hasher);
        // PLACES divides 2^64, so each is as likely.
        let at = usize::try_from(hasher.finish() % PLACES as u64).unwrap_or(0);
        let Some(place) = self.places.get_mut(at) else {
            return true;
        };
        let refill = now_ms
            .saturating_sub(place.at_ms)
            .saturating_mul(PER_SOURCE);
        place.at_ms = now_ms;
        place.tokens = place.tokens.saturating_add(refill).min(FULL);
        match place.tokens.checked_sub(TOKEN) {
            Some(rest) => {
                place.tokens = rest;
                true
            }
            None => false,
        }
    }
}

fn has_mac2(datagram: &[u8]) -> bool {
    let mac2 = datagram.get(MAC2_AT..).unwrap_or_default();
    mac2.iter().any(|byte| *byte != 0)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::tunnel::wire::{COOKIE_REPLY_LEN, init_frame, response_frame};

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    /// Row C5 of the attack checklist.
    #[test]
    fn one_source_passes_so_often_and_others_are_not_held_up() {
        let mut doorstep = Doorstep::new([7; 16]);
        let init = init_frame(1).to_vec();
        let mut passed = 0;
        for ms in 0..2000 {
            passed += u64::from((0..50).any(|_| doorstep.admit(v4(1), &init, ms)));
        }
        // At least what one second holds, at most two seconds and the burst.
        assert!((PER_SOURCE..=3 * PER_SOURCE).contains(&passed), "{passed}");
        let others = (2..40).filter(|n| doorstep.admit(v4(*n), &init, 2000));
        assert!(others.count() >= 37, "the flooder fills one place");
    }

    #[test]
    fn a_cookie_and_answers_to_own_inits_pass_always() {
        let mut doorstep = Doorstep::new([7; 16]);
        let init = init_frame(1).to_vec();
        while doorstep.admit(v4(1), &init, 5) {}
        let mut proven = init.clone();
        proven[MAC2_AT + 3] = 1;
        let answer = response_frame(1, 2).to_vec();
        for _ in 0..10_000 {
            assert!(doorstep.admit(v4(1), &proven, 5));
            assert!(doorstep.admit(v4(1), &answer, 5));
            assert!(doorstep.admit(v4(1), &[3; COOKIE_REPLY_LEN], 5));
        }
        assert!(!doorstep.admit(v4(1), &init, 5));
        assert!(doorstep.admit(v4(1), &init, 500), "and time heals");
    }

    #[test]
    fn ipv6_counts_by_64() {
        let mut doorstep = Doorstep::new([7; 16]);
        let init = init_frame(1).to_vec();
        let passed = (0..1000_u128)
            .map(|n| IpAddr::V6(((0x2001_0db8 << 96) | n).into()))
            .filter(|ip| doorstep.admit(*ip, &init, 0))
            .count();
        assert_eq!(passed as u64, PER_SOURCE);
    }
}
