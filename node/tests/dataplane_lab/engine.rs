//! The smallest engine that can run tunnels; the node's own does the same and more.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use kanpachi_common::identity::x25519_public;
use kanpachi_common::{CandidateKind, NodeId, OrgId};
use kanpachi_node::dataplane::{Dataplane, FromPeer, Inbox, Own, Parking, Publisher, Waiting};
use kanpachi_node::platform::linux::TunWriter;
use kanpachi_proto::path::Candidate;
use kanpachi_proto::tunnel::{Config, Event, LocalIdentity, PeerConfig, Tunnels};
use kanpachi_transport::SharedSocket;
use tokio::sync::watch;

use super::{DEADLINE, Neighbour, PORT, member, node_id, overlay4, overlay6};

/// Owns the tunnels.
pub(crate) struct Engine {
    tunnels: Tunnels,
    socket: SharedSocket,
    dataplane: Arc<Dataplane<TunWriter>>,
    publisher: Arc<Mutex<Publisher>>,
    inbox: Inbox,
    parking: Parking,
}

impl Engine {
    pub(crate) fn new(
        number: u8,
        neighbours: &[Neighbour],
        start: Instant,
        socket: SharedSocket,
        dataplane: &Arc<Dataplane<TunWriter>>,
        publisher: &Arc<Mutex<Publisher>>,
        inbox: Inbox,
    ) -> Self {
        let secret = |number: u8| [number; 32];
        let identity = LocalIdentity::new(node_id(number), OrgId([9; 32]), &secret(number));
        let mut tunnels = Tunnels::new(identity, Config::default(), [number; 32], 1, start);
        let own = Own {
            ipv4: Some(overlay4(number)),
            broadcast: Some(Ipv4Addr::new(198, 19, 255, 255)),
            ipv6: Some(overlay6(number)),
        };
        publisher.lock().unwrap().set_own(own);
        publisher
            .lock()
            .unwrap()
            .set_members(neighbours.iter().map(|(number, _)| member(*number)));
        for (peer, address) in neighbours {
            let config = PeerConfig {
                node_id: node_id(*peer),
                tunnel_key: x25519_public(&secret(*peer)),
                networks: Vec::new(),
            };
            tunnels.set_peer(config, start);
            let candidate = Candidate {
                addr: SocketAddr::new(*address, PORT),
                kind: CandidateKind::Host.into(),
            };
            tunnels.set_candidates(&node_id(*peer), &[candidate], start);
        }
        let (dataplane, publisher) = (Arc::clone(dataplane), Arc::clone(publisher));
        Self {
            tunnels,
            socket,
            dataplane,
            publisher,
            inbox,
            parking: Parking::default(),
        }
    }

    pub(crate) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        loop {
            self.drain();
            let timeout = self
                .tunnels
                .poll_timeout()
                .unwrap_or_else(|| Instant::now() + DEADLINE);
            tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => return,
                Some(message) = self.inbox.peers.recv() => self.peer(message),
                Some(stranger) = self.inbox.strangers.recv() => {
                    self.tunnels.handle_datagram(stranger.from, &stranger.datagram, Instant::now());
                }
                Some(waiting) = self.inbox.waiting.recv() => self.wait(waiting),
                () = tokio::time::sleep_until(timeout.into()) => {
                    for message in self.inbox.later.take() {
                        self.peer(message);
                    }
                    self.tunnels.handle_timeout(Instant::now());
                }
            }
        }
    }

    fn peer(&mut self, message: FromPeer) {
        let now = Instant::now();
        match message {
            FromPeer::Attended {
                receipt,
                payload,
                at,
            } => self.tunnels.handle_attended(receipt, &payload, at),
            FromPeer::Woken { local_index } => self.tunnels.handle_woken(local_index, now),
            FromPeer::Control { receipt, payload } => {
                self.tunnels.handle_opened_control(receipt, &payload, now);
            }
            FromPeer::Authenticated {
                local_index,
                from,
                counter,
            } => {
                self.tunnels
                    .handle_authenticated(local_index, from, counter, now);
            }
        }
    }

    /// Events before datagrams: a peer may answer faster than we could install the session it answers with.
    fn drain(&mut self) {
        while let Some(event) = self.tunnels.poll_event() {
            self.publisher.lock().unwrap().apply(&event);
            if let Event::SessionUp { peer, .. } = event {
                self.send_parked(&peer);
            }
        }
        while let Some(transmit) = self.tunnels.poll_transmit() {
            let _ = self.socket.send(transmit.to, &transmit.data, None);
        }
    }

    fn send_parked(&mut self, peer: &NodeId) {
        let publisher = self.publisher.lock().unwrap();
        self.dataplane
            .send_parked(&publisher, &mut self.parking, peer);
    }

    fn wait(&mut self, waiting: Waiting) {
        let (peer, now) = (waiting.peer, Instant::now());
        let publisher = self.publisher.lock().unwrap();
        if self
            .dataplane
            .send_or_park(&publisher, &mut self.parking, waiting, now)
        {
            self.tunnels.connect(&peer, now);
        }
    }
}
