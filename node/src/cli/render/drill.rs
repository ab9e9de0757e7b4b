//! What a drill tells: a line a round, and a report.

use std::time::Duration;

use super::{
    Look, Sign, Tone, age, clean,
    table::{Cell, table},
    units,
};
use crate::ipc::{
    api::{CoordinatorState, Path},
    drill::{DrillBegin, DrillPeer, DrillReply, DrillReport, DrillRound},
};

/// One line of the answer.
#[must_use]
pub fn drill(reply: &DrillReply, look: &Look) -> String {
    match reply {
        DrillReply::Begin(begin) => self::begin(begin, look),
        DrillReply::Round(round) => self::round(round, look),
        DrillReply::Report(report) => self::report(report, look),
    }
}

fn span(seconds: f64) -> String {
    units::duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

fn begin(begin: &DrillBegin, look: &Look) -> String {
    let from = begin
        .coordinator
        .as_deref()
        .map_or_else(String::new, |c| format!(" at {}", clean(c)));
    format!(
        "{} cut off from the coordinator{from} and all bootstraps for {}; Ctrl-C ends it\n  before: {} of {} members answer\n",
        look.paint(Tone::Warn, look.sign(Sign::Attention)),
        units::duration(Duration::from_secs(begin.seconds)),
        begin.answered,
        begin.peers,
    )
}

fn round(round: &DrillRound, look: &Look) -> String {
    let (tone, word) = match round.coordinator {
        CoordinatorState::Unreachable => (Tone::Dim, "coordinator unreachable"),
        CoordinatorState::Connecting => (Tone::Dim, "coordinator not found yet"),
        CoordinatorState::Connected => (Tone::Warn, "coordinator still connected"),
    };
    format!(
        "  {:>7}: {} of {} members answer, {}\n",
        span(round.elapsed_s.floor()),
        round.answered,
        round.peers,
        look.paint(tone, word)
    )
}

fn report(report: &DrillReport, look: &Look) -> String {
    let early = if report.early { ", ended early" } else { "" };
    let back = match report.reconnected_after_s {
        Some(after) => format!("connected again after {}", span(after)),
        None => look.paint(
            Tone::Bad,
            "not connected again within 20 s: kanpachi status says why",
        ),
    };
    let noticed = match report.unreachable_after_s {
        Some(after) => format!("noticed after {}", span(after)),
        None => "not noticed in that time".to_owned(),
    };
    let mut text = format!(
        "\n{}: {} without a coordinator{early}; {noticed}, {back}\n\n",
        look.paint(Tone::Strong, "drill"),
        span(report.seconds),
    );
    text += &look.paint(Tone::Strong, "members\n");
    let rows: Vec<_> = report
        .peers
        .iter()
        .map(|p| (mark(p, look), row(p)))
        .collect();
    text += &table(&rows, look);
    if report.peers.is_empty() {
        text += "  there is nobody else yet\n";
    }
    if report.not_asked > 0 {
        text += &format!("  and {} more, who were not asked\n", report.not_asked);
    }
    text += &look.paint(Tone::Strong, "rosters\n");
    for network in &report.networks {
        let age = age::words(network.freshness, network.age_s, false, look);
        let until = match network.hard_expires_at {
            Some(at) => format!(
                "; new connections until {}",
                at.strftime("%Y-%m-%d %H:%M UTC")
            ),
            None => "; never expires".to_owned(),
        };
        text += &format!("  {}: {age}{until}\n", clean(&network.name));
    }
    text += &look.paint(Tone::Strong, "waits for a coordinator\n");
    let waits: Vec<String> = report
        .waits
        .iter()
        .map(|w| clean(w).replace('_', " "))
        .collect();
    text + &format!("  {}\n", waits.join(", "))
}

fn mark(peer: &DrillPeer, look: &Look) -> String {
    let (tone, sign) = match (peer.answered, peer.before_ms) {
        (1.., _) => (Tone::Good, Sign::Tick),
        (0, None) => (Tone::Dim, Sign::Off),
        (0, Some(_)) => (Tone::Bad, Sign::Cross),
    };
    format!("  {} ", look.paint(tone, look.sign(sign)))
}

fn row(peer: &DrillPeer) -> Vec<Cell> {
    let ms = |ms: Option<f64>| ms.map_or_else(|| "no answer".to_owned(), units::millis);
    let path = peer.path.map_or("", Path::as_str);
    let found = if peer.found_by.is_empty() {
        "address from the coordinator only".to_owned()
    } else {
        let sources: Vec<String> = peer.found_by.iter().map(|s| source(s)).collect();
        format!("address from {}", sources.join(", "))
    };
    vec![
        Cell::new(clean(&peer.name)),
        Cell::new(path.to_owned()),
        Cell::new(format!("{} of {} pings", peer.answered, peer.asked)),
        Cell::new(format!("before {}", ms(peer.before_ms))),
        Cell::new(format!("during {}", ms(peer.during_ms))),
        Cell::new(format!("silent {} at most", span(peer.silent_s))),
        Cell::new(found),
    ]
}

/// The word of the contract in words for people.
fn source(word: &str) -> String {
    match word {
        "lan" => "the LAN".to_owned(),
        "member" => "itself".to_owned(),
        "cache" => "the disk".to_owned(),
        "dht" => "the DHT".to_owned(),
        other => clean(other),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};
    use crate::ipc::{api::Freshness, drill::DrillNetwork};

    fn peer(name: &str, answered: u32, before_ms: Option<f64>) -> DrillPeer {
        DrillPeer {
            name: name.to_owned(),
            node_id: "12D3KooWLamp".to_owned(),
            before_ms,
            asked: 60,
            answered,
            during_ms: (answered > 0).then_some(1.5),
            silent_s: if answered > 0 { 2.0 } else { 120.0 },
            path: (answered > 0).then_some(Path::Direct),
            found_by: if answered > 0 {
                vec!["lan".to_owned(), "cache".to_owned()]
            } else {
                vec![]
            },
        }
    }

    #[test]
    fn the_report_says_what_went_on_and_what_waits() {
        let report = DrillReport {
            seconds: 120.2,
            early: false,
            unreachable_after_s: Some(2.0),
            reconnected_after_s: Some(0.8),
            peers: vec![peer("lamp", 60, Some(1.25)), peer("shed", 0, None)],
            not_asked: 0,
            networks: vec![DrillNetwork {
                name: "lan".to_owned(),
                epoch: 12,
                age_s: Some(7200),
                freshness: Some(Freshness::Green),
                hard_expires_at: Some("2026-12-23T07:00:00Z".parse().unwrap()),
            }],
            waits: vec!["new_members".to_owned(), "invites".to_owned()],
        };
        assert_eq!(
            drill(&DrillReply::Report(report), &looks::plain()),
            "\
\ndrill: 2 min without a coordinator; noticed after 2 s, connected again after 800 ms

members
  ✔ lamp  direct  60 of 60 pings  before 1.25 ms    during 1.50 ms    silent 2 s at most    address from the LAN, the disk
  ○ shed          0 of 60 pings   before no answer  during no answer  silent 2 min at most  address from the coordinator only
rosters
  lan: roster signed 2 h ago; new connections until 2026-12-23 07:00 UTC
waits for a coordinator
  new members, invites
"
        );
    }

    #[test]
    fn a_round_is_a_line() {
        let round = DrillRound {
            elapsed_s: 4.3,
            peers: 3,
            answered: 2,
            coordinator: CoordinatorState::Unreachable,
        };
        assert_eq!(
            drill(&DrillReply::Round(round), &looks::plain()),
            "      4 s: 2 of 3 members answer, coordinator unreachable\n"
        );
    }
}
