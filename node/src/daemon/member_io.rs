//! The streams between members: one question, its answer, and no more. Knows nothing of what they mean.

use std::{collections::HashMap, io, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, StreamExt as _};
use kanpachi_common::{
    NodeId,
    wire::{
        frame::{FrameReader, MAX_REPLY},
        member::{Ask, MAX_ASK, MemberMessage, PROTOCOL},
    },
};
use kanpachi_transport::streams::Stream;
use kanpachi_transport::{node_id, peer_id};
use libp2p::StreamProtocol;
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::timeout,
};

use super::{behaviour::Members, swarm::Event};

/// Questions of others that are answered at once, of them those of nodes that are no members as far as this one knows, and
/// those of one node. A name costs a stranger nothing; a newcomer who brings
/// its proof is one for the moment.
const MAX_ASKED: usize = 32;
const MAX_ASKED_BY_STRANGERS: usize = 8;
const MAX_ASKED_BY_ONE: usize = 2;
/// A member is reached within this, or is not there.
pub(super) const OPEN: Duration = Duration::from_secs(5);
/// Question and answer take no longer than this: rosters have up to 17 pages of 256 KiB.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two pieces of an answer.
const PAUSE: Duration = Duration::from_secs(6);
/// Longest answer in bytes.
const MAX_ANSWER: usize = 32 * 1024 * 1024;
const CHUNK: usize = 16 * 1024;

/// Answers others until the swarm is gone.
pub(super) async fn serve(
    mut control: kanpachi_transport::streams::Control,
    events: mpsc::Sender<Event>,
    members: Members,
) {
    let Ok(mut incoming) = control.accept(StreamProtocol::new(PROTOCOL)) else {
        tracing::error!("the members' protocol is registered twice");
        return;
    };
    let mut slots = Slots::default();
    let mut conversations = JoinSet::new();
    let mut asking = HashMap::new();
    loop {
        let (peer, stream) = tokio::select! {
            ended = conversations.join_next_with_id(), if !conversations.is_empty() => {
                let id = match &ended {
                    Some(Ok((id, ()))) => Some(*id),
                    Some(Err(error)) => Some(error.id()),
                    None => None,
                };
                if let Some(node) = id.and_then(|id| asking.remove(&id)) {
                    slots.give_back(&node);
                }
                continue;
            }
            next = incoming.next() => match next {
                Some(next) => next,
                None => return,
            }
        };
        let Some(node) = node_id(&peer) else { continue };
        if !slots.take(node, members.load().contains(&peer)) {
            tracing::debug!(%node, "too many questions at once");
            continue;
        }
        let events = events.clone();
        let conversation = conversations.spawn(async move {
            match timeout(LIMIT, answer(node, stream, &events)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%node, %error, "a question"),
                Err(_) => tracing::debug!(%node, "a question took too long"),
            }
        });
        asking.insert(conversation.id(), node);
    }
}

/// Who is being answered.
#[derive(Debug, Default)]
struct Slots {
    /// How many questions of each node, and whether it was a member when it asked the first of them.
    busy: HashMap<NodeId, (usize, bool)>,
}

impl Slots {
    /// Whether another question of this node is answered; if so, until it is given back.
    fn take(&mut self, node: NodeId, member: bool) -> bool {
        let count = |of: fn(bool) -> bool| -> usize {
            let busy = self.busy.values().filter(|(_, member)| of(*member));
            busy.map(|(count, _)| count).sum()
        };
        let room = count(|_| true) < MAX_ASKED
            && (member || count(|member| !member) < MAX_ASKED_BY_STRANGERS);
        let (count, _) = self.busy.get(&node).copied().unwrap_or((0, member));
        if !room || count >= MAX_ASKED_BY_ONE {
            return false;
        }
        self.busy.entry(node).or_insert((0, member)).0 += 1;
        true
    }

    fn give_back(&mut self, node: &NodeId) {
        if let Some((count, _)) = self.busy.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                self.busy.remove(node);
            }
        }
    }
}

async fn answer(node: NodeId, mut stream: Stream, events: &mpsc::Sender<Event>) -> io::Result<()> {
    let mut reader = Reader::new(MAX_ASK);
    let Some(MemberMessage::Ask(ask)) = reader.next(&mut stream).await? else {
        return Err(io::Error::other("it does not begin with a question"));
    };
    let (reply, answers) = oneshot::channel();
    let asked = Event::Asked { node, ask, reply };
    if events.send(asked).await.is_err() {
        return Ok(());
    }
    for message in answers.await.unwrap_or_default() {
        stream.write_all(&message.frame(0).to_bytes()).await?;
    }
    stream.close().await
}

/// Asks a member, and tells what it answers. The swarm dials it where that is needed.
pub(super) async fn ask(
    node: NodeId,
    ask: Box<Ask>,
    mut control: kanpachi_transport::streams::Control,
    events: mpsc::Sender<Event>,
) {
    let conversation = converse(node, ask, &mut control, &events);
    let answered = match timeout(LIMIT, conversation).await {
        Ok(Ok(())) => true,
        Ok(Err(error)) => {
            tracing::debug!(%node, %error, "a member was not asked");
            false
        }
        Err(_) => false,
    };
    let _ = events.send(Event::AskEnded { node, answered }).await;
}

async fn converse(
    node: NodeId,
    ask: Box<Ask>,
    control: &mut kanpachi_transport::streams::Control,
    events: &mpsc::Sender<Event>,
) -> io::Result<()> {
    let opening = control.open_stream(peer_id(node), StreamProtocol::new(PROTOCOL));
    let mut stream = timeout(OPEN, opening)
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
        .map_err(io::Error::other)?;
    let question = MemberMessage::Ask(ask).frame(0).to_bytes();
    stream.write_all(&question).await?;
    stream.flush().await?;
    let mut reader = Reader::new(MAX_REPLY);
    loop {
        let next = timeout(PAUSE, reader.next(&mut stream));
        let message = next.await.map_err(|_| io::ErrorKind::TimedOut)??;
        match message {
            None => return Err(io::ErrorKind::UnexpectedEof.into()),
            Some(MemberMessage::Done(_)) => return Ok(()),
            Some(message) => {
                let answer = Event::Answer { node, message };
                if events.send(answer).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Messages out of a stream, so many bytes at the most.
struct Reader {
    frames: FrameReader,
    left: usize,
}

impl Reader {
    const fn new(max: usize) -> Self {
        Self {
            frames: FrameReader::new(max),
            left: MAX_ANSWER,
        }
    }

    async fn next(&mut self, stream: &mut Stream) -> io::Result<Option<MemberMessage>> {
        let mut chunk = [0; CHUNK];
        loop {
            let frame = self.frames.next_frame().map_err(io::Error::other)?;
            if let Some(frame) = frame {
                return MemberMessage::from_frame(&frame)
                    .map(Some)
                    .map_err(io::Error::other);
            }
            let read = stream.read(&mut chunk).await?;
            self.left = self.left.saturating_sub(read);
            if read == 0 || self.left == 0 {
                return Ok(None);
            }
            self.frames.extend(chunk.get(..read).unwrap_or_default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId([n; 32])
    }

    #[test]
    fn strangers_leave_the_most_places_to_members() {
        let mut slots = Slots::default();
        let strangers = (0..100).filter(|n| slots.take(node(*n), false));
        assert_eq!(strangers.count(), MAX_ASKED_BY_STRANGERS);
        let members = (100..200).filter(|n| slots.take(node(*n), true));
        assert_eq!(members.count(), MAX_ASKED - MAX_ASKED_BY_STRANGERS);
        // One goes, and the place is for whoever comes.
        slots.give_back(&node(0));
        assert!(slots.take(node(200), true) && !slots.take(node(201), true));
    }

    #[test]
    fn nobody_has_more_than_two_places() {
        let mut slots = Slots::default();
        for _ in 0..2 {
            assert!(slots.take(node(1), true) && slots.take(node(1), true));
            assert!(!slots.take(node(1), true));
            slots.give_back(&node(1));
            slots.give_back(&node(1));
        }
        assert!(slots.busy.is_empty());
    }
}
