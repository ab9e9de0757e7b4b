//! Takes tries at the code of a host, on its libp2p streams, and hands out invites.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::StreamExt as _;
use kanpachi_common::{
    NetworkId, NodeId,
    wire::code::{CodeRefusal, CodeReply, CodeRequest, PROTOCOL},
};
use kanpachi_coordinator::service::{InviteOptions, RemoteLookup, Service, remote_of};
use kanpachi_proto::code::{Door, Event, Granted, TRY_LIMIT, TryId};
use kanpachi_transport::node_id;
use kanpachi_transport::streams::{IncomingStreams, Stream};
use libp2p::{PeerId, StreamProtocol};
use tokio::task::{JoinHandle, JoinSet};

use super::{
    announce::{Announcement, Card},
    stream::Frames,
};
use crate::{
    cli::steps::{Progress, Report},
    ipc::api::Secret,
    platform::{Exclude, Native, Platform as _, is_on_link},
};

/// Streams at once, and of one address.
const MAX_STREAMS: usize = 32;
const MAX_PER_ADDRESS: usize = 4;
/// The first message is sent with the stream.
const FIRST: Duration = Duration::from_secs(3);
/// How long the other end has to read the last answer and to hang up.
const GOODBYE: Duration = Duration::from_secs(1);
/// When one that came while its address had its streams taken may ask again.
const CROWDED: Duration = Duration::from_millis(500);
/// An invite that is handed over is used at once.
const INVITE_SECONDS: u64 = 600;

/// What is at the door.
pub(crate) struct Parts {
    pub(crate) card: Card,
    pub(crate) network: NetworkId,
    /// What kind of invite is handed out.
    pub(crate) invites: InviteOptions,
    pub(crate) service: Service,
    pub(crate) control: kanpachi_transport::streams::Control,
    pub(crate) remote: RemoteLookup,
    /// The overlay: neither announced on, nor let in by.
    pub(crate) exclude: Exclude,
    /// Told of new codes.
    pub(crate) progress: Arc<dyn Progress>,
}

/// A host that is seen and can be joined by its code.
#[derive(Debug)]
pub(crate) struct Lan {
    announcement: Announcement,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

struct Shared {
    door: Mutex<Door>,
    network: NetworkId,
    invites: InviteOptions,
    service: Service,
    exclude: Exclude,
    progress: Arc<dyn Progress>,
}

impl Lan {
    /// Opens the door and shows the card.
    pub(crate) fn open(mut parts: Parts) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).context("the system gives no random numbers")?;
        let streams = parts
            .control
            .accept(StreamProtocol::new(PROTOCOL))
            .context("the code protocol is served already")?;
        let overlay = parts.exclude.prefixes.clone();
        let interface = parts
            .exclude
            .interfaces
            .first()
            .cloned()
            .unwrap_or_default();
        let announcement = Announcement::start(&parts.card, &interface, overlay)?;
        let shared = Arc::new(Shared {
            door: Mutex::new(Door::new(
                parts.card.org,
                parts.card.host,
                seed,
                Instant::now(),
            )),
            network: parts.network,
            invites: parts.invites,
            service: parts.service,
            exclude: parts.exclude,
            progress: parts.progress,
        });
        let serving = tokio::spawn(serve(Arc::clone(&shared), streams, parts.remote));
        Ok(Self {
            announcement,
            shared,
            serving,
        })
    }

    /// The code to show.
    pub(crate) fn code(&self) -> Secret {
        Secret::new(self.shared.door().code().text())
    }

    /// Is not seen any more.
    pub(crate) async fn close(self) {
        self.serving.abort();
        // What is not told in time runs out by itself.
        let _ = tokio::task::spawn_blocking(|| self.announcement.close()).await;
    }
}

/// Takes streams as they come, a few at a time, and fewer of one address. One that only reads its answer still takes no
/// place from the next of its address: whoever types codes fast is not hung up on.
async fn serve(shared: Arc<Shared>, mut streams: IncomingStreams, remote: RemoteLookup) {
    let mut from_each: HashMap<IpAddr, usize> = HashMap::new();
    let mut running = JoinSet::new();
    let mut answered = JoinSet::new();
    loop {
        tokio::select! {
            Some(ended) = running.join_next(), if !running.is_empty() => {
                let Ok((from, answer)) = ended else { continue };
                leave(&mut from_each, from);
                say(&mut answered, answer);
            }
            Some(_) = answered.join_next(), if !answered.is_empty() => {}
            next = streams.next() => {
                let Some((peer, stream)) = next else { return };
                // One that came over a relay has no address, and is not on this LAN.
                let Some(from) = remote_of(remote(&peer).as_ref()).ip else { continue };
                let own = from_each.get(&from).copied().unwrap_or_default();
                if running.len() < MAX_STREAMS && own < MAX_PER_ADDRESS {
                    from_each.insert(from, own + 1);
                    running.spawn(converse_logged(Arc::clone(&shared), peer, from, stream));
                } else {
                    let ms = u32::try_from(CROWDED.as_millis()).unwrap_or(u32::MAX);
                    let later = CodeReply::Refused(CodeRefusal::Later { ms });
                    say(&mut answered, Some((Frames::new(stream), later)));
                }
            }
        }
    }
}

/// A stream with the last that is said on it.
type Answer = (Frames<Stream>, CodeReply);

/// Says the last word on a stream. One too many is dropped, which the other end sees.
fn say(answered: &mut JoinSet<()>, answer: Option<Answer>) {
    let Some((mut frames, reply)) = answer else {
        return;
    };
    if answered.len() < MAX_STREAMS {
        answered.spawn(async move {
            // Until the other end has read it: a stream that is dropped earlier is reset, and the answer may be lost with it.
            let goodbye = async {
                if frames.send(&reply.frame()).await.is_ok() {
                    frames.close().await;
                }
            };
            let _ = tokio::time::timeout(GOODBYE, goodbye).await;
        });
    }
}

fn leave(from_each: &mut HashMap<IpAddr, usize>, from: IpAddr) {
    match from_each.get_mut(&from) {
        Some(own) if *own > 1 => *own -= 1,
        _ => drop(from_each.remove(&from)),
    }
}

async fn converse_logged(
    shared: Arc<Shared>,
    peer: PeerId,
    from: IpAddr,
    stream: Stream,
) -> (IpAddr, Option<Answer>) {
    let mut frames = Frames::new(stream);
    match shared.converse(peer, from, &mut frames).await {
        Ok(reply) => (from, Some((frames, reply))),
        Err(error) => {
            tracing::debug!(%peer, %error, "a code stream ended");
            (from, None)
        }
    }
}

/// Counts a try as over, however its stream ends.
struct Trying<'a>(&'a Shared, TryId);

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        self.0.door().handle_gone(self.1, Instant::now());
        self.0.tell();
    }
}

impl Shared {
    fn door(&self) -> MutexGuard<'_, Door> {
        // Nothing panics while it holds the lock; should it have, the value is whole nevertheless.
        self.door.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows a new code.
    fn tell(&self) {
        while let Some(Event::NewCode(code, from)) = { self.door().poll_event() } {
            tracing::debug!(%from, "the last of too many wrong codes");
            tracing::warn!("too many wrong codes were tried on the LAN, there is a new one");
            self.progress.report(&Report::NewCode(&code.text()));
        }
    }

    /// What is to be said at the end.
    async fn converse(
        &self,
        peer: PeerId,
        from: IpAddr,
        frames: &mut Frames<Stream>,
    ) -> io::Result<CodeReply> {
        Ok(match self.exchange(peer, from, frames).await? {
            Ok(granted) => self.invite(&granted, from).await,
            Err(refusal) => CodeReply::Refused(refusal),
        })
    }

    async fn exchange(
        &self,
        peer: PeerId,
        from: IpAddr,
        frames: &mut Frames<Stream>,
    ) -> io::Result<Result<Granted, CodeRefusal>> {
        let first = tokio::time::timeout(FIRST, frames.next()).await??;
        let Ok(first) = CodeRequest::from_frame(&first) else {
            return Ok(Err(CodeRefusal::Malformed));
        };
        let Some(joiner) = node_id(&peer) else {
            return Ok(Err(CodeRefusal::Malformed));
        };
        if !self.is_on_lan(from).await {
            return Ok(Err(CodeRefusal::Elsewhere));
        }
        let started = self.start(from, joiner, &first);
        let (trying, element) = match started {
            Ok(started) => started,
            Err(refusal) => return Ok(Err(refusal)),
        };
        frames.send(&element.frame()).await?;
        let second = tokio::time::timeout(TRY_LIMIT, frames.next()).await??;
        let Ok(second) = CodeRequest::from_frame(&second) else {
            return Ok(Err(CodeRefusal::Malformed));
        };
        let answer = self
            .door()
            .handle_confirm(trying.1, &second, Instant::now());
        Ok(answer)
    }

    fn start(
        &self,
        from: IpAddr,
        joiner: NodeId,
        first: &CodeRequest,
    ) -> Result<(Trying<'_>, CodeReply), CodeRefusal> {
        let started = self
            .door()
            .handle_start(from, joiner, first, Instant::now());
        self.tell();
        let (id, reply) = started?;
        Ok((Trying(self, id), reply))
    }

    /// Codes are for who is near enough to read them. A host may be open to the whole Internet.
    async fn is_on_lan(&self, from: IpAddr) -> bool {
        if matches!(from, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            return true;
        }
        let local = Native::default().local_addresses(&self.exclude).await;
        local.is_ok_and(|local| {
            is_on_link(&local, from) || local.iter().any(|own| own.address == from)
        })
    }

    async fn invite(&self, granted: &Granted, from: IpAddr) -> CodeReply {
        let options = InviteOptions {
            expires_in: INVITE_SECONDS,
            ..self.invites
        };
        match self.service.make_invite(self.network, options).await {
            Ok(made) => {
                tracing::debug!(%from, "knows the code");
                tracing::info!("handed out an invite for the code");
                granted.seal(&made.link)
            }
            Err(error) => {
                tracing::warn!(%error, "a code was right, but there is no invite");
                CodeReply::Refused(CodeRefusal::NoInvite)
            }
        }
    }
}
