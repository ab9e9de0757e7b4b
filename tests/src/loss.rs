//! Losing and blocking packets in a router, by nftables.

use std::net::IpAddr;

use anyhow::{Result, ensure};

use crate::lab::Segment;
use crate::netns::Netns;

const TABLE: &str = "kanpachi_lab";

/// Drops `percent` of 100 forwarded packets at random in a LAN's router, both directions. 0 heals it.
///
/// With segmentation offload one packet may carry many segments, so losses come in bursts.
pub fn lose(lan: &Segment, percent: u32) -> Result<()> {
    ensure!(percent <= 100, "{percent} % of packets");
    let rule = if percent == 0 {
        String::new()
    } else {
        format!("numgen random mod 100 < {percent} counter drop")
    };
    forward_rules(&lan.ns, &rule)
}

/// Drops what a LAN's router would forward and matches `condition`, in nft's words, such as `udp dport 12976`.
pub fn block(lan: &Segment, condition: &str) -> Result<()> {
    forward_rules(&lan.ns, &format!("{condition} counter drop"))
}

/// [`block`] with several rules, each with its verdict.
pub fn block_all(lan: &Segment, rules: &str) -> Result<()> {
    forward_rules(&lan.ns, rules)
}

/// Drops what a LAN's router would forward to or from an address.
pub fn part(lan: &Segment, from: IpAddr) -> Result<()> {
    let family = if from.is_ipv4() { "ip" } else { "ip6" };
    forward_rules(
        &lan.ns,
        &format!("{family} daddr {from} counter drop\n{family} saddr {from} counter drop"),
    )
}

/// Cuts a host off: nothing comes in or leaves except on its loopback. See [`restore`].
pub fn cut_off(ns: &Netns) -> Result<()> {
    ns.nft(&format!(
        "table inet {TABLE} {{\n\
           chain in {{ type filter hook input priority 0; policy drop; iifname lo accept; }}\n\
           chain out {{ type filter hook output priority 0; policy drop; oifname lo accept; }}\n\
         }}\n"
    ))
}

/// Removes every rule of this module from a namespace.
pub fn restore(ns: &Netns) -> Result<()> {
    ns.nft(&format!("table inet {TABLE}\ndelete table inet {TABLE}\n"))
}

fn forward_rules(ns: &Netns, rule: &str) -> Result<()> {
    restore(ns)?;
    ns.nft(&format!(
        "table inet {TABLE} {{\n  chain forward {{ type filter hook forward priority 0; policy accept;\n    {rule}\n  }}\n}}\n"
    ))
}
