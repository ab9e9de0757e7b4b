//! The mirror: the newest head and public halves of every network, for those who cannot reach a coordinator, and
//! for this bootstrap to judge by.
//!
//! [`state`] decides and knows nothing of files or streams, [`file`] keeps what it holds, [`service`] is the stream
//! protocol. What was accepted is on disk before anybody is told so.

mod file;
pub(crate) mod service;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
};

use kanpachi_common::{
    NetworkId, NodeId, OrgId, Pool, Prefix, UnixTime, Verified,
    addr::ipv6_prefix,
    org::{Directory, Manifest},
    roster::Head,
    wire::mirror::{MirrorReply, MirrorRequest, Mirrored},
};
use tokio::sync::{Mutex, watch};

use self::state::State;
use crate::{StartError, relay::Judge};

/// The mirror of one organisation. Cloning gives another handle to the same one.
#[derive(Clone, Debug)]
pub struct Mirror {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: RwLock<State>,
    path: Option<PathBuf>,
    /// One change at a time, from the decision to the disk.
    changing: Mutex<()>,
    /// Counts changes.
    changed: watch::Sender<u64>,
}

impl Mirror {
    /// A mirror that knows nothing yet and keeps nothing on disk.
    #[must_use]
    pub fn in_memory(org: OrgId) -> Self {
        Self::new(State::new(org), None)
    }

    fn new(state: State, path: Option<PathBuf>) -> Self {
        Self {
            inner: Arc::new(Inner {
                state: RwLock::new(state),
                path,
                changing: Mutex::new(()),
                changed: watch::channel(0).0,
            }),
        }
    }

    /// Opens the mirror and reads what was kept in the file. Everything in it is verified again; a file that is
    /// damaged is put aside, and the coordinator brings its contents back.
    ///
    /// # Errors
    /// [`StartError::File`]
    pub(crate) fn open(org: OrgId, path: Option<PathBuf>) -> Result<Self, StartError> {
        let mut state = State::new(org);
        if let Some(path) = &path {
            file::load(path, &mut state)?;
        }
        Ok(Self::new(state, path))
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        // A state is replaced as a whole, so that no panic leaves half of one.
        let state = self.inner.state.read();
        state.unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request, as from the stream.
    pub async fn answer(&self, request: MirrorRequest) -> MirrorReply {
        match request {
            MirrorRequest::Put(item) => self.put(*item).await,
            MirrorRequest::Get(org, network) => self.get(&org, &network),
            MirrorRequest::Directory(org) => self.state().directory(&org),
        }
    }

    /// Takes something in, if its signatures are right and it is newer than what is kept. Verifying and writing
    /// happen on a thread where they may take their time.
    pub async fn put(&self, item: Mirrored) -> MirrorReply {
        let guard = self.inner.changing.lock().await;
        let mirror = self.clone();
        let changed = tokio::task::spawn_blocking(move || mirror.change(&item)).await;
        drop(guard);
        changed.unwrap_or_else(|e| {
            tracing::error!(error = %e, "the mirror could not take in a change");
            MirrorReply::Refused("this bootstrap has an internal error; see its log".to_owned())
        })
    }

    fn change(&self, item: &Mirrored) -> MirrorReply {
        let mut next = self.state().clone();
        let verdict = next.put(item);
        if let Some(alarm) = &verdict.alarm {
            tracing::warn!("{alarm}");
        }
        if !verdict.changed {
            return verdict.reply;
        }
        if let Some(path) = &self.inner.path
            && let Err(e) = file::save(path, &next)
        {
            tracing::error!(error = %e, path = %path.display(), "the mirror cannot be written");
            return MirrorReply::Refused("this bootstrap cannot write to its disk".to_owned());
        }
        let state = self.inner.state.write();
        *state.unwrap_or_else(PoisonError::into_inner) = next;
        self.inner.changed.send_modify(|n| *n += 1);
        verdict.reply
    }

    /// What is kept of a network.
    #[must_use]
    pub fn get(&self, org: &OrgId, network: &NetworkId) -> MirrorReply {
        self.state().get(org, network)
    }

    /// The organisation's servers, once somebody has brought them.
    #[must_use]
    pub fn directory(&self) -> Option<Directory> {
        self.state().servers().cloned()
    }

    /// Is this node a member of some network or one of the organisation's servers? While no roster is known at
    /// all, nobody can be told from a member, and everybody counts as one.
    #[must_use]
    pub fn admits(&self, node: &NodeId) -> bool {
        self.state().admits(node)
    }

    /// Is this node one of the organisation's servers?
    pub(crate) fn is_server(&self, node: &NodeId) -> bool {
        self.state().is_server(node)
    }

    /// Ranges of virtual addresses, which are never addresses of the underlay.
    pub(crate) fn overlay(&self) -> [Prefix; 2] {
        let state = self.state();
        let pool = state.servers().map_or_else(Pool::default, |d| d.pool);
        [ipv6_prefix(state.org()), pool.prefix()]
    }

    /// Tells of changes.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.inner.changed.subscribe()
    }
}

impl Judge for Mirror {
    fn org(&self) -> OrgId {
        *self.state().org()
    }

    fn manifest(&self) -> Option<Verified<Manifest>> {
        self.state().manifest().cloned()
    }

    fn networks_of(&self, node: &NodeId) -> BTreeSet<NetworkId> {
        self.state().networks_of(node)
    }

    fn newest(&self, network: &NetworkId) -> Option<Verified<Head>> {
        self.state().head(network).cloned()
    }

    fn forgotten_until(&self) -> UnixTime {
        self.state().forgotten_until()
    }
}
