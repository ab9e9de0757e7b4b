//! `kanpachi ping`: a line per answer with the path it came by, and a summary.

use super::{Look, Tone, clean, units};
use crate::ipc::api::{Path, PingReply};

/// One answer, or its absence.
#[must_use]
pub fn pong(reply: &PingReply, look: &Look) -> String {
    let name = clean(&reply.name);
    let Some(rtt) = reply.rtt_ms else {
        return format!(
            "{} from {name} {}\n",
            look.paint(Tone::Bad, "no answer"),
            look.paint(Tone::Dim, &format!("#{}", reply.seq))
        );
    };
    let address = reply
        .ipv4
        .map(|ip| ip.to_string())
        .or_else(|| reply.ipv6.map(|ip| ip.to_string()));
    let address = address
        .map(|address| format!(" ({address})"))
        .unwrap_or_default();
    let tone = if matches!(reply.path, Some(Path::Lan | Path::Direct)) {
        Tone::Good
    } else {
        Tone::Warn
    };
    let mut path = reply.path.map_or("", Path::as_str).to_owned();
    if let Some(via) = &reply.via {
        path += &format!(" via {}", clean(via));
    }
    let endpoint = reply.endpoint.map(|e| format!(" {e}")).unwrap_or_default();
    let seq = look.paint(Tone::Dim, &format!("#{}", reply.seq));
    format!(
        "pong from {name}{address}: {}{endpoint} in {} {seq}\n",
        look.paint(tone, &path),
        units::millis(rtt)
    )
}

/// What a series came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PingSummary {
    sent: u32,
    answered: u32,
    min: f64,
    max: f64,
    sum: f64,
    /// The relay that the last answer came over, and how many answers there were when they became direct.
    relayed: Option<String>,
    direct_after: Option<u32>,
}

impl PingSummary {
    /// Counts one.
    pub fn add(&mut self, reply: &PingReply) {
        self.sent += 1;
        let Some(rtt) = reply.rtt_ms else { return };
        let relayed = (reply.path == Some(Path::Relay)).then(|| {
            let via = reply.via.as_deref();
            via.map_or_else(|| "a relay".to_owned(), clean)
        });
        if self.relayed.is_some() && relayed.is_none() {
            self.direct_after = Some(self.answered);
        }
        self.relayed = relayed;
        self.min = if self.answered == 0 {
            rtt
        } else {
            self.min.min(rtt)
        };
        self.max = self.max.max(rtt);
        self.sum += rtt;
        self.answered += 1;
    }

    /// How many came back.
    #[must_use]
    pub const fn answered(&self) -> u32 {
        self.answered
    }

    /// Were so many sent, and is there nothing to wait for? A peer that does not answer is not waited for either.
    #[must_use]
    pub const fn is_enough(&self, pings: u32) -> bool {
        self.sent >= pings && (self.relayed.is_none() || self.answered == 0)
    }

    /// One line, and one more about a relay; nothing for a series of one, whose line has said it all.
    #[must_use]
    pub fn render(&self) -> String {
        if self.sent < 2 {
            return String::new();
        }
        let lost = f64::from(self.sent - self.answered) / f64::from(self.sent);
        let mut text = format!(
            "{} sent, {} answered, {} lost",
            self.sent,
            self.answered,
            units::percent(lost)
        );
        if self.answered > 0 {
            let mean = self.sum / f64::from(self.answered);
            text += &format!(
                "; round trip {} / {} / {} (least / mean / most)",
                units::millis(self.min),
                units::millis(mean),
                units::millis(self.max)
            );
        }
        text += "\n";
        if let Some(relay) = &self.relayed {
            text += &format!("still over {relay}; what keeps the two apart: kanpachi netcheck\n");
        } else if let Some(answers) = self.direct_after {
            text += &format!("direct after {answers} over a relay\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};

    fn reply(seq: u32, rtt_ms: Option<f64>) -> PingReply {
        PingReply {
            seq,
            name: "lamp".to_owned(),
            node_id: "12D3KooWLamp".to_owned(),
            ipv4: Some([198, 19, 77, 1].into()),
            ipv6: None,
            path: rtt_ms.map(|_| Path::Direct),
            via: None,
            endpoint: rtt_ms.map(|_| "192.0.2.33:12976".parse().unwrap()),
            rtt_ms,
        }
    }

    #[test]
    fn each_answer_tells_its_path() {
        assert_eq!(
            pong(&reply(1, Some(1.5)), &looks::plain()),
            "pong from lamp (198.19.77.1): direct 192.0.2.33:12976 in 1.50 ms #1\n"
        );
        let relayed = PingReply {
            path: Some(Path::Relay),
            via: Some("hub".to_owned()),
            ..reply(2, Some(80.0))
        };
        assert_eq!(
            pong(&relayed, &looks::plain()),
            "pong from lamp (198.19.77.1): relay via hub 192.0.2.33:12976 in 80.0 ms #2\n"
        );
        assert_eq!(
            pong(&reply(3, None), &looks::plain()),
            "no answer from lamp #3\n"
        );
    }

    #[test]
    fn a_series_over_a_relay_goes_on_until_it_is_direct() {
        let relayed = |seq| PingReply {
            path: Some(Path::Relay),
            via: Some("hub".to_owned()),
            ..reply(seq, Some(80.0))
        };
        let mut summary = PingSummary::default();
        for seq in 1..=6 {
            summary.add(&relayed(seq));
            assert!(!summary.is_enough(5));
        }
        assert!(
            summary
                .render()
                .ends_with("\nstill over hub; what keeps the two apart: kanpachi netcheck\n")
        );
        summary.add(&reply(7, Some(2.0)));
        assert!(summary.is_enough(5));
        assert!(
            summary
                .render()
                .ends_with("\ndirect after 6 over a relay\n")
        );
        let mut silent = PingSummary::default();
        for seq in 1..=5 {
            silent.add(&reply(seq, None));
        }
        assert!(silent.is_enough(5));
    }

    #[test]
    fn the_summary_counts_what_was_lost() {
        let mut summary = PingSummary::default();
        summary.add(&reply(1, Some(2.0)));
        assert_eq!(summary.render(), "");
        summary.add(&reply(2, None));
        summary.add(&reply(3, Some(4.0)));
        summary.add(&reply(4, Some(1.5)));
        assert_eq!(summary.answered(), 3);
        assert_eq!(
            summary.render(),
            "4 sent, 3 answered, 25 % lost; round trip 1.50 ms / 2.50 ms / 4.00 ms (least / mean / most)\n"
        );
        let mut silence = PingSummary::default();
        silence.add(&reply(1, None));
        silence.add(&reply(2, None));
        assert_eq!(silence.render(), "2 sent, 0 answered, 100 % lost\n");
    }
}
