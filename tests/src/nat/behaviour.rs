//! What a NAT does, in the terms of RFC 4787, and what follows from that for two hosts behind such NATs.

use std::fmt;

use self::Dependence::{Address, AddressAndPort, EndpointIndependent};

/// Which packets share a mapping, or which are let in through one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependence {
    /// The other end does not matter.
    EndpointIndependent,
    /// The address of the other end matters.
    Address,
    /// Its address and port matter.
    AddressAndPort,
}

/// What port a mapping gets on the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ports {
    /// The same as inside while that is free.
    Preserved,
    /// Another one, the same each time.
    Shifted,
    /// Any.
    Random,
}

/// One NAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Behaviour {
    pub mapping: Dependence,
    pub filtering: Dependence,
    pub ports: Ports,
    /// Two hosts behind it reach each other by their outside addresses.
    pub hairpin: bool,
}

impl Behaviour {
    /// Lets everybody in.
    pub const FULL_CONE: Self = Self {
        mapping: EndpointIndependent,
        filtering: EndpointIndependent,
        ports: Ports::Preserved,
        hairpin: false,
    };
    /// Lets in whom the host has sent to, from any port.
    pub const ADDRESS_RESTRICTED: Self = Self {
        filtering: Address,
        ..Self::FULL_CONE
    };
    /// Lets in whom the host has sent to, from that port.
    pub const PORT_RESTRICTED: Self = Self {
        filtering: AddressAndPort,
        ..Self::FULL_CONE
    };
    /// The same, on another port than inside.
    pub const PORT_SHIFTED: Self = Self {
        ports: Ports::Shifted,
        ..Self::PORT_RESTRICTED
    };
    /// A new mapping for each destination, on any port.
    pub const SYMMETRIC: Self = Self {
        mapping: AddressAndPort,
        ports: Ports::Random,
        ..Self::PORT_RESTRICTED
    };
    /// What a carrier has to do by RFC 6888: hairpin, and one mapping for all destinations.
    pub const CARRIER: Self = Self {
        ports: Ports::Random,
        hairpin: true,
        ..Self::PORT_RESTRICTED
    };

    /// The same NAT, which sends back what is for another host behind it.
    #[must_use]
    pub const fn hairpinning(self) -> Self {
        Self {
            hairpin: true,
            ..self
        }
    }
}

impl fmt::Display for Dependence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            EndpointIndependent => "endpoint-independent",
            Address => "address-dependent",
            AddressAndPort => "address- and port-dependent",
        })
    }
}

/// One NAT on the way of a host, which others may be behind too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    /// Tells NATs apart.
    pub gateway: String,
    pub behaviour: Behaviour,
}

/// What a host may send through to the public network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Carries {
    Everything,
    /// TCP, whatever the port.
    OnlyTcp,
    /// TCP to port 443, by HTTP CONNECT at a proxy.
    OnlyProxy,
}

/// What there is between a host and the public network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The layer 2 segment that it is on.
    pub segment: String,
    pub ipv4: bool,
    pub ipv6: bool,
    /// NATs of its IPv4 from the host outwards; none for a public address.
    pub nats: Vec<Hop>,
    pub carries: Carries,
}

/// How two hosts can talk at best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Directly, by packets to each other's addresses as a reflector sees them.
    Direct,
    /// Directly, after one end has guessed a mapping of the other by many tries.
    DirectByBirthday,
    /// By a relay of datagrams.
    Relay,
    /// By a relay that at least one of them speaks to over a stream.
    RelayStream,
}

/// What the verdict on a pair is, from what is between the two.
#[must_use]
pub fn expected(one: &Place, other: &Place) -> Verdict {
    let share_a_segment =
        one.segment == other.segment && ((one.ipv4 && other.ipv4) || (one.ipv6 && other.ipv6));
    if share_a_segment {
        return Verdict::Direct;
    }
    if one.carries != Carries::Everything || other.carries != Carries::Everything {
        return Verdict::RelayStream;
    }
    if one.ipv6 && other.ipv6 {
        return Verdict::Direct;
    }
    if !(one.ipv4 && other.ipv4) {
        return Verdict::Relay;
    }
    // Where both are behind one NAT they meet there, or not at all.
    let shared = one.nats.iter().position(|hop| {
        other
            .nats
            .iter()
            .any(|theirs| theirs.gateway == hop.gateway)
    });
    let (ours, theirs) = match shared {
        None => (&one.nats[..], &other.nats[..]),
        Some(at) if !one.nats[at].behaviour.hairpin => return Verdict::Relay,
        Some(at) => {
            let same = |hop: &Hop| hop.gateway == one.nats[at].gateway;
            let end = other.nats.iter().position(same).map_or(0, |at| at + 1);
            (&one.nats[..=at], &other.nats[..end])
        }
    };
    punched(composed(ours), composed(theirs))
}

/// Mapping and filtering of NATs one behind the other: each may spoil what the next one leaves.
#[must_use]
pub fn composed(hops: &[Hop]) -> (Dependence, Dependence) {
    let worst = |part: fn(&Behaviour) -> Dependence| {
        let parts = hops.iter().map(|hop| part(&hop.behaviour));
        parts.max().unwrap_or(EndpointIndependent)
    };
    (worst(|b| b.mapping), worst(|b| b.filtering))
}

/// Both ends know where a reflector sees the other, and both send there again and again.
fn punched(one: (Dependence, Dependence), other: (Dependence, Dependence)) -> Verdict {
    if opens(one, other) || opens(other, one) {
        return Verdict::Direct;
    }
    // One end has many ports open; the other tries many.
    let easy = [one, other]
        .iter()
        .filter(|(mapping, _)| *mapping == EndpointIndependent)
        .count();
    if easy == 1 {
        Verdict::DirectByBirthday
    } else {
        Verdict::Relay
    }
}

/// Does a packet of `from` come in at the address where a reflector saw `to`, and does the answer come back?
fn opens(from: (Dependence, Dependence), to: (Dependence, Dependence)) -> bool {
    let known_source = from.0 == EndpointIndependent;
    // What `to` sends opens that mapping only if it takes it.
    let opened = to.0 == EndpointIndependent;
    let comes_in = match to.1 {
        EndpointIndependent => true,
        Address => opened,
        AddressAndPort => opened && known_source,
    };
    // The answer goes to the source that was seen, and comes from where `from` sent to if `to` has but one mapping.
    comes_in && (opened || from.1 < AddressAndPort)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(segment: &str, nats: &[(&str, Behaviour)]) -> Place {
        let nats = nats.iter().map(|(gateway, behaviour)| Hop {
            gateway: (*gateway).to_owned(),
            behaviour: *behaviour,
        });
        Place {
            segment: segment.to_owned(),
            ipv4: true,
            ipv6: false,
            nats: nats.collect(),
            carries: Carries::Everything,
        }
    }

    fn verdict(one: Behaviour, other: Behaviour) -> Verdict {
        let (one, other) = (
            place("lan one", &[("one", one)]),
            place("lan other", &[("other", other)]),
        );
        let forth = expected(&one, &other);
        assert_eq!(forth, expected(&other, &one), "{one:?} {other:?}");
        forth
    }

    #[test]
    fn one_mapping_for_all_can_always_be_punched() {
        let easy = [
            Behaviour::FULL_CONE,
            Behaviour::ADDRESS_RESTRICTED,
            Behaviour::PORT_RESTRICTED,
            Behaviour::PORT_SHIFTED,
            Behaviour::CARRIER,
        ];
        for one in easy {
            for other in easy {
                assert_eq!(verdict(one, other), Verdict::Direct);
            }
        }
    }

    #[test]
    fn a_symmetric_nat_meets_filters() {
        let symmetric = Behaviour::SYMMETRIC;
        for (other, wanted) in [
            (Behaviour::FULL_CONE, Verdict::Direct),
            (Behaviour::ADDRESS_RESTRICTED, Verdict::Direct),
            (Behaviour::PORT_RESTRICTED, Verdict::DirectByBirthday),
            (Behaviour::PORT_SHIFTED, Verdict::DirectByBirthday),
            (symmetric, Verdict::Relay),
        ] {
            assert_eq!(verdict(symmetric, other), wanted, "{other:?}");
        }
        let open = place("public", &[]);
        let hard = place("lan", &[("gateway", symmetric)]);
        assert_eq!(expected(&open, &hard), Verdict::Direct);
    }

    /// One that lets everybody in at the mapping that the reflector saw, and answers from another.
    #[test]
    fn an_answer_from_another_port_needs_a_filter_that_takes_it() {
        let odd = Behaviour {
            filtering: EndpointIndependent,
            ..Behaviour::SYMMETRIC
        };
        assert_eq!(verdict(odd, Behaviour::ADDRESS_RESTRICTED), Verdict::Direct);
        let both_hard = Behaviour {
            mapping: Address,
            ..Behaviour::SYMMETRIC
        };
        assert_eq!(verdict(odd, both_hard), Verdict::Relay);
    }

    #[test]
    fn behind_one_nat_only_hairpin_or_the_segment_helps() {
        let plain = Behaviour::PORT_RESTRICTED;
        let (desk, lamp) = (
            place("lan", &[("nat", plain)]),
            place("lan", &[("nat", plain)]),
        );
        assert_eq!(expected(&desk, &lamp), Verdict::Direct);
        let guest = place("guests", &[("nat", plain)]);
        assert_eq!(expected(&desk, &guest), Verdict::Relay);
        let pinned = ("nat", plain.hairpinning());
        let (desk, guest) = (place("lan", &[pinned]), place("guests", &[pinned]));
        assert_eq!(expected(&desk, &guest), Verdict::Direct);
    }

    #[test]
    fn customers_of_one_carrier_meet_inside_it() {
        let home = |name| (name, Behaviour::PORT_RESTRICTED);
        let customer = |name, carrier| place(name, &[home(name), ("carrier", carrier)]);
        let one = customer("one", Behaviour::CARRIER);
        assert_eq!(
            expected(&one, &customer("other", Behaviour::CARRIER)),
            Verdict::Direct
        );
        let deaf = Behaviour {
            hairpin: false,
            ..Behaviour::CARRIER
        };
        assert_eq!(
            expected(&customer("one", deaf), &customer("other", deaf)),
            Verdict::Relay
        );
        // A symmetric carrier spoils what the home router leaves.
        let hard = customer("one", Behaviour::SYMMETRIC);
        let elsewhere = place("lan", &[("nat", Behaviour::PORT_RESTRICTED)]);
        assert_eq!(expected(&hard, &elsewhere), Verdict::DirectByBirthday);
    }

    #[test]
    fn families_and_blocked_udp_decide_first() {
        let easy = place("lan", &[("nat", Behaviour::FULL_CONE)]);
        let only_v6 = Place {
            ipv4: false,
            ipv6: true,
            ..place("public", &[])
        };
        assert_eq!(expected(&easy, &only_v6), Verdict::Relay);
        let both = Place {
            ipv6: true,
            ..place("elsewhere", &[])
        };
        assert_eq!(expected(&both, &only_v6), Verdict::Direct);
        let only_v4 = place("public", &[]);
        assert_eq!(expected(&only_v4, &only_v6), Verdict::Relay);
        for carries in [Carries::OnlyTcp, Carries::OnlyProxy] {
            let blocked = Place {
                carries,
                ..place("office", &[("nat", Behaviour::FULL_CONE)])
            };
            assert_eq!(expected(&blocked, &both), Verdict::RelayStream);
            let colleague = Place {
                carries: Carries::Everything,
                ..blocked.clone()
            };
            assert_eq!(expected(&blocked, &colleague), Verdict::Direct);
        }
    }
}
