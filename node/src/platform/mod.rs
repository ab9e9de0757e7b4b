//! What differs between operating systems, behind one small trait: the virtual adapter with its addresses and routes,
//! the machine's own addresses, who is at the other end of the control socket, and the service manager.
//!
//! Nothing here knows about peers, tunnels or rosters. Linux is the first implementation ([`linux::Linux`]).

mod error;

pub mod linux;

use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use error::PlatformError;
use kanpachi_common::Prefix;
pub use kanpachi_common::addr::{DEFAULT_MTU, MIN_MTU};

pub(crate) use linux::ignore_icmp;

/// The platform this binary was built for.
pub type Native = linux::Linux;

/// Interface name when `--interface` is not given.
pub const DEFAULT_INTERFACE: &str = "kanpachi0";
/// Members of this group may change things over the control socket; everybody else may only read.
pub const CONTROL_GROUP: &str = "kanpachi";

/// What the node needs from the operating system.
pub trait Platform: Send + Sync + 'static {
    /// The adapter this platform makes.
    type Adapter: Adapter;

    /// Where state and control socket live unless the user says otherwise.
    fn default_paths(&self) -> DefaultPaths;

    /// Whether an adapter of this name could be made now, without making it: privileges, the TUN device, the name.
    fn check_adapter(&self, interface: &str) -> Result<(), PlatformError>;

    /// Whether an adapter could have this name, taken or not.
    fn check_interface(&self, interface: &str) -> Result<(), PlatformError>;

    /// Makes the adapter, gives it its addresses and brings it up. Everything is undone when the adapter and its
    /// reader and writers are gone, by [`Adapter::close`], drop or the death of the process.
    ///
    /// An address that cannot be had (pool in use elsewhere, IPv6 disabled) is left out and reported by
    /// [`Adapter::missing`]; with none left the reason is the error.
    fn create_adapter(
        &self,
        config: &AdapterConfig,
    ) -> impl Future<Output = Result<Self::Adapter, PlatformError>> + Send;

    /// The usable addresses of this machine except those in `exclude`, sorted, loopback and IPv6 link-local left out.
    fn local_addresses(
        &self,
        exclude: &Exclude,
    ) -> impl Future<Output = Result<Vec<LocalAddress>, PlatformError>> + Send;

    /// As [`Platform::local_addresses`], kept current until the watch is dropped.
    fn watch_addresses(
        &self,
        exclude: Exclude,
    ) -> impl Future<Output = Result<AddressWatch, PlatformError>> + Send;

    /// Tells how long the machine has slept, each time that it wakes up.
    fn watch_sleep(&self) -> io::Result<SleepWatch>;

    /// Where packets for the rest of the world go by IPv4, as of now.
    fn default_router(&self) -> Option<Ipv4Addr>;

    /// Who opened the other end of a local socket, as the kernel recorded it when it connected.
    fn peer_credentials(&self, socket: &tokio::net::UnixStream) -> io::Result<PeerCredentials>;

    /// The numeric id of a group by name, `None` if there is no such group.
    fn group_id(&self, name: &str) -> io::Result<Option<u32>>;

    /// Tells the service manager, if one started us, how far we are.
    fn notify_service(&self, state: ServiceState<'_>) -> io::Result<()>;

    /// How long the service manager waits for a sign of life before it takes the process for hung; `None` when nobody
    /// waits for one.
    fn watchdog(&self) -> Option<Duration>;
}

/// A virtual network adapter that is up. It moves whole IP packets without a link header.
///
/// How packets are framed between kernel and process (today one packet per system call, later super-packets behind
/// a virtio header) is the business of the adapter's reader and writer alone.
pub trait Adapter: Send + Sync {
    /// Takes packets that the machine sends into the overlay.
    type Reader: PacketReader;
    /// Gives packets from the overlay to the machine.
    type Writer: PacketWriter;

    /// The interface name, as in `ip link`.
    fn name(&self) -> &str;
    /// Largest IP packet in bytes.
    fn mtu(&self) -> u16;
    /// The IPv4 address and prefix length that are set.
    fn ipv4(&self) -> Option<(Ipv4Addr, u8)>;
    /// The IPv6 address and prefix length that are set.
    fn ipv6(&self) -> Option<(Ipv6Addr, u8)>;
    /// Why addresses that were asked for are not set.
    fn missing(&self) -> &[PlatformError];
    /// A reading half. With several, each packet goes to one of them.
    fn reader(&self) -> Self::Reader;
    /// A writing half.
    fn writer(&self) -> Self::Writer;
    /// Wakes every reader for good: from now on [`PacketReader::wait`] says [`Readiness::Closed`].
    fn stop(&self);
    /// [`Adapter::stop`] and removes the interface at once, even while halves are still held by other threads.
    fn close(self) -> impl Future<Output = Result<(), PlatformError>> + Send;
}

/// The reading half of an adapter, for one thread.
pub trait PacketReader: Send + 'static {
    /// Waits until a packet can be read, the timeout passes or the adapter is stopped.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Readiness>;

    /// Reads one packet into the front of `packet`, which must hold the MTU; its length, or `None` when there is none
    /// for now. A longer packet is cut off by the kernel.
    fn read(&mut self, packet: &mut [u8]) -> io::Result<Option<usize>>;
}

/// The writing half of an adapter. Any number of threads may write at once: each packet is one system call, and the
/// kernel keeps them apart.
pub trait PacketWriter: Send + Sync + Clone + 'static {
    /// Gives one IP packet to the machine. An error concerns this packet only.
    fn write(&self, packet: &[u8]) -> io::Result<()>;
}

/// Why [`PacketReader::wait`] returned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// At least one packet is waiting.
    Readable,
    /// The timeout passed.
    TimedOut,
    /// The adapter was stopped; the thread should end.
    Closed,
}

/// How an adapter is to be made.
#[derive(Debug, Clone)]
pub struct AdapterConfig {
    /// Interface name, 1 to 15 bytes.
    pub name: String,
    /// Largest IP packet in bytes, at least [`MIN_MTU`].
    pub mtu: u16,
    /// Overlay IPv4 address with the length of the organisation's pool, so that the connected route covers the pool
    /// and the pool's broadcast address works.
    pub ipv4: Option<(Ipv4Addr, u8)>,
    /// Overlay IPv6 address with the length of the organisation's prefix (48).
    pub ipv6: Option<(Ipv6Addr, u8)>,
}

/// Addresses that do not count as the machine's own.
#[derive(Debug, Clone, Default)]
pub struct Exclude {
    /// Interfaces by name: the adapter.
    pub interfaces: Vec<String>,
    /// Ranges: the pool and the organisation's IPv6 prefix, also when a second daemon has them.
    pub prefixes: Vec<Prefix>,
}

impl Exclude {
    /// Whether an address on an interface is to be left out.
    pub fn covers(&self, interface: &str, address: IpAddr) -> bool {
        self.interfaces.iter().any(|name| name == interface)
            || self.prefixes.iter().any(|p| p.contains(address))
    }
}

/// One address of this machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalAddress {
    /// The address itself.
    pub address: IpAddr,
    /// The range that the interface reaches without a router.
    pub on_link: Prefix,
    /// Interface name.
    pub interface: String,
    /// Interface index.
    pub index: u32,
}

/// The range of this length around an address; `None` if there is no such length.
pub fn range_around(address: IpAddr, len: u8) -> Option<Prefix> {
    let first = match address {
        IpAddr::V4(v4) if len <= 32 => IpAddr::V4(
            (v4.to_bits() & u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)).into(),
        ),
        IpAddr::V6(v6) if len <= 128 => IpAddr::V6(
            (v6.to_bits() & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)).into(),
        ),
        IpAddr::V4(_) | IpAddr::V6(_) => return None,
    };
    Prefix::new(first, len).ok()
}

/// Whether an address is reached without a router from one of ours: the path is `lan`.
pub fn is_on_link(local: &[LocalAddress], remote: IpAddr) -> bool {
    local.iter().any(|own| own.on_link.contains(remote))
}

/// The machine's addresses as they change.
#[derive(Debug)]
pub struct AddressWatch {
    /// Holds the newest list; changes only when the list did.
    pub receiver: watch::Receiver<Arc<[LocalAddress]>>,
    /// Does this machine have any network? One whose only address is on the loopback interface has, as some servers do, though
    /// such an address is not in the list: often others have it, too.
    pub network: watch::Receiver<bool>,
    /// Networks that this machine is in by the adapters of other nodes.
    pub others: watch::Receiver<Arc<[Prefix]>>,
    task: JoinHandle<()>,
}

impl Drop for AddressWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How long the machine has slept since the watch began.
#[derive(Debug)]
pub struct SleepWatch {
    /// The sum of all sleeps; set anew, whether it is more or not, whenever the machine may have slept.
    pub receiver: watch::Receiver<Duration>,
    task: JoinHandle<()>,
}

impl SleepWatch {
    /// Of a task that tells.
    pub(crate) const fn new(receiver: watch::Receiver<Duration>, task: JoinHandle<()>) -> Self {
        Self { receiver, task }
    }
}

impl Drop for SleepWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Where things live by default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefaultPaths {
    /// Keys, rosters, last known candidates.
    pub state_dir: PathBuf,
    /// The daemon's control socket.
    pub socket: PathBuf,
}

/// Who is at the other end of a local socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCredentials {
    /// Effective user id.
    pub uid: u32,
    /// Effective group id.
    pub gid: u32,
    /// Process id when it connected; 0 if it lives in another pid namespace.
    pub pid: i32,
    /// Supplementary group ids.
    pub groups: Vec<u32>,
}

impl PeerCredentials {
    /// Root and members of the control group may change things. Without such a group on the system only root may.
    pub fn may_change(&self, control_group: Option<u32>) -> bool {
        self.uid == 0
            || control_group.is_some_and(|gid| self.gid == gid || self.groups.contains(&gid))
    }
}

/// What the service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState<'a> {
    /// Start-up is over; clients may come.
    Ready,
    /// One line for `systemctl status`.
    Status(&'a str),
    /// Shutdown has begun.
    Stopping,
    /// The main loop is alive.
    Alive,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credentials(uid: u32, gid: u32, groups: &[u32]) -> PeerCredentials {
        PeerCredentials {
            uid,
            gid,
            pid: 1,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn only_root_and_the_group_may_change_things() {
        assert!(credentials(0, 0, &[]).may_change(None));
        assert!(credentials(0, 0, &[]).may_change(Some(900)));
        assert!(credentials(1000, 900, &[]).may_change(Some(900)));
        assert!(credentials(1000, 1000, &[4, 900]).may_change(Some(900)));
        assert!(!credentials(1000, 1000, &[4, 27]).may_change(Some(900)));
        // gid 0 alone is not root, and a missing group admits nobody.
        assert!(!credentials(1000, 0, &[0]).may_change(Some(900)));
        assert!(!credentials(1000, 1000, &[900]).may_change(None));
    }

    #[test]
    fn a_range_has_the_fixed_bits_of_its_address() {
        for (address, len, range) in [
            ("198.19.7.9", 16, "198.19.0.0/16"),
            ("198.19.7.9", 32, "198.19.7.9/32"),
            ("198.19.7.9", 0, "0.0.0.0/0"),
            ("fd12:3456:789a:1::1", 48, "fd12:3456:789a::/48"),
            ("fd12::1", 128, "fd12::1/128"),
            ("fd12::1", 0, "::/0"),
        ] {
            assert_eq!(
                range_around(address.parse().unwrap(), len)
                    .unwrap()
                    .to_string(),
                range
            );
        }
        assert_eq!(range_around("198.19.0.0".parse().unwrap(), 33), None);
        assert_eq!(range_around("::".parse().unwrap(), 129), None);
    }

    #[test]
    fn the_adapter_and_overlay_ranges_are_excluded() {
        let exclude = Exclude {
            interfaces: vec!["kanpachi0".into()],
            prefixes: vec!["198.19.0.0/16".parse().unwrap()],
        };
        assert!(exclude.covers("kanpachi0", "192.0.2.1".parse().unwrap()));
        assert!(exclude.covers("other1", "198.19.7.7".parse().unwrap()));
        assert!(!exclude.covers("eth0", "192.0.2.1".parse().unwrap()));
    }
}
