//! Broadcast and multicast: who gets a packet, and how often.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use crate::netns::Netns;

/// A socket that hears what is sent to a port, and to a group if it joined one.
#[derive(Debug)]
pub struct Listener {
    socket: UdpSocket,
}

impl Listener {
    /// Hears broadcasts (and unicast) to an IPv4 port.
    pub fn broadcast(ns: &Netns, port: u16) -> Result<Self> {
        ns.run(|| Self::bind((Ipv4Addr::UNSPECIFIED, port).into()))
    }

    /// Hears a group on one interface; `interface_v4` is that interface's IPv4 address.
    pub fn multicast(
        ns: &Netns,
        group: IpAddr,
        port: u16,
        interface: &str,
        interface_v4: Ipv4Addr,
    ) -> Result<Self> {
        ns.run(|| {
            let any = if group.is_ipv4() {
                IpAddr::from([0u8; 4])
            } else {
                IpAddr::from([0u16; 8])
            };
            let listener = Self::bind((any, port).into())?;
            match group {
                IpAddr::V4(group) => listener.socket.join_multicast_v4(&group, &interface_v4),
                IpAddr::V6(group) => listener
                    .socket
                    .join_multicast_v6(&group, nix::net::if_::if_nametoindex(interface)?),
            }
            .with_context(|| format!("join {group} on {interface}"))?;
            Ok(listener)
        })
    }

    fn bind(address: SocketAddr) -> Result<Self> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        socket.set_reuse_address(true)?;
        socket
            .bind(&address.into())
            .with_context(|| format!("bind {address}"))?;
        Ok(Self {
            socket: socket.into(),
        })
    }

    /// Collects packets until one arrives that equals `last`, or until `limit` has passed.
    pub fn until(&self, last: &[u8], limit: Duration) -> Result<Vec<(Vec<u8>, SocketAddr)>> {
        let (deadline, mut heard, mut buffer) = (
            Instant::now() + crate::wait::scaled(limit),
            Vec::new(),
            [0u8; 65_536],
        );
        while let Some(left) = deadline
            .checked_duration_since(Instant::now())
            .filter(|left| !left.is_zero())
        {
            self.socket.set_read_timeout(Some(left))?;
            let Ok((length, from)) = self.socket.recv_from(&mut buffer) else {
                continue;
            };
            heard.push((buffer[..length].to_vec(), from));
            if &buffer[..length] == last {
                break;
            }
        }
        Ok(heard)
    }
}

/// Sends one UDP packet from an interface to a broadcast, multicast or unicast address.
pub fn send(ns: &Netns, interface: &str, to: SocketAddr, data: &[u8]) -> Result<()> {
    ns.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        let index = nix::net::if_::if_nametoindex(interface)
            .with_context(|| format!("interface {interface}"))?;
        let to = match to {
            SocketAddr::V4(to) => {
                socket.set_broadcast(true)?;
                socket.bind_device(Some(interface.as_bytes()))?;
                SocketAddr::from(SocketAddrV4::new(*to.ip(), to.port()))
            }
            SocketAddr::V6(to) => {
                socket.set_multicast_if_v6(index)?;
                SocketAddr::from(SocketAddrV6::new(*to.ip(), to.port(), 0, index))
            }
        };
        socket
            .send_to(data, &to.into())
            .with_context(|| format!("send to {to}"))?;
        Ok(())
    })
}
