//! Bootstraps and records: each of the directory's is given this node's records and is asked for those of others,
//! however far it is from their keys. Whoever holds the places next to a key can withhold what lies there, and identities
//! that lie there cost a member no more than an invite that has uses left.

use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use kanpachi_common::{Hash, wire::kademlia};
use kanpachi_proto::records::Query;
use libp2p::{
    PeerId, StreamProtocol,
    swarm::dial_opts::{DialOpts, PeerCondition},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{Event, Later, RecordEvent, Task};

/// A bootstrap that has not answered within this, connecting included, is not there.
const PATIENCE: Duration = Duration::from_secs(8);
/// Bytes read at once.
const CHUNK: usize = 4096;

impl Task {
    /// The bootstraps, all of them connected or being dialled; none while a drill is on. The routing table may have
    /// no place for them, so where they are is said here.
    pub(super) fn reach_bootstraps(&mut self) -> Vec<PeerId> {
        if self.cut_off {
            return Vec::new();
        }
        let local = *self.swarm.local_peer_id();
        let mut reached = Vec::new();
        for (peer, addrs) in &self.bootstraps {
            if *peer == local {
                continue;
            }
            reached.push(*peer);
            if !self.swarm.is_connected(peer) {
                let options = DialOpts::peer_id(*peer)
                    .addresses(addrs.clone())
                    .condition(PeerCondition::DisconnectedAndNotDialing);
                if let Err(error) = self.swarm.dial(options.build()) {
                    tracing::trace!(%peer, %error, "not dialled");
                }
            }
        }
        reached
    }

    /// Asks all bootstraps for a record. What they have is told as it comes; the end comes as [`Later::Asked`], unless
    /// nobody is to be asked.
    pub(super) fn ask_bootstraps(&mut self, query: Query, key: &Hash) -> Option<AbortHandle> {
        let bootstraps = self.reach_bootstraps();
        let protocol = self.kad().protocol_names().first().cloned()?;
        if bootstraps.is_empty() {
            return None;
        }
        let (control, events) = (self.control.clone(), self.events.clone());
        let (key, ended) = (*key, self.timers.0.clone());
        let work = async move {
            let mut asked = JoinSet::new();
            for peer in bootstraps {
                let question = ask(control.clone(), peer, protocol.clone(), key);
                asked.spawn(timeout(PATIENCE, question));
            }
            while let Some(answer) = asked.join_next().await {
                if let Ok(Ok(Ok(Some(value)))) = answer {
                    tell(&events, query, value).await;
                }
            }
            // The task that it is told to ends with the daemon.
            let _ = ended.send(Later::Asked(query)).await;
        };
        Some(tokio::spawn(work).abort_handle())
    }
}

async fn tell(events: &mpsc::Sender<Event>, query: Query, value: Vec<u8>) {
    let event = Event::Record(RecordEvent::Value { query, value });
    let _ = events.send(event).await;
}

/// Asks one server what it stores under a key.
async fn ask(
    mut control: kanpachi_transport::streams::Control,
    peer: PeerId,
    protocol: StreamProtocol,
    key: Hash,
) -> anyhow::Result<Option<Vec<u8>>> {
    let mut stream = control.open_stream(peer, protocol).await?;
    stream.write_all(&kademlia::question(&key.0)).await?;
    stream.close().await?;
    let (mut answer, mut chunk) = (Vec::new(), [0; CHUNK]);
    loop {
        if let Some((length, begin)) = kademlia::length(&answer)?
            && let Some(message) = answer.get(begin..begin + length)
        {
            return Ok(kademlia::value(message)?.map(<[u8]>::to_vec));
        }
        let read = stream.read(&mut chunk).await?;
        anyhow::ensure!(read > 0, "the answer is cut off");
        answer.extend(chunk.get(..read).unwrap_or_default());
    }
}
