//! A stranger with a control stream: an identity of its own, logged in at a coordinator and free to ask for anything.
//! Hundreds of them run in one thread, each from an address that is chosen for it.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::identity::x25519_public;
use kanpachi_common::wire::control::{self, ClientMessage, Hello, ServerMessage};
use kanpachi_common::wire::frame::{Frame, FrameReader, MAX_REPLY};
use kanpachi_common::wire::{MAX_VERSION, MIN_VERSION};
use kanpachi_common::{OrgId, SecretKey, TunnelKey};
use kanpachi_transport::swarm as stack;
use kanpachi_transport::{AddressFilter, Reader, SharedSocket, keypair_from_seed, peer_id};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, StreamProtocol};
use tokio::task::JoinHandle;

/// Where a coordinator is, and whose it is.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub org: OrgId,
    pub server: kanpachi_common::NodeId,
    pub addr: SocketAddr,
}

/// One of them, until dropped.
#[derive(Debug)]
pub struct Guest {
    stream: kanpachi_transport::streams::Stream,
    reader: FrameReader,
    next: u64,
    swarm: JoinHandle<()>,
    _socket: Reader,
}

impl Guest {
    /// Dials from `from` by QUIC, opens the control stream and says hello. Inside a tokio runtime of the namespace.
    ///
    /// # Errors
    /// When there is no connection; when the coordinator sends it away, with its words.
    pub async fn connect(target: Target, from: IpAddr, seed: [u8; 32]) -> Result<Self> {
        Self::connect_with(target, from, seed, 1).await
    }

    /// [`Self::connect`], with a tunnel key of this serial: that of a node that was there before has to be above its own.
    ///
    /// # Errors
    /// As above.
    pub async fn connect_with(
        target: Target,
        from: IpAddr,
        seed: [u8; 32],
        serial: u64,
    ) -> Result<Self> {
        let socket = SharedSocket::bind(SocketAddr::new(from, 0))?;
        let reader = socket.spawn_reader(super::Silent)?;
        let options = stack::Options {
            keypair: keypair_from_seed(&seed),
            socket,
            filter: AddressFilter::allow_all(),
            relay: None,
            tcp: false,
            proxy: None,
            dials: None,
        };
        let mut swarm = stack::swarm(options, kanpachi_transport::streams::Behaviour::new())?;
        let mut control = swarm.behaviour().new_control();
        let peer = peer_id(target.server);
        let address = Multiaddr::from(target.addr.ip())
            .with(Protocol::Udp(target.addr.port()))
            .with(Protocol::QuicV1);
        swarm.dial(DialOpts::peer_id(peer).addresses(vec![address]).build())?;
        // A stream that is opened before would dial on its own, without an address.
        loop {
            match swarm.next().await {
                Some(SwarmEvent::ConnectionEstablished { .. }) => break,
                Some(SwarmEvent::OutgoingConnectionError { error, .. }) => return Err(error.into()),
                _ => {}
            }
        }
        let running = tokio::spawn(async move { while swarm.next().await.is_some() {} });
        let stream = control
            .open_stream(peer, StreamProtocol::new(control::PROTOCOL))
            .await
            .map_err(|error| anyhow::anyhow!("no control stream: {error}"))?;
        let mut guest = Self {
            stream,
            reader: FrameReader::new(MAX_REPLY),
            next: 1,
            swarm: running,
            _socket: reader,
        };
        guest
            .say(&ClientMessage::Hello(hello(target.org, &seed, serial)).frame(0))
            .await?;
        match guest.answer(0).await? {
            ServerMessage::Welcome(_) => Ok(guest),
            other => bail!("no welcome: {other:?}"),
        }
    }

    async fn say(&mut self, frame: &Frame) -> Result<()> {
        self.stream.write_all(&frame.to_bytes()).await?;
        Ok(self.stream.flush().await?)
    }

    /// Asks without waiting; returns the number of the question.
    ///
    /// # Errors
    /// When the stream is gone.
    pub async fn ask(&mut self, message: &ClientMessage) -> Result<u64> {
        let id = self.next;
        self.next += 1;
        self.say(&message.frame(id)).await?;
        Ok(id)
    }

    /// The answer to a question, whatever comes before it.
    ///
    /// # Errors
    /// When the stream ends.
    pub async fn answer(&mut self, id: u64) -> Result<ServerMessage> {
        loop {
            let (to, message) = self.next_answer().await?;
            if to == id {
                return Ok(message);
            }
        }
    }

    /// The next answer to any question.
    ///
    /// # Errors
    /// When the stream ends.
    pub async fn any_answer(&mut self) -> Result<ServerMessage> {
        loop {
            // The end of what a hello set off has no question.
            let (to, message) = self.next_answer().await?;
            if to != 0 || matches!(message, ServerMessage::Refused(_)) {
                return Ok(message);
            }
        }
    }

    async fn next_answer(&mut self) -> Result<(u64, ServerMessage)> {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            while let Some(frame) = self.reader.next_frame()? {
                let message = ServerMessage::from_frame(&frame)?;
                match message {
                    ServerMessage::Ping(nonce) => {
                        self.say(&ClientMessage::Pong(nonce).frame(0)).await?;
                    }
                    message if is_push(&message) => {}
                    message => return Ok((frame.id, message)),
                }
            }
            let length = self.stream.read(&mut buffer).await?;
            ensure!(length > 0, "the coordinator closed the stream");
            self.reader.extend(&buffer[..length]);
        }
    }

    /// Asks and waits.
    ///
    /// # Errors
    /// When the stream ends.
    pub async fn request(&mut self, message: &ClientMessage) -> Result<ServerMessage> {
        let id = self.ask(message).await?;
        self.answer(id).await.context("no answer")
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.swarm.abort();
    }
}

/// What comes without being asked for carries the number 0, as the answer to a hello does.
fn is_push(message: &ServerMessage) -> bool {
    !matches!(
        message,
        ServerMessage::Welcome(_)
            | ServerMessage::Refused(_)
            | ServerMessage::Joined(_)
            | ServerMessage::InviteMade(_)
            | ServerMessage::NameSet(_)
            | ServerMessage::Evicted(_)
            | ServerMessage::Done(_)
    )
}

fn hello(org: OrgId, seed: &[u8; 32], serial: u64) -> Hello {
    let identity = SecretKey::from_seed(seed);
    Hello {
        min_version: MIN_VERSION,
        max_version: MAX_VERSION,
        caps: 0,
        client: "a stranger".to_owned(),
        org,
        tunnel: TunnelKey::sign(&identity, &org, serial, x25519_public(seed)),
        boot: 1,
        held: Vec::new(),
        candidates: Vec::new(),
        nat: None,
        away: Vec::new(),
        ext: Vec::new(),
    }
}
