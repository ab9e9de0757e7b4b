//! The service: streams in front of the core, the store behind it, and what the operator's side may ask for.
//!
//! [`Service`] knows nothing of transports. It takes streams of `/kanpachi/control/1` whose other end a swarm has
//! authenticated, from its own ([`crate::server`]) or from that of a program that hosts it.

mod actor;
mod complaints;
mod feeding;
mod local;
mod mirrors;
mod notices;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    fmt,
    net::IpAddr,
    sync::{Arc, RwLock},
};

use futures::StreamExt as _;
use kanpachi_common::{
    NetworkId, NodeId, OrgId, Signed,
    org::{Address, Directory, Manifest, Server},
    wire::control::PROTOCOL,
};
use kanpachi_transport::streams::{Control, IncomingStreams};
use libp2p::{Multiaddr, PeerId, StreamProtocol, multiaddr::Protocol};
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    actor::{Actor, INPUTS, Input},
    complaints::Complaints,
    notices::Notices,
};
use crate::{
    clock,
    decide::{self, Core, Remote},
    org::Organisation,
    password::Argon2id,
    store::{Store, StoreError},
};

pub use actor::Carrier;
pub use local::InviteOptions;
pub use mirrors::{Mirror, MirrorError, StreamMirror};

/// Where the remote end of a peer's connection is, as the swarm sees it.
pub type RemoteLookup = Arc<dyn Fn(&PeerId) -> Option<Multiaddr> + Send + Sync>;

/// Addresses in an invite, at the most.
const IN_INVITE: usize = kanpachi_common::invite::MAX_INVITE_ADDRESSES;

/// The control streams of a swarm. From here on they wait for a [`Service`]: a node that comes while it starts is not told that
/// there is no coordinator.
///
/// # Errors
/// [`ServiceError::Protocol`] when somebody else takes them.
pub fn incoming(control: &mut Control) -> Result<IncomingStreams, ServiceError> {
    let streams = control.accept(StreamProtocol::new(PROTOCOL));
    streams.map_err(|_| ServiceError::Protocol)
}

/// Why the service does not start, or does not do what it was asked.
#[derive(Debug, Error)]
pub enum ServiceError {
    /// The store, or a decision that it made.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system has no random numbers.
    #[error("the system gives no random numbers: {0}")]
    Random(#[from] getrandom::Error),
    /// Somebody else takes the control streams of this swarm.
    #[error("the control protocol is served already")]
    Protocol,
    /// The members know more than this coordinator.
    #[error("{0}")]
    Recovery(String),
    /// What was asked for makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The service is stopped.
    #[error("the coordinator has stopped")]
    Stopped,
}

/// Where this coordinator and its bootstraps are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Servers {
    /// Of this coordinator, best first.
    pub addresses: Vec<Address>,
    /// Bootstraps of the organisation.
    pub bootstraps: Vec<Server>,
}

/// What a service is made of.
pub struct Setup {
    /// The state.
    pub store: Arc<dyn Store>,
    /// Where to be found.
    pub servers: Servers,
    /// Mirrors: compared with before anything is signed, told about every change.
    pub mirrors: Vec<Arc<dyn Mirror>>,
    /// Where the other end of a peer's connection is.
    pub remote: RemoteLookup,
}

impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

/// A running service. Clones are the same service; it stops with [`Service::stop`].
#[derive(Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

struct Inner {
    org: OrgId,
    identity: NodeId,
    manifest: Signed<Manifest>,
    store: Arc<dyn Store>,
    inputs: mpsc::Sender<Input>,
    notices: Arc<Notices>,
    published: RwLock<Published>,
    recovery: watch::Sender<Option<String>>,
    mirrors: Vec<Arc<dyn Mirror>>,
    /// Highest directory that a mirror has shown.
    directory_floor: u64,
    remote: RemoteLookup,
    online: watch::Receiver<usize>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// What the organisation's servers are known by at the moment.
#[derive(Clone, Debug)]
struct Published {
    directory: Signed<Directory>,
    addresses: Vec<Address>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service")
            .field("org", &self.inner.org)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Compares with the mirrors, publishes the directory, starts the core. Streams come by [`Self::accept`] or
    /// [`Self::attach`]. The swarm must be running already when there are mirrors on it.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn start(organisation: &Organisation, setup: Setup) -> Result<Self, ServiceError> {
        let Setup {
            store,
            servers,
            mirrors,
            remote,
        } = setup;
        let manifest = organisation.signer.manifest().signed().clone();
        let mut compared =
            mirrors::compare(organisation.signer.manifest(), &*store, &mirrors).await?;
        let identity = organisation.identity.node_id();
        let coordinators = vec![server(identity, &servers)];
        let directory = match compared.directory.take() {
            // Nothing is signed: what the members have already is good enough.
            Some(directory) if compared.recovery.is_some() => directory,
            _ => {
                let (floor, now) = (compared.directory_floor, clock::wall());
                let bootstraps = servers.bootstraps;
                store
                    .publish_directory(coordinators, bootstraps, floor, now)
                    .await?
            }
        };
        let addresses: Vec<_> = servers.addresses.into_iter().take(IN_INVITE).collect();
        let mut seed = zeroize::Zeroizing::new([0; 32]);
        getrandom::fill(&mut *seed)?;
        let config = decide::Config {
            manifest: manifest.clone(),
            directory: directory.clone(),
            org: organisation.org(),
            pool: organisation.signer.pool(),
            addresses: addresses.clone(),
        };
        let mut core = Core::new(config, *seed, clock::now());
        judge_start(&mut core, &compared, &*store).await?;
        let recovery = watch::Sender::new(compared.recovery);
        let (inputs, input_queue) = mpsc::channel(INPUTS);
        let notices = Arc::new(Notices::new());
        let (online_sender, online) = watch::channel(0);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let actor = Actor {
            core,
            store: Arc::clone(&store),
            passwords: Arc::new(Argon2id::new()?),
            inputs: input_queue,
            sender: inputs.downgrade(),
            notices: Arc::clone(&notices),
            online: online_sender,
            recovery: recovery.clone(),
            claims: Complaints::default(),
            guesses: Complaints::default(),
            failures: Complaints::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(actor.run());
        let service = Self {
            inner: Arc::new(Inner {
                org: organisation.org(),
                identity,
                manifest,
                store,
                inputs,
                notices,
                published: RwLock::new(Published {
                    directory,
                    addresses,
                }),
                recovery,
                mirrors,
                directory_floor: compared.directory_floor,
                remote,
                online,
                tasks,
                stop,
            }),
        };
        service.spawn_background();
        Ok(service)
    }

    /// Serves the control streams of a swarm, from [`incoming`].
    pub fn accept(&self, streams: IncomingStreams) {
        let service = self.clone();
        let stop = self.inner.stop.clone();
        self.inner.tasks.spawn(async move {
            stop.run_until_cancelled_owned(service.accept_all(streams))
                .await;
        });
    }

    async fn accept_all(self, mut streams: IncomingStreams) {
        while let Some((peer, stream)) = streams.next().await {
            // A node is an Ed25519 key; whoever has another kind is none.
            if let Some(node) = kanpachi_transport::node_id(&peer) {
                let remote = (self.inner.remote)(&peer);
                self.attach(node, remote_of(remote.as_ref()), stream).await;
            }
        }
    }

    /// Takes one stream whose other end is this node, as the caller has made sure.
    pub async fn attach(&self, node: NodeId, remote: Remote, stream: impl Carrier) {
        let open = Input::Open(node, remote, Box::new(stream));
        // After `stop` nobody is taken in.
        let _ = self.inner.inputs.send(open).await;
    }

    /// The organisation.
    #[must_use]
    pub fn org(&self) -> OrgId {
        self.inner.org
    }

    /// The libp2p identity of this coordinator.
    #[must_use]
    pub fn identity(&self) -> NodeId {
        self.inner.identity
    }

    /// Who signs.
    #[must_use]
    pub fn manifest(&self) -> &Signed<Manifest> {
        &self.inner.manifest
    }

    /// How many nodes are logged in.
    #[must_use]
    pub fn online(&self) -> usize {
        *self.inner.online.borrow()
    }

    /// Why nothing is signed, when that is so.
    #[must_use]
    pub fn recovery(&self) -> Option<String> {
        self.inner.recovery.borrow().clone()
    }

    /// Ends all sessions and tasks; what was acknowledged is on the disk.
    pub async fn stop(&self) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    async fn input(&self, input: Input) -> Result<(), ServiceError> {
        self.inner
            .inputs
            .send(input)
            .await
            .map_err(|_| ServiceError::Stopped)
    }

    fn published(&self) -> Published {
        // Nothing panics while it holds the lock; should it have, the value is whole nevertheless.
        self.inner
            .published
            .read()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .clone()
    }

    async fn changed(&self, network: NetworkId) -> Result<(), ServiceError> {
        self.input(Input::Changed(network)).await
    }

    async fn enter_recovery(&self, why: String) {
        tracing::error!("{why}");
        self.inner.recovery.send_replace(Some(why.clone()));
        let _ = self.input(Input::Recovery(why)).await;
    }
}

/// What the comparison with the mirrors means for the core.
async fn judge_start(
    core: &mut Core,
    compared: &mirrors::Compared,
    store: &dyn Store,
) -> Result<(), ServiceError> {
    match &compared.recovery {
        Some(why) => {
            tracing::error!("{why}");
            core.handle_recovery(why.clone());
        }
        None => {
            // Of these nobody was there to say how old the store is, and somebody may know more.
            let networks = store.networks().await?.into_iter();
            let peopled = networks.filter(|network| network.members > 0);
            let unsure: BTreeSet<NetworkId> = peopled
                .map(|network| network.network)
                .filter(|network| !compared.recalled.contains(network))
                .collect();
            if !unsure.is_empty() {
                core.handle_unsure(unsure, clock::now());
            }
        }
    }
    Ok(())
}

fn server(identity: NodeId, servers: &Servers) -> Server {
    let mut addresses = servers.addresses.clone();
    addresses.truncate(kanpachi_common::org::MAX_ADDRESSES);
    Server {
        id: identity,
        addresses,
    }
}

/// What a multiaddress says of the other end: its IP address, and its UDP address if it came by QUIC. Behind a
/// relay it says nothing.
#[must_use]
pub fn remote_of(addr: Option<&Multiaddr>) -> Remote {
    let Some(addr) = addr else {
        return Remote::default();
    };
    if addr.iter().any(|p| p == Protocol::P2pCircuit) {
        return Remote::default();
    }
    let mut parts = addr.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::from(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::from(ip).to_canonical(),
        _ => return Remote::default(),
    };
    let udp = match parts.next() {
        Some(Protocol::Udp(port)) => Some((ip, port).into()),
        _ => None,
    };
    Remote { ip: Some(ip), udp }
}
