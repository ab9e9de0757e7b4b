//! The parts of an IPv4 packet that a NAT reads and changes, with both checksums kept right.

use std::net::Ipv4Addr;

use crate::capture::{ICMP, TCP, UDP};

const ECHO_REPLY: u8 = 0;
const ECHO_REQUEST: u8 = 8;

/// Which end of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}

/// A whole, unfragmented UDP or TCP packet or ICMP echo. The number of an echo is its port at both ends.
#[derive(Debug)]
pub struct Packet<'a> {
    data: &'a mut [u8],
    header: usize,
}

impl<'a> Packet<'a> {
    /// `None` for everything else.
    pub fn parse(data: &'a mut [u8]) -> Option<Self> {
        let header = usize::from(data.first()? & 0x0f) * 4;
        let fragment = u16::from_be_bytes([*data.get(6)?, *data.get(7)?]) & 0x3fff;
        if data[0] >> 4 != 4 || header < 20 || fragment != 0 {
            return None;
        }
        let least = match *data.get(9)? {
            UDP | ICMP => 8,
            TCP => 20,
            _ => return None,
        };
        if data.len() < header + least {
            return None;
        }
        let echo = matches!(data[header], ECHO_REPLY | ECHO_REQUEST);
        (data[9] != ICMP || echo).then_some(Self { data, header })
    }

    pub fn protocol(&self) -> u8 {
        self.data[9]
    }

    /// May it make a mapping? Anything but the answer to an echo.
    pub fn may_start(&self) -> bool {
        self.protocol() != ICMP || self.data[self.header] == ECHO_REQUEST
    }

    /// May it come in through a mapping? Nobody behind a NAT is pinged.
    pub fn may_answer(&self) -> bool {
        self.protocol() != ICMP || self.data[self.header] == ECHO_REPLY
    }

    pub fn end(&self, side: Side) -> (Ipv4Addr, u16) {
        let (address, port) = self.places(side);
        let octets: [u8; 4] = [
            self.data[address],
            self.data[address + 1],
            self.data[address + 2],
            self.data[address + 3],
        ];
        (octets.into(), self.word(port))
    }

    /// The end that is not behind the NAT: an echo has no port there.
    pub fn remote(&self, side: Side) -> (Ipv4Addr, u16) {
        let (address, port) = self.end(side);
        (address, if self.protocol() == ICMP { 0 } else { port })
    }

    pub fn set_end(&mut self, side: Side, end: (Ipv4Addr, u16)) {
        let (address, port) = self.places(side);
        let sum = match self.protocol() {
            UDP => self.header + 6,
            TCP => self.header + 16,
            _ => self.header + 2,
        };
        // A UDP packet may do without a checksum.
        let summed = self.protocol() != UDP || self.word(sum) != 0;
        let [a, b, c, d] = end.0.octets();
        for (at, new) in [
            (address, u16::from_be_bytes([a, b])),
            (address + 2, u16::from_be_bytes([c, d])),
        ] {
            let old = self.word(at);
            self.set_word(at, new);
            self.adjust(10, old, new);
            // The pseudo header of UDP and TCP has the addresses in it.
            if summed && self.protocol() != ICMP {
                self.adjust(sum, old, new);
            }
        }
        let old = self.word(port);
        self.set_word(port, end.1);
        if summed {
            self.adjust(sum, old, end.1);
        }
        if self.protocol() == UDP && summed && self.word(sum) == 0 {
            self.set_word(sum, 0xffff);
        }
    }

    fn places(&self, side: Side) -> (usize, usize) {
        match (side, self.protocol()) {
            (Side::Source, ICMP) => (12, self.header + 4),
            (Side::Destination, ICMP) => (16, self.header + 4),
            (Side::Source, _) => (12, self.header),
            (Side::Destination, _) => (16, self.header + 2),
        }
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.data[at], self.data[at + 1]])
    }

    fn set_word(&mut self, at: usize, value: u16) {
        self.data[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// Brings a checksum up to date for one changed word (RFC 1624, equation 3).
    fn adjust(&mut self, at: usize, old: u16, new: u16) {
        let mut sum = u32::from(!self.word(at)) + u32::from(!old) + u32::from(new);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        self.set_word(at, !(sum as u16));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A packet with right checksums; an echo is a request if its number is at the source.
    pub(in crate::nat) fn build(
        protocol: u8,
        from: (Ipv4Addr, u16),
        to: (Ipv4Addr, u16),
    ) -> Vec<u8> {
        let transport = if protocol == TCP { 20 } else { 8 };
        let mut data = vec![0u8; 20 + transport + 5];
        let length = data.len() as u16;
        data[0] = 0x45;
        data[2..4].copy_from_slice(&length.to_be_bytes());
        (data[8], data[9]) = (64, protocol);
        data[12..16].copy_from_slice(&from.0.octets());
        data[16..20].copy_from_slice(&to.0.octets());
        if protocol == ICMP {
            data[20] = if from.1 == 0 {
                ECHO_REPLY
            } else {
                ECHO_REQUEST
            };
            data[24..26].copy_from_slice(&from.1.max(to.1).to_be_bytes());
        } else {
            data[20..22].copy_from_slice(&from.1.to_be_bytes());
            data[22..24].copy_from_slice(&to.1.to_be_bytes());
        }
        if protocol == UDP {
            data[24..26].copy_from_slice(&(length - 20).to_be_bytes());
        }
        data[20 + transport..].copy_from_slice(b"hello");
        let header = !sum(&data[..20], 0);
        data[10..12].copy_from_slice(&header.to_be_bytes());
        let at = match protocol {
            TCP => 36,
            UDP => 26,
            _ => 22,
        };
        let payload = !transport_sum(&data);
        data[at..at + 2].copy_from_slice(&payload.to_be_bytes());
        data
    }

    fn sum(data: &[u8], start: u32) -> u16 {
        let mut sum = start;
        for pair in data.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn transport_sum(data: &[u8]) -> u16 {
        if data[9] == ICMP {
            return sum(&data[20..], 0);
        }
        let pseudo = sum(&data[12..20], u32::from(data[9]) + (data.len() as u32 - 20));
        sum(&data[20..], u32::from(pseudo))
    }

    pub(in crate::nat) fn is_sound(data: &[u8]) -> bool {
        sum(&data[..20], 0) == 0xffff && transport_sum(data) == 0xffff
    }

    #[test]
    fn checksums_stay_right_whatever_is_changed() {
        let from = (Ipv4Addr::new(192, 168, 7, 2), 12_976);
        let to = (Ipv4Addr::new(203, 0, 113, 9), 12_975);
        for protocol in [UDP, TCP, ICMP] {
            let mut data = build(protocol, from, to);
            assert!(is_sound(&data));
            for number in 0..2000u16 {
                let mut packet = Packet::parse(&mut data).unwrap();
                let end = (
                    Ipv4Addr::from(u32::from(number).wrapping_mul(0x9e37_79b9)),
                    number.wrapping_mul(31_337),
                );
                let side = [Side::Source, Side::Destination][usize::from(number % 2)];
                packet.set_end(side, end);
                assert_eq!(packet.end(side), end);
                assert!(is_sound(&data), "{number}");
            }
        }
    }

    #[test]
    fn fragments_and_broken_packets_are_refused() {
        let end = (Ipv4Addr::new(10, 0, 0, 1), 1);
        let good = build(UDP, end, end);
        assert!(Packet::parse(&mut good.clone()).is_some());
        for length in 0..28 {
            assert!(
                Packet::parse(&mut good[..length].to_vec()).is_none(),
                "{length}"
            );
        }
        for (at, value) in [(0, 0x65), (0, 0x44), (6, 0x20), (7, 1), (9, 47)] {
            let mut bad = good.clone();
            bad[at] = value;
            assert!(Packet::parse(&mut bad).is_none(), "byte {at}");
        }
    }
}
