//! Joining: by an invite, by a password, or by making the network. All three go on until the roster is here, and are
//! asked again by themselves when the session with the coordinator is lost in between.

use std::time::{Duration, Instant};

use kanpachi_common::{
    NetworkId, Password,
    invite::Invite,
    name::fold,
    roster::Caps,
    wire::{
        control::{ClientMessage, Join, Joined, Refused},
        membership::{CreateNetwork, JoinByPassword, Waiting},
    },
};
use kanpachi_proto::login::Trouble;

use super::{
    Core, Pending,
    refusals::{logged_out, not_joined, refused},
    requests::Reply,
};
use crate::{
    clock,
    ipc::{
        api::{JoinReply, NetworkRequest, Secret},
        error::{ApiError, ExitCode, code},
    },
    platform::Adapter as _,
};

/// A join that no coordinator answers is given up after this.
const PATIENCE: Duration = Duration::from_secs(12);
/// After a login, a join and everything behind it is given up after this.
const LIMIT: Duration = Duration::from_secs(30);

/// How somebody joins.
#[derive(Debug)]
pub(super) enum Way {
    /// By an invite.
    Invite(Box<Invite>),
    /// By making the network, under an id that stays the same however often it is asked for.
    Create {
        network: NetworkId,
        name: String,
        password: Option<Password>,
    },
    /// By its password.
    Password { network: String, password: Password },
}

/// A join under way.
#[derive(Debug)]
pub(super) struct Joining {
    way: Way,
    reply: Reply<JoinReply>,
    pub(super) deadline: Instant,
    /// The network and the name that the coordinator gave; from then on only the roster is waited for.
    joined: Option<(NetworkId, String)>,
}

fn password(secret: &Secret) -> Result<Password, ApiError> {
    Password::new(secret.expose()).map_err(ApiError::usage)
}

/// A name of a network as it is sent.
fn network_name(name: &str) -> Result<String, ApiError> {
    kanpachi_common::name::check(name)
        .map_err(|e| ApiError::new(ExitCode::Usage, code::BAD_NAME, e))
}

impl Way {
    /// A new network.
    pub(super) fn create(request: NetworkRequest) -> Result<Self, ApiError> {
        let mut id = [0; 32];
        getrandom::fill(&mut id).map_err(|e| {
            let words = format_args!("the system gives no random numbers: {e}");
            ApiError::failed(code::FAILED, words)
        })?;
        Ok(Self::Create {
            network: NetworkId(id),
            name: network_name(&request.network)?,
            password: request.password.as_ref().map(password).transpose()?,
        })
    }

    /// A network that takes passwords.
    pub(super) fn password(request: NetworkRequest) -> Result<Self, ApiError> {
        let Some(secret) = &request.password else {
            return Err(ApiError::usage("a password is needed")
                .hint("without one a network is joined by an invite: kanpachi join INVITE"));
        };
        Ok(Self::Password {
            network: network_name(&request.network)?,
            password: password(secret)?,
        })
    }

    fn message(&self, name: String) -> ClientMessage {
        match self {
            Self::Invite(invite) => ClientMessage::Join(Join {
                token: invite.secret.token(),
                name,
            }),
            Self::Create {
                network,
                name: network_name,
                password,
            } => ClientMessage::CreateNetwork(CreateNetwork {
                network: *network,
                name: network_name.clone(),
                password: password.clone(),
                member_name: name,
            }),
            Self::Password { network, password } => ClientMessage::JoinByPassword(JoinByPassword {
                network: network.clone(),
                password: password.clone(),
                member_name: name,
            }),
        }
    }

    /// Is this where it should lead?
    fn leads_to(&self, joined: &Joined) -> bool {
        match self {
            Self::Invite(invite) => invite.network == joined.network,
            Self::Create { network, .. } => *network == joined.network,
            Self::Password { network, .. } => fold(network) == fold(&joined.network_name),
        }
    }
}

impl Core {
    pub(super) async fn begin_join(&mut self, way: Way, reply: Reply<JoinReply>) {
        if let Err(error) = self.prepare_join(&way).await {
            return drop(reply.send(Err(error)));
        }
        self.state.joining = Some(Joining {
            way,
            reply,
            deadline: clock::now() + PATIENCE,
            joined: None,
        });
        self.send_join();
    }

    /// What this node knows itself of why a join is none, and what it needs to begin one.
    async fn prepare_join(&mut self, way: &Way) -> Result<(), ApiError> {
        if self.state.logged_out {
            return Err(logged_out());
        }
        if self.state.joining.is_some() {
            let error = ApiError::refused(code::BUSY, "another join is under way");
            return Err(error.hint("try again when it is done"));
        }
        match way {
            Way::Invite(invite) => self.prepare_invite(invite).await,
            Way::Create { .. } if self.is_registered() => Ok(()),
            Way::Password { network, .. } if self.is_registered() => self.is_new(network),
            Way::Create { .. } | Way::Password { .. } => Err(not_joined()),
        }
    }

    async fn prepare_invite(&mut self, invite: &Invite) -> Result<(), ApiError> {
        match self.org() {
            Some(org) if org != invite.org => {
                let message = "this machine belongs to another organisation than the invite is for";
                let hint = "one daemon serves one organisation: start a second one with its own --state-dir, --socket and --interface";
                return Err(ApiError::refused(code::OTHER_ORGANISATION, message).hint(hint));
            }
            Some(_) => {}
            None => {
                self.begin_session(invite.org, invite.addresses.clone())
                    .await?;
            }
        }
        if let Some(session) = &mut self.state.session {
            session.rosters.set_floor(invite.network, invite.floor);
        }
        Ok(())
    }

    /// Nobody joins what it is in already, or waits for already.
    fn is_new(&self, network: &str) -> Result<(), ApiError> {
        let folded = fold(network);
        let mut held = self.rosters().into_iter().flat_map(|r| r.rosters());
        if held.any(|r| fold(&r.settings().name) == folded) {
            let words = format_args!("this machine is a member of {network:?} already");
            return Err(ApiError::refused(code::ALREADY_MEMBER, words).hint("kanpachi list"));
        }
        if self.state.waiting.iter().any(|w| fold(&w.name) == folded) {
            let words = format_args!("this machine awaits approval in {network:?} already");
            return Err(ApiError::refused(code::ALREADY_WAITING, words)
                .hint("an owner lets it in: kanpachi approve NETWORK MEMBER"));
        }
        Ok(())
    }

    /// Tells the coordinator who wants in, as soon as there is one.
    pub(super) fn send_join(&mut self) {
        // The name that it has in its other networks, or the one of the machine.
        let name = self.own_name().unwrap_or_else(|| self.name.clone());
        let Some(joining) = self.state.joining.as_ref().filter(|j| j.joined.is_none()) else {
            return;
        };
        let message = joining.way.message(name);
        if let Ok(id) = self.ask(&message) {
            self.state.pending.insert(id, Pending::Join);
            if let Some(joining) = &mut self.state.joining {
                joining.deadline = clock::now() + LIMIT;
            }
        }
    }

    /// The coordinator let this machine in: from here on it belongs to the organisation.
    pub(super) async fn handle_joined(&mut self, joined: Joined) {
        let Some(joining) = &mut self.state.joining else {
            return;
        };
        if !joining.way.leads_to(&joined) {
            let words = "the coordinator let this machine into another network than was asked for";
            return self.finish_join(Err(ApiError::refused(code::REFUSED, words)));
        }
        joining.joined = Some((joined.network, joined.name.clone()));
        if let Err(error) = self.store_membership() {
            return self.finish_join(Err(error));
        }
        if let Some((manifest, directory)) = self.state.offered.take() {
            self.take_keys(&manifest, &directory);
        }
        self.take_registration(&joined.registration).await;
        let Joined {
            network,
            network_name,
            name,
            ..
        } = joined;
        self.wait_for(|waiting| {
            waiting.retain(|w| w.network != network);
            if joined.waiting {
                let name = network_name;
                waiting.push(Waiting { network, name });
            }
        });
        if joined.waiting {
            let reply = self.join_reply(name);
            return self.finish_join(Ok(reply));
        }
        // What was pushed before the keys counted is asked for again.
        self.pull();
    }

    /// What an invite says is kept: the organisation, where its coordinators are, and the floor of the network.
    fn store_membership(&mut self) -> Result<(), ApiError> {
        let Some(Joining {
            way: Way::Invite(invite),
            ..
        }) = &self.state.joining
        else {
            return Ok(());
        };
        let hints = self.state.session.as_ref().map(|s| s.hints.clone());
        self.db.set_org(&invite.org, &hints.unwrap_or_default())?;
        self.db.set_floor(&invite.network, invite.floor)
    }

    /// Is the join complete, or hopeless?
    pub(super) fn check_join(&mut self, now: Instant) {
        let Some(joining) = &self.state.joining else {
            return;
        };
        if let Some((network, name)) = &joining.joined {
            let member = self
                .rosters()
                .and_then(|r| r.roster(network)?.member(&self.me()))
                .is_some_and(|me| !me.caps.has(Caps::PENDING));
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
                let why = self.state.last_error.clone();
                let why = why.unwrap_or_else(|| "it does not answer".into());
                let words = format_args!("cannot reach the coordinator: {why}");
                ApiError::unreachable(code::COORDINATOR_UNREACHABLE, words)
                    .hint("is it running, and is its port open?")
            };
            self.finish_join(Err(error));
        }
    }

    /// What `join`, `create` and `up` print.
    pub(super) fn join_reply(&self, name: String) -> JoinReply {
        let rosters = self.rosters().into_iter().flat_map(|r| r.rosters());
        let adapter = self.state.adapter.as_ref();
        JoinReply {
            name,
            ipv4: adapter.and_then(|a| a.ipv4()).map(|(a, _)| a),
            ipv6: adapter.and_then(|a| a.ipv6()).map(|(a, _)| a),
            networks: rosters.map(|r| r.settings().name.clone()).collect(),
            waiting: self.waiting_names(),
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

    /// The coordinator says no to the hello or to the join.
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(network: &str, password: Option<&str>) -> NetworkRequest {
        NetworkRequest {
            network: network.to_owned(),
            password: password.map(|p| Secret::new(p.to_owned())),
        }
    }

    #[test]
    fn a_network_is_asked_for_under_one_id_however_often_and_under_another_the_next_time() {
        let id = |way: &Way| match way.message("lamp".into()) {
            ClientMessage::CreateNetwork(message) => message.network,
            other => panic!("{other:?}"),
        };
        let one = Way::create(request("games", None)).unwrap();
        assert_eq!(id(&one), id(&one));
        let other = Way::create(request("games", Some("geheim"))).unwrap();
        assert_ne!(id(&one), id(&other));
    }

    #[test]
    fn names_and_passwords_that_are_none_are_refused_before_anybody_is_asked() {
        let bad_name = Way::create(request("two words", None)).unwrap_err();
        assert_eq!(
            (bad_name.code.as_str(), bad_name.exit),
            (code::BAD_NAME, ExitCode::Usage)
        );
        for bad in [Some(""), Some("a\nb")] {
            let error = Way::create(request("games", bad)).unwrap_err();
            assert_eq!(error.exit, ExitCode::Usage);
        }
        let error = Way::password(request("games", None)).unwrap_err();
        assert_eq!(error.exit, ExitCode::Usage);
        assert!(error.hint.unwrap().contains("kanpachi join INVITE"));
    }
}
