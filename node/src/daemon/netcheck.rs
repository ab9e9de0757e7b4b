//! Runs checks of the network on sockets of their own, for the daemon and for a command line without one.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use kanpachi_common::{
    Candidate, CandidateKind, NatBehaviour,
    nat::{Mapping, Prospect},
    org::Address,
};
use kanpachi_proto::netcheck::{Check, Outcome, Which};
use tokio::net::UdpSocket;

use crate::clock;
use crate::ipc::{
    api::{Path, Status},
    netcheck::{
        Family, NetcheckReply, Pair, PortMapping, Reflector, filtering_word, mapping_word,
        prospect_word,
    },
};

/// No check takes longer.
const DEADLINE: Duration = Duration::from_secs(30);
/// Pause after a failed read.
const ERROR_PAUSE: Duration = Duration::from_millis(20);

/// What was found out, by address family; `None` where there was no way to ask.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    pub(crate) v4: Option<Outcome>,
    pub(crate) v6: Option<Outcome>,
}

impl Report {
    /// Both families, best first.
    pub(crate) fn families(&self) -> impl Iterator<Item = &Outcome> {
        self.v4.iter().chain(&self.v6)
    }

    /// Did datagrams come back? `None` where nobody could be asked.
    pub(crate) fn udp(&self) -> Option<bool> {
        let asked = self.families().any(|o| !o.reflectors.is_empty());
        asked.then(|| self.families().any(|o| o.public.is_some()))
    }

    /// What peers are told: of IPv4 where that works, as NATs are there.
    pub(crate) fn nat(&self) -> Option<NatBehaviour> {
        match self.udp()? {
            true => self.families().find(|o| o.public.is_some()).map(|o| o.nat),
            false => Some(NatBehaviour {
                mapping: Mapping::Blocked,
                ..NatBehaviour::default()
            }),
        }
    }

    /// Is there a NAT on the way out by IPv4?
    pub(crate) fn behind_nat(&self) -> Option<bool> {
        self.v4.as_ref()?.translated
    }
}

/// Asks the reflectors, none of which is on this machine.
pub(crate) async fn run(reflectors: &[SocketAddr]) -> Report {
    let (v4, v6): (Vec<_>, Vec<_>) = reflectors.iter().copied().partition(SocketAddr::is_ipv4);
    let (v4, v6) = tokio::join!(family(&v4), family(&v6));
    Report { v4, v6 }
}

/// One family; `None` when nobody is to be asked, or this machine has no way to the reflectors.
async fn family(reflectors: &[SocketAddr]) -> Option<Outcome> {
    let local = source_towards(*reflectors.first()?).await?;
    let main = bind(local).await?;
    let second = bind(local).await?;
    let local = SocketAddr::new(local, main.local_addr().ok()?.port());
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).ok()?;
    let check = Check::new(reflectors, local, seed, clock::now());
    let checked = tokio::time::timeout(DEADLINE, drive(check, &main, &second)).await;
    checked.ok()
}

async fn drive(mut check: Check, main: &UdpSocket, second: &UdpSocket) -> Outcome {
    let (mut one, mut other) = ([0; 64], [0; 64]);
    loop {
        while let Some(transmit) = check.poll_transmit() {
            let socket = match transmit.socket {
                Which::Main => main,
                Which::Second => second,
            };
            // What is not sent is not answered, and asked again.
            let _ = socket.send_to(&transmit.data, transmit.to).await;
        }
        if let Some(outcome) = check.outcome() {
            return outcome.clone();
        }
        let (which, received, buffer) = tokio::select! {
            received = main.recv_from(&mut one) => (Which::Main, received, &one),
            received = second.recv_from(&mut other) => (Which::Second, received, &other),
            () = clock::until(check.poll_timeout()) => {
                check.handle_timeout(clock::now());
                continue;
            }
        };
        match received {
            Ok((len, from)) => {
                check.handle_datagram(which, from, &buffer[..len], clock::now());
            }
            Err(_) => tokio::time::sleep(ERROR_PAUSE).await,
        }
    }
}

async fn bind(local: IpAddr) -> Option<UdpSocket> {
    let any = unspecified(local);
    UdpSocket::bind((any, 0)).await.ok()
}

const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

/// The address that this machine would send from; `None` without a route. Nothing is sent.
pub(crate) async fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let socket = bind(to.ip()).await?;
    socket.connect(to).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// What the core task knows of the network.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) reply: NetcheckReply,
    pub(super) lacks: Lacks,
    pub(super) nat: NatBehaviour,
    /// By node id.
    pub(super) peers: BTreeMap<String, About>,
}

/// Families of which it is known that nothing gets out by them, and not only that nobody could be asked.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lacks {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

/// What is known of a peer.
#[derive(Debug)]
pub(super) struct About {
    pub(super) nat: Option<NatBehaviour>,
    pub(super) candidates: Vec<Candidate>,
}

/// A report in the words of the contract. Each reflector comes with the server that it belongs to.
pub(crate) fn reply(
    report: &Report,
    reflectors: &[(Option<String>, SocketAddr)],
    port_mapping: PortMapping,
    nat: NatBehaviour,
) -> NetcheckReply {
    let family = |outcome: &Option<Outcome>| {
        let outcome = outcome.as_ref();
        let address = outcome.and_then(|o| o.public);
        Family {
            works: address.is_some(),
            address,
            nat: outcome.and_then(|o| o.translated),
        }
    };
    let first = report.families().find(|o| o.public.is_some());
    let reached = |address: &SocketAddr| {
        let mut all = report.families().flat_map(|o| &o.reflectors);
        all.find(|r| r.reflector == *address).and_then(|r| r.rtt)
    };
    let mut reply = NetcheckReply {
        udp: report.udp(),
        ipv4: family(&report.v4),
        ipv6: family(&report.v6),
        filtering_exact: first.is_some_and(|o| o.exact_filtering),
        hairpinning: first.and_then(|o| o.hairpin),
        port_preserved: first.and_then(|o| o.port_preserved),
        port_mapping,
        proxy: proxy(),
        reflectors: reflectors
            .iter()
            .map(|(node_id, address)| Reflector {
                address: *address,
                node_id: node_id.clone(),
                latency_ms: reached(address).map(|rtt| rtt.as_secs_f64() * 1e3),
            })
            .collect(),
        ..NetcheckReply::default()
    };
    reply.conclude(nat);
    reply
}

/// The proxy that the environment names, without what may be secret in it.
fn proxy() -> Option<String> {
    let names = ["HTTPS_PROXY", "https_proxy"];
    let set = names.iter().find_map(|name| std::env::var(name).ok())?;
    let set = set.trim();
    let place = set.rsplit('@').next().unwrap_or(set);
    (!place.is_empty()).then(|| place.chars().take(256).collect())
}

/// Adds what can be had with each member.
pub(super) fn with_peers(facts: Facts, status: &Status) -> NetcheckReply {
    let mut reply = facts.reply;
    let own = (facts.nat, facts.lacks);
    let members = status.networks.iter().flat_map(|n| &n.members);
    let mut pairs: BTreeMap<(&str, &str), Pair> = BTreeMap::new();
    for member in members {
        let about = facts.peers.get(&member.node_id);
        let prospect = prospect(&reply, own, about, member.path);
        let nat = about.and_then(|about| about.nat);
        let pair = Pair {
            name: member.name.clone(),
            node_id: member.node_id.clone(),
            prospect: prospect_word(prospect).to_owned(),
            path: member.path,
            mapping: nat.map(|nat| mapping_word(nat.mapping).to_owned()),
            filtering: nat.map(|nat| filtering_word(nat.filtering).to_owned()),
        };
        pairs.entry((&member.name, &member.node_id)).or_insert(pair);
    }
    reply.peers = pairs.into_values().collect();
    reply
}

/// What can be had with one member. What works already can be had.
fn prospect(
    reply: &NetcheckReply,
    (own, lacks): (NatBehaviour, Lacks),
    about: Option<&About>,
    path: Option<Path>,
) -> Prospect {
    if matches!(path, Some(Path::Lan | Path::Direct)) {
        return Prospect::Direct;
    }
    if own.mapping == Mapping::Blocked {
        return Prospect::Relay;
    }
    let Some(about) = about else {
        return Prospect::Unknown;
    };
    let theirs = about.nat.unwrap_or_default();
    if theirs.mapping == Mapping::Blocked {
        return Prospect::Relay;
    }
    let is_public = |ip: IpAddr| Address::new(ip.to_string(), 1).is_public();
    let candidates = about.candidates.iter();
    let public: Vec<_> = candidates.filter(|c| is_public(c.addr.ip())).collect();
    if reply.ipv6.works && public.iter().any(|c| c.addr.is_ipv6()) {
        return Prospect::Direct;
    }
    let mut by_ipv4 = public.iter().filter(|c| c.addr.is_ipv4()).peekable();
    let by_ipv6 = !lacks.v6 && public.iter().any(|c| c.addr.is_ipv6());
    if !public.is_empty() && (lacks.v4 || by_ipv4.peek().is_none()) {
        // They speak no family in common, or one of which nobody could say whether it works.
        return if by_ipv6 {
            Prospect::Unknown
        } else {
            Prospect::Relay
        };
    }
    let outside = reply.ipv4.address.filter(|_| reply.ipv4.nat == Some(true));
    let behind_one = by_ipv4.peek().is_some()
        && outside.is_some_and(|own| by_ipv4.all(|c| c.addr.ip() == own.ip()));
    if behind_one && reply.hairpinning == Some(false) {
        // They meet behind that NAT or not at all, and whether they can is known when they have tried.
        return match path {
            Some(Path::Relay) => Prospect::Relay,
            _ => Prospect::Unknown,
        };
    }
    let mapped = public.iter().any(|c| c.kind == CandidateKind::Mapped);
    if mapped || reply.port_mapping.external.is_some() {
        return Prospect::Direct;
    }
    own.prospect(&theirs)
}

#[cfg(test)]
mod tests {
    use kanpachi_common::nat::Filtering;

    use super::*;

    const CONE: NatBehaviour = NatBehaviour {
        mapping: Mapping::EndpointIndependent,
        filtering: Filtering::AddressAndPortDependent,
    };

    fn family(address: &str, nat: bool) -> Family {
        Family {
            works: true,
            address: Some(address.parse().unwrap()),
            nat: Some(nat),
        }
    }

    fn at(kind: CandidateKind, addrs: &[&str]) -> About {
        let candidate = |addr: &&str| Candidate {
            addr: addr.parse().unwrap(),
            kind,
        };
        About {
            nat: Some(CONE),
            candidates: addrs.iter().map(candidate).collect(),
        }
    }

    fn home() -> NetcheckReply {
        NetcheckReply {
            udp: Some(true),
            ipv4: family("203.0.113.1:40000", true),
            hairpinning: Some(false),
            ..NetcheckReply::default()
        }
    }

    /// What can be had by somebody who lacks nothing but IPv6.
    fn prospect(reply: &NetcheckReply, about: &About, path: Option<Path>) -> Prospect {
        let lacks = Lacks {
            v4: !reply.ipv4.works,
            v6: !reply.ipv6.works,
        };
        super::prospect(reply, (CONE, lacks), Some(about), path)
    }

    #[test]
    fn who_could_ask_nobody_does_not_know_that_nothing_works() {
        let told = |about: &About, nat| {
            let own = (nat, Lacks::default());
            super::prospect(&NetcheckReply::default(), own, Some(about), None)
        };
        let nothing = NatBehaviour::default();
        let mapped = at(CandidateKind::Mapped, &["198.51.100.1:1"]);
        assert_eq!(told(&mapped, nothing), Prospect::Direct);
        let seen = at(CandidateKind::Reflexive, &["198.51.100.1:1"]);
        assert_eq!(told(&seen, nothing), Prospect::Unknown);
        assert_eq!(told(&seen, CONE), Prospect::Direct);
        let six = at(CandidateKind::Host, &["[2001:db8::1]:1"]);
        assert_eq!(told(&six, CONE), Prospect::Unknown);
    }

    #[test]
    fn who_speaks_no_family_in_common_has_a_relay() {
        let six = at(CandidateKind::Host, &["[2001:db8::1]:1"]);
        assert_eq!(prospect(&home(), &six, None), Prospect::Relay);
        let both = at(
            CandidateKind::Reflexive,
            &["[2001:db8::1]:1", "198.51.100.1:1"],
        );
        assert_eq!(prospect(&home(), &both, None), Prospect::Direct);
        let four = at(CandidateKind::Reflexive, &["198.51.100.1:1"]);
        let only_six = NetcheckReply {
            ipv4: Family::default(),
            ipv6: family("[2001:db8::2]:1", false),
            ..home()
        };
        assert_eq!(prospect(&only_six, &four, None), Prospect::Relay);
        assert_eq!(prospect(&only_six, &six, None), Prospect::Direct);
        // It has not said where it is.
        let nowhere = at(CandidateKind::Host, &[]);
        assert_eq!(prospect(&home(), &nowhere, None), Prospect::Direct);
    }

    #[test]
    fn who_is_behind_the_same_nat_meets_there_or_not_at_all() {
        let them = at(
            CandidateKind::Mapped,
            &["203.0.113.1:40001", "192.168.2.2:1"],
        );
        let told = |reply: &NetcheckReply, path| prospect(reply, &them, path);
        assert_eq!(told(&home(), None), Prospect::Unknown);
        assert_eq!(told(&home(), Some(Path::Relay)), Prospect::Relay);
        assert_eq!(told(&home(), Some(Path::Lan)), Prospect::Direct);
        let turns = NetcheckReply {
            hairpinning: Some(true),
            ..home()
        };
        assert_eq!(told(&turns, Some(Path::Relay)), Prospect::Direct);
        // It is elsewhere, too.
        let moved = at(
            CandidateKind::Mapped,
            &["203.0.113.1:40001", "198.51.100.7:1"],
        );
        assert_eq!(prospect(&home(), &moved, None), Prospect::Direct);
    }
}
