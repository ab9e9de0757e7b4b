//! The relay's datagrams, on the socket's reader thread: `bind` and `data`.
//!
//! A `bind` without a right mac gets no answer, and an answer is as long as what it answers and goes to where that came
//! from. Data counts from the bound address only.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::{ArcSwap, Cache};
use kanpachi_common::wire::relay::{
    MAX_DATA, SessionKey,
    datagram::{
        BIND, Bind, Cookie, DATA, HEADER_LEN, Step, cookie, decode_bind, decode_header,
        encode_bound, is_authentic,
    },
};
use kanpachi_transport::SharedSocket;
use subtle::ConstantTimeEq as _;

use super::{
    Shared,
    counters::count,
    forward::{Forwarder, Sender},
    pace::Load,
    table::{Session, Sessions},
};

/// Destinations that are collected for at once.
const MAX_BATCHES: usize = 64;
/// Nanoseconds after which cookies are made with another secret. Those of the one before are good as well.
const EPOCH: u64 = 60_000_000_000;

/// The part of a relay that a [`DatagramHandler`](kanpachi_transport::DatagramHandler) passes datagrams to.
#[derive(Debug)]
pub struct PacketPart<S = SharedSocket> {
    shared: Arc<Shared>,
    sessions: Cache<Arc<ArcSwap<Sessions>>, Arc<Sessions>>,
    forwarder: Forwarder<S>,
    secret: SessionKey,
    load: Load,
    /// The time of the current batch.
    now: Option<u64>,
}

#[expect(
    private_bounds,
    reason = "outside of tests there is one sender, the shared socket"
)]
impl<S: Sender> PacketPart<S> {
    pub(super) fn new(socket: S, shared: Arc<Shared>, secret: SessionKey) -> Self {
        Self {
            sessions: Cache::new(Arc::clone(&shared.table)),
            forwarder: Forwarder::new(socket, Arc::clone(&shared), MAX_BATCHES),
            shared,
            secret,
            load: Load::default(),
            now: None,
        }
    }

    /// Takes a datagram if it is for this relay; `false` leaves it to somebody else: it is no datagram of a relay's member,
    /// or data of a session that is none of this relay's.
    pub fn handle(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        match datagram.first() {
            Some(&BIND) => {
                self.on_bind(from, datagram);
                true
            }
            Some(&DATA) => self.on_data(from, datagram),
            _ => false,
        }
    }

    /// What was read at once has been handled.
    pub fn end_of_batch(&mut self) {
        self.forwarder.flush();
        self.now = None;
    }

    /// After each read of the socket: did it bring as much as it can?
    pub fn end_of_read(&mut self, full: bool) {
        let now = self.shared.now();
        self.load.read(full, &self.shared.pace, now);
    }

    fn now(&mut self) -> u64 {
        *self.now.get_or_insert_with(|| self.shared.now())
    }

    fn on_data(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        let now = self.now();
        let Some((number, channel)) = decode_header(datagram) else {
            return false;
        };
        let Some(session) = self.sessions.load().get(&number) else {
            return false;
        };
        let body = datagram.get(HEADER_LEN..).unwrap_or_default();
        let fits = body.len() <= MAX_DATA;
        if !fits || session.bound() != Some(from) || !session.is_open(now) {
            count(&self.shared.counters.drop_stranger, 1);
            // A node may have a session of that number at another relay.
            return false;
        }
        session.heard(now);
        self.forwarder.forward(session, channel, body, now);
        true
    }

    fn on_bind(&mut self, from: SocketAddr, datagram: &[u8]) {
        let now = self.now();
        let Some(bind) = decode_bind(datagram) else {
            return;
        };
        let Some(session) = self.sessions.load().get(&bind.session) else {
            return;
        };
        if !is_authentic(datagram, &session.key) || !session.is_open(now) || !session.may_bind(now)
        {
            return;
        }
        let (current, before) = cookies(&self.secret, session, from, now);
        let right = |cookie: &Cookie| bool::from(cookie.ct_eq(&bind.cookie));
        let step = if session.bound() == Some(from) {
            session.heard(now);
            Step::Bound
        } else if right(&current) || right(&before) {
            session.bind(from, now);
            count(&self.shared.counters.bound, 1);
            Step::Bound
        } else {
            Step::Challenge
        };
        let answer = Bind {
            cookie: match step {
                Step::Challenge => current,
                Step::Bound => bind.cookie,
            },
            ..bind
        };
        // A lost answer is asked for again.
        let answer = encode_bound(step, &answer, &session.key);
        let _ = self.forwarder.socket().send(from, &answer, None);
    }
}

/// What proves that a session's member receives at an address: made now, and made in the epoch before. Once the session
/// is bound they are worth nothing, so an overheard bind takes no member back to an address that it has left.
fn cookies(secret: &SessionKey, session: &Session, from: SocketAddr, now: u64) -> (Cookie, Cookie) {
    let epoch = now / EPOCH;
    let make = |epoch: u64| {
        // 32 bits of each are more than a session sees.
        let mark = session.generation() << 32 | (epoch & 0xffff_ffff);
        cookie(secret, session.number, mark, from)
    };
    (make(epoch), make(epoch.wrapping_sub(1)))
}
