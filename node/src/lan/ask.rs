//! Asks a host for an invite, by its code, over a libp2p connection made for that alone.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use kanpachi_common::wire::code::{CodeRefusal, CodeReply, PROTOCOL};
use kanpachi_proto::code::{Code, Failure, Joiner, Step, exchange::Ends};
use kanpachi_transport::{
    AddressFilter, DatagramHandler, Reader, SharedSocket, keypair_from_seed, node_id, peer_id,
    swarm::{self, Options},
};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    multiaddr::Protocol,
    swarm::{DialError, SwarmEvent, dial_opts::DialOpts},
};
use tokio::task::JoinHandle;
use zeroize::Zeroizing;

use super::{browse::Found, stream::Frames};

/// A host on the same LAN is there at once or not at all.
const CONNECT: Duration = Duration::from_secs(5);
/// An answer may wait for the invite to be on the host's disk.
const ANSWER: Duration = Duration::from_secs(10);
/// How long a host that is busy is asked again.
const PATIENCE: Duration = Duration::from_secs(90);

/// Why there is no invite.
#[derive(Debug)]
pub(crate) enum Denied {
    /// The code was wrong; so many tries are left.
    Wrong(u8),
    /// The other end does not know the code.
    Impostor,
    /// The host makes everybody wait for longer than is worth waiting.
    Later(Duration),
    /// Another refusal.
    Refused(CodeRefusal),
    /// It could not be asked.
    Failed(anyhow::Error),
}

/// A connection to a host.
pub(crate) struct Asker {
    control: kanpachi_transport::streams::Control,
    ends: Ends,
    running: JoinHandle<()>,
    _reader: Reader,
}

/// Nobody sends datagrams to a socket that asks for a code.
struct Deaf;

impl DatagramHandler for Deaf {
    fn handle(&mut self, _: std::net::SocketAddr, _: &mut [u8]) {}
}

impl Asker {
    /// Connects, with a key made for this.
    pub(crate) async fn connect(host: &Found) -> anyhow::Result<Self> {
        let keypair = keypair_from_seed(&*seed()?);
        let socket = SharedSocket::bind_port(0).context("cannot open a socket")?;
        let reader = socket.spawn_reader(Deaf).context("cannot read a socket")?;
        let joiner = node_id(&keypair.public().to_peer_id()).context("no node has this key")?;
        let options = Options {
            keypair,
            socket,
            filter: AddressFilter::new(|_| true),
            relay: None,
            tcp: true,
            proxy: None,
            dials: None,
        };
        let mut swarm = swarm::swarm(options, kanpachi_transport::streams::Behaviour::new())?;
        let control = swarm.behaviour().new_control();
        let peer = peer_id(host.host);
        let connected = tokio::time::timeout(CONNECT, connect(&mut swarm, peer, host));
        connected.await.context("it does not answer")??;
        let running = tokio::spawn(async move {
            loop {
                swarm.select_next_some().await;
            }
        });
        Ok(Self {
            control,
            ends: Ends {
                org: host.org,
                joiner,
                host: host.host,
            },
            running,
            _reader: reader,
        })
    }

    /// Tries a code; the link of an invite is the answer. While the host is busy it is asked again; `waiting` is told how
    /// long a longer pause is.
    pub(crate) async fn ask(
        &mut self,
        code: &Code,
        waiting: impl Fn(Duration),
    ) -> Result<Zeroizing<String>, Denied> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.ask_once(code).await {
                Ok(link) => return Ok(link),
                Err(Denied::Later(pause)) if Instant::now() + pause < end => {
                    if pause > Duration::from_secs(1) {
                        waiting(pause);
                    }
                    tokio::time::sleep(pause).await;
                }
                Err(other) => return Err(other),
            }
        }
    }

    async fn ask_once(&mut self, code: &Code) -> Result<Zeroizing<String>, Denied> {
        match self.converse(code).await {
            Err(error) => Err(Denied::Failed(error)),
            Ok(Ok(link)) => Ok(link),
            Ok(Err(Failure::Impostor)) => Err(Denied::Impostor),
            Ok(Err(Failure::Malformed)) => {
                Err(Denied::Failed(anyhow::anyhow!("{}", Failure::Malformed)))
            }
            Ok(Err(Failure::Refused(CodeRefusal::Wrong { left }))) => Err(Denied::Wrong(left)),
            Ok(Err(Failure::Refused(CodeRefusal::Later { ms }))) => {
                Err(Denied::Later(Duration::from_millis(ms.into())))
            }
            Ok(Err(Failure::Refused(other))) => Err(Denied::Refused(other)),
        }
    }

    /// One try on a stream of its own.
    async fn converse(
        &mut self,
        code: &Code,
    ) -> anyhow::Result<Result<Zeroizing<String>, Failure>> {
        let protocol = StreamProtocol::new(PROTOCOL);
        let open = self.control.open_stream(peer_id(self.ends.host), protocol);
        let stream = tokio::time::timeout(ANSWER, open).await;
        let stream = stream
            .context("it does not answer")?
            .context("it takes no codes")?;
        let mut frames = Frames::new(stream);
        let (mut joiner, mut next) = Joiner::start(code, self.ends, *seed()?);
        loop {
            // A host that answers at once and hangs up stops the sending; its answer is there nevertheless, and says more.
            let sent = frames.send(&next.frame()).await;
            let frame = tokio::time::timeout(ANSWER, frames.next()).await;
            let frame = frame.context("it does not answer")?;
            let frame = frame
                .map_err(|e| sent.err().unwrap_or(e))
                .context("it hung up")?;
            let reply = CodeReply::from_frame(&frame).context("it speaks otherwise than a host")?;
            match joiner.handle_reply(&reply) {
                Ok(Step::Send(message)) => next = message,
                Ok(Step::Done(link)) => {
                    frames.close().await;
                    return Ok(Ok(link));
                }
                Err(failure) => {
                    frames.close().await;
                    return Ok(Err(failure));
                }
            }
        }
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// By QUIC and TCP to all addresses at once.
async fn connect(
    swarm: &mut Swarm<kanpachi_transport::streams::Behaviour>,
    peer: PeerId,
    host: &Found,
) -> anyhow::Result<()> {
    let addresses = host.addresses.iter().flat_map(|a| {
        let ip = Multiaddr::from(a.ip());
        [
            ip.clone()
                .with(Protocol::Udp(a.port()))
                .with(Protocol::QuicV1),
            ip.with(Protocol::Tcp(a.port())),
        ]
    });
    let options = DialOpts::peer_id(peer)
        .addresses(addresses.collect())
        .build();
    swarm.dial(options).context("it cannot be dialled")?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => return Ok(()),
            SwarmEvent::OutgoingConnectionError { error, .. } => match error {
                DialError::WrongPeerId { .. } => bail!("another machine answers there"),
                error => return Err(error).context("it cannot be reached"),
            },
            _ => {}
        }
    }
}

fn seed() -> anyhow::Result<Zeroizing<[u8; 32]>> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).context("the system gives no random numbers")?;
    Ok(seed)
}
