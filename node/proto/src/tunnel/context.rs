//! What all peers share: who we are, randomness, indices, and the outputs that wait to be polled.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use kanpachi_common::{NetworkId, NodeId, OrgId, addr::DEFAULT_MTU, nat::NatBehaviour};
use x25519_dalek::{PublicKey, StaticSecret};

use super::{
    cipher::Engine,
    entropy::Entropy,
    event::{Counters, Event, Transmit},
    mac::{Mac16, PublicMacs},
    noise,
    payload::{FRAGMENTS, HandshakeCounter, MAX_EPOCHS, Payload},
    timers,
    wire::WIRE_VERSION,
};

/// Who this node is, towards its peers.
pub struct LocalIdentity {
    /// This node.
    pub node_id: NodeId,
    /// Its organisation.
    pub org: OrgId,
    /// The X25519 secret whose public half is in the roster.
    pub tunnel_secret: StaticSecret,
}

impl LocalIdentity {
    /// From the raw bytes of the tunnel secret.
    #[must_use]
    pub fn new(node_id: NodeId, org: OrgId, tunnel_secret: &[u8; 32]) -> Self {
        Self {
            node_id,
            org,
            tunnel_secret: StaticSecret::from(*tunnel_secret),
        }
    }
}

impl fmt::Debug for LocalIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalIdentity")
            .field("node_id", &self.node_id)
            .field("org", &self.org)
            .finish_non_exhaustive()
    }
}

/// What can be set.
#[derive(Clone, Debug)]
pub struct Config {
    /// Age at which a session gets a successor. Values above [`timers::REKEY_AFTER`] count as that.
    pub rekey_after: Duration,
    /// Which code seals and opens packets.
    pub engine: Engine,
    /// Capability bits to tell peers (registry in `docs/protocol.md`).
    pub capabilities: u64,
    /// Largest inner packet that this node has to send: MTU of its adapter.
    pub inner_mtu: u16,
    /// Handshake inits taken up per second before everybody needs a cookie: a tenth of what one core can answer.
    pub initiations_per_second: u32,
    /// Loopback addresses count as candidates: for several nodes on one machine.
    pub allow_loopback: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rekey_after: timers::REKEY_AFTER,
            engine: Engine::default(),
            capabilities: FRAGMENTS,
            inner_mtu: DEFAULT_MTU,
            initiations_per_second: 500,
            allow_loopback: false,
        }
    }
}

pub(crate) struct Context {
    pub(crate) identity: LocalIdentity,
    pub(crate) macs: PublicMacs,
    /// Prologue of handshakes that others start.
    pub(crate) own_prologue: Vec<u8>,
    pub(crate) config: Config,
    pub(crate) entropy: Entropy,
    pub(crate) start: Instant,
    /// A moment at which keepalives are due, and so are all that are a multiple of their interval away.
    pub(crate) beat: Option<Instant>,
    pub(crate) counter: HandshakeCounter,
    pub(crate) generation: u64,
    pub(crate) epochs: BTreeMap<NetworkId, u64>,
    pub(crate) indices: BTreeMap<u32, NodeId>,
    /// Answered inits that are not confirmed yet, by their mac1.
    pub(crate) half_open: BTreeMap<Mac16, NodeId>,
    pub(crate) transmits: VecDeque<Transmit>,
    pub(crate) events: VecDeque<Event>,
    pub(crate) counters: Counters,
    /// Pings that somebody asked for and that are not answered yet, oldest first: nonce, token, when.
    pub(crate) pings: VecDeque<(u64, u64, Instant)>,
    /// What the NAT in front of this node does.
    pub(crate) nat: Option<NatBehaviour>,
    /// Birthday punches so far.
    pub(crate) punches: u32,
}

impl Context {
    pub(crate) fn new(
        identity: LocalIdentity,
        config: Config,
        seed: [u8; 32],
        counter_floor: u64,
        now: Instant,
    ) -> Self {
        let public = PublicKey::from(&identity.tunnel_secret).to_bytes();
        Self {
            macs: PublicMacs::of(&public),
            own_prologue: noise::prologue(&identity.org, &identity.node_id),
            identity,
            config,
            entropy: Entropy::new(seed),
            start: now,
            beat: None,
            counter: HandshakeCounter {
                major: counter_floor,
                minor: 0,
            },
            generation: 0,
            epochs: BTreeMap::new(),
            indices: BTreeMap::new(),
            half_open: BTreeMap::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            pings: VecDeque::new(),
            nat: None,
            punches: 0,
        }
    }

    /// From now on this is the organisation. Handshakes under another one fail.
    pub(crate) fn set_org(&mut self, org: OrgId) {
        self.own_prologue = noise::prologue(&org, &self.identity.node_id);
        self.identity.org = org;
    }

    pub(crate) fn millis(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX)
    }

    pub(crate) fn instant(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }

    pub(crate) fn transmit(&mut self, to: SocketAddr, data: Vec<u8>) {
        if self.transmits.len() < timers::MAX_TRANSMITS {
            self.transmits.push_back(Transmit { to, data });
        } else {
            self.counters.transmits_dropped += 1;
        }
    }

    /// An unused random index that leads to `peer`.
    pub(crate) fn new_index(&mut self, peer: NodeId) -> u32 {
        loop {
            let bytes = self.entropy.u64().to_le_bytes();
            let index = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
            if index != 0 && !self.indices.contains_key(&index) {
                self.indices.insert(index, peer);
                return index;
            }
        }
    }

    pub(crate) fn next_counter(&mut self) -> HandshakeCounter {
        self.counter = self.counter.next();
        self.counter
    }

    /// Our epochs for a member that shares these networks: others are none of its business.
    pub(crate) fn epochs_for(&self, networks: &[NetworkId]) -> Vec<(NetworkId, u64)> {
        let known = networks
            .iter()
            .filter_map(|n| Some((*n, *self.epochs.get(n)?)));
        known.take(MAX_EPOCHS).collect()
    }

    pub(crate) fn payload(
        &self,
        networks: &[NetworkId],
        index: u32,
        counter: HandshakeCounter,
    ) -> Payload {
        Payload {
            node: self.identity.node_id,
            counter,
            index,
            generation: self.generation,
            epochs: self.epochs_for(networks),
            min_version: WIRE_VERSION,
            max_version: WIRE_VERSION,
            capabilities: self.config.capabilities,
        }
    }
}
