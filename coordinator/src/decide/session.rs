//! One conversation: where it stands, what it holds, what it was sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use kanpachi_common::{
    Candidate, CandidateKind, NatBehaviour, NetworkId, NodeId, TunnelKey, UnixTime,
    candidate::MAX_CANDIDATES,
    wire::control::{Held, MAX_NETWORKS},
};

use super::{
    limits::{Meter, Rate},
    presence::Overlay,
};

/// Names a session in inputs and outputs; the shell counts them up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// Where the other side of a session is, as far as the transport can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remote {
    /// Its IP address, for the limits. `None` behind a relay.
    pub ip: Option<IpAddr>,
    /// Its UDP address, when it came by QUIC: where others may reach it too.
    pub udp: Option<SocketAddr>,
}

/// Requests of one session that may wait for the store.
pub(super) const MAX_WAITING: usize = 16;
/// Bytes on their way to one session at the most; a reader that lets more pile up is dropped.
pub(super) const MAX_OUTBOX: usize = 8 * 1024 * 1024;
/// No roster is put behind more than this many bytes; it waits until they are gone.
pub(super) const HIGH_WATER: usize = 1024 * 1024;
/// Announcements and pulls: one after the other, not a stream of them.
pub(super) const CHATTER: Rate = Rate::new(20, Duration::from_secs(1));
/// Coming and going in networks; right after a login once for each of them.
pub(super) const PRESENCE: Rate = Rate::new(MAX_NETWORKS as u32, Duration::from_millis(500));

/// How far a session got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing was said yet.
    Greeting,
    /// The store is asked who this is.
    Checking,
    /// Welcome, and no member of anything.
    Guest,
    /// Welcome, and registered.
    Member,
}

/// What a session knows of one network.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// The roster that it holds, or will hold when it has read everything sent.
    pub(super) held: Held,
    /// `issued_at` of the newest head sent in this session.
    pub(super) issued_at: Option<UnixTime>,
    /// Number of the newest secret sent in this session.
    pub(super) secret: Option<u32>,
}

/// A session.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) node: NodeId,
    pub(super) remote: Remote,
    pub(super) phase: Phase,
    pub(super) opened: Instant,
    pub(super) heard: Instant,
    pub(super) pinged: Instant,
    /// For how long the node said that it may be silent.
    pub(super) rest: Duration,
    /// Bytes handed to the shell and not written yet, and when some were written last.
    pub(super) outbox: usize,
    pub(super) progress: Instant,
    pub(super) tunnel: Option<TunnelKey>,
    /// Rosters that the node said it holds, until the store says which networks it is in.
    pub(super) claimed: Vec<Held>,
    pub(super) candidates: Vec<Candidate>,
    /// What the node says of its NAT.
    pub(super) nat: Option<NatBehaviour>,
    pub(super) networks: BTreeMap<NetworkId, Known>,
    /// Networks with something new for this session.
    pub(super) unsynced: BTreeSet<NetworkId>,
    /// Requests to be answered by `Done` as soon as `unsynced` is empty.
    pub(super) done: Vec<u64>,
    pub(super) waiting: usize,
    pub(super) chatter: Meter,
    pub(super) presence: Meter,
    /// Networks in which the node does not want to be seen.
    pub(super) away: BTreeSet<NetworkId>,
}

impl Session {
    pub(super) const fn new(node: NodeId, remote: Remote, now: Instant) -> Self {
        Self {
            node,
            remote,
            phase: Phase::Greeting,
            opened: now,
            heard: now,
            pinged: now,
            rest: Duration::ZERO,
            outbox: 0,
            progress: now,
            tunnel: None,
            claimed: Vec::new(),
            candidates: Vec::new(),
            nat: None,
            networks: BTreeMap::new(),
            unsynced: BTreeSet::new(),
            done: Vec::new(),
            waiting: 0,
            chatter: Meter::new(now),
            presence: Meter::new(now),
            away: BTreeSet::new(),
        }
    }

    /// Does the session take up one of the places for strangers?
    pub(super) const fn is_stranger(&self) -> bool {
        matches!(self.phase, Phase::Greeting | Phase::Checking | Phase::Guest)
    }

    /// Is its node in some network, as far as is known here?
    pub(super) fn is_in_something(&self) -> bool {
        self.phase == Phase::Member && !self.networks.is_empty()
    }

    /// Takes the node's candidates and what the transport saw of it: plausible ones, each once, no address of
    /// the overlay (or there is a tunnel in the tunnel). Are they, or its NAT, others than before?
    pub(super) fn announce(
        &mut self,
        announced: &[Candidate],
        nat: Option<NatBehaviour>,
        overlay: &Overlay,
    ) -> bool {
        let mut candidates: Vec<Candidate> = Vec::new();
        let observed = self.remote.udp.map(|addr| Candidate {
            addr,
            kind: CandidateKind::Observed,
        });
        // One place is kept for what was observed: it alone is known to be true.
        let room = MAX_CANDIDATES - usize::from(observed.is_some());
        for candidate in announced.iter().take(room).chain(&observed) {
            let fits = candidate.is_plausible() && !overlay.contains(candidate.addr.ip());
            if fits && !candidates.iter().any(|c| c.addr == candidate.addr) {
                candidates.push(*candidate);
            }
        }
        let changed = candidates != self.candidates || nat != self.nat;
        self.candidates = candidates;
        self.nat = nat;
        changed
    }
}
