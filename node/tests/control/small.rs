//! A small daemon that only remembers what it was asked for; the real one is tested in the lab.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use kanpachi_common::{
    invite::{Invite, InviteSecret},
    org::Address,
    roster::Position,
};
use kanpachi_node::ipc::{
    ApiError, Control, Drill, Pong,
    api::{
        Adapter, ChangeReply, ChangeRequest, Coordinator, CoordinatorState, Freshness, InviteReply,
        InviteRequest, JoinReply, Member, Network, NetworkRequest, NickReply, Path, SCHEMA, Secret,
        SessionReply, Status,
    },
    client::Client,
    error::code,
    netcheck::NetcheckReply,
    server::Server,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A daemon without a network.
#[derive(Default)]
pub(crate) struct Small {
    /// What was asked for.
    pub(crate) asked: Mutex<Vec<String>>,
    /// The drill that is on: cancelled to end it.
    pub(crate) drill: Arc<Mutex<Option<CancellationToken>>>,
    pub(crate) stop: CancellationToken,
}

impl Small {
    fn note(&self, what: String) {
        self.asked.lock().unwrap().push(what);
    }
}

#[async_trait]
impl Control for Small {
    async fn status(&self) -> Result<Status, ApiError> {
        let mut status = status();
        if self.drill.lock().unwrap().is_some() {
            status.coordinator.state = CoordinatorState::Unreachable;
        }
        Ok(status)
    }

    async fn drill(&self, length: Duration) -> Result<Drill, ApiError> {
        self.note(format!("drill {}", length.as_secs()));
        let (asked, over) = (CancellationToken::new(), CancellationToken::new());
        *self.drill.lock().unwrap() = Some(asked.clone());
        let drill = Drill {
            coordinator: Some("203.0.113.7:12975".to_owned()),
            sources: [("12D3KooWLamp".to_owned(), vec!["cache".to_owned()])].into(),
            asked: asked.clone(),
            over: over.clone(),
        };
        let on = Arc::clone(&self.drill);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(length, asked.cancelled()).await;
            *on.lock().unwrap() = None;
            over.cancel();
        });
        Ok(drill)
    }

    async fn netcheck(&self) -> Result<NetcheckReply, ApiError> {
        let mut reply = NetcheckReply {
            udp: Some(true),
            ..NetcheckReply::default()
        };
        reply.conclude(kanpachi_common::NatBehaviour::default());
        Ok(reply)
    }

    async fn end_drill(&self) -> Result<bool, ApiError> {
        let on = self.drill.lock().unwrap().clone();
        Ok(on.inspect(CancellationToken::cancel).is_some())
    }

    async fn join(&self, invite: Secret) -> Result<JoinReply, ApiError> {
        self.note(format!("join {}", invite.expose()));
        Err(
            ApiError::refused(code::INVITE_USED, "the invite was used up")
                .hint("ask for a new one"),
        )
    }

    async fn create(&self, request: NetworkRequest) -> Result<JoinReply, ApiError> {
        self.note(format!("create {}", network_and_password(&request)));
        if request.network == "taken" {
            return Err(ApiError::refused(
                code::NETWORK_EXISTS,
                "a network of that name exists",
            ));
        }
        Ok(joined(&[&request.network], &[]))
    }

    async fn join_network(&self, request: NetworkRequest) -> Result<JoinReply, ApiError> {
        self.note(format!("join-network {}", network_and_password(&request)));
        let refusal = match request.network.as_str() {
            "games" => return Ok(joined(&["lan", "games"], &[])),
            "guarded" => return Ok(joined(&["lan"], &["guarded"])),
            "locked" => code::NETWORK_LOCKED,
            "full" => code::NETWORK_FULL,
            "lan" | "hall" => code::ALREADY_MEMBER,
            _ => code::WRONG_PASSWORD,
        };
        Err(ApiError::refused(refusal, "declined"))
    }

    async fn change(&self, request: ChangeRequest) -> Result<ChangeReply, ApiError> {
        self.note(format!("change {}", asked_for(&request)));
        changed(&request)
    }

    async fn set_logged_in(&self, logged_in: bool) -> Result<SessionReply, ApiError> {
        self.note(format!("logged in {logged_in}"));
        Ok(SessionReply {
            logged_in,
            already: logged_in,
        })
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
            path: Path::Lan,
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

fn network_and_password(request: &NetworkRequest) -> String {
    let password = request.password.as_ref().map_or("-", Secret::expose);
    format!("{} {password}", request.network)
}

fn joined(networks: &[&str], waiting: &[&str]) -> JoinReply {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    JoinReply {
        name: "desk".to_owned(),
        ipv4: Some([198, 19, 4, 5].into()),
        ipv6: None,
        networks: owned(networks),
        waiting: owned(waiting),
    }
}

/// A change as JSON, passwords included: this daemon has none to keep.
fn asked_for(request: &ChangeRequest) -> String {
    serde_json::to_string(request).unwrap()
}

/// What a coordinator would say to it.
fn changed(request: &ChangeRequest) -> Result<ChangeReply, ApiError> {
    let (network, member) = request.parts();
    if network == "mine" {
        return Err(ApiError::refused(code::LAST_OWNER, "the only owner"));
    }
    if member == Some("000-000-000") {
        return Err(ApiError::refused(code::UNKNOWN_PEER, "no such member"));
    }
    if network != "lan" {
        return Err(ApiError::refused(
            code::UNKNOWN_NETWORK,
            "this machine is in no such network",
        ));
    }
    let evicted = matches!(request, ChangeRequest::Evict { .. });
    Ok(ChangeReply {
        network: network.to_owned(),
        member: member.map(|_| "lamp".to_owned()),
        revoked_invites: evicted.then_some(2),
        password_known: evicted.then_some(true),
        suspended: false,
    })
}

/// A link that is well formed.
pub(crate) fn invite_link() -> String {
    let invite = Invite {
        org: [1; 32].into(),
        network: [2; 32].into(),
        floor: Position {
            generation: 1,
            epoch: 1,
        },
        secret: InviteSecret([3; 16]),
        addresses: vec![Address::new("203.0.113.7", 12975)],
        name: "lan".to_owned(),
    };
    invite.to_link()
}

/// What it says about itself.
pub(crate) fn status() -> Status {
    let time: Timestamp = "2026-11-23T09:00:00Z".parse().unwrap();
    let lamp = Member {
        underlay: vec![],
        name: "lamp".to_owned(),
        node_id: "12D3KooWLamp".to_owned(),
        client_id: "092-333-444".to_owned(),
        ipv4: Some([198, 19, 77, 1].into()),
        ipv6: None,
        role: "member".to_owned(),
        waiting: false,
        suspended: false,
        online: true,
        path: Some(Path::Lan),
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
        locked: false,
        approval: false,
        online: true,
        issued_at: time,
        soft_expires_at: None,
        hard_expires_at: None,
        age_s: Some(7200),
        freshness: Some(Freshness::Green),
        members: vec![lamp],
    };
    let hall = Network {
        name: "hall".to_owned(),
        id: "h".to_owned(),
        role: "member".to_owned(),
        members: Vec::new(),
        ..lan.clone()
    };
    Status {
        schema: SCHEMA,
        version: "test".to_owned(),
        pid: std::process::id(),
        org: Some("o".to_owned()),
        name: Some("desk".to_owned()),
        node_id: "12D3KooWDesk".to_owned(),
        client_id: "090-736-821".to_owned(),
        logged_in: true,
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
        networks: vec![lan, hall],
        relays: vec![],
        problems: vec![],
        relaying: None,
        waiting: Vec::new(),
        counters: [("drop_source".to_owned(), 7)].into(),
    }
}

/// A daemon on a socket of its own.
pub(crate) struct Daemon {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) small: Arc<Small>,
    pub(crate) task: JoinHandle<()>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // Others must be able to get to the socket.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let small = Arc::new(Small::default());
        let server = Server::bind(&dir.path().join("k.sock")).unwrap();
        let task =
            tokio::spawn(server.serve(Arc::clone(&small) as Arc<dyn Control>, small.stop.clone()));
        Self { dir, small, task }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("k.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.socket())
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.small.asked.lock().unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        self.small.stop.cancel();
        self.task.await.unwrap();
    }
}
