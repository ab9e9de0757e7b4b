//! Dialling a coordinator: names, QUIC before TCP, one control stream on the first connection that is there.

use std::{net::SocketAddr, time::Duration};

use kanpachi_common::{NodeId, org::Address, wire::member::Ask};
use kanpachi_proto::login::Attempt;
use kanpachi_transport::{node_id, peer_id, pinned};
use libp2p::{
    Multiaddr, PeerId,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts},
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
        tracing::debug!(attempt = attempt.0, %addr, "a coordinator is dialled");
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

    pub(super) fn check_failed(&mut self, attempt: Attempt) {
        let Some(dialled) = self.attempts.get(&attempt) else {
            return;
        };
        if !dialled.open && dialled.pending == 0 {
            let reason = dialled.last_error.clone();
            self.attempts.remove(&attempt);
            self.tell(Event::Line {
                attempt,
                line: Line::Failed(reason),
            });
        }
    }

    /// A connection is there. The first one of an attempt carries its control stream; any further one is left to whoever
    /// uses it, and ends when nobody does.
    pub(super) fn handle_connection(&mut self, peer: PeerId, connection: ConnectionId) {
        let Some(attempt) = self.dials.remove(&connection) else {
            return;
        };
        let dialled = self.attempts.get_mut(&attempt);
        let Some(dialled) = dialled.filter(|dialled| !dialled.open) else {
            return;
        };
        tracing::debug!(attempt = attempt.0, %peer, "a coordinator is connected");
        dialled.pending -= 1;
        dialled.open = true;
        self.close_former(peer);
        self.control_connections.insert(connection, (peer, attempt));
        self.opening.insert(connection, (peer, attempt));
        self.swarm.behaviour_mut().control.open(peer, connection);
    }

    /// Closes connections of sessions that are over: a killed coordinator leaves one behind that would swallow streams for
    /// as long as QUIC's idle timeout. Those of other attempts stay, which may have reached the same coordinator elsewhere.
    fn close_former(&mut self, peer: PeerId) {
        let over =
            |(of, attempt): &(PeerId, Attempt)| *of == peer && !self.attempts.contains_key(attempt);
        let connections = self.control_connections.iter();
        let former: Vec<ConnectionId> = connections
            .filter(|(_, of)| over(of))
            .map(|(connection, _)| *connection)
            .collect();
        for connection in former {
            self.control_connections.remove(&connection);
            self.swarm.close_connection(connection);
        }
    }

    /// The control stream of an attempt is open, or will not be.
    pub(super) fn handle_control(&mut self, event: pinned::Event) {
        let Some((peer, attempt)) = self.opening.remove(&event.connection) else {
            return;
        };
        let Some(dialled) = self.attempts.get(&attempt) else {
            return;
        };
        match (event.outcome, node_id(&peer)) {
            (Ok(stream), Some(node)) => {
                let (events, stop) = (self.events.clone(), dialled.stop.clone());
                tokio::spawn(control_io::run(attempt, node, stream, events, stop));
            }
            (Ok(_), None) => {}
            (Err(error), _) => {
                let line = Line::Failed(format!("there is no coordinator: {error}"));
                self.tell(Event::Line { attempt, line });
            }
        }
    }

    /// Asks a member, which is dialled first unless it is connected, directly and over whoever may lead to it. The stream is
    /// opened when there is a connection: libp2p-stream would dial all that the DHT's table has.
    pub(super) fn ask(&mut self, node: NodeId, at: &Whereabouts, ways: Vec<Way>, ask: Box<Ask>) {
        let peer = peer_id(node);
        self.budget.note_met(&peer, &at.met);
        if self.swarm.is_connected(&peer) {
            return self.ask_now(node, ask);
        }
        self.asked += 1;
        let number = self.asked;
        let mut question = Question {
            number,
            ask,
            ways: Some(ways),
            dials: Vec::new(),
            elsewhere: false,
        };
        self.dial_asked(&mut question, peer, self.dialled(node, at, usize::MAX));
        let dialled = question.is_waited_for();
        self.asks.insert(peer, question);
        self.later(member_io::OPEN, Later::NotAsked(node, number));
        if dialled {
            self.later(INTRODUCED, Later::Introduce(node, number));
        } else {
            self.introduce_asked(node, number);
        }
    }

    fn dial_asked(&mut self, question: &mut Question, peer: PeerId, addrs: Vec<Multiaddr>) {
        // With no address at all it is refused too, but only if the peer is not being dialled.
        let options = DialOpts::peer_id(peer).addresses(addrs).build();
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => question.dials.push(connection),
            Err(error) => {
                tracing::trace!(%peer, %error, "not dialled");
                question.elsewhere = matches!(error, DialError::DialPeerConditionFalse(_));
            }
        }
    }

    fn ask_now(&self, node: NodeId, ask: Box<Ask>) {
        let (control, events) = (self.control.clone(), self.events.clone());
        tokio::spawn(member_io::ask(node, ask, control, events));
    }

    /// A peer is connected: it is asked what it was to be asked.
    pub(super) fn ask_connected(&mut self, peer: &PeerId) {
        if let Some(question) = self.asks.remove(peer)
            && let Some(node) = node_id(peer)
        {
            self.ask_now(node, question.ask);
        }
    }

    /// A member that is to be asked does not answer where it was dialled, or is dialled nowhere: others may lead to it.
    pub(super) fn introduce_asked(&mut self, node: NodeId, number: u64) {
        let peer = peer_id(node);
        let question = self.asks.get_mut(&peer).filter(|q| q.number == number);
        let Some(ways) = question.and_then(|question| question.ways.take()) else {
            return;
        };
        let dial = self.introduce(&node, ways);
        if let Some(question) = self.asks.get_mut(&peer) {
            question.dials.extend(dial);
        }
        self.check_asked(&peer);
    }

    /// A dial of a member has failed, for a question to it or for something else.
    pub(super) fn note_ask_failure(&mut self, peer: &PeerId, connection: ConnectionId) {
        let Some(question) = self.asks.get_mut(peer) else {
            return;
        };
        question.failed(connection);
        let number = question.number;
        if let Some(node) = node_id(peer) {
            self.introduce_asked(node, number);
            self.check_asked(peer);
        }
    }

    /// Whoever is dialled nowhere is not waited for: others are to be asked, and there is not room for all at once.
    fn check_asked(&self, peer: &PeerId) {
        let question = self.asks.get(peer).filter(|q| !q.is_waited_for());
        if let (Some(question), Some(node)) = (question, node_id(peer)) {
            self.later(Duration::ZERO, Later::NotAsked(node, question.number));
        }
    }

    pub(super) fn give_up_asking(&mut self, node: NodeId, number: u64) {
        let peer = peer_id(node);
        if self.asks.get(&peer).is_some_and(|q| q.number == number) {
            self.asks.remove(&peer);
            let answered = false;
            self.tell(Event::AskEnded { node, answered });
        }
    }

    /// Where a member is dialled now, at so many places at the most: where it was met, and at those of which it tells that
    /// may be dialled.
    pub(super) fn dialled(&self, node: NodeId, at: &Whereabouts, most: usize) -> Vec<Multiaddr> {
        let peer = peer_id(node);
        self.budget.note_met(&peer, &at.met);
        let met = at.met.iter().copied().take(most);
        let more = most.saturating_sub(at.met.len());
        let told = self.budget.pick(&peer, &at.told, more);
        met.chain(told).map(quic_addr).collect()
    }
}

/// What a member is to be asked as soon as it is connected.
#[derive(Debug)]
pub(super) struct Question {
    number: u64,
    ask: Box<Ask>,
    /// Who may lead to it, until they are asked to.
    ways: Option<Vec<Way>>,
    /// Dials under way for this.
    dials: Vec<ConnectionId>,
    /// It was being dialled for something else: for a reservation, or by a query of the DHT.
    elsewhere: bool,
}

impl Question {
    /// A dial of the member has failed, for this question or for something else.
    fn failed(&mut self, connection: ConnectionId) {
        self.dials.retain(|dial| *dial != connection);
        self.elsewhere = false;
    }

    const fn is_waited_for(&self) -> bool {
        self.elsewhere || !self.dials.is_empty()
    }
}

/// Where a member may be.
#[derive(Clone, Debug, Default)]
pub(in crate::daemon) struct Whereabouts {
    /// Its tunnel was up there.
    pub(in crate::daemon) met: Vec<SocketAddr>,
    /// It tells of these, and may mean somebody else.
    pub(in crate::daemon) told: Vec<SocketAddr>,
}

/// A dial error in words for people.
pub(super) fn plain(error: &DialError) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_dialled_nowhere_is_not_waited_for() {
        let dial = ConnectionId::new_unchecked;
        let ask = Ask {
            generation: 0,
            directory: 0,
            held: Vec::new(),
            suspends: Vec::new(),
            proofs: Vec::new(),
            records: false,
            ext: Vec::new(),
        };
        let mut question = Question {
            number: 1,
            ask: Box::new(ask),
            ways: None,
            dials: vec![dial(1), dial(2)],
            elsewhere: false,
        };
        question.failed(dial(3));
        question.failed(dial(1));
        assert!(question.is_waited_for());
        question.failed(dial(2));
        assert!(!question.is_waited_for());
        // It was being dialled for something else, until that failed too.
        question.elsewhere = true;
        assert!(question.is_waited_for());
        question.failed(dial(4));
        assert!(!question.is_waited_for());
    }
}
