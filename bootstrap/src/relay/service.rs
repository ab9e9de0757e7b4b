//! The relay's streams: one task each, which reads messages and datagrams of a member and writes what its outbox holds.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{
    AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, StreamExt as _, io::ReadHalf,
};
use kanpachi_common::{
    NodeId, UnixTime,
    wire::{
        frame::{Frame, FrameReader},
        relay::{DATA, MAX, PROTOCOL, RelayMessage, SessionKey, data_channel, data_frame},
    },
};
use kanpachi_transport::streams::{IncomingStreams, Stream};
use kanpachi_transport::{SharedSocket, node_id};
use libp2p::StreamProtocol;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::places::Places;

use super::{
    Relay,
    bucket::{Bucket, Rate},
    core::{Fresh, Now, StreamId, examine},
    forward::Forwarder,
    judge::{Claims, Judge},
    outbox::{Next, Outbox},
    table::Session,
};

/// Streams whose peer has not shown yet that it is a member.
const MAX_UNPROVED: usize = 256;
/// It has this long to do so.
const PROVE: Duration = Duration::from_secs(10);
/// Streams of one node: the newest, and old ones that still say goodbye to nobody.
const MAX_OF_ONE: usize = 4;
/// The last message is written within this.
const GOODBYE: Duration = Duration::from_secs(5);
/// Messages of one stream: all its channels at once, then so many a second. Whoever sends more is read more slowly.
const MESSAGES: Rate = Rate {
    per_second: 64,
    burst: 1200,
};
/// How long such a stream is not read.
const PAUSE: Duration = Duration::from_millis(100);
/// How often sessions are looked at that nobody renews.
const TICK: Duration = Duration::from_secs(1);
const CHUNK: usize = 16 * 1024;
/// Destinations that one stream's datagrams are collected for at once.
const MAX_BATCHES: usize = 4;

impl Relay {
    /// Serves until the swarm is gone. Streams that come before this is polled wait. `changes` tells that the judge may say
    /// something else by now.
    pub fn serve(
        self,
        control: &mut kanpachi_transport::streams::Control,
        changes: watch::Receiver<u64>,
    ) -> impl Future<Output = ()> + use<> {
        let incoming = control.accept(StreamProtocol::new(PROTOCOL));
        async move {
            match incoming {
                Ok(incoming) => self.take_all(incoming, changes).await,
                // Only somebody in this process could have taken the name.
                Err(_) => tracing::error!("the relay's protocol is registered twice"),
            }
        }
    }

    async fn take_all(self, mut incoming: IncomingStreams, changes: watch::Receiver<u64>) {
        let watching = tokio::spawn(self.clone().watch(changes));
        let _watching = AbortOnDrop(watching);
        let slots = Arc::new(Semaphore::new(MAX_UNPROVED));
        let places = Places::new(MAX_OF_ONE);
        let mut streams = JoinSet::new();
        while let Some((peer, stream)) = incoming.next().await {
            while streams.try_join_next().is_some() {}
            let Some(node) = node_id(&peer) else { continue };
            let Some(slot) = slot(&*self.judge, &node, &slots) else {
                tracing::debug!(%peer, "too many strangers at the relay");
                continue;
            };
            let Some(place) = places.take(node) else {
                tracing::debug!(%peer, "too many relay streams of one node");
                continue;
            };
            let relay = self.clone();
            streams.spawn(async move {
                let _place = place;
                if let Err(error) = relay.converse(node, stream, slot).await {
                    tracing::debug!(%peer, %error, "a relay stream ended");
                }
            });
        }
    }

    /// Follows the rosters and the clock.
    async fn watch(self, mut changes: watch::Receiver<u64>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = changes.changed() => match changed {
                    Ok(()) => self.rejudge(),
                    Err(_) => std::future::pending().await,
                },
                _ = tick.tick() => self.shared.core().tick(self.now()),
            }
        }
    }

    /// Rosters have changed: whoever is no member any more is out at once.
    pub fn rejudge(&self) {
        let now = self.now();
        self.shared.core().rejudge(&*self.judge, now);
    }

    fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH);
        Now {
            nanos: self.shared.now(),
            wall: UnixTime(wall.map_or(0, |since| since.as_secs())),
        }
    }

    async fn converse(
        &self,
        node: NodeId,
        stream: Stream,
        slot: Option<OwnedSemaphorePermit>,
    ) -> io::Result<()> {
        let outbox = Arc::new(Outbox::new(Arc::clone(&self.shared.budget)));
        let id = self.shared.core().stream_opened(node, Arc::clone(&outbox));
        let _open = OpenStream { relay: self, id };
        let (read, mut write) = stream.split();
        let reading = Reading {
            relay: self,
            id,
            node,
            stream: read,
            frames: FrameReader::new(MAX),
            claims: Claims::default(),
            session: None,
            forwarder: None,
            messages: Bucket::default(),
        };
        let mut reading = std::pin::pin!(reading.run(slot));
        let mut writing = std::pin::pin!(self.write(&outbox, &mut write));
        tokio::select! {
            outcome = &mut writing => outcome,
            // A peer that reads nothing any more is not waited for.
            () = async { outbox.over().await; sleep(GOODBYE).await } => Ok(()),
            outcome = &mut reading => {
                // What the peer is told last, if it is told anything.
                outbox.end(None);
                let _ = timeout(GOODBYE, writing).await;
                outcome
            }
        }
    }

    /// Writes until the outbox has ended.
    async fn write(
        &self,
        outbox: &Outbox,
        stream: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<()> {
        loop {
            let Some(next) = outbox.take(self.shared.now()) else {
                stream.flush().await?;
                outbox.ready().await;
                continue;
            };
            let frame = match next {
                Next::Message(message) => message.frame(0),
                Next::Data(channel, datagram) => data_frame(channel, datagram),
                Next::End => return stream.close().await,
            };
            stream.write_all(&frame.to_bytes()).await?;
        }
    }
}

/// The reading half of a stream.
struct Reading<'a, R> {
    relay: &'a Relay,
    id: StreamId,
    node: NodeId,
    stream: ReadHalf<R>,
    frames: FrameReader,
    /// What the member has shown, for `Renew`.
    claims: Claims,
    session: Option<Arc<Session>>,
    /// Made with the first datagram.
    forwarder: Option<Forwarder<SharedSocket>>,
    messages: Bucket,
}

impl<R: AsyncRead + Unpin> Reading<'_, R> {
    /// Reads until the peer ends or breaks the stream. The slot is given back once it has a session, or is gone.
    async fn run(mut self, slot: Option<OwnedSemaphorePermit>) -> io::Result<()> {
        let first = timeout(PROVE, self.next()).await;
        let Some(frame) = first.map_err(|_| io::ErrorKind::TimedOut)?? else {
            return Ok(());
        };
        self.take(frame).await;
        self.session = self.relay.shared.core().session(self.id);
        if self.session.is_none() {
            // Unless it was refused by now. That is in the outbox, and ends the stream once it is written.
            self.relay.shared.core().malformed(self.id);
            return std::future::pending().await;
        }
        drop(slot);
        while let Some(frame) = self.next().await? {
            self.take(frame).await;
        }
        Ok(())
    }

    async fn next(&mut self) -> io::Result<Option<Frame>> {
        let mut chunk = [0; CHUNK];
        loop {
            match self.frames.next_frame() {
                Ok(Some(frame)) => return Ok(Some(frame)),
                Ok(None) => {}
                Err(error) => {
                    self.relay.shared.core().malformed(self.id);
                    return Err(io::Error::other(error));
                }
            }
            // Everything that came at once was handled: what was collected goes out.
            if let Some(forwarder) = &mut self.forwarder {
                forwarder.release();
            }
            let read = self.stream.read(&mut chunk).await?;
            if read == 0 {
                return Ok(None);
            }
            self.frames.extend(chunk.get(..read).unwrap_or_default());
        }
    }

    async fn take(&mut self, frame: Frame) {
        if frame.kind == DATA {
            self.forward(&frame);
            return;
        }
        while !self.messages.take(1, MESSAGES, self.relay.shared.now()) {
            sleep(PAUSE).await;
        }
        let relay = self.relay;
        let now = relay.now();
        match RelayMessage::from_frame(&frame) {
            Ok(RelayMessage::Open(open)) => {
                let examined = examine(&*relay.judge, &self.node, &open, now.wall);
                if let Ok(admitted) = &examined {
                    self.claims = admitted.claims.clone();
                }
                let mut core = relay.shared.core();
                core.open(self.id, examined, &*relay.judge, fresh, now);
            }
            Ok(RelayMessage::Renew(renew)) => {
                let judge = &*relay.judge;
                self.claims
                    .prove(judge, &self.node, &renew.proofs, now.wall);
                let claims = self.claims.clone();
                relay.shared.core().renew(self.id, claims, judge, now);
            }
            Ok(message) => relay.shared.core().message(self.id, &message, now),
            Err(_) => relay.shared.core().malformed(self.id),
        }
    }

    fn forward(&mut self, frame: &Frame) {
        let relay = self.relay;
        let Some(channel) = data_channel(frame) else {
            relay.shared.core().malformed(self.id);
            return;
        };
        let now = relay.shared.now();
        let Some(session) = self.session.as_ref().filter(|s| s.is_open(now)) else {
            return;
        };
        session.heard_on_stream(now);
        let forwarder = self.forwarder.get_or_insert_with(|| {
            Forwarder::new(relay.socket.clone(), Arc::clone(&relay.shared), MAX_BATCHES)
        });
        forwarder.forward(session, channel, &frame.body, now);
    }
}

/// Number and key of a new session.
fn fresh() -> Option<Fresh> {
    let (mut number, mut key) = ([0; 4], SessionKey([0; 32]));
    getrandom::fill(&mut number).ok()?;
    getrandom::fill(&mut key.0).ok()?;
    let number = u32::from_le_bytes(number);
    Some(Fresh { number, key })
}

/// Tells the core when the task of a stream is over, however it ends.
struct OpenStream<'a> {
    relay: &'a Relay,
    id: StreamId,
}

impl Drop for OpenStream<'_> {
    fn drop(&mut self) {
        self.relay.shared.core().stream_closed(self.id);
    }
}

/// A slot among those who have not shown yet that they are members. Whoever the newest rosters name needs none: strangers
/// that take them all keep no member out. `None` when there is none left.
pub(super) fn slot(
    judge: &dyn Judge,
    node: &NodeId,
    slots: &Arc<Semaphore>,
) -> Option<Option<OwnedSemaphorePermit>> {
    if !judge.networks_of(node).is_empty() {
        return Some(None);
    }
    let slot = Arc::clone(slots).try_acquire_owned();
    slot.ok().map(Some)
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
