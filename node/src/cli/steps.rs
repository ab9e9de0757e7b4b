//! "Tell step by step what they do and how long it took": how `host`, `join` and `up` report while they start.
//!
//! The daemon knows only [`Progress`]; where the words go is decided here. Human lines go to standard output. With
//! `--json` there is exactly one line on standard output, when everything is ready.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    console::Console,
    render::{self, Look},
};
use crate::ipc::api::{CodeReply, HostReply, JoinReply, Secret};

/// Where a starting daemon tells what it does.
pub trait Progress: Send + Sync + fmt::Debug {
    /// Takes one report. Never blocks for long and never fails: nobody may stop a daemon by closing its output.
    fn report(&self, report: &Report<'_>);
}

/// One thing to tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report<'a> {
    /// A step begins.
    Begin(&'a str),
    /// A step is done. The detail stands behind it (`kanpachi0, MTU 1400`); it may be empty.
    Done(&'a str, &'a str, Duration),
    /// A step did not work out, and things go on without it.
    Failed(&'a str, &'a str, Duration),
    /// Something worth knowing.
    Note(&'a str),
    /// Something to see to.
    Warn(&'a str),
    /// The recovery phrase of a new organisation. Shown this once.
    RecoveryPhrase(&'a str),
    /// Everything that was asked for is up.
    Ready(&'a Ready),
    /// The code to join by on the same LAN is another one now.
    NewCode(&'a str),
}

/// What is up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Ready {
    /// `kanpachi host`
    Host(HostReply),
    /// `kanpachi join`
    Join(JoinReply),
    /// `kanpachi up`, of a node that has joined or not.
    Up(Option<JoinReply>),
}

impl dyn Progress + '_ {
    /// Begins a step; its clock starts now.
    pub fn step<'a>(&'a self, what: impl Into<String>) -> Step<'a> {
        let what = what.into();
        self.report(&Report::Begin(&what));
        Step {
            progress: self,
            what,
            started: Instant::now(),
        }
    }

    /// Tells something worth knowing.
    pub fn note(&self, line: impl fmt::Display) {
        self.report(&Report::Note(&line.to_string()));
    }

    /// Tells something to see to.
    pub fn warn(&self, line: impl fmt::Display) {
        self.report(&Report::Warn(&line.to_string()));
    }

    /// Tells that everything is up.
    pub fn ready(&self, ready: &Ready) {
        self.report(&Report::Ready(ready));
    }
}

/// A running step. Dropped without an end it says nothing more: the error that ended it will.
#[derive(Debug)]
#[must_use = "a step says nothing unless it is ended"]
pub struct Step<'a> {
    progress: &'a (dyn Progress + 'a),
    what: String,
    started: Instant,
}

impl Step<'_> {
    /// It is done.
    pub fn done(self, detail: impl fmt::Display) {
        self.progress.report(&Report::Done(
            &self.what,
            &detail.to_string(),
            self.started.elapsed(),
        ));
    }

    /// It did not work out, and things go on without it.
    pub fn failed(self, detail: impl fmt::Display) {
        self.progress.report(&Report::Failed(
            &self.what,
            &detail.to_string(),
            self.started.elapsed(),
        ));
    }
}

/// Reports to people: lines on standard output.
#[derive(Debug)]
pub struct Spoken {
    console: Console,
    network: String,
}

impl Spoken {
    /// `network` is what `kanpachi host` opens.
    #[must_use]
    pub fn new(console: Console, network: impl Into<String>) -> Self {
        Self {
            console,
            network: network.into(),
        }
    }

    fn ready(&self, ready: &Ready, look: &Look) -> String {
        match ready {
            Ready::Host(reply) => render::host_ready(reply, &self.network, look),
            Ready::Join(reply) => render::joined(reply, look),
            Ready::Up(reply) => render::up_ready(reply.as_ref(), look),
        }
    }
}

impl Progress for Spoken {
    fn report(&self, report: &Report<'_>) {
        let look = self.console.out();
        match report {
            Report::Ready(ready) => self.console.print(&self.ready(ready, &look)),
            Report::RecoveryPhrase(words) => {
                self.console.print(&render::recovery_phrase(words, &look))
            }
            Report::NewCode(code) => self.console.print(&render::new_code(code, &look)),
            Report::Begin(_) => self
                .console
                .print_unfinished(&render::step(report, &look).unwrap_or_default()),
            Report::Done(..) | Report::Failed(..) | Report::Note(_) | Report::Warn(_) => {
                self.console
                    .print(&render::step(report, &look).unwrap_or_default());
            }
        }
    }
}

/// Reports to programs: one line of JSON on standard output when everything is ready, and one for each new code. What a person must not miss
/// goes to standard error.
#[derive(Debug)]
pub struct Silent {
    console: Console,
}

impl Silent {
    /// A line or two is all it will say.
    #[must_use]
    pub const fn new(console: Console) -> Self {
        Self { console }
    }
}

impl Progress for Silent {
    fn report(&self, report: &Report<'_>) {
        let look = self.console.err();
        match report {
            Report::Ready(ready) => self.console.print(&super::json_line(ready)),
            Report::NewCode(code) => {
                let code = Secret::new((*code).to_owned());
                self.console.print(&super::json_line(&CodeReply { code }));
            }
            Report::RecoveryPhrase(words) => self
                .console
                .print_err(&render::recovery_phrase(words, &look)),
            Report::Warn(_) => self
                .console
                .print_err(&render::step(report, &look).unwrap_or_default()),
            Report::Begin(_) | Report::Done(..) | Report::Failed(..) | Report::Note(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Keeps what it is told.
    #[derive(Debug, Default)]
    struct Kept(Mutex<Vec<String>>);

    impl Progress for Kept {
        fn report(&self, report: &Report<'_>) {
            let line = match report {
                Report::Begin(what) => format!("begin {what}"),
                Report::Done(what, detail, _) => format!("done {what}: {detail}"),
                Report::Failed(what, detail, _) => format!("failed {what}: {detail}"),
                other => format!("{other:?}"),
            };
            self.0.lock().unwrap().push(line);
        }
    }

    #[test]
    fn a_step_tells_its_beginning_and_its_end_and_nothing_when_dropped() {
        let kept = Kept::default();
        let progress: &dyn Progress = &kept;
        progress.step("one").done(format_args!("in {}", 1));
        progress.step("two").failed("no");
        drop(progress.step("three"));
        progress.warn("careful");
        let told = kept.0.into_inner().unwrap();
        assert_eq!(
            told,
            [
                "begin one",
                "done one: in 1",
                "begin two",
                "failed two: no",
                "begin three",
                r#"Warn("careful")"#
            ]
        );
    }

    #[test]
    fn what_is_ready_is_the_documented_line() {
        let joined = Ready::Join(JoinReply {
            name: "lamp".to_owned(),
            ipv4: None,
            ipv6: None,
            networks: vec!["lan".to_owned()],
            waiting: Vec::new(),
        });
        assert_eq!(
            super::super::json_line(&joined),
            "{\"name\":\"lamp\",\"ipv4\":null,\"ipv6\":null,\"networks\":[\"lan\"],\"waiting\":[]}\n"
        );
        assert_eq!(super::super::json_line(&Ready::Up(None)), "null\n");
    }
}
