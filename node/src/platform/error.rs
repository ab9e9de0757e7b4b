//! What can go wrong with the operating system. Each message is one sentence that says what to do.

use std::io;
use std::path::PathBuf;

use kanpachi_common::Prefix;

use super::MIN_MTU;

/// A refusal of the operating system, in the user's words.
#[derive(Debug, thiserror::Error)]
pub enum PlatformError {
    /// No CAP_NET_ADMIN.
    #[error(
        "this program may not create network adapters (CAP_NET_ADMIN is missing): run it as root, or once `setcap cap_net_admin+ep` on the binary"
    )]
    NoNetAdmin,

    /// The TUN device node is not there.
    #[error(
        "{} does not exist: load the module with `modprobe tun`, or give the container the device with `--device {}`", .path.display(), .path.display()
    )]
    TunDeviceMissing {
        /// Where it should be.
        path: PathBuf,
    },

    /// The TUN device node cannot be opened.
    #[error("{} cannot be opened for reading and writing: run as root, or give this user access to it", .path.display())]
    TunDeviceRefused {
        /// Where it is.
        path: PathBuf,
        /// What `open` said.
        source: io::Error,
    },

    /// There is an interface of this name already.
    #[error(
        "the network interface `{name}` already exists: stop the program that uses it (another kanpachi?) or choose another name with --interface"
    )]
    InterfaceTaken {
        /// The name.
        name: String,
    },

    /// Linux does not accept such a name.
    #[error("`{name}` cannot be an interface name: use 1 to 15 letters, digits, `-`, `_` or `.`")]
    InterfaceName {
        /// The name.
        name: String,
    },

    /// The MTU is out of range.
    #[error("an MTU of {mtu} bytes is too small: use at least {MIN_MTU}")]
    Mtu {
        /// What was asked for.
        mtu: u16,
    },

    /// The prefix length does not fit the family.
    #[error("{address}/{len} is not an address with a prefix length")]
    PrefixLength {
        /// The address.
        address: std::net::IpAddr,
        /// The length.
        len: u8,
    },

    /// The organisation's pool overlaps with a network this machine already uses.
    #[error(
        "the virtual network {pool} overlaps with {found} on interface `{interface}`, so this machine goes on with IPv6 only: ask the organisation's host for another --pool to have IPv4 here"
    )]
    PoolInUse {
        /// The organisation's pool.
        pool: Prefix,
        /// The range that is in the way.
        found: Prefix,
        /// Where it is.
        interface: String,
    },

    /// The kernel gives no IPv6 to new interfaces.
    #[error(
        "IPv6 is disabled on this machine, so it goes on with IPv4 only: enable it with `sysctl net.ipv6.conf.default.disable_ipv6=0` and start again"
    )]
    Ipv6Disabled,

    /// Neither address was asked for.
    #[error("the adapter was given no address")]
    NoAddress,

    /// Anything else that the kernel refused.
    #[error("the system refused to {doing}")]
    System {
        /// What was tried, as an infinitive.
        doing: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl PlatformError {
    /// Whether more privileges would help.
    pub fn is_permission(&self) -> bool {
        match self {
            Self::NoNetAdmin => true,
            Self::TunDeviceRefused { source, .. } | Self::System { source, .. } => {
                source.kind() == io::ErrorKind::PermissionDenied
            }
            Self::TunDeviceMissing { .. }
            | Self::InterfaceTaken { .. }
            | Self::InterfaceName { .. }
            | Self::Mtu { .. }
            | Self::PrefixLength { .. }
            | Self::PoolInUse { .. }
            | Self::Ipv6Disabled
            | Self::NoAddress => false,
        }
    }
}
