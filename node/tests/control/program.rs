//! The program as it is run: what it prints where, and how it exits.

use std::{
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use kanpachi_node::ipc::{Control, server::Server};
use serde_json::Value;

use crate::small::{Daemon, Small, invite_link, status};

/// How a run ended.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    /// Standard output as one line of JSON.
    pub(crate) fn json(&self) -> Value {
        assert_eq!(self.out.lines().count(), 1, "{self:?}");
        assert!(self.err.is_empty(), "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

/// Runs the program with this socket and this on its standard input.
pub(crate) async fn run_with(socket: &Path, args: &[&str], input: &str) -> Run {
    run_as("kanpachi", socket, args, input).await
}

/// As [`run_with`], called by another name.
pub(crate) async fn run_as(name: &'static str, socket: &Path, args: &[&str], input: &str) -> Run {
    let (socket, input) = (socket.to_owned(), input.to_owned());
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    let wait = move || {
        let mut child = Command::new(env!("CARGO_BIN_EXE_kanpachi"))
            .arg0(name)
            .args(args)
            .env("KANPACHI_SOCKET", socket)
            .env("LANG", "C.UTF-8")
            .env_remove("LC_ALL")
            .env_remove("KANPACHI_LOG_LEVEL")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Whoever reads no input has closed it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    };
    tokio::task::spawn_blocking(wait).await.unwrap()
}

async fn run(socket: &Path, args: &[&str]) -> Run {
    run_with(socket, args, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_answered_for_people_and_for_programs() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let expected = serde_json::to_value(status()).unwrap();
    assert_eq!(run(&socket, &["status", "--json"]).await.json(), expected);
    let list = run(&socket, &["--json", "list"]).await.json();
    assert_eq!(list["networks"], expected["networks"]);
    let peer = run(&socket, &["--json", "peer", "198.19.77.1"])
        .await
        .json();
    assert_eq!(peer["peer"], expected["networks"][0]["members"][0]);
    assert_eq!(peer["networks"], serde_json::json!(["lan"]));

    let shown = run(&socket, &["status"]).await;
    assert!(shown.out.starts_with("● desk  198.19.4.5\n"), "{shown:?}");
    assert!(
        !shown.out.contains('\x1b') && shown.err.is_empty(),
        "{shown:?}"
    );
    let shown = run(&socket, &["list"]).await;
    assert!(
        shown.out.starts_with("lan (owner) · 1 of 1 online"),
        "{shown:?}"
    );
    assert_eq!(run(&socket, &["peer", "LAMP"]).await.code, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_carried_out_and_told() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let invite = run(
        &socket,
        &["invite", "lan", "--uses", "3", "--expires", "2h"],
    )
    .await;
    assert_eq!(
        invite.out.lines().next().unwrap(),
        "kanpachi://join/lan#secret"
    );
    assert!(
        invite
            .out
            .contains("\n  sudo kanpachi join 'kanpachi://join/lan#secret'\n"),
        "{invite:?}"
    );
    let invite = run(&socket, &["invite", "lan", "--json"]).await.json();
    assert_eq!(invite["invite"], "kanpachi://join/lan#secret");
    assert_eq!(
        run(&socket, &["set-nick", "lamp-2"]).await.out,
        "this machine is now called lamp-2\n"
    );
    assert_eq!(
        daemon.asked(),
        ["invite lan 3 7200", "invite lan 1 604800", "nick lamp-2"]
    );
    daemon.stop().await;
}

/// Arguments (`FILE` is a password file), what the daemon is asked, and a part of what is told.
const CHANGES: &[(&[&str], &str, &str)] = &[
    (
        &["create", "games", "--password-file", "FILE"],
        "create games geheim",
        "● games is made, and this machine owns it\n",
    ),
    (
        &["create", "quiet"],
        "create quiet -",
        "by invite only: kanpachi invite quiet\n",
    ),
    (
        &["join", "games", "--password-file", "FILE"],
        "join-network games geheim",
        "● this machine is in games\n",
    ),
    (
        &["join", "guarded", "--password-file", "FILE"],
        "join-network guarded geheim",
        "? an owner of guarded has to let this machine in: kanpachi approve guarded 090-736-821\n",
    ),
    (
        &["leave", "lan"],
        r#"change {"change":"leave","network":"lan","heir":null}"#,
        "this machine has left lan\n",
    ),
    (
        &["delete", "lan"],
        r#"change {"change":"delete","network":"lan"}"#,
        "lan is deleted\n",
    ),
    (
        &["evict", "lan", "lamp"],
        r#"change {"change":"evict","network":"lan","member":"lamp","password":null}"#,
        "lamp is out of lan; 2 invites were revoked\n▲ lamp may know the password of lan, which should change: kanpachi set-password lan\n",
    ),
    (
        &["evict", "lan", "lamp", "--password-file", "FILE"],
        r#"change {"change":"evict","network":"lan","member":"lamp","password":"geheim"}"#,
        "lan has a new password\n",
    ),
    (
        &["set-password", "lan", "--password-file", "FILE"],
        r#"change {"change":"set-password","network":"lan","password":"geheim"}"#,
        "lan has a new password\n",
    ),
    (
        &["set-password", "lan", "--remove"],
        r#"change {"change":"set-password","network":"lan","password":null}"#,
        "by invite only\n",
    ),
    (
        &["set-access", "lan", "manual", "unlock"],
        r#"change {"change":"set-access","network":"lan","locked":false,"approval":true}"#,
        "lan asks its owners to approve whoever joins\n",
    ),
    (
        &["approve", "lan", "092-333-444"],
        r#"change {"change":"approve","network":"lan","member":"092-333-444"}"#,
        "lamp is in lan\n",
    ),
    (
        &["reject", "lan", "lamp"],
        r#"change {"change":"reject","network":"lan","member":"lamp"}"#,
        "lamp was not let into lan\n",
    ),
    (
        &["set-role", "lan", "lamp", "owner"],
        r#"change {"change":"set-role","network":"lan","member":"lamp","owner":true}"#,
        "lamp is an owner of lan\n",
    ),
    (
        &["go-offline", "lan"],
        r#"change {"change":"go-offline","network":"lan"}"#,
        "until: kanpachi go-online lan\n",
    ),
    (
        &["go-online", "lan"],
        r#"change {"change":"go-online","network":"lan"}"#,
        "again\n",
    ),
    (&["login"], "logged in true", "already logged in\n"),
    (&["logout"], "logged in false", "until: kanpachi login\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn networks_are_changed_and_it_is_told_how() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let password = daemon.dir.path().join("password");
    std::fs::write(&password, "geheim\n").unwrap();
    let file = password.to_str().unwrap();
    for (args, asked, told) in CHANGES {
        let args: Vec<&str> = args
            .iter()
            .map(|arg| if *arg == "FILE" { file } else { arg })
            .collect();
        let human = run(&socket, &args).await;
        assert_eq!(human.code, 0, "{args:?}: {human:?}");
        assert!(
            human.out.contains(told) && human.err.is_empty(),
            "{args:?}: {human:?}"
        );
        assert_eq!(daemon.asked().last().unwrap(), asked, "{args:?}");
        let json = run(&socket, &[&["--json"], &args[..]].concat())
            .await
            .json();
        assert!(
            json.is_object() && json.get("error").is_none(),
            "{args:?}: {json}"
        );
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_on_standard_input_never_shows_up_again() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let canary = "canary-c0ffee";
    for args in [
        &["join", "games", "--password-file", "-"][..],
        &["join", "hello", "--password-file", "-"],
        &[
            "set-password",
            "garden",
            "--password-file",
            "-",
            "--log-level",
            "trace",
        ],
        &[
            "evict",
            "lan",
            "lamp",
            "--password-file",
            "-",
            "--json",
            "--log-level",
            "trace",
        ],
    ] {
        let run = run_with(&socket, args, canary).await;
        assert!(
            !run.out.contains(canary) && !run.err.contains(canary),
            "{run:?}"
        );
        assert!(daemon.asked().last().unwrap().contains(canary), "{args:?}");
    }
    daemon.stop().await;
}

/// A daemon in a process of its own, which is this test binary again.
#[test]
#[ignore = "a helper process of the test below, not a test"]
fn daemon_of_its_own() {
    let Some(socket) = std::env::var_os("CONTROL_SOCKET") else {
        return;
    };
    let small = Arc::<Small>::default();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let server = Server::bind(Path::new(&socket)).unwrap();
        server
            .serve(Arc::clone(&small) as Arc<dyn Control>, small.stop.clone())
            .await;
        // The real one has things to put away when nobody can reach it any more.
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn down_returns_when_the_process_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("k.sock");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "program::daemon_of_its_own", "--ignored"])
        .env("CONTROL_SOCKET", &socket)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let up = async { while run(&socket, &["status"]).await.code != 0 {} };
    tokio::time::timeout(Duration::from_secs(20), up)
        .await
        .expect("the daemon does not come up");
    let down = run(&socket, &["down"]).await;
    assert!(child.try_wait().unwrap().is_some(), "it still runs");
    assert_eq!(
        down.out,
        format!("the daemon (process {}) has stopped\n", child.id())
    );
    assert!(!socket.exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_exits_by_whether_anything_came_back() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let answered = run(&socket, &["ping", "lamp", "-c", "1"]).await;
    assert_eq!(
        (answered.code, answered.out.as_str()),
        (0, "pong from lamp (198.19.77.1): lan in 1.50 ms #1\n")
    );
    let lost = run(&socket, &["ping", "lamp", "-c", "1"]).await;
    assert_eq!(
        (lost.code, lost.out.as_str()),
        (6, "no answer from lamp #1\n")
    );
    assert!(
        lost.err.starts_with("error: lamp does not answer\nhint: "),
        "{lost:?}"
    );
    let json = run(&socket, &["--json", "ping", "lamp", "-c", "2"]).await;
    let lines: Vec<Value> = json
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!((json.code, lines.len()), (0, 2));
    assert_eq!(
        (&lines[0]["seq"], &lines[0]["rtt_ms"], &lines[1]["rtt_ms"]),
        (&1.into(), &1.5.into(), &Value::Null)
    );
    daemon.stop().await;
}

/// Is a daemon there, arguments, standard input (`LONG` is too much, `LINK` an invite), exit code, error code.
const MISTAKES: &[(bool, &[&str], &str, i32, &str)] = &[
    (false, &["status"], "", 4, "no_daemon"),
    (false, &["down"], "", 4, "no_daemon"),
    (true, &["peer", "nobody"], "", 5, "unknown_peer"),
    (true, &["ping", "desk"], "", 5, "unknown_peer"),
    (true, &["set-nick", "a b"], "", 2, "usage"),
    (true, &["jion", "x"], "", 2, "usage"),
    (true, &["up", "--listen", "0"], "", 2, "usage"),
    (true, &["join", "kanpachi://join/x"], "", 2, "bad_invite"),
    (true, &["join", "a b"], "", 2, "bad_invite"),
    (true, &["join", "hello"], "", 2, "usage"),
    (
        false,
        &["join", "hello", "--password-file", "-"],
        "geheim",
        4,
        "no_daemon",
    ),
    (
        true,
        &["join", "hello", "--password-file", "-"],
        "\n",
        2,
        "usage",
    ),
    (
        true,
        &["join", "hello", "--password-file", "/nonexistent"],
        "",
        2,
        "usage",
    ),
    (
        true,
        &["join", "hello", "--password-file", "-"],
        "geheim",
        5,
        "wrong_password",
    ),
    (true, &["create", "taken"], "", 5, "network_exists"),
    (true, &["leave", "garden"], "", 5, "unknown_network"),
    (true, &["set-password", "lan"], "", 2, "usage"),
    (
        true,
        &["set-access", "lan", "lock", "unlock"],
        "",
        2,
        "usage",
    ),
    (true, &["join", "-"], "", 2, "bad_invite"),
    (true, &["join", "-"], "LONG", 2, "usage"),
    (
        true,
        &["list", "--log-level", "kanpachi=loud"],
        "",
        2,
        "usage",
    ),
    (true, &["join", "-"], "\n  LINK  \n", 5, "invite_used"),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_has_its_sentence_its_code_and_its_exit() {
    let daemon = Daemon::start();
    let here = daemon.socket();
    let nowhere = here.with_file_name("nobody.sock");
    let long = "x".repeat(9000);
    for (there, args, input, exit, code) in MISTAKES {
        let socket = if *there { &here } else { &nowhere };
        let input = &input.replace("LONG", &long).replace("LINK", &invite_link());
        let human = run_with(socket, args, input).await;
        assert_eq!(human.code, *exit, "{args:?}: {human:?}");
        assert!(
            human.out.is_empty() && human.err.starts_with("error: "),
            "{args:?}: {human:?}"
        );
        assert!(
            (1..=2).contains(&human.err.lines().count()),
            "{args:?}: {human:?}"
        );
        let json = run_with(socket, &[&["--json"], *args].concat(), input).await;
        assert_eq!(json.code, *exit, "{args:?}: {json:?}");
        assert_eq!(json.json()["error"]["code"], *code, "{args:?}");
    }
    let joined = daemon.asked();
    let joined = joined.iter().filter(|asked| asked.starts_with("join "));
    let link = format!("join {}", invite_link());
    assert_eq!(joined.collect::<Vec<_>>(), [&link, &link]);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn help_and_version_are_no_mistakes() {
    let nowhere = Path::new("/nonexistent.sock");
    for args in [
        &["help"][..],
        &["--help"],
        &["help", "join"],
        &["join", "--help"],
        &["--version"],
    ] {
        let shown = run(nowhere, args).await;
        assert!(
            shown.code == 0 && shown.err.is_empty() && !shown.out.contains('\x1b'),
            "{args:?}: {shown:?}"
        );
    }
    assert!(
        run(nowhere, &["help", "join"])
            .await
            .out
            .contains("Examples:\n")
    );
    let version = run(nowhere, &["--version", "--json"]).await.json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"));
    let bare = run(nowhere, &[]).await;
    assert!(
        bare.code == 2 && bare.out.is_empty() && bare.err.contains("Usage: kanpachi"),
        "{bare:?}"
    );
}
