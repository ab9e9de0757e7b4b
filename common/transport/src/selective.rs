//! A protocol that is spoken to some peers only, on connections that serve other purposes too.
//!
//! [`Selective`] stands around a behaviour whose peers open the streams. Whether a peer may is asked at every stream, so
//! that somebody who becomes a member on a connection is served on it from then on. [`crate::Gated`] is for a
//! behaviour of which strangers are to see nothing at all, at the price of a new connection when they become known.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use futures::future;
use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse, upgrade::DeniedUpgrade},
    swarm::{
        ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, FromSwarm,
        NetworkBehaviour, SubstreamProtocol, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        derive_prelude::Either,
        handler::{
            AddressChange, ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound,
            FullyNegotiatedOutbound, ListenUpgradeError, SendWrapper,
        },
    },
};

/// Says whether a peer may open streams.
pub type Admits = Arc<dyn Fn(&PeerId) -> bool + Send + Sync>;

/// A behaviour that answers some peers only.
pub struct Selective<B> {
    inner: B,
    admits: Admits,
}

impl<B: fmt::Debug> fmt::Debug for Selective<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Selective").field(&self.inner).finish()
    }
}

impl<B> Selective<B> {
    /// A behaviour that answers those whom `admits` lets. It is asked often, so it should be quick.
    pub fn new(inner: B, admits: Admits) -> Self {
        Self { inner, admits }
    }

    /// The behaviour inside.
    pub const fn inner(&self) -> &B {
        &self.inner
    }

    /// The behaviour inside.
    pub const fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    fn handler<H>(&self, inner: H, peer: PeerId) -> Handler<H> {
        Handler {
            inner,
            peer,
            admits: Arc::clone(&self.admits),
        }
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for Selective<B> {
    type ConnectionHandler = Handler<THandler<B>>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        connection: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(connection, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self
            .inner
            .handle_established_inbound_connection(connection, peer, local, remote)?;
        Ok(self.handler(inner, peer))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(connection, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        connection: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        let inner = self
            .inner
            .handle_established_outbound_connection(connection, peer, addr, role, port_use)?;
        Ok(self.handler(inner, peer))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        connection: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        self.inner
            .on_connection_handler_event(peer, connection, event);
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}

/// The handler of a connection: the behaviour's own, whose streams are refused to a peer that is not admitted.
pub struct Handler<H> {
    inner: H,
    peer: PeerId,
    admits: Admits,
}

impl<H: fmt::Debug> fmt::Debug for Handler<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Handler").field(&self.inner).finish()
    }
}

type Inbound<H> =
    Either<SendWrapper<<H as ConnectionHandler>::InboundProtocol>, SendWrapper<DeniedUpgrade>>;
type InboundInfo<H> = Either<<H as ConnectionHandler>::InboundOpenInfo, ()>;

impl<H: ConnectionHandler> ConnectionHandler for Handler<H> {
    type FromBehaviour = H::FromBehaviour;
    type ToBehaviour = H::ToBehaviour;
    type InboundProtocol = Inbound<H>;
    type OutboundProtocol = H::OutboundProtocol;
    type OutboundOpenInfo = H::OutboundOpenInfo;
    type InboundOpenInfo = InboundInfo<H>;

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol, Self::InboundOpenInfo> {
        if (self.admits)(&self.peer) {
            self.inner
                .listen_protocol()
                .map_upgrade(|upgrade| Either::Left(SendWrapper(upgrade)))
                .map_info(Either::Left)
        } else {
            SubstreamProtocol::new(Either::Right(SendWrapper(DeniedUpgrade)), Either::Right(()))
        }
    }

    fn on_behaviour_event(&mut self, event: Self::FromBehaviour) {
        self.inner.on_behaviour_event(event);
    }

    fn connection_keep_alive(&self) -> bool {
        self.inner.connection_keep_alive()
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<
        ConnectionHandlerEvent<Self::OutboundProtocol, Self::OutboundOpenInfo, Self::ToBehaviour>,
    > {
        self.inner.poll(cx)
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        self.inner.poll_close(cx)
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<
            Self::InboundProtocol,
            Self::OutboundProtocol,
            Self::InboundOpenInfo,
            Self::OutboundOpenInfo,
        >,
    ) {
        self.inner.on_connection_event(match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, info }) => {
                match (protocol, info) {
                    (future::Either::Left(protocol), Either::Left(info)) => {
                        ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                            protocol,
                            info,
                        })
                    }
                    // Nothing is ever negotiated by a protocol that has no name.
                    _ => return,
                }
            }
            ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error }) => {
                match (error, info) {
                    (Either::Left(error), Either::Left(info)) => {
                        ConnectionEvent::ListenUpgradeError(ListenUpgradeError { info, error })
                    }
                    _ => return,
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol,
                info,
            }) => {
                ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, info })
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error })
            }
            ConnectionEvent::AddressChange(AddressChange { new_address }) => {
                ConnectionEvent::AddressChange(AddressChange { new_address })
            }
            ConnectionEvent::LocalProtocolsChange(change) => {
                ConnectionEvent::LocalProtocolsChange(change)
            }
            ConnectionEvent::RemoteProtocolsChange(change) => {
                ConnectionEvent::RemoteProtocolsChange(change)
            }
            _ => return,
        });
    }
}
