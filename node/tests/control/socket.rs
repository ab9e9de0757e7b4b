//! The two ends of the socket against each other, and the server against bad manners.

use std::{
    net::Shutdown,
    os::unix::net::{UnixListener, UnixStream},
    sync::Arc,
    time::Duration,
};

use kanpachi_node::ipc::{
    ExitCode,
    api::{ChangeRequest, InviteRequest, NetworkRequest, Path, PingRequest, SCHEMA, Secret},
    client::Client,
    error::code,
    server::Server,
};
use tokio_util::sync::CancellationToken;

use crate::{
    raw::{post, raw},
    small::{Daemon, Small, invite_link, status},
};

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
    let games = NetworkRequest {
        network: "games".to_owned(),
        password: Some(Secret::new("cafe\u{301}".to_owned())),
    };
    assert_eq!(client.create(&games).await.unwrap().networks, ["games"]);
    assert_eq!(
        client.join_network(&games).await.unwrap().networks,
        ["lan", "games"]
    );
    let evict = ChangeRequest::Evict {
        network: "lan".to_owned(),
        member: "lamp".to_owned(),
        password: None,
    };
    assert_eq!(
        client.change(&evict).await.unwrap().revoked_invites,
        Some(2)
    );
    assert!(client.set_logged_in(true).await.unwrap().logged_in);
    assert!(!client.set_logged_in(false).await.unwrap().logged_in);
    assert_eq!(
        daemon.asked()[2..],
        [
            "create games caf\u{e9}",
            "join-network games caf\u{e9}",
            r#"change {"change":"evict","network":"lan","member":"lamp","password":null}"#,
            "logged in true",
            "logged in false"
        ]
    );

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
    let error = client.join(Secret::new(invite_link())).await.unwrap_err();
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
    let nameless = NetworkRequest {
        network: "a b".to_owned(),
        password: None,
    };
    for error in [
        client.create(&nameless).await.unwrap_err(),
        client.join_network(&nameless).await.unwrap_err(),
    ] {
        assert_eq!(error.code, code::BAD_NAME);
    }
    let without = NetworkRequest {
        network: "games".to_owned(),
        password: None,
    };
    assert_eq!(
        client.join_network(&without).await.unwrap_err().exit,
        ExitCode::Usage
    );
    let nobody = ChangeRequest::Approve {
        network: "lan".to_owned(),
        member: String::new(),
    };
    assert_eq!(
        client.change(&nobody).await.unwrap_err().exit,
        ExitCode::Usage
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
            (1, Some(1.5), Some(Path::Lan)),
            (2, None, None),
            (3, Some(1.5), Some(Path::Lan))
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
        (
            post("/v1/change", r#"{"change":"explode","network":"lan"}"#),
            "400",
            Some("usage"),
        ),
        (
            post("/v1/create", r#"{"network":"lan","password":""}"#),
            "400",
            Some("usage"),
        ),
        (post("/v1/change", &large), "413", Some("usage")),
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
