//! What people ask for on the control socket: joining, inviting, renaming.

use std::time::Instant;

use kanpachi_common::{
    invite::Invite,
    roster::Caps,
    wire::control::{
        ClientMessage, Join, Joined, MakeInvite, Refused, ServerMessage, SetName, codes,
    },
};
use kanpachi_proto::login::Trouble;
use tokio::sync::oneshot;

use super::{Core, JOIN_LIMIT, JOIN_PATIENCE, Joining, Pending, Request};
use crate::ipc::{
    api::{InviteReply, InviteRequest, JoinReply, NickReply, Secret, timestamp},
    error::{ApiError, code},
};

type Reply<T> = oneshot::Sender<Result<T, ApiError>>;

/// A refusal of the coordinator, for people.
fn refused(refused: &Refused) -> ApiError {
    let words = refused
        .message
        .chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>();
    match refused.code {
        codes::INVITE_USED => ApiError::refused(code::INVITE_USED, "the invite was used already")
            .hint("ask for a new one: kanpachi invite NETWORK, on a machine that is in"),
        codes::INVITE_EXPIRED => ApiError::refused(code::INVITE_EXPIRED, "the invite has expired")
            .hint("ask for a new one: kanpachi invite NETWORK, on a machine that is in"),
        codes::INVITE_UNKNOWN => ApiError::refused(
            code::INVITE_UNKNOWN,
            "the coordinator does not know this invite: it was withdrawn or never made",
        )
        .hint("ask for a new one: kanpachi invite NETWORK, on a machine that is in"),
        codes::OTHER_ORG => ApiError::refused(code::OTHER_ORGANISATION, words).hint(
            "the coordinator was probably set up anew; ask for an invite to the new organisation",
        ),
        codes::VERSION => ApiError::refused(code::PROTOCOL_VERSION, words)
            .hint("update Kanpachi on the older of the two machines"),
        codes::BUSY => ApiError::refused(code::BUSY, words).hint("try again in a minute"),
        codes::BAD_NAME => ApiError::refused(code::BAD_NAME, words),
        _ => ApiError::refused(code::REFUSED, words),
    }
}

fn no_coordinator() -> ApiError {
    ApiError::unreachable(
        code::COORDINATOR_UNREACHABLE,
        "no coordinator answers right now, and only it can do this",
    )
    .hint("see why: kanpachi status")
}

impl Core {
    pub(super) async fn handle_request(&mut self, request: Request) {
        match request {
            Request::Status(reply) => {
                let status = self.status().await;
                let _ = reply.send(status);
            }
            Request::Join(invite, reply) => self.begin_join(invite, reply).await,
            Request::Invite(request, reply) => self.ask_invite(request, reply),
            Request::SetNick(name, reply) => {
                let message = ClientMessage::SetName(SetName {
                    network: None,
                    name,
                });
                match self.ask(&message) {
                    Some(id) => drop(self.state.pending.insert(id, Pending::SetNick(reply))),
                    None => drop(reply.send(Err(no_coordinator()))),
                }
            }
        }
    }

    fn ask(&mut self, message: &ClientMessage) -> Option<u64> {
        self.state.session.as_mut()?.login.request(message)
    }

    async fn begin_join(&mut self, invite: Box<Invite>, reply: Reply<JoinReply>) {
        if self.state.joining.is_some() {
            return drop(
                reply.send(Err(ApiError::refused(
                    code::BUSY,
                    "another join is under way",
                )
                .hint("try again when it is done"))),
            );
        }
        match self.org() {
            Some(org) if org != invite.org => {
                let message = "this machine belongs to another organisation than the invite is for";
                let hint = "one daemon serves one organisation: start a second one with its own --state-dir, --socket and --interface";
                return drop(reply.send(Err(
                    ApiError::refused(code::OTHER_ORGANISATION, message).hint(hint),
                )));
            }
            Some(_) => {}
            None => {
                if let Err(error) = self
                    .begin_session(invite.org, invite.addresses.clone())
                    .await
                {
                    return drop(reply.send(Err(error)));
                }
            }
        }
        if let Some(session) = &mut self.state.session {
            session.rosters.set_floor(invite.network, invite.floor);
        }
        self.state.joining = Some(Joining {
            invite,
            reply,
            deadline: Instant::now() + JOIN_PATIENCE,
            joined: None,
        });
        self.send_join();
    }

    /// Shows the invite to the coordinator, as soon as there is one.
    pub(super) fn send_join(&mut self) {
        let Some(joining) = &self.state.joining else {
            return;
        };
        if joining.joined.is_some() {
            return;
        }
        let message = ClientMessage::Join(Join {
            token: joining.invite.secret.token(),
            name: self.name.clone(),
        });
        if let Some(id) = self.ask(&message) {
            self.state.pending.insert(id, Pending::Join);
            if let Some(joining) = &mut self.state.joining {
                joining.deadline = Instant::now() + JOIN_LIMIT;
            }
        }
    }

    /// The coordinator let this machine in: from here on it belongs to the organisation.
    pub(super) async fn handle_joined(&mut self, joined: Joined) {
        let Some(joining) = &mut self.state.joining else {
            return;
        };
        if joined.network != joining.invite.network {
            let error = ApiError::refused(
                code::REFUSED,
                "the coordinator let this machine into another network than the invite names",
            );
            return self.finish_join(Err(error));
        }
        joining.joined = Some((joined.network, joined.name.clone()));
        let (org, floor, network) = (joining.invite.org, joining.invite.floor, joined.network);
        let hints = self
            .state
            .session
            .as_ref()
            .map(|s| s.hints.clone())
            .unwrap_or_default();
        let stored = self
            .db
            .set_org(&org, &hints)
            .and_then(|()| self.db.set_floor(&network, floor));
        if let Err(error) = stored {
            return self.finish_join(Err(error));
        }
        if let Some((manifest, directory)) = self.state.offered.take() {
            self.take_keys(&manifest, &directory);
        }
        self.take_registration(&joined.registration).await;
        // What was pushed before the keys counted is asked for again.
        self.pull();
    }

    /// Is the join complete, or hopeless?
    pub(super) fn check_join(&mut self, now: Instant) {
        let Some(joining) = &self.state.joining else {
            return;
        };
        if let Some((network, name)) = &joining.joined {
            let member = self
                .state
                .session
                .as_ref()
                .and_then(|s| s.rosters.roster(network))
                .is_some_and(|r| r.member(&self.me()).is_some());
            if member && self.state.adapter.is_some() {
                let name = name.clone();
                let reply = self.join_reply(name);
                return self.finish_join(Ok(reply));
            }
        }
        if joining.deadline <= now {
            let error = if joining.joined.is_some() {
                ApiError::failed(
                    code::FAILED,
                    "the coordinator let this machine in, but did not send the list of members",
                )
                .hint("start it again with: kanpachi up")
            } else {
                let why = self
                    .state
                    .last_error
                    .clone()
                    .unwrap_or_else(|| "it does not answer".into());
                ApiError::unreachable(
                    code::COORDINATOR_UNREACHABLE,
                    format_args!("cannot reach the coordinator: {why}"),
                )
                .hint("is it running, and is its port open?")
            };
            self.finish_join(Err(error));
        }
    }

    /// What `join` and `up` print.
    pub(super) fn join_reply(&self, name: String) -> JoinReply {
        let networks = self
            .state
            .session
            .iter()
            .flat_map(|s| s.rosters.rosters())
            .map(|r| r.settings().name.clone())
            .collect();
        let adapter = self.state.adapter.as_ref();
        use crate::platform::Adapter as _;
        JoinReply {
            name,
            ipv4: adapter.and_then(|a| a.ipv4()).map(|(a, _)| a),
            ipv6: adapter.and_then(|a| a.ipv6()).map(|(a, _)| a),
            networks,
            waiting: vec![],
        }
    }

    pub(super) fn finish_join(&mut self, result: Result<JoinReply, ApiError>) {
        let Some(joining) = self.state.joining.take() else {
            return;
        };
        if result.is_err() && !self.is_registered() {
            // Nothing was stored yet: another invite may be for another organisation.
            self.end_session();
        }
        let _ = joining.reply.send(result);
    }

    /// The coordinator says no to the hello or to the invite.
    pub(super) fn join_refused(&mut self, refusal: &Refused) {
        if self
            .state
            .joining
            .as_ref()
            .is_some_and(|j| j.joined.is_none())
        {
            self.finish_join(Err(refused(refusal)));
        }
    }

    /// A round of dials went by. Somebody else's coordinator is a final answer; silence is not yet.
    pub(super) fn join_trouble(&mut self, trouble: &Trouble) {
        if self.state.joining.is_none() {
            return;
        }
        match trouble {
            Trouble::OtherOrganisation(_) => {
                let error = ApiError::refused(code::OTHER_ORGANISATION, trouble)
                    .hint("ask for an invite to the new organisation");
                self.finish_join(Err(error));
            }
            Trouble::NotACoordinator(_) | Trouble::Protocol { .. } | Trouble::NoAddress => {
                self.finish_join(Err(ApiError::refused(code::REFUSED, trouble)));
            }
            Trouble::NoAnswer { .. } | Trouble::Silent(_) | Trouble::Closed(_) => {}
        }
    }

    /// The session ended: what was asked for will not be answered. A join is asked again by itself.
    pub(super) fn fail_pending(&mut self) {
        for pending in std::mem::take(&mut self.state.pending).into_values() {
            match pending {
                Pending::Join => {}
                Pending::Invite(_, reply) => drop(reply.send(Err(no_coordinator()))),
                Pending::SetNick(reply) => drop(reply.send(Err(no_coordinator()))),
            }
        }
    }

    fn ask_invite(&mut self, request: InviteRequest, reply: Reply<InviteReply>) {
        let Some(session) = &self.state.session else {
            return drop(
                reply.send(Err(ApiError::refused(
                    code::NOT_JOINED,
                    "this machine is in no network yet",
                )
                .hint("join one: kanpachi join INVITE; or host one: kanpachi host"))),
            );
        };
        let fold = kanpachi_common::name::fold(&request.network);
        let Some(roster) = session
            .rosters
            .rosters()
            .find(|r| kanpachi_common::name::fold(&r.settings().name) == fold)
        else {
            let error = ApiError::refused(
                code::UNKNOWN_NETWORK,
                format_args!("this machine is in no network called {:?}", request.network),
            )
            .hint("see which: kanpachi list");
            return drop(reply.send(Err(error)));
        };
        if !roster
            .member(&self.me())
            .is_some_and(|me| me.caps.has(Caps::OWNER))
        {
            let error =
                ApiError::refused(code::REFUSED, "only an owner of the network makes invites")
                    .hint("see who: kanpachi list");
            return drop(reply.send(Err(error)));
        }
        let network = roster.head().network;
        let message = ClientMessage::MakeInvite(MakeInvite {
            network,
            uses: Some(request.uses),
            expires_in: request.expires_s,
        });
        match self.ask(&message) {
            Some(id) => drop(
                self.state
                    .pending
                    .insert(id, Pending::Invite(request, reply)),
            ),
            None => drop(reply.send(Err(no_coordinator()))),
        }
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
            _ => Err(ApiError::failed(
                code::FAILED,
                "the coordinator gave an answer that makes no sense",
            )),
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
            _ => Err(ApiError::failed(
                code::FAILED,
                "the coordinator gave an answer that makes no sense",
            )),
        };
        let _ = reply.send(result);
    }
}
