//! `kanpachi peer`: one member in full.

use super::{Look, Sign, Tone, clean, path_word, table::pairs, units};
use crate::ipc::api::{Member, PeerReply};

/// All about one member.
#[must_use]
pub fn peer(reply: &PeerReply, look: &Look) -> String {
    let member = &reply.peer;
    let head = format!(
        "{} {}\n",
        look.dot(member),
        look.paint(Tone::Strong, &clean(&member.name))
    );
    let networks: Vec<String> = reply.networks.iter().map(|n| clean(n)).collect();
    let addresses = [
        member.ipv4.map(|ip| ip.to_string()),
        member.ipv6.map(|ip| ip.to_string()),
    ];
    let facts = [
        (
            "addresses",
            addresses
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("\n"),
        ),
        ("networks", networks.join(", ")),
        ("role", clean(&member.role)),
        ("path", path(member, look)),
        (
            "endpoint",
            member.endpoint.map(|e| e.to_string()).unwrap_or_default(),
        ),
        (
            "round trip",
            member.rtt_ms.map(units::millis).unwrap_or_default(),
        ),
        ("loss", member.loss.map(units::percent).unwrap_or_default()),
        (
            "path MTU",
            member
                .path_mtu
                .map(|mtu| format!("{mtu} bytes"))
                .unwrap_or_default(),
        ),
        ("traffic", traffic(member, look)),
        (
            "handshake",
            member
                .last_handshake
                .map(|time| look.ago(time))
                .unwrap_or_default(),
        ),
        ("client id", clean(&member.client_id)),
        ("node id", clean(&member.node_id)),
    ];
    head + &pairs("  ", &facts, look)
}

fn path(member: &Member, look: &Look) -> String {
    let word = path_word(member);
    match member.path_since.filter(|_| member.path.is_some()) {
        Some(since) => format!("{word} {}", look.lasting(since)),
        None => word,
    }
}

fn traffic(member: &Member, look: &Look) -> String {
    format!(
        "{} {}  {} {}",
        look.sign(Sign::Down),
        units::bytes(member.rx_bytes),
        look.sign(Sign::Up),
        units::bytes(member.tx_bytes)
    )
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};
    use crate::ipc::sample;

    #[test]
    fn a_connected_member_is_shown_in_full() {
        let expected = "\
● サーバー
  addresses   fd6b:616e:7061:1::4
  networks    lan
  role        owner
  path        relay via lamp for 2 min
  endpoint    [2001:db8::9]:12975
  round trip  48.7 ms
  loss        12 %
  path MTU    1280 bytes
  traffic     ↓ 12 B  ↑ 34 B
  handshake   1 min 30 s ago
  client id   093-555-666
  node id     12D3KooWServer
";
        assert_eq!(
            peer(&sample::status().find("サーバー").unwrap(), &looks::plain()),
            expected
        );
    }

    #[test]
    fn a_member_that_waits_says_so() {
        let mut status = sample::status();
        status.networks[0].members[1].waiting = true;
        let text = peer(&status.find("lamp").unwrap(), &looks::plain());
        assert!(
            text.starts_with("? lamp\n") && text.contains("  path       waiting for approval\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_not_known_takes_no_line() {
        let expected = "\
○ lamp
  addresses  198.19.77.1
             fd6b:616e:7061:1::3
  networks   lan
  role       member
  path       offline
  traffic    ↓ 0 B  ↑ 0 B
  client id  092-333-444
  node id    12D3KooWLamp
";
        assert_eq!(
            peer(&sample::status().find("lamp").unwrap(), &looks::plain()),
            expected
        );
    }
}
