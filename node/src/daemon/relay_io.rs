//! The stream to a relay: opened, and opened again whenever it ends. Knows nothing of what goes over it.

use std::{
    io,
    time::{Duration, Instant},
};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, io::ReadHalf, io::WriteHalf};
use kanpachi_common::{
    NodeId,
    wire::{
        frame::FrameReader,
        relay::{self, PROTOCOL, RelayMessage, data_channel, data_frame},
    },
};
use kanpachi_transport::peer_id;
use kanpachi_transport::streams::Stream;
use libp2p::StreamProtocol;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::{
    core::NativeWriter,
    engine::{self, Command, FromRelay},
};
use crate::dataplane::{Inbound, STREAM_QUEUE, Streamed};

/// A relay is reached within this, or tried again later.
const OPEN: Duration = Duration::from_secs(8);
/// Between two tries, doubling.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(8));
/// A stream that lived for so long was a good one. So was one that a relay took, but that counts only once in this time.
const GOOD: Duration = Duration::from_secs(30);
/// Messages waiting for the stream, at the most: a channel to each of some thousand peers.
const MESSAGES: usize = 2048;
/// Data that has waited for longer is worth less than what comes behind it.
const STALE: Duration = Duration::from_millis(200);
const CHUNK: usize = 32 * 1024;
/// That data comes on the stream is told no more often than this.
const ALIVE_EVERY: Duration = Duration::from_secs(1);
/// What a relay says is heard this often, and so much at once: a channel to each of some thousand peers.
const HEARD_EVERY: Duration = Duration::from_millis(5);
const HEARD_AT_ONCE: u32 = 4096;

/// What a stream to a relay needs.
pub(super) struct Link {
    pub(super) relay: NodeId,
    pub(super) control: kanpachi_transport::streams::Control,
    pub(super) engine: engine::Handle,
    pub(super) inbound: Inbound<NativeWriter>,
}

impl Link {
    /// Keeps the stream open until the task is aborted.
    pub(super) async fn keep(mut self) {
        let mut tries = Tries::new();
        loop {
            let protocol = StreamProtocol::new(PROTOCOL);
            let opening = self.control.open_stream(peer_id(self.relay), protocol);
            let since = Instant::now();
            let mut taken = false;
            match timeout(OPEN, opening).await {
                Ok(Ok(stream)) => {
                    tracing::debug!(relay = %self.relay, "a stream to a relay");
                    match self.converse(stream, &mut taken).await {
                        Ok(why) => {
                            tracing::debug!(relay = %self.relay, why, "the stream to a relay ended");
                        }
                        Err(error) => {
                            tracing::debug!(relay = %self.relay, %error, "the stream to a relay broke");
                        }
                    }
                    self.tell(FromRelay::Closed).await;
                }
                Ok(Err(error)) => tracing::debug!(relay = %self.relay, %error, "no relay"),
                Err(_) => tracing::debug!(relay = %self.relay, "the relay does not answer"),
            }
            let pause = tries.ended(since, taken, Instant::now());
            tokio::time::sleep(pause).await;
        }
    }

    async fn tell(&mut self, news: FromRelay) {
        let command = Command::RelayStream(self.relay, news);
        self.engine.send(command).await;
    }

    /// Until the stream ends. Notes whether the relay took it: has opened a session, and not refused it later.
    async fn converse(&mut self, stream: Stream, taken: &mut bool) -> io::Result<&'static str> {
        let (messages, messages_rx) = mpsc::channel(MESSAGES);
        let (datagrams, datagrams_rx) = mpsc::channel(STREAM_QUEUE);
        // A writer that waits for the relay does not see that nobody writes any more.
        let (held, dropped) = oneshot::channel();
        self.tell(FromRelay::Open {
            messages,
            datagrams,
            held,
        })
        .await;
        let (reader, writer) = stream.split();
        tokio::select! {
            ended = write(writer, messages_rx, datagrams_rx) => ended,
            ended = self.read(reader, taken) => ended,
            _ = dropped => Ok("not wanted any more"),
        }
    }

    async fn read(
        &mut self,
        mut stream: ReadHalf<Stream>,
        taken: &mut bool,
    ) -> io::Result<&'static str> {
        let mut frames = FrameReader::new(relay::MAX);
        let mut pace = Pace::new(Instant::now());
        let mut alive = Instant::now();
        let mut chunk = vec![0; CHUNK];
        loop {
            let mut data = false;
            while let Some(mut frame) = frames.next_frame().map_err(io::Error::other)? {
                if let Some(channel) = data_channel(&frame) {
                    let (relay, inbound) = (self.relay, &mut self.inbound);
                    inbound.handle_streamed(&relay, channel, &mut frame.body);
                    data = true;
                    continue;
                }
                let message = RelayMessage::from_frame(&frame).map_err(io::Error::other)?;
                match &message {
                    RelayMessage::Opened(_) => *taken = true,
                    RelayMessage::Refused(refused) => {
                        *taken = false;
                        tracing::debug!(relay = %self.relay, reason = ?refused.reason, "refused by a relay");
                    }
                    _ => {}
                }
                // The stream waits with it: a relay that floods this node is slow, for its own part only.
                pace.keep().await;
                self.tell(FromRelay::Said(Box::new(message))).await;
            }
            if data && alive.elapsed() >= ALIVE_EVERY {
                alive = Instant::now();
                self.tell(FromRelay::Alive).await;
            }
            match stream.read(&mut chunk).await? {
                0 => return Ok("closed by the relay"),
                n => frames.extend(chunk.get(..n).unwrap_or_default()),
            }
        }
    }
}

/// How long the next try has to wait.
struct Tries {
    pause: Duration,
    /// When a stream was good last.
    good: Option<Instant>,
}

impl Tries {
    const fn new() -> Self {
        Self {
            pause: PAUSE.0,
            good: None,
        }
    }

    /// A try that began at `since` is over, and the relay took the stream or did not.
    fn ended(&mut self, since: Instant, taken: bool, now: Instant) -> Duration {
        let lived = now.saturating_duration_since(since) >= GOOD;
        if lived || taken && self.good.is_none_or(|last| last + GOOD <= now) {
            self.good = Some(now);
            self.pause = PAUSE.0;
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE.1);
        pause
    }
}

/// How fast a relay is listened to.
struct Pace {
    /// What it said is paid for until then.
    paid: Instant,
}

impl Pace {
    const fn new(now: Instant) -> Self {
        Self { paid: now }
    }

    /// Counts a message, and waits if it came too soon. Nothing else waits for a timer: even one that is due goes off only
    /// when the threads have nothing to do, which takes long while a node starts.
    async fn keep(&mut self) {
        let wait = self.wait(Instant::now());
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    /// Counts a message; how long it has to wait.
    fn wait(&mut self, now: Instant) -> Duration {
        self.paid = self.paid.max(now) + HEARD_EVERY;
        let ahead = self.paid.saturating_duration_since(now);
        ahead.saturating_sub(HEARD_EVERY * HEARD_AT_ONCE)
    }
}

/// Messages first; data only as fresh as a call or a game wants it.
async fn write(
    mut stream: WriteHalf<Stream>,
    mut messages: mpsc::Receiver<Box<RelayMessage>>,
    mut datagrams: mpsc::Receiver<Streamed>,
) -> io::Result<&'static str> {
    loop {
        tokio::select! {
            biased;
            message = messages.recv() => match message {
                Some(message) => stream.write_all(&message.frame(0).to_bytes()).await?,
                None => return Ok("not wanted any more"),
            },
            streamed = datagrams.recv() => match streamed {
                Some(Streamed { at, .. }) if at.elapsed() > STALE => {}
                Some(Streamed { channel, datagram, .. }) => {
                    stream.write_all(&data_frame(channel, datagram).to_bytes()).await?;
                }
                None => return Ok("not wanted any more"),
            },
        }
        if messages.is_empty() && datagrams.is_empty() {
            stream.flush().await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    /// A relay that starts is not there at the first tries, and may end what it took once it is up.
    #[test]
    fn a_relay_that_took_a_stream_is_tried_again_soon_and_not_for_ever() {
        let mut now = Instant::now();
        let mut tries = Tries::new();
        let mut ended = |taken: bool, after: Duration| {
            let since = now;
            now += after;
            let pause = tries.ended(since, taken, now);
            now += pause;
            pause
        };
        let secs = Duration::from_secs;
        assert_eq!(ended(false, secs(0)), PAUSE.0);
        assert_eq!(ended(false, secs(0)), PAUSE.0 * 2);
        assert_eq!(ended(true, secs(1)), PAUSE.0);
        for _ in 0..4 {
            ended(true, secs(0));
        }
        assert_eq!(ended(true, secs(0)), PAUSE.1, "each is ended at once");
        assert_eq!(ended(false, GOOD), PAUSE.0);
    }

    #[test]
    fn no_timer_is_waited_for_until_then() {
        let mut pace = Pace::new(Instant::now());
        // There is no runtime here, so asking for a timer would panic.
        for _ in 0..HEARD_AT_ONCE {
            assert_eq!(pace.keep().now_or_never(), Some(()));
        }
    }

    #[test]
    fn a_relay_is_heard_at_once_until_it_floods() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for n in 0..HEARD_AT_ONCE {
            assert_eq!(pace.wait(now), Duration::ZERO, "{n}");
        }
        let start = now;
        for _ in 0..1000 {
            now += pace.wait(now);
        }
        assert_eq!(now - start, HEARD_EVERY * 1000);
    }
}
