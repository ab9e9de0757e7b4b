//! A NAT by itself: IPv4 packets in, translated IPv4 packets out. No device, no clock.
//!
//! It does what nftables cannot: filtering by address alone, no hairpinning although mappings are shared, mappings
//! forgotten after a time of one's choice. UDP, TCP and ICMP echo are translated, all else is dropped.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::behaviour::{Behaviour, Dependence, Ports};
use super::packet::{Packet, Side};
use crate::rng::Rng;

/// Mappings at once; who wants more gets nothing through.
const MAX_MAPPINGS: usize = 16_384;
/// Other ends that one mapping has sent to and remembers.
const MAX_CONTACTS: usize = 4_096;
/// How often old mappings are looked for.
const SWEEP: Duration = Duration::from_millis(50);
/// First port given out at random.
const FIRST_PORT: u16 = 1024;
/// What [`Ports::Shifted`] adds.
pub const SHIFT: u16 = 20_000;

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was translated: to the inside or to the outside, as its new destination says.
    Pass,
    /// No mapping, or its filter does not let it in, or it is not of a kind that is translated.
    Drop,
}

/// An address and a port, or the number of an echo.
type End = (Ipv4Addr, u16);

/// Who shares a mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    protocol: u8,
    inside: End,
    /// What of the other end matters; unspecified and 0 for what does not.
    remote: End,
}

#[derive(Debug)]
struct Mapping {
    key: Key,
    last_out: Instant,
    contacts: HashMap<End, Instant>,
}

/// The NAT.
#[derive(Debug)]
pub struct Nat {
    behaviour: Behaviour,
    public: Ipv4Addr,
    /// A mapping through which nothing has gone out for this long is forgotten.
    timeout: Duration,
    by_key: HashMap<Key, u16>,
    by_port: HashMap<(u8, u16), Mapping>,
    next_sweep: Option<Instant>,
    rng: Rng,
}

fn significant(dependence: Dependence, remote: End) -> End {
    match dependence {
        Dependence::EndpointIndependent => (Ipv4Addr::UNSPECIFIED, 0),
        Dependence::Address => (remote.0, 0),
        Dependence::AddressAndPort => remote,
    }
}

impl Nat {
    pub fn new(behaviour: Behaviour, public: Ipv4Addr, timeout: Duration, seed: u64) -> Self {
        Self {
            behaviour,
            public,
            timeout,
            by_key: HashMap::new(),
            by_port: HashMap::new(),
            next_sweep: None,
            rng: Rng::new(seed),
        }
    }

    /// Forgets all mappings, as a router does that was switched off and on.
    pub fn forget(&mut self) {
        self.by_key.clear();
        self.by_port.clear();
    }

    /// Translates one packet in place. Whether it comes from inside is told by its destination and source.
    pub fn translate(&mut self, data: &mut [u8], now: Instant) -> Fate {
        let Some(mut packet) = Packet::parse(data) else {
            return Fate::Drop;
        };
        self.expire(now);
        let from_inside =
            packet.end(Side::Source).0.is_private() || is_shared(packet.end(Side::Source).0);
        if !from_inside {
            return self.inbound(&mut packet, now);
        }
        let turns_back = packet.end(Side::Destination).0 == self.public;
        if turns_back && !self.behaviour.hairpin {
            return Fate::Drop;
        }
        match self.outbound(&mut packet, now) {
            Fate::Pass if turns_back => self.inbound(&mut packet, now),
            fate => fate,
        }
    }

    fn outbound(&mut self, packet: &mut Packet<'_>, now: Instant) -> Fate {
        if !packet.may_start() {
            return Fate::Drop;
        }
        let (inside, remote) = (packet.end(Side::Source), packet.remote(Side::Destination));
        let key = Key {
            protocol: packet.protocol(),
            inside,
            remote: significant(self.behaviour.mapping, remote),
        };
        let Some(port) = self.port_of(key, now) else {
            return Fate::Drop;
        };
        let Some(mapping) = self.by_port.get_mut(&(key.protocol, port)) else {
            return Fate::Drop;
        };
        mapping.last_out = now;
        if mapping.contacts.len() < MAX_CONTACTS || mapping.contacts.contains_key(&remote) {
            mapping.contacts.insert(remote, now);
        }
        packet.set_end(Side::Source, (self.public, port));
        Fate::Pass
    }

    fn inbound(&mut self, packet: &mut Packet<'_>, now: Instant) -> Fate {
        let (remote, outside) = (packet.remote(Side::Source), packet.end(Side::Destination));
        if outside.0 != self.public || !packet.may_answer() {
            return Fate::Drop;
        }
        let Some(mapping) = self.by_port.get(&(packet.protocol(), outside.1)) else {
            return Fate::Drop;
        };
        let filter = self.behaviour.filtering;
        let wanted = significant(filter, remote);
        let alive = |at: &Instant| now < *at + self.timeout;
        let known = filter == Dependence::EndpointIndependent
            || mapping
                .contacts
                .iter()
                .any(|(contact, at)| alive(at) && significant(filter, *contact) == wanted);
        if !known {
            return Fate::Drop;
        }
        packet.set_end(Side::Destination, mapping.key.inside);
        Fate::Pass
    }

    fn port_of(&mut self, key: Key, now: Instant) -> Option<u16> {
        if let Some(port) = self.by_key.get(&key) {
            return Some(*port);
        }
        if self.by_port.len() >= MAX_MAPPINGS {
            return None;
        }
        let port = self.free_port(key);
        let mapping = Mapping {
            key,
            last_out: now,
            contacts: HashMap::new(),
        };
        self.by_port.insert((key.protocol, port), mapping);
        self.by_key.insert(key, port);
        Some(port)
    }

    /// Ends, as there are more ports than mappings.
    fn free_port(&mut self, key: Key) -> u16 {
        let wish = match self.behaviour.ports {
            Ports::Preserved => Some(key.inside.1),
            Ports::Shifted => Some(key.inside.1.wrapping_add(SHIFT)),
            Ports::Random => None,
        };
        let is_free = |port: &u16| !self.by_port.contains_key(&(key.protocol, *port));
        if let Some(port) = wish.filter(is_free) {
            return port;
        }
        loop {
            let range = u64::from(u16::MAX - FIRST_PORT);
            let port = FIRST_PORT + self.rng.below(range) as u16;
            if !self.by_port.contains_key(&(key.protocol, port)) {
                return port;
            }
        }
    }

    fn expire(&mut self, now: Instant) {
        if self.next_sweep.is_some_and(|at| now < at) {
            return;
        }
        self.next_sweep = Some(now + SWEEP);
        let (timeout, by_key) = (self.timeout, &mut self.by_key);
        self.by_port.retain(|_, mapping| {
            let keep = now < mapping.last_out + timeout;
            if !keep {
                by_key.remove(&mapping.key);
            }
            keep
        });
    }
}

/// The addresses between a carrier and its customers (RFC 6598).
fn is_shared(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    a == 100 && (64..128).contains(&b)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
