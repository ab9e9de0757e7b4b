//! What is typed becomes the right request, and slips are told before anything is asked.

use std::cell::RefCell;

use clap::Parser as _;
use zeroize::Zeroizing;

use super::*;
use crate::cli::args::{Cli, Command};

/// Somebody with answers, or nobody.
struct Answers(Option<RefCell<Vec<&'static str>>>);

impl Answers {
    fn nobody() -> Self {
        Self(None)
    }

    fn of(answers: &[&'static str]) -> Self {
        Self(Some(answers.to_vec().into()))
    }
}

impl Asker for Answers {
    fn can_ask(&self) -> bool {
        self.0.is_some()
    }

    fn ask(&self, _: &str) -> Result<Zeroizing<String>, ApiError> {
        let answer = self.0.as_ref().unwrap().borrow_mut().remove(0);
        Ok(Zeroizing::new(answer.to_owned()))
    }
}

fn typed(line: &str) -> Result<NetworkCommand, String> {
    let words = ["kanpachi"].into_iter().chain(line.split(' '));
    match Cli::try_parse_from(words)
        .map_err(|error| error.to_string())?
        .command
    {
        Command::Networks(command) => Ok(command),
        other => panic!("{other:?}"),
    }
}

fn order_of(line: &str, asker: &Answers) -> Result<Order, ApiError> {
    let Ok(command) = typed(line) else {
        panic!("it is no command: {line}");
    };
    order(command, asker)
}

fn secret(text: &str) -> Option<Secret> {
    Some(Secret::new(text.to_owned()))
}

#[test]
fn every_verb_becomes_its_request() {
    let lan = || "lan".to_owned();
    let lamp = || "lamp".to_owned();
    let change = |line: &str| match order_of(line, &Answers::nobody()).unwrap() {
        Order::Change(change) => change,
        other => panic!("{other:?}"),
    };
    let expected = [
        (
            "leave lan",
            ChangeRequest::Leave {
                network: lan(),
                heir: None,
            },
        ),
        (
            "leave lan --heir lamp",
            ChangeRequest::Leave {
                network: lan(),
                heir: Some(lamp()),
            },
        ),
        ("delete lan", ChangeRequest::Delete { network: lan() }),
        (
            "evict lan lamp",
            ChangeRequest::Evict {
                network: lan(),
                member: lamp(),
                password: None,
            },
        ),
        (
            "set-password lan --remove",
            ChangeRequest::SetPassword {
                network: lan(),
                password: None,
            },
        ),
        (
            "approve lan lamp",
            ChangeRequest::Approve {
                network: lan(),
                member: lamp(),
            },
        ),
        (
            "reject lan 090-736-821",
            ChangeRequest::Reject {
                network: lan(),
                member: "090-736-821".to_owned(),
            },
        ),
        (
            "set-role lan lamp owner",
            ChangeRequest::SetRole {
                network: lan(),
                member: lamp(),
                owner: true,
            },
        ),
        (
            "set-role lan lamp member",
            ChangeRequest::SetRole {
                network: lan(),
                member: lamp(),
                owner: false,
            },
        ),
        ("go-online lan", ChangeRequest::GoOnline { network: lan() }),
        (
            "go-offline lan",
            ChangeRequest::GoOffline { network: lan() },
        ),
    ];
    for (line, request) in expected {
        assert_eq!(change(line), request, "{line}");
    }
}

#[test]
fn login_and_logout_are_about_the_whole_machine() {
    for (line, logged_in) in [("login", true), ("logout", false)] {
        assert_eq!(
            order_of(line, &Answers::nobody()).unwrap(),
            Order::LoggedIn(logged_in)
        );
    }
}

#[test]
fn access_takes_either_word_or_both_in_any_order() {
    let of = |line: &str| match order_of(line, &Answers::nobody()).unwrap() {
        Order::Change(ChangeRequest::SetAccess {
            locked, approval, ..
        }) => (locked, approval),
        other => panic!("{other:?}"),
    };
    assert_eq!(of("set-access lan lock"), (Some(true), None));
    assert_eq!(of("set-access lan auto"), (None, Some(false)));
    assert_eq!(
        of("set-access lan unlock manual"),
        (Some(false), Some(true))
    );
    assert_eq!(
        of("set-access lan manual unlock"),
        (Some(false), Some(true))
    );
    for line in ["set-access lan lock unlock", "set-access lan auto auto"] {
        let error = order_of(line, &Answers::nobody()).unwrap_err();
        assert_eq!(error.exit, ExitCode::Usage, "{line}");
    }
    for line in [
        "set-access lan",
        "set-access lan open",
        "set-access lan lock auto lock",
        "set-role lan lamp king",
        "set-role lan lamp",
        "evict lan",
        "approve a.b lamp",
        "leave lan --heir=",
        "set-password lan --remove --password-file x",
        "create lan geheim",
        "join lan geheim",
        "login now",
    ] {
        assert!(typed(line).is_err(), "{line}");
    }
}

#[test]
fn a_password_is_asked_for_where_somebody_can_answer() {
    let order = |line: &str, answers: &Answers| order_of(line, answers).unwrap();
    let created = |password| {
        Order::Create(NetworkRequest {
            network: "lan".to_owned(),
            password,
        })
    };
    assert_eq!(order("create lan", &Answers::nobody()), created(None));
    assert_eq!(order("create lan", &Answers::of(&[""])), created(None));
    assert_eq!(
        order("create lan", &Answers::of(&["abc", "abc"])),
        created(secret("abc"))
    );
    assert_eq!(
        order(
            "evict lan lamp --set-password",
            &Answers::of(&["abc", "abc"])
        ),
        Order::Change(ChangeRequest::Evict {
            network: "lan".to_owned(),
            member: "lamp".to_owned(),
            password: secret("abc")
        })
    );
    assert_eq!(
        order("set-password lan", &Answers::of(&["abc", "abc"])),
        Order::Change(ChangeRequest::SetPassword {
            network: "lan".to_owned(),
            password: secret("abc")
        })
    );
    for line in ["set-password lan", "evict lan lamp --set-password"] {
        for answers in [Answers::nobody(), Answers::of(&[""])] {
            let error = order_of(line, &answers).unwrap_err();
            assert_eq!(
                (error.exit, error.to_string().as_str()),
                (ExitCode::Usage, "there is no new password"),
                "{line}"
            );
        }
    }
    let asked = join("lan".to_owned(), None, &Answers::of(&["abc"])).unwrap();
    assert_eq!(asked.password, secret("abc"));
    assert_eq!(
        join("lan".to_owned(), None, &Answers::nobody())
            .unwrap_err()
            .exit,
        ExitCode::Usage
    );
}

#[test]
fn what_is_joined_is_an_invite_or_a_network() {
    let network = |name: &str| Target::Network(name.to_owned());
    assert_eq!(target("games").unwrap(), network("games"));
    assert_eq!(target(" cafe\u{301} ").unwrap(), network("caf\u{e9}"));
    assert_eq!(target("-").unwrap(), Target::Stdin);
    let long = "x".repeat(80);
    for bad in [
        "",
        "a b",
        "kanpachi://join/lan",
        "kanpachi://join/lan#AAAA",
        &long,
    ] {
        let error = target(bad).unwrap_err();
        assert_eq!(
            (error.exit, error.code.as_str()),
            (ExitCode::Usage, code::BAD_INVITE),
            "{bad}"
        );
        assert!(bad.is_empty() || !error.message.contains(bad), "{error}");
    }
}
