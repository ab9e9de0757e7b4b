//! The reflector: tells whoever asks from which address its packet came.
//!
//! Stateless and never more bytes out than came in. All other datagrams are dropped in silence: nothing
//! unauthenticated is ever answered.

use std::net::SocketAddr;

use kanpachi_transport::{DatagramHandler, SharedSocket, reflect};

/// Handler of the bootstrap's socket.
pub(crate) struct Reflector {
    socket: SharedSocket,
}

impl Reflector {
    pub(crate) const fn new(socket: SharedSocket) -> Self {
        Self { socket }
    }
}

impl DatagramHandler for Reflector {
    fn handle(&mut self, from: SocketAddr, datagram: &mut [u8]) {
        if let Some(answer) = reflect::answer(from, datagram) {
            // A lost answer is asked for again.
            let _ = self.socket.send(from, &answer, None);
        }
    }
}
