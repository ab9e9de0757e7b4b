//! The coordinator of a simulation: the real decisions over the real store, which is its disk and survives it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::OnceLock,
    time::{Duration, Instant},
};

use futures::executor::block_on;
use kanpachi_common::{
    NetworkId, NodeId, OrgId, Password, Pool, SecretKey, Signed, UnixTime,
    id::Hash,
    invite::{Invite, InviteSecret, token_hash},
    org::{Address, Manifest, Server},
    roster::Head,
    secret::NetworkSecret,
    time::DAY,
    wire::frame::{FrameReader, MAX_REQUEST},
};
use kanpachi_coordinator::{
    decide::{self, Config, Core, Event, Now, Output, Remote, SessionId},
    org::{Organisation, SealedRoot},
    password::Passwords,
    store::{
        self, NewInvite, NewNetwork, PasswordHash, RemoveMember, Store as _,
        sqlite::{Database, OrgRow, SqliteStore},
    },
};

use super::{
    clock::{Clock, Wall},
    net::{End, Item, LineId, Net},
};
use crate::rng::Rng;

/// How often heads are looked at, and how old one may be before it is renewed, in seconds.
const RENEWAL: Duration = Duration::from_secs(3600);
const RENEW_AFTER: u64 = 20 * 3600;

/// A coordinator at its address.
#[derive(Debug)]
pub struct Coordinator {
    pub addr: SocketAddr,
    pub wall: Wall,
    /// Its one network.
    pub network: NetworkId,
    /// What survives.
    pub store: SqliteStore,
    organisation: Organisation,
    process: Option<Process>,
    /// Counts processes.
    lives: u64,
    rng: Rng,
}

#[derive(Debug)]
struct Process {
    core: Core,
    lines: BTreeMap<SessionId, LineId>,
    sessions: BTreeMap<LineId, (SessionId, FrameReader)>,
    next_session: u64,
    next_renewal: Instant,
}

/// Passwords that are hashed fast: nobody attacks a simulation.
#[derive(Debug)]
struct Cheap;

#[async_trait::async_trait]
impl Passwords for Cheap {
    async fn hash(&self, password: Password) -> store::Result<PasswordHash> {
        let hash = Hash::of(&[password.expose().as_bytes()]);
        Ok(PasswordHash(hash.to_string()))
    }

    async fn verify(
        &self,
        password: Password,
        stored: Option<PasswordHash>,
    ) -> store::Result<bool> {
        let hash = self.hash(password).await?;
        Ok(stored.is_some_and(|stored| stored == hash))
    }
}

/// Sealing a root key costs what it should cost an attacker. Nothing here opens it, so one is enough for all.
fn sealed_root() -> SealedRoot {
    static SEALED: OnceLock<SealedRoot> = OnceLock::new();
    let make = || {
        let mut database = Database::in_memory().expect("SQLite opens a database in memory");
        let organisation = Organisation::open(&mut database, None, UnixTime(1));
        organisation
            .expect("an empty database takes an organisation")
            .sealed_root
    };
    SEALED.get_or_init(make).clone()
}

/// An organisation whose keys follow from the generator.
fn organisation(database: &mut Database, now: UnixTime, rng: &mut Rng) -> Organisation {
    let mut seed = || {
        let mut seed = [0; 32];
        rng.fill(&mut seed);
        SecretKey::from_seed(&seed)
    };
    let (root, signing, server) = (seed(), seed(), seed());
    let manifest = Manifest {
        root: root.public_key(),
        generation: 1,
        signing_keys: vec![signing.public_key()],
        issued_at: now,
        ext: vec![],
    };
    let row = OrgRow {
        manifest: Signed::sign(&manifest, &root),
        signing_seed: signing.seed(),
        server_seed: server.seed(),
        sealed_root: sealed_root(),
        pool: Pool::default(),
    };
    let made = database.create_organisation(&row, now);
    made.expect("an empty database takes an organisation");
    Organisation::open(database, None, now).expect("what was written reads back")
}

impl Coordinator {
    /// A new organisation with one network. Nothing runs yet.
    ///
    /// `lifetime`: seconds from signing a head to its soft and hard expiry.
    pub fn new(addr: SocketAddr, lifetime: (u64, u64), clock: &Clock, mut rng: Rng) -> Self {
        let wall = Wall::default();
        let now = wall.read(clock);
        let mut database = Database::in_memory().expect("SQLite opens a database in memory");
        let organisation = organisation(&mut database, now, &mut rng);
        let store = database
            .into_store(organisation.signer.clone())
            .expect("the system gives a thread");
        let (mut network, mut secret) = ([0; 32], [0; 32]);
        rng.fill(&mut network);
        rng.fill(&mut secret);
        let network = NetworkId(network);
        let new = NewNetwork {
            network,
            name: "lan".to_owned(),
            secret: NetworkSecret::new(1, secret),
            soft_seconds: lifetime.0,
            hard_seconds: Some(lifetime.1),
            now,
        };
        block_on(store.create_network(new)).expect("the first network");
        Self {
            addr,
            wall,
            network,
            store,
            organisation,
            process: None,
            lives: 0,
            rng,
        }
    }

    pub fn org(&self) -> OrgId {
        self.organisation.org()
    }

    /// Its libp2p identity.
    pub fn id(&self) -> NodeId {
        self.organisation.identity.node_id()
    }

    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn now(&self, clock: &Clock) -> Now {
        Now {
            at: clock.now(),
            wall: self.wall.read(clock),
        }
    }

    fn address(&self) -> Address {
        Address::new(self.addr.ip().to_string(), self.addr.port())
    }

    /// Starts the process. Returns its number.
    pub fn start(&mut self, clock: &Clock) -> u64 {
        let now = self.now(clock);
        let servers = vec![Server {
            id: self.id(),
            addresses: vec![self.address()],
        }];
        let directory = self.store.publish_directory(servers, vec![], 0, now.wall);
        let config = Config {
            manifest: self.organisation.signer.manifest().signed().clone(),
            directory: block_on(directory).expect("the directory is signed"),
            org: self.org(),
            pool: self.organisation.signer.pool(),
            addresses: vec![self.address()],
        };
        let mut seed = [0; 32];
        self.rng.fill(&mut seed);
        self.lives += 1;
        self.process = Some(Process {
            core: Core::new(config, seed, now),
            lines: BTreeMap::new(),
            sessions: BTreeMap::new(),
            next_session: 0,
            next_renewal: now.at,
        });
        self.lives
    }

    /// Ends the process without a word.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Makes an invite, as the operator.
    pub fn invite(&mut self, uses: Option<u32>, clock: &Clock) -> Invite {
        self.make_invite(uses, false, clock)
    }

    /// Makes an invite for whoever is to own the network.
    pub fn founder_invite(&mut self, clock: &Clock) -> Invite {
        self.make_invite(Some(1), true, clock)
    }

    fn make_invite(&mut self, uses: Option<u32>, founder: bool, clock: &Clock) -> Invite {
        let mut secret = InviteSecret([0; 16]);
        self.rng.fill(&mut secret.0);
        let now = self.wall.read(clock);
        let new = NewInvite {
            network: self.network,
            by: None,
            token_hash: token_hash(&secret.token()),
            uses,
            expires_at: now.plus(7 * DAY),
            founder,
            now,
        };
        let stored = block_on(self.store.create_invite(new)).expect("the invite is stored");
        Invite {
            org: self.org(),
            network: self.network,
            floor: stored.floor,
            secret,
            addresses: vec![self.address()],
            name: stored.network_name,
        }
    }

    /// Ends a membership, as the operator. The members are told when the coordinator is [driven](Self::drive).
    pub fn remove(&mut self, node: NodeId, clock: &Clock) {
        let mut secret = [0; 32];
        self.rng.fill(&mut secret);
        let remove = RemoveMember {
            network: self.network,
            node,
            by: None,
            secret,
            now: self.wall.read(clock),
        };
        block_on(self.store.remove_member(remove)).expect("the node was a member");
        self.changed();
    }

    /// The roster changed without the core knowing.
    pub fn changed(&mut self) {
        if let Some(process) = &mut self.process {
            process.core.handle_changed(self.network);
        }
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let process = self.process.as_ref()?;
        let renewal = Some(process.next_renewal);
        [process.core.poll_timeout(), renewal]
            .into_iter()
            .flatten()
            .min()
    }

    /// Time passed.
    pub fn handle_timeout(&mut self, clock: &Clock) {
        let now = self.now(clock);
        let Some(process) = &mut self.process else {
            return;
        };
        process.core.handle_timeout(now);
        if process.next_renewal <= now.at {
            process.next_renewal = now.at + RENEWAL;
            self.renew(RENEW_AFTER, clock);
        }
    }

    /// Signs a head as whoever stole the signing key could.
    pub fn sign(&self, head: &Head) -> Signed<Head> {
        self.organisation.signer.head(head)
    }

    /// Signs heads again that are older than so many seconds.
    pub fn renew(&mut self, age: u64, clock: &Clock) {
        let wall = self.wall.read(clock);
        let older = UnixTime(wall.0.saturating_sub(age));
        let renewed = block_on(self.store.renew_heads(older, wall));
        for network in renewed.expect("heads are renewed") {
            if let Some(process) = &mut self.process {
                process.core.handle_changed(network);
            }
        }
    }

    /// A node dialled.
    pub fn handle_open(&mut self, line: LineId, node: NodeId, from: SocketAddr, clock: &Clock) {
        let now = self.now(clock);
        let Some(process) = &mut self.process else {
            return;
        };
        let id = SessionId(process.next_session);
        process.next_session += 1;
        process.lines.insert(id, line);
        (process.sessions).insert(line, (id, FrameReader::new(MAX_REQUEST)));
        let remote = Remote {
            ip: Some(from.ip()),
            udp: Some(from),
        };
        process.core.handle_open(id, node, remote, now);
    }

    /// Bytes came from a node.
    pub fn handle_bytes(&mut self, line: LineId, bytes: &[u8], clock: &Clock) {
        let now = self.now(clock);
        let Some(process) = &mut self.process else {
            return;
        };
        let Some((id, reader)) = process.sessions.get_mut(&line) else {
            return;
        };
        reader.extend(bytes);
        loop {
            match reader.next_frame() {
                Ok(Some(frame)) => process.core.handle_frame(*id, &frame, now),
                Ok(None) => return,
                Err(error) => return process.core.handle_garbage(*id, &error.to_string()),
            }
        }
    }

    /// So many bytes arrived at a node.
    pub fn handle_sent(&mut self, line: LineId, bytes: usize, clock: &Clock) {
        let now = self.now(clock);
        if let Some(process) = &mut self.process
            && let Some((id, _)) = process.sessions.get(&line)
        {
            process.core.handle_sent(*id, bytes, now);
        }
    }

    /// A stream ended.
    pub fn handle_closed(&mut self, line: LineId) {
        if let Some(process) = &mut self.process
            && let Some((id, _)) = process.sessions.remove(&line)
        {
            process.lines.remove(&id);
            process.core.handle_closed(id);
        }
    }

    /// Carries out what the core wants, until it wants nothing more; returns what happened.
    pub fn drive(&mut self, net: &mut Net, clock: &Clock) -> Vec<Event> {
        let now = self.now(clock);
        let mut events = Vec::new();
        let Some(process) = &mut self.process else {
            return events;
        };
        loop {
            if let Some((id, intent)) = process.core.poll_intent() {
                let outcome = block_on(decide::run(&self.store, &Cheap, intent));
                process.core.handle_outcome(id, outcome, now);
            } else if let Some(output) = process.core.poll_output() {
                match output {
                    Output::Send(id, bytes) => {
                        if let Some(line) = process.lines.get(&id) {
                            let item = Item::Bytes(bytes.to_vec());
                            net.put(*line, End::Node, item, clock.elapsed());
                        }
                    }
                    Output::Close(id) => {
                        if let Some(line) = process.lines.remove(&id) {
                            process.sessions.remove(&line);
                            net.put(line, End::Node, Item::Fin, clock.elapsed());
                        }
                    }
                    Output::Event(event) => events.push(event),
                }
            } else {
                return events;
            }
        }
    }

    /// Where the coordinator is.
    pub fn ip(&self) -> IpAddr {
        self.addr.ip()
    }
}
