//! A router with a NAT between its LANs and a segment: by nftables where that can do it, in user space where not.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::behaviour::{Behaviour, Dependence, Hop, Ports};
use super::device::{INTERFACE, UserNat};
use super::table::{Nat, SHIFT};
use crate::client::NODE_PORT;
use crate::lab::{Families, Host, Lab, Segment, wait_for_carrier};
use crate::netns::Netns;

/// The interface towards the public network.
const WAN: &str = "wan0";
/// How long a NAT in user space keeps a mapping by which nothing goes out, unless told otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// How a router's NAT is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    /// By the kernel. Linux shares a mapping between all destinations, filters by address and port, and does not
    /// hairpin; all else has to be asked for.
    ByKernel,
    /// By [`Nat`], forgetting what is not used for so long.
    InUserSpace(Duration),
}

/// What a router forwards to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lets {
    Everything,
    OnlyTcp,
    /// Connections to port 443 whose first bytes are those of an HTTP request. What opens a connection is short enough to
    /// hold no request, and all the rest of one is let through that began well.
    OnlyHttp,
    Nothing,
}

/// The router.
#[derive(Debug)]
pub struct Gateway {
    pub name: String,
    pub ns: Netns,
    /// Its address on the outside.
    pub outside: Ipv4Addr,
    pub behaviour: Behaviour,
    pub lans: Vec<Segment>,
    made: Made,
    user: Option<UserNat>,
}

impl Gateway {
    /// Puts a router on `upstream`, which is the public segment or the LAN of a carrier; a LAN for each address in
    /// `lans`, of 256 addresses.
    pub fn new(
        lab: &mut Lab,
        name: &str,
        upstream: &Segment,
        lans: &[Ipv4Addr],
        behaviour: Behaviour,
        made: Made,
    ) -> Result<Self> {
        let ns = lab.namespace(&format!("nat-{name}"))?;
        let lans = lans.iter().enumerate().map(|(index, address)| {
            Segment::private(&format!("{name}-lan{index}"), &ns, index, *address)
        });
        let lans = lans.collect::<Result<Vec<_>>>()?;
        lab.veth(upstream, &ns, WAN)?;
        let (own, _) = lab.join(upstream, &ns, WAN, Families::OnlyV4)?;
        wait_for_carrier(&ns, WAN)?;
        let mut gateway = Self {
            name: name.to_owned(),
            ns,
            outside: own,
            behaviour,
            lans,
            made,
            user: None,
        };
        match made {
            Made::ByKernel => gateway.filter(Lets::Everything)?,
            Made::InUserSpace(timeout) => gateway.run_user_nat(upstream, timeout)?,
        }
        Ok(gateway)
    }

    /// Adds a host to one of the LANs. Rules that name a host name this one from now on.
    pub fn host(&self, lab: &mut Lab, name: &str, lan: usize) -> Result<Host> {
        let segment = self.expect_on(lan)?;
        lab.host_with(name, &segment, Families::OnlyV4)
    }

    /// Moves a host from wherever it is to one of the LANs.
    pub fn move_in(&self, lab: &mut Lab, host: &Host, lan: usize) -> Result<Host> {
        let segment = self.expect_on(lan)?;
        lab.replug(host, &segment, Families::OnlyV4)
    }

    /// The rules come before the host: a flow that was there before them would never be translated.
    fn expect_on(&self, lan: usize) -> Result<Segment> {
        let segment = self.lans.get(lan).context("no such LAN")?.clone();
        if self.made == Made::ByKernel {
            self.translate(segment.next_address())?;
        }
        Ok(segment)
    }

    /// This NAT, for the place of a host behind it.
    #[must_use]
    pub fn hop(&self) -> Hop {
        Hop {
            gateway: self.name.clone(),
            behaviour: self.behaviour,
        }
    }

    /// Forgets all mappings, as a router does that is switched off and on.
    ///
    /// # Errors
    /// If its NAT is the kernel's, which remembers.
    pub fn forget(&self) -> Result<()> {
        let user = self.user.as_ref();
        user.context("the kernel's NAT forgets only in time")?
            .forget();
        Ok(())
    }

    /// Switches the router off, or on again with nothing that it knew before.
    ///
    /// # Errors
    /// As [`Gateway::forget`].
    pub fn power(&self, on: bool) -> Result<()> {
        let mut rules = "table inet power\ndelete table inet power\n".to_owned();
        if !on {
            rules += "table inet power { chain off { type filter hook prerouting priority -400; policy drop; }; }\n";
        }
        self.forget()?;
        self.ns.nft(&rules)
    }

    /// Says what may go out, and closes the router itself to the outside as routers at home are: an answer to a packet
    /// that came too early would take the port that the host's own packet needs.
    pub fn filter(&self, lets: Lets) -> Result<()> {
        let everybody = self.behaviour.filtering == Dependence::EndpointIndependent;
        let inbound = if everybody { "accept" } else { "drop" };
        let outbound = match lets {
            Lets::Everything => "oifname wan0 accept",
            Lets::OnlyTcp => "oifname wan0 meta l4proto tcp accept",
            Lets::OnlyHttp => {
                "ct mark 1 accept\n tcp dport 443 @ih,0,32 0x47455420 ct mark set 1 accept\n \
                 tcp dport 443 meta length < 64 accept"
            }
            Lets::Nothing => "drop",
        };
        self.ns.nft(&format!(
            "table ip filter\ndelete table ip filter\ntable ip filter {{\n\
               chain in {{ type filter hook input priority 0; policy accept;\n\
                 ct state established,related accept\n iifname {WAN} drop\n }}\n\
               chain forward {{ type filter hook forward priority 0; policy drop;\n\
                 iifname {WAN} ct state established,related accept\n iifname {WAN} {inbound}\n\
                 {outbound}\n }}\n\
             }}\n"
        ))
    }

    /// The kernel's NAT, for one host behind it where the behaviour needs to name one.
    fn translate(&self, host: Ipv4Addr) -> Result<()> {
        let outside = self.outside;
        let mut rules = String::new();
        match self.behaviour.ports {
            Ports::Preserved => {}
            Ports::Shifted => writeln!(
                rules,
                "oifname {WAN} ip saddr {host} udp sport {NODE_PORT} snat to {outside}:{}",
                NODE_PORT + SHIFT
            )?,
            Ports::Random => writeln!(rules, "oifname {WAN} masquerade fully-random")?,
        }
        writeln!(rules, "oifname {WAN} masquerade")?;
        let inbound = if self.behaviour.filtering == Dependence::EndpointIndependent {
            format!("iifname {WAN} ip daddr {outside} meta l4proto udp dnat to {host}")
        } else {
            String::new()
        };
        self.ns.nft(&format!(
            "table ip nat\ndelete table ip nat\ntable ip nat {{\n\
               chain post {{ type nat hook postrouting priority 100;\n{rules}\n}}\n\
               chain pre {{ type nat hook prerouting priority -100;\n{inbound}\n}}\n\
             }}\n"
        ))
    }

    /// Everything between LANs and outside goes through the device of a [`UserNat`]. The outside address is nobody's: the
    /// router answers for it by proxy ARP and routes it there.
    fn run_user_nat(&mut self, upstream: &Segment, timeout: Duration) -> Result<()> {
        (self.outside, _) = upstream.address(upstream.take_number());
        let seed = u64::from(u32::from(self.outside));
        let nat = Nat::new(self.behaviour, self.outside, timeout, seed);
        self.user = Some(UserNat::start(&self.ns, nat)?);
        for (key, value) in [
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/wan0/rp_filter", "0"),
            ("ipv4/conf/nat0/rp_filter", "0"),
            ("ipv4/conf/nat0/send_redirects", "0"),
            ("ipv4/conf/wan0/proxy_arp", "1"),
            ("ipv4/neigh/wan0/proxy_delay", "0"),
        ] {
            self.ns.sysctl(key, value)?;
        }
        let mut lines = format!(
            "link set {INTERFACE} up\nroute add {}/32 dev {INTERFACE}\nroute add default dev {INTERFACE} table 100\n",
            self.outside
        );
        for lan in &self.lans {
            writeln!(lines, "rule add iif {} lookup 100 pref 100", lan.bridge)?;
        }
        self.ns.ip(&lines)
    }
}
