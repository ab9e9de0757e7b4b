//! One frame at a time on a code stream.

use std::io;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use kanpachi_common::wire::{
    code::MAX,
    frame::{Frame, FrameReader},
};

/// A stream with what of the next frame has come.
pub(super) struct Frames<S> {
    stream: S,
    reader: FrameReader,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Frames<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            reader: FrameReader::new(MAX),
        }
    }

    /// The next frame.
    pub(super) async fn next(&mut self) -> io::Result<Frame> {
        let mut buffer = [0; 1024];
        loop {
            let frame = self.reader.next_frame();
            if let Some(frame) = frame.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))? {
                return Ok(frame);
            }
            match self.stream.read(&mut buffer).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => self.reader.extend(buffer.get(..n).unwrap_or_default()),
            }
        }
    }

    pub(super) async fn send(&mut self, frame: &Frame) -> io::Result<()> {
        self.stream.write_all(&frame.to_bytes()).await?;
        self.stream.flush().await
    }

    /// Nothing more will be said, or listened to; ends when the other end has hung up as well.
    pub(super) async fn close(mut self) {
        // Whoever has gone needs no goodbye.
        if self.stream.close().await.is_err() {
            return;
        }
        let mut rest = [0; 256];
        // More than a frame is nothing that this end waits for.
        for _ in 0..MAX.div_ceil(rest.len()) {
            if !matches!(self.stream.read(&mut rest).await, Ok(n) if n > 0) {
                return;
            }
        }
    }
}
