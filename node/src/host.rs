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
    org::{OrgError, Organisation, RecoveryPhrase},
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
    platform::{Native, Platform as _, ServiceState},
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
    let (extra, ready) = match servants.service.recovery() {
        None => open_doors(options, servants, progress.as_ref()).await?,
        Some(why) => {
            // Nothing is signed, so nobody is invited; the members that are there go on.
            progress.warn(why);
            (Extra::default(), None)
        }
    };
    let server_ended = async {
        let why = servants.bootstrap.ended().await;
        Err(anyhow::anyhow!("the server ended: {why}"))
    };
    if !options.node {
        if let Some(ready) = &ready {
            progress.ready(ready);
        }
        let _ = Native::default().notify_service(ServiceState::Ready);
        return tokio::select! {
            () = stop.cancelled() => Ok(()),
            ended = server_ended => ended,
        };
    }
    let extra = Extra {
        ready,
        own_coordinator: vec![Address::new("127.0.0.1", servants.port)],
        ..extra
    };
    let node = daemon::run_until(
        options.daemon.clone(),
        extra,
        Arc::clone(progress),
        stop.clone(),
    );
    tokio::pin!(node);
    tokio::select! {
        outcome = &mut node => outcome,
        ended = server_ended => {
            // The node takes its adapter and routes away before this ends.
            stop.cancel();
            node.await.and(ended)
        }
    }
}

/// The network, an invite to print, and one for the node of this machine.
async fn open_doors(
    options: &HostOptions,
    servants: &Servants,
    progress: &dyn Progress,
) -> anyhow::Result<(Extra, Option<Ready>)> {
    let service = &servants.service;
    let network = service
        .ensure_network(&options.network)
        .await
        .context("cannot make the network")?;
    // Whoever joins first by it becomes the owner: this machine, or whoever is invited first when it runs no node.
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
    let org = service.org().to_string();
    let ready = Ready::Host(HostReply {
        org,
        invite: Secret::new(invite.link),
        listen,
    });
    if !options.node {
        return Ok((Extra::default(), Some(ready)));
    }
    let own = service
        .make_invite(network.network, founder)
        .await
        .context("cannot make an invite")?;
    let invite = Some(Invite::parse(&own.link).context("the invite of this machine")?);
    Ok((
        Extra {
            invite,
            ..Extra::default()
        },
        Some(ready),
    ))
}

/// Opens the organisation, makes it at the first start, and serves it.
async fn serve(options: &HostOptions, progress: &dyn Progress) -> anyhow::Result<Servants> {
    let step = progress.step("organisation");
    let dir = options.daemon.state_dir.join(COORDINATOR);
    daemon::state::create_dir(&options.daemon.state_dir)?;
    let mut db = Database::open(&dir).map_err(store_error)?;
    let show = |phrase: &RecoveryPhrase| {
        progress.report(&Report::RecoveryPhrase(phrase.expose()));
        Ok(())
    };
    let org = Organisation::open_showing(&mut db, options.pool, clock::wall(), show)
        .map_err(org_error)?;
    step.done(org.org().short());

    let port = options.listen.unwrap_or(DEFAULT_PORT);
    let step = progress.step("coordinator, bootstrap and relay");
    let tcp: Vec<u16> = std::iter::once(port)
        .chain(options.listen_tcp.iter().copied())
        .collect();
    let bootstrap = bootstrap(options, &org, &dir, port, &tcp).await?;
    let find = find_servers(options, &org, port, tcp);
    let store = Arc::new(db.into_store(org.signer.clone()).map_err(store_error)?);
    let setup = Setup {
        store,
        servers: find(),
        mirrors: vec![Arc::new(LocalMirror(bootstrap.mirror().clone()))],
        remote: bootstrap.remote_lookup(),
    };
    let service = Service::start(&org, setup)
        .await
        .context("cannot start the coordinator")?;
    service.keep_current(find);
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

/// How the addresses to publish are found: those asked for, then those that this machine has at the moment.
fn find_servers(
    options: &HostOptions,
    org: &Organisation,
    port: u16,
    tcp: Vec<u16>,
) -> impl Fn() -> Servers + Send + 'static {
    let overlay = org.overlay();
    let identity: NodeId = org.identity.node_id();
    let advertise: Vec<Advertise> = options
        .advertise
        .iter()
        .map(|a| Advertise {
            host: a.host.clone(),
            port: a.port,
        })
        .collect();
    move || {
        let addresses = addresses::reachable(&advertise, port, &tcp, &overlay);
        Servers {
            addresses: addresses.clone(),
            bootstraps: vec![Server {
                id: identity,
                addresses,
            }],
        }
    }
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
