//! Addresses in libp2p's words and in the system's.

use std::net::{IpAddr, SocketAddr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

fn ip(addr: IpAddr) -> Multiaddr {
    Multiaddr::from(addr.to_canonical())
}

/// The QUIC address of a socket address.
pub(in crate::daemon) fn quic_addr(addr: SocketAddr) -> Multiaddr {
    ip(addr.ip())
        .with(Protocol::Udp(addr.port()))
        .with(Protocol::QuicV1)
}

/// The TCP address of a socket address.
pub(in crate::daemon) fn tcp_addr(addr: SocketAddr) -> Multiaddr {
    ip(addr.ip()).with(Protocol::Tcp(addr.port()))
}

/// The WebSocket address of a socket address.
pub(in crate::daemon) fn web_addr(addr: SocketAddr) -> Multiaddr {
    tcp_addr(addr).with(Protocol::Ws("/".into()))
}

/// The UDP socket address of a direct QUIC address; `None` for circuits and other transports.
pub(super) fn quic_socket_addr(addr: &Multiaddr) -> Option<SocketAddr> {
    let mut parts = addr.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    let Protocol::Udp(port) = parts.next()? else {
        return None;
    };
    let direct = matches!(parts.next()?, Protocol::QuicV1)
        && !parts.any(|p| matches!(p, Protocol::P2pCircuit));
    direct.then(|| SocketAddr::new(ip.to_canonical(), port))
}

/// The addresses of a node that are worth dialling: QUIC where it has any, and not those that only its own machine
/// reaches. All addresses of a peer are dialled at once, and two connections to everybody would be one too many.
pub(super) fn dialable(addrs: &[Multiaddr]) -> impl Iterator<Item = &Multiaddr> {
    let any = addrs.iter().any(|addr| quic_socket_addr(addr).is_some());
    addrs
        .iter()
        .filter(move |addr| !any || quic_socket_addr(addr).is_some_and(|at| !at.ip().is_loopback()))
}

/// The relay in a circuit address.
pub(super) fn relay_of(addr: &Multiaddr) -> Option<PeerId> {
    let mut parts = addr.iter();
    let relay = parts.find_map(|p| {
        if let Protocol::P2p(peer) = p {
            Some(peer)
        } else {
            None
        }
    })?;
    parts
        .any(|p| matches!(p, Protocol::P2pCircuit))
        .then_some(relay)
}
