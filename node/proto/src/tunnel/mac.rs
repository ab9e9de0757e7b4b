//! mac1, mac2 and cookies: what a handshake datagram must show before any arithmetic is done for it.
//!
//! mac1 proves that the sender knows the receiver's public tunnel key, so a scanner hears nothing. mac2 proves, in
//! times of load, that the sender receives at its source address. All MACs are keyed BLAKE2s with 16 bytes of output.

use std::{
    net::{IpAddr, SocketAddr},
    time::Instant,
};

use blake2::{
    Blake2s256, Blake2sMac, Digest as _,
    digest::{KeyInit as _, Mac as _, consts::U16},
};
use chacha20poly1305::{AeadInOut as _, XChaCha20Poly1305};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::{
    entropy::Entropy,
    timers,
    wire::{self, HANDSHAKE_LEN, MAC_LEN, MAC1_AT, MAC2_AT},
};

const MAC1_LABEL: &[u8] = b"kanpachi/tunnel/v1/mac1\0";
const COOKIE_LABEL: &[u8] = b"kanpachi/tunnel/v1/cookie\0";

/// A cookie, or the MAC that it makes.
pub(crate) type Mac16 = [u8; MAC_LEN];

fn mac(key: &[u8], parts: &[&[u8]]) -> Mac16 {
    // Both key lengths in use, 16 and 32 bytes, are within BLAKE2s's 32.
    let mut mac = Blake2sMac::<U16>::new_from_slice(key).expect("keys of 16 or 32 bytes");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The keys that follow from a public tunnel key: everybody who may talk to its owner can compute them.
#[derive(Clone)]
pub(crate) struct PublicMacs {
    mac1: [u8; 32],
    cookie: [u8; 32],
}

impl PublicMacs {
    pub(crate) fn of(receiver: &[u8; 32]) -> Self {
        let derive = |label: &[u8]| {
            let mut hash = Blake2s256::new();
            hash.update(label);
            hash.update(receiver);
            hash.finalize().into()
        };
        Self {
            mac1: derive(MAC1_LABEL),
            cookie: derive(COOKIE_LABEL),
        }
    }

    pub(crate) fn sign_mac1(&self, frame: &mut [u8; HANDSHAKE_LEN]) {
        let mac1 = mac(&self.mac1, &[&frame[..MAC1_AT]]);
        frame[MAC1_AT..MAC2_AT].copy_from_slice(&mac1);
    }

    pub(crate) fn check_mac1(&self, frame: &[u8; HANDSHAKE_LEN]) -> bool {
        mac(&self.mac1, &[&frame[..MAC1_AT]])
            .ct_eq(&frame[MAC1_AT..MAC2_AT])
            .into()
    }

    fn cookie_cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.cookie.into())
    }

    /// Opens the cookie in a reply to the handshake datagram that carried `mac1`.
    pub(crate) fn open_cookie(&self, reply: &wire::CookieReply<'_>, mac1: &[u8]) -> Option<Mac16> {
        let (nonce, sealed) = reply.parts();
        let nonce: [u8; 24] = nonce.try_into().ok()?;
        let (cookie, tag) = sealed.split_at_checked(MAC_LEN)?;
        let tag: [u8; 16] = tag.try_into().ok()?;
        let mut cookie: Mac16 = cookie.try_into().ok()?;
        self.cookie_cipher()
            .decrypt_inout_detached(
                &nonce.into(),
                mac1,
                cookie.as_mut_slice().into(),
                &tag.into(),
            )
            .ok()?;
        Some(cookie)
    }
}

/// mac2 over a frame whose mac1 is in place.
pub(crate) fn sign_mac2(frame: &mut [u8; HANDSHAKE_LEN], cookie: &Mac16) {
    let mac2 = mac(cookie, &[&frame[..MAC2_AT]]);
    frame[MAC2_AT..].copy_from_slice(&mac2);
}

/// Makes cookies and checks what was made with them, without remembering anyone.
pub(crate) struct CookieJar {
    /// Current and previous secret: a cookie lives between one and two refresh times.
    secrets: [Zeroizing<[u8; 32]>; 2],
    rotate_at: Instant,
}

impl CookieJar {
    pub(crate) fn new(entropy: &mut Entropy, now: Instant) -> Self {
        Self {
            secrets: [entropy.draw(), entropy.draw()],
            rotate_at: now + timers::COOKIE,
        }
    }

    fn rotate(&mut self, entropy: &mut Entropy, now: Instant) {
        if now >= self.rotate_at {
            self.secrets.swap(0, 1);
            self.secrets[0] = entropy.draw();
            if now >= self.rotate_at + timers::COOKIE {
                self.secrets[1] = entropy.draw();
            }
            self.rotate_at = now + timers::COOKIE;
        }
    }

    fn cookie(secret: &[u8; 32], from: SocketAddr) -> Mac16 {
        let octets = match from.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        mac(secret, &[&octets, &from.port().to_le_bytes()])
    }

    /// Has the sender of this init a cookie that was sent to this very address and port?
    pub(crate) fn check_mac2(
        &mut self,
        frame: &[u8; HANDSHAKE_LEN],
        from: SocketAddr,
        entropy: &mut Entropy,
        now: Instant,
    ) -> bool {
        self.rotate(entropy, now);
        self.secrets.iter().any(|secret| {
            let cookie = Self::cookie(secret, from);
            mac(&cookie, &[&frame[..MAC2_AT]])
                .ct_eq(&frame[MAC2_AT..])
                .into()
        })
    }

    /// The reply that asks the sender of `frame` to prove its address.
    pub(crate) fn reply(
        &mut self,
        own: &PublicMacs,
        frame: &[u8; HANDSHAKE_LEN],
        sender: u32,
        from: SocketAddr,
        entropy: &mut Entropy,
        now: Instant,
    ) -> Option<Vec<u8>> {
        self.rotate(entropy, now);
        let nonce = entropy.nonce24();
        let mut sealed = [0; 2 * MAC_LEN];
        let (cookie, tag) = sealed.split_at_mut(MAC_LEN);
        cookie.copy_from_slice(&Self::cookie(&self.secrets[0], from));
        let made = own
            .cookie_cipher()
            .encrypt_inout_detached(&nonce.into(), &frame[MAC1_AT..MAC2_AT], cookie.into())
            .ok()?;
        tag.copy_from_slice(&made);
        Some(wire::cookie_reply(sender, &nonce, &sealed))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tunnel::wire::Handshake;

    fn setup() -> (PublicMacs, CookieJar, Entropy, Instant) {
        let mut entropy = Entropy::new([1; 32]);
        let now = Instant::now();
        let jar = CookieJar::new(&mut entropy, now);
        (PublicMacs::of(&[7; 32]), jar, entropy, now)
    }

    #[test]
    fn mac1_covers_every_byte_before_it() {
        let (own, ..) = setup();
        let mut frame = wire::init_frame(9);
        own.sign_mac1(&mut frame);
        assert!(own.check_mac1(&frame));
        assert!(!PublicMacs::of(&[8; 32]).check_mac1(&frame));
        for at in 0..MAC2_AT {
            frame[at] ^= 1;
            assert!(!own.check_mac1(&frame), "byte {at}");
            frame[at] ^= 1;
        }
    }

    /// Row C5 of the attack checklist: bound to address and port, and to the datagram it answers.
    #[test]
    fn a_cookie_is_good_for_one_address_and_port_and_two_refreshes_at_most() {
        let (own, mut jar, mut entropy, now) = setup();
        let from: SocketAddr = "192.0.2.1:1000".parse().unwrap();
        let mut frame = wire::init_frame(9);
        own.sign_mac1(&mut frame);
        assert!(!jar.check_mac2(&frame, from, &mut entropy, now));
        let reply = jar.reply(&own, &frame, 9, from, &mut entropy, now).unwrap();
        assert!(reply.len() < frame.len());
        let Some(Handshake::Cookie(parsed)) = Handshake::parse(&reply) else {
            panic!("not a cookie reply");
        };
        assert_eq!(parsed.receiver, 9);
        assert_eq!(own.open_cookie(&parsed, &[0; 16]), None);
        let cookie = own.open_cookie(&parsed, &frame[MAC1_AT..MAC2_AT]).unwrap();
        sign_mac2(&mut frame, &cookie);
        assert!(jar.check_mac2(&frame, from, &mut entropy, now));
        for other in ["192.0.2.1:1001", "192.0.2.2:1000"] {
            assert!(!jar.check_mac2(&frame, other.parse().unwrap(), &mut entropy, now));
        }
        let later = now + timers::COOKIE + Duration::from_secs(1);
        assert!(jar.check_mac2(&frame, from, &mut entropy, later));
        let too_late = now + 3 * timers::COOKIE;
        assert!(!jar.check_mac2(&frame, from, &mut entropy, too_late));
    }
}
