//! Whoever is at a relay with an identity and a proof, rightly or not, and says and sends there what it likes.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::roster::Proof;
use kanpachi_common::wire::frame::FrameReader;
use kanpachi_common::wire::relay::datagram::{
    Bind, HEADER_LEN, Step, decode_bound, decode_header, encode_bind, encode_header,
};
use kanpachi_common::wire::relay::{self, Open, Pair, PairState, RelayMessage, SessionKey};
use kanpachi_common::wire::{MAX_VERSION, MIN_VERSION};
use kanpachi_common::{NodeId, SecretKey};
use kanpachi_transport::swarm as stack;
use kanpachi_transport::{AddressFilter, Reader, SharedSocket, keypair_from_seed, peer_id};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, StreamProtocol};
use tokio::task::JoinHandle;

use super::guest::Target;
use super::stolen::StolenCoordinator;

/// A relay answers within this.
const ANSWER: Duration = Duration::from_secs(10);
/// A datagram that is under way arrives within this.
const UNDER_WAY: Duration = Duration::from_millis(300);

/// One of them, until dropped.
#[derive(Debug)]
pub struct RelayGuest {
    pub node: NodeId,
    /// Its own socket: with this it does as it likes.
    pub udp: UdpSocket,
    pub session: u32,
    key: SessionKey,
    relay: SocketAddr,
    stream: kanpachi_transport::streams::Stream,
    frames: FrameReader,
    swarm: JoinHandle<()>,
    _socket: Reader,
}

impl RelayGuest {
    /// Dials by QUIC and opens a stream to the relay. Inside a tokio runtime of the namespace.
    pub async fn connect(target: Target, from: IpAddr, identity: &SecretKey) -> Result<Self> {
        let socket = SharedSocket::bind(SocketAddr::new(from, 0))?;
        let reader = socket.spawn_reader(super::Silent)?;
        let options = stack::Options {
            keypair: keypair_from_seed(&identity.seed()),
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
        loop {
            match swarm.next().await {
                Some(SwarmEvent::ConnectionEstablished { .. }) => break,
                Some(SwarmEvent::OutgoingConnectionError { error, .. }) => return Err(error.into()),
                _ => {}
            }
        }
        let running = tokio::spawn(async move { while swarm.next().await.is_some() {} });
        let stream = control
            .open_stream(peer, StreamProtocol::new(relay::PROTOCOL))
            .await
            .map_err(|error| anyhow!("no stream to the relay: {error}"))?;
        let udp = UdpSocket::bind((from, 0))?;
        udp.set_read_timeout(Some(UNDER_WAY))?;
        Ok(Self {
            node: identity.node_id(),
            udp,
            session: 0,
            key: SessionKey([0; 32]),
            relay: target.addr,
            stream,
            frames: FrameReader::new(relay::MAX),
            swarm: running,
            _socket: reader,
        })
    }

    /// Says that it is a member, and what the relay says to that.
    pub async fn open(
        &mut self,
        stolen: &StolenCoordinator,
        proofs: Vec<Proof>,
    ) -> Result<RelayMessage> {
        let open = Open {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            org: stolen.org(),
            proofs,
            manifest: Some(stolen.manifest.clone()),
            ext: vec![],
        };
        self.say(&RelayMessage::Open(Box::new(open))).await?;
        let answer = self.hears().await?;
        if let RelayMessage::Opened(opened) = &answer {
            (self.session, self.key) = (opened.session, opened.key);
        }
        Ok(answer)
    }

    /// With a session, and with its address bound to it.
    pub async fn get_in(&mut self, stolen: &StolenCoordinator) -> Result<()> {
        let proof = stolen.proof(&self.node)?;
        let answer = self.open(stolen, vec![proof]).await?;
        ensure!(matches!(answer, RelayMessage::Opened(_)), "{answer:?}");
        let mut bind = self.first_bind();
        for expected in [Step::Challenge, Step::Bound] {
            self.udp
                .send_to(&encode_bind(&bind, &self.key), self.relay)?;
            let answer = self
                .receive()?
                .context("the relay does not answer a bind")?;
            let (step, answered) = decode_bound(&answer).context("no answer to a bind")?;
            ensure!(step == expected, "{step:?}");
            bind = answered;
        }
        Ok(())
    }

    fn first_bind(&self) -> Bind {
        Bind {
            session: self.session,
            nonce: *b"whatever",
            cookie: [0; 16],
        }
    }

    /// A bind as the member that it is may send it from anywhere.
    pub fn bind_datagram(&self) -> Vec<u8> {
        encode_bind(&self.first_bind(), &self.key).to_vec()
    }

    /// A pair with another one, opened from both ends.
    pub async fn pair(&mut self, channel: u16, other: &mut Self) -> Result<()> {
        let (me, peer) = (self.node, other.node);
        self.say(&RelayMessage::Pair(Pair { channel, peer }))
            .await?;
        let back = Pair { channel, peer: me };
        other.say(&RelayMessage::Pair(back)).await?;
        for end in [self, other] {
            loop {
                match end.hears().await? {
                    RelayMessage::Paired(paired) if paired.state == PairState::Open => break,
                    RelayMessage::Paired(_) | RelayMessage::Wanted(_) => {}
                    other => bail!("{other:?}"),
                }
            }
        }
        Ok(())
    }

    /// Says something, allowed or not.
    pub async fn say(&mut self, message: &RelayMessage) -> Result<()> {
        let bytes = message.frame(0).to_bytes();
        self.stream.write_all(&bytes).await?;
        Ok(self.stream.flush().await?)
    }

    /// What the relay says next.
    pub async fn hears(&mut self) -> Result<RelayMessage> {
        let next = async {
            let mut chunk = [0; 4096];
            loop {
                if let Some(frame) = self.frames.next_frame()? {
                    return Ok(RelayMessage::from_frame(&frame)?);
                }
                match self.stream.read(&mut chunk).await? {
                    0 => bail!("the relay ended the stream"),
                    n => self.frames.extend(&chunk[..n]),
                }
            }
        };
        tokio::time::timeout(ANSWER, next)
            .await
            .context("the relay says nothing")?
    }

    /// A datagram as it sends it on a channel.
    pub fn datagram(&self, channel: u16, body: &[u8]) -> Vec<u8> {
        [&encode_header(self.session, channel)[..], body].concat()
    }

    /// Sends on a channel.
    pub fn send(&self, channel: u16, body: &[u8]) -> Result<()> {
        self.udp
            .send_to(&self.datagram(channel, body), self.relay)?;
        Ok(())
    }

    /// What arrives at its socket within a moment.
    pub fn receive(&self) -> Result<Option<Vec<u8>>> {
        let mut buf = [0; 2048];
        match self.udp.recv_from(&mut buf) {
            Ok((n, _)) => Ok(Some(buf[..n].to_vec())),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// What its partner sent on a channel, if something arrives within a moment.
    pub fn receives(&self, channel: u16) -> Result<Option<Vec<u8>>> {
        let Some(datagram) = self.receive()? else {
            return Ok(None);
        };
        ensure!(decode_header(&datagram) == Some((self.session, channel)));
        Ok(Some(datagram[HEADER_LEN..].to_vec()))
    }
}

impl Drop for RelayGuest {
    fn drop(&mut self) {
        self.swarm.abort();
    }
}
