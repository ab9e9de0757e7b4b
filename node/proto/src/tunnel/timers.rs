//! Every interval and limit of the tunnels in one place. Where WireGuard has a value it is WireGuard's
//! (wireguard-go, `device/constants.go`).

use std::time::{Duration, Instant};

use crate::path::budget::Rate;

/// A session this old gets a successor (Rekey-After-Time); the only interval a configuration can shorten.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// The responder of a session waits longer, so that the two do not rekey at once.
pub(crate) const REKEY_AFTER_AS_RESPONDER: Duration = Duration::from_secs(45);
/// A session at rest gets it so much later: along with a keepalive from the first on, and by itself after the second.
pub(crate) const REKEY_AT_REST: (Duration, Duration) =
    (Duration::from_secs(20), Duration::from_secs(45));
/// A session at rest that is so old has no predecessors any more.
pub(crate) const REPLACED_AT_REST: Duration = Duration::from_secs(20);
/// The answer to a ping that somebody asked for is waited for.
pub(crate) const PING_WAIT: Duration = Duration::from_secs(5);
/// A session of this age gets a successor whatever it does: there is time for it to fail twice.
pub(crate) const SAFE_AGE: Duration = Duration::from_millis(REJECT_AFTER_MS - 15_000);
/// A session this old neither seals nor opens (Reject-After-Time), in milliseconds.
pub const REJECT_AFTER_MS: u64 = 180_000;
/// A peer that has not answered for this long is given up (Rekey-Attempt-Time).
pub const ATTEMPT: Duration = Duration::from_secs(90);
/// A new handshake init, with a new ephemeral key, at this interval (Rekey-Timeout).
pub const RETRY: Duration = Duration::from_secs(5);
/// At most this much is added to [`RETRY`], in milliseconds.
pub const RETRY_JITTER_MS: u64 = 334;
/// When one init is sent again to one address, counted from its first sending there.
pub(crate) const RESEND: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(250),
    Duration::from_millis(750),
    Duration::from_millis(1750),
    Duration::from_millis(3750),
];
/// Between two inits to any address of one peer: the stagger of the race, and its bound of 20 a second.
pub(crate) const INIT_SPACING: Duration = Duration::from_millis(50);
/// Inits to addresses of one peer that have never answered: it may have told of addresses of somebody else.
pub(crate) const UNPROVEN_INITS: Rate = Rate {
    most: 600,
    every: Duration::from_secs(1),
};
/// Attempts that begin because a peer without a session tells of a new address. Any other tries it when its time comes.
pub(crate) const HURRIED: Rate = Rate {
    most: 4,
    every: Duration::from_secs(300),
};
/// In a rekey over a living path the other addresses join this late.
pub(crate) const REKEY_FALLBACK: Duration = Duration::from_secs(1);
/// After giving up: next try while the peer is wanted.
pub(crate) const RETRY_WHEN_DOWN: Duration = Duration::from_secs(30);
/// Data came and nothing went back for this long: keepalive (Keepalive-Timeout).
pub const KEEPALIVE: Duration = Duration::from_secs(10);
/// While the peer is wanted, something is sent this often to keep NAT mappings open.
pub const PERSISTENT_KEEPALIVE: Duration = Duration::from_secs(25);
/// Two keepalives are at least this far apart: clocks are not that exact, and are set.
const APART: Duration = Duration::from_secs(1);

/// The first keepalive after one at this moment.
pub(crate) fn next_beat(beat: Instant, after: Instant) -> Instant {
    let after = after + APART;
    let every = PERSISTENT_KEEPALIVE.as_nanos();
    let ahead = after.saturating_duration_since(beat).as_nanos() % every;
    let behind = beat.saturating_duration_since(after).as_nanos() % every;
    let wait = if ahead > 0 { every - ahead } else { behind };
    after + Duration::from_nanos(u64::try_from(wait).unwrap_or(0))
}
/// A member that is behind is told the epochs again after this, doubling up to the second.
pub(crate) const TELL_AGAIN: (Duration, Duration) =
    (Duration::from_millis(500), Duration::from_secs(4));
/// Sent and heard nothing for this long: new handshake over all addresses.
pub const DEAD_PEER: Duration = Duration::from_secs(15);
/// An answered handshake init waits this long for its first packet.
pub(crate) const PENDING: Duration = Duration::from_secs(10);
/// When three wait already, the oldest gives way if it has had this long.
pub(crate) const PENDING_PROTECTED: Duration = Duration::from_secs(1);
/// A cookie is good for this long (Cookie-Refresh-Time).
pub const COOKIE: Duration = Duration::from_secs(120);
/// No timer is set closer than this.
pub(crate) const SOONEST: Duration = Duration::from_millis(1);
/// How often a session in use is looked at: what was sent, what was heard.
pub(crate) const TICK: Duration = Duration::from_millis(500);
/// And how often at the latest one that carries nothing, if nobody wants it.
pub(crate) const REST: Duration = Duration::from_secs(20);
/// An initiator repeats its first packet this often until it hears the responder, so that the responder may send.
pub(crate) const CONFIRM_EVERY: Duration = Duration::from_millis(250);
/// And stops being that eager after this long.
pub(crate) const CONFIRM_FOR: Duration = Duration::from_millis(2500);

/// Two sessions made within this time of each other, one by each side, may have crossed.
pub(crate) const CROSSED: Duration = Duration::from_secs(5);
/// After this long packets of the session that was left are no longer late ones.
pub(crate) const CROSSED_SETTLED: Duration = Duration::from_secs(1);

/// Answered but unconfirmed handshakes of one peer.
pub(crate) const MAX_PENDING_PER_PEER: usize = 3;
/// Answered but unconfirmed handshakes of all peers.
pub const MAX_PENDING: usize = 1024;
/// Confirmed sessions of one peer that still receive.
pub(crate) const MAX_SESSIONS_PER_PEER: usize = 3;
/// How often the cached answer to one init is sent.
pub(crate) const MAX_REPEATED_ANSWERS: u8 = 32;
/// Datagrams waiting for `poll_transmit`; more are dropped and counted.
pub(crate) const MAX_TRANSMITS: usize = 4096;
