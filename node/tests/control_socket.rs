//! The control socket on a real unix socket: who may do what, and what it survives.
//!
//! The daemon behind it is a small one that only remembers; the real one is tested in the lab.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops where something is not as it should be"
)]

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use kanpachi_node::ipc::{
    ApiError, Control, ExitCode, Pong,
    api::{
        Adapter, Coordinator, CoordinatorState, InviteReply, InviteRequest, JoinReply, Member,
        Network, NickReply, Path as TunnelPath, PingRequest, SCHEMA, Secret, Status,
    },
    client::Client,
    error::code,
    server::Server,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A daemon without a network.
#[derive(Default)]
struct Small {
    /// What was asked for.
    asked: Mutex<Vec<String>>,
    stop: CancellationToken,
}

impl Small {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Control for Small {
    async fn status(&self) -> Result<Status, ApiError> {
        Ok(status())
    }

    async fn join(&self, invite: Secret) -> Result<JoinReply, ApiError> {
        self.note(format!("join {}", invite.expose()));
        Err(
            ApiError::refused(code::INVITE_USED, "the invite was used up")
                .hint("ask for a new one"),
        )
    }

    async fn invite(&self, request: InviteRequest) -> Result<InviteReply, ApiError> {
        self.note(format!(
            "invite {} {} {}",
            request.network, request.uses, request.expires_s
        ));
        let invite = Secret::new("kanpachi://join/lan#secret".to_owned());
        Ok(InviteReply {
            invite,
            network: request.network,
            uses: request.uses,
            expires_at: None,
        })
    }

    async fn set_nick(&self, name: String) -> Result<NickReply, ApiError> {
        self.note(format!("nick {name}"));
        Ok(NickReply { name })
    }

    async fn ping(&self, node_id: &str, _: Duration) -> Result<Option<Pong>, ApiError> {
        self.note(format!("ping {node_id}"));
        let sent = self.asked.lock().unwrap().len();
        Ok((sent % 2 == 1).then(|| Pong {
            path: TunnelPath::Lan,
            via: None,
            endpoint: None,
            rtt: Duration::from_micros(1500),
        }))
    }

    fn down(&self) {
        self.note("down".to_owned());
        self.stop.cancel();
    }
}

fn status() -> Status {
    let time: Timestamp = "2026-11-23T09:00:00Z".parse().unwrap();
    let lamp = Member {
        name: "lamp".to_owned(),
        node_id: "12D3KooWLamp".to_owned(),
        ipv4: Some([198, 19, 77, 1].into()),
        ipv6: None,
        role: "member".to_owned(),
        online: true,
        path: Some(TunnelPath::Lan),
        via: None,
        path_since: Some(time),
        endpoint: None,
        rtt_ms: None,
        loss: None,
        path_mtu: None,
        rx_bytes: 0,
        tx_bytes: 0,
        last_handshake: None,
    };
    let lan = Network {
        name: "lan".to_owned(),
        id: "n".to_owned(),
        generation: 1,
        epoch: 2,
        role: "owner".to_owned(),
        issued_at: time,
        soft_expires_at: None,
        hard_expires_at: None,
        members: vec![lamp],
    };
    Status {
        schema: SCHEMA,
        version: "test".to_owned(),
        pid: std::process::id(),
        org: Some("o".to_owned()),
        name: Some("desk".to_owned()),
        node_id: "12D3KooWDesk".to_owned(),
        ipv4: Some([198, 19, 4, 5].into()),
        ipv6: None,
        interface: "kanpachi0".to_owned(),
        adapter: Some(Adapter::Tun),
        mtu: Some(1400),
        listen: Vec::new(),
        coordinator: Coordinator {
            state: CoordinatorState::Connected,
            address: None,
            since: Some(time),
            last_error: None,
        },
        networks: vec![lan],
        counters: [("drop_source".to_owned(), 7)].into(),
    }
}

/// A daemon on a socket of its own.
struct Daemon {
    dir: tempfile::TempDir,
    small: Arc<Small>,
    task: JoinHandle<()>,
}

impl Daemon {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Others must be able to get to the socket.
        std::fs::set_permissions(
            dir.path(),
            std::os::unix::fs::PermissionsExt::from_mode(0o755),
        )
        .unwrap();
        let small = Arc::new(Small::default());
        let server = Server::bind(&dir.path().join("k.sock")).unwrap();
        let task =
            tokio::spawn(server.serve(Arc::clone(&small) as Arc<dyn Control>, small.stop.clone()));
        Self { dir, small, task }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("k.sock")
    }

    fn client(&self) -> Client {
        Client::new(self.socket())
    }

    fn asked(&self) -> Vec<String> {
        self.small.asked.lock().unwrap().clone()
    }

    async fn stop(self) {
        self.small.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Bytes in, everything that comes back out.
fn exchange(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    // A server that has heard enough may close while we still write.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

async fn raw(socket: PathBuf, request: Vec<u8>) -> String {
    tokio::task::spawn_blocking(move || exchange(&socket, &request))
        .await
        .unwrap()
}

fn post(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: k\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_gets_through_and_back() {
    let daemon = Daemon::start();
    let client = daemon.client();
    assert!(client.is_running().await.unwrap());
    assert_eq!(client.version().await.unwrap().schema, SCHEMA);
    assert_eq!(client.status().await.unwrap(), status());
    assert_eq!(client.list().await.unwrap().networks, status().networks);
    assert_eq!(
        client.peer("LAMP").await.unwrap().peer,
        status().networks[0].members[0]
    );
    assert_eq!(
        client.peer("nobody & co").await.unwrap_err().code,
        code::UNKNOWN_PEER
    );
    let request = InviteRequest {
        network: "lan".to_owned(),
        uses: 3,
        expires_s: 60,
    };
    assert_eq!(client.invite(&request).await.unwrap().uses, 3);
    assert_eq!(
        client.set_nick("lamp-2".to_owned()).await.unwrap().name,
        "lamp-2"
    );
    assert_eq!(daemon.asked(), ["invite lan 3 60", "nick lamp-2"]);

    let reply = client.down().await.unwrap();
    assert_eq!(reply.pid, std::process::id());
    daemon.task.await.unwrap();
    assert!(!daemon.dir.path().join("k.sock").exists());
    assert_eq!(client.status().await.unwrap_err().exit, ExitCode::NoDaemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_daemon_refuses_arrives_as_it_was_said() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let invite = kanpachi_common::invite::Invite {
        org: [1; 32].into(),
        network: [2; 32].into(),
        floor: kanpachi_common::roster::Position {
            generation: 1,
            epoch: 1,
        },
        secret: kanpachi_common::invite::InviteSecret([3; 16]),
        addresses: vec![kanpachi_common::org::Address::new("203.0.113.7", 12975)],
        name: "lan".to_owned(),
    };
    let error = client
        .join(Secret::new(invite.to_link()))
        .await
        .unwrap_err();
    assert_eq!(
        (error.exit, error.code.as_str()),
        (ExitCode::Refused, code::INVITE_USED)
    );
    assert_eq!(
        (error.message.as_str(), error.hint.as_deref()),
        ("the invite was used up", Some("ask for a new one"))
    );
    // What is no invite, no name or no sensible number never reaches the daemon.
    let garbage = client
        .join(Secret::new("hello".to_owned()))
        .await
        .unwrap_err();
    assert_eq!(
        (garbage.exit, garbage.code.as_str()),
        (ExitCode::Usage, code::BAD_INVITE)
    );
    assert_eq!(
        client.set_nick("a b".to_owned()).await.unwrap_err().code,
        code::BAD_NAME
    );
    for (uses, expires_s) in [(0, 60), (1, 0), (u32::MAX, 60), (1, u64::MAX)] {
        let request = InviteRequest {
            network: "lan".to_owned(),
            uses,
            expires_s,
        };
        assert_eq!(
            client.invite(&request).await.unwrap_err().exit,
            ExitCode::Usage
        );
    }
    assert_eq!(daemon.asked().len(), 1);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_come_one_by_one_and_end_with_the_daemon() {
    let daemon = Daemon::start();
    let client = daemon.client();
    let request = |count| PingRequest {
        interval_ms: 100,
        ..PingRequest::new("198.19.77.1".to_owned(), count)
    };
    let mut pings = client.ping(&request(3)).await.unwrap();
    let mut seen = Vec::new();
    while let Some(reply) = pings.next().await.unwrap() {
        assert_eq!(reply.name, "lamp");
        seen.push((reply.seq, reply.rtt_ms, reply.path));
    }
    assert_eq!(
        seen,
        [
            (1, Some(1.5), Some(TunnelPath::Lan)),
            (2, None, None),
            (3, Some(1.5), Some(TunnelPath::Lan))
        ]
    );
    assert_eq!(
        client.ping(&request(0)).await.unwrap_err().exit,
        ExitCode::Usage
    );
    let unknown = PingRequest::new("nobody".to_owned(), 1);
    assert_eq!(
        client.ping(&unknown).await.unwrap_err().code,
        code::UNKNOWN_PEER
    );

    let mut endless = client.ping(&request(100_000)).await.unwrap();
    assert!(endless.next().await.unwrap().is_some());
    daemon.stop().await;
    while let Ok(Some(_)) = endless.next().await {}
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_answered_in_json_and_hurt_nobody() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let large = format!("{{\"name\":\"{}\"}}", "x".repeat(70 * 1024));
    let lie =
        b"POST /v1/set-nick HTTP/1.1\r\nhost: k\r\ncontent-length: 999999999999\r\n\r\n{}".to_vec();
    let long_header = format!(
        "GET /v1/status HTTP/1.1\r\nhost: k\r\nx: {}\r\n\r\n",
        "y".repeat(64 * 1024)
    )
    .into_bytes();
    let deep = "[".repeat(60_000);
    let cases = [
        (post("/v1/set-nick", "{\"name\":"), "400", Some("usage")),
        (post("/v1/set-nick", "{}"), "400", Some("usage")),
        (post("/v1/set-nick", &deep), "400", Some("usage")),
        (post("/v1/set-nick", "\u{0}\u{1}"), "400", Some("usage")),
        (post("/v1/set-nick", &large), "413", Some("usage")),
        (lie, "413", Some("usage")),
        (post("/v1/nothing", "{}"), "404", Some("usage")),
        (post("/v1/status", "{}"), "405", Some("usage")),
        (
            b"GET /v1/down HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n".to_vec(),
            "405",
            Some("usage"),
        ),
        (
            b"GET /v1/peer HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n".to_vec(),
            "400",
            Some("usage"),
        ),
        (b"\x16\x03\x01 not http\r\n\r\n".to_vec(), "400", None),
        (long_header, "431", None),
    ];
    for (request, status, wanted) in cases {
        let shown = String::from_utf8_lossy(&request[..request.len().min(60)]).into_owned();
        let answer = raw(socket.clone(), request).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{shown:?}: {answer}"
        );
        if let Some(wanted) = wanted {
            let body: serde_json::Value =
                serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
            assert_eq!(body["error"]["code"], wanted, "{shown:?}");
        }
    }
    assert!(daemon.asked().is_empty());
    daemon.client().status().await.unwrap();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_says_nothing_is_hung_up_on() {
    let daemon = Daemon::start();
    let socket = daemon.socket();
    let answer = raw(socket, b"GET /v1/status HT".to_vec());
    // Ten seconds of patience; the exchange itself would wait for twenty.
    let answer = tokio::time::timeout(Duration::from_secs(15), answer)
        .await
        .expect("the server waits too long");
    assert!(!answer.contains("200 OK"), "{answer}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_house_says_so_and_recovers() {
    let daemon = Daemon::start();
    let idle: Vec<UnixStream> = (0..32)
        .map(|_| UnixStream::connect(daemon.socket()).unwrap())
        .collect();
    let answer = raw(
        daemon.socket(),
        b"GET /v1/version HTTP/1.1\r\nhost: k\r\nconnection: close\r\n\r\n".to_vec(),
    )
    .await;
    assert!(answer.contains("\"busy\""), "{answer}");
    for stream in idle {
        stream.shutdown(Shutdown::Both).unwrap();
    }
    let recovered = async { while daemon.client().version().await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(10), recovered)
        .await
        .expect("places are not given back");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_daemon_on_a_socket_is_told_about_the_first() {
    let daemon = Daemon::start();
    let error = Server::bind(&daemon.socket()).unwrap_err();
    assert_eq!(
        (error.exit, error.code.as_str()),
        (ExitCode::Refused, code::DAEMON_RUNNING)
    );
    daemon.client().status().await.unwrap();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_socket_of_a_dead_daemon_is_taken_over() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("k.sock");
    // Death without a farewell leaves the file behind.
    drop(UnixListener::bind(&socket).unwrap());
    assert_eq!(
        Client::new(&socket).status().await.unwrap_err().exit,
        ExitCode::NoDaemon
    );
    let second = Server::bind(&socket).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(second.serve(Arc::<Small>::default(), stop.clone()));
    Client::new(&socket).status().await.unwrap();
    stop.cancel();
    task.await.unwrap();
}

/// Sends a request as another user; what comes back. Python is not needed: the child is this test binary.
fn as_user(uid: u32, gid: u32, socket: &Path, request: &str) -> String {
    use std::os::unix::process::CommandExt as _;
    // The copy can be read by that user, whatever directory this binary is in.
    let copy = socket.with_file_name("client");
    if !copy.exists() {
        std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    }
    let output = Command::new(&copy)
        .args([
            "--exact",
            "child_of_the_permission_matrix",
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

    // Readers who fill their places do not keep an administrator out.
    daemon.client().status().await.unwrap();
    daemon.stop().await;
}
