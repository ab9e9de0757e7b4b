//! Dialling a coordinator: names, QUIC before TCP, one control stream on the first connection that is there.

use std::{net::SocketAddr, time::Duration};

use kanpachi_common::{
    NodeId,
    org::Address,
    wire::{control, member::Ask},
};
use kanpachi_proto::login::Attempt;
use kanpachi_transport::{node_id, peer_id};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    swarm::{ConnectionId, dial_opts::DialOpts},
};

use super::{Dialled, Event, Later, Task, Way, addresses::quic_addr};
use crate::daemon::{
    control_io::{self, Line},
    member_io,
};

/// A relay is asked for help if a member does not answer within this.
const INTRODUCED: Duration = Duration::from_millis(400);

impl Task {
    /// Names are looked up outside the task: it may take seconds.
    pub(super) fn resolve(&mut self, attempt: Attempt, address: Address) {
        self.attempts.insert(attempt, Dialled::default());
        let sender = self.timers.0.clone();
        tokio::spawn(async move {
            let later = match tokio::net::lookup_host((address.host.as_str(), address.port)).await {
                Ok(addrs) => Later::Resolved {
                    attempt,
                    addrs: addrs.take(4).collect(),
                    transports: address.transports,
                },
                Err(error) => Later::Failed {
                    attempt,
                    reason: format!("cannot find the address: {error}"),
                },
            };
            let _ = sender.send(later).await;
        });
    }

    pub(super) fn dial(&mut self, attempt: Attempt, addr: Multiaddr) {
        let Some(dialled) = self.attempts.get_mut(&attempt) else {
            return;
        };
        let options = DialOpts::unknown_peer_id().address(addr).build();
        let connection = options.connection_id();
        // Which of its peers is the coordinator is known from the directory only, and before the first login not at all.
        self.swarm.behaviour_mut().for_known.expect(connection);
        match self.swarm.dial(options) {
            Ok(()) => {
                dialled.pending += 1;
                self.dials.insert(connection, attempt);
            }
            Err(error) => dialled.last_error = plain(&error),
        }
    }

    /// Dials after a while, unless the attempt has succeeded by then.
    pub(super) fn dial_later(&mut self, delay: Duration, attempt: Attempt, addr: Multiaddr) {
        if let Some(dialled) = self.attempts.get_mut(&attempt) {
            dialled.pending += 1;
            self.later(delay, Later::Dial { attempt, addr });
        }
    }

    pub(super) async fn check_failed(&mut self, attempt: Attempt) {
        let Some(dialled) = self.attempts.get(&attempt) else {
            return;
        };
        if !dialled.open && dialled.pending == 0 {
            let reason = dialled.last_error.clone();
            self.attempts.remove(&attempt);
            self.tell(Event::Line {
                attempt,
                line: Line::Failed(reason),
            })
            .await;
        }
    }

    pub(super) fn handle_connection(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(attempt) = self.dials.remove(&connection) else {
            return;
        };
        let Some(dialled) = self
            .attempts
            .get_mut(&attempt)
            .filter(|dialled| !dialled.open)
        else {
            self.swarm.close_connection(connection);
            return;
        };
        dialled.pending -= 1;
        dialled.open = true;
        // A stream is opened on any connection to the peer, dead ones included: a killed coordinator leaves one
        // behind that would swallow the stream for as long as QUIC's idle timeout.
        let old: Vec<ConnectionId> = self
            .control_connections
            .iter()
            .filter(|(_, p)| **p == peer)
            .map(|(c, _)| *c)
            .collect();
        for connection in old {
            self.control_connections.remove(&connection);
            self.swarm.close_connection(connection);
        }
        self.control_connections.insert(connection, peer);
        let stop = dialled.stop.clone();
        let Some(node) = node_id(&peer) else {
            return;
        };
        let mut control = self.control.clone();
        let events = self.events.clone();
        tokio::spawn(async move {
            let protocol = StreamProtocol::new(control::PROTOCOL);
            match control.open_stream(peer, protocol).await {
                Ok(stream) => control_io::run(attempt, node, stream, events, stop).await,
                Err(error) => {
                    let line = Line::Failed(format!("there is no coordinator: {error}"));
                    let _ = events.send(Event::Line { attempt, line }).await;
                }
            }
        });
    }

    /// Asks a member, which is dialled first unless it is connected, directly and over whoever may lead to it.
    pub(super) fn ask(
        &mut self,
        node: NodeId,
        addrs: Vec<SocketAddr>,
        ways: Vec<Way>,
        ask: Box<Ask>,
    ) {
        let peer = peer_id(node);
        if !self.swarm.is_connected(&peer) {
            let direct = !addrs.is_empty();
            let addrs = addrs.into_iter().map(quic_addr).collect();
            let options = DialOpts::peer_id(peer).addresses(addrs);
            if let Err(error) = self.swarm.dial(options.build()) {
                tracing::trace!(%peer, %error, "not dialled");
            }
            let delay = if direct { INTRODUCED } else { Duration::ZERO };
            self.later(delay, Later::Introduce { node, ways });
        }
        let (control, events) = (self.control.clone(), self.events.clone());
        tokio::spawn(member_io::ask(node, ask, control, events));
    }
}

/// A dial error in words for people.
pub(super) fn plain(error: &libp2p::swarm::DialError) -> String {
    use libp2p::swarm::DialError;
    match error {
        DialError::Transport(errors) => errors
            .last()
            .map_or_else(|| "no answer".to_owned(), |(_, e)| innermost(e)),
        other => other.to_string(),
    }
}

fn innermost(error: &libp2p::TransportError<std::io::Error>) -> String {
    let mut at: &dyn std::error::Error = error;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}
