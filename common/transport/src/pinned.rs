//! Opens streams of one protocol on a connection of one's choice.
//!
//! libp2p-stream opens a stream on any connection to a peer: on one that is just being closed, or on one that died with
//! the process at its other end and is not missed yet. Whoever has dialled wants the connection that came of it.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    fmt,
    task::{Context, Poll, Waker},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{
        Endpoint,
        transport::PortUse,
        upgrade::{DeniedUpgrade, ReadyUpgrade},
    },
    swarm::{
        ConnectionClosed, ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent,
        ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, SubstreamProtocol, THandler,
        THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedOutbound},
    },
};

/// What became of a stream that was asked for.
#[derive(Debug)]
pub struct Event {
    /// The connection.
    pub connection: ConnectionId,
    /// The stream, or why there is none, in words.
    pub outcome: Result<Stream, String>,
}

/// The behaviour. It takes no streams: those of the other side are for libp2p-stream.
#[derive(Debug)]
pub struct Behaviour {
    protocol: StreamProtocol,
    /// How many streams are being opened on each connection.
    opening: BTreeMap<ConnectionId, usize>,
    out: VecDeque<ToSwarm<Event, Infallible>>,
    asks: VecDeque<(PeerId, ConnectionId)>,
    waker: Option<Waker>,
}

impl Behaviour {
    /// For streams of this protocol.
    #[must_use]
    pub const fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            opening: BTreeMap::new(),
            out: VecDeque::new(),
            asks: VecDeque::new(),
            waker: None,
        }
    }

    /// Opens a stream on a connection that is there. The answer is an [`Event`].
    pub fn open(&mut self, peer: PeerId, connection: ConnectionId) {
        *self.opening.entry(connection).or_default() += 1;
        self.asks.push_back((peer, connection));
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn tell(&mut self, connection: ConnectionId, outcome: Result<Stream, String>) {
        let event = Event {
            connection,
            outcome,
        };
        self.out.push_back(ToSwarm::GenerateEvent(event));
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(self.protocol.clone()))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(ConnectionClosed { connection_id, .. }) = event {
            for _ in 0..self.opening.remove(&connection_id).unwrap_or(0) {
                self.tell(connection_id, Err("the connection was closed".to_owned()));
            }
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        connection: ConnectionId,
        outcome: THandlerOutEvent<Self>,
    ) {
        if let Some(count) = self.opening.get_mut(&connection) {
            *count -= 1;
            if *count == 0 {
                self.opening.remove(&connection);
            }
            self.tell(connection, outcome);
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(event) = self.out.pop_front() {
            return Poll::Ready(event.map_in(|never| match never {}));
        }
        if let Some((peer_id, connection)) = self.asks.pop_front() {
            return Poll::Ready(ToSwarm::NotifyHandler {
                peer_id,
                handler: NotifyHandler::One(connection),
                event: Open,
            });
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// Opens one more stream.
#[derive(Debug)]
pub struct Open;

/// The part of one connection.
pub struct Handler {
    protocol: StreamProtocol,
    asked: usize,
    outcomes: VecDeque<Result<Stream, String>>,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("asked", &self.asked)
            .finish_non_exhaustive()
    }
}

impl Handler {
    const fn new(protocol: StreamProtocol) -> Self {
        Self {
            protocol,
            asked: 0,
            outcomes: VecDeque::new(),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Open;
    type ToBehaviour = Result<Stream, String>;
    type InboundProtocol = DeniedUpgrade;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<DeniedUpgrade> {
        SubstreamProtocol::new(DeniedUpgrade, ())
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if let Some(outcome) = self.outcomes.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(outcome));
        }
        if self.asked > 0 {
            self.asked -= 1;
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, Open: Open) {
        self.asked += 1;
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol, ..
            }) => self.outcomes.push_back(Ok(protocol)),
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.outcomes.push_back(Err(error.to_string()));
            }
            _ => {}
        }
    }
}
