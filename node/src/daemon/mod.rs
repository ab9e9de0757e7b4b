//! The node daemon. [`core`] is the task in the middle; [`engine`] drives the tunnels, [`swarm`] libp2p,
//! [`state`] is the disk. This file puts them together and takes them down again.

pub mod state;

mod backlog;
mod behaviour;
mod complaints;
mod control;
mod control_io;
mod core;
mod engine;
mod lost;
mod member_io;
pub(crate) mod netcheck;
mod overlay;
mod park;
mod relay_io;
pub(crate) mod relaying;
mod report;
mod swarm;
mod watchdog;

use std::{
    io,
    net::TcpListener,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use kanpachi_common::{invite::Invite, org::Address};
use kanpachi_proto::{
    portmap::{Protocol, Wanted},
    tunnel::{Config, LocalIdentity, Tunnels},
};
use kanpachi_transport::{Reader, SharedSocket};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::core::{Core, NativeWriter, Parts, Request};
use crate::{
    cli::steps::{Progress, Ready},
    clock,
    dataplane::Dataplane,
    ipc::{
        api::{JoinReply, Relaying},
        control::Control,
        error::{ApiError, code},
        server::Server,
    },
    options::DaemonOptions,
    platform::{AddressWatch, Exclude, Native, Platform as _, PlatformError, ServiceState},
    portmap::PortMapper,
};

/// The port that a node listens on unless told otherwise or busy, UDP and TCP.
pub const DEFAULT_PORT: u16 = 12976;
/// This system.
const NATIVE: Native = Native {};
/// Requests of the control socket waiting for the core task, at the most.
const REQUESTS: usize = 64;
/// The packet threads and the swarm are given this long to end.
const GOODBYE: Duration = Duration::from_secs(2);
/// Shortens the interval between rekeys, in seconds. For tests of rekeying under load; it can only shorten it.
const TEST_REKEY: &str = "KANPACHI_TEST_REKEY_SECS";

/// What `kanpachi host` adds to a node.
#[derive(Debug, Default)]
pub struct Extra {
    /// The invite for the node of the host itself, used when it is in no organisation yet.
    pub invite: Option<Invite>,
    /// Where the coordinator in this process listens on this machine.
    pub own_coordinator: Vec<Address>,
    /// What the relay in this process does.
    pub own_relay: Option<OwnRelay>,
    /// What to say when everything is up; the node's own words otherwise.
    pub ready: Option<Ready>,
}

/// Asks a relay in the same process what it does.
#[derive(Clone)]
pub struct OwnRelay(pub Arc<dyn Fn() -> Relaying + Send + Sync>);

impl std::fmt::Debug for OwnRelay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnRelay")
    }
}

/// Runs the node until it is told to stop.
///
/// # Errors
/// Whatever keeps it from starting, as an [`ApiError`] in the chain where a person should read it.
pub async fn run(options: DaemonOptions, progress: Arc<dyn Progress>) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    stop_on_signals(&stop)?;
    run_until(options, Extra::default(), progress, stop).await
}

/// Cancels the token on SIGTERM and SIGINT.
///
/// # Errors
/// When the system does not let signals be caught.
pub fn stop_on_signals(stop: &CancellationToken) -> anyhow::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

impl From<PlatformError> for ApiError {
    fn from(error: PlatformError) -> Self {
        Self::from(&error)
    }
}

/// The node, until `stop`.
///
/// # Errors
/// As [`run`].
pub async fn run_until(
    options: DaemonOptions,
    extra: Extra,
    progress: Arc<dyn Progress>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let ready = extra.ready.clone();
    let ground = Ground::prepare(&options, &extra, progress.as_ref())?;
    let invite = ground.invite.clone();
    let (node, server) = ground.build(&options, extra, &progress, &stop).await?;
    let Node {
        core,
        engine_events,
        local,
        engine,
        tunnels,
        reader,
    } = node;
    let standing = core.standing();
    let (requests, request_rx) = mpsc::channel(REQUESTS);
    let sleep = NATIVE.watch_sleep();
    let sleep =
        sleep.inspect_err(|error| tracing::info!(%error, "sleeps of this machine go unnoticed"));
    let core = core.run(
        request_rx,
        engine_events,
        local.receiver.clone(),
        sleep.ok(),
    );
    let core = tokio::spawn(core);
    let control: Arc<dyn Control> = Arc::new(control::Daemon {
        requests: requests.clone(),
        engine,
        stop: stop.clone(),
    });
    let serving = tokio::spawn(server.serve(control, stop.clone()));
    watchdog::start(requests.clone(), stop.child_token());

    let life = async {
        let outcome = begin(invite, standing, ready, requests, progress.as_ref(), &stop).await;
        if outcome.is_err() {
            stop.cancel();
        }
        let ended = core.await.context("the daemon's core task died");
        // Why the core ended says more than that it did not answer.
        ended?.map_err(anyhow::Error::from).and(outcome)
    };
    let ended = lost::watch_over(life, lost::first(&reader, &tunnels.ended), &stop).await;
    stop.cancel();
    let _ = NATIVE.notify_service(ServiceState::Stopping);
    let _ = tokio::time::timeout(GOODBYE, serving).await;
    let joined = tokio::task::spawn_blocking(move || tunnels.thread.join());
    let _ = tokio::time::timeout(GOODBYE, joined).await;
    ended.and(lost::stop(reader))
}

/// What a node stands on: everything that can be wrong with a machine or a command is found while this is made.
struct Ground {
    server: Server,
    dir: state::StateDir,
    keys: state::Keys,
    db: state::Database,
    boot: u64,
    invite: Option<Box<Invite>>,
    socket: SharedSocket,
    tcp_port: u16,
}

/// The running parts of a node.
struct Node {
    core: Core,
    engine_events: mpsc::Receiver<engine::Event>,
    local: Watch,
    engine: engine::Handle,
    tunnels: engine::Running,
    reader: Reader,
}

impl Ground {
    fn prepare(
        options: &DaemonOptions,
        extra: &Extra,
        progress: &dyn Progress,
    ) -> anyhow::Result<Self> {
        let invite = options.join.as_ref().map(control::parse).transpose()?;
        NATIVE
            .check_adapter(&options.interface)
            .map_err(ApiError::from)?;
        let server = Server::bind(&options.socket)?;
        let dir = state::StateDir::open(&options.state_dir)?;
        let (keys, new) = state::Keys::load(&dir)?;
        let mut db = state::Database::open(&dir)?;
        if new {
            progress.note(format_args!(
                "new identity of this machine: {}",
                keys.identity.node_id()
            ));
        }
        let boot = db.next_boot(clock::wall())?;
        let fresh = db.org()?.is_none();
        let invite = invite.or_else(|| extra.invite.clone().filter(|_| fresh).map(Box::new));
        let (socket, tcp_port) = bind(options.listen, db.port()?)?;
        db.set_port(socket.port())?;
        Ok(Self {
            server,
            dir,
            keys,
            db,
            boot,
            invite,
            socket,
            tcp_port,
        })
    }

    async fn build(
        self,
        options: &DaemonOptions,
        extra: Extra,
        progress: &Arc<dyn Progress>,
        stop: &CancellationToken,
    ) -> anyhow::Result<(Node, Server)> {
        let start = clock::now();
        let socket = self.socket;
        let (dataplane, publisher, inbox) = Dataplane::<NativeWriter>::new(
            socket.clone(),
            start,
            kanpachi_transport::peer_id(self.keys.identity.node_id()).to_base58(),
        );
        let dataplane = Arc::new(dataplane);
        let relay = || relaying::Relaying::new(socket.clone(), options.relay_rate);
        let relaying = options.relay.then(relay).transpose()?;
        let aside = relaying.as_ref().map(relaying::Relaying::datagrams);
        let reader = socket
            .spawn_reader(dataplane.inbound().beside(aside))
            .context("cannot start the packet path")?;
        let tunnels = tunnels(&self.keys, &self.db, self.boot, start)?;
        let local = watch_addresses(&options.interface).await;
        let parts = engine::Parts {
            tunnels,
            dataplane: Arc::clone(&dataplane),
            publisher,
            inbox,
            socket: socket.clone(),
            local: local.receiver.clone(),
            network: local.network.clone(),
        };
        let (engine, engine_events, tunnels) =
            engine::start(parts, stop.child_token()).context("cannot start the tunnels")?;
        let port_mapper = options.port_mapping.then(|| {
            let udp = Wanted {
                protocol: Protocol::Udp,
                port: socket.port(),
            };
            PortMapper::start(vec![udp], local.receiver.clone())
        });
        let core = Core::start(Parts {
            port_mapper,
            dir: self.dir,
            keys: self.keys,
            db: self.db,
            boot: self.boot,
            name: host_name(),
            interface: options.interface.clone(),
            socket,
            tcp_port: self.tcp_port,
            overlay: overlay::Overlay::beside(local.others.clone()),
            engine: engine.clone(),
            dataplane,
            progress: Arc::clone(progress),
            stop: stop.clone(),
            own_coordinator: extra.own_coordinator,
            own_relay: extra.own_relay,
            no_mdns: options.no_mdns,
            relay_via: options.relay_via.clone(),
            relaying,
            proxy: options.proxy.clone(),
        })
        .await?;
        Ok((
            Node {
                core,
                engine_events,
                local,
                engine,
                tunnels,
                reader,
            },
            self.server,
        ))
    }
}

/// Joins when there is an invite to join by, and tells that everything is up.
async fn begin(
    invite: Option<Box<Invite>>,
    standing: Option<JoinReply>,
    ready: Option<Ready>,
    requests: mpsc::Sender<Request>,
    progress: &dyn Progress,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let own = match invite {
        None => Ready::Up(standing),
        Some(invite) => {
            let step = progress.step("joining");
            let (sender, receiver) = oneshot::channel();
            requests
                .send(Request::Join(invite, sender))
                .await
                .ok()
                .context("the daemon's core task died")?;
            let reply = tokio::select! {
                reply = receiver => reply.context("the daemon's core task died")??,
                () = stop.cancelled() => return Ok(()),
            };
            step.done(reply.networks.join(", "));
            Ready::Join(reply)
        }
    };
    progress.ready(ready.as_ref().unwrap_or(&own));
    let _ = NATIVE.notify_service(ServiceState::Ready);
    Ok(())
}

fn tunnels(
    keys: &state::Keys,
    db: &state::Database,
    boot: u64,
    start: Instant,
) -> anyhow::Result<Tunnels> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).context("the system gives no random numbers")?;
    let mut config = Config::default();
    if let Some(seconds) = std::env::var(TEST_REKEY).ok().and_then(|s| s.parse().ok()) {
        config.rekey_after = config.rekey_after.min(Duration::from_secs(seconds));
    }
    // Without an organisation there are no peers either; the core task tells the tunnels when it is known.
    let org = db.org()?.unwrap_or(kanpachi_common::OrgId([0; 32]));
    let identity = LocalIdentity {
        node_id: keys.identity.node_id(),
        org,
        tunnel_secret: (*keys.tunnel).into(),
    };
    Ok(Tunnels::new(identity, config, seed, boot, start))
}

/// The addresses of this machine, now and later. Without them the node still works: it announces less.
async fn watch_addresses(interface: &str) -> Watch {
    let exclude = Exclude {
        interfaces: vec![interface.to_owned()],
        prefixes: vec![],
    };
    match NATIVE.watch_addresses(exclude).await {
        Ok(watch) => Watch {
            receiver: watch.receiver.clone(),
            network: Some(watch.network.clone()),
            others: Some(watch.others.clone()),
            _keep: Some(watch),
        },
        Err(error) => {
            tracing::warn!(%error, "cannot watch the addresses of this machine");
            Watch {
                receiver: tokio::sync::watch::channel(Arc::from([])).1,
                network: None,
                others: None,
                _keep: None,
            }
        }
    }
}

struct Watch {
    receiver: tokio::sync::watch::Receiver<Arc<[crate::platform::LocalAddress]>>,
    /// Whether there is any network, if that is known.
    network: Option<tokio::sync::watch::Receiver<bool>>,
    others: Option<tokio::sync::watch::Receiver<Arc<[kanpachi_common::Prefix]>>>,
    _keep: Option<AddressWatch>,
}

/// Binds UDP and TCP to one port: the one asked for and no other; or the usual one, the one of last time, any.
fn bind(asked: Option<u16>, last: Option<u16>) -> Result<(SharedSocket, u16), ApiError> {
    if let Some(port) = asked {
        return try_bind(port).map_err(|e| port_error(port, &e));
    }
    let first = last.filter(|p| *p != 0).unwrap_or(DEFAULT_PORT);
    for port in [first, DEFAULT_PORT] {
        match try_bind(port) {
            Err(e) if e.kind() == io::ErrorKind::AddrInUse => {}
            other => return other.map_err(|e| port_error(port, &e)),
        }
    }
    try_bind(0).map_err(|e| port_error(0, &e))
}

fn port_error(port: u16, error: &io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::AddrInUse => ApiError::failed(
            code::PORT_IN_USE,
            format_args!("port {port} is in use by another program"),
        )
        .hint("choose another one with --listen, or leave the option out"),
        io::ErrorKind::PermissionDenied => ApiError::no_permission(
            code::PORT_IN_USE,
            format_args!("port {port} may not be used: permission denied"),
        )
        .hint("ports below 1024 are for root"),
        _ => ApiError::failed(
            code::FAILED,
            format_args!("cannot listen on port {port}: {error}"),
        ),
    }
}

/// The TCP port is only tried here: libp2p binds it itself.
fn try_bind(port: u16) -> io::Result<(SharedSocket, u16)> {
    let socket = SharedSocket::bind_port(port)?;
    let port = socket.port();
    match TcpListener::bind(("0.0.0.0", port)) {
        Ok(_) => Ok((socket, port)),
        Err(error) => Err(error),
    }
}

/// What this machine would like to be called.
pub(crate) fn host_name() -> String {
    let name = nix::unistd::gethostname()
        .ok()
        .and_then(|n| n.into_string().ok())
        .unwrap_or_default();
    kanpachi_common::name::coerce(name.split('.').next().unwrap_or_default())
}

/// Is a daemon listening on this control socket?
#[must_use]
pub fn is_running(socket: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
