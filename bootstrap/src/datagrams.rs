//! What the bootstrap's socket takes besides QUIC: the reflector's requests, and the relay's datagrams. All others are
//! dropped in silence: nothing unauthenticated is ever answered with more.

use std::net::SocketAddr;

use kanpachi_transport::DatagramHandler;

use crate::{reflector::Reflector, relay::PacketPart};

/// Handler of the bootstrap's socket.
pub(crate) struct Datagrams {
    reflector: Reflector,
    relay: Option<PacketPart>,
}

impl Datagrams {
    pub(crate) const fn new(reflector: Reflector, relay: Option<PacketPart>) -> Self {
        Self { reflector, relay }
    }
}

impl DatagramHandler for Datagrams {
    fn handle(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        if let Some(relay) = &mut self.relay
            && relay.handle(from, datagram)
        {
            return;
        }
        self.reflector.handle(from, datagram);
    }

    fn end_of_batch(&mut self) {
        if let Some(relay) = &mut self.relay {
            relay.end_of_batch();
        }
    }

    fn end_of_read(&mut self, full: bool) {
        if let Some(relay) = &mut self.relay {
            relay.end_of_read(full);
        }
    }
}
