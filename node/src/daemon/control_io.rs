//! Frames in and out of one control stream. Knows nothing of what they mean.

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use kanpachi_common::{
    NodeId,
    wire::frame::{Frame, FrameReader, MAX_REPLY},
};
use kanpachi_proto::login::Attempt;
use libp2p::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::swarm::Event;

/// Frames waiting to be written, at the most. A coordinator that does not read this much is not there.
const QUEUE: usize = 64;

/// What happens on a control stream.
#[derive(Debug)]
pub(super) enum Line {
    /// It is open, to this server. Frames go into the sender.
    Opened {
        server: NodeId,
        sender: mpsc::Sender<Frame>,
    },
    /// A frame came.
    Frame(Frame),
    /// What came is no frame; nothing more follows.
    Garbage(String),
    /// It could not be opened, or it ended.
    Failed(String),
}

/// Carries frames until the stream ends or `stop` says so.
pub(super) async fn run(
    attempt: Attempt,
    server: NodeId,
    stream: Stream,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let (sender, outgoing) = mpsc::channel(QUEUE);
    let tell = async |line| events.send(Event::Line { attempt, line }).await.is_ok();
    if !tell(Line::Opened { server, sender }).await {
        return;
    }
    let (reader, writer) = stream.split();
    let last = tokio::select! {
        () = stop.cancelled() => return,
        line = read(reader, attempt, &events) => line,
        line = write(writer, outgoing) => line,
    };
    tell(last).await;
}

async fn read(
    mut reader: impl futures::AsyncRead + Unpin,
    attempt: Attempt,
    events: &mpsc::Sender<Event>,
) -> Line {
    let mut frames = FrameReader::new(MAX_REPLY);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match reader.read(&mut buffer).await {
            Ok(0) => return Line::Failed("the connection was closed".into()),
            Ok(n) => frames.extend(buffer.get(..n).unwrap_or_default()),
            Err(error) => return Line::Failed(error.to_string()),
        }
        loop {
            match frames.next_frame() {
                Ok(Some(frame)) => {
                    if events
                        .send(Event::Line {
                            attempt,
                            line: Line::Frame(frame),
                        })
                        .await
                        .is_err()
                    {
                        return Line::Failed("the daemon is stopping".into());
                    }
                }
                Ok(None) => break,
                Err(error) => return Line::Garbage(error.to_string()),
            }
        }
    }
}

async fn write(
    mut writer: impl futures::AsyncWrite + Unpin,
    mut outgoing: mpsc::Receiver<Frame>,
) -> Line {
    while let Some(frame) = outgoing.recv().await {
        let send = async {
            writer.write_all(&frame.to_bytes()).await?;
            writer.flush().await
        };
        if let Err(error) = send.await {
            return Line::Failed(error.to_string());
        }
    }
    let _ = writer.close().await;
    Line::Failed("closed here".into())
}
