//! Linux: TUN through `/dev/net/tun`, configuration through rtnetlink, credentials of unix sockets, systemd.

mod adapter;
mod addresses;
mod credentials;
mod netlink;
mod router;
pub mod service;
mod sleep;
mod sockets;

use std::fs::OpenOptions;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use adapter::{TunAdapter, TunReader, TunWriter};
pub(crate) use sockets::ignore_icmp;

use super::{
    AdapterConfig, AddressWatch, DefaultPaths, Exclude, LocalAddress, PeerCredentials, Platform,
    PlatformError, ServiceState, SleepWatch,
};

/// The clone device every TUN interface is made from.
const TUN_DEVICE: &str = "/dev/net/tun";
/// `IFNAMSIZ` without the terminating zero.
const MAX_NAME: usize = libc::IFNAMSIZ - 1;
/// Bit of CAP_NET_ADMIN in the capability sets (linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;

/// This machine, if it runs Linux.
#[derive(Debug, Clone, Copy, Default)]
pub struct Linux;

impl Platform for Linux {
    type Adapter = TunAdapter;

    fn default_paths(&self) -> DefaultPaths {
        DefaultPaths {
            state_dir: "/var/lib/kanpachi".into(),
            socket: "/run/kanpachi/kanpachi.sock".into(),
        }
    }

    fn check_adapter(&self, interface: &str) -> Result<(), PlatformError> {
        check_name(interface)?;
        check_device(Path::new(TUN_DEVICE))?;
        if !has_net_admin() {
            return Err(PlatformError::NoNetAdmin);
        }
        if nix::net::if_::if_nametoindex(interface).is_ok() {
            return Err(PlatformError::InterfaceTaken {
                name: interface.to_owned(),
            });
        }
        Ok(())
    }

    fn check_interface(&self, interface: &str) -> Result<(), PlatformError> {
        check_name(interface)
    }

    async fn create_adapter(&self, config: &AdapterConfig) -> Result<TunAdapter, PlatformError> {
        self.check_adapter(&config.name)?;
        TunAdapter::create(config).await
    }

    async fn local_addresses(&self, exclude: &Exclude) -> Result<Vec<LocalAddress>, PlatformError> {
        addresses::list(&netlink::Netlink::open()?, exclude).await
    }

    async fn watch_addresses(&self, exclude: Exclude) -> Result<AddressWatch, PlatformError> {
        addresses::watch(exclude).await
    }

    fn watch_sleep(&self) -> io::Result<SleepWatch> {
        sleep::watch()
    }

    fn default_router(&self) -> Option<Ipv4Addr> {
        router::default_router()
    }

    fn peer_credentials(&self, socket: &tokio::net::UnixStream) -> io::Result<PeerCredentials> {
        credentials::of_peer(socket)
    }

    fn group_id(&self, name: &str) -> io::Result<Option<u32>> {
        Ok(nix::unistd::Group::from_name(name)?.map(|group| group.gid.as_raw()))
    }

    fn notify_service(&self, state: ServiceState<'_>) -> io::Result<()> {
        use sd_notify::NotifyState;
        let state = match state {
            ServiceState::Ready => NotifyState::Ready,
            ServiceState::Status(line) => NotifyState::Status(line),
            ServiceState::Stopping => NotifyState::Stopping,
            ServiceState::Alive => NotifyState::Watchdog,
        };
        sd_notify::notify(&[state])
    }

    fn watchdog(&self) -> Option<Duration> {
        // A limit too short to be halved is none.
        sd_notify::watchdog_enabled().filter(|limit| *limit >= Duration::from_millis(2))
    }
}

/// Names the kernel takes literally: `%` would be a pattern, `/` and `:` have meanings elsewhere.
fn check_name(name: &str) -> Result<(), PlatformError> {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if name.is_empty()
        || name.len() > MAX_NAME
        || !name.bytes().all(legal)
        || name.bytes().all(|byte| byte == b'.')
    {
        return Err(PlatformError::InterfaceName {
            name: name.to_owned(),
        });
    }
    Ok(())
}

fn check_device(path: &Path) -> Result<(), PlatformError> {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Ok(()),
        Err(error) => match error.raw_os_error() {
            // A node without the driver behind it is as missing as no node.
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO | libc::ENOTDIR) => {
                Err(PlatformError::TunDeviceMissing {
                    path: PathBuf::from(path),
                })
            }
            _ => Err(PlatformError::TunDeviceRefused {
                path: PathBuf::from(path),
                source: error,
            }),
        },
    }
}

/// Whether CAP_NET_ADMIN is in the effective set. Without /proc the answer is left to the kernel.
fn has_net_admin() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/thread-self/status") else {
        return true;
    };
    effective_capabilities(&status).is_none_or(|set| set & (1 << CAP_NET_ADMIN) != 0)
}

/// The `CapEff` line of proc(5)'s status file.
fn effective_capabilities(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_are_taken_literally_or_refused() {
        for good in ["kanpachi0", "k", "lan.100", "a-b_c", "fifteen-bytes-x"] {
            check_name(good).unwrap();
        }
        for bad in [
            "",
            "sixteen-bytes-xx",
            "a b",
            "tun%d",
            "a/b",
            "a:0",
            ".",
            "..",
            "né",
        ] {
            assert!(
                matches!(check_name(bad), Err(PlatformError::InterfaceName { .. })),
                "{bad:?}"
            );
        }
    }

    #[test]
    fn a_missing_and_a_refused_device_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let missing = check_device(&dir.path().join("tun")).unwrap_err();
        assert!(
            matches!(missing, PlatformError::TunDeviceMissing { .. }),
            "{missing}"
        );
        // A directory opens for nobody, root included.
        let refused = check_device(dir.path()).unwrap_err();
        assert!(
            matches!(refused, PlatformError::TunDeviceRefused { .. }),
            "{refused}"
        );
    }

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let status = "Name:\tx\nCapPrm:\t0000000000000000\nCapEff:\t0000000000001000\n";
        assert_eq!(effective_capabilities(status), Some(1 << CAP_NET_ADMIN));
        assert_eq!(effective_capabilities("Name:\tx\n"), None);
        assert_eq!(effective_capabilities("CapEff:\tnonsense\n"), None);
    }

    #[test]
    fn an_unknown_group_is_none() {
        assert_eq!(Linux.group_id("no-such-group-here").unwrap(), None);
        assert_eq!(Linux.group_id("root").unwrap(), Some(0));
    }
}
