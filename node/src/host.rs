//! `kanpachi host`: coordinator, bootstrap, relay and a node in one process.
//!
//! Coordinator and bootstrap share one libp2p identity, one swarm and one port. The node is a node like any other: it
//! has its own key and port, joins by an invite and talks to the coordinator over the loopback.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use async_trait::async_trait;
use kanpachi_bootstrap::{Bootstrap, Config as BootstrapConfig, Handle, Mirror, StartError};
use kanpachi_common::{
    NodeId,
    invite::Invite,
    org::{Address, Server},
    wire::mirror::{MirrorReply, MirrorRequest},
};
use kanpachi_coordinator::{
    addresses::{self, Advertise},
    clock,
    org::{OrgError, Organisation},
    service::{InviteOptions, Mirror as CoordinatorMirror, MirrorError, Servers, Service, Setup},
    store::{StoreError, sqlite::Database},
};
use kanpachi_transport::keypair_from_seed;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::steps::{Progress, Ready, Report},
    daemon::{self, Extra},
    ipc::{
        api::{HostReply, Secret},
        error::{ApiError, ExitCode, code},
    },
    options::HostOptions,
    platform::{Native, Platform as _},
};

/// The port of coordinator, bootstrap and relay together unless told otherwise, UDP and TCP.
pub const DEFAULT_PORT: u16 = 12975;
/// State of the coordinator, in the state directory.
const COORDINATOR: &str = "coordinator";

/// The bootstrap's mirror, for the coordinator in the same process.
#[derive(Debug)]
struct LocalMirror(Mirror);

#[async_trait]
impl CoordinatorMirror for LocalMirror {
    async fn ask(&self, request: MirrorRequest) -> Result<MirrorReply, MirrorError> {
        Ok(self.0.answer(request).await)
    }
}

/// The servers, running.
struct Servants {
    bootstrap: Handle,
    service: Service,
    port: u16,
}

/// Runs everything until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, as an [`ApiError`] in the chain where a person should read it.
pub async fn run(options: HostOptions, progress: Arc<dyn Progress>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    daemon::stop_on_signals(&stop)?;
    // A mistake of the machine or the command is found before an organisation is made.
    kanpachi_common::name::check(&options.network)
        .map_err(|e| ApiError::usage(format_args!("--network {:?}: {e}", options.network)))?;
    if options.node {
        Native::default()
            .check_adapter(&options.daemon.interface)
            .map_err(ApiError::from)?;
        if daemon::is_running(&options.daemon.socket) {
            return Err(ApiError::refused(
                code::DAEMON_RUNNING,
                "a daemon is running here already",
            )
            .hint("stop it with: kanpachi down; or host with --no-node")
            .into());
        }
    }
    let servants = serve(&options, progress.as_ref()).await?;
    let outcome = with_servants(&options, &servants, &progress, &stop).await;
    servants.service.stop().await;
    servants.bootstrap.shutdown().await;
    outcome
}

async fn with_servants(
    options: &HostOptions,
    servants: &Servants,
    progress: &Arc<dyn Progress>,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let service = &servants.service;
    if let Some(why) = service.recovery() {
        progress.warn(why);
    }
    let network = service
        .ensure_network(&options.network)
        .await
        .context("cannot make the network")?;
    // The first to join by it becomes the owner: this machine, or whoever is invited first when it runs no node.
    let founder = InviteOptions {
        founder: true,
        ..InviteOptions::default()
    };
    let wanted = if options.node {
        InviteOptions::default()
    } else {
        founder
    };
    let invite = service
        .make_invite(network.network, wanted)
        .await
        .context("cannot make an invite")?;
    let listen: Vec<String> = service
        .addresses()
        .iter()
        .map(ToString::to_string)
        .collect();
    if !service.addresses().iter().any(Address::is_public) {
        progress.warn(format_args!(
            "all addresses of the invite are private ({}): machines elsewhere on the Internet will not get here; name a public one with --advertise",
            listen.join(", ")
        ));
    }
    let reply = HostReply {
        org: service.org().to_string(),
        invite: Secret::new(invite.link),
        listen,
    };
    if !options.node {
        progress.ready(&Ready::Host(reply));
        let _ = Native::default().notify_service(crate::platform::ServiceState::Ready);
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            why = servants.bootstrap.ended() => anyhow::bail!("the server ended: {why}"),
        }
    }
    let own = service
        .make_invite(network.network, founder)
        .await
        .context("cannot make an invite")?;
    let extra = Extra {
        invite: Some(Invite::parse(&own.link).context("the invite of this machine")?),
        own_coordinator: vec![Address::new("127.0.0.1", servants.port)],
        ready: Some(Ready::Host(reply)),
    };
    tokio::select! {
        outcome = daemon::run_until(options.daemon.clone(), extra, Arc::clone(progress), stop.clone()) => outcome,
        why = servants.bootstrap.ended() => {
            stop.cancel();
            Err(anyhow::anyhow!("the server ended: {why}"))
        }
    }
}

/// Opens the organisation, makes it at the first start, and serves it.
async fn serve(options: &HostOptions, progress: &dyn Progress) -> anyhow::Result<Servants> {
    let step = progress.step("organisation");
    let dir = options.daemon.state_dir.join(COORDINATOR);
    daemon::state::create_dir(&options.daemon.state_dir)?;
    let mut db = Database::open(&dir).map_err(store_error)?;
    let org = Organisation::open(&mut db, options.pool, clock::wall()).map_err(org_error)?;
    step.done(org.org().short());
    if let Some(phrase) = &org.phrase {
        progress.report(&Report::RecoveryPhrase(phrase.expose()));
    }

    let port = options.listen.unwrap_or(DEFAULT_PORT);
    let step = progress.step("coordinator, bootstrap and relay");
    let tcp: Vec<u16> = std::iter::once(port)
        .chain(options.listen_tcp.iter().copied())
        .collect();
    let bootstrap = bootstrap(options, &org, &dir, port, &tcp).await?;
    let overlay = [
        org.signer.pool().prefix(),
        kanpachi_common::addr::ipv6_prefix(&org.org()),
    ];
    let advertise: Vec<Advertise> = options
        .advertise
        .iter()
        .map(|a| Advertise {
            host: a.host.clone(),
            port: a.port,
        })
        .collect();
    let addresses = addresses::reachable(&advertise, port, &tcp, &overlay);
    let identity: NodeId = org.identity.node_id();
    let store = Arc::new(db.into_store(org.signer.clone()).map_err(store_error)?);
    let setup = Setup {
        store,
        servers: Servers {
            addresses: addresses.clone(),
            bootstraps: vec![Server {
                id: identity,
                addresses,
            }],
        },
        mirrors: vec![Arc::new(LocalMirror(bootstrap.mirror().clone()))],
        remote: bootstrap.remote_lookup(),
    };
    let service = Service::start(&org, setup)
        .await
        .context("cannot start the coordinator")?;
    service
        .accept(&mut bootstrap.stream_control())
        .context("cannot start the coordinator")?;
    step.done(format_args!("port {port}, UDP and TCP"));
    Ok(Servants {
        bootstrap,
        service,
        port,
    })
}

async fn bootstrap(
    options: &HostOptions,
    org: &Organisation,
    dir: &Path,
    port: u16,
    tcp: &[u16],
) -> anyhow::Result<Handle> {
    let mut config = BootstrapConfig::new(keypair_from_seed(&org.identity.seed()), org.org());
    config.state_dir = Some(dir.to_owned());
    config.listen = port;
    config.listen_tcp = tcp.to_vec();
    config.advertise = options
        .advertise
        .iter()
        .map(|a| Address::new(a.host.clone(), a.port.unwrap_or(port)))
        .collect();
    Ok(Bootstrap::start(config).await.map_err(start_error)?)
}

fn start_error(error: StartError) -> ApiError {
    let exit = match error.exit_code() {
        2 => ExitCode::Usage,
        3 => ExitCode::NoPermission,
        5 => ExitCode::Refused,
        _ => ExitCode::Failed,
    };
    ApiError::new(exit, error.code(), error)
}

fn store_error(error: StoreError) -> ApiError {
    match &error {
        StoreError::Full => ApiError::failed(code::DISK_FULL, error),
        StoreError::ReadOnly => ApiError::no_permission(code::STATE_UNREADABLE, error),
        StoreError::InUse(_) => ApiError::refused(code::DAEMON_RUNNING, error),
        StoreError::Damaged(_) => ApiError::failed(code::STATE_DAMAGED, error),
        StoreError::Newer { .. } => ApiError::refused(code::STATE_UNREADABLE, error),
        StoreError::Path(_) => ApiError::failed(code::STATE_UNREADABLE, error),
        _ => ApiError::failed(code::FAILED, error),
    }
}

fn org_error(error: OrgError) -> ApiError {
    match error {
        OrgError::Store(error) => store_error(error),
        OrgError::Pool { .. } => ApiError::refused(code::USAGE, error),
        error => ApiError::failed(code::FAILED, error),
    }
}
