//! A packet capture: counts flows and searches payloads for a canary. Packet sockets, no tcpdump.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt,
};

use crate::netns::Netns;

/// Kernel buffer, bytes: what arrives while the capture thread has no processor.
const BUFFER: usize = 64 << 20;
/// The largest packet with segmentation offload, plus its Ethernet header.
const PACKET_MAX: usize = 65_536 + 64;

/// Who sent what kind of packet to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// IP protocol number: 1 ICMP, 6 TCP, 17 UDP, 58 ICMPv6.
    pub protocol: u8,
    pub from: IpAddr,
    pub to: IpAddr,
    /// 0 for protocols without ports.
    pub from_port: u16,
    pub to_port: u16,
}

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// What was counted for one flow; bytes are of IP packets, headers included.
#[derive(Debug, Clone, Copy, Default)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
    pub with_canary: u64,
}

/// A finished or running capture's numbers.
#[derive(Debug, Clone, Default)]
pub struct Report {
    pub flows: BTreeMap<Flow, Count>,
    /// Packets that hold the canary anywhere, whatever their protocol.
    pub with_canary: u64,
    pub packets: u64,
    /// Packets the kernel could not hand over in time.
    pub dropped: u64,
}

impl Report {
    /// Sums the flows that `wanted` picks.
    pub fn sum(&self, wanted: impl Fn(&Flow) -> bool) -> Count {
        self.flows.iter().filter(|(flow, _)| wanted(flow)).fold(
            Count::default(),
            |sum, (_, count)| Count {
                packets: sum.packets + count.packets,
                bytes: sum.bytes + count.bytes,
                with_canary: sum.with_canary + count.with_canary,
            },
        )
    }

    /// Sums what went between two hosts by one protocol, both directions.
    pub fn between(&self, protocol: u8, one: IpAddr, other: IpAddr) -> Count {
        self.sum(|flow| {
            flow.protocol == protocol
                && ((flow.from, flow.to) == (one, other) || (flow.from, flow.to) == (other, one))
        })
    }
}

/// A capture that runs until [`Capture::finish`] or drop.
#[derive(Debug)]
pub struct Capture {
    report: Arc<Mutex<Report>>,
    stop: Arc<AtomicBool>,
    reader: Option<JoinHandle<()>>,
    socket: Arc<OwnedFd>,
}

impl Capture {
    /// Captures on an interface of a namespace, promiscuously: on a bridge that is every frame it forwards, once.
    pub fn start(ns: &Netns, interface: &str, canary: &[u8]) -> Result<Self> {
        let socket = Arc::new(ns.run(|| open(interface))?);
        let report = Arc::new(Mutex::new(Report::default()));
        let stop = Arc::new(AtomicBool::new(false));
        let reader = std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn({
                let (socket, report, stop, canary) = (
                    Arc::clone(&socket),
                    Arc::clone(&report),
                    Arc::clone(&stop),
                    canary.to_vec(),
                );
                move || read(&socket, &report, &stop, &canary)
            })?;
        Ok(Self {
            report,
            stop,
            reader: Some(reader),
            socket,
        })
    }

    /// The numbers so far.
    pub fn report(&self) -> Report {
        self.report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops after all that has arrived by now is counted.
    pub fn finish(mut self) -> Result<Report> {
        self.halt();
        let mut report = self.report();
        report.dropped = drops(&self.socket)?;
        Ok(report)
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.halt();
    }
}

fn read(socket: &OwnedFd, report: &Mutex<Report>, stop: &AtomicBool, canary: &[u8]) {
    let mut buffer = vec![0u8; PACKET_MAX];
    loop {
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(20u8)).unwrap_or(0);
        if ready == 0 && stop.load(Ordering::Relaxed) {
            return;
        }
        while let Ok(length) = nix::sys::socket::recv(
            socket.as_raw_fd(),
            &mut buffer,
            nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        ) {
            let frame = &buffer[..length.min(PACKET_MAX)];
            let has_canary = contains(frame, canary);
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.packets += 1;
            report.with_canary += u64::from(has_canary);
            if let Some((flow, bytes)) = parse(frame) {
                let count = report.flows.entry(flow).or_default();
                count.packets += 1;
                count.bytes += bytes;
                count.with_canary += u64::from(has_canary);
            }
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    let Some((&first, rest)) = needle.split_first() else {
        return false;
    };
    let mut from = 0;
    while let Some(at) = haystack
        .get(from..)
        .and_then(|part| part.iter().position(|byte| *byte == first))
    {
        from += at + 1;
        if haystack[from..].starts_with(rest) {
            return true;
        }
    }
    false
}

/// The flow and IP length of an Ethernet frame; `None` for anything that is not a whole IP header.
fn parse(frame: &[u8]) -> Option<(Flow, u64)> {
    let ether_type = u16::from_be_bytes(frame.get(12..14)?.try_into().ok()?);
    let packet = frame.get(14..)?;
    let (protocol, from, to, header) = match ether_type {
        0x0800 => {
            let address = |at: usize| {
                Some(IpAddr::from(Ipv4Addr::from(
                    <[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?,
                )))
            };
            (
                *packet.get(9)?,
                address(12)?,
                address(16)?,
                usize::from(packet.first()? & 0x0f) * 4,
            )
        }
        0x86dd => {
            let address = |at: usize| {
                Some(IpAddr::from(Ipv6Addr::from(
                    <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
                )))
            };
            (*packet.get(6)?, address(8)?, address(24)?, 40)
        }
        _ => return None,
    };
    let port = |at: usize| {
        packet
            .get(header + at..header + at + 2)
            .and_then(|two| two.try_into().ok())
            .map_or(0, u16::from_be_bytes)
    };
    let (from_port, to_port) = if matches!(protocol, TCP | UDP) {
        (port(0), port(2))
    } else {
        (0, 0)
    };
    Some((
        Flow {
            protocol,
            from,
            to,
            from_port,
            to_port,
        },
        packet.len() as u64,
    ))
}

#[expect(
    unsafe_code,
    reason = "packet socket addresses and memberships have no safe wrapper"
)]
fn open(interface: &str) -> Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("packet socket")?;
    setsockopt(&fd, sockopt::RcvBufForce, &BUFFER).context("capture buffer")?;
    let index = nix::net::if_::if_nametoindex(interface)
        .with_context(|| format!("interface {interface}"))? as libc::c_int;
    // SAFETY: `sockaddr_ll` is plain data for which all zeroes is valid.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = index;
    // SAFETY: the pointer and length describe `address`, which outlives the call.
    let bound = unsafe {
        libc::bind(
            fd.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as libc::socklen_t,
        )
    };
    // SAFETY: `packet_mreq` is plain data for which all zeroes is valid.
    let mut membership: libc::packet_mreq = unsafe { std::mem::zeroed() };
    membership.mr_ifindex = index;
    membership.mr_type = libc::PACKET_MR_PROMISC as u16;
    // SAFETY: the pointer and length describe `membership`, which outlives the call.
    let joined = unsafe {
        let value = (&raw const membership).cast();
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            value,
            size_of_val(&membership) as libc::socklen_t,
        )
    };
    if bound != 0 || joined != 0 {
        return Err(std::io::Error::last_os_error())
            .with_context(|| format!("capture on {interface}"));
    }
    Ok(fd)
}

#[expect(unsafe_code, reason = "PACKET_STATISTICS has no safe wrapper")]
fn drops(socket: &OwnedFd) -> Result<u64> {
    // SAFETY: `tpacket_stats` is plain data for which all zeroes is valid.
    let mut stats: libc::tpacket_stats = unsafe { std::mem::zeroed() };
    let mut length = size_of_val(&stats) as libc::socklen_t;
    // SAFETY: the pointers describe `stats` and `length`, which outlive the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
            (&raw mut stats).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(u64::from(stats.tp_drops))
    } else {
        Err(std::io::Error::last_os_error()).context("capture statistics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_canary_only_where_it_is() {
        assert!(contains(b"xxcancanaryyy", b"canary"));
        assert!(!contains(b"xxcancanarzyyc", b"canary"));
        assert!(!contains(b"anything", b""));
        assert!(!contains(b"", b"canary"));
    }

    #[test]
    fn short_frames_are_not_flows() {
        for length in 0..34 {
            let mut frame = vec![0u8; length];
            if length > 13 {
                frame[12] = 0x08;
            }
            assert_eq!(parse(&frame).is_some(), length >= 34);
        }
    }
}
