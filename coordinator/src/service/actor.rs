//! The one task that owns the core: inputs in, outputs out, intents to the store and back.

use std::{collections::BTreeMap, sync::Arc};

use futures::{
    StreamExt as _,
    future::BoxFuture,
    io::{AsyncRead, AsyncWrite},
    stream::FuturesUnordered,
};
use kanpachi_common::{
    NetworkId, NodeId, Signed,
    org::{Address, Directory},
    wire::frame::Frame,
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{complaints::Complaints, notices::Notices, stream};
use crate::{
    clock,
    decide::{self, Core, Event, IntentId, Outcome, Output, Remote, SessionId},
    password::Passwords,
    store::{IN_RECOVERY, Store, StoreError},
};

/// Intents at the store at once; the rest waits in the core.
const MAX_RUNNING: usize = 64;
/// Inputs that wait for the actor; whoever brings one more waits.
pub(super) const INPUTS: usize = 1024;

/// Anything that a session is carried by.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Carrier for T {}

/// What the actor is told.
pub(super) enum Input {
    Open(NodeId, Remote, Box<dyn Carrier>),
    Frame(SessionId, Frame),
    Garbage(SessionId, String),
    Closed(SessionId),
    Sent(SessionId, usize),
    Changed(NetworkId),
    Directory(Box<Signed<Directory>>, Vec<Address>),
    Recovery(String),
}

type Running = BoxFuture<'static, (IntentId, Result<Outcome, StoreError>)>;

pub(super) struct Actor {
    pub(super) core: Core,
    pub(super) store: Arc<dyn Store>,
    pub(super) passwords: Arc<dyn Passwords>,
    pub(super) inputs: mpsc::Receiver<Input>,
    /// For the tasks of new sessions.
    pub(super) sender: mpsc::WeakSender<Input>,
    pub(super) notices: Arc<Notices>,
    pub(super) online: watch::Sender<usize>,
    pub(super) recovery: watch::Sender<Option<String>>,
    pub(super) claims: Complaints,
    pub(super) guesses: Complaints,
    pub(super) failures: Complaints,
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

impl Actor {
    pub(super) async fn run(mut self) {
        let mut running: FuturesUnordered<Running> = FuturesUnordered::new();
        let mut writers: BTreeMap<SessionId, stream::Writer> = BTreeMap::new();
        let mut next_session = 0;
        loop {
            while running.len() < MAX_RUNNING
                && let Some((id, intent)) = self.core.poll_intent()
            {
                let (store, passwords) = (Arc::clone(&self.store), Arc::clone(&self.passwords));
                running.push(Box::pin(async move {
                    (id, decide::run(&*store, &*passwords, intent).await)
                }));
            }
            while let Some(output) = self.core.poll_output() {
                self.put_out(output, &mut writers);
            }
            let timeout = self.core.poll_timeout();
            let tick = async {
                match timeout {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                Some((id, outcome)) = running.next() => {
                    self.core.handle_outcome(id, outcome, clock::now());
                }
                () = tick => self.core.handle_timeout(clock::now()),
                input = self.inputs.recv() => match input {
                    Some(Input::Open(node, remote, carrier)) => {
                        let id = SessionId(next_session);
                        next_session += 1;
                        if let Some(sender) = self.sender.upgrade() {
                            let writer = stream::start(id, carrier, sender, &self.tasks, &self.stop);
                            writers.insert(id, writer);
                            self.core.handle_open(id, node, remote, clock::now());
                        }
                    }
                    Some(input) => self.take(input, &mut writers),
                    None => break,
                },
            }
        }
    }

    fn take(&mut self, input: Input, writers: &mut BTreeMap<SessionId, stream::Writer>) {
        match input {
            // Handled by the loop, which counts sessions.
            Input::Open(..) => {}
            Input::Frame(id, frame) => self.core.handle_frame(id, &frame, clock::now()),
            Input::Garbage(id, why) => self.core.handle_garbage(id, &why),
            Input::Closed(id) => {
                writers.remove(&id);
                self.core.handle_closed(id);
            }
            Input::Sent(id, bytes) => self.core.handle_sent(id, bytes, clock::now()),
            Input::Changed(network) => self.core.handle_changed(network),
            Input::Directory(directory, addresses) => {
                self.core.handle_directory(*directory, addresses);
            }
            Input::Recovery(why) => self.core.handle_recovery(why),
        }
    }

    fn put_out(&mut self, output: Output, writers: &mut BTreeMap<SessionId, stream::Writer>) {
        match output {
            Output::Send(id, bytes) => {
                if let Some(writer) = writers.get(&id) {
                    writer.send(bytes);
                }
            }
            // Dropping the writer's queue lets it finish what is in it.
            Output::Close(id) => drop(writers.remove(&id)),
            Output::Event(event) => self.report(event),
        }
    }

    fn report(&mut self, event: Event) {
        let now = clock::now().at;
        match event {
            Event::LoggedIn(node) => tracing::info!(node = %node.short(), "a node is online"),
            Event::LoggedOut(node) => tracing::info!(node = %node.short(), "a node is gone"),
            Event::Changed(network) => {
                tracing::debug!(network = %network.short(), "a roster changed");
                self.notices.changed(network);
            }
            Event::ClaimsNewer(node, network) => {
                if let Some(times) = self.claims.count(now) {
                    tracing::warn!(node = %node.short(), network = %network.short(), times,
                        "a node claims a newer roster than the store has");
                }
                self.notices.claims_newer(node, network);
            }
            Event::Recovery => {
                tracing::error!("{IN_RECOVERY}");
                self.recovery.send_replace(Some(IN_RECOVERY.to_owned()));
            }
            Event::Adopted(node, network) => {
                tracing::warn!(node = %node.short(), network = %network.short(),
                    "a member showed a newer roster than was stored; it was taken over");
            }
            Event::Guess(node, _) => {
                if let Some(times) = self.guesses.count(now) {
                    tracing::warn!(node = %node.short(), times,
                        "a join was refused: no such invite, a wrong password, or too many attempts");
                }
            }
            Event::StoreFailed(error) => {
                if let Some(times) = self.failures.count(now) {
                    tracing::error!(%error, times, "the store failed");
                }
            }
        }
        self.online.send_replace(self.core.online());
    }
}
