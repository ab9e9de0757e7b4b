//! The program as a user starts it.

#![expect(
    clippy::unwrap_used,
    reason = "this program is a test; a failed assumption should end it"
)]

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::UdpSocket,
    path::Path,
    process::{Child, Command, Output, Stdio},
};

use kanpachi_common::{OrgId, SecretKey};
use serde_json::Value;

fn program(state: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kanpachi-bootstrap"));
    command
        .args(["--json", "serve", "--state-dir"])
        .arg(state)
        .args(args);
    if !args.contains(&"--listen") {
        command.args(["--listen", "0"]);
    }
    command
        .env_remove("KANPACHI_STATE_DIR")
        .env_remove("KANPACHI_LOG_LEVEL")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A running program that does not outlive the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(state: &Path, args: &[&str]) -> (Running, Value) {
    let mut child = program(state, args).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let running = Running(child);
    (running, serde_json::from_str(&line).expect(&line))
}

/// Sends a signal and returns exit code and log.
fn end(mut running: Running, signal: &str) -> (Option<i32>, String) {
    let pid = running.0.id().to_string();
    assert!(
        Command::new("kill")
            .args([signal, &pid])
            .status()
            .unwrap()
            .success()
    );
    let mut log = String::new();
    running
        .0
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    (running.0.wait().unwrap().code(), log)
}

fn fails(output: &Output, exit: i32, code: &str) -> String {
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(exit), "{text}");
    if !code.is_empty() {
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["error"]["code"], code);
    }
    text
}

fn org() -> String {
    OrgId([3; 32]).to_string()
}

#[test]
fn it_starts_keeps_its_identity_and_ends_cleanly() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let (first, ready) = start(&state, &["--org", &org()]);
    assert_eq!(ready["org"], org());
    let id = ready["id"].as_str().unwrap().to_owned();
    assert!(kanpachi_common::NodeId::parse(&id).is_some());
    assert!(ready["listen"].is_array());
    let busy = program(&state, &[]).output().unwrap();
    assert!(fails(&busy, 1, "daemon_running").contains("--state-dir"));
    let (code, log) = end(first, "-TERM");
    assert_eq!(code, Some(0), "{log}");

    let (second, ready) = start(&state, &[]);
    assert_eq!(ready["id"], id);
    assert_eq!(ready["org"], org());
    let (code, log) = end(second, "-INT");
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("panic") && !log.contains("ERROR"), "{log}");
}

#[test]
fn mistakes_are_one_sentence_and_an_exit_code() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let run = |args: &[&str]| program(&state, args).output().unwrap();
    assert!(fails(&run(&[]), 2, "usage").contains("--org"));
    fails(&run(&["--org", "nonsense"]), 2, "");
    fails(&run(&["--invite", "nonsense"]), 2, "bad_invite");
    fails(&run(&["--org", &org(), "--advertise", "a b"]), 2, "");
    let taken = UdpSocket::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let text = fails(
        &run(&["--org", &org(), "--listen", &port]),
        1,
        "port_in_use",
    );
    assert!(
        text.contains(&format!("UDP port {port} is in use")),
        "{text}"
    );
    let other = OrgId([4; 32]).to_string();
    fails(&run(&["--org", &other]), 5, "other_organisation");

    let key = state.join("identity.key");
    let good = std::fs::read(&key).unwrap();
    std::fs::write(&key, b"short").unwrap();
    assert!(fails(&run(&[]), 1, "state_damaged").contains("identity.key"));
    assert_eq!(
        std::fs::read(&key).unwrap(),
        b"short",
        "nothing is overwritten"
    );
    std::fs::write(&key, &good).unwrap();
    // A damaged mirror is only a copy: it is put aside and the program runs.
    std::fs::write(state.join("mirror.cbor"), b"junk").unwrap();
    let (running, ready) = start(&state, &[]);
    let seed: [u8; 32] = good.try_into().unwrap();
    assert_eq!(
        ready["id"],
        SecretKey::from_seed(&seed).node_id().to_string()
    );
    assert!(state.join("mirror.cbor.damaged").exists());
    assert_eq!(end(running, "-TERM").0, Some(0));
}
