//! What people ask for on the control socket, and how it is answered: inviting and renaming here, joining in
//! [`super::joins`], everything that changes a network in [`super::networks`].

use kanpachi_common::wire::control::{ClientMessage, MakeInvite, ServerMessage, SetName};
use tokio::sync::oneshot;

use super::{
    Core, Pending, Request,
    joins::Way,
    lookup::{is_owner, network_called},
    refusals::{logged_out, no_coordinator, nonsense, not_joined, not_taken, refused},
};
use crate::{
    clock,
    ipc::{
        api::{InviteReply, InviteRequest, NickReply, Secret, timestamp},
        error::{ApiError, code},
    },
};

/// Where the answer to a request goes.
pub(super) type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

impl Core {
    pub(super) async fn handle_request(&mut self, request: Request) {
        match request {
            Request::Status(reply) => self.tell_status(reply).await,
            Request::RelayName(relay, reply) => drop(reply.send(self.relay_name(&relay))),
            Request::Alive(reply) => drop(reply.send(())),
            Request::Join(invite, reply) => self.begin_join(Way::Invite(invite), reply).await,
            Request::Create(request, reply) => match Way::create(request) {
                Ok(way) => self.begin_join(way, reply).await,
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::JoinNetwork(request, reply) => match Way::password(request) {
                Ok(way) => self.begin_join(way, reply).await,
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::Change(request, reply) => self.change(request, reply).await,
            Request::SetLoggedIn(logged_in, reply) => {
                let result = self.set_logged_in(logged_in).await;
                let _ = reply.send(result);
            }
            Request::Invite(request, reply) => self.ask_invite(request, reply),
            Request::Drill(length, reply) => {
                let result = self.begin_drill(length).await;
                let _ = reply.send(result);
            }
            Request::CheckNetwork(reply) => self.check_for(reply),
            Request::NetworkFacts(reply) => drop(reply.send(Box::new(self.network_facts()))),
            Request::EndDrill(reply) => {
                let on = self.state.drill.is_some();
                self.end_drill().await;
                let _ = reply.send(on);
            }
            Request::SetNick(name, reply) => {
                let message = ClientMessage::SetName(SetName {
                    network: None,
                    name,
                });
                match self.ask(&message) {
                    Ok(id) => drop(self.state.pending.insert(id, Pending::SetNick(reply))),
                    Err(error) => drop(reply.send(Err(error))),
                }
            }
        }
    }

    /// Asks the coordinator; the number of the question, or why there is nobody to ask.
    pub(super) fn ask(&mut self, message: &ClientMessage) -> Result<u64, ApiError> {
        if self.state.logged_out {
            return Err(logged_out());
        }
        let session = self.state.session.as_mut();
        session
            .and_then(|s| {
                // Somebody waits for the answer, or for the word that there is none.
                s.login.look(clock::now());
                s.login.request(message)
            })
            .ok_or_else(no_coordinator)
    }

    /// The session ended: what was asked for will not be answered. A join is asked again by itself.
    pub(super) async fn fail_pending(&mut self) {
        for pending in std::mem::take(&mut self.state.pending).into_values() {
            self.fail(pending, no_coordinator()).await;
        }
    }

    /// A request did not get as far as the coordinator.
    pub(super) async fn fail_unsent(&mut self, id: u64) {
        match self.state.pending.remove(&id) {
            Some(Pending::Join) => self.finish_join(Err(not_taken())),
            Some(pending) => self.fail(pending, not_taken()).await,
            None => {}
        }
    }

    async fn fail(&mut self, pending: Pending, error: ApiError) {
        match pending {
            Pending::Join => {}
            Pending::Invite(_, reply) => drop(reply.send(Err(error))),
            Pending::SetNick(reply) => drop(reply.send(Err(error))),
            Pending::Change(about, reply) => self.change_alone(about, reply, error).await,
        }
    }

    fn ask_invite(&mut self, request: InviteRequest, reply: Reply<InviteReply>) {
        match self.invite_message(&request).and_then(|m| self.ask(&m)) {
            Ok(id) => {
                let pending = Pending::Invite(request, reply);
                self.state.pending.insert(id, pending);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn invite_message(&self, request: &InviteRequest) -> Result<ClientMessage, ApiError> {
        let rosters = self.rosters().ok_or_else(not_joined)?;
        let roster = network_called(rosters, &request.network)?;
        if !is_owner(roster, &self.me()) {
            let words = "only an owner of the network makes invites";
            return Err(ApiError::refused(code::REFUSED, words).hint("see who: kanpachi list"));
        }
        Ok(ClientMessage::MakeInvite(MakeInvite {
            network: roster.head().network,
            uses: Some(request.uses),
            expires_in: request.expires_s,
        }))
    }

    pub(super) fn answer_invite(
        request: InviteRequest,
        reply: Reply<InviteReply>,
        message: ServerMessage,
    ) {
        let result = match message {
            ServerMessage::InviteMade(made) => Ok(InviteReply {
                invite: Secret::new(made.link),
                network: request.network,
                uses: request.uses,
                expires_at: Some(timestamp(made.expires_at)),
            }),
            ServerMessage::Refused(refusal) => Err(refused(&refusal)),
            _ => Err(nonsense()),
        };
        let _ = reply.send(result);
    }

    pub(super) fn answer_nick(reply: Reply<NickReply>, message: ServerMessage) {
        let result = match message {
            ServerMessage::NameSet(set) => match set.names.first() {
                Some((_, name)) => Ok(NickReply { name: name.clone() }),
                None => Err(ApiError::refused(
                    code::NOT_JOINED,
                    "this machine is in no network yet",
                )),
            },
            ServerMessage::Refused(refusal) => Err(refused(&refusal)),
            _ => Err(nonsense()),
        };
        let _ = reply.send(result);
    }
}
