//! `kanpachi netcheck`, as people know it from other programs.

use std::fmt::Write as _;

use super::{Look, clean, units};
use crate::ipc::{
    api::Path,
    netcheck::{Family, NetcheckReply, Pair, PortMapping},
};

/// The whole report.
#[must_use]
pub fn netcheck(reply: &NetcheckReply, look: &Look) -> String {
    let mut out = "Report:\n".to_owned();
    let sign = look.sign(super::Sign::Dot);
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(out, "  {sign} {name}: {value}");
    };
    line("UDP", yes(reply.udp));
    line("IPv4", &family(&reply.ipv4));
    line("IPv6", &family(&reply.ipv6));
    line(
        "MappingVariesByDestIP",
        yes(reply.mapping_varies_by_dest_ip),
    );
    line("Mapping", &words(&reply.mapping));
    let filtering = words(&reply.filtering);
    line(
        "Filtering",
        &match reply.filtering == "address_dependent" && !reply.filtering_exact {
            true => format!("{filtering}, or none"),
            false => filtering,
        },
    );
    line("HairPinning", yes(reply.hairpinning));
    line("PortPreserved", yes(reply.port_preserved));
    line("PortMapping", &port_mapping(&reply.port_mapping));
    line(
        "Proxy",
        &reply.proxy.as_deref().map_or("none".to_owned(), clean),
    );
    let reflectors = if reply.reflectors.is_empty() {
        "none"
    } else {
        "round trip"
    };
    line("Reflectors", reflectors);
    for reflector in &reply.reflectors {
        let latency = reflector.latency_ms.map(units::millis);
        let latency = latency.unwrap_or_else(|| "no answer".to_owned());
        let _ = writeln!(out, "      {}  {latency}", reflector.address);
    }
    if !reply.peers.is_empty() {
        out.push_str("Members:\n");
        let width = reply
            .peers
            .iter()
            .map(|p| clean(&p.name).chars().count())
            .max();
        for peer in &reply.peers {
            let name = clean(&peer.name);
            let _ = writeln!(
                out,
                "  {sign} {name:width$}  {}",
                pair(peer),
                width = width.unwrap_or(0)
            );
        }
    }
    for advice in &reply.advice {
        let _ = writeln!(out, "{}", clean(advice));
    }
    out
}

const fn yes(value: Option<bool>) -> &'static str {
    match value {
        Some(true) => "yes",
        Some(false) => "no",
        None => "unknown",
    }
}

fn family(family: &Family) -> String {
    let Some(address) = family.address.filter(|_| family.works) else {
        return "no".to_owned();
    };
    let nat = if family.nat == Some(true) {
        " (NAT)"
    } else {
        ""
    };
    format!("yes, {address}{nat}")
}

fn words(word: &str) -> String {
    clean(&word.replace('_', " "))
}

fn port_mapping(mapping: &PortMapping) -> String {
    if !mapping.enabled {
        return "switched off".to_owned();
    }
    let offered = [
        (mapping.upnp, "UPnP"),
        (mapping.nat_pmp, "NAT-PMP"),
        (mapping.pcp, "PCP"),
    ];
    let names: Vec<&str> = offered
        .iter()
        .filter(|(offered, _)| *offered == Some(true))
        .map(|(_, name)| *name)
        .collect();
    let names = if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    };
    match mapping.external {
        Some(external) => format!("{names}; {external} leads here"),
        None => names,
    }
}

fn pair(pair: &Pair) -> String {
    let prospect = match pair.prospect.as_str() {
        "direct" => "direct",
        "birthday" => "direct after a few seconds",
        "relay" => "relay",
        _ => "not known yet",
    };
    match pair.path {
        Some(Path::Lan) => format!("{prospect} (now on the LAN)"),
        Some(Path::Direct) => format!("{prospect} (now direct)"),
        Some(Path::Relay) => format!("{prospect} (now by relay)"),
        _ => prospect.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::netcheck::Reflector;

    #[test]
    fn the_report_reads_as_it_is_known() {
        let reply = NetcheckReply {
            udp: Some(true),
            ipv4: Family {
                works: true,
                address: Some(([203, 0, 113, 9], 41000).into()),
                nat: Some(true),
            },
            mapping: "address_and_port_dependent".to_owned(),
            mapping_varies_by_dest_ip: Some(true),
            filtering: "address_dependent".to_owned(),
            hairpinning: Some(false),
            reflectors: vec![Reflector {
                address: ([198, 51, 100, 1], 12975).into(),
                node_id: None,
                latency_ms: Some(12.34),
            }],
            peers: vec![Pair {
                name: "lamp\x1b[31m".to_owned(),
                node_id: "x".to_owned(),
                prospect: "birthday".to_owned(),
                path: Some(Path::Relay),
                mapping: None,
                filtering: None,
            }],
            advice: vec!["Do this.".to_owned()],
            ..NetcheckReply::default()
        };
        let look = Look {
            color: false,
            unicode: false,
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let text = netcheck(&reply, &look);
        for line in [
            "  - UDP: yes\n",
            "  - IPv4: yes, 203.0.113.9:41000 (NAT)\n",
            "  - IPv6: no\n",
            "  - MappingVariesByDestIP: yes\n",
            "  - Filtering: address dependent, or none\n",
            "  - HairPinning: no\n",
            "  - PortMapping: switched off\n",
            "      198.51.100.1:12975  12.3 ms\n",
            "direct after a few seconds (now by relay)\n",
            "Do this.\n",
        ] {
            assert!(text.contains(line), "{line:?} in\n{text}");
        }
        assert!(!text.contains('\x1b'), "{text:?}");
    }
}
