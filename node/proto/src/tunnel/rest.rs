//! Control messages of a session at rest: a packet thread answers them by itself and wakes nobody.

use std::net::SocketAddr;

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

/// Attends to a control message that came from where this node's data to the peer goes. The core is to have it by
/// [`Tunnels::handle_attended`](super::Tunnels::handle_attended), unless the answer is [`Attended::No`].
#[must_use]
pub fn attend(session: &Session, from: SocketAddr, payload: &[u8], now_ms: u64) -> Attended {
    // Whoever rests has nothing to decide: the path is healthy, and nobody waits for an answer.
    if !session.is_asleep() {
        return Attended::No;
    }
    match Control::decode(payload) {
        Some(Control::Ping {
            nonce,
            primary: true,
        }) => {
            let pong = Control::Pong { nonce, seen: from };
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
