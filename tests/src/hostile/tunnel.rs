//! A member that seals whatever it likes: the real tunnel core, without the checks of a real node around it.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use kanpachi_common::roster::Member;
use kanpachi_common::{NetworkId, OrgId};
use kanpachi_proto::path::{Candidate, PathKind};
use kanpachi_proto::tunnel::{
    Config, Datagram, Event, HEADER_LEN, Kind, LocalIdentity, PeerConfig, Receipt, Session,
    TAG_LEN, Tunnels, classify,
};

use super::stolen::NodeKeys;
use crate::lab::Host;
use crate::wait;

/// How long one wait for a datagram is.
const TURN: Duration = Duration::from_millis(20);

/// A tunnel endpoint on a host of the lab, driven by whoever calls.
#[derive(Debug)]
pub struct HostileMember {
    socket: UdpSocket,
    tunnels: Tunnels,
    start: Instant,
    session: Option<(Arc<Session>, SocketAddr)>,
    inbox: VecDeque<Vec<u8>>,
}

impl HostileMember {
    /// An endpoint with these keys; it speaks to nobody yet.
    pub fn new(host: &Host, keys: &NodeKeys, org: OrgId) -> Result<Self> {
        let socket = host.ns.run(|| Ok(UdpSocket::bind((host.v4, 0))?))?;
        socket.set_read_timeout(Some(TURN))?;
        let identity = LocalIdentity {
            node_id: keys.identity.node_id(),
            org,
            tunnel_secret: keys.tunnel.into(),
        };
        // Above whatever the real node with these keys has used.
        let floor = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
        let start = Instant::now();
        let tunnels = Tunnels::new(identity, Config::default(), [9; 32], floor, start);
        Ok(Self {
            socket,
            tunnels,
            start,
            session: None,
            inbox: VecDeque::new(),
        })
    }

    /// Shakes hands with a member at an address.
    ///
    /// # Errors
    /// If it does not answer within the limit.
    pub fn connect(
        &mut self,
        peer: &Member,
        network: NetworkId,
        at: SocketAddr,
        limit: Duration,
    ) -> Result<()> {
        let now = Instant::now();
        let config = PeerConfig {
            node_id: peer.node,
            tunnel_key: peer.tunnel.key.0,
            networks: vec![network],
        };
        self.tunnels.set_peer(config, now);
        self.tunnels.set_candidates(
            &peer.node,
            &[Candidate {
                addr: at,
                kind: PathKind::Host,
            }],
            now,
        );
        self.tunnels.connect(&peer.node, now);
        let deadline = now + wait::scaled(limit);
        while self.session.is_none() {
            if Instant::now() > deadline {
                bail!("no handshake with {at}: {:?}", self.tunnels.counters());
            }
            self.turn()?;
        }
        Ok(())
    }

    /// Seals an inner packet, whatever is in it, and sends it.
    pub fn send(&mut self, packet: &[u8]) -> Result<()> {
        let (session, to) = self.session.as_ref().context("no session")?;
        let mut buffer = vec![0; HEADER_LEN + packet.len() + TAG_LEN];
        buffer[HEADER_LEN..HEADER_LEN + packet.len()].copy_from_slice(packet);
        let length = session.seal_into(Kind::Ip, &mut buffer, packet.len(), self.millis())?;
        self.socket.send_to(&buffer[..length], to)?;
        Ok(())
    }

    /// Waits for an inner packet that is wanted, and passes over others.
    ///
    /// # Errors
    /// If none came within the limit.
    pub fn receive(&mut self, limit: Duration, wanted: impl Fn(&[u8]) -> bool) -> Result<Vec<u8>> {
        let deadline = Instant::now() + wait::scaled(limit);
        loop {
            while let Some(packet) = self.inbox.pop_front() {
                if wanted(&packet) {
                    return Ok(packet);
                }
            }
            if Instant::now() > deadline {
                bail!("no such packet within {limit:?}");
            }
            self.turn()?;
        }
    }

    fn millis(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    /// One round: sends what is due, takes in what has come.
    fn turn(&mut self) -> Result<()> {
        while let Some(event) = self.tunnels.poll_event() {
            if let Event::SessionUp {
                session, endpoint, ..
            } = event
            {
                self.session = Some((session, endpoint));
            }
        }
        while let Some(transmit) = self.tunnels.poll_transmit() {
            self.socket.send_to(&transmit.data, transmit.to)?;
        }
        let mut buffer = [0; 65_536];
        if let Ok((length, from)) = self.socket.recv_from(&mut buffer) {
            self.take_in(&mut buffer[..length], from);
        }
        let now = Instant::now();
        if self.tunnels.poll_timeout().is_some_and(|due| due <= now) {
            self.tunnels.handle_timeout(now);
        }
        Ok(())
    }

    fn take_in(&mut self, datagram: &mut [u8], from: SocketAddr) {
        let now = Instant::now();
        match classify(datagram) {
            Some(Datagram::Handshake) => self.tunnels.handle_datagram(from, datagram, now),
            Some(Datagram::Transport { receiver }) => {
                let millis = self.millis();
                let Some((session, _)) = self
                    .session
                    .as_ref()
                    .filter(|(s, _)| s.local_index() == receiver)
                else {
                    return;
                };
                let length = datagram.len();
                let Ok(opened) = session.open_in_place(datagram, millis) else {
                    return;
                };
                session.record_rx(opened.kind, length, millis);
                let payload = datagram[opened.payload.clone()].to_vec();
                match opened.kind {
                    Kind::Control => {
                        let receipt = Receipt::at_once(receiver, from, opened.counter);
                        self.tunnels.handle_opened_control(receipt, &payload, now);
                    }
                    _ => self.inbox.push_back(payload),
                }
            }
            None => {}
        }
    }
}
