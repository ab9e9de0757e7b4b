//! A server to which there is no connection is dialled at one address before it is at all.

use std::net::SocketAddr;

use kanpachi_transport::routing;
use libp2p::{
    Multiaddr, PeerId,
    swarm::{ConnectionId, dial_opts::DialOpts},
};

use super::{
    Task,
    addresses::{quic_addr, quic_socket_addr},
    trickle::{Given, Offer},
};

/// A server that is being dialled at one address.
#[derive(Debug)]
pub(super) struct Call {
    server: PeerId,
    at: SocketAddr,
    given: Vec<Given>,
}

impl Task {
    /// Gives a server records where it most likely is. A put dials all of its addresses at once, which are as many handshakes
    /// for one connection.
    pub(super) fn call(&mut self, server: PeerId, given: Vec<Given>) {
        let likely = self.budget.likely(&server);
        let Some(at) = likely.filter(|_| !self.swarm.is_connected(&server)) else {
            return self.put_to(server, given, false);
        };
        let options = DialOpts::peer_id(server).addresses(vec![quic_addr(at)]);
        let options = options.build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                let call = Call { server, at, given };
                self.dht.calls.insert(connection, call);
            }
            // It is being dialled already, or is not to be.
            Err(_) => self.put_to(server, given, false),
        }
    }

    /// A connection is there, or will not be. Who was not there is looked for at its other addresses; `true` if it is.
    pub(super) fn handle_called(&mut self, connection: ConnectionId, connected: bool) -> bool {
        let Some(mut call) = self.dht.calls.remove(&connection) else {
            return false;
        };
        // A round with news, or the end of a network, may have come meanwhile.
        call.given.retain(|given| self.dht.trickle.is_newest(given));
        let known = routing::known(self.kad(), &call.server);
        if connected || is_elsewhere(&known, call.at) || self.on_lan.has(&call.server) {
            let dialled = !connected && !call.given.is_empty();
            self.put_to(call.server, call.given, false);
            return dialled;
        }
        for Given { record, number } in call.given {
            let offer = Offer {
                key: record.key,
                number,
                servers: vec![call.server],
                at_once: false,
            };
            self.end_offer(&offer, &[]);
        }
        false
    }
}

/// Is an address known that is not this one?
fn is_elsewhere(known: &[Multiaddr], at: SocketAddr) -> bool {
    known
        .iter()
        .any(|known| quic_socket_addr(known) != Some(at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_answer_is_dialled_again_only_if_it_may_be_elsewhere() {
        let at = |text: &str| -> Multiaddr { text.parse().unwrap() };
        let called = "192.0.2.1:12975".parse().unwrap();
        let peer = PeerId::random();
        let same = at("/ip4/192.0.2.1/udp/12975/quic-v1")
            .with_p2p(peer)
            .unwrap();
        assert!(!is_elsewhere(&[], called));
        assert!(!is_elsewhere(std::slice::from_ref(&same), called));
        for other in [
            "/ip4/192.0.2.1/udp/12976/quic-v1",
            "/ip6/2001:db8::1/udp/12975/quic-v1",
            "/ip4/192.0.2.1/tcp/12975",
        ] {
            assert!(is_elsewhere(&[same.clone(), at(other)], called), "{other}");
        }
    }
}
