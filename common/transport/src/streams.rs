//! Streams by the name of their protocol: opened by libp2p-stream, accepted here.
//!
//! libp2p-stream has room for one incoming stream of a protocol, and drops any that comes before that one was taken. When
//! many peers come at once, as after a power cut, most would find their stream closed as soon as it was open. Here as many
//! wait as [`ROOM`] says, and of one peer no more than [`ROOM_OF_ONE`].

use std::{
    collections::HashMap,
    convert::Infallible,
    fmt, future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId, StreamProtocol,
    core::{Endpoint, InboundUpgrade, UpgradeInfo, transport::PortUse, upgrade::DeniedUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        handler::{ConnectionEvent, FullyNegotiatedInbound},
    },
};
pub use libp2p_stream::{AlreadyRegistered, OpenStreamError};
use tokio::sync::mpsc;

pub use crate::used::Stream;
use crate::used::{Connection, Connections};

/// Streams of one protocol that wait to be taken, at the most. Further ones are dropped, which their peers see.
pub const ROOM: usize = 256;

/// And of one peer.
pub const ROOM_OF_ONE: usize = 16;

/// A stream, and who has opened it.
type Opened = (PeerId, Stream);
/// Who takes the streams of which protocol.
type Takers = HashMap<StreamProtocol, Taker>;
/// How many of each peer wait.
type Waiting = Arc<Mutex<HashMap<PeerId, usize>>>;

#[derive(Debug)]
struct Taker {
    streams: mpsc::Sender<Opened>,
    waiting: Waiting,
}

impl Taker {
    /// Puts a stream with those that wait; `false` when there is no room.
    fn put(&self, peer: PeerId, stream: Stream) -> bool {
        let mut waiting = lock(&self.waiting);
        let of_peer = waiting.get(&peer).copied().unwrap_or_default();
        let put = of_peer < ROOM_OF_ONE && self.streams.try_send((peer, stream)).is_ok();
        if put {
            waiting.insert(peer, of_peer + 1);
        }
        put
    }
}

/// Nothing below panics halfway through a change, so a poisoned one is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The behaviour. Tells nothing: streams come and go by [`Control`].
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "()")]
pub struct Behaviour {
    outgoing: libp2p_stream::Behaviour,
    incoming: Incoming,
}

impl Behaviour {
    /// For streams of protocols that are named later.
    #[must_use]
    pub fn new() -> Self {
        Self {
            outgoing: libp2p_stream::Behaviour::new(),
            incoming: Incoming::default(),
        }
    }

    /// Opens and accepts streams.
    #[must_use]
    pub fn new_control(&self) -> Control {
        Control {
            outgoing: self.outgoing.new_control(),
            takers: self.incoming.takers.clone(),
            connections: self.incoming.connections.clone(),
        }
    }
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Behaviour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Behaviour").finish_non_exhaustive()
    }
}

/// Opens and accepts streams in a swarm.
#[derive(Clone)]
pub struct Control {
    outgoing: libp2p_stream::Control,
    takers: Shared,
    connections: Connections,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").finish_non_exhaustive()
    }
}

impl Control {
    /// Opens a stream on any connection to a peer, which is dialled if there is none.
    ///
    /// # Errors
    /// When there is no connection, or the peer does not speak the protocol.
    pub async fn open_stream(
        &mut self,
        peer: PeerId,
        protocol: StreamProtocol,
    ) -> Result<Stream, OpenStreamError> {
        let stream = self.outgoing.open_stream(peer, protocol).await?;
        Ok(self.connections.hold(peer, stream))
    }

    /// Takes the streams of a protocol from now on, until what this returns is dropped.
    ///
    /// # Errors
    /// When somebody else takes them.
    pub fn accept(
        &mut self,
        protocol: StreamProtocol,
    ) -> Result<IncomingStreams, AlreadyRegistered> {
        let mut takers = lock(&self.takers.0);
        if (takers.get(&protocol)).is_some_and(|taker| !taker.streams.is_closed()) {
            return Err(AlreadyRegistered);
        }
        let ((streams, receiver), waiting) = (mpsc::channel(ROOM), Waiting::default());
        let taker = Taker {
            streams,
            waiting: Arc::clone(&waiting),
        };
        takers.insert(protocol, taker);
        Ok(IncomingStreams { receiver, waiting })
    }
}

/// Streams as they come, each with the peer that has opened it.
#[derive(Debug)]
pub struct IncomingStreams {
    receiver: mpsc::Receiver<Opened>,
    waiting: Waiting,
}

impl futures::Stream for IncomingStreams {
    type Item = Opened;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Opened>> {
        let next = self.receiver.poll_recv(cx);
        if let Poll::Ready(Some((peer, _))) = &next {
            let mut waiting = lock(&self.waiting);
            match waiting.get_mut(peer) {
                Some(left) if *left > 1 => *left -= 1,
                _ => drop(waiting.remove(peer)),
            }
        }
        next
    }
}

#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Takers>>);

impl Shared {
    fn protocols(&self) -> Vec<StreamProtocol> {
        let mut takers = lock(&self.0);
        takers.retain(|_, taker| !taker.streams.is_closed());
        takers.keys().cloned().collect()
    }

    fn hand_over(&self, peer: PeerId, stream: Stream, protocol: &StreamProtocol) {
        let takers = lock(&self.0);
        let taken = (takers.get(protocol)).is_some_and(|taker| taker.put(peer, stream));
        drop(takers);
        if !taken {
            tracing::debug!(%peer, %protocol, "nobody takes a stream");
        }
    }
}

/// The accepting half.
#[derive(Debug, Default)]
pub struct Incoming {
    takers: Shared,
    connections: Connections,
}

impl Incoming {
    fn handler(&self, peer: PeerId) -> Handler {
        Handler {
            connection: self.connections.add(peer),
            connections: self.connections.clone(),
            takers: self.takers.clone(),
        }
    }
}

impl NetworkBehaviour for Incoming {
    type ConnectionHandler = Handler;
    type ToSwarm = ();

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(self.handler(peer))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        never: THandlerOutEvent<Self>,
    ) {
        match never {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<(), THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// The accepting half's part of one connection.
#[derive(Debug)]
pub struct Handler {
    connection: Connection,
    connections: Connections,
    takers: Shared,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Infallible;
    type InboundProtocol = Accept;
    type OutboundProtocol = DeniedUpgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Accept> {
        SubstreamProtocol::new(Accept(self.takers.protocols()), ())
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<DeniedUpgrade, (), Infallible>> {
        self.connection.poll(cx);
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, never: Infallible) {
        match never {}
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Accept, DeniedUpgrade>) {
        if let ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
            protocol: (stream, protocol),
            ..
        }) = event
        {
            let peer = self.connection.peer();
            let stream = self.connections.hold(peer, stream);
            self.takers.hand_over(peer, stream, &protocol);
        }
    }
}

/// Any of these protocols.
#[derive(Debug)]
pub struct Accept(Vec<StreamProtocol>);

impl UpgradeInfo for Accept {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.0.clone().into_iter()
    }
}

impl InboundUpgrade<libp2p::Stream> for Accept {
    type Output = (libp2p::Stream, StreamProtocol);
    type Error = Infallible;
    type Future = future::Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: libp2p::Stream, protocol: StreamProtocol) -> Self::Future {
        future::ready(Ok((stream, protocol)))
    }
}
