//! The machine's own addresses: candidates for the tunnels' paths, and what counts as the same LAN.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kanpachi_common::Prefix;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use tokio::sync::watch;
use tokio::time::Instant;

use super::netlink::{Netlink, is_ours, system};
use crate::platform::{AddressWatch, Exclude, LocalAddress, PlatformError, range_around};

/// Notifications come in bursts (a link goes up, then its addresses appear): wait this long for the rest of one.
const SETTLE: Duration = Duration::from_millis(100);
/// A burst that does not end is looked at anyway.
const SETTLE_LIMIT: Duration = Duration::from_millis(500);
/// A notification that the kernel dropped, which it does under floods of them only, delays us by at most this.
const REFRESH: Duration = Duration::from_secs(120);

/// What changes the list.
const GROUPS: [MulticastGroup; 3] = [
    MulticastGroup::Link,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
];

/// Lists the addresses that other machines could reach us at.
pub(super) async fn list(
    netlink: &Netlink,
    exclude: &Exclude,
) -> Result<Vec<LocalAddress>, PlatformError> {
    look(netlink, exclude).await.map(|seen| seen.list)
}

/// What the machine's interfaces tell.
struct Seen {
    list: Vec<LocalAddress>,
    /// Whether there is any network.
    network: bool,
    /// Networks of other nodes' adapters.
    others: Vec<Prefix>,
}

async fn look(netlink: &Netlink, exclude: &Exclude) -> Result<Seen, PlatformError> {
    let links = netlink.links().await?;
    let addresses = netlink.addresses().await?;
    let indices = |of: fn(&LinkMessage) -> bool| -> HashSet<u32> {
        let links = links.iter().filter(|link| of(link));
        links.map(|link| link.header.index).collect()
    };
    let (loopback, ours) = (indices(is_loopback), indices(is_ours));
    let up: HashMap<u32, String> = links.iter().filter_map(running).collect();
    let mut list: Vec<LocalAddress> = addresses
        .iter()
        .filter_map(|message| usable(message, &up, exclude))
        .collect();
    // What goes to the addresses of another node's adapter goes through its tunnels, and ours are not to lie in those.
    list.retain(|address| !ours.contains(&address.index));
    let network = !list.is_empty();
    list.retain(|address| !loopback.contains(&address.index));
    list.sort();
    list.dedup();
    let own = |index: &u32| {
        up.get(index)
            .is_some_and(|n| exclude.interfaces.contains(n))
    };
    let others = addresses
        .iter()
        .filter(|a| ours.contains(&a.header.index) && !own(&a.header.index))
        .filter_map(|message| Some(parse(message)?.1));
    Ok(Seen {
        list,
        network,
        others: others.collect(),
    })
}

/// Lists once and keeps the list current in a task of its own.
pub(super) async fn watch(exclude: Exclude) -> Result<AddressWatch, PlatformError> {
    // Listening starts before the first listing, so no change falls between the two.
    let (connection, _handle, events) = rtnetlink::new_multicast_connection(&GROUPS)
        .map_err(|source| system("listen for address changes", source))?;
    let connection = tokio::spawn(connection);
    let netlink = Netlink::open()?;
    let first = look(&netlink, &exclude).await?;
    let (list, receiver) = watch::channel(Arc::from(first.list));
    let (any, network) = watch::channel(first.network);
    let (aside, others) = watch::channel(Arc::from(first.others));
    let tell = Tell { list, any, aside };
    let task = tokio::spawn(async move {
        let _connection = AbortOnDrop(connection);
        keep_current(&netlink, &exclude, events.map(|_event| ()), &tell).await;
    });
    Ok(AddressWatch {
        receiver,
        network,
        others,
        task,
    })
}

/// Where the newest is told.
struct Tell {
    list: watch::Sender<Arc<[LocalAddress]>>,
    any: watch::Sender<bool>,
    aside: watch::Sender<Arc<[Prefix]>>,
}

async fn keep_current(
    netlink: &Netlink,
    exclude: &Exclude,
    events: impl futures::Stream<Item = ()>,
    tell: &Tell,
) {
    let mut events = std::pin::pin!(events.fuse());
    loop {
        tokio::select! {
            Some(()) = events.next() => {
                let limit = Instant::now() + SETTLE_LIMIT;
                while Instant::now() < limit
                    && matches!(tokio::time::timeout(SETTLE, events.next()).await, Ok(Some(())))
                {}
            }
            () = tokio::time::sleep(REFRESH) => {}
        }
        match look(netlink, exclude).await {
            Ok(now) => {
                // First, so that nothing of another node's is taken for a way.
                tell.aside.send_replace(now.others.into());
                tell.any.send_replace(now.network);
                tell.list.send_if_modified(|held| {
                    let changed = **held != *now.list;
                    if changed {
                        *held = now.list.into();
                    }
                    changed
                });
            }
            // The last known list stands until the kernel answers again.
            Err(error) => tracing::warn!(%error, "own addresses not listed"),
        }
        if tell.list.is_closed() {
            return;
        }
    }
}

fn is_loopback(link: &LinkMessage) -> bool {
    link.header.flags.contains(LinkFlags::Loopback)
}

/// Index and name of an interface that is up and has a carrier.
fn running(link: &LinkMessage) -> Option<(u32, String)> {
    let flags = link.header.flags;
    if !flags.contains(LinkFlags::Up | LinkFlags::LowerUp) {
        return None;
    }
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some((link.header.index, name.clone())),
            _ => None,
        })
}

fn usable(
    message: &AddressMessage,
    up: &HashMap<u32, String>,
    exclude: &Exclude,
) -> Option<LocalAddress> {
    let interface = up.get(&message.header.index)?;
    if !settled(message) {
        return None;
    }
    let (address, on_link) = parse(message)?;
    if !reachable(address) || exclude.covers(interface, address) {
        return None;
    }
    Some(LocalAddress {
        address,
        on_link,
        interface: interface.clone(),
        index: message.header.index,
    })
}

/// The address, and the network that it is on.
fn parse(message: &AddressMessage) -> Option<(IpAddr, Prefix)> {
    let (mut local, mut range) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(address) => local = Some(*address),
            // On a point-to-point link this is the other end, which is then the range.
            AddressAttribute::Address(address) => range = Some(*address),
            _ => {}
        }
    }
    let address = local.or(range)?;
    let on_link = range_around(range.unwrap_or(address), message.header.prefix_len)?;
    Some((address, on_link))
}

/// Not while duplicate address detection runs or has failed, and not when the address is being phased out.
fn settled(message: &AddressMessage) -> bool {
    let unusable = AddressFlags::Tentative | AddressFlags::Dadfailed | AddressFlags::Deprecated;
    let unusable_header = AddressHeaderFlags::Tentative
        | AddressHeaderFlags::Dadfailed
        | AddressHeaderFlags::Deprecated;
    let flagged = message
        .attributes
        .iter()
        .any(|attribute| matches!(attribute, AddressAttribute::Flags(flags) if flags.intersects(unusable)));
    !flagged && !message.header.flags.intersects(unusable_header)
}

/// IPv6 link-local addresses need an interface beside them, which a candidate does not carry.
fn reachable(address: IpAddr) -> bool {
    let link_local = |v6: Ipv6Addr| v6.segments()[0] & 0xffc0 == 0xfe80;
    match address {
        IpAddr::V4(v4) => !(v4.is_loopback() || v4.is_unspecified() || v4.is_multicast()),
        IpAddr::V6(v6) => {
            !(v6.is_loopback() || v6.is_unspecified() || v6.is_multicast() || link_local(v6))
        }
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_other_machine_can_reach_are_left_out() {
        for bad in [
            "127.0.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "::1",
            "::",
            "ff02::1",
            "fe80::1",
            "febf::1",
        ] {
            assert!(!reachable(bad.parse().unwrap()), "{bad}");
        }
        for good in [
            "192.0.2.1",
            "169.254.3.4",
            "10.0.0.1",
            "2001:db8::1",
            "fd00::1",
            "fec0::1",
        ] {
            assert!(reachable(good.parse().unwrap()), "{good}");
        }
    }

    #[test]
    fn an_unsettled_address_is_no_candidate() {
        let up = HashMap::from([(3, "eth0".to_owned())]);
        let mut message = AddressMessage::default();
        message.header.index = 3;
        message.header.prefix_len = 64;
        message
            .attributes
            .push(AddressAttribute::Address("2001:db8::7".parse().unwrap()));
        let found = usable(&message, &up, &Exclude::default()).unwrap();
        assert_eq!(found.on_link.to_string(), "2001:db8::/64");
        message
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Tentative));
        assert_eq!(usable(&message, &up, &Exclude::default()), None);
    }

    #[test]
    fn on_a_point_to_point_link_the_other_end_is_on_link() {
        let up = HashMap::from([(4, "ppp0".to_owned())]);
        let mut message = AddressMessage::default();
        message.header.index = 4;
        message.header.prefix_len = 32;
        message
            .attributes
            .push(AddressAttribute::Address("192.0.2.9".parse().unwrap()));
        message
            .attributes
            .push(AddressAttribute::Local("192.0.2.8".parse().unwrap()));
        let found = usable(&message, &up, &Exclude::default()).unwrap();
        assert_eq!(found.address, "192.0.2.8".parse::<IpAddr>().unwrap());
        assert_eq!(found.on_link.to_string(), "192.0.2.9/32");
    }
}
