//! Tunnel datagrams, before and behind every check: what a stranger sends, what somebody sends who knows the public
//! tunnel key, what a member sends.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use blake2::{
    Blake2s256, Blake2sMac, Digest as _,
    digest::{KeyInit as _, Mac as _, consts::U16},
};
use kanpachi_common::{NetworkId, NodeId, OrgId, identity::x25519_public};
use kanpachi_proto::{
    path::{Candidate, PathKind},
    tunnel::{
        COOKIE_REPLY_LEN, Config, Control, Datagram, Event, HANDSHAKE_LEN, HEADER_LEN, Kind,
        LocalIdentity, OVERHEAD, PeerConfig, Receipt, Session, Tunnels, WIRE_VERSION, classify,
    },
};

const ORG: OrgId = OrgId([0xaa; 32]);
const NETWORK: NetworkId = NetworkId([0xbb; 32]);
/// Where mac1 and mac2 start.
const MAC1_AT: usize = HANDSHAKE_LEN - 32;
const MAC2_AT: usize = HANDSHAKE_LEN - 16;
/// Payload of a handshake init.
const INIT_PAYLOAD: usize = HANDSHAKE_LEN - 8 - 32 - 96;
/// Most datagrams that one datagram may lead to at once.
const MAX_ANSWERS: usize = 8;

/// One end of the pair.
struct End {
    tunnels: Tunnels,
    addr: SocketAddr,
    /// Sessions to receive with, and the newest to send with.
    sessions: BTreeMap<u32, Arc<Session>>,
    sending: Option<Arc<Session>>,
}

/// Two members with a session, and the handshake that led to it.
struct Pair {
    ends: [End; 2],
    now: Instant,
    log: Vec<Vec<u8>>,
}

fn secret(n: u8) -> [u8; 32] {
    [n + 1; 32]
}

fn public(n: u8) -> [u8; 32] {
    x25519_public(&secret(n))
}

fn id(n: u8) -> NodeId {
    NodeId([n * 16 + 1; 32])
}

fn address(n: u8) -> SocketAddr {
    SocketAddr::from(([203, 0, 113, n + 1], 12976))
}

impl End {
    fn new(n: u8, now: Instant) -> Self {
        let identity = LocalIdentity::new(id(n), ORG, &secret(n));
        let mut tunnels = Tunnels::new(identity, Config::default(), [n; 32], 1, now);
        let peer = PeerConfig {
            node_id: id(1 - n),
            tunnel_key: public(1 - n),
            networks: vec![NETWORK],
        };
        tunnels.set_peer(peer, now);
        tunnels.set_epochs(1, vec![(NETWORK, 5)], now);
        Self {
            tunnels,
            addr: address(n),
            sessions: BTreeMap::new(),
            sending: None,
        }
    }

    fn take_events(&mut self) {
        while let Some(event) = self.tunnels.poll_event() {
            match event {
                Event::SessionPending { session, .. } => {
                    self.sessions.insert(session.local_index(), session);
                }
                Event::SessionUp { session, .. } => {
                    self.sessions
                        .insert(session.local_index(), Arc::clone(&session));
                    self.sending = Some(session);
                }
                Event::SessionClosed { local_index, .. } => {
                    self.sessions.remove(&local_index);
                }
                _ => {}
            }
        }
    }

    /// A datagram arrives, as at the shared socket. Returns what goes out because of it.
    fn take(&mut self, from: SocketAddr, data: &[u8], now: Instant) -> Vec<(SocketAddr, Vec<u8>)> {
        match classify(data) {
            Some(Datagram::Handshake) => self.tunnels.handle_datagram(from, data, now),
            Some(Datagram::Transport { receiver }) => {
                let millis = self.tunnels.millis(now);
                let mut data = data.to_vec();
                if let Some(session) = self.sessions.get(&receiver).map(Arc::clone)
                    && let Ok(opened) = session.open_in_place(&mut data, millis)
                {
                    session.record_rx(opened.kind, data.len(), millis);
                    let payload = &data[HEADER_LEN..data.len() - (OVERHEAD - HEADER_LEN)];
                    if opened.kind == Kind::Control {
                        let receipt = Receipt::at_once(receiver, from, opened.counter);
                        self.tunnels.handle_opened_control(receipt, payload, now);
                    } else {
                        self.tunnels
                            .handle_authenticated(receiver, from, opened.counter, now);
                    }
                }
            }
            None => {}
        }
        self.take_events();
        std::iter::from_fn(|| self.tunnels.poll_transmit())
            .map(|t| (t.to, t.data))
            .collect()
    }
}

impl Pair {
    /// After the handshake and a little talk.
    fn connected() -> Self {
        let now = Instant::now();
        let ends = [0, 1].map(|n| End::new(n, now));
        let mut pair = Self {
            ends,
            now,
            log: Vec::new(),
        };
        let candidate = Candidate {
            addr: address(1),
            kind: PathKind::Host,
        };
        let first = &mut pair.ends[0].tunnels;
        first.set_candidates(&id(1), &[candidate], now);
        first.connect(&id(1), now);
        for _ in 0..20 {
            pair.pass(Duration::from_millis(100));
        }
        assert!(
            pair.ends.iter().all(|end| end.sending.is_some()),
            "no session"
        );
        pair
    }

    /// Lets time pass and carries what is sent.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        let mut flying = Vec::new();
        for end in &mut self.ends {
            end.tunnels.handle_timeout(self.now);
            end.take_events();
            let from = end.addr;
            flying.extend(
                std::iter::from_fn(|| end.tunnels.poll_transmit()).map(|t| (from, t.to, t.data)),
            );
        }
        for _ in 0..10 {
            for (from, to, data) in std::mem::take(&mut flying) {
                let Some(end) = self.ends.iter_mut().find(|end| end.addr == to) else {
                    continue;
                };
                self.log.push(data.clone());
                let answers = end.take(from, &data, self.now);
                flying.extend(answers.into_iter().map(|(to2, data)| (to, to2, data)));
            }
        }
    }

    fn logged(&self, kind: u8) -> Vec<u8> {
        let found = self.log.iter().find(|data| data.first() == Some(&kind));
        found.cloned().unwrap_or_default()
    }

    /// A stranger's datagram: never more bytes come back than went in, and nothing else changes.
    fn strange(&mut self, n: usize, data: &[u8]) {
        let stranger = SocketAddr::from(([198, 51, 100, 66], 666));
        let session = self.ends[n].sending.as_ref().map(|s| s.local_index());
        let out = self.ends[n].take(stranger, data, self.now);
        let bytes: usize = out.iter().map(|(_, data)| data.len()).sum();
        assert!(bytes <= data.len(), "{bytes} bytes for {}", data.len());
        assert!(
            out.iter().all(|(to, _)| *to == stranger),
            "sent to somebody else"
        );
        let after = self.ends[n].sending.as_ref().map(|s| s.local_index());
        assert_eq!(session, after, "a stranger replaced a session");
    }

    /// Both still talk to each other.
    fn still_talks(&mut self) {
        let session = self.ends[0].sending.clone().expect("a session");
        assert!(!session.is_closed());
        let mut packet = vec![0; OVERHEAD + 4];
        let millis = self.ends[0].tunnels.millis(self.now);
        let len = session
            .seal_into(Kind::Ip, &mut packet, 4, millis)
            .expect("it seals");
        let other = self.ends[1]
            .sessions
            .get(&session.remote_index())
            .expect("the other end");
        assert!(other.open_in_place(&mut packet[..len], millis).is_ok());
    }
}

/// Keyed BLAKE2s over everything before mac1, as in `docs/protocol.md`.
fn sign_mac1(receiver: u8, frame: &mut [u8]) {
    let mut hash = Blake2s256::new();
    hash.update(b"kanpachi/tunnel/v1/mac1\0");
    hash.update(public(receiver));
    let key: [u8; 32] = hash.finalize().into();
    let mut mac = Blake2sMac::<U16>::new_from_slice(&key).expect("32 bytes");
    mac.update(&frame[..MAC1_AT]);
    let mac: [u8; 16] = mac.finalize().into_bytes().into();
    frame[MAC1_AT..MAC2_AT].copy_from_slice(&mac);
}

/// Lays `patch` over `base` from an offset that the first two bytes name.
fn overlay(base: &[u8], patch: &[u8]) -> Vec<u8> {
    let mut out = base.to_vec();
    if let Some((at, patch)) = patch.split_first_chunk::<2>() {
        let at = usize::from(u16::from_le_bytes(*at)) % out.len().max(1);
        for (slot, byte) in out[at..].iter_mut().zip(patch) {
            *slot ^= byte;
        }
    }
    out
}

/// A datagram from a stranger. The first byte says what the others are: the datagram itself, changes to an init or a
/// response whose mac1 is then right, changes to a cookie reply or to a transport packet.
///
/// # Panics
/// When it moves anything, or is answered by more than it is long.
pub fn tunnel_datagram(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    let mut pair = Pair::connected();
    match mode % 5 {
        0 => {
            pair.strange(0, rest);
            pair.strange(1, rest);
        }
        1 => {
            let mut init = overlay(&pair.logged(1), rest);
            sign_mac1(1, &mut init);
            pair.strange(1, &init);
            pair.strange(1, &init);
        }
        2 => {
            let mut response = overlay(&pair.logged(2), rest);
            sign_mac1(0, &mut response);
            pair.strange(0, &response);
        }
        3 => {
            let session = pair.ends[0].sending.clone().expect("a session");
            let mut reply = vec![0; COOKIE_REPLY_LEN];
            reply[..2].copy_from_slice(&[3, WIRE_VERSION]);
            reply[4..8].copy_from_slice(&session.local_index().to_le_bytes());
            pair.strange(0, &overlay(&reply, rest));
        }
        _ => pair.strange(1, &overlay(&pair.logged(4), rest)),
    }
    pair.still_talks();
}

/// A handshake whose payload are these bytes, by somebody who knows the responder's public key and nothing else; and
/// the same by a member, which may get it a session but nothing more.
///
/// # Panics
/// When a stranger is answered, or a member is answered by more than a response.
pub fn tunnel_payload(data: &[u8]) {
    let mut payload = data.to_vec();
    payload.resize(INIT_PAYLOAD, 0);
    let mut pair = Pair::connected();
    pair.now += Duration::from_secs(10);
    let stranger = SocketAddr::from(([198, 51, 100, 66], 666));
    let init = init_by(7, &payload);
    let out = pair.ends[1].take(stranger, &init, pair.now);
    assert!(out.is_empty(), "a stranger is answered");
    let init = init_by(0, &payload);
    let out = pair.ends[1].take(address(0), &init, pair.now);
    assert!(out.len() <= 1 && out.iter().all(|(_, data)| data.len() <= init.len()));
    pair.still_talks();
}

/// A handshake init to node 1 by whoever has secret `n`.
fn init_by(n: u8, payload: &[u8]) -> Vec<u8> {
    let prologue = [b"kanpachi/tunnel\0", &[WIRE_VERSION][..], &ORG.0, &id(1).0].concat();
    let params = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
        .parse()
        .expect("a pattern");
    let (own, other) = (secret(n), public(1));
    let mut state = snow::Builder::new(params)
        .local_private_key(&own)
        .and_then(|b| b.remote_public_key(&other))
        .and_then(|b| b.prologue(&prologue))
        .and_then(|b| b.psk(2, &[0; 32]))
        .map(|b| b.fixed_ephemeral_key_for_testing_only(&[9; 32]))
        .and_then(snow::Builder::build_initiator)
        .expect("a handshake");
    let mut frame = vec![0; HANDSHAKE_LEN];
    frame[..8].copy_from_slice(&[1, WIRE_VERSION, 0, 0, 5, 0, 0, 0]);
    state
        .write_message(payload, &mut frame[8..MAC1_AT])
        .expect("a message of the right length");
    sign_mac1(1, &mut frame);
    frame
}

/// A control payload inside a session: a member is no stranger, but no friend either.
///
/// # Panics
/// When it is answered by a flood, or what is understood does not read back.
pub fn tunnel_control(data: &[u8]) {
    let mut pair = Pair::connected();
    let session = pair.ends[0].sending.clone().expect("a session");
    for (n, kind) in [Kind::Control, Kind::Fragment, Kind::Control]
        .into_iter()
        .enumerate()
    {
        let mut packet = vec![0; OVERHEAD + data.len()];
        packet[HEADER_LEN..HEADER_LEN + data.len()].copy_from_slice(data);
        let millis = pair.ends[0].tunnels.millis(pair.now);
        let Ok(len) = session.seal_into(kind, &mut packet, data.len(), millis) else {
            return;
        };
        // Once from where it was, once from elsewhere.
        let from = address(if n == 2 { 9 } else { 0 });
        let out = pair.ends[1].take(from, &packet[..len], pair.now);
        assert!(out.len() <= MAX_ANSWERS, "{} datagrams", out.len());
        pair.now += Duration::from_millis(1);
    }
    if let Some(control) = Control::decode(data) {
        assert!(format!("{control:?}").len() < 64 * 1024);
    }
    pair.pass(Duration::from_secs(1));
}
