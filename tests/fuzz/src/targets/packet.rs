//! Packets from inside a tunnel: IP headers, fragments.

use std::net::{IpAddr, Ipv4Addr};

use kanpachi_node::dataplane::packet::{Addresses, is_for_everyone};
use kanpachi_proto::tunnel::{FRAGMENT_HEADER_LEN, FragmentHeader, MAX_FRAGMENTS};

/// A payload as an IP packet and as a fragment.
///
/// # Panics
/// When what is read is not what stands there.
pub fn inner_packet(data: &[u8]) {
    if let Some(addresses) = Addresses::parse(data) {
        let Addresses {
            source,
            destination,
        } = addresses;
        match (source, destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                assert_eq!(
                    (&data[12..16], &data[16..20]),
                    (&from.octets()[..], &to.octets()[..])
                );
                assert_eq!(
                    usize::from(u16::from_be_bytes([data[2], data[3]])),
                    data.len()
                );
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                assert_eq!(
                    (&data[8..24], &data[24..40]),
                    (&from.octets()[..], &to.octets()[..])
                );
            }
            _ => panic!("one packet of two families"),
        }
        let broadcast = Some(Ipv4Addr::new(198, 19, 255, 255));
        let everyone = is_for_everyone(destination, broadcast);
        assert!(!everyone || !destination.is_loopback());
    }
    if let Some((header, rest)) = FragmentHeader::decode(data) {
        assert_eq!(rest.len(), data.len() - FRAGMENT_HEADER_LEN);
        assert!(header.count <= MAX_FRAGMENTS && header.index < header.count);
        assert_eq!(header.encode(), data[..FRAGMENT_HEADER_LEN]);
    }
}
