//! `docs/cli.md` says what the program does, and all of it.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use kanpachi_node::{
    cli::args::Cli,
    ipc::{
        api::{
            ChangeReply, CodeReply, DownReply, HostReply, InviteReply, JoinReply, ListReply,
            NickReply, PeerReply, PingReply, SessionReply, Status,
        },
        drill::DrillReply,
        error::ErrorReply,
        netcheck::NetcheckReply,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

const PAGE: &str = include_str!("../../../docs/cli.md");

/// The examples: type and JSON.
fn examples() -> Vec<(&'static str, Value)> {
    let example = |part: &'static str| {
        let (name, rest) = part
            .split_once(" -->\n```json\n")
            .expect("a marker without an example");
        let (text, _) = rest.split_once("\n```").expect("an example without an end");
        (name, serde_json::from_str(text).expect(name))
    };
    PAGE.split("<!-- json: ").skip(1).map(example).collect()
}

/// Read as the type and written again, an example must be the same: then it has every field and no other.
fn same<T: DeserializeOwned + Serialize>(example: &Value) {
    let read: T = serde_json::from_value(example.clone()).unwrap();
    assert_eq!(&serde_json::to_value(read).unwrap(), example);
}

#[test]
fn every_example_has_every_field_and_no_other() {
    let mut seen = BTreeSet::new();
    for (name, example) in examples() {
        match name {
            "Status" => same::<Status>(&example),
            "PeerReply" => same::<PeerReply>(&example),
            "PingReply" => same::<PingReply>(&example),
            "InviteReply" => same::<InviteReply>(&example),
            "HostReply" => same::<HostReply>(&example),
            "CodeReply" => same::<CodeReply>(&example),
            "JoinReply" => same::<JoinReply>(&example),
            "NickReply" => same::<NickReply>(&example),
            "DownReply" => same::<DownReply>(&example),
            "ListReply" => same::<ListReply>(&example),
            "ChangeReply" => same::<ChangeReply>(&example),
            "SessionReply" => same::<SessionReply>(&example),
            "DrillReply" => same::<DrillReply>(&example),
            "NetcheckReply" => same::<NetcheckReply>(&example),
            "ErrorReply" => same::<ErrorReply>(&example),
            other => panic!("no type for the example {other}"),
        }
        seen.insert(name);
    }
    assert_eq!(seen.len(), 15, "{seen:?}");
}

#[test]
fn every_field_of_the_status_is_explained() {
    let (_, status) = examples().remove(0);
    let table = PAGE
        .split("| field | meaning |")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let mut fields = BTreeSet::new();
    collect(&status, &mut fields);
    for field in fields {
        let explained =
            table.contains(&format!("`{field}`")) || table.contains(&format!(".{field}`"));
        // These two are explained through what is in them; counters have names, not fields.
        assert!(
            explained || ["coordinator", "networks", "drop_replay"].contains(&field.as_str()),
            "{field}"
        );
    }
}

fn collect(value: &Value, into: &mut BTreeSet<String>) {
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| {
            into.insert(key.clone());
            collect(value, into);
        }),
        Value::Array(list) => list.iter().for_each(|value| collect(value, into)),
        _ => {}
    }
}

#[test]
fn every_command_option_and_variable_is_listed_and_none_that_is_not_there() {
    let mut cli = Cli::command();
    cli.build();
    let mut known = BTreeSet::from(["--help".to_owned(), "--version".to_owned()]);
    for argument in cli.get_arguments() {
        if let Some(variable) = argument.get_env() {
            assert!(
                PAGE.contains(&format!("`{}`", variable.display())),
                "{variable:?}"
            );
        }
        known.extend(argument.get_long().map(|long| format!("--{long}")));
    }
    for command in cli.get_subcommands().filter(|c| !c.is_hide_set()) {
        assert!(
            PAGE.contains(&format!("`kanpachi {}", command.get_name())),
            "{}",
            command.get_name()
        );
        // `service install` has options of its own.
        for command in command.get_subcommands().chain([command]) {
            let shown = command.get_arguments().filter(|a| !a.is_hide_set());
            known.extend(shown.filter_map(|a| Some(format!("--{}", a.get_long()?))));
        }
    }
    for option in &known {
        assert!(PAGE.contains(&format!("`{option}")), "{option}");
    }
    let listed = PAGE
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|text| text.starts_with("--"));
    for option in listed.map(|text| text.split(' ').next().unwrap()) {
        assert!(known.contains(option), "{option} is no option");
    }
}

#[test]
fn every_error_code_and_path_is_listed_and_none_that_is_not_there() {
    let source = include_str!("../../src/ipc/error.rs");
    let codes: BTreeSet<&str> = source
        .split("pub const ")
        .skip(1)
        .filter_map(|part| part.split_once(": &str = \"")?.1.split('"').next())
        .collect();
    let table = PAGE
        .split("| code | exit | meaning |")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let listed: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    assert_eq!(listed, codes);

    let routes = include_str!("../../src/ipc/routes.rs");
    let served: BTreeSet<&str> = routes
        .split(".route(\"")
        .skip(1)
        .filter_map(|part| part.split('"').next())
        .collect();
    let table = PAGE
        .split("| method and path |")
        .nth(1)
        .unwrap()
        .split("\n\n")
        .next()
        .unwrap();
    let listed: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split(['`', '?'])
                .next()?
                .split(' ')
                .nth(1)
        })
        .collect();
    assert!(
        served.len() == 17 && listed == served,
        "{listed:?} {served:?}"
    );
}
