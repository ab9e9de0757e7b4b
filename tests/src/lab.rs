//! The lab's network: one public segment, LANs behind routers without NAT, hosts on any of them.
//!
//! Own code over `ip` and `nft` rather than the `patchbay` crate: that brings 117 crates and an async runtime, and its
//! link conditions use netem, which the kernels we test on may lack (it then reports success and does nothing). What is
//! needed here is a few hundred lines, and a stuck lab can be looked at with `ip netns`.
//!
//! ```text
//!   alice     bob    ...   hosts on the public segment   203.0.113.0/24, 2001:db8::/64
//!     |        |
//!   ==+========+=====+===============+==   bridge in namespace "public", .1 is everybody's default gateway
//!                    |               |
//!                 router east     router west     each its own namespace, forwards, no NAT
//!                    |               |
//!                  ==+==           ==+==          198.51.100.<32 i>/27, 2001:db8:<i>::/64
//!                  carol            dave
//! ```
//!
//! Members of the public segment also have a direct route to every LAN, so each packet crosses the bridge once.

use std::fs::{self, File, OpenOptions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::fcntl::{Flock, FlockArg};

use crate::netns::Netns;
use crate::wait::quietly;
use crate::{process, shell, sweep, wire};

/// Serialises labs across threads and processes, whoever starts the tests.
const LOCK_FILE: &str = "/run/kanpachi-lab.lock";
/// How many LANs fit into the documentation ranges, 32 addresses each.
const MAX_LANS: u32 = 16;
/// How long a new link may take.
const CARRIER: Duration = Duration::from_secs(10);
/// The interface that leads a host to its segment.
pub const HOST_INTERFACE: &str = "eth0";

/// Runs one lab test: makes the lab, runs `body`, and when that fails or panics prints the tails of all captured logs.
///
/// # Panics
/// When the lab cannot be made or `body` fails.
pub fn run(name: &str, body: impl FnOnce(&mut Lab) -> Result<()>) {
    let mut lab = match Lab::new(name) {
        Ok(lab) => lab,
        Err(error) => panic!("{error:#}"),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&mut lab)));
    if !matches!(outcome, Ok(Ok(()))) {
        process::print_log_tails(lab.directory());
    }
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            drop(lab);
            eprintln!("{name}: {error:#}");
            // Not `panic!`: where in the lab's own code it happened helps nobody.
            resume_unwind(Box::new(format!("{error:#}")))
        }
        Err(panic) => resume_unwind(panic),
    }
}

/// Says in one line what this process lacks to run a lab.
///
/// # Errors
/// If it lacks something.
pub fn require() -> Result<()> {
    const CAP_NET_ADMIN: u32 = 12;
    const CAP_SYS_ADMIN: u32 = 21;
    let capabilities = effective_capabilities()?;
    for (bit, name) in [
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (CAP_SYS_ADMIN, "CAP_SYS_ADMIN"),
    ] {
        ensure!(
            capabilities & (1 << bit) != 0,
            "the lab needs {name}: run `make test`, which raises the lab tests, or run as root"
        );
    }
    if let Err(error) = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
    {
        bail!(
            "the lab needs an openable /dev/net/tun ({error}): load the module `tun` or give this container the device"
        );
    }
    for (program, package) in [
        ("ip", "iproute2"),
        ("nft", "nftables"),
        ("ping", "iputils-ping"),
    ] {
        ensure!(
            installed(program),
            "the lab needs `{program}`: install the package {package} (`make test` does)"
        );
    }
    Ok(())
}

/// Whether a program is in `PATH`.
pub fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn effective_capabilities() -> Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .context("no CapEff in /proc/self/status")?;
    Ok(u64::from_str_radix(line.trim(), 16)?)
}

/// A host: a namespace with one interface, an address of each family and a default route. Where it was not given
/// both [`Families`], the address of the other is unspecified.
#[derive(Debug, Clone)]
pub struct Host {
    pub name: String,
    pub ns: Netns,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// What addresses an interface is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    Both,
    OnlyV4,
    OnlyV6,
}

/// A layer 2 segment: a bridge in a namespace. For a LAN that namespace is its router.
#[derive(Debug, Clone)]
pub struct Segment {
    pub name: String,
    pub ns: Netns,
    /// The bridge interface inside `ns`; a promiscuous capture on it sees every frame once.
    pub bridge: &'static str,
    pub v4: Ipv4Addr,
    pub v4_bits: u8,
    pub v6: Ipv6Addr,
    next: Arc<AtomicU32>,
}

impl Segment {
    fn new(name: &str, ns: Netns, lan: Option<u32>) -> Result<Self> {
        let (v4, v4_bits) = match lan {
            None => (Ipv4Addr::new(203, 0, 113, 0), 24),
            Some(i) if i < 8 => (Ipv4Addr::new(198, 51, 100, (i * 32) as u8), 27),
            Some(i) => (Ipv4Addr::new(192, 0, 2, ((i - 8) * 32) as u8), 27),
        };
        let v6 = Ipv6Addr::new(
            0x2001,
            0xdb8,
            lan.map_or(0, |i| i as u16 + 1),
            0,
            0,
            0,
            0,
            0,
        );
        let segment = Self {
            name: name.to_owned(),
            ns,
            bridge: "br0",
            v4,
            v4_bits,
            v6,
            next: Arc::new(AtomicU32::new(2)),
        };
        segment.make_bridge()?;
        let (_, gateway6) = segment.address(1);
        segment
            .ns
            .ip(&format!("address add {gateway6}/64 dev br0 nodad\n"))?;
        Ok(segment)
    }

    /// A segment of 256 IPv4 addresses without IPv6, on bridge number `index` of its router.
    pub(crate) fn private(name: &str, ns: &Netns, index: usize, v4: Ipv4Addr) -> Result<Self> {
        const BRIDGES: [&str; 3] = ["br0", "br1", "br2"];
        let bridge = BRIDGES
            .get(index)
            .with_context(|| format!("a router has {} LANs at the most", BRIDGES.len()))?;
        let segment = Self {
            name: name.to_owned(),
            ns: ns.clone(),
            bridge,
            v4,
            v4_bits: 24,
            v6: Ipv6Addr::UNSPECIFIED,
            // Ports of the router's bridges are named after it.
            next: Arc::new(AtomicU32::new(2 + 64 * index as u32)),
        };
        segment.make_bridge()?;
        Ok(segment)
    }

    fn make_bridge(&self) -> Result<()> {
        let (bridge, bits, (gateway, _)) = (self.bridge, self.v4_bits, self.address(1));
        // Left to itself a bridge takes the lowest address of its ports: a port added later changes it, and whoever knows
        // the old one sends to nobody for up to 45 s.
        let [a, b, c, d] = gateway.octets();
        let mac = format!("02:00:{a:02x}:{b:02x}:{c:02x}:{d:02x}");
        // Without a querier, snooping would starve IPv6 neighbour discovery and mDNS after a while.
        self.ns.ip(&format!(
            "link add {bridge} address {mac} type bridge forward_delay 0 stp_state 0 mcast_snooping 0\n"
        ))?;
        self.ns
            .sysctl(&format!("ipv6/conf/{bridge}/accept_dad"), "0")?;
        self.ns.ip(&format!(
            "address add {gateway}/{bits} dev {bridge}\nlink set {bridge} up\n"
        ))?;
        make_router(&self.ns, bridge)
    }

    /// The addresses of host number `n` of the segment; 1 is the gateway.
    pub fn address(&self, n: u32) -> (Ipv4Addr, Ipv6Addr) {
        (
            Ipv4Addr::from(u32::from(self.v4) + n),
            Ipv6Addr::from(u128::from(self.v6) + u128::from(n)),
        )
    }

    /// The IPv4 address of the next host.
    pub(crate) fn next_address(&self) -> Ipv4Addr {
        self.address(self.next.load(Ordering::Relaxed)).0
    }

    /// The number of the next host.
    pub(crate) fn take_number(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Forwarding on, and no redirects: they would change routes under a running test.
fn make_router(ns: &Netns, bridge: &str) -> Result<()> {
    for (key, value) in [
        ("ipv4/ip_forward", "1"),
        ("ipv6/conf/all/forwarding", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        (&format!("ipv4/conf/{bridge}/send_redirects"), "0"),
    ] {
        ns.sysctl(key, value)?;
    }
    Ok(())
}

/// A whole lab. Dropping it ends its processes and removes its namespaces, mounts and files.
#[derive(Debug)]
pub struct Lab {
    directory: PathBuf,
    public: Segment,
    /// Routers' addresses on the public segment with the LAN behind each.
    lans: Vec<(Segment, Ipv4Addr, Ipv6Addr)>,
    public_members: Vec<Netns>,
    all: Vec<Netns>,
    keep_files: bool,
    _lock: Flock<File>,
}

impl Lab {
    /// Checks what a lab needs, waits for other labs to end, sweeps what dead ones left, and makes the public segment.
    ///
    /// # Errors
    /// One line that says what is missing, or what the kernel refused.
    pub fn new(name: &str) -> Result<Self> {
        require()?;
        let lock = take_lock()?;
        let swept = sweep::stale()?;
        if swept > 0 {
            crate::note(format_args!(
                "removed {swept} leftovers of a lab that was killed"
            ));
        }
        let directory = sweep::directory_root().join(sweep::owned_name(name));
        fs::create_dir_all(&directory)?;
        let ns = Netns::create(&sweep::owned_name("public"))?;
        let public = Segment::new("public", ns.clone(), None)?;
        let keep_files = std::env::var_os("KANPACHI_TEST_KEEP").is_some();
        Ok(Self {
            directory,
            public,
            lans: Vec::new(),
            public_members: Vec::new(),
            all: vec![ns],
            keep_files,
            _lock: lock,
        })
    }

    /// Where state directories, sockets and captured output live.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn public(&self) -> &Segment {
        &self.public
    }

    /// Adds a LAN behind a router of its own, on which a forwarding rule (see [`crate::loss`]) meets all its traffic.
    pub fn lan(&mut self, name: &str) -> Result<Segment> {
        let index = self.lans.len() as u32;
        ensure!(index < MAX_LANS, "a lab holds {MAX_LANS} LANs");
        let router = self.namespace(&format!("router-{name}"))?;
        let segment = Segment::new(name, router.clone(), Some(index))?;
        self.veth(&self.public, &router, "wan0")?;
        let (wan4, wan6) = self.join(&self.public.clone(), &router, "wan0", Families::Both)?;
        for member in self
            .public_members
            .iter()
            .chain([&self.public.ns])
            .filter(|ns| ns.name() != router.name())
        {
            member.ip(&route_lines(&segment, wan4, wan6))?;
        }
        wait_for_carrier(&router, "wan0")?;
        self.lans.push((segment.clone(), wan4, wan6));
        Ok(segment)
    }

    /// Adds a host to the public segment.
    pub fn public_host(&mut self, name: &str) -> Result<Host> {
        self.host(name, &self.public.clone())
    }

    /// Adds a host to a segment, by a veth into its bridge.
    pub fn host(&mut self, name: &str, segment: &Segment) -> Result<Host> {
        self.host_with(name, segment, Families::Both)
    }

    /// [`Lab::host`], with addresses of these families.
    pub fn host_with(&mut self, name: &str, segment: &Segment, families: Families) -> Result<Host> {
        let ns = self.namespace(name)?;
        self.veth(segment, &ns, HOST_INTERFACE)?;
        self.settle(name, segment, ns, families)
    }

    /// Takes a host's cable out and plugs it in elsewhere, with a new address and new routes. Its programs run on.
    pub fn replug(&mut self, host: &Host, segment: &Segment, families: Families) -> Result<Host> {
        host.ns.ip(&format!("link delete {HOST_INTERFACE}\n"))?;
        self.veth(segment, &host.ns, HOST_INTERFACE)?;
        self.settle(&host.name, segment, host.ns.clone(), families)
    }

    /// Adds a host to a segment by a [`wire::Wire`] that delays, reorders and loses as told.
    pub fn host_by_wire(
        &mut self,
        name: &str,
        segment: &Segment,
        settings: wire::Settings,
    ) -> Result<(Host, wire::Wire)> {
        let ns = self.namespace(name)?;
        let port = format!("port{}", segment.next.load(Ordering::Relaxed));
        let wire = wire::Wire::new((&ns, HOST_INTERFACE), (&segment.ns, &port), settings)?;
        segment.ns.ip(&format!(
            "link set {port} master {}\nlink set {port} up\n",
            segment.bridge
        ))?;
        Ok((self.settle(name, segment, ns, Families::Both)?, wire))
    }

    fn settle(
        &mut self,
        name: &str,
        segment: &Segment,
        ns: Netns,
        families: Families,
    ) -> Result<Host> {
        let (v4, v6) = self.join(segment, &ns, HOST_INTERFACE, families)?;
        wait_for_carrier(&ns, HOST_INTERFACE)?;
        wait_for_carrier(&segment.ns, segment.bridge)?;
        Ok(Host {
            name: name.to_owned(),
            ns,
            v4,
            v6,
        })
    }

    pub(crate) fn namespace(&mut self, name: &str) -> Result<Netns> {
        let ns = Netns::create(&sweep::owned_name(name))?;
        self.all.push(ns.clone());
        Ok(ns)
    }

    /// Joins a namespace's new interface to a segment's bridge. Both ends are born in their namespaces, so names never clash.
    pub(crate) fn veth(&self, segment: &Segment, ns: &Netns, interface: &str) -> Result<()> {
        let port = format!("port{}", segment.next.load(Ordering::Relaxed));
        let line = format!(
            "link add {port} netns {} type veth peer name {interface} netns {}\n",
            segment.ns.name(),
            ns.name()
        );
        shell::feed("ip", &["-batch", "-"], &line)?;
        segment.ns.ip(&format!(
            "link set {port} master {}\nlink set {port} up\n",
            segment.bridge
        ))
    }

    /// Gives an interface the segment's next addresses and default routes through its gateway.
    pub(crate) fn join(
        &mut self,
        segment: &Segment,
        ns: &Netns,
        interface: &str,
        families: Families,
    ) -> Result<(Ipv4Addr, Ipv6Addr)> {
        let addresses = join(segment, ns, interface, families)?;
        // Members of the public segment have direct routes to the LANs.
        if segment.ns.name() == self.public.ns.name() && families == Families::Both {
            for (lan, wan4, wan6) in &self.lans {
                ns.ip(&route_lines(lan, *wan4, *wan6))?;
            }
            self.public_members.push(ns.clone());
        }
        Ok(addresses)
    }
}

fn join(
    segment: &Segment,
    ns: &Netns,
    interface: &str,
    families: Families,
) -> Result<(Ipv4Addr, Ipv6Addr)> {
    let number = segment.take_number();
    ensure!(
        number < (1 << (32 - segment.v4_bits)) - 1,
        "segment {} is full",
        segment.name
    );
    let (mut v4, mut v6) = segment.address(number);
    let (gateway4, gateway6) = segment.address(1);
    // Only here: the overlay adapter must cope with duplicate address detection by itself.
    ns.sysctl(&format!("ipv6/conf/{interface}/accept_dad"), "0")?;
    if families == Families::OnlyV4 {
        ns.sysctl(&format!("ipv6/conf/{interface}/disable_ipv6"), "1")?;
    }
    ns.ip(&format!("link set {interface} up\n"))?;
    if families == Families::OnlyV6 {
        v4 = Ipv4Addr::UNSPECIFIED;
    } else {
        ns.ip(&format!(
            "address add {v4}/{} dev {interface}\nroute add default via {gateway4}\n",
            segment.v4_bits
        ))?;
    }
    if families == Families::OnlyV4 {
        v6 = Ipv6Addr::UNSPECIFIED;
    } else {
        ns.ip(&format!(
            "address add {v6}/64 dev {interface} nodad\nroute add default via {gateway6}\n"
        ))?;
    }
    Ok((v4, v6))
}

/// Until the kernel's link watch, at most once a second, has seen a new link, the interface drops what it is given.
pub(crate) fn wait_for_carrier(ns: &Netns, interface: &str) -> Result<()> {
    quietly(CARRIER, || {
        let text = shell::run(
            "ip",
            &["-n", ns.name(), "-j", "link", "show", "dev", interface],
        )?;
        let json: serde_json::Value = serde_json::from_str(&text)?;
        // TAP devices, which have no link, are "UNKNOWN" once they work.
        let state = &json[0]["operstate"];
        ensure!(
            state == "UP" || state == "UNKNOWN",
            "{interface} in {} is {state}",
            ns.name()
        );
        Ok(())
    })
}

fn route_lines(lan: &Segment, via4: Ipv4Addr, via6: Ipv6Addr) -> String {
    format!(
        "route add {}/{} via {via4}\nroute add {}/64 via {via6}\n",
        lan.v4, lan.v4_bits, lan.v6
    )
}

fn take_lock() -> Result<Flock<File>> {
    let open = || {
        OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(LOCK_FILE)
            .with_context(|| format!("open {LOCK_FILE}"))
    };
    match Flock::lock(open()?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err(_) => {
            eprintln!("    waiting for another lab to end");
            Flock::lock(open()?, FlockArg::LockExclusive)
                .map_err(|(_, error)| error)
                .context("lock the lab")
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for ns in &self.all {
            let _ = sweep::kill_inside(ns.name());
        }
        if self.keep_files {
            eprintln!("    kept {}", self.directory.display());
        } else {
            sweep::remove_directory(&self.directory);
        }
    }
}

impl Host {
    /// Both underlay addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }
}
