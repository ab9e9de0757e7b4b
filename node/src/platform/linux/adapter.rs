//! The TUN interface: made through the `tun` crate, configured through rtnetlink, read and written by plain threads.
//!
//! The interface is not persistent: the kernel removes it with its addresses and routes when the last descriptor is
//! closed, so nothing is left behind even by SIGKILL.
//!
//! Framing: one system call moves one IP packet, without packet information. Super-packets (`IFF_VNET_HDR` and
//! `TUNSETOFFLOAD`) would change [`TunReader::read`], [`TunWriter::write`] and [`open`], and nothing outside this file
//! but the buffer sizes.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::netlink::{Netlink, system};
use crate::platform::{
    Adapter, AdapterConfig, MIN_MTU, PacketReader, PacketWriter, PlatformError, Readiness,
    range_around,
};

/// A TUN interface that is up.
#[derive(Debug)]
pub struct TunAdapter {
    name: String,
    index: u32,
    mtu: u16,
    ipv4: Option<(Ipv4Addr, u8)>,
    ipv6: Option<(Ipv6Addr, u8)>,
    missing: Vec<PlatformError>,
    device: Arc<Device>,
}

/// What the adapter and its halves share: two descriptors and nothing to lock.
#[derive(Debug)]
struct Device {
    tun: OwnedFd,
    /// Written once when the adapter stops and never read, so that it stays readable for every reader.
    stop: EventFd,
}

impl TunAdapter {
    /// Makes and configures the interface; the name must have been checked.
    pub(super) async fn create(config: &AdapterConfig) -> Result<Self, PlatformError> {
        if config.mtu < MIN_MTU {
            return Err(PlatformError::Mtu { mtu: config.mtu });
        }
        let netlink = Netlink::open()?;
        let mut missing = Vec::new();
        let mut ipv4 = config.ipv4;
        if let Some((address, len)) = ipv4
            && let Some(conflict) = pool_conflict(&netlink, address, len).await?
        {
            missing.push(conflict);
            ipv4 = None;
        }
        if ipv4.is_none() && config.ipv6.is_none() {
            return Err(missing.pop().unwrap_or(PlatformError::NoAddress));
        }

        let device = open(&config.name)?;
        let index = nix::net::if_::if_nametoindex(config.name.as_str())
            .map_err(|errno| system("find the new adapter", errno.into()))?;
        netlink.bring_up(index, config.mtu).await?;
        if let Some((address, len)) = ipv4 {
            netlink.add_address(index, IpAddr::V4(address), len).await?;
        }
        let mut ipv6 = config.ipv6;
        if let Some((address, len)) = ipv6 {
            match add_ipv6(&netlink, index, address, len).await {
                Ok(()) => {}
                Err(disabled @ PlatformError::Ipv6Disabled) if ipv4.is_some() => {
                    missing.push(disabled);
                    ipv6 = None;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            name: config.name.clone(),
            index,
            mtu: config.mtu,
            ipv4,
            ipv6,
            missing,
            device: Arc::new(device),
        })
    }
}

async fn add_ipv6(
    netlink: &Netlink,
    index: u32,
    address: Ipv6Addr,
    len: u8,
) -> Result<(), PlatformError> {
    netlink.add_address(index, IpAddr::V6(address), len).await?;
    netlink.yield_multicast(index).await?;
    netlink.wait_until_local(address).await
}

impl Adapter for TunAdapter {
    type Reader = TunReader;
    type Writer = TunWriter;

    fn name(&self) -> &str {
        &self.name
    }

    fn mtu(&self) -> u16 {
        self.mtu
    }

    fn ipv4(&self) -> Option<(Ipv4Addr, u8)> {
        self.ipv4
    }

    fn ipv6(&self) -> Option<(Ipv6Addr, u8)> {
        self.ipv6
    }

    fn missing(&self) -> &[PlatformError] {
        &self.missing
    }

    fn reader(&self) -> TunReader {
        TunReader {
            device: Arc::clone(&self.device),
        }
    }

    fn writer(&self) -> TunWriter {
        TunWriter {
            device: Arc::clone(&self.device),
        }
    }

    fn stop(&self) {
        if let Err(error) = self.device.stop.write(1) {
            // Only a counter that is full refuses, and then it is readable anyway.
            tracing::debug!(%error, "adapter was stopped before");
        }
    }

    async fn close(self) -> Result<(), PlatformError> {
        self.stop();
        Netlink::open()?.remove_link(self.index).await
    }
}

impl Drop for TunAdapter {
    /// Readers end and let go of the descriptor; the interface goes with the last of them.
    fn drop(&mut self) {
        self.stop();
    }
}

/// The reading half.
#[derive(Debug)]
pub struct TunReader {
    device: Arc<Device>,
}

impl PacketReader for TunReader {
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Readiness> {
        let device = &*self.device;
        let mut fds = [
            PollFd::new(device.tun.as_fd(), PollFlags::POLLIN),
            PollFd::new(stop_fd(device), PollFlags::POLLIN),
        ];
        loop {
            match nix::poll::poll(&mut fds, poll_timeout(timeout)) {
                Ok(0) => return Ok(Readiness::TimedOut),
                Ok(_) if fds[1].any().unwrap_or(true) => return Ok(Readiness::Closed),
                Ok(_) => return interpret(fds[0].revents()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn read(&mut self, packet: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            match nix::unistd::read(self.device.tun.as_fd(), packet) {
                Ok(len) => return Ok(Some(len)),
                Err(Errno::EAGAIN) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// The writing half.
#[derive(Debug, Clone)]
pub struct TunWriter {
    device: Arc<Device>,
}

impl PacketWriter for TunWriter {
    fn write(&self, packet: &[u8]) -> io::Result<()> {
        loop {
            match nix::unistd::write(self.device.tun.as_fd(), packet) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

fn stop_fd(device: &Device) -> BorrowedFd<'_> {
    device.stop.as_fd()
}

/// POLLERR without POLLIN means that the interface was removed under us.
fn interpret(events: Option<PollFlags>) -> io::Result<Readiness> {
    if events.is_none_or(|events| events.contains(PollFlags::POLLIN)) {
        return Ok(Readiness::Readable);
    }
    Err(io::Error::new(
        io::ErrorKind::NotConnected,
        "the adapter was removed",
    ))
}

/// Rounded up to whole milliseconds, so that a short wait does not become a busy loop.
fn poll_timeout(timeout: Option<Duration>) -> PollTimeout {
    let Some(timeout) = timeout else {
        return PollTimeout::NONE;
    };
    PollTimeout::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(PollTimeout::MAX)
}

/// Makes the interface and takes its descriptor, non-blocking.
fn open(name: &str) -> Result<Device, PlatformError> {
    let mut configuration = tun::Configuration::default();
    configuration.tun_name(name).layer(tun::Layer::L3);
    let device = tun::create(&configuration).map_err(|error| not_created(name, error))?;
    device
        .set_nonblock()
        .map_err(|source| system("make the adapter non-blocking", source))?;
    #[expect(
        unsafe_code,
        reason = "the tun crate hands out its descriptor only as a number"
    )]
    // SAFETY: `into_raw_fd` gives up the descriptor, so this is its only owner.
    let tun = unsafe { OwnedFd::from_raw_fd(device.into_raw_fd()) };
    let stop = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
        .map_err(|errno| system("make an event descriptor", errno.into()))?;
    Ok(Device { tun, stop })
}

/// The TUN device was openable a moment ago, so a refusal is about the interface.
fn not_created(name: &str, error: tun::Error) -> PlatformError {
    let source = io::Error::from(error);
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST | libc::EINVAL) => PlatformError::InterfaceTaken {
            name: name.to_owned(),
        },
        _ => system("create the adapter", source),
    }
}

/// The first network of this machine that the pool would take packets away from.
async fn pool_conflict(
    netlink: &Netlink,
    address: Ipv4Addr,
    len: u8,
) -> Result<Option<PlatformError>, PlatformError> {
    let pool = range_around(IpAddr::V4(address), len).ok_or(PlatformError::PrefixLength {
        address: IpAddr::V4(address),
        len,
    })?;
    let networks = netlink.ipv4_networks().await?;
    let Some((found, index)) = networks
        .into_iter()
        .find(|(network, _)| network.overlaps(&pool))
    else {
        return Ok(None);
    };
    let interface = nix::net::if_::if_indextoname(index).map_or_else(
        |_| index.to_string(),
        |name| name.to_string_lossy().into_owned(),
    );
    Ok(Some(PlatformError::PoolInUse {
        pool,
        found,
        interface,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_waits_are_rounded_up() {
        assert_eq!(
            poll_timeout(Some(Duration::from_nanos(1))),
            PollTimeout::from(1u8)
        );
        assert_eq!(poll_timeout(Some(Duration::ZERO)), PollTimeout::ZERO);
        assert_eq!(poll_timeout(Some(Duration::MAX)), PollTimeout::MAX);
        assert_eq!(poll_timeout(None), PollTimeout::NONE);
    }
}
