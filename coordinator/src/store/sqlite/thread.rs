//! The writer thread and the queue to it.

use std::thread::JoinHandle;

use async_trait::async_trait;
use kanpachi_common::{
    NetworkId, NodeId, Signed, UnixTime, Verified,
    org::{Directory, Server},
    roster::{Head, PublicRoster, VerifiedRoster},
    wire::control::{Held, Registration},
};
use tokio::sync::{mpsc, oneshot};

use super::{
    Engine, ends, invites, members, networks, nodes, organisation, owners, recovery, suspensions,
};
use crate::store::{
    Adopt, Adopted, BringSuspends, Changes, CreateNetwork, DeleteNetwork, EndRecovery, Evict,
    Evicted, InviteStored, JoinByPassword, JoinNetwork, JoinedNetwork, Leave, LoggedIn, Login,
    NamesSet, NetworkPassword, NetworkSummary, NewInvite, NewNetwork, Recovered, Recovery,
    RemoveMember, Result, Seen, SetAccess, SetName, SetPassword, SetRole, Settle, Store,
    StoreError,
};

/// Intents that wait for the thread; whoever brings one more waits for a place.
const QUEUE: usize = 128;

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// [`Store`] on SQLite. Everything goes through one thread, so no intent ever meets a locked database.
#[derive(Debug)]
pub struct SqliteStore {
    queue: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl SqliteStore {
    pub(super) fn start(mut engine: Engine) -> Result<Self> {
        let (queue, mut jobs) = mpsc::channel::<Job>(QUEUE);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || {
                while let Some(job) = jobs.blocking_recv() {
                    job(&mut engine);
                }
            })
            .map_err(|e| StoreError::Failed(e.to_string()))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    async fn run<T: Send + 'static>(
        &self,
        intent: impl FnOnce(&mut Engine) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (done, outcome) = oneshot::channel();
        let job: Job = Box::new(move |engine| {
            // Whoever asked may be gone; what was committed stays.
            let _ = done.send(intent(engine));
        });
        let queue = self.queue.as_ref().ok_or(StoreError::Closed)?;
        queue.send(job).await.map_err(|_| StoreError::Closed)?;
        outcome.await.map_err(|_| StoreError::Closed)?
    }

    /// Runs anything on the connection: for tests that break things.
    #[cfg(test)]
    pub(crate) fn with_connection<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut rusqlite::Connection) -> T + Send + 'static,
    ) -> T {
        futures::executor::block_on(self.run(|engine| Ok(f(&mut engine.opened.conn)))).unwrap()
    }
}

impl Drop for SqliteStore {
    /// Waits for the intents that are queued, at most [`QUEUE`] short transactions.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the thread was reported by whoever waited for its intent.
            let _ = thread.join();
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn create_network(&self, new: NewNetwork) -> Result<NetworkSummary> {
        self.run(move |e| e.change(|tx, s| networks::create(tx, s, &new)))
            .await
    }

    async fn networks(&self) -> Result<Vec<NetworkSummary>> {
        self.run(|e| e.read(networks::list)).await
    }

    async fn ended_networks(&self) -> Result<Vec<NetworkId>> {
        self.run(|e| e.read(|c, _| networks::ended(c))).await
    }

    async fn networks_of(&self, node: NodeId) -> Result<Vec<NetworkId>> {
        self.run(move |e| e.read(|c, _| networks::active_of_node(c, node)))
            .await
    }

    async fn login(&self, login: Login) -> Result<LoggedIn> {
        self.run(move |e| e.write(|tx, s| nodes::login(tx, s, &login)))
            .await
    }

    async fn create_invite(&self, new: NewInvite) -> Result<InviteStored> {
        self.run(move |e| e.change(|tx, s| invites::create(tx, s, &new)))
            .await
    }

    async fn join_network(&self, join: JoinNetwork) -> Result<JoinedNetwork> {
        self.run(move |e| e.change(|tx, s| members::join(tx, s, &join)))
            .await
    }

    async fn create_network_by(&self, create: CreateNetwork) -> Result<JoinedNetwork> {
        self.run(move |e| e.change(|tx, s| members::create_network(tx, s, &create)))
            .await
    }

    async fn password_of(&self, name: String) -> Result<Option<NetworkPassword>> {
        self.run(move |e| e.read(|c, _| owners::password_of(c, &name)))
            .await
    }

    async fn join_by_password(&self, join: JoinByPassword) -> Result<JoinedNetwork> {
        self.run(move |e| e.change(|tx, s| members::join_by_password(tx, s, &join)))
            .await
    }

    async fn leave(&self, leave: Leave) -> Result<Vec<NetworkId>> {
        self.run(move |e| e.change(|tx, s| ends::leave(tx, s, &leave)))
            .await
    }

    async fn delete_network(&self, delete: DeleteNetwork) -> Result<Vec<NetworkId>> {
        self.run(move |e| e.change(|tx, s| ends::delete(tx, s, &delete)))
            .await
    }

    async fn evict(&self, evict: Evict) -> Result<Evicted> {
        self.run(move |e| e.change(|tx, s| ends::evict(tx, s, &evict)))
            .await
    }

    async fn set_password(&self, set: SetPassword) -> Result<()> {
        self.run(move |e| e.change(|tx, _| owners::set_password(tx, &set)))
            .await
    }

    async fn set_access(&self, set: SetAccess) -> Result<Vec<NetworkId>> {
        self.run(move |e| e.change(|tx, s| owners::set_access(tx, s, &set)))
            .await
    }

    async fn settle(&self, settle: Settle) -> Result<Vec<NetworkId>> {
        self.run(move |e| e.change(|tx, s| owners::settle(tx, s, &settle)))
            .await
    }

    async fn set_role(&self, set: SetRole) -> Result<Vec<NetworkId>> {
        self.run(move |e| e.change(|tx, s| owners::set_role(tx, s, &set)))
            .await
    }

    async fn set_name(&self, set: SetName) -> Result<NamesSet> {
        self.run(move |e| e.change(|tx, s| members::set_name(tx, s, &set)))
            .await
    }

    async fn remove_member(&self, remove: RemoveMember) -> Result<()> {
        self.run(move |e| e.change(|tx, s| ends::remove(tx, s, &remove)))
            .await
    }

    async fn bring_suspends(&self, brought: BringSuspends) -> Result<Vec<NetworkId>> {
        self.run(move |e| e.write(|tx, s| suspensions::bring(tx, s, &brought)))
            .await
    }

    async fn see(&self, seen: Seen) -> Result<bool> {
        self.run(move |e| e.write(|tx, _| recovery::see(tx, &seen)))
            .await
    }

    async fn adopt(&self, adopt: Adopt) -> Result<Adopted> {
        self.run(move |e| e.write(|tx, s| recovery::adopt(tx, s, &adopt)))
            .await
    }

    async fn recovery(&self) -> Result<Option<Recovery>> {
        self.run(|e| e.read(|c, _| recovery::report(c))).await
    }

    async fn end_recovery(&self, end: EndRecovery) -> Result<Recovered> {
        self.run(move |e| e.write(|tx, s| recovery::end(tx, s, &end)))
            .await
    }

    async fn changes_since(&self, network: NetworkId, held: Vec<Held>) -> Result<Changes> {
        self.run(move |e| e.read(|c, s| networks::changes_since(c, s, network, &held)))
            .await
    }

    async fn roster(&self, network: NetworkId) -> Result<VerifiedRoster> {
        self.run(move |e| e.read(|c, s| networks::roster(c, s, network)))
            .await
    }

    async fn registration(&self, node: NodeId) -> Result<Option<Registration>> {
        self.run(move |e| e.read(|c, s| nodes::find(c, s, node)))
            .await
    }

    async fn renew_heads(&self, older_than: UnixTime, now: UnixTime) -> Result<Vec<NetworkId>> {
        self.run(move |e| e.change(|tx, s| networks::renew(tx, s, older_than, now)))
            .await
    }

    async fn newest_head(&self, network: NetworkId) -> Result<Option<Verified<Head>>> {
        self.run(move |e| e.read(|c, s| networks::head(c, s, network)))
            .await
    }

    async fn public_roster(&self, network: NetworkId) -> Result<PublicRoster> {
        self.run(move |e| e.read(|c, s| networks::public_roster(c, s, network)))
            .await
    }

    async fn publish_directory(
        &self,
        coordinators: Vec<Server>,
        bootstraps: Vec<Server>,
        floor: u64,
        now: UnixTime,
    ) -> Result<Signed<Directory>> {
        self.run(move |e| {
            e.write(|tx, s| organisation::publish(tx, s, coordinators, bootstraps, floor, now))
        })
        .await
    }
}
