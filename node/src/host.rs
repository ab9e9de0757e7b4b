//! `kanpachi host`: coordinator, bootstrap, relay and a node in one process.
//!
//! Coordinator and bootstrap share one libp2p identity, one swarm and one port. The node is a node like any other: it
//! has its own key and port, joins by an invite and talks to the coordinator over the loopback.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use async_trait::async_trait;
use kanpachi_bootstrap::{
    Bootstrap, Config as BootstrapConfig, Handle, Mirror, StartError, relay::Limits,
};
use kanpachi_common::{
    NetworkId, NodeId, Prefix,
    invite::Invite,
    org::{Address, Server},
    wire::{
        control,
        mirror::{MirrorReply, MirrorRequest},
    },
};
use kanpachi_coordinator::{
    addresses::{self, Advertise},
    clock,
    org::{OrgError, Organisation, RecoveryPhrase},
    recover,
    service::{InviteOptions, Mirror as CoordinatorMirror, MirrorError, Servers, Service, Setup},
    store::{Store, StoreError, sqlite::Database},
};
use kanpachi_proto::portmap::{Protocol, Wanted};
use kanpachi_transport::keypair_from_seed;
use libp2p::StreamProtocol;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::steps::{Progress, Ready, Report},
    daemon::{self, Extra, OwnRelay},
    ipc::{
        api::{HostReply, Secret},
        error::{ApiError, ExitCode, code},
    },
    lan::{
        announce::Card,
        door::{Lan, Parts},
    },
    options::{HostOptions, Recover},
    platform::{AddressWatch, Exclude, Native, Platform as _, ServiceState},
    portmap::{self, PortMapper},
};

/// The port of coordinator, bootstrap and relay together unless told otherwise, UDP and TCP.
pub const DEFAULT_PORT: u16 = 12975;
/// How long the start waits for the router.
const PATIENCE: Duration = Duration::from_secs(6);
/// For giving its mappings back.
const RELEASE: Duration = Duration::from_secs(1);
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

    // Its file is in the coordinator's directory, and whoever restores that restores both.
    fn is_beside(&self) -> bool {
        true
    }
}

/// The servers, running.
struct Servants {
    bootstrap: Handle,
    service: Service,
    port: u16,
    /// Has the router forward that port.
    forwarded: Option<Forwarded>,
    /// The ranges of the virtual addresses.
    overlay: [Prefix; 2],
}

/// Ports that the router forwards, and the watch by which a change of the network is seen.
struct Forwarded {
    mapper: PortMapper,
    _watch: AddressWatch,
}

/// The port of the servers, by both protocols.
fn ports(port: u16) -> [Wanted; 2] {
    [Protocol::Udp, Protocol::Tcp].map(|protocol| Wanted { protocol, port })
}

/// Has the router forward the port. Without that the host serves whom it can.
async fn forward(options: &HostOptions, overlay: &[Prefix], port: u16) -> Option<Forwarded> {
    if !options.daemon.port_mapping {
        return None;
    }
    let exclude = Exclude {
        interfaces: vec![options.daemon.interface.clone()],
        prefixes: overlay.to_vec(),
    };
    let watch = Native::default().watch_addresses(exclude).await.ok()?;
    let mapper = PortMapper::start(ports(port).to_vec(), watch.receiver.clone());
    mapper.settled(PATIENCE).await;
    Some(Forwarded {
        mapper,
        _watch: watch,
    })
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
    if let Some(forwarded) = servants.forwarded {
        forwarded.mapper.stop(RELEASE).await;
    }
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
    let Doors { extra, ready, lan } = match servants.service.recovery() {
        None => open_doors(options, servants, progress).await?,
        Some(why) => {
            // Nothing is signed, so nobody is invited; the members that are there go on.
            progress.warn(why);
            Doors::default()
        }
    };
    let outcome = until_stopped(options, servants, progress, stop, (extra, ready)).await;
    if let Some(lan) = lan {
        lan.close().await;
    }
    outcome
}

async fn until_stopped(
    options: &HostOptions,
    servants: &Servants,
    progress: &Arc<dyn Progress>,
    stop: &CancellationToken,
    (extra, ready): (Extra, Option<Ready>),
) -> anyhow::Result<()> {
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
        own_relay: own_relay(&servants.bootstrap),
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

/// For the status of the node: whoever hosts asks there what the relay does.
fn own_relay(bootstrap: &Handle) -> Option<OwnRelay> {
    let relay = bootstrap.relay()?.clone();
    Some(OwnRelay(Arc::new(move || daemon::relaying::counts(&relay))))
}

/// The ways in.
#[derive(Default)]
struct Doors {
    extra: Extra,
    ready: Option<Ready>,
    lan: Option<Lan>,
}

/// The network, an invite to print, one for the node of this machine, and the door to the LAN.
async fn open_doors(
    options: &HostOptions,
    servants: &Servants,
    progress: &Arc<dyn Progress>,
) -> anyhow::Result<Doors> {
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
    if listen.is_empty() {
        progress.warn(
            "this machine has no network, and the invite names no address: connect it and start again, or name one with --advertise",
        );
    } else if !service.addresses().iter().any(Address::is_public) {
        progress.warn(format_args!(
            "all addresses of the invite are private ({}): machines elsewhere on the Internet will not get here; name a public one with --advertise",
            listen.join(", ")
        ));
    }
    let org = service.org().to_string();
    let lan = open_lan(options, servants, network.network, wanted, progress);
    let ready = Some(Ready::Host(HostReply {
        org,
        invite: Secret::new(invite.link),
        listen,
        code: lan.as_ref().map(Lan::code),
    }));
    if !options.node {
        return Ok(Doors {
            ready,
            lan,
            ..Doors::default()
        });
    }
    let own = service
        .make_invite(network.network, founder)
        .await
        .context("cannot make an invite")?;
    let invite = Some(Invite::parse(&own.link).context("the invite of this machine")?);
    let extra = Extra {
        invite,
        ..Extra::default()
    };
    Ok(Doors { extra, ready, lan })
}

/// Shows this host on the LAN. A machine that cannot be seen there is a host nevertheless.
fn open_lan(
    options: &HostOptions,
    servants: &Servants,
    network: NetworkId,
    invites: InviteOptions,
    progress: &Arc<dyn Progress>,
) -> Option<Lan> {
    if !options.lan {
        return None;
    }
    let card = Card {
        org: servants.service.org(),
        host: servants.service.identity(),
        name: daemon::host_name(),
        network: options.network.clone(),
        port: servants.port,
    };
    let opened = Lan::open(Parts {
        card,
        network,
        invites,
        service: servants.service.clone(),
        control: servants.bootstrap.stream_control(),
        remote: servants.bootstrap.remote_lookup(),
        exclude: Exclude {
            interfaces: vec![options.daemon.interface.clone()],
            prefixes: servants.overlay.to_vec(),
        },
        progress: Arc::clone(progress),
    });
    opened
        .inspect_err(|error| {
            progress.warn(format_args!(
                "this host is not seen on the LAN, join by the invite: {error:#}"
            ));
        })
        .ok()
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
    let mut bootstrap = bootstrap(options, &org, &dir, port, &tcp).await?;
    // Nodes that come from here on wait for the coordinator.
    let nodes = bootstrap
        .take_own()
        .context("cannot start the coordinator")?;
    let forwarded = forward(options, &org.overlay(), port).await;
    let state = forwarded.as_ref().map(|f| f.mapper.state.clone());
    let find = find_servers(options, &org, port, tcp, state);
    let store = Arc::new(db.into_store(org.signer.clone()).map_err(store_error)?);
    if let Some(wanted) = options.recover {
        end_recovery(&*store, wanted, progress).await?;
    }
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
    service.accept(nodes);
    step.done(format_args!("port {port}, UDP and TCP"));
    Ok(Servants {
        bootstrap,
        service,
        port,
        forwarded,
        overlay: org.overlay(),
    })
}

/// Ends a recovery before anything is served; without one there is nothing to do.
async fn end_recovery(
    store: &dyn Store,
    wanted: Recover,
    progress: &dyn Progress,
) -> anyhow::Result<()> {
    let Some(recovery) = store.recovery().await.map_err(store_error)? else {
        progress.note("there is no recovery to end");
        return Ok(());
    };
    for line in recover::describe(&recovery, clock::wall()) {
        progress.note(line);
    }
    let recovered = recover::end(store, wanted.incomplete)
        .await
        .map_err(|error| ApiError::refused(code::RECOVERY, error))?;
    for line in recover::summarise(&recovered) {
        progress.note(line);
    }
    Ok(())
}

/// How the addresses to publish are found: those asked for, what the router forwards, then those that this machine has
/// at the moment.
fn find_servers(
    options: &HostOptions,
    org: &Organisation,
    port: u16,
    tcp: Vec<u16>,
    forwarded: Option<watch::Receiver<portmap::State>>,
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
        let mut advertise = advertise.clone();
        let [udp, _] = ports(port);
        let external = forwarded
            .as_ref()
            .and_then(|state| state.borrow().external(udp));
        advertise.extend(external.map(|external| Advertise {
            host: external.ip().to_string(),
            port: Some(external.port()),
        }));
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
    let limits = || Limits {
        rate: options.daemon.relay_rate.unwrap_or(Limits::BOOTSTRAP.rate),
        ..Limits::BOOTSTRAP
    };
    config.relay = options.relay.then(limits);
    config.own = Some(StreamProtocol::new(control::PROTOCOL));
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
