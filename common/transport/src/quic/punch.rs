//! Dialling as listener: both sides open their NATs at the same moment.
//!
//! The DCUtR specification has one side dial while the other sends worthless packets until that dial arrives.
//! Here the other side dials as well, so that whichever first packet gets through opens the way; the first
//! handshake to finish counts.

use std::{net::SocketAddr, pin::pin, time::Duration};

use futures::{FutureExt, channel::oneshot, select};
use libp2p::PeerId;

use super::{Error, connection::Connection, connection::establish};
use crate::socket::SharedSocket;

/// Length of a punch packet in bytes. One byte more than a QUIC header with an 8-byte connection id needs, and
/// below the 22 bytes that could make a QUIC endpoint answer with a stateless reset.
const PUNCH_LEN: usize = 20;
/// Punch packets of one attempt at the most: with the pauses below about five seconds' worth.
const PUNCHES: u32 = 48;
/// Shortest pause between two in milliseconds, and how much longer it may be at random (as in the specification).
const PAUSE_MS: u64 = 10;
const PAUSE_SPREAD_MS: u64 = 191;

/// Punches, dials and waits for the other side's dial, all towards one address.
pub(super) async fn meet(
    socket: SharedSocket,
    to: SocketAddr,
    outgoing: Result<quinn::Connecting, Error>,
    arriving: oneshot::Receiver<quinn::Connecting>,
) -> Result<(PeerId, Connection), Error> {
    let mut outgoing = pin!(async { establish(outgoing?).await }.fuse());
    let mut incoming = pin!(
        async {
            let arrived = tokio::time::timeout(super::config::HANDSHAKE_TIMEOUT, arriving);
            match arrived.await {
                Ok(Ok(connecting)) => establish(connecting).await,
                _ => Err(Error::HandshakeTimeout),
            }
        }
        .fuse()
    );
    let mut punches = pin!(punch(socket, to).fuse());
    let mut failure = Error::HandshakeTimeout;
    loop {
        let result = select! {
            result = outgoing => result,
            result = incoming => result,
            () = punches => continue,
            complete => return Err(failure),
        };
        match result {
            Ok(established) => return Ok(established),
            Err(e) => failure = e,
        }
    }
}

/// Sends random packets that a demultiplexer takes for QUIC's and QUIC drops.
async fn punch(socket: SharedSocket, to: SocketAddr) {
    for _ in 0..PUNCHES {
        let mut packet = [0; PUNCH_LEN];
        // Randomness keeps middleboxes from guessing, nothing else depends on it.
        let _ = getrandom::fill(&mut packet);
        // A short header: fixed bit set, form bit clear.
        packet[0] = (packet[0] & 0x3f) | crate::demux::QUIC_BIT;
        // Lost or not: the next one follows.
        let _ = socket.send(to, &packet, None);
        let spread = u64::from(u16::from_be_bytes([packet[1], packet[2]])) % PAUSE_SPREAD_MS;
        tokio::time::sleep(Duration::from_millis(PAUSE_MS + spread)).await;
    }
}
