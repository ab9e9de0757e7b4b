//! The mirror's stream protocol: one request, one reply, in frames as on the control stream.

use std::{io, sync::Arc, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::wire::{
    frame::FrameReader,
    mirror::{MAX, MirrorReply, MirrorRequest, PROTOCOL},
};
use libp2p::{PeerId, Stream, StreamProtocol};
use tokio::sync::Semaphore;

use super::Mirror;

/// Conversations at once; each may hold one request of 2 MiB.
const MAX_STREAMS: usize = 16;
/// A conversation that takes longer is over.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes read at a time.
const CHUNK: usize = 16 * 1024;

/// Serves until the swarm is gone.
pub(crate) async fn serve(mirror: Mirror, mut control: libp2p_stream::Control) {
    let protocol = StreamProtocol::new(PROTOCOL);
    let Ok(mut incoming) = control.accept(protocol) else {
        // Only somebody in this process could have taken the name.
        tracing::error!("the mirror's protocol is registered twice");
        return;
    };
    let slots = Arc::new(Semaphore::new(MAX_STREAMS));
    let mut conversations = tokio::task::JoinSet::new();
    while let Some((peer, stream)) = incoming.next().await {
        while conversations.try_join_next().is_some() {}
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            tracing::debug!(%peer, "too many conversations with the mirror");
            continue;
        };
        let mirror = mirror.clone();
        conversations.spawn(async move {
            let _slot = slot;
            match tokio::time::timeout(TIMEOUT, converse(&mirror, peer, stream)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => tracing::debug!(%peer, error = %e, "a mirror stream failed"),
                Err(_) => tracing::debug!(%peer, "a mirror stream took too long"),
            }
        });
    }
}

async fn converse(mirror: &Mirror, peer: PeerId, mut stream: Stream) -> io::Result<()> {
    let request = match read(&mut stream).await? {
        Ok(request) => request,
        Err(why) => {
            tracing::debug!(%peer, why, "a mirror request was not readable");
            let reply = MirrorReply::Refused(why);
            stream.write_all(&reply.frame().to_bytes()).await?;
            return stream.close().await;
        }
    };
    let reply = mirror.answer(request).await;
    stream.write_all(&reply.frame().to_bytes()).await?;
    stream.close().await
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
