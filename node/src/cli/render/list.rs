//! `kanpachi list`: the networks and who is in them.

use super::{
    Look, Sign, Tone, age,
    changed::on_the_doorstep,
    clean, path,
    table::{Cell, table},
    units,
};
use crate::ipc::api::{Freshness, ListReply, Member, Network, Path};

/// Whether the age of a fresh roster is worth a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ages {
    /// All of them.
    All,
    /// Only when one is getting old.
    Old,
}

/// The share of probes that a path loses from which on that is worth a word: more than one of the last sixteen.
const LOSSY: f64 = 0.1;

/// All networks with all members.
#[must_use]
pub fn list(reply: &ListReply, look: &Look) -> String {
    let mut text = if reply.logged_in {
        String::new()
    } else {
        logged_out(look)
    };
    if reply.networks.is_empty() && reply.waiting.is_empty() {
        return text + "This machine is in no network yet.\nJoin one: sudo kanpachi join INVITE\n";
    }
    for network in &reply.networks {
        if !text.is_empty() {
            text.push('\n');
        }
        text += &self::network(network, Ages::Old, look);
    }
    text + &waiting(&reply.waiting, None, look)
}

/// What holds of everything below it.
pub(super) fn logged_out(look: &Look) -> String {
    format!(
        "{} logged out, so offline in all networks: kanpachi login\n",
        look.paint(Tone::Warn, look.sign(Sign::Off))
    )
}

/// Networks that this machine waits for, a line each; `client` is what their owners know it by.
pub(super) fn waiting(networks: &[String], client: Option<&str>, look: &Look) -> String {
    let lines: String = networks
        .iter()
        .map(|network| on_the_doorstep(&clean(network), client, look) + "\n")
        .collect();
    if lines.is_empty() {
        lines
    } else {
        format!("\n{lines}")
    }
}

/// One network: its head line, a line per member, and what its owner has to decide.
pub(super) fn network(network: &Network, ages: Ages, look: &Look) -> String {
    let mut text = head(network, ages, look);
    if network.members.is_empty() {
        text += &format!(
            "  invite somebody: kanpachi invite {}\n",
            clean(&network.name)
        );
    }
    let rows: Vec<_> = network
        .members
        .iter()
        .map(|m| (format!("  {} ", look.dot(m)), row(m, look)))
        .collect();
    text + &table(&rows, look) + &to_settle(network, look)
}

/// Name, what is special about it, and who is there.
fn head(network: &Network, ages: Ages, look: &Look) -> String {
    let members = network.members.iter().filter(|m| !m.waiting);
    let online = members.clone().filter(|m| m.online).count();
    let dot = look.sign(Sign::Dot);
    let count = match members.count() {
        0 => "nobody else yet".to_owned(),
        1 if !network.online => "1 other member".to_owned(),
        all if !network.online => format!("{all} other members"),
        all => format!("{online} of {all} online"),
    };
    let role = (network.role != "member").then(|| clean(&network.role));
    let special: Vec<String> = role
        .into_iter()
        .chain(network.locked.then(|| "locked".to_owned()))
        .chain(network.approval.then(|| "manual approval".to_owned()))
        .collect();
    let special = if special.is_empty() {
        String::new()
    } else {
        format!(" ({})", special.join(", "))
    };
    let offline = if network.online {
        String::new()
    } else {
        let what = format!("offline: kanpachi go-online {}", clean(&network.name));
        format!(" {dot} {}", look.paint(Tone::Warn, &what))
    };
    format!(
        "{}{special} {dot} {count}{offline}{}\n",
        look.paint(Tone::Strong, &clean(&network.name)),
        age(network, ages, look)
    )
}

/// Who waits, with the two commands that settle it, for somebody who may.
fn to_settle(network: &Network, look: &Look) -> String {
    if network.role != "owner" {
        return String::new();
    }
    let name = clean(&network.name);
    let line = |member: &Member| {
        // A name may be anything, so the id goes first.
        let id = clean(if member.client_id.is_empty() {
            &member.node_id
        } else {
            &member.client_id
        });
        let what = format!("kanpachi approve {name} {id}   or   kanpachi reject {name} {id}");
        format!("    {}\n", look.paint(Tone::Warn, &what))
    };
    network
        .members
        .iter()
        .filter(|member| member.waiting)
        .map(line)
        .collect()
}

/// Silence about a fresh roster, a word about an old one.
fn age(network: &Network, ages: Ages, look: &Look) -> String {
    let old = matches!(network.freshness, Some(Freshness::Yellow | Freshness::Red));
    if old || ages == Ages::All {
        format!(" {} {}", look.sign(Sign::Dot), age::of(network, look))
    } else {
        String::new()
    }
}

fn row(member: &Member, look: &Look) -> Vec<Cell> {
    let tone = match (member.online, member.path) {
        (_, Some(Path::Lan | Path::Direct)) => Tone::Good,
        (_, Some(Path::Relay | Path::Connecting)) => Tone::Warn,
        (_, None) if member.waiting => Tone::Warn,
        (_, None) => Tone::Dim,
    };
    let name = clean(&member.name);
    let role = if member.role == "member" {
        String::new()
    } else {
        clean(&member.role)
    };
    let traffic = format!(
        "{} {}  {} {}",
        look.sign(Sign::Down),
        units::bytes(member.rx_bytes),
        look.sign(Sign::Up),
        units::bytes(member.tx_bytes)
    );
    let lost = member.loss.filter(|share| *share >= LOSSY);
    let loss = lost.map(|share| format!("{} lost", units::percent(share)));
    vec![
        if member.online {
            Cell::new(name)
        } else {
            Cell::toned(Tone::Dim, name)
        },
        Cell::toned(Tone::Dim, role),
        Cell::new(member.ipv4.map(|ip| ip.to_string()).unwrap_or_default()),
        Cell::toned(
            Tone::Dim,
            member.ipv6.map(|ip| ip.to_string()).unwrap_or_default(),
        ),
        Cell::toned(tone, path(member, look)),
        Cell::toned(
            Tone::Dim,
            member.endpoint.map(|e| e.to_string()).unwrap_or_default(),
        ),
        Cell::new(member.rtt_ms.map(units::millis).unwrap_or_default()),
        Cell::toned(Tone::Warn, loss.unwrap_or_default()),
        Cell::toned(
            Tone::Dim,
            if member.rx_bytes + member.tx_bytes == 0 {
                String::new()
            } else {
                traffic
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};
    use crate::ipc::sample;

    #[test]
    fn members_line_up_in_every_script() {
        let text = list(&sample::status().list(), &looks::plain());
        let expected = "\
lan (owner) · 2 of 3 online
  ● Küche            198.19.20.30  fd6b:616e:7061:1::2  direct for 30 min         192.0.2.33:12976     1.23 ms             ↓ 200 MiB  ↑ 1.50 KiB
  ○ lamp             198.19.77.1   fd6b:616e:7061:1::3  offline
  ● サーバー  owner                fd6b:616e:7061:1::4  relay via lamp for 2 min  [2001:db8::9]:12975  48.7 ms  12 % lost  ↓ 12 B  ↑ 34 B

office · 1 of 1 online
  ● Küche  198.19.20.30  fd6b:616e:7061:1::2  direct for 30 min  192.0.2.33:12976  1.23 ms  ↓ 200 MiB  ↑ 1.50 KiB
";
        assert_eq!(text, expected);
    }

    #[test]
    fn in_ascii_only_the_names_themselves_are_not() {
        let text = list(&sample::status().list(), &looks::ascii());
        assert!(
            text.contains("  - lamp") && text.contains("  * K"),
            "{text}"
        );
        let rest: String = text.replace("Küche", "").replace("サーバー", "");
        assert!(rest.is_ascii(), "{rest}");
    }

    #[test]
    fn the_age_of_a_roster_is_told_when_it_matters() {
        let mut net = sample::status().networks.remove(1);
        let head = |net: &Network, ages| {
            let text = network(net, ages, &looks::plain());
            text.lines().next().unwrap().to_owned()
        };
        assert_eq!(head(&net, Ages::Old), "office · 1 of 1 online");
        assert_eq!(
            head(&net, Ages::All),
            "office · 1 of 1 online · roster signed 2 h ago"
        );
        net.age_s = Some(2 * 86_400);
        net.freshness = Some(Freshness::Yellow);
        assert_eq!(
            head(&net, Ages::Old),
            "office · 1 of 1 online · roster getting old, signed 2 d ago"
        );
        net.freshness = Some(Freshness::Red);
        assert_eq!(
            head(&net, Ages::Old),
            "office · 1 of 1 online · roster overdue, signed 2 d ago"
        );
        net.age_s = Some(30 * 86_400);
        assert!(head(&net, Ages::Old).contains("roster expired: no new connections"));
        net.hard_expires_at = None;
        assert!(head(&net, Ages::Old).contains("overdue"));
        // A daemon of before tells no age, and then none is claimed.
        (net.age_s, net.freshness) = (None, None);
        assert_eq!(head(&net, Ages::Old), "office · 1 of 1 online");
    }

    #[test]
    fn who_waits_is_listed_with_the_commands_that_settle_it() {
        let mut net = sample::status().networks.remove(0);
        net.members.truncate(2);
        net.members[1].waiting = true;
        net.locked = true;
        net.approval = true;
        let expected = "\
lan (owner, locked, manual approval) · 1 of 1 online
  ● Küche  198.19.20.30  fd6b:616e:7061:1::2  direct for 30 min     192.0.2.33:12976  1.23 ms  ↓ 200 MiB  ↑ 1.50 KiB
  ? lamp   198.19.77.1   fd6b:616e:7061:1::3  waiting for approval
    kanpachi approve lan 092-333-444   or   kanpachi reject lan 092-333-444
";
        assert_eq!(network(&net, Ages::Old, &looks::plain()), expected);
        net.role = "member".to_owned();
        assert!(!network(&net, Ages::Old, &looks::plain()).contains("kanpachi approve"));
    }

    #[test]
    fn being_offline_is_told_with_the_way_back() {
        let mut reply = sample::status().list();
        reply.networks.remove(0);
        reply.networks[0].online = false;
        reply.networks[0].members.clear();
        reply.waiting = vec!["games".to_owned()];
        reply.logged_in = false;
        let expected = "\
○ logged out, so offline in all networks: kanpachi login

office · nobody else yet · offline: kanpachi go-online office
  invite somebody: kanpachi invite office

? an owner of games has to let this machine in
";
        assert_eq!(list(&reply, &looks::plain()), expected);
    }

    #[test]
    fn nothing_there_says_what_to_do_next() {
        let empty = ListReply {
            networks: Vec::new(),
            waiting: Vec::new(),
            logged_in: true,
        };
        assert!(list(&empty, &looks::plain()).contains("kanpachi join"));
        let mut net = sample::status().networks.remove(1);
        net.members.clear();
        assert_eq!(
            network(&net, Ages::Old, &looks::plain()),
            "office · nobody else yet\n  invite somebody: kanpachi invite office\n"
        );
    }
}
