//! `kanpachi status`: this machine, the coordinator, the networks, and what was noticed.

use super::{Look, Sign, Tone, clean, list, table::pairs};
use crate::ipc::api::{Adapter, Coordinator, CoordinatorState, Status};

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
        text += &list::network(network, look);
    }
    text += &list::waiting(&status.waiting, Some(&status.client_id), look);
    text + &noticed(status, look)
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
  listening     0.0.0.0:12976, [::]:12976
  organisation  mzxw6ytboi…
  client id     090-736-821
  node id       12D3KooWDesk
  daemon        0.1.0, process 4711

lan (owner) · 2 of 3 online
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
