//! What `host`, `join` and `up` say on their way and when they are there.

use std::time::Duration;

use unicode_width::UnicodeWidthStr as _;

use super::{Look, Sign, Tone, changed::on_the_doorstep, clean, invite::command, units};
use crate::{
    cli::steps::Report,
    ipc::api::{HostReply, JoinReply, NickReply},
};

/// Width that the names of steps are filled up to.
const STEP: usize = 18;

/// One step, note or warning; `None` for what is not a line.
#[must_use]
pub fn step(report: &Report<'_>, look: &Look) -> Option<String> {
    Some(match report {
        Report::Begin(what) => format!(
            "{} {}",
            look.paint(Tone::Dim, look.sign(Sign::Ellipsis)),
            clean(what)
        ),
        Report::Done(what, detail, took) => {
            ended(Sign::Tick, Tone::Good, what, detail, *took, look)
        }
        Report::Failed(what, detail, took) => {
            ended(Sign::Cross, Tone::Warn, what, detail, *took, look)
        }
        Report::Note(line) => format!("  {}\n", clean(line)),
        Report::Warn(line) => format!(
            "{} {}\n",
            look.paint(Tone::Warn, look.sign(Sign::Attention)),
            clean(line)
        ),
        Report::RecoveryPhrase(_) | Report::Ready(_) | Report::NewCode(_) => return None,
    })
}

fn ended(sign: Sign, tone: Tone, what: &str, detail: &str, took: Duration, look: &Look) -> String {
    let (what, detail) = (clean(what), clean(detail));
    let fill = if detail.is_empty() {
        0
    } else {
        STEP.saturating_sub(what.width())
    };
    let gap = if detail.is_empty() { "" } else { " " };
    let took = look.paint(Tone::Dim, &format!("({})", units::duration(took)));
    format!(
        "{} {what}{:fill$}{gap}{detail} {took}\n",
        look.paint(tone, look.sign(sign)),
        ""
    )
}

/// The recovery phrase, framed by what it is for.
#[must_use]
pub fn recovery_phrase(words: &str, look: &Look) -> String {
    let words: Vec<String> = words.split_whitespace().map(clean).collect();
    let mut text = format!(
        "\n{}\n\n",
        look.paint(
            Tone::Strong,
            "Recovery phrase of the new organisation. Write it down, it is shown only this once:"
        )
    );
    for (row, line) in words.chunks(6).enumerate() {
        let numbered: Vec<String> = line
            .iter()
            .enumerate()
            .map(|(i, word)| format!("{:>2} {word:<9}", row * 6 + i + 1))
            .collect();
        text += &format!("  {}\n", numbered.join(" ").trim_end());
    }
    text + "\nIt is needed to add a signing key, or after a theft. Daily work never asks for it.\n\n"
}

/// `kanpachi host` is ready.
#[must_use]
pub fn host_ready(reply: &HostReply, network: &str, look: &Look) -> String {
    let network = clean(network);
    let at: Vec<String> = reply.listen.iter().map(|a| clean(a)).collect();
    let open = format!(
        "{} {} is open",
        look.paint(Tone::Good, look.sign(Sign::On)),
        look.paint(Tone::Strong, &network)
    );
    let at = if at.is_empty() {
        String::new()
    } else {
        format!(" at {}", at.join(", "))
    };
    let code = reply.code.as_ref().map_or_else(String::new, |code| {
        format!(
            "On the same LAN: sudo kanpachi join, code {}\n\n",
            look.paint(Tone::Strong, &clean(code.expose()))
        )
    });
    format!(
        "\n{open}{at}\n\nOn the next machine:\n\n  {}\n\n{code}This invite is for one machine and 7 days. For another: kanpachi invite {network}\nStop with Ctrl-C; started again it is the same organisation.\n",
        command(&clean(reply.invite.expose())),
    )
}

/// Too many wrong codes were tried.
#[must_use]
pub fn new_code(code: &str, look: &Look) -> String {
    format!(
        "{} three wrong codes were tried on the LAN; the code is now {}\n",
        look.paint(Tone::Warn, look.sign(Sign::Attention)),
        look.paint(Tone::Strong, &clean(code))
    )
}

/// `kanpachi join` is through.
#[must_use]
pub fn joined(reply: &JoinReply, look: &Look) -> String {
    let networks: Vec<String> = reply.networks.iter().map(|n| clean(n)).collect();
    let (tone, sign, whereabouts) = if networks.is_empty() {
        (Tone::Warn, Sign::Off, ", in no network yet".to_owned())
    } else {
        (Tone::Good, Sign::On, format!(" in {}", networks.join(", ")))
    };
    let mut text = format!(
        "{} this machine is {}{whereabouts}\n",
        look.paint(tone, look.sign(sign)),
        look.paint(Tone::Strong, &clean(&reply.name)),
    );
    text += &addresses(reply);
    for network in &reply.waiting {
        text += &format!("  {}\n", on_the_doorstep(&clean(network), None, look));
    }
    text + "  see who is there: kanpachi list\n"
}

/// `kanpachi up` is ready.
#[must_use]
pub fn up_ready(reply: Option<&JoinReply>, look: &Look) -> String {
    match reply {
        Some(reply) => joined(reply, look),
        None => format!(
            "{} up, but in no network yet; join one: sudo kanpachi join INVITE\n",
            look.paint(Tone::Warn, look.sign(Sign::Off))
        ),
    }
}

fn addresses(reply: &JoinReply) -> String {
    let all = [
        reply.ipv4.map(|ip| ip.to_string()),
        reply.ipv6.map(|ip| ip.to_string()),
    ];
    all.into_iter()
        .flatten()
        .map(|address| format!("  {address}\n"))
        .collect()
}

/// `kanpachi set-nick` is through.
#[must_use]
pub fn renamed(asked: &str, reply: &NickReply) -> String {
    let name = clean(&reply.name);
    if reply.name == asked {
        format!("this machine is now called {name}\n")
    } else {
        format!(
            "this machine is now called {name}, since {} is taken\n",
            clean(asked)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};
    use crate::ipc::api::Secret;

    #[test]
    fn steps_line_up_and_say_how_long_they_took() {
        let ms = Duration::from_millis;
        let line = |report: Report<'_>| step(&report, &looks::plain()).unwrap();
        assert_eq!(line(Report::Begin("adapter")), "… adapter");
        assert_eq!(
            line(Report::Done("adapter", "kanpachi0, MTU 1400", ms(12))),
            "✔ adapter            kanpachi0, MTU 1400 (12 ms)\n"
        );
        assert_eq!(
            line(Report::Done("state", "", ms(1340))),
            "✔ state (1.3 s)\n"
        );
        assert_eq!(
            line(Report::Failed(
                "port mapping",
                "no router answers",
                ms(2000)
            )),
            "✘ port mapping       no router answers (2 s)\n"
        );
        assert_eq!(line(Report::Warn("all private")), "▲ all private\n");
        assert!(
            step(&Report::Done("x", "y", ms(1)), &looks::ascii())
                .unwrap()
                .is_ascii()
        );
    }

    #[test]
    fn the_recovery_phrase_is_numbered() {
        let words: Vec<String> = (1..=24).map(|n| format!("word{n}")).collect();
        let text = recovery_phrase(&words.join(" "), &looks::plain());
        assert!(text.contains("   1 word1      2 word2 "), "{text}");
        assert!(
            text.contains("  19 word19 ") && text.contains("24 word24\n"),
            "{text}"
        );
    }

    #[test]
    fn the_host_prints_the_exact_command() {
        let reply = HostReply {
            org: "mzxw6".to_owned(),
            invite: Secret::new("kanpachi://join/lan#AbCd".to_owned()),
            listen: vec![
                "203.0.113.7:12975".to_owned(),
                "[2001:db8::7]:12975".to_owned(),
            ],
            code: Some(Secret::new("ACDE-3467".to_owned())),
        };
        let text = host_ready(&reply, "lan", &looks::plain());
        assert!(
            text.starts_with("\n● lan is open at 203.0.113.7:12975, [2001:db8::7]:12975\n"),
            "{text}"
        );
        assert!(
            text.contains("\n  sudo kanpachi join 'kanpachi://join/lan#AbCd'\n"),
            "{text}"
        );
        assert!(
            text.contains("\nOn the same LAN: sudo kanpachi join, code ACDE-3467\n"),
            "{text}"
        );
        let hidden = HostReply {
            code: None,
            ..reply
        };
        assert!(!host_ready(&hidden, "lan", &looks::plain()).contains("code"));
        assert_eq!(
            new_code("ACDE-3467", &looks::plain()),
            "▲ three wrong codes were tried on the LAN; the code is now ACDE-3467\n"
        );
    }

    #[test]
    fn joining_shows_name_addresses_and_what_is_next() {
        let reply = JoinReply {
            name: "lamp".to_owned(),
            ipv4: Some([198, 19, 77, 1].into()),
            ipv6: Some("fd6b:616e:7061:1::3".parse().unwrap()),
            networks: vec!["lan".to_owned()],
            waiting: Vec::new(),
        };
        assert_eq!(
            joined(&reply, &looks::plain()),
            "● this machine is lamp in lan\n  198.19.77.1\n  fd6b:616e:7061:1::3\n  see who is there: kanpachi list\n"
        );
        let doorstep = JoinReply {
            networks: Vec::new(),
            waiting: vec!["lan".to_owned()],
            ..reply
        };
        assert_eq!(
            joined(&doorstep, &looks::plain()),
            "○ this machine is lamp, in no network yet\n  198.19.77.1\n  fd6b:616e:7061:1::3\n  ? an owner of lan has to let this machine in\n  see who is there: kanpachi list\n"
        );
        assert!(up_ready(None, &looks::plain()).contains("in no network yet"));
        assert_eq!(
            renamed(
                "lamp",
                &NickReply {
                    name: "lamp-2".to_owned()
                }
            ),
            "this machine is now called lamp-2, since lamp is taken\n"
        );
    }
}
