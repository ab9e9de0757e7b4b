//! One router, and the ports that it is to forward.
//!
//! PCP is asked first, and NAT-PMP beside it; the first that grants is stayed with. A mapping is renewed when half of its
//! time is over, and asked for anew at once when the router has forgotten everything (its epoch fell, RFC 6887 §8.5).

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use rand_chacha::ChaCha20Rng;
use rand_core::{Rng as _, SeedableRng as _};

use super::{
    LIFETIME, Mapping, Wanted, is_public,
    wire::{Answer, decode, pcp_map, pmp_address, pmp_map},
};

/// Ports at the most.
const MAX_WANTED: usize = 8;
/// Times that a question is asked.
const TRIES: u32 = 4;
/// Between the first two; then twice as long each time.
const SPACING: Duration = Duration::from_millis(250);
/// After this PCP is not waited for any longer when NAT-PMP has answered.
const PREFERENCE: Duration = Duration::from_millis(400);
/// Without any answer everything is tried again after this.
const RETRY: Duration = Duration::from_secs(600);
/// No mapping is renewed more often, whatever the router says.
const MIN_LIFETIME: u32 = 120;
/// Seconds that an epoch may be off.
const EPOCH_SLACK: u64 = 3;

/// What the router speaks; `None` while that is being found out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offers {
    /// PCP.
    pub pcp: Option<bool>,
    /// NAT-PMP.
    pub nat_pmp: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Pcp,
    Pmp,
}

#[derive(Debug)]
struct Entry {
    wanted: Wanted,
    nonce: [u8; 12],
    /// What was granted, and until when.
    granted: Option<(SocketAddrV4, Instant)>,
    next: Instant,
    tries: u32,
}

/// Asks one router for mappings.
#[derive(Debug)]
pub struct Mapper {
    client: Ipv4Addr,
    entries: Vec<Entry>,
    offers: Offers,
    method: Option<Method>,
    /// NAT-PMP: the router's public address.
    address: Option<Ipv4Addr>,
    began: Instant,
    epoch: Option<(u32, Instant)>,
    transmits: VecDeque<Vec<u8>>,
    changed: bool,
}

impl Mapper {
    /// Starts. `client` is the address of this machine towards the router; the seed is random and used once.
    #[must_use]
    pub fn new(client: Ipv4Addr, wanted: &[Wanted], seed: [u8; 32], now: Instant) -> Self {
        let mut rng = ChaCha20Rng::from_seed(seed);
        let entry = |wanted: &Wanted| {
            let mut nonce = [0; 12];
            rng.fill_bytes(&mut nonce);
            Entry {
                wanted: *wanted,
                nonce,
                granted: None,
                next: now,
                tries: 0,
            }
        };
        let mut mapper = Self {
            client,
            entries: wanted.iter().take(MAX_WANTED).map(entry).collect(),
            offers: Offers::default(),
            method: None,
            address: None,
            began: now,
            epoch: None,
            transmits: VecDeque::new(),
            changed: false,
        };
        mapper.handle_timeout(now);
        mapper
    }

    /// What the router forwards.
    pub fn mappings(&self) -> impl Iterator<Item = Mapping> {
        self.entries.iter().filter_map(|entry| {
            let (external, _) = entry.granted?;
            Some(Mapping {
                wanted: entry.wanted,
                external,
            })
        })
    }

    /// What the router speaks.
    #[must_use]
    pub const fn offers(&self) -> Offers {
        self.offers
    }

    /// Did mappings or offers change since this was asked last?
    pub fn poll_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// A datagram for the router.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.transmits.pop_front()
    }

    /// When to call [`Self::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.entries.iter().map(|entry| entry.next).min()
    }

    /// Gives all mappings back.
    pub fn release(&mut self) {
        self.transmits.clear();
        for entry in &mut self.entries {
            if let Some((external, _)) = entry.granted.take() {
                let port = external.port();
                self.transmits.push_back(match self.method {
                    Some(Method::Pmp) => pmp_map(entry.wanted, port, 0),
                    _ => pcp_map(entry.wanted, entry.nonce, self.client, port, 0),
                });
            }
        }
    }

    /// Time passed: asks, renews, gives up.
    pub fn handle_timeout(&mut self, now: Instant) {
        let probing = self.method.is_none();
        let mut ask_address = false;
        let mut over = false;
        for at in 0..self.entries.len() {
            let entry = &mut self.entries[at];
            if entry.granted.is_some_and(|(_, until)| until <= now) {
                entry.granted = None;
                self.changed = true;
            }
            if entry.next > now {
                continue;
            }
            if entry.tries == TRIES {
                over |= entry.granted.is_none();
                entry.tries = 0;
                entry.next = entry
                    .granted
                    .map_or(now + RETRY, |(_, until)| later(now, until));
                continue;
            }
            entry.next = now + SPACING * 2_u32.pow(entry.tries);
            entry.tries += 1;
            ask_address |= self.method != Some(Method::Pcp);
            self.ask(at);
        }
        if ask_address {
            self.transmits.push_back(pmp_address());
        }
        if over && probing {
            self.conclude();
        } else if over {
            // Whoever granted before does not answer any more: everything is open again at the next try.
            self.method = None;
        }
    }

    /// The answers that have not come will not come.
    fn conclude(&mut self) {
        let before = self.offers;
        self.offers.pcp = self.offers.pcp.or(Some(false));
        self.offers.nat_pmp = self.offers.nat_pmp.or(Some(false));
        self.changed |= self.offers != before;
    }

    fn ask(&mut self, at: usize) {
        let entry = &self.entries[at];
        let external = entry.granted.map_or(entry.wanted.port, |(a, _)| a.port());
        if self.method != Some(Method::Pmp) {
            let (nonce, client) = (entry.nonce, self.client);
            let request = pcp_map(entry.wanted, nonce, client, external, LIFETIME);
            self.transmits.push_back(request);
        } else {
            let request = pmp_map(entry.wanted, external, LIFETIME);
            self.transmits.push_back(request);
        }
    }

    /// A datagram from the router's address and port.
    pub fn handle_datagram(&mut self, data: &[u8], now: Instant) {
        let Some(answer) = decode(data) else { return };
        let before = self.offers;
        match answer {
            Answer::Address { ip, epoch } => {
                self.offers.nat_pmp = Some(true);
                self.note_epoch(epoch, now);
                self.address = is_public(ip).then_some(ip);
                let waited = now.saturating_duration_since(self.began) >= PREFERENCE;
                if self.method.is_none() && (waited || self.offers.pcp.is_some()) {
                    self.prefer_pmp(now);
                }
            }
            Answer::PmpMapped {
                wanted,
                port,
                lifetime,
                epoch,
            } => {
                self.note_epoch(epoch, now);
                if let (Some(Method::Pmp), Some(ip)) = (self.method, self.address) {
                    self.grant(wanted, None, SocketAddrV4::new(ip, port), lifetime, now);
                }
            }
            // A router that knows NAT-PMP alone answers PCP so (RFC 6887 §9).
            Answer::PmpRefused if self.method.is_none() && self.offers.nat_pmp == Some(true) => {
                self.prefer_pmp(now);
            }
            Answer::PmpRefused => {}
            Answer::PcpMapped {
                wanted,
                nonce,
                ip,
                port,
                lifetime,
                epoch,
            } => {
                self.offers.pcp = Some(true);
                self.note_epoch(epoch, now);
                if self.method != Some(Method::Pmp) {
                    let external = SocketAddrV4::new(ip, port);
                    self.grant(wanted, Some(nonce), external, lifetime, now);
                }
            }
            Answer::PcpRefused => {
                self.offers.pcp = Some(true);
                if self.method.is_none() && self.address.is_some() {
                    self.prefer_pmp(now);
                }
            }
        }
        self.changed |= self.offers != before;
    }

    fn prefer_pmp(&mut self, now: Instant) {
        self.method = Some(Method::Pmp);
        self.offers.pcp = self.offers.pcp.or(Some(false));
        self.ask_all(now);
    }

    fn ask_all(&mut self, now: Instant) {
        for entry in &mut self.entries {
            (entry.tries, entry.next) = (0, now);
        }
        self.handle_timeout(now);
    }

    fn grant(
        &mut self,
        wanted: Wanted,
        nonce: Option<[u8; 12]>,
        external: SocketAddrV4,
        lifetime: u32,
        now: Instant,
    ) {
        let usable = is_public(*external.ip()) && external.port() != 0 && lifetime > 0;
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.wanted == wanted && nonce.is_none_or(|nonce| nonce == entry.nonce));
        let Some(entry) = entry.filter(|_| usable) else {
            return;
        };
        let lifetime = Duration::from_secs(lifetime.clamp(MIN_LIFETIME, LIFETIME).into());
        self.changed |= entry.granted.map(|(known, _)| known) != Some(external);
        entry.granted = Some((external, now + lifetime));
        (entry.tries, entry.next) = (0, now + lifetime / 2);
        if nonce.is_some() {
            self.method = Some(Method::Pcp);
        }
    }

    /// A router whose clock fell has started anew and knows no mapping any more.
    fn note_epoch(&mut self, epoch: u32, now: Instant) {
        let before = self.epoch.replace((epoch, now));
        let Some((then, at)) = before else { return };
        let passed = now.saturating_duration_since(at).as_secs();
        let expected = u64::from(then) + passed * 7 / 8;
        if u64::from(epoch) + EPOCH_SLACK < expected && self.method.is_some() {
            self.ask_all(now);
        }
    }
}

/// When a renewal that was not answered is tried again: in half of the time that is left, or at the end of it.
fn later(now: Instant, until: Instant) -> Instant {
    let left = until.saturating_duration_since(now);
    if left > Duration::from_secs(120) {
        now + left / 2
    } else {
        until
    }
}
