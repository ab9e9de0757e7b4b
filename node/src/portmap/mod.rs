//! Has the router forward ports to this machine, as long as the program runs: by PCP, NAT-PMP or UPnP, whichever the
//! router speaks.
//!
//! Everything that comes back is from the LAN, where anybody may answer: only the default router's own address is
//! listened to, and [`kanpachi_proto::portmap`] bounds and judges what it says.

mod upnp;

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use kanpachi_proto::portmap::{Mapper, Mapping, PORT, Wanted, is_public};
use tokio::{net::UdpSocket, sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    clock,
    daemon::netcheck::source_towards,
    platform::{LocalAddress, Native, Platform as _},
};

/// PCP and NAT-PMP have had their chance after this; then it is UPnP's turn.
const PATIENCE: Duration = Duration::from_secs(2);
/// A router that offers nothing is tried again after this.
const RETRY: Duration = Duration::from_secs(600);
/// Addresses come and go in bursts.
const SETTLE: Duration = Duration::from_millis(500);
/// Pause after a failed read.
const ERROR_PAUSE: Duration = Duration::from_millis(50);

/// What the router does for this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    /// It was asked, and what there is to know is known.
    pub(crate) settled: bool,
    /// Does it speak UPnP? `None` while that is not known.
    pub(crate) upnp: Option<bool>,
    /// NAT-PMP?
    pub(crate) nat_pmp: Option<bool>,
    /// PCP?
    pub(crate) pcp: Option<bool>,
    /// What it forwards.
    pub(crate) mappings: Vec<Mapping>,
}

impl State {
    /// Where the world reaches this port.
    pub(crate) fn external(&self, wanted: Wanted) -> Option<std::net::SocketAddrV4> {
        let mut all = self.mappings.iter();
        all.find(|m| m.wanted == wanted).map(|m| m.external)
    }
}

/// Mappings that are kept.
#[derive(Debug)]
pub(crate) struct PortMapper {
    /// How it stands.
    pub(crate) state: watch::Receiver<State>,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl PortMapper {
    /// Keeps these ports forwarded. `local` are the addresses of this machine: when they change, the router may be
    /// another one.
    pub(crate) fn start(wanted: Vec<Wanted>, local: watch::Receiver<Arc<[LocalAddress]>>) -> Self {
        let (sender, state) = watch::channel(State::default());
        let stop = CancellationToken::new();
        let running = tokio::spawn(keep(wanted, local, sender, stop.clone()));
        Self {
            state,
            stop,
            running,
        }
    }

    /// Waits until the router has been asked, but not long.
    pub(crate) async fn settled(&self, patience: Duration) -> State {
        let mut state = self.state.clone();
        let settled = tokio::time::timeout(patience, state.wait_for(|s| s.settled)).await;
        match settled {
            Ok(Ok(state)) => state.clone(),
            _ => self.state.borrow().clone(),
        }
    }

    /// Gives the mappings back.
    pub(crate) async fn stop(self, patience: Duration) {
        self.stop.cancel();
        // What is not given back in time ends by itself.
        let _ = tokio::time::timeout(patience, self.running).await;
    }
}

async fn keep(
    wanted: Vec<Wanted>,
    mut local: watch::Receiver<Arc<[LocalAddress]>>,
    state: watch::Sender<State>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        local.mark_unchanged();
        let place = place().await;
        if let Some((router, client)) = place {
            let session = Session {
                router,
                client,
                wanted: &wanted,
                state: &state,
            };
            tokio::select! {
                () = session.run(&stop) => {}
                () = moved(&mut local, (router, client)) => {}
            }
        } else {
            state.send_replace(State {
                settled: true,
                ..State::default()
            });
            tokio::select! {
                () = stop.cancelled() => {}
                Ok(()) = local.changed() => {}
                () = tokio::time::sleep(RETRY) => {}
            }
        }
        if !stop.is_cancelled() {
            tokio::time::sleep(SETTLE).await;
        }
    }
}

/// The default router, and this machine's address towards it; `None` where nothing is to be forwarded.
async fn place() -> Option<(Ipv4Addr, Ipv4Addr)> {
    let router = Native::default().default_router()?;
    let IpAddr::V4(client) = source_towards((router, PORT).into()).await? else {
        return None;
    };
    (!is_public(client)).then_some((router, client))
}

/// Waits until the router or this machine's address is another one.
async fn moved(local: &mut watch::Receiver<Arc<[LocalAddress]>>, was: (Ipv4Addr, Ipv4Addr)) {
    while local.changed().await.is_ok() {
        tokio::time::sleep(SETTLE).await;
        if place().await != Some(was) {
            return;
        }
    }
    std::future::pending().await
}

/// One router.
struct Session<'a> {
    router: Ipv4Addr,
    client: Ipv4Addr,
    wanted: &'a [Wanted],
    state: &'a watch::Sender<State>,
}

impl Session<'_> {
    async fn run(&self, stop: &CancellationToken) {
        self.state.send_replace(State::default());
        let Some((socket, mut mapper)) = self.begin().await else {
            return stop.cancelled().await;
        };
        let turn = tokio::time::sleep(PATIENCE);
        tokio::pin!(turn);
        let mut waiting = true;
        let mut buffer = [0; 1200];
        let mut upnp = upnp::Upnp::new(self.router, self.client, self.wanted);
        loop {
            while let Some(data) = mapper.poll_transmit() {
                // It is asked again.
                let _ = socket.send(&data).await;
            }
            self.tell(&mut mapper, &mut upnp, waiting);
            tokio::select! {
                () = stop.cancelled() => break,
                received = socket.recv(&mut buffer) => match received {
                    Ok(len) => mapper.handle_datagram(&buffer[..len], clock::now()),
                    // Nobody listens there; that is said once for each question.
                    Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
                },
                () = clock::until(mapper.poll_timeout()) => mapper.handle_timeout(clock::now()),
                () = &mut turn, if waiting => {
                    if mapper.mappings().next().is_none() {
                        upnp.attempt(RETRY).await;
                    }
                    waiting = false;
                }
                () = clock::until(upnp.due()), if !waiting => {
                    if mapper.mappings().next().is_none() || upnp.is_active() {
                        upnp.attempt(RETRY).await;
                    } else {
                        upnp.rest(RETRY);
                    }
                }
            }
        }
        mapper.release();
        while let Some(data) = mapper.poll_transmit() {
            let _ = socket.send(&data).await;
        }
        upnp.release().await;
        self.state.send_replace(State::default());
    }

    async fn begin(&self) -> Option<(UdpSocket, Mapper)> {
        let socket = UdpSocket::bind((self.client, 0)).await.ok()?;
        // The kernel drops what comes from anybody else.
        socket.connect((self.router, PORT)).await.ok()?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).ok()?;
        let mapper = Mapper::new(self.client, self.wanted, seed, clock::now());
        Some((socket, mapper))
    }

    fn tell(&self, mapper: &mut Mapper, upnp: &mut upnp::Upnp, waiting: bool) {
        let offers = mapper.offers();
        let mut mappings: Vec<Mapping> = mapper.mappings().collect();
        for mapping in upnp.mappings() {
            if !mappings.iter().any(|m| m.wanted == mapping.wanted) {
                mappings.push(mapping);
            }
        }
        let state = State {
            settled: !waiting || mappings.len() == self.wanted.len(),
            upnp: upnp.offered(),
            nat_pmp: offers.nat_pmp,
            pcp: offers.pcp,
            mappings,
        };
        self.state.send_if_modified(|known| {
            let changed = *known != state;
            if changed {
                tracing::debug!(?state, "the router");
                *known = state;
            }
            changed
        });
    }
}
