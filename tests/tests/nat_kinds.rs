//! Every kind of place in the NAT lab behaves as it is named: measured by plain sockets, without a node.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kanpachi_tests::client::NODE_PORT;
use kanpachi_tests::lab::{Host, Lab, run};
use kanpachi_tests::nat::behaviour::{Behaviour, Carries, Dependence, Ports, composed};
use kanpachi_tests::nat::gateway::Made;
use kanpachi_tests::nat::measure::{Servers, punch, socket};
use kanpachi_tests::nat::world::{Kind, Site, World};
use kanpachi_tests::netns::Netns;
use kanpachi_tests::note;
use kanpachi_tests::traffic::ping;
use kanpachi_tests::wait::eventually;

/// Two public hosts with a measuring server each.
fn servers(lab: &mut Lab) -> Result<(Servers, Host)> {
    let (one, other) = (lab.public_host("server")?, lab.public_host("elsewhere")?);
    Ok((Servers::new(&one, &other)?, one))
}

fn node_socket(site: &Site) -> Result<UdpSocket> {
    socket(&site.host.ns, (site.host.v4, NODE_PORT).into())
}

#[test]
fn mapping_and_filtering_are_as_named() {
    run("nat-kinds", |lab| {
        let (servers, _) = servers(lab)?;
        let world = World::of(
            lab,
            &[
                Kind::Open,
                Kind::FullCone,
                Kind::AddressRestricted,
                Kind::PortRestricted,
                Kind::PortShifted,
                Kind::Symmetric,
                Kind::Carrier,
                Kind::OneRouter,
                Kind::Hairpin,
            ],
        )?;
        for site in &world.sites {
            let socket = node_socket(site)?;
            let seen = servers.observe(&socket).context(site.name().to_owned())?;
            let (mapping, filtering) = composed(&site.place.nats);
            note(format_args!(
                "{}: {} mapping, {} filtering",
                site.name(),
                seen.mapping,
                seen.filtering
            ));
            ensure!(
                (seen.mapping, seen.filtering) == (mapping, filtering),
                "{} should have {mapping} mapping and {filtering} filtering, and has {seen:?}",
                site.name()
            );
            let outside = servers.reflect(&socket)?.ip();
            ensure!(
                site.outside.contains(&outside),
                "{} is seen at {outside}",
                site.name()
            );
            let keeps = |ports| {
                site.place
                    .nats
                    .iter()
                    .all(|hop| hop.behaviour.ports == ports)
            };
            if site.place.nats.len() == 1 && !site.name().contains('-') {
                ensure!(
                    seen.keeps_port == keeps(Ports::Preserved),
                    "{}: {seen:?}",
                    site.name()
                );
            }
        }
        Ok(())
    });
}

#[test]
fn only_a_hairpinning_router_joins_two_hosts_behind_it() {
    run("nat-hairpin", |lab| {
        let (servers, _) = servers(lab)?;
        let mut world = World::of(lab, &[Kind::Carrier, Kind::OneRouter, Kind::Hairpin])?;
        let deaf = Behaviour {
            hairpin: false,
            ..Behaviour::CARRIER
        };
        let user = Made::InUserSpace(Duration::from_secs(60));
        world.carrier(lab, "deaf", deaf, user)?;
        for (one, other, wanted) in [
            ("carrier-a", "carrier-b", true),
            ("deaf-a", "deaf-b", false),
            ("one-a", "one-b", false),
            ("one-a", "one-guest", false),
            ("pin-a", "pin-b", true),
            ("pin-a", "one-guest", true),
        ] {
            let (one, other) = (world.site(one)?, world.site(other)?);
            let met = punch(&servers, &node_socket(one)?, &node_socket(other)?)?;
            ensure!(
                met == wanted,
                "{} and {} meet: {met}",
                one.name(),
                other.name()
            );
        }
        // One segment needs no router, and two are apart.
        let at = |name| world.site(name).map(|site| IpAddr::from(site.host.v4));
        let desk = &world.site("one-a")?.host.ns;
        ping::once(desk, at("one-b")?)?;
        ensure!(
            ping::once(desk, at("one-guest")?).is_err(),
            "the LANs are not apart"
        );
        Ok(())
    });
}

#[test]
fn a_symmetric_nat_gives_random_ports() {
    run("nat-random", |lab| {
        let (servers, _) = servers(lab)?;
        let world = World::of(lab, &[Kind::Symmetric])?;
        let site = world.site("symmetric")?;
        let mut ports = Vec::new();
        for _ in 0..8 {
            let socket = socket(&site.host.ns, (site.host.v4, 0).into())?;
            let port = servers.reflect(&socket)?.port();
            ensure!(port != socket.local_addr()?.port(), "{port} was kept");
            ports.push(port);
        }
        let steps: Vec<u16> = ports
            .windows(2)
            .map(|two| two[0].abs_diff(two[1]))
            .collect();
        ensure!(
            steps.iter().filter(|step| **step > 64).count() >= 5,
            "the ports {ports:?} could be guessed"
        );
        Ok(())
    });
}

#[test]
fn a_nat_forgets_what_is_not_used() {
    run("nat-forgets", |lab| {
        let (servers, _) = servers(lab)?;
        let mut world = World::default();
        let forgets = Made::InUserSpace(Duration::from_secs(2));
        world.home(lab, "short", Behaviour::CARRIER, forgets)?;
        let socket = node_socket(world.site("short")?)?;
        let first = servers.reflect(&socket)?;
        ensure!(
            servers.gets_through(&socket, first)?,
            "the mapping does not work"
        );
        eventually(Duration::from_secs(10), "the mapping is forgotten", || {
            ensure!(!servers.gets_through(&socket, first)?, "it still works");
            Ok(())
        })?;
        let second = servers.reflect(&socket)?;
        ensure!(second != first, "{second} again");
        ensure!(
            servers.gets_through(&socket, second)?,
            "the new mapping does not work"
        );
        world.gateway("short")?.forget()?;
        ensure!(
            !servers.gets_through(&socket, second)?,
            "it was not forgotten at once"
        );
        Ok(())
    });
}

#[test]
fn what_does_not_carry_udp_carries_no_more_than_named() {
    run("nat-blocked", |lab| {
        let (servers, server) = servers(lab)?;
        let world = World::of(lab, &[Kind::OnlyTcp, Kind::Proxied, Kind::PortRestricted])?;
        let ports = [443u16, 12_975];
        for port in ports {
            greet_on(&server.ns, (server.v4, port).into())?;
        }
        for site in &world.sites {
            let (name, carries) = (site.name(), site.place.carries);
            let udp = servers.reflect(&node_socket(site)?).is_ok();
            ensure!(udp == (carries == Carries::Everything), "{name}: UDP {udp}");
            for port in ports {
                let target = SocketAddr::from((server.v4, port));
                let tcp = greeting(&site.host.ns, target, None).is_ok();
                ensure!(tcp == (carries != Carries::OnlyProxy), "{name}: TCP {tcp}");
            }
        }
        let site = world.site("proxied")?;
        let proxy = site.proxy.as_deref().context("no proxy")?;
        let proxy: SocketAddr = proxy.trim_start_matches("http://").parse()?;
        for (port, wanted) in [(443, true), (12_975, false)] {
            let target = SocketAddr::from((server.v4, port));
            let answer = greeting(&site.host.ns, target, Some(proxy));
            ensure!(
                answer.is_ok() == wanted,
                "port {port} by the proxy: {answer:?}"
            );
        }
        Ok(())
    });
}

#[test]
fn a_host_of_one_family_has_only_that() {
    run("nat-families", |lab| {
        let world = World::of(lab, &[Kind::Open, Kind::OnlyV4, Kind::OnlyV6])?;
        let server = lab.public_host("server")?;
        for site in &world.sites {
            let reached = server
                .addresses()
                .map(|address| ping::once(&site.host.ns, address).is_ok());
            let wanted = [site.place.ipv4, site.place.ipv6];
            ensure!(reached == wanted, "{}: {reached:?}", site.name());
        }
        Ok(())
    });
}

/// NATs differ, and the transport above must not notice.
#[test]
fn tcp_goes_through_every_nat() {
    run("nat-tcp", |lab| {
        let kinds = [
            Kind::AddressRestricted,
            Kind::PortShifted,
            Kind::Symmetric,
            Kind::Carrier,
            Kind::Hairpin,
        ];
        let world = World::of(lab, &kinds)?;
        let server = lab.public_host("server")?;
        let target = SocketAddr::from((server.v4, 443));
        greet_on(&server.ns, target)?;
        for site in &world.sites {
            let name = site.name();
            greeting(&site.host.ns, target, None).context(name.to_owned())?;
            ping::once(&site.host.ns, server.v4.into()).context(name.to_owned())?;
        }
        Ok(())
    });
}

const GREETING: &[u8] = b"good day to you, whoever you are";

/// Says the same to everybody, for as long as the namespace lives.
fn greet_on(ns: &Netns, address: SocketAddr) -> Result<()> {
    let listener = ns.run(|| Ok(std::net::TcpListener::bind(address)?))?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.write_all(GREETING);
        }
    });
    Ok(())
}

/// Hears the greeting of a server, by a proxy if there is one.
fn greeting(ns: &Netns, target: SocketAddr, proxy: Option<SocketAddr>) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(2);
    ns.run(|| {
        let mut stream = TcpStream::connect_timeout(&proxy.unwrap_or(target), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        if proxy.is_some() {
            write!(
                stream,
                "CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"
            )?;
        }
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard)?;
        let heard = String::from_utf8_lossy(&heard).into_owned();
        ensure!(heard.as_bytes().ends_with(GREETING), "heard {heard:?}");
        Ok(())
    })
}

/// The constants and the words for them agree.
#[test]
fn kinds_are_what_they_are_called() {
    use Dependence::{Address, AddressAndPort, EndpointIndependent};
    for (behaviour, mapping, filtering) in [
        (
            Behaviour::FULL_CONE,
            EndpointIndependent,
            EndpointIndependent,
        ),
        (Behaviour::ADDRESS_RESTRICTED, EndpointIndependent, Address),
        (
            Behaviour::PORT_RESTRICTED,
            EndpointIndependent,
            AddressAndPort,
        ),
        (Behaviour::SYMMETRIC, AddressAndPort, AddressAndPort),
    ] {
        assert_eq!(
            (behaviour.mapping, behaviour.filtering),
            (mapping, filtering)
        );
    }
}
