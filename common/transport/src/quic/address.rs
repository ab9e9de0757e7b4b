//! `/ip4/…/udp/PORT/quic-v1` and `/ip6/…` to and from socket addresses.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// The socket address in a QUIC multiaddr; a trailing `/p2p/…` is passed over. `None` for anything else.
#[must_use]
pub fn from_multiaddr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else {
        return None;
    };
    let Protocol::QuicV1 = parts.next()? else {
        return None;
    };
    match (parts.next(), parts.next()) {
        (None | Some(Protocol::P2p(_)), None) => Some((ip.to_canonical(), port).into()),
        _ => None,
    }
}

/// The multiaddr of a QUIC socket address.
#[must_use]
pub fn to_multiaddr(addr: SocketAddr) -> Multiaddr {
    Multiaddr::empty()
        .with(match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Protocol::Ip4(ip),
            IpAddr::V6(ip) => Protocol::Ip6(ip),
        })
        .with(Protocol::Udp(addr.port()))
        .with(Protocol::QuicV1)
}

/// Is it in fe80::/10 (RFC 4291 §2.5.6)?
pub(crate) fn is_link_local(ip: &Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_convert_both_ways() {
        for (text, socket) in [
            ("/ip4/192.0.2.1/udp/12975/quic-v1", "192.0.2.1:12975"),
            ("/ip6/2001:db8::1/udp/1/quic-v1", "[2001:db8::1]:1"),
        ] {
            let socket: SocketAddr = socket.parse().unwrap();
            assert_eq!(from_multiaddr(&text.parse().unwrap()), Some(socket));
            assert_eq!(to_multiaddr(socket).to_string(), text);
        }
        let peer = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";
        for (text, fine) in [
            (format!("/ip4/192.0.2.1/udp/1/quic-v1/p2p/{peer}"), true),
            (
                format!("/ip4/192.0.2.1/udp/1/quic-v1/p2p/{peer}/p2p-circuit"),
                false,
            ),
            ("/ip4/192.0.2.1/udp/1/quic".to_owned(), false),
            ("/ip4/192.0.2.1/udp/1".to_owned(), false),
            ("/ip4/192.0.2.1/tcp/1".to_owned(), false),
            ("/dns/example.com/udp/1/quic-v1".to_owned(), false),
        ] {
            assert_eq!(
                from_multiaddr(&text.parse().unwrap()).is_some(),
                fine,
                "{text}"
            );
        }
    }
}
