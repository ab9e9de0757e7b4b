//! A coordinator that lies: it has the machine's identity, so nodes talk to it, but not the signing key.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, anyhow};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::wire::control::{ClientMessage, Refused, ServerMessage, Welcome};
use kanpachi_common::wire::frame::{Frame, FrameReader, MAX_REPLY};
use kanpachi_common::wire::{MAX_VERSION, control};
use kanpachi_common::{NodeId, UnixTime};
use kanpachi_transport::swarm as stack;
use kanpachi_transport::{AddressFilter, SharedSocket, keypair_from_seed, node_id};
use libp2p::StreamProtocol;
use tokio::sync::{broadcast, oneshot};

use super::stolen::StolenCoordinator;
use crate::lab::Host;

/// Forgeries that may wait for a slow node.
const QUEUE: usize = 256;

/// How it answers a hello.
#[derive(Debug, Clone)]
pub enum Greeting {
    /// As the real one would, with what is signed and true.
    Welcome,
    /// Never.
    Refused(Refused),
}

/// A lying coordinator on a host, until dropped.
#[derive(Debug)]
pub struct Impostor {
    pushes: broadcast::Sender<Vec<u8>>,
    sessions: Arc<AtomicUsize>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
}

#[derive(Clone)]
struct Shared {
    stolen: Arc<StolenCoordinator>,
    greeting: Greeting,
    pushes: broadcast::Sender<Vec<u8>>,
    sessions: Arc<AtomicUsize>,
}

impl Impostor {
    /// Takes the place of the coordinator on its host; the real one must be gone.
    pub fn start(
        host: &Host,
        port: u16,
        stolen: &StolenCoordinator,
        greeting: Greeting,
    ) -> Result<Self> {
        let (pushes, _) = broadcast::channel(QUEUE);
        let sessions = Arc::new(AtomicUsize::new(0));
        let shared = Shared {
            stolen: Arc::new(stolen.clone()),
            greeting,
            pushes: pushes.clone(),
            sessions: Arc::clone(&sessions),
        };
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let serving = serve(port, shared, ready, stopped);
        let thread = host.ns.spawn_async(serving);
        let mut impostor = Self {
            pushes,
            sessions,
            stop: Some(stop),
            thread: Some(thread),
        };
        if is_ready.recv().is_err() {
            // The thread has ended without a word, so it returns why.
            impostor.end()?;
            return Err(anyhow!("the impostor ended"));
        }
        Ok(impostor)
    }

    /// Nodes that have been greeted and are still there.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Sends a message that nobody asked for to every node that is there.
    pub fn push(&self, message: &ServerMessage) {
        // Nobody there is nobody told.
        let _ = self.pushes.send(message.frame(0).to_bytes());
    }

    fn end(&mut self) -> Result<()> {
        drop(self.stop.take());
        match self.thread.take() {
            Some(thread) => thread
                .join()
                .map_err(|_| anyhow!("the impostor panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for Impostor {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

async fn serve(
    port: u16,
    shared: Shared,
    ready: std::sync::mpsc::Sender<()>,
    mut stopped: oneshot::Receiver<()>,
) -> Result<()> {
    let socket = SharedSocket::bind_port(port).with_context(|| format!("bind port {port}"))?;
    let reader = socket.spawn_reader(super::Silent)?;
    let keypair = keypair_from_seed(&shared.stolen.identity.seed());
    let options = stack::Options {
        keypair,
        socket: socket.clone(),
        filter: AddressFilter::allow_all(),
        relay: None,
        tcp: true,
        proxy: None,
        dials: None,
    };
    let mut swarm = stack::swarm(options, kanpachi_transport::streams::Behaviour::new())?;
    for address in stack::listen_addresses(&socket, &[port]) {
        swarm.listen_on(address)?;
    }
    let protocol = StreamProtocol::new(control::PROTOCOL);
    let mut incoming = swarm
        .behaviour()
        .new_control()
        .accept(protocol)
        .map_err(|_| anyhow!("already accepting"))?;
    let _ = ready.send(());
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            _ = swarm.select_next_some() => {}
            Some((peer, stream)) = incoming.next() => {
                if let Some(node) = node_id(&peer) {
                    tokio::spawn(converse(node, stream, shared.clone()));
                }
            }
        }
    }
    drop(swarm);
    Ok(reader.stop()?)
}

/// One node's control stream, from its hello until either side has enough.
async fn converse(
    node: NodeId,
    mut stream: kanpachi_transport::streams::Stream,
    shared: Shared,
) -> Result<()> {
    let mut pushes = shared.pushes.subscribe();
    let mut reader = FrameReader::new(MAX_REPLY);
    let mut buffer = vec![0; 64 * 1024];
    let mut greeted = None;
    loop {
        tokio::select! {
            length = stream.read(&mut buffer) => {
                let length = length?;
                if length == 0 {
                    return Ok(());
                }
                reader.extend(&buffer[..length]);
                while let Some(frame) = reader.next_frame()? {
                    for reply in answer(&shared, &node, &frame)? {
                        stream.write_all(&reply.frame(frame.id).to_bytes()).await?;
                        if matches!(reply, ServerMessage::Welcome(_)) {
                            greeted = Some(Present::new(&shared.sessions));
                        }
                    }
                    stream.flush().await?;
                }
            }
            Ok(push) = pushes.recv(), if greeted.is_some() => {
                stream.write_all(&push).await?;
                stream.flush().await?;
            }
        }
    }
}

/// Counts a session while it lives.
struct Present(Arc<AtomicUsize>);

impl Present {
    fn new(sessions: &Arc<AtomicUsize>) -> Self {
        sessions.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(sessions))
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn answer(shared: &Shared, node: &NodeId, frame: &Frame) -> Result<Vec<ServerMessage>> {
    let done = ServerMessage::Done(control::Nonce(frame.id));
    Ok(match ClientMessage::from_frame(frame)? {
        ClientMessage::Hello(_) => match &shared.greeting {
            Greeting::Welcome => {
                vec![
                    ServerMessage::Welcome(Box::new(welcome(&shared.stolen, node))),
                    done,
                ]
            }
            Greeting::Refused(refused) => vec![ServerMessage::Refused(refused.clone())],
        },
        ClientMessage::Ping(nonce) => vec![ServerMessage::Pong(nonce)],
        ClientMessage::Pull(_) => vec![done],
        _ => Vec::new(),
    })
}

fn welcome(stolen: &StolenCoordinator, node: &NodeId) -> Welcome {
    Welcome {
        version: MAX_VERSION,
        caps: 0,
        manifest: stolen.manifest.clone(),
        directory: stolen.directory.clone(),
        time: UnixTime(u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0)),
        registration: stolen.registration(node),
        ext: Vec::new(),
    }
}
