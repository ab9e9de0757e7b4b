//! Addresses as directories and invites have them (host, port, transports), as multiaddrs to dial.
//!
//! The transport itself resolves no names: who dials resolves, at the moment of dialling, so that a name that moves
//! is followed.

use std::{io, net::IpAddr, time::Duration};

use kanpachi_common::org::{Address, transports};
use libp2p::{Multiaddr, multiaddr::Protocol};

/// A name that takes longer to look up is not there. Resolvers retry after 5 s (resolv.conf(5)); this is one retry.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(8);
/// Addresses of one name that are used at the most.
const MAX_IPS: usize = 8;

/// The multiaddrs of a server at this IP address: QUIC first, then TCP and WebSocket, as far as the address says.
#[must_use]
pub fn multiaddrs(ip: IpAddr, address: &Address) -> Vec<Multiaddr> {
    let base = || {
        Multiaddr::empty().with(match ip.to_canonical() {
            IpAddr::V4(ip) => Protocol::Ip4(ip),
            IpAddr::V6(ip) => Protocol::Ip6(ip),
        })
    };
    let mut out = Vec::new();
    if address.transports & transports::QUIC != 0 {
        out.push(
            base()
                .with(Protocol::Udp(address.port))
                .with(Protocol::QuicV1),
        );
    }
    if address.transports & transports::TCP != 0 {
        out.push(base().with(Protocol::Tcp(address.port)));
    }
    if address.transports & transports::WEBSOCKET != 0 {
        let tcp = base().with(Protocol::Tcp(address.port));
        out.push(tcp.with(Protocol::Ws("/".into())));
    }
    out
}

/// Looks the host up, if it is a name, and returns what to dial.
///
/// # Errors
/// `NotFound` when the name has no address, `TimedOut`, or what the resolver says.
pub async fn resolve(address: &Address) -> io::Result<Vec<Multiaddr>> {
    if let Ok(ip) = address.host.parse::<IpAddr>() {
        return Ok(multiaddrs(ip, address));
    }
    let lookup = tokio::net::lookup_host((address.host.as_str(), address.port));
    let found = tokio::time::timeout(LOOKUP_TIMEOUT, lookup)
        .await
        .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in found.map(|addr| addr.ip()) {
        if !ips.contains(&ip) && ips.len() < MAX_IPS {
            ips.push(ip);
        }
    }
    if ips.is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    Ok(ips
        .into_iter()
        .flat_map(|ip| multiaddrs(ip, address))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn hosts_become_multiaddrs() {
        let text = |address: Address| async move {
            let found = resolve(&address).await.unwrap();
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(
            text(Address::new("192.0.2.7", 12975)).await,
            [
                "/ip4/192.0.2.7/udp/12975/quic-v1",
                "/ip4/192.0.2.7/tcp/12975"
            ]
        );
        let tcp_only = Address {
            transports: transports::TCP,
            ..Address::new("2001:db8::7", 443)
        };
        assert_eq!(text(tcp_only).await, ["/ip6/2001:db8::7/tcp/443"]);
        let local = text(Address::new("localhost", 1)).await;
        assert!(
            local.contains(&"/ip4/127.0.0.1/udp/1/quic-v1".to_owned()),
            "{local:?}"
        );
    }
}
