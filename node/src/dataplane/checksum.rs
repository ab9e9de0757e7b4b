//! The Internet checksum (RFC 1071).

use std::net::IpAddr;

/// A sum under way; add only even numbers of bytes but for the last.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Sum(u64);

impl Sum {
    /// Adds bytes as big-endian words.
    pub(super) fn add(mut self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<2>();
        self.0 += words
            .iter()
            .map(|word| u64::from(u16::from_be_bytes(*word)))
            .sum::<u64>();
        self.0 += rest.iter().map(|byte| u64::from(*byte) << 8).sum::<u64>();
        self
    }

    /// The checksum: 0 over whatever holds a right one.
    pub(super) fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !u16::try_from(sum).unwrap_or(u16::MAX)
    }
}

/// The sum over a transport message and the pseudo header before it (RFC 9293 §3.1, RFC 8200 §8.1).
pub(super) fn transport_sum(from: IpAddr, to: IpAddr, protocol: u8, message: &[u8]) -> Sum {
    let sum = [from, to]
        .into_iter()
        .fold(Sum::default(), |sum, address| match address {
            IpAddr::V4(v4) => sum.add(&v4.octets()),
            IpAddr::V6(v6) => sum.add(&v6.octets()),
        });
    let len = u32::try_from(message.len()).unwrap_or(u32::MAX);
    sum.add(&len.to_be_bytes()).add(&[0, protocol]).add(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_rfc() {
        // The example of RFC 1071 §3.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::default().add(&bytes).finish(), !0xddf2);
        assert_eq!(Sum::default().add(&[0xff; 3]).finish(), !0xff00);
    }
}
