//! Who may do what: each request as nobody, as the group and as root.

use std::{os::unix::process::CommandExt as _, path::Path, process::Command};

use crate::{
    raw::{exchange, post},
    small::Daemon,
};

/// Sends a request as another user; what comes back. Python is not needed: the child is this test binary.
fn as_user(uid: u32, gid: u32, socket: &Path, request: &str) -> String {
    // The copy can be read by that user, whatever directory this binary is in.
    let copy = socket.with_file_name("client");
    if !copy.exists() {
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    }
    let output = Command::new(&copy)
        .args([
            "--exact",
            "permissions::child_of_the_permission_matrix",
            "--nocapture",
            "--ignored",
        ])
        .env("CONTROL_SOCKET", socket)
        .env("CONTROL_REQUEST", request)
        .current_dir("/")
        .gid(gid)
        .uid(uid)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
#[ignore = "a helper process of the permission matrix, not a test"]
fn child_of_the_permission_matrix() {
    let (Some(socket), Ok(request)) = (
        std::env::var_os("CONTROL_SOCKET"),
        std::env::var("CONTROL_REQUEST"),
    ) else {
        return;
    };
    println!("{}", exchange(Path::new(&socket), request.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn everybody_reads_and_only_root_and_the_group_change() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can try what other users may do");
        return;
    }
    let daemon = Daemon::start();
    let nobody = nix::unistd::User::from_name("nobody")
        .unwrap()
        .expect("this system has no user nobody");
    let (uid, gid) = (nobody.uid.as_raw(), nobody.gid.as_raw());
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n");
    let send = |path: &str, body: &str| String::from_utf8(post(path, body)).unwrap();
    let reading = [
        get("/v1/version"),
        get("/v1/status"),
        get("/v1/list"),
        get("/v1/peer?target=lamp"),
        send("/v1/ping", r#"{"target":"lamp","count":1}"#),
    ];
    for request in &reading {
        let answer = as_user(uid, gid, &daemon.socket(), request);
        assert!(answer.contains("HTTP/1.1 200 OK"), "{request}: {answer}");
    }
    let changing = [
        send("/v1/join", r#"{"invite":"x"}"#),
        send("/v1/invite", r#"{"network":"lan"}"#),
        send("/v1/set-nick", r#"{"name":"x"}"#),
        send("/v1/create", r#"{"network":"games"}"#),
        send("/v1/join-network", r#"{"network":"games","password":"x"}"#),
        send("/v1/change", r#"{"change":"leave","network":"lan"}"#),
        send("/v1/change", r#"{"change":"go-offline","network":"lan"}"#),
        send("/v1/login", ""),
        send("/v1/logout", ""),
        send("/v1/down", ""),
    ];
    let before = daemon.asked();
    for request in &changing {
        let answer = as_user(uid, gid, &daemon.socket(), request);
        assert!(
            answer.contains("HTTP/1.1 403 ") && answer.contains(r#""code":"no_permission""#),
            "{request}: {answer}"
        );
    }
    assert_eq!(daemon.asked(), before, "something refused was done");
    // Group 0 is not root.
    assert!(as_user(uid, 0, &daemon.socket(), &changing[2]).contains("HTTP/1.1 403 "));
    let group = nix::unistd::Group::from_name("kanpachi").unwrap();
    if let Some(group) = group {
        let answer = as_user(uid, group.gid.as_raw(), &daemon.socket(), &changing[2]);
        assert!(answer.contains("HTTP/1.1 200 OK"), "{answer}");
    }
    let root = as_user(0, 0, &daemon.socket(), &changing[2]);
    assert!(root.contains("HTTP/1.1 200 OK"), "{root}");

    daemon.stop().await;
}

/// Every command that changes something.
const CHANGING: &[&str] = &[
    "create games",
    "join games --password-file password",
    "leave lan",
    "delete lan",
    "evict lan lamp",
    "set-password lan --remove",
    "set-access lan lock",
    "approve lan lamp",
    "reject lan lamp",
    "set-role lan lamp owner",
    "go-online lan",
    "go-offline lan",
    "login",
    "logout",
    "invite lan",
    "set-nick x",
    "down",
];

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_the_documented_answer_to_every_command() {
    if !nix::unistd::geteuid().is_root() {
        println!("skipped: only root can try what other users may do");
        return;
    }
    let daemon = Daemon::start();
    let nobody = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    // A copy that this user can run, and a file that it can read.
    let program = daemon.socket().with_file_name("kanpachi");
    std::fs::copy(env!("CARGO_BIN_EXE_kanpachi"), &program).unwrap();
    std::fs::write(daemon.socket().with_file_name("password"), "geheim").unwrap();
    let run = |line: &str| {
        let mut command = Command::new(&program);
        command
            .args(line.split(' '))
            .env("KANPACHI_SOCKET", daemon.socket())
            .current_dir(daemon.dir.path())
            .gid(nobody.gid.as_raw())
            .uid(nobody.uid.as_raw());
        command.output().unwrap()
    };
    for line in [
        "status",
        "list",
        "peer lamp",
        "ping lamp -c 1",
        "hamachi list",
    ] {
        assert!(run(line).status.success(), "{line}");
    }
    let before = daemon.asked();
    for line in CHANGING {
        let refused = run(line);
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(
            refused.status.code() == Some(3)
                && said.starts_with("error: only root and members of the group"),
            "{line}: {refused:?}"
        );
    }
    assert_eq!(daemon.asked(), before, "something refused was done");
    daemon.stop().await;
}
