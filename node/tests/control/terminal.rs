//! A password at a terminal: asked for, not shown, and the terminal is as before whatever happens.

use std::{
    fs::File,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, Command},
    time::{Duration, Instant},
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    pty::{OpenptyResult, openpty},
    sys::termios::{LocalFlags, tcgetattr},
};
use std::os::fd::AsFd as _;

use crate::small::Daemon;

/// Longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The program on a terminal of its own.
struct Terminal {
    master: File,
    /// Held here too, so that the terminal outlives the program.
    slave: File,
    child: Child,
    shown: String,
}

impl Terminal {
    fn start(socket: &Path, args: &[&str]) -> Self {
        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let slave = File::from(slave);
        let child = Command::new(env!("CARGO_BIN_EXE_kanpachi"))
            .args(args)
            .env("KANPACHI_SOCKET", socket)
            .env("NO_COLOR", "1")
            .stdin(slave.try_clone().unwrap())
            .stdout(slave.try_clone().unwrap())
            .stderr(slave.try_clone().unwrap())
            .spawn()
            .unwrap();
        Self {
            master: master.into(),
            slave,
            child,
            shown: String::new(),
        }
    }

    /// Reads until this is shown.
    fn wait_for(&mut self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.shown.contains(text) {
            assert!(
                Instant::now() < deadline,
                "{text:?} is not in {:?}",
                self.shown
            );
            self.read(100);
        }
    }

    /// Reads what is there, waiting so many milliseconds for it.
    fn read(&mut self, patience: u16) {
        let mut waiting = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, PollTimeout::from(patience)).unwrap() == 0 {
            return;
        }
        let mut bytes = [0; 4096];
        let count = self.master.read(&mut bytes).unwrap();
        self.shown += &String::from_utf8_lossy(&bytes[..count]);
    }

    fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).unwrap();
    }

    /// Waits for the end; the exit code, and everything that was shown.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            self.read(20);
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None => assert!(Instant::now() < deadline, "{:?}", self.shown),
            }
        };
        self.read(0);
        let echo = tcgetattr(&self.slave).unwrap().local_flags;
        assert!(
            echo.contains(LocalFlags::ECHO | LocalFlags::ISIG),
            "the terminal stays quiet"
        );
        (status.code(), self.shown)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_not_shown() {
    let daemon = Daemon::start();
    let mut join = Terminal::start(&daemon.socket(), &["join", "games"]);
    join.wait_for("Password of games: ");
    join.type_in("canary-c0ffee\n");
    let (code, shown) = join.end();
    assert_eq!(code, Some(0), "{shown:?}");
    assert!(
        shown.contains("this machine is in games") && !shown.contains("canary"),
        "{shown:?}"
    );

    let mut create = Terminal::start(&daemon.socket(), &["create", "games"]);
    create.wait_for("Password for games (empty for none: then by invite only): ");
    create.type_in("canary-c0ffee\n");
    create.wait_for("The same once more: ");
    create.type_in("canary-c0ffee\n");
    let (code, shown) = create.end();
    assert!(code == Some(0) && !shown.contains("canary"), "{shown:?}");
    assert_eq!(
        daemon.asked(),
        [
            "join-network games canary-c0ffee",
            "create games canary-c0ffee"
        ]
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_at_the_question_does_nothing_and_leaves_the_terminal_as_it_was() {
    let daemon = Daemon::start();
    let mut create = Terminal::start(&daemon.socket(), &["create", "games"]);
    create.wait_for("Password for games");
    create.type_in("half\u{3}");
    let (code, shown) = create.end();
    assert!(
        code == Some(1) && shown.contains("nothing was done") && !shown.contains("half"),
        "{shown:?}"
    );
    assert!(daemon.asked().is_empty());
    daemon.stop().await;
}
