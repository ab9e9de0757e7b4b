//! A core, its store, and nodes that talk to it.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use futures::executor::block_on;
use kanpachi_common::{
    Candidate, CandidateKind, NetworkId, NodeId, Password, SecretKey, TunnelKey, UnixTime,
    Verified,
    id::Hash,
    invite::{InviteSecret, token_hash},
    org::{Address, Manifest, Server},
    roster::{Head, Page, Position, VerifiedRoster},
    secret::NetworkSecret,
    wire::{
        control::{
            Announce, ClientMessage, Held, Hello, Join, MakeInvite, Refused, ServerMessage, Welcome,
        },
        frame::{FrameReader, MAX_REPLY},
    },
};

use super::super::{Config, Core, Event, Now, Output, Remote, SessionId, run};
use crate::{
    org::Organisation,
    password::Passwords,
    store::{
        NewInvite, NewNetwork, PasswordHash, Store as _, StoreError,
        sqlite::{DATABASE, Database, SqliteStore},
    },
};

pub(super) const LAN: NetworkId = NetworkId([0xaa; 32]);

pub(super) struct Lab {
    pub(super) core: Core,
    pub(super) store: SqliteStore,
    pub(super) manifest: Verified<Manifest>,
    pub(super) now: Now,
    pub(super) events: Vec<Event>,
    pub(super) closed: Vec<SessionId>,
    /// Bytes are taken off their hands unless the session is in here.
    pub(super) stalled: Vec<SessionId>,
    /// The store fails every intent with this.
    pub(super) broken: Option<StoreError>,
    readers: BTreeMap<SessionId, FrameReader>,
    inbox: BTreeMap<SessionId, Vec<(u64, ServerMessage)>>,
    sessions: u64,
    invites: u8,
    /// Counts processes on one database: no two draw the same random bytes.
    life: u8,
    /// Where the database is, when it is a copy.
    _dir: Option<tempfile::TempDir>,
}

pub(super) fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

pub(super) fn node(n: u8) -> NodeId {
    key(n).node_id()
}

pub(super) fn host(n: u8) -> Candidate {
    Candidate {
        addr: SocketAddr::from(([192, 0, 2, n], 12976)),
        kind: CandidateKind::Host,
    }
}

/// Passwords that cost nothing.
#[derive(Debug)]
pub(super) struct Plain;

#[async_trait::async_trait]
impl Passwords for Plain {
    async fn hash(&self, password: Password) -> crate::store::Result<PasswordHash> {
        Ok(PasswordHash(password.expose().to_owned()))
    }

    async fn verify(
        &self,
        password: Password,
        stored: Option<PasswordHash>,
    ) -> crate::store::Result<bool> {
        Ok(stored.is_some_and(|stored| stored.0 == password.expose()))
    }
}

impl Lab {
    pub(super) fn new() -> Self {
        let now = Now {
            at: Instant::now(),
            wall: UnixTime(1_800_000_000),
        };
        let lab = Self::on(Database::in_memory().unwrap(), 1, now);
        lab.network(LAN, "lan");
        lab
    }

    /// A copy of the database in a directory of its own, as a backup is.
    pub(super) fn backup(&self) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(DATABASE);
        let path = path.to_str().unwrap().to_owned();
        let copied = self
            .store
            .with_connection(move |conn| conn.execute("VACUUM INTO $1", [path]).map(drop));
        copied.unwrap();
        dir
    }

    /// A coordinator on a copy of a backup.
    pub(super) fn restored(backup: &Path, now: Now) -> Self {
        Self::copied(backup, 2, now)
    }

    fn copied(backup: &Path, life: u8, now: Now) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy(backup.join(DATABASE), dir.path().join(DATABASE)).unwrap();
        let mut lab = Self::on(Database::open(dir.path()).unwrap(), life, now);
        lab._dir = Some(dir);
        // Others than those of before.
        lab.invites = life * 50;
        lab
    }

    /// Another process on the same store, without sessions.
    pub(super) fn restarted(self) -> Self {
        let backup = self.backup();
        Self::copied(backup.path(), self.life + 1, self.now)
    }

    fn on(mut database: Database, life: u8, now: Now) -> Self {
        let org = Organisation::open(&mut database, None, now.wall).unwrap();
        let store = database.into_store(org.signer.clone()).unwrap();
        let servers = vec![Server {
            id: org.identity.node_id(),
            addresses: vec![Address::new("203.0.113.1", 12975)],
        }];
        let directory = block_on(store.publish_directory(servers, vec![], 0, now.wall)).unwrap();
        let config = Config {
            manifest: org.signer.manifest().signed().clone(),
            directory,
            org: org.org(),
            pool: org.signer.pool(),
            addresses: vec![Address::new("203.0.113.1", 12975)],
        };
        Self {
            core: Core::new(config, [life; 32], now),
            store,
            manifest: org.signer.manifest().clone(),
            now,
            events: vec![],
            closed: vec![],
            stalled: vec![],
            broken: None,
            readers: BTreeMap::new(),
            inbox: BTreeMap::new(),
            sessions: 0,
            invites: 0,
            life,
            _dir: None,
        }
    }

    pub(super) fn network(&self, network: NetworkId, name: &str) {
        let new = NewNetwork {
            network,
            name: name.into(),
            secret: NetworkSecret::new(1, [0xcc; 32]),
            soft_seconds: 7 * 86_400,
            hard_seconds: None,
            now: self.now.wall,
        };
        block_on(self.store.create_network(new)).unwrap();
    }

    /// An invite of the operator; returns its token.
    pub(super) fn invite(
        &mut self,
        network: NetworkId,
        uses: Option<u32>,
        founder: bool,
    ) -> [u8; 32] {
        self.invites += 1;
        let token = InviteSecret([self.invites; 16]).token();
        let new = NewInvite {
            network,
            by: None,
            token_hash: token_hash(&token),
            uses,
            expires_at: self.now.wall.plus(86_400),
            founder,
            now: self.now.wall,
        };
        block_on(self.store.create_invite(new)).unwrap();
        token
    }

    pub(super) fn open(&mut self, n: u8) -> SessionId {
        let ip = [203, 0, 113, n].into();
        let remote = Remote {
            ip: Some(ip),
            udp: Some((ip, 4000 + u16::from(n)).into()),
        };
        self.open_from(n, remote)
    }

    pub(super) fn open_from(&mut self, n: u8, remote: Remote) -> SessionId {
        let id = SessionId(self.sessions);
        self.sessions += 1;
        self.readers.insert(id, FrameReader::new(MAX_REPLY));
        self.core.handle_open(id, node(n), remote, self.now);
        self.drain();
        id
    }

    pub(super) fn hello(&self, n: u8, held: Vec<Held>) -> ClientMessage {
        self.hello_away(n, held, vec![])
    }

    pub(super) fn hello_away(&self, n: u8, held: Vec<Held>, away: Vec<NetworkId>) -> ClientMessage {
        let org = self.manifest.org();
        ClientMessage::Hello(Hello {
            min_version: 1,
            max_version: 1,
            caps: 0,
            client: "test".into(),
            org,
            tunnel: TunnelKey::sign(&key(n), &org, 1, [n; 32]),
            boot: 1,
            held,
            candidates: vec![host(n)],
            nat: None,
            away,
            ext: vec![],
        })
    }

    /// Opens a session and says hello.
    pub(super) fn login(&mut self, n: u8, held: Vec<Held>) -> SessionId {
        let id = self.open(n);
        let hello = self.hello(n, held);
        self.say(id, 1, &hello);
        id
    }

    /// Opens a session, says hello, joins.
    pub(super) fn join(&mut self, n: u8, token: [u8; 32]) -> SessionId {
        let id = self.login(n, vec![]);
        let join = ClientMessage::Join(Join {
            token,
            name: format!("m{n}"),
        });
        self.say(id, 2, &join);
        id
    }

    pub(super) fn say(&mut self, id: SessionId, request: u64, message: &ClientMessage) {
        self.core
            .handle_frame(id, &message.frame(request), self.now);
        self.drain();
    }

    pub(super) fn announce(&mut self, id: SessionId, candidates: Vec<Candidate>) {
        self.say(
            id,
            0,
            &ClientMessage::Announce(Announce {
                candidates,
                nat: None,
            }),
        );
    }

    pub(super) fn make_invite(&mut self, id: SessionId, request: u64) {
        let make = MakeInvite {
            network: LAN,
            uses: Some(1),
            expires_in: 3600,
        };
        self.say(id, request, &ClientMessage::MakeInvite(make));
    }

    pub(super) fn leave(&mut self, id: SessionId) {
        self.core.handle_closed(id);
        self.drain();
    }

    pub(super) fn changed(&mut self, network: NetworkId) {
        self.core.handle_changed(network);
        self.drain();
    }

    pub(super) fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 2 {
            self.now.at += Duration::from_millis(500);
            self.core.handle_timeout(self.now);
            self.drain();
        }
        self.now.wall = self.now.wall.plus(seconds);
    }

    /// Does what the core wants until it wants nothing more.
    pub(super) fn drain(&mut self) {
        loop {
            if let Some(output) = self.core.poll_output() {
                self.take(output);
            } else if let Some((id, intent)) = self.core.poll_intent() {
                let outcome = match &self.broken {
                    Some(error) => Err(error.clone()),
                    None => block_on(run(&self.store, &Plain, intent)),
                };
                self.core.handle_outcome(id, outcome, self.now);
            } else {
                return;
            }
        }
    }

    fn take(&mut self, output: Output) {
        match output {
            Output::Send(id, bytes) => {
                let reader = self.readers.get_mut(&id).unwrap();
                reader.extend(&bytes);
                while let Some(frame) = reader.next_frame().unwrap() {
                    let message = ServerMessage::from_frame(&frame).unwrap();
                    self.inbox.entry(id).or_default().push((frame.id, message));
                }
                if !self.stalled.contains(&id) {
                    self.core.handle_sent(id, bytes.len(), self.now);
                }
            }
            Output::Close(id) => self.closed.push(id),
            Output::Event(event) => self.events.push(event),
        }
    }

    /// What a session was sent since the last look.
    pub(super) fn read(&mut self, id: SessionId) -> Vec<(u64, ServerMessage)> {
        self.inbox.remove(&id).unwrap_or_default()
    }

    pub(super) fn welcome(&mut self, id: SessionId) -> Welcome {
        let read = self.read(id);
        let welcome = read.into_iter().find_map(|(_, m)| match m {
            ServerMessage::Welcome(welcome) => Some(*welcome),
            _ => None,
        });
        welcome.expect("a welcome")
    }

    pub(super) fn refusal(&mut self, id: SessionId) -> (u64, Refused) {
        let read = self.read(id);
        let refused = read.into_iter().find_map(|(request, m)| match m {
            ServerMessage::Refused(refused) => Some((request, refused)),
            _ => None,
        });
        refused.expect("a refusal")
    }

    pub(super) fn held(&self, network: NetworkId) -> Held {
        let changes = block_on(self.store.changes_since(network, vec![])).unwrap();
        Held {
            network,
            position: changes.position,
            root: changes.root,
        }
    }
}

pub(super) const NOTHING: Position = Position {
    generation: 0,
    epoch: 0,
};

pub(super) fn no_root() -> Hash {
    Hash([0; 32])
}

/// A node's side of a network: applies what it is sent and believes nothing unverified.
pub(super) struct Replica {
    manifest: Verified<Manifest>,
    pub(super) roster: Option<VerifiedRoster>,
    pages: Vec<Page>,
}

impl Replica {
    pub(super) fn new(lab: &Lab) -> Self {
        Self {
            manifest: lab.manifest.clone(),
            roster: None,
            pages: vec![],
        }
    }

    pub(super) fn apply(&mut self, messages: &[(u64, ServerMessage)]) {
        for (_, message) in messages {
            match message {
                ServerMessage::Delta(delta) => {
                    let head = Head::verify(&delta.head, &self.manifest).unwrap();
                    let held = self.roster.as_ref().expect("a roster to change");
                    self.roster = Some(held.apply((**delta).clone(), head).unwrap());
                }
                ServerMessage::Page(page) => {
                    self.pages.push((**page).clone());
                    if self.pages.len() == usize::from(page.count) {
                        let pages = std::mem::take(&mut self.pages);
                        let (head, roster) = Page::join(pages).unwrap();
                        let head = Head::verify(&head, &self.manifest).unwrap();
                        self.roster = Some(roster.verify(head).unwrap());
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) fn members(&self) -> Vec<NodeId> {
        let roster = self.roster.as_ref().expect("a roster");
        roster.members().map(|m| m.node).collect()
    }
}
