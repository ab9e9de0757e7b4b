//! The list is read back by expressions written from the documented layout, field by field, in every state that a
//! member can be in; and every verb is understood.

use regex_lite::{Captures, Regex};
use zeroize::Zeroizing;

use super::*;
use crate::ipc::{
    api::{Member, Path as Way},
    sample,
};

/// Nobody at the terminal.
struct Nobody;

impl super::super::password::Asker for Nobody {
    fn can_ask(&self) -> bool {
        false
    }

    fn ask(&self, _: &str) -> Result<Zeroizing<String>, ApiError> {
        panic!("nobody can be asked")
    }
}

/// What is read of one line about a member.
#[derive(Debug, Default, PartialEq, Eq)]
struct Read {
    mark: String,
    id: String,
    nick: String,
    ipv4: String,
    alias: String,
    ipv6: String,
    connection: String,
    transport: String,
    tunnel: String,
    message: String,
}

fn field(found: &Captures<'_>, name: &str) -> String {
    found
        .name(name)
        .map(|m| m.as_str().to_owned())
        .unwrap_or_default()
}

/// `(mark, network, used, capacity, subscription, owner)`
fn network_line(line: &str) -> [String; 6] {
    let layout = Regex::new(
        r"^ (?<mark>[* ]) \[(?<id>[^\]]+)\]  capacity: (?<used>\d{1,3})/(?<capacity>\d{1,3}), subscription type: (?<type>[^,]+), owner: (?<owner>.+)$",
    )
    .unwrap();
    let found = layout
        .captures(line)
        .unwrap_or_else(|| panic!("no line about a network: {line:?}"));
    ["mark", "id", "used", "capacity", "type", "owner"].map(|name| field(&found, name))
}

fn member_line(line: &str) -> Read {
    let waiting = Regex::new(r"^     \? (?<id>\d{3}-\d{3}-\d{3}) *$").unwrap();
    if let Some(found) = waiting.captures(line) {
        return Read {
            mark: "?".to_owned(),
            id: field(&found, "id"),
            ..Read::default()
        };
    }
    let layout = Regex::new(concat!(
        r"^     (?<mark>[*x! ]) (?<id>\d{3}-\d{3}-\d{3}) {3}(?<nick>\S+)",
        r"(?: +(?<ipv4>\d{1,3}(?:\.\d{1,3}){3}))?",
        r"(?: +alias: (?<alias>not set))?",
        r"(?: +(?<ipv6>[0-9a-f]*:[0-9a-f:]+))?",
        r"(?: +(?<connection>direct|via relay))?",
        r"(?: +(?<transport>UDP|TCP))?",
        r"(?: +(?<tunnel>\d{1,3}(?:\.\d{1,3}){3}:\d{1,5}))?",
        r"(?: +(?<message>[a-zA-Z][ a-zA-Z]*))?$",
    ))
    .unwrap();
    let found = layout
        .captures(line)
        .unwrap_or_else(|| panic!("no line about a member: {line:?}"));
    Read {
        mark: field(&found, "mark"),
        id: field(&found, "id"),
        nick: field(&found, "nick"),
        ipv4: field(&found, "ipv4"),
        alias: field(&found, "alias"),
        ipv6: field(&found, "ipv6"),
        connection: field(&found, "connection"),
        transport: field(&found, "transport"),
        tunnel: field(&found, "tunnel"),
        message: field(&found, "message"),
    }
}

fn now() -> jiff::Timestamp {
    "2026-11-23T09:00:00Z".parse().unwrap()
}

/// One network with a member in every state.
fn every_state() -> Status {
    let mut status = sample::status();
    let [kitchen, lamp, server]: [Member; 3] =
        status.networks[0].members.clone().try_into().unwrap();
    let member = |name: &str, id: &str, from: &Member| Member {
        name: name.to_owned(),
        client_id: id.to_owned(),
        ..from.clone()
    };
    let idle = |member: Member| Member {
        online: true,
        path: None,
        endpoint: None,
        ..member
    };
    let mut cable = member("cable", "094-000-001", &kitchen);
    cable.path = Some(Way::Lan);
    let mut rising = member("rising", "094-000-002", &kitchen);
    (rising.path, rising.endpoint) = (Some(Way::Connecting), None);
    let mut over6 = member("over6", "094-000-003", &kitchen);
    over6.endpoint = Some("[2001:db8::9]:12975".parse().unwrap());
    let mut knocking = member("knocking", "094-000-004", &lamp);
    knocking.waiting = true;
    let mut only6 = member("decade", "094-000-005", &lamp);
    only6.ipv4 = None;
    let lost = idle(member("lost", "094-000-006", &lamp));
    let long = member(&"n".repeat(63), "094-000-007", &lamp);
    status.networks[0].members = vec![
        kitchen, lamp, server, cable, rising, over6, knocking, only6, lost, long,
    ];
    status
}

/// What a line is read as.
fn line(fields: [&str; 10]) -> Read {
    let [
        mark,
        id,
        nick,
        ipv4,
        alias,
        ipv6,
        connection,
        transport,
        tunnel,
        message,
    ] = fields.map(str::to_owned);
    Read {
        mark,
        id,
        nick,
        ipv4,
        alias,
        ipv6,
        connection,
        transport,
        tunnel,
        message,
    }
}

#[test]
fn a_member_in_every_state_is_read_back_field_by_field() {
    let text = render::list(&every_state(), now());
    let read: Vec<Read> = text
        .lines()
        .skip(1)
        .take_while(|line| !line.contains('['))
        .map(member_line)
        .collect();
    let (k4, k6, end) = ("198.19.20.30", "fd6b:616e:7061:1::2", "192.0.2.33:12976");
    let (set, l4, l6) = ("not set", "198.19.77.1", "fd6b:616e:7061:1::3");
    let s6 = "fd6b:616e:7061:1::4";
    let long = "n".repeat(63);
    let expected = [
        line([
            "*",
            "091-111-222",
            "Küche",
            k4,
            set,
            k6,
            "direct",
            "UDP",
            end,
            "",
        ]),
        line([" ", "092-333-444", "lamp", l4, "", "", "", "", "", ""]),
        line([
            "*",
            "093-555-666",
            "サーバー",
            "",
            set,
            s6,
            "via relay",
            "",
            "",
            "",
        ]),
        line([
            "*",
            "094-000-001",
            "cable",
            k4,
            set,
            k6,
            "direct",
            "UDP",
            end,
            "",
        ]),
        line(["*", "094-000-002", "rising", k4, set, k6, "", "", "", ""]),
        line([
            "*",
            "094-000-003",
            "over6",
            k4,
            set,
            k6,
            "direct",
            "",
            "",
            "",
        ]),
        line(["?", "094-000-004", "", "", "", "", "", "", "", ""]),
        line([" ", "094-000-005", "decade", "", "", l6, "", "", "", ""]),
        line(["x", "094-000-006", "lost", l4, "", "", "", "", "", ""]),
        line([" ", "094-000-007", &long, l4, "", "", "", "", "", ""]),
    ];
    assert_eq!(read, expected);
}

#[test]
fn an_expired_network_is_the_error_of_members_that_cannot_be_reached() {
    let mut status = every_state();
    status.networks[0].hard_expires_at = Some(now());
    let text = render::list(&status, now());
    let lost = text.lines().find(|line| line.contains("lost")).unwrap();
    let lost = member_line(lost);
    assert_eq!(
        (lost.mark.as_str(), lost.message.as_str()),
        ("!", "this network has expired")
    );
    assert_eq!(
        (lost.ipv4.as_str(), lost.ipv6.as_str()),
        ("198.19.77.1", "fd6b:616e:7061:1::3")
    );
    let kept = text.lines().find(|line| line.contains("cable")).unwrap();
    assert_eq!(member_line(kept).mark, "*");
}

#[test]
fn a_network_is_read_back_field_by_field() {
    let mut status = every_state();
    let heads = |status: &Status| -> Vec<[String; 6]> {
        let text = render::list(status, now());
        let heads = text.lines().filter(|line| line.contains('['));
        heads.map(network_line).collect()
    };
    let of = |fields: [&str; 6]| fields.map(str::to_owned);
    // Whoever waits takes no place.
    let lan = of(["*", "lan", "10", "999", "Free", "This computer"]);
    assert_eq!(
        heads(&status),
        [lan, of(["*", "office", "2", "999", "Free", "none"])]
    );
    status.networks[0].role = "member".to_owned();
    status.networks[1].online = false;
    let lan = of(["*", "lan", "10", "999", "Free", "サーバー (093-555-666)"]);
    assert_eq!(
        heads(&status),
        [lan, of([" ", "office", "2", "999", "Free", "none"])]
    );
    let text = render::list(&status, now());
    let kitchen = text.lines().last().unwrap();
    assert_eq!(member_line(kitchen).mark, " ", "offline in office");
    let one = status.networks[0].members[0].clone();
    status.networks[0].members = vec![one; 4000];
    status.logged_in = false;
    let lan = of([" ", "lan", "999", "999", "Free", "none"]);
    assert_eq!(heads(&status)[0], lan);
}

/// The value behind `name`, as programs look for it.
fn value(block: &str, name: &str) -> Option<String> {
    let found = Regex::new(&format!("{name}[ ]*:[ ]+(.+)"))
        .expect("a name is no pattern")
        .captures(block)?;
    Some(found.get(1)?.as_str().to_owned())
}

#[test]
fn this_machine_is_told_in_the_block_that_programs_read() {
    let mut status = sample::status();
    let block = render::info(&status);
    for (name, expected) in [
        ("version", "0.1.0"),
        ("pid", "4711"),
        ("status", "logged in"),
        ("client id", "090-736-821"),
        ("address", "198.19.4.5    fd6b:616e:7061:1::1"),
        ("nickname", "desk"),
        ("lmi account", "-"),
    ] {
        assert_eq!(value(&block, name).as_deref(), Some(expected), "{block}");
    }
    let session = |status: &Status| value(&render::info(status), "status").unwrap();
    status.coordinator.state = crate::ipc::api::CoordinatorState::Unreachable;
    assert_eq!(session(&status), "logged in");
    status.networks.clear();
    assert_eq!(session(&status), "logging in");
    status.logged_in = false;
    assert_eq!(session(&status), "offline");
    (status.ipv4, status.ipv6) = (None, None);
    assert_eq!(value(&render::info(&status), "address"), None);
}

#[test]
fn one_network_and_one_member_are_told_in_blocks() {
    let mut status = sample::status();
    status.networks[0].locked = true;
    let block = render::network(&status, "lan").unwrap();
    for (name, expected) in [
        ("id", "lan"),
        ("owner", "This computer"),
        ("status", "locked"),
        ("approve", "auto"),
    ] {
        assert_eq!(value(&block, name).as_deref(), Some(expected), "{block}");
    }
    assert!(render::network(&status, "garden").is_err());
    let block = render::peer(&status.find("091-111-222").unwrap());
    for (name, expected) in [
        ("client id", "091-111-222"),
        ("nickname", "Küche"),
        ("status", "direct"),
        ("tunnel", "UDP 192.0.2.33:12976"),
        ("networks", "lan, office"),
    ] {
        assert_eq!(value(&block, name).as_deref(), Some(expected), "{block}");
    }
}

fn typed(line: &str) -> Result<Verb, ApiError> {
    let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    verbs::parse(&words, &Nobody)
}

#[test]
fn every_verb_of_hamachi_is_understood() {
    for line in [
        "",
        "-h",
        "--help",
        "-v",
        "list",
        "login",
        "logon",
        "logout",
        "logoff",
        "set-nick lamp",
        "peer 090-736-821",
        "network games",
        "create games",
        "create games geheim",
        "delete games",
        "set-pass games",
        "set-pass games geheim",
        "set-access games lock",
        "set-access games unlock manual",
        "set-access games auto lock",
        "join games geheim",
        "do-join games geheim",
        "leave games",
        "evict games 090-736-821",
        "approve games 090-736-821",
        "reject games 090-736-821",
        "go-online games",
        "go-offline games",
        "attach alice@example.org",
        "attach-net alice@example.org",
        "cancel",
        "set-ip-mode both",
        "check-update",
    ] {
        assert!(typed(line).is_ok(), "{line}");
    }
    for line in [
        "frobnicate",
        "list all",
        "join",
        "join games geheim twice",
        "set-access games",
        "set-access games lock unlock",
        "set-access games shut",
        "evict games",
        "set-ip-mode ipv5",
    ] {
        assert_eq!(typed(line).unwrap_err().exit, ExitCode::Usage, "{line}");
    }
}

#[test]
fn only_the_name_that_it_is_called_by_makes_it_hamachi() {
    let translated = |args: &[&str]| {
        let args = translate(args.iter().map(OsString::from));
        args.into_iter()
            .map(|arg| arg.into_string().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        translated(&["/usr/bin/hamachi", "join", "x", "--json"]),
        ["kanpachi", "hamachi", "--", "join", "x", "--json"]
    );
    assert_eq!(translated(&["kanpachi", "list"]), ["kanpachi", "list"]);
    assert!(translated(&[]).len() == 1);
}
