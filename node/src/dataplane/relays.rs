//! The lowest layer of paths over relays: a header before each datagram, or a frame on a stream.
//!
//! Above, such a path is an address like any other (see [`kanpachi_proto::path::via`]). What it stands for is published by
//! the engine and looked up here, once per group of datagrams.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use kanpachi_common::NodeId;
use kanpachi_common::wire::relay::datagram::{HEADER_LEN, encode_header};
use kanpachi_proto::relay::Route;
use kanpachi_transport::SharedSocket;
use tokio::sync::mpsc;

/// A datagram on its way to a relay by stream.
#[derive(Debug)]
pub struct Streamed {
    /// When it was handed over: one that waits for too long is better dropped.
    pub at: Instant,
    /// Its channel.
    pub channel: u16,
    /// All of it.
    pub datagram: Vec<u8>,
}

/// Datagrams that wait for the stream of one relay, at the most. They are dropped by age long before, unless it stands still.
pub const STREAM_QUEUE: usize = 512;

/// How datagrams on one channel travel.
#[derive(Clone, Debug)]
struct Way {
    session: u32,
    channel: u16,
    carrier: Carrier,
}

#[derive(Clone, Debug)]
enum Carrier {
    Udp(SocketAddr),
    Stream(mpsc::Sender<Streamed>),
}

/// What arrives on one session.
#[derive(Clone, Debug)]
struct Session {
    relay: NodeId,
    addrs: Vec<SocketAddr>,
    channels: HashMap<u16, SocketAddr>,
}

/// What paths over relays stand for. Immutable once published.
#[derive(Clone, Debug, Default)]
pub struct RelayTable {
    ways: HashMap<SocketAddr, Way>,
    sessions: HashMap<u32, Session>,
}

impl RelayTable {
    /// The table of these routes; `streams` are those to relays that have one.
    #[must_use]
    pub fn new(routes: &[Route], streams: &HashMap<NodeId, mpsc::Sender<Streamed>>) -> Self {
        let mut table = Self::default();
        for route in routes {
            let carrier = match (route.bound, streams.get(&route.relay)) {
                (Some(addr), _) => Carrier::Udp(addr),
                (None, Some(stream)) => Carrier::Stream(stream.clone()),
                (None, None) => continue,
            };
            let session = route.session;
            for (channel, via) in &route.channels {
                let way = Way {
                    session,
                    channel: *channel,
                    carrier: carrier.clone(),
                };
                table.ways.insert(*via, way);
            }
            let channels = route.channels.iter().copied().collect();
            let incoming = Session {
                relay: route.relay,
                addrs: route.addrs.clone(),
                channels,
            };
            table.sessions.insert(session, incoming);
        }
        table
    }

    /// The path that a relay's datagram came on, if it came from an address of that relay. Not only from where this node is
    /// bound: the answer that says so may be late or lost, and the relay sends there all the same.
    pub(super) fn by_datagram(
        &self,
        from: SocketAddr,
        session: u32,
        channel: u16,
    ) -> Option<SocketAddr> {
        let session = self.sessions.get(&session)?;
        let known = session.addrs.contains(&from);
        known.then(|| session.channels.get(&channel).copied())?
    }

    /// Is there a session of this number?
    pub(super) fn has(&self, session: u32) -> bool {
        self.sessions.contains_key(&session)
    }

    /// The path that a frame on the stream of a relay came on.
    pub(super) fn by_stream(&self, relay: &NodeId, channel: u16) -> Option<SocketAddr> {
        let session = self.sessions.values().find(|s| s.relay == *relay)?;
        session.channels.get(&channel).copied()
    }

    /// Sends datagrams of `segment` bytes each (the last may be shorter) on a path. One that is gone takes them without a
    /// word, as a network does.
    pub(super) fn send(
        &self,
        socket: &SharedSocket,
        via: SocketAddr,
        datagrams: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        let Some(way) = self.ways.get(&via) else {
            return Ok(());
        };
        let parts = datagrams.chunks(segment.max(1));
        match &way.carrier {
            Carrier::Udp(relay) => {
                let header = encode_header(way.session, way.channel);
                let mut out = Vec::with_capacity(datagrams.len() + parts.len() * HEADER_LEN);
                for part in parts {
                    out.extend_from_slice(&header);
                    out.extend_from_slice(part);
                }
                socket.send(*relay, &out, Some(segment + HEADER_LEN))
            }
            Carrier::Stream(stream) => {
                let at = Instant::now();
                for part in parts {
                    let streamed = Streamed {
                        at,
                        channel: way.channel,
                        datagram: part.to_vec(),
                    };
                    // A stream that stands still is a network that loses packets.
                    if stream.try_send(streamed).is_err() {
                        return Err(io::ErrorKind::WouldBlock.into());
                    }
                }
                Ok(())
            }
        }
    }
}
