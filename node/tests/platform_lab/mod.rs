//! A namespace per test, an adapter in it, and packets for it.

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kanpachi_node::platform::linux::{Linux, TunAdapter, TunReader};
use kanpachi_node::platform::{Adapter, AdapterConfig, PacketReader, Platform, Readiness};
use nix::sched::{CloneFlags, unshare};

pub(crate) const NAME: &str = "kplat0";
pub(crate) const OUR4: Ipv4Addr = Ipv4Addr::new(198, 19, 3, 4);
pub(crate) const PEER4: Ipv4Addr = Ipv4Addr::new(198, 19, 200, 1);
pub(crate) const OUR6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 1, 2, 3, 4, 5);
pub(crate) const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd12, 0x3456, 0x789a, 9, 9, 9, 9, 9);
pub(crate) const DEADLINE: Duration = Duration::from_secs(5);

pub(crate) fn config() -> AdapterConfig {
    AdapterConfig {
        name: NAME.into(),
        mtu: 1400,
        ipv4: Some((OUR4, 16)),
        ipv6: Some((OUR6, 48)),
    }
}

/// Runs a test in a fresh namespace on a thread of its own, so that nothing of it is left when the thread ends.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNET) {
            panic!(
                "this lab test needs CAP_SYS_ADMIN and CAP_NET_ADMIN to make a network namespace: {errno}"
            );
        }
        if let Err(error) = Linux.check_adapter(NAME) {
            panic!("this lab test cannot make an adapter: {error}");
        }
        ip("link set lo up");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs iproute2 in the namespace of the calling thread.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn link_exists(name: &str) -> bool {
    nix::net::if_::if_nametoindex(name).is_ok()
}

pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(
            start.elapsed() < DEADLINE,
            "not within {DEADLINE:?}: {what}"
        );
        std::thread::yield_now();
    }
}

/// The next packet that fits, or `None` when none came within the time.
pub(crate) fn next_packet(
    reader: &mut TunReader,
    wait: Duration,
    wanted: impl Fn(&[u8]) -> bool,
) -> Option<Vec<u8>> {
    let mut buffer = [0u8; 2048];
    let end = Instant::now() + wait;
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if reader.wait(Some(left)).unwrap() != Readiness::Readable {
            return None;
        }
        while let Some(len) = reader.read(&mut buffer).unwrap() {
            if wanted(&buffer[..len]) {
                return Some(buffer[..len].to_vec());
            }
        }
    }
}

pub(crate) fn has_payload(payload: &'static [u8]) -> impl Fn(&[u8]) -> bool {
    move |packet| packet.ends_with(payload)
}

/// A UDP packet with a valid checksum. The payload must have an even length.
pub(crate) fn udp_packet(source: SocketAddr, destination: SocketAddr, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(8 + payload.len()).unwrap();
    let mut udp = Vec::new();
    udp.extend_from_slice(&source.port().to_be_bytes());
    udp.extend_from_slice(&destination.port().to_be_bytes());
    udp.extend_from_slice(&length.to_be_bytes());
    udp.extend_from_slice(&[0, 0]);
    udp.extend_from_slice(payload);
    let mut packet;
    let mut pseudo = Vec::new();
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0];
            packet[2..4].copy_from_slice(&(20 + length).to_be_bytes());
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
            let sum = checksum(&packet);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            pseudo.extend_from_slice(&packet[12..20]);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet = vec![0x60, 0, 0, 0, 0, 0, 17, 64];
            packet[4..6].copy_from_slice(&length.to_be_bytes());
            packet.extend_from_slice(&from.octets());
            packet.extend_from_slice(&to.octets());
            pseudo.extend_from_slice(&packet[8..40]);
        }
        _ => panic!("one family at a time"),
    }
    pseudo.extend_from_slice(&[0, 17]);
    pseudo.extend_from_slice(&length.to_be_bytes());
    pseudo.extend_from_slice(&udp);
    let sum = checksum(&pseudo);
    udp[6..8].copy_from_slice(&sum.to_be_bytes());
    packet.extend_from_slice(&udp);
    packet
}

/// RFC 1071.
pub(crate) fn checksum(bytes: &[u8]) -> u16 {
    let sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !u16::try_from((folded & 0xffff) + (folded >> 16)).unwrap()
}

pub(crate) fn bound(address: impl Into<IpAddr>) -> UdpSocket {
    let socket = UdpSocket::bind(SocketAddr::new(address.into(), 0)).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_broadcast(true).unwrap();
    socket
}

pub(crate) async fn adapter() -> TunAdapter {
    let adapter = Linux.create_adapter(&config()).await.unwrap();
    assert!(adapter.missing().is_empty(), "{:?}", adapter.missing());
    adapter
}

/// This test binary again, for one test, in the namespace of the calling thread.
pub(crate) fn rerun(test: &str, prefix: &[&str]) -> Command {
    let own = std::env::current_exe().unwrap();
    let mut words: Vec<&std::ffi::OsStr> = prefix.iter().map(std::ffi::OsStr::new).collect();
    words.push(own.as_os_str());
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .args(["--exact", test, "--ignored", "--nocapture"])
        .stdout(Stdio::null());
    command
}
