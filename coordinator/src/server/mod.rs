//! The coordinator as a program of its own: database, swarm and service put together.

mod error;
mod swarm;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kanpachi_common::{
    Pool,
    org::{Address, Server},
};
use kanpachi_transport::{keypair_from_seed, peer_id};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::swarm::Loop;
use crate::{
    addresses::{self, Advertise},
    clock,
    org::{Organisation, RecoveryPhrase},
    service::{self, Mirror, Servers, Service, Setup, StreamMirror},
    store::{NetworkSummary, sqlite::Database},
};

pub use error::StartError;

/// UDP and TCP port unless told otherwise, shared with bootstrap and relay.
pub const DEFAULT_PORT: u16 = 12_975;
/// How long peers may take to be told goodbye.
const GOODBYE: Duration = Duration::from_millis(700);

/// Settings of a coordinator.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where its database is.
    pub state_dir: PathBuf,
    /// UDP port, 0 for a free one.
    pub listen: u16,
    /// TCP ports, none for no TCP.
    pub listen_tcp: Vec<u16>,
    /// Where the world reaches it, besides the addresses of this machine.
    pub advertise: Vec<Advertise>,
    /// The IPv4 pool of a new organisation.
    pub pool: Option<Pool>,
    /// The network to begin with.
    pub network: String,
    /// Bootstraps of the organisation.
    pub bootstraps: Vec<Server>,
}

impl Config {
    /// The usual settings: port 12975 on UDP and TCP, a network called "lan", no bootstrap.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self {
            state_dir,
            listen: DEFAULT_PORT,
            listen_tcp: vec![DEFAULT_PORT],
            advertise: Vec::new(),
            pool: None,
            network: "lan".to_owned(),
            bootstraps: Vec::new(),
        }
    }
}

/// A running coordinator. Dropping it ends it without a goodbye to its peers: see [`Self::shutdown`].
#[derive(Debug)]
pub struct Coordinator {
    /// Networks, invites, addresses.
    pub service: Service,
    /// The network of the configuration, created when there was none.
    pub network: NetworkSummary,
    /// UDP port that it listens on.
    pub port: u16,
    stop: CancellationToken,
    swarm: JoinHandle<Result<(), String>>,
}

impl Coordinator {
    /// Starts everything and returns when it listens. Needs a tokio runtime. `show` gets the recovery phrase at
    /// the very first start, before anything is written.
    ///
    /// # Errors
    /// [`StartError`], each one sentence that says what to do.
    pub async fn start(
        config: Config,
        show: impl FnOnce(&RecoveryPhrase) -> io::Result<()>,
    ) -> Result<Self, StartError> {
        kanpachi_common::name::check(&config.network)
            .map_err(|e| StartError::Network(config.network.clone(), e))?;
        let mut database = Database::open(&config.state_dir)?;
        let now = clock::wall();
        let organisation = Organisation::open_showing(&mut database, config.pool, now, show)?;
        let overlay = organisation.overlay();
        let keypair = keypair_from_seed(&organisation.identity.seed());
        let stop = CancellationToken::new();
        let swarm = Loop::bind(&config, &keypair, overlay, stop.clone())?;
        let (port, mut control, remote) = (swarm.port(), swarm.control(), swarm.remote_lookup());
        let nodes = service::incoming(&mut control)?;
        let mirrors = config.bootstraps.iter().map(|server| {
            let mirror = StreamMirror::new(control.clone(), peer_id(server.id));
            Arc::new(mirror) as Arc<dyn Mirror>
        });
        let mirrors = mirrors.collect();
        let tcp: Vec<u16> = config.listen_tcp.clone();
        let find = {
            let (advertise, bootstraps) = (config.advertise.clone(), config.bootstraps.clone());
            move || Servers {
                addresses: addresses::reachable(&advertise, port, &tcp, &overlay),
                bootstraps: bootstraps.clone(),
            }
        };
        let store = Arc::new(database.into_store(organisation.signer.clone())?);
        let setup = Setup {
            store,
            servers: find(),
            mirrors,
            remote,
        };
        // The comparison with the mirrors needs a swarm that runs.
        let swarm = tokio::spawn(swarm.run());
        let started = async {
            let service = Service::start(&organisation, setup).await?;
            service.accept(nodes);
            service.keep_current(find);
            let network = match service.recovery() {
                None => service.ensure_network(&config.network).await?,
                Some(_) => service.known_network(&config.network).await?,
            };
            Ok((service, network))
        };
        match started.await {
            Ok((service, network)) => Ok(Self {
                service,
                network,
                port,
                stop,
                swarm,
            }),
            Err(error) => {
                stop.cancel();
                // What keeps it from starting is the error; how the swarm ended adds nothing.
                let _ = swarm.await;
                Err(error)
            }
        }
    }

    /// The addresses that invites hold, best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.service.addresses()
    }

    /// Returns when the coordinator ended by itself, with the reason.
    pub async fn ended(&mut self) -> String {
        match (&mut self.swarm).await {
            Ok(Err(why)) => why,
            Ok(Ok(())) => "the coordinator was stopped".to_owned(),
            Err(error) => format!("the coordinator failed: {error}"),
        }
    }

    /// Ends all sessions, says goodbye, closes the database.
    pub async fn shutdown(self) {
        self.service.stop().await;
        self.stop.cancel();
        if !self.swarm.is_finished() {
            // Whatever it ends with, it is over.
            let _ = self.swarm.await;
        }
    }
}

/// Makes the organisation without serving it: for a first start in a terminal, before a service manager takes
/// over.
///
/// # Errors
/// [`StartError`]
pub fn init(
    state_dir: &Path,
    pool: Option<Pool>,
    show: impl FnOnce(&RecoveryPhrase) -> io::Result<()>,
) -> Result<Organisation, StartError> {
    let mut database = Database::open(state_dir)?;
    let now = clock::wall();
    Ok(Organisation::open_showing(&mut database, pool, now, show)?)
}
