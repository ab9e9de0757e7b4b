//! The rtnetlink requests the node makes, and how their errors read. One short-lived connection per use: they are rare,
//! and a socket belongs to the network namespace of the thread that opened it.
//!
//! **No route is added that could take a packet from another interface.** The connected routes that come with the two addresses are all that is needed, and the
//! machine's own multicast and broadcast stay where they were:
//! - unicast and the pool's broadcast address: the connected route of the IPv4 address, which carries the pool's
//!   prefix length, and the explicit broadcast address that is set with it;
//! - IPv4 multicast and 255.255.255.255 by a program that names the adapter (`IP_MULTICAST_IF`, `SO_BINDTODEVICE`) or
//!   binds to its address: Linux then sends on that interface without asking the routing table. A program that names
//!   nothing keeps the default route's interface, as before;
//! - IPv6 multicast: the kernel itself gives every multicast interface a route to `ff00::/8`, all with the same metric,
//!   and of equals the oldest wins. A laptop whose Wi-Fi came back after we started would lose its multicast to the
//!   adapter, so the adapter's route is moved behind all others ([`Netlink::yield_multicast`]).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use futures::TryStreamExt;
use rtnetlink::packet_route::address::{AddressHeaderFlags, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkMessage,
};
use rtnetlink::packet_route::route::{RouteAddress, RouteAttribute, RouteProtocol, RouteType};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use tokio::task::JoinHandle;

use kanpachi_common::Prefix;

use crate::platform::{PlatformError, range_around};

/// A route to less than this many bits is a default route in disguise (VPN clients halve or quarter 0.0.0.0/0), not a
/// network that this machine is part of.
const SHORTEST_REAL_ROUTE: u8 = 8;
/// The table of local, broadcast and multicast routes (`RT_TABLE_LOCAL`).
const LOCAL_TABLE: u32 = 255;
/// What the kernel gives its own multicast routes (`IP6_RT_PRIO_ADDRCONF`).
const KERNEL_METRIC: u32 = 256;
/// Behind whatever else there is. Each adapter has its own metric, which is this less its index: the kernel takes no two
/// routes of one metric, and several nodes may share a machine.
const LAST_METRIC: u32 = u32::MAX;
/// What the adapters of all nodes are known by (`IFLA_IFALIAS`).
const MARK: &str = "Kanpachi";
/// How often and how long to look for a route that the kernel adds from a work queue.
const ROUTE_POLL: Duration = Duration::from_millis(1);
const ROUTE_LIMIT: Duration = Duration::from_secs(5);

/// A connection to the kernel's network configuration.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: Handle,
    task: JoinHandle<()>,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Netlink {
    /// Connects; must run on a tokio runtime.
    pub(super) fn open() -> Result<Self, PlatformError> {
        let (connection, handle, _unsolicited) = rtnetlink::new_connection()
            .map_err(|source| system("open a netlink socket", source))?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// Marks the adapter as one of ours, sets the MTU, keeps the kernel from inventing link-local addresses, and brings the link up.
    ///
    /// Link-local addresses are in no roster, so peers would have to drop whatever is sent from one.
    pub(super) async fn bring_up(&self, index: u32, mtu: u16) -> Result<(), PlatformError> {
        let no_link_local = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
                vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
            )]))
            .build();
        if let Err(error) = self.handle.link().change(no_link_local).execute().await {
            // A kernel without IPv6 has nothing to invent.
            tracing::debug!(%error, "address generation mode not set");
        }
        let mark = LinkUnspec::new_with_index(index)
            .append_extra_attribute(LinkAttribute::IfAlias(MARK.to_owned()))
            .build();
        if let Err(error) = self.handle.link().change(mark).execute().await {
            tracing::debug!(%error, "other nodes on this machine may take the adapter for a network of its own");
        }
        let up = LinkUnspec::new_with_index(index)
            .mtu(u32::from(mtu))
            .multicast(true)
            .up()
            .build();
        self.handle
            .link()
            .change(up)
            .execute()
            .await
            .map_err(|error| refused("bring the adapter up", error))
    }

    /// Adds an address together with its connected route and, for IPv4, its broadcast address.
    pub(super) async fn add_address(
        &self,
        index: u32,
        address: IpAddr,
        len: u8,
    ) -> Result<(), PlatformError> {
        let mut request = self.handle.address().add(index, address, len);
        // The address belongs to our key: there is nobody to ask, and waiting would delay the first packet.
        request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        match request.execute().await.map_err(into_io) {
            Ok(()) => Ok(()),
            Err(error) if address.is_ipv6() && ipv6_is_off(&error) => {
                Err(PlatformError::Ipv6Disabled)
            }
            Err(source) => Err(system("give the adapter its address", source)),
        }
    }

    /// Moves the adapter's IPv6 multicast route behind those of all other interfaces. Programs that name the adapter
    /// still find it.
    pub(super) async fn yield_multicast(&self, index: u32) -> Result<(), PlatformError> {
        let route = |metric| {
            RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8)
                .output_interface(index)
                .table_id(LOCAL_TABLE)
                .kind(RouteType::Multicast)
                .protocol(RouteProtocol::Kernel)
                .priority(metric)
                .build()
        };
        let last = route(LAST_METRIC.saturating_sub(index));
        let added = self.handle.route().add(last).execute().await;
        added.map_err(|error| refused("set the adapter's multicast route", error))?;
        let removed = self
            .handle
            .route()
            .del(route(KERNEL_METRIC))
            .execute()
            .await;
        removed.map_err(|error| refused("replace the adapter's multicast route", error))
    }

    /// Waits until packets to an address of ours are taken as ours: for IPv6 the kernel adds that route a moment after
    /// it has acknowledged the address, and what arrives before is lost.
    pub(super) async fn wait_until_local(&self, address: Ipv6Addr) -> Result<(), PlatformError> {
        let end = tokio::time::Instant::now() + ROUTE_LIMIT;
        while !self.is_local(address).await? {
            if tokio::time::Instant::now() >= end {
                let source = io::Error::from(io::ErrorKind::TimedOut);
                return Err(system("make the adapter's IPv6 address usable", source));
            }
            tokio::time::sleep(ROUTE_POLL).await;
        }
        Ok(())
    }

    async fn is_local(&self, address: Ipv6Addr) -> Result<bool, PlatformError> {
        let query = RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(address, 128)
            .build();
        let mut answer = std::pin::pin!(self.handle.route().get(query).execute());
        let route = answer
            .try_next()
            .await
            .map_err(|error| refused("look up a route", error))?;
        Ok(route.is_some_and(|route| route.header.kind == RouteType::Local))
    }

    /// Removes an interface with all its addresses and routes; one that is gone already is no error.
    pub(super) async fn remove_link(&self, index: u32) -> Result<(), PlatformError> {
        match self
            .handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(into_io)
        {
            Err(source) if source.raw_os_error() != Some(libc::ENODEV) => {
                Err(system("remove the adapter", source))
            }
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// All interfaces.
    pub(super) async fn links(&self) -> Result<Vec<LinkMessage>, PlatformError> {
        let links = self.handle.link().get().execute().try_collect();
        links
            .await
            .map_err(|error| refused("list the interfaces", error))
    }

    /// All addresses of all interfaces.
    pub(super) async fn addresses(&self) -> Result<Vec<AddressMessage>, PlatformError> {
        let addresses = self.handle.address().get().execute().try_collect();
        addresses
            .await
            .map_err(|error| refused("list the addresses", error))
    }

    /// IPv4 networks that this machine reaches through an interface, with the interface's index.
    pub(super) async fn ipv4_networks(&self) -> Result<Vec<(Prefix, u32)>, PlatformError> {
        let query = RouteMessageBuilder::<Ipv4Addr>::new().build();
        let mut routes = self.handle.route().get(query).execute();
        let mut networks = Vec::new();
        while let Some(route) = routes
            .try_next()
            .await
            .map_err(|error| refused("list the routes", error))?
        {
            let len = route.header.destination_prefix_length;
            // `Local` are the machine's own addresses, also those without a connected route.
            if !matches!(route.header.kind, RouteType::Unicast | RouteType::Local)
                || len < SHORTEST_REAL_ROUTE
            {
                continue;
            }
            let destination = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                        range_around(IpAddr::V4(*address), len)
                    }
                    _ => None,
                });
            let interface = route
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    RouteAttribute::Oif(index) => Some(*index),
                    _ => None,
                });
            networks.extend(destination.zip(interface));
        }
        Ok(networks)
    }
}

/// Is this the adapter of a node, of whichever on this machine?
pub(super) fn is_ours(link: &LinkMessage) -> bool {
    let mut attributes = link.attributes.iter();
    attributes.any(|a| matches!(a, LinkAttribute::IfAlias(alias) if alias == MARK))
}

/// What the kernel says when `disable_ipv6` is set or there is no IPv6 at all.
fn ipv6_is_off(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EACCES
                | libc::EAFNOSUPPORT
                | libc::EOPNOTSUPP
                | libc::EADDRNOTAVAIL
                | libc::ENODEV
        )
    )
}

/// An rtnetlink error as a [`PlatformError`]; a refusal for want of privilege is always the same one.
fn refused(doing: &'static str, error: rtnetlink::Error) -> PlatformError {
    system(doing, into_io(error))
}

/// A system error as a [`PlatformError`].
pub(super) fn system(doing: &'static str, source: io::Error) -> PlatformError {
    if source.raw_os_error() == Some(libc::EPERM) {
        return PlatformError::NoNetAdmin;
    }
    PlatformError::System { doing, source }
}

fn into_io(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
