//! Where this machine can be reached: what the operator says, then what its interfaces have.

use std::{
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use kanpachi_common::{
    Prefix,
    org::{Address, MAX_ADDRESSES, transports},
};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags};
use thiserror::Error;

/// An address that the operator vouches for: `HOST`, `HOST:PORT`, `IPV6`, `[IPV6]:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advertise {
    /// IP address or DNS name.
    pub host: String,
    /// Port; the one that is listened on when absent.
    pub port: Option<u16>,
}

/// Why a text is no address to advertise.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is not an address: use HOST, HOST:PORT or [IPV6]:PORT")]
pub struct AdvertiseError(String);

impl FromStr for Advertise {
    type Err = AdvertiseError;

    fn from_str(text: &str) -> Result<Self, AdvertiseError> {
        let wrong = || AdvertiseError(text.to_owned());
        let port = |text: &str| {
            text.parse::<u16>()
                .ok()
                .filter(|p| *p != 0)
                .ok_or_else(wrong)
        };
        let (host, port) = if text.parse::<Ipv6Addr>().is_ok() {
            (text, None)
        } else if let Some(rest) = text.strip_prefix('[') {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            match rest.strip_prefix(':') {
                Some(text) => (host, Some(port(text)?)),
                None if rest.is_empty() => (host, None),
                None => return Err(wrong()),
            }
        } else {
            match text.rsplit_once(':') {
                Some((host, text)) => (host, Some(port(text)?)),
                None => (text, None),
            }
        };
        let ipv6 = host.parse::<Ipv6Addr>().is_ok();
        if (host.contains(':') && !ipv6) || Address::new(host, 1).check().is_err() {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// What is known of an interface address, as far as it matters here.
#[derive(Clone, Debug)]
struct Local {
    ip: IpAddr,
    interface: String,
}

/// Everything to tell others: advertised addresses first, then those of the interfaces, publics before private
/// ones. Nothing that lies in `overlay`, no loopback, no link-local address. At most [`MAX_ADDRESSES`].
///
/// `tcp_ports` are TCP alone, except for one that equals `udp_port`.
#[must_use]
pub fn reachable(
    advertise: &[Advertise],
    udp_port: u16,
    tcp_ports: &[u16],
    overlay: &[Prefix],
) -> Vec<Address> {
    arrange(advertise, &locals(), udp_port, tcp_ports, overlay)
}

fn arrange(
    advertise: &[Advertise],
    locals: &[Local],
    udp_port: u16,
    tcp_ports: &[u16],
    overlay: &[Prefix],
) -> Vec<Address> {
    let tcp = |port| match tcp_ports {
        [] => 0,
        _ => transports::of_tcp(port),
    };
    let mut all: Vec<Address> = advertise
        .iter()
        .map(|a| Address {
            host: a.host.clone(),
            port: a.port.unwrap_or(udp_port),
            transports: match a.port {
                // Behind a forwarded port, whatever is served here is taken to be forwarded.
                Some(port) if port != udp_port => transports::QUIC | tcp(port),
                _ => served(udp_port, udp_port, tcp_ports),
            },
        })
        .collect();
    let usable = |l: &&Local| is_usable(l.ip) && !overlay.iter().any(|p| p.contains(l.ip));
    let mut own: Vec<&Local> = locals.iter().filter(usable).collect();
    own.sort_by_key(|local| rank(local));
    for port in std::iter::once(udp_port).chain(tcp_ports.iter().copied()) {
        all.extend(own.iter().map(|local| Address {
            host: local.ip.to_string(),
            port,
            transports: served(port, udp_port, tcp_ports),
        }));
    }
    let mut seen = Vec::new();
    all.retain(|a| {
        let new = a.transports != 0 && !seen.contains(&(a.host.clone(), a.port));
        seen.push((a.host.clone(), a.port));
        new
    });
    all.truncate(MAX_ADDRESSES);
    all
}

/// What is served at a port.
fn served(port: u16, udp_port: u16, tcp_ports: &[u16]) -> u8 {
    let quic = if port == udp_port {
        transports::QUIC
    } else {
        0
    };
    let tcp = if tcp_ports.contains(&port) {
        transports::of_tcp(port)
    } else {
        0
    };
    quic | tcp
}

fn is_usable(ip: IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(a) => a.is_link_local() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_unicast_link_local() || a.to_ipv4_mapped().is_some(),
    };
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() || link_local)
}

/// Publics first, real interfaces before those of containers and virtual machines, IPv4 before IPv6.
fn rank(local: &Local) -> (bool, bool, bool) {
    let public = Address::new(local.ip.to_string(), 1).is_public();
    let inner = ["docker", "br-", "virbr", "lxc", "podman", "cni"];
    let inner = inner.iter().any(|p| local.interface.starts_with(p));
    (inner, !public, local.ip.is_ipv6())
}

/// Addresses of interfaces that are up. When the system does not tell, there are none but the advertised ones.
fn locals() -> Vec<Local> {
    let all = match getifaddrs() {
        Ok(all) => all,
        Err(error) => {
            tracing::warn!(%error, "the addresses of this machine cannot be listed");
            return Vec::new();
        }
    };
    let up = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    all.filter(|i| i.flags.contains(up))
        .filter_map(|i| {
            let address = i.address?;
            let ip = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
                (Some(v4), _) => v4.ip().into(),
                (_, Some(v6)) => v6.ip().into(),
                _ => return None,
            };
            Some(Local {
                ip,
                interface: i.interface_name,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(ip: &str, interface: &str) -> Local {
        Local {
            ip: ip.parse().unwrap(),
            interface: interface.into(),
        }
    }

    fn hosts(all: &[Address]) -> Vec<String> {
        all.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn advertised_first_then_public_then_private() {
        let locals = [
            local("172.17.0.1", "docker0"),
            local("127.0.0.1", "lo"),
            local("192.168.1.5", "eth0"),
            local("fe80::1", "eth0"),
            local("2001:db8::5", "eth0"),
            local("198.19.3.4", "kanpachi0"),
            local("203.0.113.9", "eth1"),
        ];
        let advertise = [
            "vpn.example.org".parse().unwrap(),
            "[2001:db8::7]:443".parse().unwrap(),
        ];
        let overlay = ["198.19.0.0/16".parse().unwrap()];
        let all = arrange(&advertise, &locals, 12975, &[12975], &overlay);
        assert_eq!(
            hosts(&all),
            [
                "vpn.example.org:12975",
                "[2001:db8::7]:443",
                "203.0.113.9:12975",
                "[2001:db8::5]:12975",
                "192.168.1.5:12975",
                "172.17.0.1:12975"
            ]
        );
        let both = transports::QUIC | transports::TCP;
        let web = |a: &Address| a.transports & transports::WEBSOCKET != 0;
        assert!(all.iter().all(|a| a.transports & both == both));
        // Where HTTP is expected.
        assert!(all.iter().all(|a| web(a) == (a.port == 443)));
    }

    #[test]
    fn other_tcp_ports_are_addresses_of_their_own() {
        let locals = [local("203.0.113.9", "eth0")];
        let all = arrange(&[], &locals, 12975, &[443], &[]);
        assert_eq!(hosts(&all), ["203.0.113.9:12975", "203.0.113.9:443"]);
        assert_eq!(all[0].transports, transports::QUIC);
        assert_eq!(all[1].transports, transports::TCP | transports::WEBSOCKET);
        let twice = ["203.0.113.9".parse().unwrap()];
        assert_eq!(arrange(&twice, &locals, 12975, &[], &[]).len(), 1);
    }

    #[test]
    fn odd_texts_are_no_addresses() {
        for bad in [
            "", ":1", "a:0", "a:b", "a:1:2", "[::1", "[::1]x", "[x]:1", "a b", "a:70000",
        ] {
            assert!(bad.parse::<Advertise>().is_err(), "{bad}");
        }
        let good: Advertise = "::1".parse().unwrap();
        assert_eq!((good.host.as_str(), good.port), ("::1", None));
    }

    #[test]
    fn this_machine_lists_its_addresses() {
        assert!(locals().iter().any(|l| l.ip.is_loopback()));
    }
}
