//! This node's own record: when it goes out, under which key and with which number.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kanpachi_common::{
    Candidate, Hash, NatBehaviour, NetworkId, NodeId, SecretKey,
    record::{MAX_TTL, OuterRecord, PeerRecord, Sealing, open, seal, shelf},
    roster::Position,
};
use rand_core::Rng;

use super::{Action, Group, Now, lookup::Query};

/// Without any change a record goes out again after this, and after twice as long each time, up to half of the time that
/// it lives.
pub(super) const REPUBLISH: Duration = Duration::from_secs(600);
/// See [`REPUBLISH`].
pub const MAX_REPUBLISH: Duration = Duration::from_secs(MAX_TTL as u64 / 2);
/// Servers that have such a record already are given it again one by one, so far apart where there is one network: each is a
/// connection for nothing else. Twenty have it within 100 minutes, and each keeps it for two hours from then on. Those that a round
/// did not come to are the first of the next.
pub const PACE: Duration = Duration::from_secs(300);
/// With more networks, which may have other servers, it is faster, up to so many times.
const MAX_PACE: u32 = 8;
/// A round that comes so long after the last one, as after a sleep, is to reach all before they have nothing any more: half of a
/// record's life, and some time for what was late.
const HELD: Duration = Duration::from_secs(MAX_REPUBLISH.as_secs() + 900);
/// Changes are collected for this long.
const SETTLE: Duration = Duration::from_millis(100);
/// Two rounds are at least this far apart.
pub(super) const GAP: Duration = Duration::from_secs(5);
/// Or this, while no server has taken a record of the last one.
const UNTAKEN_GAP: Duration = Duration::from_millis(500);
/// A record that no server took is offered again after this, and after twice as long each time, up to [`REPUBLISH`].
const RETRY: Duration = Duration::from_secs(5);
/// So long after a record went out this node looks whether it is what others see.
const CHECK: Duration = Duration::from_secs(3);

/// What a record of a network depends on, beside the addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Basis {
    position: Position,
    secret: u32,
    day: u64,
}

#[derive(Debug)]
pub(super) struct Publisher {
    identity: SecretKey,
    boot: u64,
    /// The highest number used, or on its way to disk.
    counter: u64,
    /// The highest number seen under a key of this node, by whomever.
    floors: BTreeMap<Hash, u64>,
    candidates: Vec<Candidate>,
    relays: Vec<NodeId>,
    nat: Option<NatBehaviour>,
    bases: BTreeMap<NetworkId, Basis>,
    /// What went out last in each network.
    values: BTreeMap<NetworkId, (Hash, Vec<u8>)>,
    last: Option<Instant>,
    due: Option<Instant>,
    /// Rounds that some server took, since something changed.
    unchanged: u32,
    /// Something changed since the last round went out.
    changed: bool,
    /// Nobody took a record of the last round.
    refused: bool,
    /// The last round went out only to some.
    gently: bool,
    /// When one server more is to have what is not new.
    one_at: Option<Instant>,
    /// A number is on its way to disk.
    waiting: bool,
    /// Puts that were not reported yet, and whether any server took one of the round.
    pending: Vec<Query>,
    taken: bool,
    retry: Duration,
    check_at: Option<Instant>,
    to_check: Vec<Hash>,
    checks: Vec<Query>,
}

impl Publisher {
    pub(super) const fn new(identity: SecretKey, boot: u64, counter: u64) -> Self {
        Self {
            identity,
            boot,
            counter,
            floors: BTreeMap::new(),
            candidates: Vec::new(),
            relays: Vec::new(),
            nat: None,
            bases: BTreeMap::new(),
            values: BTreeMap::new(),
            last: None,
            due: None,
            unchanged: 0,
            changed: false,
            refused: false,
            gently: false,
            one_at: None,
            waiting: false,
            pending: Vec::new(),
            taken: false,
            retry: RETRY,
            check_at: None,
            to_check: Vec::new(),
            checks: Vec::new(),
        }
    }

    pub(super) fn set_groups(&mut self, groups: &[Group], now: Now) {
        let bases = groups.iter().filter_map(|group| {
            let basis = Basis {
                position: group.position,
                secret: group.secrets.first()?.id,
                day: now.day(),
            };
            Some((group.network, basis))
        });
        let bases: BTreeMap<_, _> = bases.collect();
        let before = self.values.len();
        self.values.retain(|network, _| bases.contains_key(network));
        if self.values.len() < before {
            // What is under the other keys is given to nobody any more.
            self.one_at = Some(now.instant);
        }
        if bases != self.bases {
            self.bases = bases;
            self.soon(now.instant);
        }
    }

    pub(super) fn set_own(&mut self, candidates: Vec<Candidate>, relays: Vec<NodeId>, now: Now) {
        if self.candidates != candidates || self.relays != relays {
            self.candidates = candidates;
            self.relays = relays;
            self.soon(now.instant);
        }
    }

    pub(super) fn set_nat(&mut self, nat: Option<NatBehaviour>, now: Now) {
        if self.nat != nat {
            self.nat = nat;
            self.soon(now.instant);
        }
    }

    /// Publishes before long, and not more often than is good.
    fn soon(&mut self, now: Instant) {
        let gap = if self.taken { GAP } else { UNTAKEN_GAP };
        let earliest = self.last.map(|last| last + gap);
        let at = (now + SETTLE).max(earliest.unwrap_or(now));
        (self.unchanged, self.changed) = (0, true);
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    /// A server is connected. It is given what it misses, and nobody else is bothered: otherwise each round would set off one of
    /// every member that it went to. One of the directory's is connected for as long as it is there, and may have started anew
    /// in between. If nobody has the record, all of it starts over.
    pub(super) fn handle_server(
        &mut self,
        server: NodeId,
        lasting: bool,
        now: Now,
    ) -> Option<Action> {
        self.last?;
        if !self.taken && self.pending.is_empty() {
            self.soon(now.instant);
            return None;
        }
        Some(Action::Give {
            server,
            lost: lasting,
            keys: self.keys(),
        })
    }

    /// What went out last is under these.
    fn keys(&self) -> Vec<Hash> {
        self.values.values().map(|(key, _)| *key).collect()
    }

    /// Until the next round if nothing changes. Each node is early by a share of its own, up to a quarter.
    fn pause(&self) -> Duration {
        let doubled = REPUBLISH.saturating_mul(1 << self.unchanged.min(8));
        let pause = doubled.min(MAX_REPUBLISH);
        pause - self.share_of(pause) / 4
    }

    /// A part that is each node's own: those that started at the same time do not stay in step.
    fn share_of(&self, whole: Duration) -> Duration {
        let [first, ..] = self.identity.node_id().0;
        whole * u32::from(first) / 256
    }

    /// The number for a new round, once it is time for one.
    pub(super) fn handle_timeout(&mut self, now: Now) -> Option<u64> {
        if self.bases.values().any(|basis| basis.day != now.day()) {
            for basis in self.bases.values_mut() {
                basis.day = now.day();
            }
            self.floors.clear();
            self.soon(now.instant);
        }
        self.due.filter(|due| *due <= now.instant)?;
        self.due = Some(now.instant + self.pause());
        if self.candidates.is_empty() || self.bases.is_empty() {
            return None;
        }
        self.counter = self.counter.saturating_add(1).max(now.wall.0);
        self.waiting = true;
        Some(self.counter)
    }

    /// The number is on disk: the records go out.
    pub(super) fn commit(
        &mut self,
        counter: u64,
        groups: &[Group],
        rng: &mut impl Rng,
        next: &mut u64,
        now: Now,
    ) -> Vec<Action> {
        if !std::mem::take(&mut self.waiting) {
            return Vec::new();
        }
        let before = self.last.replace(now.instant);
        let held = before.is_some_and(|last| now.instant < last + HELD);
        let refused = std::mem::take(&mut self.refused);
        self.pending.clear();
        (self.taken, self.changed) = (false, false);
        self.values.clear();
        let gently = self.unchanged > 0 && held && !refused;
        self.gently = gently;
        let planned = self.one_at.filter(|at| *at > now.instant);
        let first = now.instant + self.pace() + self.share_of(self.pace());
        self.one_at = Some(planned.unwrap_or(first));
        let mut out = Vec::new();
        for group in groups {
            let Some(secret) = group.secrets.first() else {
                continue;
            };
            let record = self.record(group, counter);
            let public = secret.record_key(&record.node, now.day()).public_key();
            let key = OuterRecord::dht_key(&public);
            let floor = self.floors.get(&key).copied().unwrap_or(0);
            let mut nonce = [0; 12];
            rng.fill_bytes(&mut nonce);
            let with = Sealing {
                secret,
                day: now.day(),
                seq: counter.max(floor.saturating_add(1)),
                nonce,
            };
            let value = seal(&record, &self.identity, &with);
            let query = Query::take(next);
            self.pending.push(query);
            self.values.insert(group.network, (key, value.clone()));
            out.push(Action::Put {
                query,
                key,
                value,
                life: Duration::from_secs(MAX_TTL.into()),
                gently,
            });
        }
        self.to_check = self.keys();
        self.check_at = Some(now.instant + CHECK);
        out
    }

    /// Says to the members of a network what concerns that network: nobody learns of another one from it.
    fn record(&self, group: &Group, seq: u64) -> PeerRecord {
        PeerRecord {
            node: self.identity.node_id(),
            boot: self.boot,
            seq,
            candidates: self.candidates.clone(),
            relays: self.relays.clone(),
            epochs: vec![(group.network, group.position)],
            ttl: MAX_TTL,
            nat: self.nat,
        }
    }

    /// Returns whether this was a record of the last round.
    pub(super) fn handle_put(&mut self, query: Query, servers: usize, now: Now) -> bool {
        let Some(at) = self.pending.iter().position(|q| *q == query) else {
            return false;
        };
        self.pending.swap_remove(at);
        self.taken |= servers > 0;
        if !self.pending.is_empty() {
            return true;
        }
        if self.taken {
            self.retry = RETRY;
            self.unchanged = (self.unchanged + 1).min(32) * u32::from(!self.changed);
        } else {
            self.refused = true;
            let again = now.instant + self.retry;
            self.due = Some(self.due.map_or(again, |due| due.min(again)));
            self.retry = (self.retry * 2).min(REPUBLISH);
        }
        true
    }

    fn pace(&self) -> Duration {
        let networks = u32::try_from(self.bases.len()).unwrap_or(MAX_PACE);
        PACE / networks.clamp(1, MAX_PACE)
    }

    /// Is one server more to have what is not new, and under which keys is that?
    pub(super) fn take_one(&mut self, now: Now) -> Option<Vec<Hash>> {
        self.one_at.filter(|at| *at <= now.instant)?;
        self.one_at = (!self.values.is_empty()).then(|| now.instant + self.pace());
        Some(self.keys())
    }

    /// A look-up of this node's own record, one at a time, some time after it went out.
    pub(super) fn take_check(&mut self, next: &mut u64, now: Now) -> Option<Action> {
        self.check_at.filter(|at| *at <= now.instant)?;
        let Some(key) = self.to_check.pop() else {
            self.check_at = None;
            return None;
        };
        let query = Query::take(next);
        self.checks.push(query);
        // Those of the last rounds; what comes later than that says nothing new.
        let old = self.checks.len().saturating_sub(32);
        self.checks.drain(..old);
        let gently = self.gently;
        Some(Action::Get { query, key, gently })
    }

    pub(super) fn is_check(&self, query: Query) -> bool {
        self.checks.contains(&query)
    }

    /// Somebody shows a record that lies under a key of this node. One with a higher number than the last would keep
    /// this node's own from being stored, so this node jumps above it.
    pub(super) fn see(&mut self, groups: &[Group], value: &[u8], now: Now) {
        let Ok(claimed) = shelf::claimed_key(value) else {
            return;
        };
        let key = OuterRecord::dht_key(&claimed);
        let Ok(outer) = shelf::judge(&key.0, value, None) else {
            return;
        };
        let own = self.values.iter().find(|(_, (own, _))| *own == key);
        let Some((network, (_, mine))) = own else {
            return;
        };
        let sent = shelf::judge(&key.0, mine, None).map_or(0, |mine| mine.seq);
        // Signed by this node: another copy of its state ran further than this one.
        let me = self.identity.node_id();
        let secret = groups
            .iter()
            .find(|g| g.network == *network)
            .and_then(|g| g.secrets.first());
        if let Some(secret) = secret
            && let Ok(inner) = open(value, secret, &me, now.day())
            && (inner.record.boot, inner.record.seq) > (self.boot, self.counter)
        {
            self.boot = self.boot.max(inner.record.boot);
            self.counter = self.counter.max(inner.record.seq);
            self.soon(now.instant);
        }
        if outer.seq > sent && outer.seq < u64::MAX {
            let floor = self.floors.entry(key).or_default();
            *floor = (*floor).max(outer.seq);
            self.soon(now.instant);
        }
    }

    /// What went out last in a network.
    pub(super) fn value(&self, network: &NetworkId) -> Option<&[u8]> {
        self.values.get(network).map(|(_, value)| value.as_slice())
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.due, self.check_at, self.one_at];
        times.into_iter().flatten().min()
    }
}
