//! Mirrors: what bootstraps keep of the rosters, so that an old proof is refused while the coordinator is dead.
//!
//! They are also this coordinator's memory: before it signs anything it compares what it has with what they have,
//! because a database that came out of a backup does not know how old it is.

use std::{collections::BTreeSet, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{
    future::join_all,
    io::{AsyncReadExt as _, AsyncWriteExt as _},
};
use kanpachi_common::{
    NetworkId, Signed, Verified,
    org::{Directory, Manifest},
    roster::Head,
    wire::{
        frame::FrameReader,
        mirror::{self, MirrorReply, MirrorRequest, Mirrored},
    },
};
use kanpachi_transport::streams::Control;
use libp2p::{PeerId, StreamProtocol};
use thiserror::Error;
use tokio::time::MissedTickBehavior;

use super::Service;
use crate::{
    clock,
    decide::COMPARE_FOR,
    store::{IN_RECOVERY, Result as StoreResult, Seen, Store},
};

/// How long one question may take, connecting included. A coordinator that starts waits for so long when a mirror
/// is down, and its members wait with it.
const ANSWER: Duration = Duration::from_secs(3);
/// Time between two attempts at one question.
const RETRY: Duration = Duration::from_millis(250);
/// Mirrors that were not reachable hear everything again after this time.
const SWEEP: Duration = Duration::from_secs(60);
/// Time between two claims that mirrors are asked about.
const BETWEEN_CLAIMS: Duration = Duration::from_secs(2);
/// Heads are looked at this often, and renewed when they are older than [`RENEW_AFTER`].
const RENEWAL: Duration = Duration::from_secs(3600);
/// How often the operator is reminded of a recovery.
const REMINDER: Duration = Duration::from_secs(600);
/// Under a day, so that members never see a head that is a day old while the coordinator runs.
const RENEW_AFTER: u64 = 20 * 3600;

/// Why a mirror gave no answer.
#[derive(Debug, Clone, Error)]
#[error("{0}")]
pub struct MirrorError(pub String);

/// A mirror: another process by libp2p, or one in this process.
#[async_trait]
pub trait Mirror: fmt::Debug + Send + Sync {
    /// One request, one reply.
    async fn ask(&self, request: MirrorRequest) -> Result<MirrorReply, MirrorError>;

    /// Does what it keeps lie beside the database? Then both come out of one backup, and it cannot say how old that is.
    fn is_beside(&self) -> bool {
        false
    }
}

/// A bootstrap that is asked over `/kanpachi/mirror/1`. The swarm must know, or be connected to, the peer.
#[derive(Clone)]
pub struct StreamMirror {
    control: Control,
    peer: PeerId,
}

impl StreamMirror {
    /// A mirror at a peer.
    #[must_use]
    pub const fn new(control: Control, peer: PeerId) -> Self {
        Self { control, peer }
    }

    async fn exchange(&self, request: &MirrorRequest) -> Result<MirrorReply, MirrorError> {
        let failed = |e: &dyn fmt::Display| MirrorError(e.to_string());
        let mut control = self.control.clone();
        let mut stream = control
            .open_stream(self.peer, StreamProtocol::new(mirror::PROTOCOL))
            .await
            .map_err(|e| failed(&e))?;
        stream
            .write_all(&request.frame().to_bytes())
            .await
            .map_err(|e| failed(&e))?;
        stream.flush().await.map_err(|e| failed(&e))?;
        let mut reader = FrameReader::new(mirror::MAX);
        let mut chunk = vec![0; 16 * 1024];
        loop {
            let len = stream.read(&mut chunk).await.map_err(|e| failed(&e))?;
            reader.extend(&chunk[..len]);
            if let Some(frame) = reader.next_frame().map_err(|e| failed(&e))? {
                return MirrorReply::from_frame(&frame).map_err(|e| failed(&e));
            }
            if len == 0 {
                return Err(MirrorError("the mirror gave no answer".to_owned()));
            }
        }
    }
}

impl fmt::Debug for StreamMirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StreamMirror({})", self.peer)
    }
}

#[async_trait]
impl Mirror for StreamMirror {
    async fn ask(&self, request: MirrorRequest) -> Result<MirrorReply, MirrorError> {
        let patiently = async {
            loop {
                match self.exchange(&request).await {
                    Ok(reply) => return reply,
                    // Not connected yet, perhaps; the limit is on the whole.
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        };
        tokio::time::timeout(ANSWER, patiently)
            .await
            .map_err(|_| MirrorError(format!("the mirror at {} did not answer", self.peer)))
    }
}

/// What came of a comparison.
#[derive(Debug, Default)]
pub(super) struct Compared {
    /// Why nothing may be signed.
    pub(super) recovery: Option<String>,
    /// The newest directory that a mirror has.
    pub(super) directory: Option<Signed<Directory>>,
    /// Its number.
    pub(super) directory_floor: u64,
    /// Networks of which a mirror elsewhere has the roster that is stored.
    pub(super) recalled: BTreeSet<NetworkId>,
}

/// Asks every mirror about every network, before anything is signed. Mirrors that do not answer are passed over:
/// a coordinator must start while they are down.
pub(super) async fn compare(
    manifest: &Verified<Manifest>,
    store: &dyn Store,
    mirrors: &[Arc<dyn Mirror>],
) -> StoreResult<Compared> {
    let mut compared = Compared::default();
    if store.recovery().await?.is_some() {
        compared.recovery = Some(IN_RECOVERY.to_owned());
    }
    if mirrors.is_empty() {
        return Ok(compared);
    }
    let networks = store.networks().await?;
    let networks: Vec<NetworkId> = networks.iter().map(|n| n.network).collect();
    let asked = mirrors.iter().map(|m| recall(&**m, manifest, &networks));
    for (mirror, recalled) in mirrors.iter().zip(join_all(asked).await) {
        match recalled {
            Ok(found) => {
                for found in found {
                    let same = judge(&mut compared, manifest, store, &found).await?;
                    compared
                        .recalled
                        .extend(same.filter(|_| !mirror.is_beside()));
                }
            }
            Err(error) => tracing::warn!(%error, "a mirror cannot be compared with"),
        }
    }
    Ok(compared)
}

/// Everything that one mirror has of the organisation.
async fn recall(
    mirror: &dyn Mirror,
    manifest: &Verified<Manifest>,
    networks: &[NetworkId],
) -> Result<Vec<Box<Mirrored>>, MirrorError> {
    let org = manifest.org();
    // One question first: a mirror that is down is waited for once.
    let first = mirror.ask(MirrorRequest::Directory(org)).await?;
    let others = networks
        .iter()
        .map(|n| mirror.ask(MirrorRequest::Get(org, *n)));
    let mut all = Vec::new();
    for reply in std::iter::once(Ok(first)).chain(join_all(others).await) {
        match reply? {
            MirrorReply::Found(found) | MirrorReply::Older(found) => all.push(found),
            MirrorReply::Kept | MirrorReply::Unknown => {}
            MirrorReply::Refused(why) => return Err(MirrorError(why)),
        }
    }
    Ok(all)
}

/// Compares what one mirror showed. Only what carries valid signatures counts. Returns the network whose roster is the
/// stored one.
async fn judge(
    compared: &mut Compared,
    manifest: &Verified<Manifest>,
    store: &dyn Store,
    found: &Mirrored,
) -> StoreResult<Option<NetworkId>> {
    let Ok(theirs) = Manifest::verify(&found.manifest, &manifest.org()) else {
        return Ok(None);
    };
    if theirs.generation > manifest.generation {
        compared.recovery = Some(format!(
            "a mirror shows keys of generation {} and this database has generation {}: restore a newer backup, nothing is signed until then",
            theirs.generation, manifest.generation
        ));
        return Ok(None);
    }
    if let Ok(directory) = Directory::verify(&found.directory, manifest)
        && directory.seq > compared.directory_floor
    {
        compared.directory_floor = directory.seq;
        compared.directory = Some(directory.signed().clone());
    }
    if let Some(roster) = &found.roster
        && let Ok(head) = Head::verify(&roster.head, manifest)
    {
        let network = head.network;
        // A network that this database does not know is one that it has forgotten.
        let ours = store.newest_head(network).await?;
        let behind = ours.as_ref().is_none_or(|ours| {
            head.position() > ours.position()
                || (head.position() == ours.position() && head.root != ours.root)
        });
        if behind {
            let (epoch, now) = (ours.map_or(0, |ours| ours.epoch), clock::wall());
            compared.recovery = Some(format!(
                "a mirror shows epoch {} of network {} and this database has epoch {epoch}, it was restored from an old backup: until its operator ends the recovery, nobody can join and nothing can be changed",
                head.epoch,
                network.short()
            ));
            store
                .see(Seen {
                    head,
                    by: None,
                    now,
                })
                .await?;
        } else if ours.is_some_and(|ours| ours.position() == head.position()) {
            return Ok(Some(network));
        }
    }
    Ok(None)
}

impl Service {
    pub(super) fn spawn_background(&self) {
        let stop = || self.inner.stop.clone();
        let background = self.clone().background();
        let background = stop().run_until_cancelled_owned(background);
        let claims = stop().run_until_cancelled_owned(self.clone().look_into_claims());
        self.inner.tasks.spawn(background);
        self.inner.tasks.spawn(claims);
    }

    /// Renews heads, feeds mirrors.
    async fn background(self) {
        // Not before the members were heard.
        let first = tokio::time::Instant::now() + COMPARE_FOR;
        let mut renewal = tokio::time::interval_at(first, RENEWAL);
        let mut reminder = tokio::time::interval(REMINDER);
        let mut sweep = tokio::time::interval(SWEEP);
        for interval in [&mut renewal, &mut reminder, &mut sweep] {
            // A sweep that took long is not made up for at once.
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        // What no list names any more: the last heads of networks that ended, until every mirror has them.
        let mut owed = self.ended().await;
        loop {
            tokio::select! {
                _ = renewal.tick() => self.renew().await,
                _ = reminder.tick() => self.remind().await,
                _ = sweep.tick(), if !self.inner.mirrors.is_empty() => self.sweep(&mut owed).await,
                changed = self.inner.notices.changes() => self.heed(changed, &mut owed).await,
            }
        }
    }

    /// By itself: whoever makes claims without end keeps no change from the mirrors.
    async fn look_into_claims(self) {
        loop {
            let network = self.inner.notices.claim().await;
            self.look_into(network).await;
            tokio::time::sleep(BETWEEN_CLAIMS).await;
        }
    }

    async fn renew(&self) {
        if self.recovery().is_some() {
            return;
        }
        let now = clock::wall();
        let older_than = kanpachi_common::UnixTime(now.0.saturating_sub(RENEW_AFTER));
        match self.inner.store.renew_heads(older_than, now).await {
            Ok(renewed) => {
                for network in renewed {
                    let _ = self.changed(network).await;
                }
            }
            Err(error) => tracing::error!(%error, "heads could not be renewed"),
        }
    }

    /// A recovery is not to be forgotten: who waits for the operator cannot tell him.
    async fn remind(&self) {
        if self.recovery().is_none() {
            return;
        }
        match self.inner.store.recovery().await {
            Ok(Some(recovery)) => {
                tracing::error!("{IN_RECOVERY}");
                for network in &recovery.networks {
                    tracing::warn!("{network}");
                }
            }
            Ok(None) => {}
            Err(error) => tracing::error!(%error, "the recovery could not be read"),
        }
    }

    /// A node claims to hold a newer roster; only a signed head from a mirror proves that.
    async fn look_into(&self, network: NetworkId) {
        let request = MirrorRequest::Get(self.inner.org, network);
        let asked = self.inner.mirrors.iter().map(|m| m.ask(request.clone()));
        for reply in join_all(asked).await {
            if let Ok(MirrorReply::Found(theirs)) = reply {
                self.confront(&theirs).await;
            }
        }
    }

    pub(super) async fn confront(&self, theirs: &Mirrored) {
        let Ok(manifest) = Manifest::verify(&self.inner.manifest, &self.inner.org) else {
            return;
        };
        let mut compared = Compared::default();
        match judge(&mut compared, &manifest, &*self.inner.store, theirs).await {
            Ok(_) => {
                if let Some(why) = compared.recovery {
                    self.enter_recovery(why).await;
                }
            }
            Err(error) => tracing::error!(%error, "a mirror could not be compared with"),
        }
    }
}
