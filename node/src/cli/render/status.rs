//! `kanpachi status`: this machine, the coordinator, the networks, and what was noticed.

use super::{Look, Sign, Tone, clean, list, table::pairs, units::bytes};
use crate::ipc::api::{Adapter, Coordinator, CoordinatorState, Relay, Relaying, Status};

/// Characters of an organisation id that tell two apart for a person.
const SHORT_ID: usize = 10;

/// Everything.
#[must_use]
pub fn status(status: &Status, look: &Look) -> String {
    let mut text = head(status, look);
    text += &pairs("  ", &facts(status, look), look);
    if status.networks.is_empty() && status.waiting.is_empty() {
        text += "\nThis machine is in no network yet.\nJoin one: sudo kanpachi join INVITE\n";
    }
    for network in &status.networks {
        text.push('\n');
        text += &list::network(network, list::Ages::All, look);
    }
    text += &list::waiting(&status.waiting, Some(&status.client_id), look);
    text += &wrong(&status.problems, look);
    text + &noticed(status, look)
}

/// What somebody should know of, a line for each.
fn wrong(problems: &[String], look: &Look) -> String {
    let lines = problems
        .iter()
        .map(|problem| format!("\n{} {}\n", look.paint(Tone::Warn, "!"), clean(problem)));
    lines.collect()
}

/// Name and addresses.
fn head(status: &Status, look: &Look) -> String {
    let (sign, tone) = match (status.adapter, status.coordinator.state) {
        (None, _) => (Sign::Off, Tone::Dim),
        _ if !status.logged_in => (Sign::Off, Tone::Dim),
        (Some(_), CoordinatorState::Connected) => (Sign::On, Tone::Good),
        (Some(_), _) => (Sign::On, Tone::Warn),
    };
    let name = status
        .name
        .as_deref()
        .map_or_else(|| "(no name yet)".to_owned(), clean);
    let mut line = format!(
        "{} {}",
        look.paint(tone, look.sign(sign)),
        look.paint(Tone::Strong, &name)
    );
    for address in [
        status.ipv4.map(|ip| ip.to_string()),
        status.ipv6.map(|ip| ip.to_string()),
    ]
    .into_iter()
    .flatten()
    {
        line += &format!("  {address}");
    }
    line + "\n"
}

fn facts(status: &Status, look: &Look) -> Vec<(&'static str, String)> {
    let adapter = match (status.adapter, status.mtu) {
        (Some(kind), Some(mtu)) => format!(
            "{} ({}, MTU {mtu})",
            clean(&status.interface),
            kind_word(kind)
        ),
        (Some(kind), None) => format!("{} ({})", clean(&status.interface), kind_word(kind)),
        (None, _) => "not up".to_owned(),
    };
    let listen: Vec<String> = status.listen.iter().map(ToString::to_string).collect();
    let org = status.org.as_deref().map(|org| {
        let short: String = clean(org).chars().take(SHORT_ID).collect();
        short + look.sign(Sign::Ellipsis)
    });
    vec![
        ("adapter", adapter),
        (
            "coordinator",
            if status.logged_in {
                coordinator(&status.coordinator, look)
            } else {
                look.paint(Tone::Warn, "logged out: kanpachi login")
            },
        ),
        ("relays", relays(&status.relays)),
        (
            "relaying",
            status.relaying.as_ref().map(relaying).unwrap_or_default(),
        ),
        ("listening", listen.join(", ")),
        ("organisation", org.unwrap_or_default()),
        ("client id", clean(&status.client_id)),
        ("node id", clean(&status.node_id)),
        (
            "daemon",
            format!("{}, process {}", clean(&status.version), status.pid),
        ),
    ]
}

/// Those that would carry data now, and what it would go over where that is no UDP.
fn relays(relays: &[Relay]) -> String {
    let connected = relays.iter().filter(|r| r.connected);
    let words = connected.map(|relay| match relay.udp {
        Some(_) => clean(&relay.name),
        None => format!("{} (by TCP)", clean(&relay.name)),
    });
    words.collect::<Vec<_>>().join(", ")
}

/// For how many, how much, and what was not passed on.
fn relaying(relaying: &Relaying) -> String {
    let many = |count: usize, one: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {one}s"),
    };
    format!(
        "for {} ({}), {} passed on, {} datagrams dropped",
        many(relaying.members, "member"),
        many(relaying.pairs, "pair"),
        bytes(relaying.forwarded_bytes),
        relaying.drop_stranger + relaying.drop_rate + relaying.drop_full
    )
}

const fn kind_word(kind: Adapter) -> &'static str {
    match kind {
        Adapter::Tun => "tun",
        Adapter::Tap => "tap",
    }
}

fn coordinator(coordinator: &Coordinator, look: &Look) -> String {
    let (tone, word) = match coordinator.state {
        CoordinatorState::Connected => (Tone::Good, "connected"),
        CoordinatorState::Connecting => (Tone::Warn, "connecting"),
        CoordinatorState::Unreachable => (Tone::Bad, "unreachable"),
    };
    let mut line = look.paint(tone, word);
    if let Some(address) = &coordinator.address {
        let preposition = if coordinator.state == CoordinatorState::Unreachable {
            "at"
        } else {
            "to"
        };
        line += &format!(" {preposition} {}", clean(address));
    }
    if let Some(since) = coordinator.since {
        line += &format!(" {}", look.lasting(since));
    }
    match (&coordinator.last_error, coordinator.state) {
        (Some(error), CoordinatorState::Connecting | CoordinatorState::Unreachable) => {
            line + "\n" + &clean(error)
        }
        _ => line,
    }
}

/// Counters that are not zero: what was dropped, refused or stale.
fn noticed(status: &Status, look: &Look) -> String {
    let counted: Vec<(&str, String)> = status
        .counters
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(name, count)| (name.as_str(), count.to_string()))
        .collect();
    if counted.is_empty() {
        return String::new();
    }
    format!(
        "\n{}\n{}",
        look.paint(Tone::Strong, "noticed since the start"),
        pairs("  ", &counted, look)
    )
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};
    use crate::ipc::sample;

    #[test]
    fn everything_is_in_its_place() {
        let expected = "\
● desk  198.19.4.5  fd6b:616e:7061:1::1
  adapter       kanpachi0 (tun, MTU 1400)
  coordinator   connected to 203.0.113.7:12975 for 1 h
  relays        203.0.113.7
  relaying      for 3 members (1 pair), 12.3 MiB passed on, 7 datagrams dropped
  listening     0.0.0.0:12976, [::]:12976
  organisation  mzxw6ytboi…
  client id     090-736-821
  node id       12D3KooWDesk
  daemon        0.1.0, process 4711

lan (owner) · 2 of 3 online · roster signed 2 h ago
";
        let text = status(&sample::status(), &looks::plain());
        assert!(text.starts_with(expected), "{text}");
        assert!(
            text.ends_with("\nnoticed since the start\n  drop_replay  3\n"),
            "{text}"
        );
    }

    #[test]
    fn an_outage_says_since_when_and_why() {
        let mut outage = sample::status();
        outage.coordinator.state = CoordinatorState::Unreachable;
        outage.coordinator.since = Some("2026-11-23T08:59:18Z".parse().unwrap());
        outage.coordinator.last_error = Some("no answer to three pings".to_owned());
        let text = status(&outage, &looks::plain());
        assert!(text.contains("coordinator   unreachable at 203.0.113.7:12975 for 42 s\n                no answer to three pings\n"), "{text}");
        assert!(status(&outage, &looks::colored()).contains("\x1b[31munreachable\x1b[0m"));
    }

    #[test]
    fn logged_out_says_how_to_get_back_and_what_is_waited_for() {
        let out = Status {
            logged_in: false,
            networks: Vec::new(),
            waiting: vec!["games".to_owned()],
            ..sample::status()
        };
        let text = status(&out, &looks::plain());
        assert!(
            text.starts_with("○ desk")
                && text.contains("  coordinator   logged out: kanpachi login\n"),
            "{text}"
        );
        assert!(
            text.contains("\n\n? an owner of games has to let this machine in: kanpachi approve games 090-736-821\n"),
            "{text}"
        );
    }

    #[test]
    fn what_is_wrong_with_the_rosters_is_said_in_a_line_of_its_own() {
        let wrong = Status {
            problems: vec!["bob and cleo have one address".to_owned()],
            ..sample::status()
        };
        let text = status(&wrong, &looks::plain());
        assert!(
            text.contains("\n\n! bob and cleo have one address\n\nnoticed"),
            "{text}"
        );
    }

    #[test]
    fn a_daemon_that_has_not_joined_says_how_to() {
        let fresh = Status {
            org: None,
            name: None,
            ipv4: None,
            ipv6: None,
            adapter: None,
            mtu: None,
            networks: Vec::new(),
            counters: Default::default(),
            ..sample::status()
        };
        let text = status(&fresh, &looks::plain());
        assert!(
            text.starts_with("○ (no name yet)\n  adapter      not up\n"),
            "{text}"
        );
        assert!(
            text.ends_with(
                "This machine is in no network yet.\nJoin one: sudo kanpachi join INVITE\n"
            ),
            "{text}"
        );
    }
}
