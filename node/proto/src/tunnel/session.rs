//! One confirmed (or soon to be confirmed) set of keys with a peer, as the packet threads use it.
//!
//! There is no lock: sealing needs the key and an atomic counter, opening needs the key. The replay window is a
//! separate value that the receiver keeps under its own lock. The core ([`Tunnels`](super::Tunnels)) holds the
//! same `Arc` and decides when a session is confirmed and when it is closed.

use std::{
    fmt,
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use kanpachi_common::NodeId;
use thiserror::Error;

use super::{
    cipher::PacketCipher,
    timers,
    wire::{HEADER_LEN, Kind, OVERHEAD, TAG_LEN, TransportHeader},
};

/// Counters from here on are neither sealed nor opened (WireGuard's Reject-After-Messages).
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// From here on the core makes a new session (WireGuard's Rekey-After-Messages).
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// Why nothing was sealed. The buffer is unchanged but for the header room.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// This node answered the handshake and the peer has not yet used the keys.
    #[error("the peer has not confirmed the session")]
    Unconfirmed,
    /// The core closed the session.
    #[error("the session is closed")]
    Closed,
    /// Older than 180 s.
    #[error("the session is too old")]
    Expired,
    /// Too many messages under one key.
    #[error("the session has no counters left")]
    Exhausted,
    /// No room for header, payload and tag.
    #[error("the buffer is too small")]
    BufferTooSmall,
}

/// Why a datagram was not opened. Nothing but its bytes has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OpenError {
    /// Not a transport datagram for this session.
    #[error("not a transport datagram of this session")]
    Malformed,
    /// The core closed the session.
    #[error("the session is closed")]
    Closed,
    /// Older than 180 s.
    #[error("the session is too old")]
    Expired,
    /// A counter that no honest sender uses.
    #[error("the counter is past the message limit")]
    Exhausted,
    /// Not from the peer.
    #[error("the tag does not fit")]
    Forged,
}

/// An authenticated packet. Whether it is a repetition is for the [`ReplayWindow`](super::ReplayWindow) to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// For the replay window.
    pub counter: u64,
    /// What the payload is.
    pub kind: Kind,
    /// Where the payload lies in the datagram.
    pub payload: Range<usize>,
}

/// Traffic of one session. Times are milliseconds since the start of the core, 0 for never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// Datagrams received.
    pub rx_packets: u64,
    /// Bytes received, as UDP payload.
    pub rx_bytes: u64,
    /// Datagrams sealed.
    pub tx_packets: u64,
    /// Bytes sealed, as UDP payload.
    pub tx_bytes: u64,
    /// Last datagram received.
    pub last_rx_ms: u64,
    /// Last datagram sealed.
    pub last_tx_ms: u64,
}

/// Written by receivers only. Apart from [`Tx`] by a cache line, since other threads write that.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Rx {
    packets: AtomicU64,
    bytes: AtomicU64,
    last_ms: AtomicU64,
    /// Last data (not control) received; what a passive keepalive answers.
    last_data_ms: AtomicU64,
}

/// Written by senders only, but for `waiting_since_ms`.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Tx {
    /// Next counter, and so the number of datagrams sealed.
    next: AtomicU64,
    bytes: AtomicU64,
    last_ms: AtomicU64,
    /// Last data (not control) sealed.
    last_data_ms: AtomicU64,
    /// When the oldest data was sealed that nothing received since can have answered; 0 for none.
    waiting_since_ms: AtomicU64,
}

/// Everything that names a session; the keys come beside it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SessionInfo {
    pub(crate) peer: NodeId,
    pub(crate) local_index: u32,
    pub(crate) remote_index: u32,
    pub(crate) capabilities: u64,
    pub(crate) initiator: bool,
    pub(crate) created_ms: u64,
}

/// A session with a peer, shared between the packet threads and the core.
pub struct Session {
    info: SessionInfo,
    sealer: Box<dyn PacketCipher>,
    opener: Box<dyn PacketCipher>,
    confirmed: AtomicBool,
    closed: AtomicBool,
    /// The core does not look at it until it carries data again.
    asleep: AtomicBool,
    rx: Rx,
    tx: Tx,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("info", &self.info)
            .field("confirmed", &self.confirmed)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(
        info: SessionInfo,
        sealer: Box<dyn PacketCipher>,
        opener: Box<dyn PacketCipher>,
    ) -> Self {
        Self {
            info,
            sealer,
            opener,
            // The response authenticates the responder; the initiator still has to prove itself.
            confirmed: AtomicBool::new(info.initiator),
            closed: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            rx: Rx::default(),
            tx: Tx::default(),
        }
    }

    /// The member at the other end.
    #[must_use]
    pub const fn peer(&self) -> NodeId {
        self.info.peer
    }

    /// The index in datagrams to this node.
    #[must_use]
    pub const fn local_index(&self) -> u32 {
        self.info.local_index
    }

    /// The index in datagrams to the peer.
    #[must_use]
    pub const fn remote_index(&self) -> u32 {
        self.info.remote_index
    }

    /// Capability bits that both sides have.
    #[must_use]
    pub const fn capabilities(&self) -> u64 {
        self.info.capabilities
    }

    /// May this node send yet?
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.confirmed.load(Relaxed)
    }

    /// Nothing has to be looked at until this session carries data again.
    pub fn sleep(&self) {
        self.asleep.store(true, Relaxed);
    }

    /// Does it carry no data, so that nothing has to be looked at?
    #[must_use]
    pub fn is_asleep(&self) -> bool {
        self.asleep.load(Relaxed)
    }

    /// To be asked after data was sealed or opened. `true` for the first data after a rest: then the core is to be told, by
    /// [`Tunnels::handle_woken`](super::Tunnels::handle_woken).
    #[must_use]
    pub fn wakes(&self) -> bool {
        self.asleep.load(Relaxed) && self.asleep.swap(false, Relaxed)
    }

    /// Is it over?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }

    /// Traffic so far.
    #[must_use]
    pub fn stats(&self) -> SessionStats {
        SessionStats {
            rx_packets: self.rx.packets.load(Relaxed),
            rx_bytes: self.rx.bytes.load(Relaxed),
            tx_packets: self.tx.next.load(Relaxed),
            tx_bytes: self.tx.bytes.load(Relaxed),
            last_rx_ms: self.rx.last_ms.load(Relaxed),
            last_tx_ms: self.tx.last_ms.load(Relaxed),
        }
    }

    const fn is_expired(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.info.created_ms) >= timers::REJECT_AFTER_MS
    }

    /// Seals one packet in place.
    ///
    /// `buf` is 16 bytes of room, `payload_len` bytes of payload, 16 bytes of room. Returns the length of the
    /// datagram at its start.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn seal_into(
        &self,
        kind: Kind,
        buf: &mut [u8],
        payload_len: usize,
        now_ms: u64,
    ) -> Result<usize, SealError> {
        let len = payload_len
            .checked_add(OVERHEAD)
            .ok_or(SealError::BufferTooSmall)?;
        let buf = buf.get_mut(..len).ok_or(SealError::BufferTooSmall)?;
        if self.closed.load(Relaxed) {
            return Err(SealError::Closed);
        }
        if !self.confirmed.load(Relaxed) {
            return Err(SealError::Unconfirmed);
        }
        if self.is_expired(now_ms) {
            return Err(SealError::Expired);
        }
        let counter = self.next_counter()?;
        let header = TransportHeader {
            kind,
            receiver: self.info.remote_index,
            counter,
        }
        .encode();
        let (room, rest) = buf
            .split_first_chunk_mut::<HEADER_LEN>()
            .ok_or(SealError::BufferTooSmall)?;
        let (payload, tag) = rest
            .split_last_chunk_mut::<TAG_LEN>()
            .ok_or(SealError::BufferTooSmall)?;
        *room = header;
        *tag = self
            .sealer
            .seal(counter, &header, payload)
            .map_err(|_| SealError::BufferTooSmall)?;
        self.record_tx(kind, len, now_ms);
        Ok(len)
    }

    fn next_counter(&self) -> Result<u64, SealError> {
        // Looked at before it is raised: refusals must not push it over the end, where nonces would repeat.
        // Between the two lines other threads can raise it by one each; 2^13 numbers are spare for that.
        if self.tx.next.load(Relaxed) >= REJECT_AFTER_MESSAGES {
            return Err(SealError::Exhausted);
        }
        let counter = self.tx.next.fetch_add(1, Relaxed);
        if counter >= REJECT_AFTER_MESSAGES {
            return Err(SealError::Exhausted);
        }
        Ok(counter)
    }

    fn record_tx(&self, kind: Kind, len: usize, now_ms: u64) {
        self.tx.bytes.fetch_add(len as u64, Relaxed);
        self.tx.last_ms.store(now_ms, Relaxed);
        if kind != Kind::Control {
            self.tx.last_data_ms.store(now_ms, Relaxed);
            if self.tx.waiting_since_ms.load(Relaxed) == 0 {
                self.tx.waiting_since_ms.store(now_ms.max(1), Relaxed);
            }
        }
    }

    /// Authenticates and decrypts a transport datagram in place. Changes nothing but the datagram: the caller
    /// asks the replay window next, and then calls [`record_rx`](Self::record_rx).
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open_in_place(&self, packet: &mut [u8], now_ms: u64) -> Result<Opened, OpenError> {
        let header = TransportHeader::parse(packet).ok_or(OpenError::Malformed)?;
        if header.receiver != self.info.local_index {
            return Err(OpenError::Malformed);
        }
        if self.closed.load(Relaxed) {
            return Err(OpenError::Closed);
        }
        if self.is_expired(now_ms) {
            return Err(OpenError::Expired);
        }
        if header.counter >= REJECT_AFTER_MESSAGES {
            return Err(OpenError::Exhausted);
        }
        let end = packet.len() - TAG_LEN;
        let (clear, sealed) = packet
            .split_first_chunk_mut::<HEADER_LEN>()
            .ok_or(OpenError::Malformed)?;
        self.opener
            .open(header.counter, clear, sealed)
            .map_err(|_| OpenError::Forged)?;
        Ok(Opened {
            counter: header.counter,
            kind: header.kind,
            payload: HEADER_LEN..end,
        })
    }

    /// Counts a packet that passed the replay window, and takes it as a sign of life.
    pub fn record_rx(&self, kind: Kind, datagram_len: usize, now_ms: u64) {
        self.rx.packets.fetch_add(1, Relaxed);
        self.rx.bytes.fetch_add(datagram_len as u64, Relaxed);
        self.rx.last_ms.store(now_ms, Relaxed);
        if kind != Kind::Control {
            self.rx.last_data_ms.store(now_ms, Relaxed);
        }
        // Read first: the line belongs to the senders and is written only when there is something to clear.
        if self.tx.waiting_since_ms.load(Relaxed) != 0 {
            self.tx.waiting_since_ms.store(0, Relaxed);
        }
    }

    pub(crate) const fn info(&self) -> &SessionInfo {
        &self.info
    }

    pub(crate) fn confirm(&self) {
        self.confirmed.store(true, Relaxed);
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    pub(crate) fn is_running_out(&self) -> bool {
        self.tx.next.load(Relaxed) >= REKEY_AFTER_MESSAGES
    }

    pub(crate) fn last_data_rx_ms(&self) -> u64 {
        self.rx.last_data_ms.load(Relaxed)
    }

    pub(crate) fn last_data_tx_ms(&self) -> u64 {
        self.tx.last_data_ms.load(Relaxed)
    }

    /// When the oldest unanswered data was sealed.
    pub(crate) fn waiting_since_ms(&self) -> Option<u64> {
        match self.tx.waiting_since_ms.load(Relaxed) {
            0 => None,
            since => Some(since),
        }
    }

    #[cfg(test)]
    pub(crate) fn preset_counter(&self, counter: u64) {
        self.tx.next.store(counter, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc, thread};

    use proptest::prelude::*;
    use zeroize::Zeroizing;

    use super::*;
    use crate::tunnel::cipher::Engine;

    fn pair() -> (Session, Session) {
        let make = |initiator: bool, local_index, remote_index, seal: u8, open: u8| {
            let info = SessionInfo {
                peer: NodeId([9; 32]),
                local_index,
                remote_index,
                capabilities: 0,
                initiator,
                created_ms: 1000,
            };
            let cipher = |key| Engine::Ring.cipher(Zeroizing::new([key; 32]));
            Session::new(info, cipher(seal), cipher(open))
        };
        let (a, b) = (make(true, 1, 2, 7, 8), make(false, 2, 1, 8, 7));
        b.confirm();
        (a, b)
    }

    fn seal(session: &Session, payload: &[u8], now_ms: u64) -> Result<Vec<u8>, SealError> {
        let mut buf = vec![0; payload.len() + OVERHEAD];
        buf[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
        let len = session.seal_into(Kind::Ip, &mut buf, payload.len(), now_ms)?;
        assert_eq!(len, buf.len());
        Ok(buf)
    }

    #[test]
    fn what_is_sealed_opens_at_the_other_end_only() {
        let (a, b) = pair();
        let packet = seal(&a, b"hello", 1000).unwrap();
        let mut at_b = packet.clone();
        let opened = b.open_in_place(&mut at_b, 1000).unwrap();
        assert_eq!((opened.counter, opened.kind), (0, Kind::Ip));
        assert_eq!(&at_b[opened.payload], b"hello");
        assert_eq!(
            a.open_in_place(&mut packet.clone(), 1000),
            Err(OpenError::Malformed)
        );
    }

    proptest! {
        #[test]
        fn a_changed_packet_changes_nothing(payload in proptest::collection::vec(any::<u8>(), 0..100), flip in any::<proptest::sample::Index>(), bit in 0u8..8) {
            let (a, b) = pair();
            let mut packet = seal(&a, &payload, 1000).unwrap();
            let len = packet.len();
            packet[flip.index(len)] ^= 1 << bit;
            prop_assert!(b.open_in_place(&mut packet, 1000).is_err());
            prop_assert_eq!(b.stats(), SessionStats::default());
        }

        #[test]
        fn any_bytes_are_refused(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), framed: bool) {
            let (_, b) = pair();
            if framed && bytes.len() >= 8 {
                bytes[..8].copy_from_slice(&[4, 1, 1, 0, 2, 0, 0, 0]);
            }
            prop_assert!(b.open_in_place(&mut bytes, 1000).is_err());
        }
    }

    /// Row C3 of the attack checklist.
    #[test]
    fn counters_end_before_they_repeat() {
        let (a, b) = pair();
        a.preset_counter(u64::from(u32::MAX));
        let mut packet = seal(&a, b"x", 1000).unwrap();
        assert_eq!(
            b.open_in_place(&mut packet, 1000).unwrap().counter,
            u64::from(u32::MAX)
        );
        assert_eq!(
            seal(&a, b"x", 1000).map(|p| p[8..16].to_vec()),
            Ok((1_u64 << 32).to_le_bytes().to_vec())
        );
        a.preset_counter(REJECT_AFTER_MESSAGES - 1);
        assert!(a.is_running_out());
        let mut last = seal(&a, b"x", 1000).unwrap();
        assert!(b.open_in_place(&mut last, 1000).is_ok());
        for _ in 0..20_000 {
            assert_eq!(seal(&a, b"x", 1000), Err(SealError::Exhausted));
        }
        assert_eq!(a.stats().tx_packets, REJECT_AFTER_MESSAGES);
    }

    #[test]
    fn old_closed_and_unconfirmed_sessions_are_silent() {
        let (a, b) = pair();
        let end = 1000 + timers::REJECT_AFTER_MS;
        let mut packet = seal(&a, b"x", end - 1).unwrap();
        assert_eq!(seal(&a, b"x", end), Err(SealError::Expired));
        assert_eq!(
            b.open_in_place(&mut packet.clone(), end),
            Err(OpenError::Expired)
        );
        b.close();
        assert_eq!(
            b.open_in_place(&mut packet, end - 1),
            Err(OpenError::Closed)
        );
        assert_eq!(seal(&b, b"x", 1000), Err(SealError::Closed));
        let (_, fresh) = pair();
        fresh.confirmed.store(false, Relaxed);
        assert_eq!(seal(&fresh, b"x", 1000), Err(SealError::Unconfirmed));
        assert_eq!(
            fresh.seal_into(Kind::Ip, &mut [0; 10], 5, 1000),
            Err(SealError::BufferTooSmall)
        );
        assert_eq!(
            fresh.seal_into(Kind::Ip, &mut [0; 10], usize::MAX, 1000),
            Err(SealError::BufferTooSmall)
        );
    }

    /// Row C8 of the attack checklist.
    #[test]
    fn no_counter_is_used_twice_by_threads() {
        let a = Arc::new(pair().0);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                let a = Arc::clone(&a);
                thread::spawn(move || {
                    (0..2000)
                        .map(|_| seal(&a, b"", 1000).unwrap()[8..16].to_vec())
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        let counters: BTreeSet<Vec<u8>> = threads
            .into_iter()
            .flat_map(|t| t.join().unwrap())
            .collect();
        assert_eq!(counters.len(), 8000);
    }

    #[test]
    fn waiting_ends_with_the_first_packet_received() {
        let (a, _) = pair();
        assert_eq!(a.waiting_since_ms(), None);
        seal(&a, b"x", 2000).unwrap();
        seal(&a, b"x", 3000).unwrap();
        assert_eq!(a.waiting_since_ms(), Some(2000));
        a.record_rx(Kind::Control, 40, 3500);
        assert_eq!(a.waiting_since_ms(), None);
        assert_eq!(
            (
                a.last_data_rx_ms(),
                a.last_data_tx_ms(),
                a.stats().last_rx_ms
            ),
            (0, 3000, 3500)
        );
    }

    #[test]
    fn debug_shows_no_key() {
        assert!(!format!("{:?}", pair().0).contains("sealer"));
    }

    #[test]
    #[ignore = "a measurement, not a test"]
    fn speed_of_the_packet_path() {
        let (a, b) = pair();
        let mut window = crate::tunnel::ReplayWindow::new();
        let mut buf = vec![0; 1500 + OVERHEAD];
        for len in [64, 1400] {
            let start = std::time::Instant::now();
            let rounds = 400_000_u32;
            for _ in 0..rounds {
                a.seal_into(Kind::Ip, &mut buf, len, 1000).unwrap();
            }
            let seal = start.elapsed();
            let start = std::time::Instant::now();
            for _ in 0..rounds {
                let total = a.seal_into(Kind::Ip, &mut buf, len, 1000).unwrap();
                let opened = b.open_in_place(&mut buf[..total], 1000).unwrap();
                assert!(window.check_and_set(opened.counter));
                b.record_rx(opened.kind, total, 1000);
            }
            let both = start.elapsed();
            println!(
                "{len} bytes: seal {:?}, seal + open + window {:?}",
                seal / rounds,
                both / rounds
            );
        }
    }
}
