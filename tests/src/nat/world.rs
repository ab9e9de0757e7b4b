//! Hosts by the kind of place that they are in, with all that stands between them and the public segment.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result};

use super::behaviour::{Behaviour, Carries, Place};
use super::gateway::{Gateway, Lets, Made, TIMEOUT};
use super::proxy::Proxy;
use crate::lab::{Families, Host, Lab};
use crate::netns::Netns;

/// The LAN at home; most have the same addresses, as at home.
const HOME: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 0);
/// A second LAN that the first cannot reach.
const GUESTS: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 0);
/// Between a carrier and its customers (RFC 6598).
const SHARED: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
/// Where proxies listen.
const PROXY_PORT: u16 = 3128;

/// The places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Public addresses of both families.
    Open,
    /// A public IPv4 address and no IPv6.
    OnlyV4,
    /// A public IPv6 address and no IPv4.
    OnlyV6,
    FullCone,
    AddressRestricted,
    PortRestricted,
    /// Port-restricted, on other ports than inside.
    PortShifted,
    /// A random port for each destination.
    Symmetric,
    /// Two customers of one carrier, each behind a router at home.
    Carrier,
    /// Two hosts on one LAN and one on another, behind one router that does not hairpin.
    OneRouter,
    /// Two hosts on two LANs behind one router that hairpins.
    Hairpin,
    /// A router that forwards TCP only.
    OnlyTcp,
    /// A router that forwards nothing, with a proxy for port 443.
    Proxied,
}

impl Kind {
    /// Every kind, in the order of the matrix.
    pub const ALL: [Self; 13] = [
        Self::Open,
        Self::OnlyV4,
        Self::OnlyV6,
        Self::FullCone,
        Self::AddressRestricted,
        Self::PortRestricted,
        Self::PortShifted,
        Self::Symmetric,
        Self::Carrier,
        Self::OneRouter,
        Self::Hairpin,
        Self::OnlyTcp,
        Self::Proxied,
    ];
}

/// A host and what is between it and the others.
#[derive(Debug, Clone)]
pub struct Site {
    pub host: Host,
    pub place: Place,
    /// Its addresses as the public segment sees them.
    pub outside: Vec<IpAddr>,
    /// Those, its own, and the ones in between.
    pub addresses: Vec<IpAddr>,
    /// The router that others share with it, if any, and the bridges of its LANs.
    pub router: Option<(Netns, Vec<&'static str>)>,
    /// The proxy that it has to use, as `HTTPS_PROXY` wants it.
    pub proxy: Option<String>,
}

impl Site {
    /// A host on the public segment that has both families.
    #[must_use]
    pub fn open(host: &Host) -> Self {
        Self {
            host: host.clone(),
            place: Place {
                segment: "public".to_owned(),
                ipv4: true,
                ipv6: true,
                nats: Vec::new(),
                carries: Carries::Everything,
            },
            outside: host.addresses().to_vec(),
            addresses: host.addresses().to_vec(),
            router: None,
            proxy: None,
        }
    }

    pub fn name(&self) -> &str {
        &self.host.name
    }
}

/// All sites of a lab, and their routers, which live as long.
#[derive(Debug, Default)]
pub struct World {
    pub sites: Vec<Site>,
    pub gateways: Vec<Gateway>,
    proxies: Vec<Proxy>,
}

impl World {
    /// Builds one of these kinds each.
    pub fn of(lab: &mut Lab, kinds: &[Kind]) -> Result<Self> {
        let mut world = Self::default();
        for kind in kinds {
            world.add(lab, *kind)?;
        }
        Ok(world)
    }

    pub fn site(&self, name: &str) -> Result<&Site> {
        let mut sites = self.sites.iter();
        sites
            .find(|site| site.name() == name)
            .with_context(|| format!("no site {name}"))
    }

    pub fn gateway(&self, name: &str) -> Result<&Gateway> {
        let mut gateways = self.gateways.iter();
        gateways
            .find(|gateway| gateway.name == name)
            .with_context(|| format!("no gateway {name}"))
    }

    /// Adds the hosts of a kind.
    pub fn add(&mut self, lab: &mut Lab, kind: Kind) -> Result<()> {
        use Made::ByKernel;
        let user = Made::InUserSpace(TIMEOUT);
        match kind {
            Kind::Open => self.public(lab, "open", Families::Both),
            Kind::OnlyV4 => self.public(lab, "only-v4", Families::OnlyV4),
            Kind::OnlyV6 => self.public(lab, "only-v6", Families::OnlyV6),
            Kind::FullCone => self.home(lab, "full-cone", Behaviour::FULL_CONE, ByKernel),
            Kind::AddressRestricted => {
                self.home(lab, "address", Behaviour::ADDRESS_RESTRICTED, user)
            }
            Kind::PortRestricted => self.home(lab, "port", Behaviour::PORT_RESTRICTED, ByKernel),
            Kind::PortShifted => self.home(lab, "shifted", Behaviour::PORT_SHIFTED, ByKernel),
            Kind::Symmetric => self.home(lab, "symmetric", Behaviour::SYMMETRIC, ByKernel),
            Kind::Carrier => self.carrier(lab, "carrier", Behaviour::CARRIER, user),
            Kind::OneRouter => {
                let hosts = [("one-a", 0), ("one-b", 0), ("one-guest", 1)];
                self.shared(lab, "one", Behaviour::PORT_RESTRICTED, &hosts)
            }
            Kind::Hairpin => {
                let behaviour = Behaviour::PORT_RESTRICTED.hairpinning();
                self.shared(lab, "pin", behaviour, &[("pin-a", 0), ("pin-b", 1)])
            }
            Kind::OnlyTcp => {
                self.home(lab, "only-tcp", Behaviour::PORT_RESTRICTED, ByKernel)?;
                self.restrict(Lets::OnlyTcp, Carries::OnlyTcp)
            }
            Kind::Proxied => {
                self.home(lab, "proxied", Behaviour::PORT_RESTRICTED, ByKernel)?;
                self.restrict(Lets::Nothing, Carries::OnlyProxy)?;
                self.start_proxy()
            }
        }
    }

    fn public(&mut self, lab: &mut Lab, name: &str, families: Families) -> Result<()> {
        let segment = lab.public().clone();
        let host = lab.host_with(name, &segment, families)?;
        let mut site = Site::open(&host);
        site.place.ipv4 = families != Families::OnlyV6;
        site.place.ipv6 = families != Families::OnlyV4;
        site.outside.retain(|address| !address.is_unspecified());
        self.sites.push(site);
        Ok(())
    }

    /// One host behind one router, both of this name.
    pub fn home(
        &mut self,
        lab: &mut Lab,
        name: &str,
        behaviour: Behaviour,
        made: Made,
    ) -> Result<()> {
        let upstream = lab.public().clone();
        let gateway = Gateway::new(lab, name, &upstream, &[HOME], behaviour, made)?;
        let host = gateway.host(lab, name, 0)?;
        self.settle(&[&gateway], 0, host);
        self.gateways.push(gateway);
        Ok(())
    }

    /// Two hosts `NAME-a` and `NAME-b`, each behind a router of its own, both behind a carrier's.
    pub fn carrier(
        &mut self,
        lab: &mut Lab,
        name: &str,
        behaviour: Behaviour,
        made: Made,
    ) -> Result<()> {
        let upstream = lab.public().clone();
        let carrier = Gateway::new(lab, name, &upstream, &[SHARED], behaviour, made)?;
        for customer in ["a", "b"] {
            let (between, name) = (carrier.lans[0].clone(), format!("{name}-{customer}"));
            let plain = Behaviour::PORT_RESTRICTED;
            let home = Gateway::new(lab, &name, &between, &[HOME], plain, Made::ByKernel)?;
            let host = home.host(lab, &name, 0)?;
            self.settle(&[&home, &carrier], 0, host);
            self.gateways.push(home);
        }
        self.gateways.push(carrier);
        Ok(())
    }

    /// Hosts on LANs, by number, of one router in user space: the kernel's NAT shares ports in ways of its own.
    fn shared(
        &mut self,
        lab: &mut Lab,
        name: &str,
        behaviour: Behaviour,
        hosts: &[(&str, usize)],
    ) -> Result<()> {
        let upstream = lab.public().clone();
        let made = Made::InUserSpace(TIMEOUT);
        let gateway = Gateway::new(lab, name, &upstream, &[HOME, GUESTS], behaviour, made)?;
        for (host, lan) in hosts {
            let host = gateway.host(lab, host, *lan)?;
            self.settle(&[&gateway], *lan, host);
        }
        self.gateways.push(gateway);
        Ok(())
    }

    /// Notes a host with the NATs before it, from the host outwards.
    fn settle(&mut self, gateways: &[&Gateway], lan: usize, host: Host) {
        let place = Place {
            segment: gateways[0].lans[lan].name.clone(),
            ipv4: true,
            ipv6: false,
            nats: gateways.iter().map(|gateway| gateway.hop()).collect(),
            carries: Carries::Everything,
        };
        let outermost = gateways.last();
        let outsides = gateways.iter().map(|gateway| gateway.outside);
        let addresses = outsides.chain([host.v4]).map(IpAddr::from).collect();
        self.sites.push(Site {
            host,
            place,
            outside: outermost
                .map(|gateway| gateway.outside.into())
                .into_iter()
                .collect(),
            addresses,
            router: outermost.map(|gateway| {
                let bridges = gateway.lans.iter().map(|lan| lan.bridge);
                (gateway.ns.clone(), bridges.collect())
            }),
            proxy: None,
        });
    }

    /// Lets less through for the site that was added last.
    fn restrict(&mut self, lets: Lets, carries: Carries) -> Result<()> {
        let (gateway, site) = (self.gateways.last(), self.sites.last_mut());
        let (gateway, site) = gateway.zip(site).context("no site yet")?;
        site.place.carries = carries;
        gateway.filter(lets)
    }

    /// A proxy in the router of the site that was added last.
    fn start_proxy(&mut self) -> Result<()> {
        let (gateway, site) = (self.gateways.last(), self.sites.last_mut());
        let (gateway, site) = gateway.zip(site).context("no site yet")?;
        let inside = gateway.lans[0].address(1).0;
        let proxy = Proxy::start(&gateway.ns, (inside, PROXY_PORT).into())?;
        site.proxy = Some(format!("http://{inside}:{PROXY_PORT}"));
        self.proxies.push(proxy);
        Ok(())
    }
}
