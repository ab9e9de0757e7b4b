//! `kanpachi peer`: one member in full.

use super::{Look, Sign, Tone, clean, path, table::pairs, units};
use crate::ipc::api::{AddressSource, Member, PeerReply};

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
        ("known at", known_at(member, look)),
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

/// Where it may be reached, one address a line, with the source and how long ago that said so.
fn known_at(member: &Member, look: &Look) -> String {
    let lines = member.underlay.iter().map(|known| {
        let source = match known.source {
            AddressSource::Tunnel => "own tunnel",
            AddressSource::Coordinator => "coordinator",
            AddressSource::Lan => "LAN",
            AddressSource::Dht => "DHT",
            AddressSource::Introduced => "the member, over a relay",
            AddressSource::Member => "another member",
            AddressSource::Disk => "disk",
        };
        format!("{}  {source}, {}", known.address, look.ago(known.seen))
    });
    lines.collect::<Vec<_>>().join("\n")
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
    use crate::ipc::{api::Underlay, sample};

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
    fn each_address_says_where_it_came_from_and_how_old_it_is() {
        let mut status = sample::status();
        let known = |address: &str, source, seen: &str| Underlay {
            address: address.parse().unwrap(),
            source,
            seen: seen.parse().unwrap(),
        };
        status.networks[0].members[1].underlay = vec![
            known(
                "203.0.113.7:12976",
                AddressSource::Dht,
                "2026-11-23T08:58:30Z",
            ),
            known(
                "[2001:db8::9]:12976",
                AddressSource::Disk,
                "2026-11-22T08:31:30Z",
            ),
        ];
        let text = peer(&status.find("lamp").unwrap(), &looks::plain());
        assert!(
            text.contains(
                "  known at   203.0.113.7:12976  DHT, 1 min 30 s ago\n             [2001:db8::9]:12976  disk, 1 d ago\n"
            ),
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
