//! The hosts that are seen on the LAN.

use super::clean;
use crate::lan::browse::Found;

/// A short list, numbered when there is a choice.
#[must_use]
pub(crate) fn hosts(found: &[Found]) -> String {
    found
        .iter()
        .enumerate()
        .map(|(n, host)| match found.len() {
            1 => format!("  {}\n", host_at(host)),
            _ => format!("  {}) {}\n", n + 1, host_at(host)),
        })
        .collect()
}

/// One host in a line: name, network, address.
#[must_use]
pub(crate) fn host_at(host: &Found) -> String {
    let address = host.addresses.first().map(ToString::to_string);
    format!(
        "{} (network {}) at {}",
        clean(&host.name),
        clean(&host.network),
        address.unwrap_or_default()
    )
}
