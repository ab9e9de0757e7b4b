//! The mirror's stream protocol: one request, one reply, in frames as on the control stream.

use std::{io, sync::Arc, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::wire::{
    frame::FrameReader,
    mirror::{MAX, MirrorReply, MirrorRequest, PROTOCOL},
};
use kanpachi_transport::node_id;
use kanpachi_transport::streams::{IncomingStreams, Stream};
use libp2p::{PeerId, StreamProtocol};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::Mirror;
use crate::{
    places::{Place, Places},
    relay::Judge as _,
};

/// Conversations at once, of each kind of peer: whoever is none of the organisation's, its members, its servers. Each may
/// hold one request of 2 MiB.
const MAX_STREAMS: usize = 16;
/// Of one peer; a coordinator asks about many networks at once.
const MAX_OF_ONE: usize = 2;
/// The request must be here after this time.
const REQUEST: Duration = Duration::from_secs(5);
/// And the reply must be taken.
const REPLY: Duration = Duration::from_secs(10);
/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;

/// Serves until the swarm is gone. Streams that come before this is polled wait.
pub(crate) fn serve(
    mirror: Mirror,
    control: &mut kanpachi_transport::streams::Control,
) -> impl Future<Output = ()> + use<> {
    let incoming = control.accept(StreamProtocol::new(PROTOCOL));
    async move {
        match incoming {
            Ok(incoming) => take_all(&mirror, incoming).await,
            // Only somebody in this process could have taken the name.
            Err(_) => tracing::error!("the mirror's protocol is registered twice"),
        }
    }
}

async fn take_all(mirror: &Mirror, mut incoming: IncomingStreams) {
    let slots = Slots::new();
    let mut conversations = tokio::task::JoinSet::new();
    while let Some((peer, stream)) = incoming.next().await {
        while conversations.try_join_next().is_some() {}
        let Some(slot) = slots.take(mirror, peer) else {
            tracing::debug!(%peer, "too many conversations with the mirror");
            continue;
        };
        let mirror = mirror.clone();
        conversations.spawn(async move {
            let _slot = slot;
            if let Err(e) = converse(&mirror, peer, stream).await {
                tracing::debug!(%peer, error = %e, "a mirror stream failed");
            }
        });
    }
}

/// Room for conversations. Strangers take none of what members and servers need.
pub(super) struct Slots {
    strangers: Arc<Semaphore>,
    members: Arc<Semaphore>,
    servers: Arc<Semaphore>,
    places: Places<PeerId>,
}

/// Room for one.
#[derive(Debug)]
pub(super) struct Slot {
    _permit: OwnedSemaphorePermit,
    _place: Option<Place<PeerId>>,
}

impl Slots {
    pub(super) fn new() -> Self {
        let slots = || Arc::new(Semaphore::new(MAX_STREAMS));
        Self {
            strangers: slots(),
            members: slots(),
            servers: slots(),
            places: Places::new(MAX_OF_ONE),
        }
    }

    pub(super) fn take(&self, mirror: &Mirror, peer: PeerId) -> Option<Slot> {
        let node = node_id(&peer);
        let is_server = node.is_some_and(|node| mirror.is_server(&node));
        let is_member = || node.is_some_and(|node| !mirror.networks_of(&node).is_empty());
        let (slots, place) = if is_server {
            (&self.servers, None)
        } else if is_member() {
            (&self.members, Some(self.places.take(peer)?))
        } else {
            (&self.strangers, Some(self.places.take(peer)?))
        };
        let permit = Arc::clone(slots).try_acquire_owned().ok()?;
        Some(Slot {
            _permit: permit,
            _place: place,
        })
    }
}

async fn converse(mirror: &Mirror, peer: PeerId, mut stream: Stream) -> io::Result<()> {
    let reply = match timeout(REQUEST, read(&mut stream)).await?? {
        Ok(request) => mirror.answer(request).await,
        Err(why) => {
            tracing::debug!(%peer, why, "a mirror request was not readable");
            MirrorReply::Refused(why)
        }
    };
    let written = async {
        stream.write_all(&reply.frame().to_bytes()).await?;
        stream.close().await
    };
    timeout(REPLY, written).await?
}

/// Reads one request; the inner error is what the peer did wrong.
async fn read(stream: &mut Stream) -> io::Result<Result<MirrorRequest, String>> {
    let mut reader = FrameReader::new(MAX);
    let mut chunk = vec![0; CHUNK];
    loop {
        match reader.next_frame() {
            Ok(Some(frame)) => {
                return Ok(MirrorRequest::from_frame(&frame).map_err(|e| e.to_string()));
            }
            Ok(None) => {}
            Err(e) => return Ok(Err(e.to_string())),
        }
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.extend(&chunk[..n]);
    }
}
