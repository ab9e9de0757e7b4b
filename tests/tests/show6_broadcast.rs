//! Show 6: broadcast and multicast arrive exactly once on each of the others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use kanpachi_tests::lab::{Lab, run};
use kanpachi_tests::mesh::{Member, Mesh};
use kanpachi_tests::traffic::cast::{self, Listener};

const PORT: u16 = 27_015;
const ARRIVAL: Duration = Duration::from_secs(3);
/// How long a second copy may still be under way.
const ECHO: Duration = Duration::from_millis(700);
/// Broadcast address of the default pool.
const SUBNET_BROADCAST: Ipv4Addr = Ipv4Addr::new(198, 19, 255, 255);

#[test]
fn a_subnet_broadcast_arrives_exactly_once_on_each_of_the_others() {
    run("show6-broadcast", |lab| {
        exactly_once(lab, SUBNET_BROADCAST.into())
    });
}

#[test]
fn a_limited_broadcast_arrives_exactly_once_on_each_of_the_others() {
    run("show6-limited", |lab| {
        exactly_once(lab, Ipv4Addr::BROADCAST.into())
    });
}

#[test]
fn an_ipv4_multicast_arrives_exactly_once_on_each_of_the_others() {
    run("show6-multicast4", |lab| {
        exactly_once(lab, Ipv4Addr::new(239, 255, 12, 34).into())
    });
}

#[test]
fn an_ipv6_multicast_arrives_exactly_once_on_each_of_the_others() {
    run("show6-multicast6", |lab| {
        exactly_once(lab, "ff02::7e57".parse::<IpAddr>()?)
    });
}

fn exactly_once(lab: &mut Lab, to: IpAddr) -> Result<()> {
    let mesh = Mesh::three(lab, &[])?;
    for sender in &mesh.members {
        let others = mesh
            .members
            .iter()
            .filter(|member| member.name() != sender.name());
        let listeners = others
            .map(|member| Ok((member, listen(member, to)?)))
            .collect::<Result<Vec<_>>>()?;
        let data = format!("{} calls {to}", sender.name());
        let interface = &sender.node.interface;
        cast::send(
            &sender.node.host.ns,
            interface,
            SocketAddr::new(to, PORT),
            data.as_bytes(),
        )?;
        for (member, listener) in &listeners {
            let mut heard = listener.until(data.as_bytes(), ARRIVAL)?;
            heard.extend(listener.until(b"nothing more", ECHO)?);
            let copies = heard
                .iter()
                .filter(|(packet, _)| packet == data.as_bytes())
                .count();
            ensure!(
                copies == 1,
                "{} heard {data:?} {copies} times: {heard:?}",
                member.name()
            );
            let from = heard[0].1.ip();
            let right = if to.is_ipv4() {
                from == sender.overlay.v4
            } else {
                from == sender.overlay.v6 || is_link_local(from)
            };
            ensure!(
                right,
                "{} heard {} from {from}",
                member.name(),
                sender.name()
            );
        }
    }
    Ok(())
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}

fn listen(member: &Member, to: IpAddr) -> Result<Listener> {
    let ns = &member.node.host.ns;
    if to.is_multicast() {
        Listener::multicast(ns, to, PORT, &member.node.interface, member.overlay.v4)
    } else {
        Listener::broadcast(ns, PORT)
    }
}
