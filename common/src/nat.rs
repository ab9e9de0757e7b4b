//! What a node's NAT does, in the words of RFC 4787, and what follows from that for a pair of nodes.
//!
//! On the wire it is two small numbers beside the candidates. A number of a later version reads as `Unknown`.

use serde::{Deserialize, Serialize};

/// On what the public address of the socket depends (RFC 4787 §4.1).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(from = "u8", into = "u8")]
pub enum Mapping {
    /// Not measured, or one public server could not tell.
    #[default]
    Unknown,
    /// On nothing: everybody sees the same one. No NAT at all counts as this.
    EndpointIndependent,
    /// On the address that is sent to.
    AddressDependent,
    /// On the address and the port that is sent to.
    AddressAndPortDependent,
    /// No datagram gets out, or no answer in.
    Blocked,
}

impl From<u8> for Mapping {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::EndpointIndependent,
            2 => Self::AddressDependent,
            3 => Self::AddressAndPortDependent,
            4 => Self::Blocked,
            _ => Self::Unknown,
        }
    }
}

impl From<Mapping> for u8 {
    fn from(mapping: Mapping) -> Self {
        match mapping {
            Mapping::Unknown => 0,
            Mapping::EndpointIndependent => 1,
            Mapping::AddressDependent => 2,
            Mapping::AddressAndPortDependent => 3,
            Mapping::Blocked => 4,
        }
    }
}

/// From whom datagrams to the public address come through (RFC 4787 §5).
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(from = "u8", into = "u8")]
pub enum Filtering {
    /// Not measured, or one public server could not tell.
    #[default]
    Unknown,
    /// From everybody.
    EndpointIndependent,
    /// From addresses that were sent to, whatever their port.
    AddressDependent,
    /// From where exactly was sent to.
    AddressAndPortDependent,
}

impl From<u8> for Filtering {
    fn from(number: u8) -> Self {
        match number {
            1 => Self::EndpointIndependent,
            2 => Self::AddressDependent,
            3 => Self::AddressAndPortDependent,
            _ => Self::Unknown,
        }
    }
}

impl From<Filtering> for u8 {
    fn from(filtering: Filtering) -> Self {
        match filtering {
            Filtering::Unknown => 0,
            Filtering::EndpointIndependent => 1,
            Filtering::AddressDependent => 2,
            Filtering::AddressAndPortDependent => 3,
        }
    }
}

/// How the NAT in front of a node, or the chain of them, treats its UDP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(from = "(Mapping, Filtering)", into = "(Mapping, Filtering)")]
pub struct NatBehaviour {
    /// On what its public address depends.
    pub mapping: Mapping,
    /// From whom datagrams come through.
    pub filtering: Filtering,
}

impl From<(Mapping, Filtering)> for NatBehaviour {
    fn from((mapping, filtering): (Mapping, Filtering)) -> Self {
        Self { mapping, filtering }
    }
}

impl From<NatBehaviour> for (Mapping, Filtering) {
    fn from(nat: NatBehaviour) -> Self {
        (nat.mapping, nat.filtering)
    }
}

/// What can be had between two nodes whose NATs are known, without a port mapping and apart from a common LAN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Prospect {
    /// A direct path at once.
    Direct,
    /// A direct path after a while of guessing ports.
    Birthday,
    /// A relay.
    Relay,
    /// Too little is known.
    Unknown,
}

impl NatBehaviour {
    /// Does the socket have another public address for each destination? Such a NAT is called symmetric.
    #[must_use]
    pub const fn is_symmetric(&self) -> bool {
        matches!(
            self.mapping,
            Mapping::AddressDependent | Mapping::AddressAndPortDependent
        )
    }

    /// What can be had with a peer behind that NAT.
    #[must_use]
    pub fn prospect(&self, peer: &Self) -> Prospect {
        let maps = [self.mapping, peer.mapping];
        if maps.contains(&Mapping::Blocked) {
            return Prospect::Relay;
        }
        if maps.contains(&Mapping::Unknown) {
            return Prospect::Unknown;
        }
        match (self.is_symmetric(), peer.is_symmetric()) {
            (false, false) => Prospect::Direct,
            (true, true) => Prospect::Relay,
            (true, false) => peer.meets_symmetric(),
            (false, true) => self.meets_symmetric(),
        }
    }

    /// The port of the symmetric side cannot be known, but its address can: whoever lets in all ports of an address
    /// that it has sent to needs no luck.
    const fn meets_symmetric(&self) -> Prospect {
        match self.filtering {
            Filtering::EndpointIndependent | Filtering::AddressDependent => Prospect::Direct,
            Filtering::AddressAndPortDependent | Filtering::Unknown => Prospect::Birthday,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cbor;

    const MAPPINGS: [Mapping; 5] = [
        Mapping::Unknown,
        Mapping::EndpointIndependent,
        Mapping::AddressDependent,
        Mapping::AddressAndPortDependent,
        Mapping::Blocked,
    ];
    const FILTERINGS: [Filtering; 4] = [
        Filtering::Unknown,
        Filtering::EndpointIndependent,
        Filtering::AddressDependent,
        Filtering::AddressAndPortDependent,
    ];

    fn all() -> impl Iterator<Item = NatBehaviour> {
        let with = |mapping| FILTERINGS.map(|filtering| NatBehaviour { mapping, filtering });
        MAPPINGS.into_iter().flat_map(with)
    }

    #[test]
    fn what_is_sent_is_read_and_later_numbers_are_unknown() {
        for nat in all() {
            let bytes = cbor::encode(&nat);
            assert_eq!(bytes.len(), 3);
            assert_eq!(cbor::decode::<NatBehaviour>(&bytes, 8).unwrap(), nat);
        }
        for number in 5..24 {
            let nat: NatBehaviour = cbor::decode(&[0x82, number, number], 8).unwrap();
            assert_eq!(nat, NatBehaviour::default());
        }
    }

    #[test]
    fn both_ends_expect_the_same_of_their_pair() {
        for one in all() {
            for other in all() {
                assert_eq!(
                    one.prospect(&other),
                    other.prospect(&one),
                    "{one:?} {other:?}"
                );
            }
        }
    }

    #[test]
    fn only_a_symmetric_side_makes_a_pair_hard() {
        use Filtering as F;
        use Mapping as M;
        let nat = |mapping, filtering| NatBehaviour { mapping, filtering };
        let symmetric = nat(M::AddressAndPortDependent, F::AddressAndPortDependent);
        let expected = [
            (
                nat(M::EndpointIndependent, F::EndpointIndependent),
                Prospect::Direct,
            ),
            (
                nat(M::EndpointIndependent, F::AddressDependent),
                Prospect::Direct,
            ),
            (
                nat(M::EndpointIndependent, F::AddressAndPortDependent),
                Prospect::Birthday,
            ),
            (nat(M::EndpointIndependent, F::Unknown), Prospect::Birthday),
            (
                nat(M::AddressDependent, F::AddressAndPortDependent),
                Prospect::Relay,
            ),
            (symmetric, Prospect::Relay),
            (nat(M::Blocked, F::Unknown), Prospect::Relay),
            (NatBehaviour::default(), Prospect::Unknown),
        ];
        for (other, prospect) in expected {
            assert_eq!(symmetric.prospect(&other), prospect, "{other:?}");
        }
        let cone = nat(M::EndpointIndependent, F::AddressAndPortDependent);
        assert_eq!(cone.prospect(&cone), Prospect::Direct);
    }
}
