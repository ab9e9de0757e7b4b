//! The streams between members, spoken by one without manners: it asks what it likes, and answers what it likes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::NodeId;
use kanpachi_common::wire::control::Nonce;
use kanpachi_common::wire::frame::{FrameReader, MAX_REPLY};
use kanpachi_common::wire::member::{Ask, MemberMessage, PROTOCOL};
use kanpachi_transport::peer_id;
use kanpachi_transport::streams::Stream;
use libp2p::StreamProtocol;
use tokio::time::timeout;

/// For a question and its answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a member and returns what it answers, without the end. Somebody must drive the swarm meanwhile.
///
/// # Errors
/// When it does not answer in time or to the end.
pub async fn ask_member(
    mut control: kanpachi_transport::streams::Control,
    node: &NodeId,
    ask: Ask,
) -> Result<Vec<MemberMessage>> {
    let conversation = async {
        let opening = control.open_stream(peer_id(*node), StreamProtocol::new(PROTOCOL));
        let mut stream = opening
            .await
            .map_err(|error| anyhow!("no stream: {error}"))?;
        let ask = MemberMessage::Ask(Box::new(ask)).frame(0).to_bytes();
        stream.write_all(&ask).await?;
        stream.flush().await?;
        let (mut reader, mut answers) = (FrameReader::new(MAX_REPLY), Vec::new());
        loop {
            match next(&mut stream, &mut reader).await? {
                MemberMessage::Done(_) => return Ok(answers),
                message => answers.push(message),
            }
        }
    };
    timeout(PATIENCE, conversation)
        .await
        .context("it does not answer")?
}

/// Answers every question with these messages for as long as the swarm is there; counts the questions.
pub fn answer_members(
    mut control: kanpachi_transport::streams::Control,
    with: Vec<MemberMessage>,
) -> Result<Arc<AtomicUsize>> {
    let mut incoming = control.accept(StreamProtocol::new(PROTOCOL))?;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some((_, mut stream)) = incoming.next().await {
            let (with, count) = (with.clone(), Arc::clone(&count));
            tokio::spawn(async move {
                let mut reader = FrameReader::new(MAX_REPLY);
                next(&mut stream, &mut reader).await?;
                let done = MemberMessage::Done(Nonce(0));
                for message in with.into_iter().chain([done]) {
                    stream.write_all(&message.frame(0).to_bytes()).await?;
                }
                stream.close().await?;
                count.fetch_add(1, Ordering::Relaxed);
                anyhow::Ok(())
            });
        }
    });
    Ok(asked)
}

async fn next(stream: &mut Stream, reader: &mut FrameReader) -> Result<MemberMessage> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if let Some(frame) = reader.next_frame()? {
            return Ok(MemberMessage::from_frame(&frame)?);
        }
        let length = stream.read(&mut buffer).await?;
        ensure!(length > 0, "the member closed the stream");
        reader.extend(&buffer[..length]);
    }
}
