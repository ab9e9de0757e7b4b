//! The relay of a node, put together.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use kanpachi_bootstrap::relay::{Limits, PacketPart, Relay};
use kanpachi_proto::roster::Rosters;
use kanpachi_transport::SharedSocket;
use tokio::sync::watch;

use super::known::Known;
use crate::{
    dataplane::Aside,
    ipc::{
        api,
        error::{ApiError, code},
    },
};

/// What a relay does, as the status tells it.
pub(crate) fn counts(relay: &Relay) -> api::Relaying {
    let (status, counters) = (relay.status(), relay.counters());
    api::Relaying {
        members: status.sessions,
        pairs: status.pairs,
        forwarded: status.forwarded,
        forwarded_bytes: status.forwarded_bytes,
        drop_stranger: counters.drop_stranger.load(Relaxed),
        drop_rate: counters.drop_rate.load(Relaxed),
        drop_full: counters.drop_full.load(Relaxed),
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::daemon) struct Relaying {
    relay: Relay,
    known: Arc<Known>,
    changes: watch::Sender<u64>,
}

impl Relaying {
    /// A relay on this socket, for nobody yet. `rate` is what each member may send, in bytes a second.
    pub(in crate::daemon) fn new(
        socket: SharedSocket,
        rate: Option<u64>,
    ) -> Result<Self, ApiError> {
        let known = Arc::new(Known::default());
        let limits = Limits {
            rate: rate.unwrap_or(Limits::MEMBER.rate),
            ..Limits::MEMBER
        };
        let judge: Arc<Known> = Arc::clone(&known);
        let relay = Relay::new(socket, judge, limits).map_err(|e| {
            ApiError::failed(
                code::FAILED,
                format_args!("the system gives no random numbers: {e}"),
            )
        })?;
        Ok(Self {
            relay,
            known,
            changes: watch::channel(0).0,
        })
    }

    /// What takes the relay's datagrams on the packet thread.
    pub(in crate::daemon) fn datagrams(&self) -> Box<dyn Aside> {
        Box::new(Datagrams(self.relay.packet_part()))
    }

    /// What it does.
    pub(in crate::daemon) fn counts(&self) -> api::Relaying {
        counts(&self.relay)
    }

    /// The rosters have changed. Whoever is no member any more is out before this returns.
    pub(in crate::daemon) fn set_rosters(&self, rosters: Option<&Rosters>) {
        self.known.set(rosters);
        self.relay.rejudge();
    }

    /// Takes members' streams until the swarm is gone.
    pub(in crate::daemon) fn serve(&self, control: &mut kanpachi_transport::streams::Control) {
        let changes = self.changes.subscribe();
        tokio::spawn(self.relay.clone().serve(control, changes));
    }
}

struct Datagrams(PacketPart);

impl Aside for Datagrams {
    fn handle(&mut self, from: SocketAddr, datagram: &[u8]) -> bool {
        self.0.handle(from, datagram)
    }

    fn end_of_batch(&mut self) {
        self.0.end_of_batch();
    }

    fn end_of_read(&mut self, full: bool) {
        self.0.end_of_read(full);
    }
}
