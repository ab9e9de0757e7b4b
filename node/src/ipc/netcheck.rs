//! `GET /v1/netcheck`: what the network in front of this node does, which pairs will be direct, and what to do about it.

use std::net::SocketAddr;

use kanpachi_common::{
    NatBehaviour,
    nat::{Filtering, Mapping, Prospect},
};
use serde::{Deserialize, Serialize};

use super::api::Path;

/// What was found out. Part of the contract in `docs/cli.md`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct NetcheckReply {
    /// Do datagrams get out, and answers in? Null when there was nobody to ask.
    pub udp: Option<bool>,
    /// By IPv4.
    pub ipv4: Family,
    /// By IPv6.
    pub ipv6: Family,
    /// On what the public address depends: `endpoint_independent`, `address_dependent`, `address_and_port_dependent`,
    /// `blocked` or `unknown` (RFC 4787).
    pub mapping: String,
    /// The same as other programs put it; null for `blocked` and `unknown`.
    pub mapping_varies_by_dest_ip: Option<bool>,
    /// Whose packets come through: the same words without `blocked`.
    pub filtering: String,
    /// False where the reflector has one public address: then `address_dependent` may be `endpoint_independent`.
    pub filtering_exact: bool,
    /// Can machines behind the NAT reach each other by its public address? Null without a NAT.
    pub hairpinning: Option<bool>,
    /// Is the public port that of the socket? Null without a NAT.
    pub port_preserved: Option<bool>,
    /// What the router offers.
    pub port_mapping: PortMapping,
    /// The proxy that the environment names.
    pub proxy: Option<String>,
    /// Who was asked.
    pub reflectors: Vec<Reflector>,
    /// The other members, by name.
    pub peers: Vec<Pair>,
    /// What to do, in plain words.
    pub advice: Vec<String>,
}

/// One address family.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Family {
    /// Did a reflector answer?
    pub works: bool,
    /// The address that it saw.
    pub address: Option<SocketAddr>,
    /// Is that another one than this machine has? Null without an answer.
    pub nat: Option<bool>,
}

/// What the router does for this node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    /// False with `--no-port-mapping`.
    pub enabled: bool,
    /// Does the router speak it? Null while that is not known.
    pub upnp: Option<bool>,
    /// See `upnp`.
    pub nat_pmp: Option<bool>,
    /// See `upnp`.
    pub pcp: Option<bool>,
    /// The public address that it forwards to this node.
    pub external: Option<SocketAddr>,
}

/// A reflector that was asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reflector {
    /// Its address.
    pub address: SocketAddr,
    /// The server that it belongs to; null for one from the command line.
    pub node_id: Option<String>,
    /// Round trip in milliseconds; null without an answer.
    pub latency_ms: Option<f64>,
}

/// A pair of this node and another member.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Its name.
    pub name: String,
    /// Its id.
    pub node_id: String,
    /// What can be had: `direct`, `birthday` (direct after a few seconds of guessing ports), `relay` or `unknown`.
    pub prospect: String,
    /// What is in use now; null without a tunnel.
    pub path: Option<Path>,
    /// What the member says of its NAT; null when it says nothing.
    pub mapping: Option<String>,
    /// See `mapping`.
    pub filtering: Option<String>,
}

/// The word for a mapping.
#[must_use]
pub const fn mapping_word(mapping: Mapping) -> &'static str {
    match mapping {
        Mapping::Unknown => "unknown",
        Mapping::EndpointIndependent => "endpoint_independent",
        Mapping::AddressDependent => "address_dependent",
        Mapping::AddressAndPortDependent => "address_and_port_dependent",
        Mapping::Blocked => "blocked",
    }
}

/// The word for a filtering.
#[must_use]
pub const fn filtering_word(filtering: Filtering) -> &'static str {
    match filtering {
        Filtering::Unknown => "unknown",
        Filtering::EndpointIndependent => "endpoint_independent",
        Filtering::AddressDependent => "address_dependent",
        Filtering::AddressAndPortDependent => "address_and_port_dependent",
    }
}

/// The word for what can be had.
#[must_use]
pub const fn prospect_word(prospect: Prospect) -> &'static str {
    match prospect {
        Prospect::Direct => "direct",
        Prospect::Birthday => "birthday",
        Prospect::Relay => "relay",
        Prospect::Unknown => "unknown",
    }
}

impl NetcheckReply {
    /// Puts mapping and filtering into words, and ends with advice.
    pub fn conclude(&mut self, nat: NatBehaviour) {
        self.mapping = mapping_word(nat.mapping).to_owned();
        self.filtering = filtering_word(nat.filtering).to_owned();
        self.mapping_varies_by_dest_ip = match nat.mapping {
            Mapping::Unknown | Mapping::Blocked => None,
            _ => Some(nat.is_symmetric()),
        };
        self.advice = self.advise(nat);
    }

    fn advise(&self, nat: NatBehaviour) -> Vec<String> {
        let mut advice: Vec<&str> = Vec::new();
        match self.udp {
            None => advice.push(
                "There was no reflector to ask: only a bootstrap on another machine can tell how this one is seen.",
            ),
            Some(false) => advice.push(
                "UDP is blocked here: everything goes over a relay by TCP. Allow outgoing UDP in the firewall to get direct tunnels.",
            ),
            Some(true) => {}
        }
        if self.udp == Some(true) && nat.is_symmetric() && self.port_mapping.external.is_none() {
            advice.push(
                "This NAT uses another public port for each peer. Pairs with others like it go over a relay, some others take a few \
                 seconds to become direct.",
            );
            advice.push(if self.port_mapping.enabled {
                "Switch on UPnP or NAT-PMP in the router, or forward this node's UDP port there, to be direct with everybody."
            } else {
                "Leave out --no-port-mapping where the router speaks UPnP or NAT-PMP, to be direct with everybody."
            });
        }
        if self.udp == Some(true) && nat.mapping == Mapping::Unknown {
            advice.push(
                "One reflector with one address cannot tell everything: a second bootstrap elsewhere would.",
            );
        }
        if self.ipv4.works && self.ipv4.nat == Some(true) && self.hairpinning == Some(false) {
            advice.push(
                "This NAT does not lead back to itself: members behind it find each other on the LAN only.",
            );
        }
        if advice.is_empty() {
            advice.push("All is well: direct tunnels can be had from here.");
        }
        advice.into_iter().map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(udp: Option<bool>, mapping: Mapping) -> NetcheckReply {
        let mut reply = NetcheckReply {
            udp,
            port_mapping: PortMapping {
                enabled: true,
                ..PortMapping::default()
            },
            ..NetcheckReply::default()
        };
        reply.conclude(NatBehaviour {
            mapping,
            filtering: Filtering::AddressAndPortDependent,
        });
        reply
    }

    #[test]
    fn the_advice_fits_what_was_found() {
        let said = |reply: &NetcheckReply, word| reply.advice.iter().any(|a| a.contains(word));
        let well = reply(Some(true), Mapping::EndpointIndependent);
        assert_eq!(well.mapping_varies_by_dest_ip, Some(false));
        assert!(said(&well, "All is well") && well.advice.len() == 1);
        let symmetric = reply(Some(true), Mapping::AddressAndPortDependent);
        assert_eq!(symmetric.mapping_varies_by_dest_ip, Some(true));
        assert!(said(&symmetric, "UPnP"));
        let blocked = reply(Some(false), Mapping::Blocked);
        assert_eq!(blocked.mapping_varies_by_dest_ip, None);
        assert!(said(&blocked, "UDP is blocked") && !said(&blocked, "UPnP"));
        assert!(said(&reply(None, Mapping::Unknown), "no reflector"));
        let mut mapped = symmetric;
        mapped.port_mapping.external = Some(([203, 0, 113, 7], 12976).into());
        mapped.conclude(NatBehaviour {
            mapping: Mapping::AddressAndPortDependent,
            filtering: Filtering::Unknown,
        });
        assert!(said(&mapped, "All is well"));
    }
}
