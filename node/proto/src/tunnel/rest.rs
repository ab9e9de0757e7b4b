//! Control messages of a session at rest: a packet thread answers them by itself and wakes nobody.

use std::net::SocketAddr;
use std::time::Duration;

use super::{
    control::Control,
    session::Session,
    wire::{HEADER_LEN, Kind, OVERHEAD},
};

/// What a packet thread does with a control message that it has opened and that is no repetition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Attended {
    /// The core is to have it at once.
    No,
    /// The core is to have it before anything else that it does, and need not be woken for it.
    Later,
    /// The same; this datagram goes back to where the message came from.
    Answered(Vec<u8>),
}

/// How a control message came, authenticated and not a repetition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// This end's index of the session.
    pub local_index: u32,
    /// Canonical address it came from.
    pub from: SocketAddr,
    /// Its counter.
    pub counter: u64,
    /// For how long at the most it lay unread, at a node at rest that reads several at once.
    pub held: Duration,
}

impl Receipt {
    /// Of a message that was read when it came.
    #[must_use]
    pub const fn at_once(local_index: u32, from: SocketAddr, counter: u64) -> Self {
        Self {
            local_index,
            from,
            counter,
            held: Duration::ZERO,
        }
    }

    /// The same for a pong, in milliseconds.
    pub(super) fn held_ms(&self) -> u8 {
        u8::try_from(self.held.as_micros().div_ceil(1000)).unwrap_or(u8::MAX)
    }
}

/// Attends to a control message that came from where this node's data to the peer goes. The core is to have it by
/// [`Tunnels::handle_attended`](super::Tunnels::handle_attended), unless the answer is [`Attended::No`].
#[must_use]
pub fn attend(session: &Session, receipt: &Receipt, payload: &[u8], now_ms: u64) -> Attended {
    // Whoever rests has nothing to decide: the path is healthy, and nobody waits for an answer.
    if !session.is_asleep() {
        return Attended::No;
    }
    match Control::decode(payload) {
        Some(Control::Ping {
            nonce,
            primary: true,
        }) => {
            let (seen, held) = (receipt.from, receipt.held_ms());
            let pong = Control::Pong { nonce, seen, held };
            seal(session, &pong, now_ms).map_or(Attended::No, Attended::Answered)
        }
        Some(Control::Pong { .. }) => Attended::Later,
        _ => Attended::No,
    }
}

/// Seals one control message; `None` when the session does not send (any more).
pub(super) fn seal(session: &Session, message: &Control, now_ms: u64) -> Option<Vec<u8>> {
    let payload = message.encode();
    let mut buf = vec![0; payload.len() + OVERHEAD];
    buf[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(&payload);
    session
        .seal_into(Kind::Control, &mut buf, payload.len(), now_ms)
        .ok()?;
    Some(buf)
}
