//! A stream to frames and back: one task that reads, one that writes.

use std::{sync::Arc, time::Duration};

use futures::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use kanpachi_common::wire::frame::{FrameReader, MAX_REQUEST};
use tokio::sync::mpsc;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::actor::{Carrier, Input};
use crate::decide::SessionId;

/// How long the last words of a session may take.
const FAREWELL: Duration = Duration::from_secs(5);
/// Bytes that are read at once.
const CHUNK: usize = 16 * 1024;

/// The queue of one session. Not bounded by itself: the core counts the bytes in it and drops the session
/// before they are too many.
#[derive(Debug)]
pub(super) struct Writer {
    queue: mpsc::UnboundedSender<Arc<[u8]>>,
    _closing: DropGuard,
}

impl Writer {
    pub(super) fn send(&self, bytes: Arc<[u8]>) {
        // The task is gone when the stream broke; the core hears of it by `Closed`.
        let _ = self.queue.send(bytes);
    }
}

/// Starts both tasks.
pub(super) fn start(
    id: SessionId,
    carrier: Box<dyn Carrier>,
    inputs: mpsc::Sender<Input>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Writer {
    let (queue, frames) = mpsc::unbounded_channel();
    let (reading, writing) = carrier.split();
    let (ended, closing) = (stop.child_token(), CancellationToken::new());
    let writer = write_all(id, writing, frames, inputs.clone());
    tasks.spawn(finish(writer, closing.clone(), ended.clone()));
    tasks.spawn(async move {
        // Told by the writer when the session is closed, or by the service when it stops.
        let _ = ended
            .run_until_cancelled(read_all(id, reading, &inputs))
            .await;
        let _ = inputs.send(Input::Closed(id)).await;
    });
    Writer {
        queue,
        _closing: closing.drop_guard(),
    }
}

async fn read_all(
    id: SessionId,
    mut stream: ReadHalf<Box<dyn Carrier>>,
    inputs: &mpsc::Sender<Input>,
) {
    let mut reader = FrameReader::new(MAX_REQUEST);
    let mut chunk = vec![0; CHUNK];
    loop {
        let Ok(len @ 1..) = stream.read(&mut chunk).await else {
            return;
        };
        reader.extend(&chunk[..len]);
        loop {
            let input = match reader.next_frame() {
                Ok(Some(frame)) => Input::Frame(id, frame),
                Ok(None) => break,
                Err(error) => {
                    let _ = inputs.send(Input::Garbage(id, error.to_string())).await;
                    // The writer says why and ends the session.
                    return std::future::pending().await;
                }
            };
            if inputs.send(input).await.is_err() {
                return;
            }
        }
    }
}

/// Writes what comes until the queue is closed and empty, or the stream breaks.
async fn write_all(
    id: SessionId,
    mut stream: WriteHalf<Box<dyn Carrier>>,
    mut frames: mpsc::UnboundedReceiver<Arc<[u8]>>,
    inputs: mpsc::Sender<Input>,
) {
    while let Some(bytes) = frames.recv().await {
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
        if frames.is_empty() && stream.flush().await.is_err() {
            return;
        }
        if inputs.send(Input::Sent(id, bytes.len())).await.is_err() {
            return;
        }
    }
    // The other side may be gone already.
    let _ = stream.close().await;
}

/// Runs a writer to its end. Once the session is closed it has a few seconds for its last words: a reader that
/// does not take them is not waited for.
async fn finish(
    writer: impl Future<Output = ()>,
    closing: CancellationToken,
    ended: CancellationToken,
) {
    let too_long = async {
        closing.cancelled().await;
        tokio::time::sleep(FAREWELL).await;
    };
    tokio::select! {
        () = writer => {}
        () = too_long => {}
        () = ended.cancelled() => {}
    }
    ended.cancel();
}
