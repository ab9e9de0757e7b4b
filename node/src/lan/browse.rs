//! Which hosts are there. What they say of themselves is not proved, only readable.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use kanpachi_common::{NodeId, OrgId, name, wire};
use mdns_sd::{ResolvedService, ServiceEvent};

use super::{SERVICE, txt};

/// The first answers come at once; a host that was busy answers a repeated question.
const ENOUGH: Duration = Duration::from_millis(1500);
const PATIENCE: Duration = Duration::from_secs(5);
/// Hosts shown at the most.
const MAX_HOSTS: usize = 32;
/// Addresses of one host at the most.
const MAX_ADDRESSES: usize = 8;

/// A host that says it is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) org: OrgId,
    pub(crate) host: NodeId,
    /// Name of the machine.
    pub(crate) name: String,
    /// Name of the network.
    pub(crate) network: String,
    /// Where, best first. Never empty.
    pub(crate) addresses: Vec<SocketAddr>,
    /// Its version of the code stream is spoken here.
    pub(crate) compatible: bool,
}

impl Found {
    /// By its name or one of its addresses, with or without the port.
    pub(crate) fn answers_to(&self, wanted: &str) -> bool {
        let folded = name::fold(wanted);
        name::fold(&self.name) == folded
            || self
                .addresses
                .iter()
                .any(|a| a.to_string() == wanted || a.ip().to_string() == wanted)
    }
}

/// Looks around for a while; blocks. With a wish it ends as soon as that is there.
pub(crate) fn look(interface: &str, wanted: Option<&str>) -> mdns_sd::Result<Vec<Found>> {
    let daemon = super::mdns(interface, Vec::new())?;
    let events = daemon.browse(SERVICE)?;
    let start = Instant::now();
    let mut hosts: Vec<Found> = Vec::new();
    loop {
        let enough = !hosts.is_empty() && wanted.is_none();
        let end = start + if enough { ENOUGH } else { PATIENCE };
        if wanted.is_some_and(|w| hosts.iter().any(|h| h.answers_to(w))) {
            break;
        }
        let Ok(event) = events.recv_timeout(end.saturating_duration_since(Instant::now())) else {
            break;
        };
        match event {
            ServiceEvent::ServiceResolved(service) => {
                if let Some(found) = read(&service) {
                    hosts.retain(|h| h.host != found.host);
                    hosts.push(found);
                    hosts.truncate(MAX_HOSTS);
                }
            }
            ServiceEvent::ServiceRemoved(_, gone) => {
                hosts.retain(|h| !gone.starts_with(&h.host.to_string()));
            }
            _ => {}
        }
    }
    // The process ends soon, and with it the thread that is told here.
    let _ = daemon.shutdown();
    hosts.sort_by(|a, b| (&a.name, &a.network, a.host).cmp(&(&b.name, &b.network, b.host)));
    Ok(hosts)
}

fn read(service: &ResolvedService) -> Option<Found> {
    let text = |key| service.get_property_val_str(key);
    let version: u16 = text(txt::VERSION)?.parse().ok()?;
    let mut addresses: Vec<SocketAddr> = service
        .addresses
        .iter()
        .map(mdns_sd::ScopedIp::to_ip_addr)
        .filter(|ip| usable(*ip))
        .map(|ip| SocketAddr::new(ip, service.port))
        .collect();
    addresses.sort_by_key(|a| (a.is_ipv6(), *a));
    addresses.truncate(MAX_ADDRESSES);
    if addresses.is_empty() || service.port == 0 {
        return None;
    }
    Some(Found {
        org: OrgId::parse(text(txt::ORG)?)?,
        host: NodeId::parse(text(txt::ID)?)?,
        name: name::check(text(txt::NAME)?).ok()?,
        network: name::check(text(txt::NETWORK)?).ok()?,
        addresses,
        compatible: wire::negotiate(version, version).is_some(),
    })
}

/// IPv6 link-local addresses need an interface that libp2p cannot be told.
fn usable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => !ip.is_loopback() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_answers_to_its_name_and_addresses() {
        let found = Found {
            org: OrgId([1; 32]),
            host: NodeId([2; 32]),
            name: "Desk".to_owned(),
            network: "lan".to_owned(),
            addresses: vec![
                "192.0.2.7:12975".parse().unwrap(),
                "[2001:db8::7]:12975".parse().unwrap(),
            ],
            compatible: true,
        };
        for wanted in [
            "desk",
            "Desk",
            "192.0.2.7",
            "192.0.2.7:12975",
            "2001:db8::7",
        ] {
            assert!(found.answers_to(wanted), "{wanted}");
        }
        for other in ["des", "lan", "192.0.2.70", "192.0.2.7:1", ""] {
            assert!(!found.answers_to(other), "{other}");
        }
    }

    #[test]
    fn link_local_addresses_are_passed_over() {
        assert!(usable("169.254.1.1".parse().unwrap()));
        assert!(!usable("fe80::1".parse().unwrap()));
        assert!(!usable("127.0.0.1".parse().unwrap()));
    }
}
