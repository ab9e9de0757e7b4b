//! Encrypted tunnels between members: handshake, sessions, replay protection, timers.
//!
//! The handshake is WireGuard's in form: one round trip, the responder silent until the initiator has proved its keys,
//! cookies under load. [`Tunnels`] is the state machine for all peers and belongs to one thread. It hands out
//! [`Session`]s, with which the packet threads seal and open without a lock, and never sees a data packet itself:
//!
//! ```text
//! datagram ─ classify ─┬─ handshake ─ Doorstep::admit ───────────▶ Tunnels::handle_datagram
//!                      └─ transport ─ Session::open_in_place ─ ReplayWindow ─ Session::record_rx
//!                                       │ data: deliver; unconfirmed or another address ─▶ handle_authenticated
//!                                       └ control ──────────────────────────────────────▶ handle_opened_control
//! ```
//!
//! Life of a session with a peer: `connect` → init raced over all addresses ([`path`](crate::path)) → answer →
//! [`Event::SessionUp`] at the initiator → its first packet → `SessionUp` at the responder → rekey after 120 s, where
//! sending moves to the new session on confirmation and the old one receives to its end → [`Event::SessionClosed`].

mod admission;
mod cipher;
mod context;
mod control;
mod doorstep;
mod entropy;
mod event;
mod initiation;
mod mac;
mod noise;
mod payload;
mod peer;
mod reassembly;
mod replay;
mod rest;
mod session;
pub mod timers;
mod tunnels;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use self::entropy::Entropy;
pub use self::{
    cipher::{Engine, Forged, PacketCipher},
    context::{Config, LocalIdentity},
    control::{Control, MAX_CONTROL_LEN},
    doorstep::Doorstep,
    event::{CloseReason, Counters, Event, PathState, PeerStatus, SessionStatus, Transmit},
    payload::{FRAGMENTS, HandshakeCounter, MAX_EPOCHS},
    peer::PeerConfig,
    reassembly::{LIFETIME_MS, MAX_HELD, MAX_OPEN, MAX_WHOLE, Reassembly, Whole},
    replay::{ReplayWindow, WINDOW},
    rest::{Attended, Receipt, attend},
    session::{
        OpenError, Opened, REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES, SealError, Session,
        SessionStats,
    },
    tunnels::Tunnels,
    wire::{
        COOKIE_REPLY_LEN, Datagram, FRAGMENT_HEADER_LEN, FragmentHeader, HANDSHAKE_LEN, HEADER_LEN,
        Kind, MAX_FRAGMENTS, OVERHEAD, TAG_LEN, WIRE_VERSION, canonical, classify,
    },
};
