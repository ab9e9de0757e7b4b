//! Changing networks: what people ask for by name is resolved here, refused here where this node knows better, and else
//! asked of the coordinator. Whether this machine is there in a network is its own affair, and kept on its own disk.

use kanpachi_common::{
    MemberId, NetworkId, NodeId, Password,
    name::fold,
    roster::{Caps, Member, VerifiedRoster},
    wire::{
        control::{ClientMessage, ServerMessage},
        membership::{
            DeleteNetwork, Evict, Leave, SetAccess, SetPassword, SetPresence, SetRole, Settle,
            Waiting,
        },
    },
};
use kanpachi_proto::roster::{Rosters, Update};

use super::{
    Core, Pending,
    lookup::{is_owner, member_called, network_called},
    refusals::{nonsense, not_allowed, not_joined, refused},
    requests::Reply,
};
use crate::ipc::{
    api::{ChangeReply, ChangeRequest, Secret},
    error::{ApiError, code},
};

/// What a change is about, until the coordinator has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct About {
    network: NetworkId,
    /// Name of the network.
    name: String,
    /// Name of the member.
    member: Option<String>,
    /// The member that is evicted: without a coordinator by this owner's word alone.
    evicts: Option<MemberId>,
    /// Once it is through, this machine is no member any more.
    ends: bool,
}

/// What a request comes down to.
#[derive(Debug)]
enum Plan {
    /// The coordinator decides.
    Ask(Box<ClientMessage>, About),
    /// This node does.
    Presence(About, bool),
}

/// What this node holds, to read requests by.
struct View<'a> {
    rosters: &'a Rosters,
    waiting: &'a [Waiting],
    me: NodeId,
}

fn password(secret: Option<&Secret>) -> Result<Option<Password>, ApiError> {
    let read = |secret: &Secret| Password::new(secret.expose()).map_err(ApiError::usage);
    secret.map(read).transpose()
}

fn about(roster: &VerifiedRoster, member: Option<&Member>) -> About {
    About {
        network: roster.head().network,
        name: roster.settings().name.clone(),
        member: member.map(|m| m.name.clone()),
        evicts: None,
        ends: false,
    }
}

impl View<'_> {
    fn plan(&self, request: &ChangeRequest) -> Result<Plan, ApiError> {
        match request {
            ChangeRequest::Leave { network, heir } => self.leave(network, heir.as_deref()),
            ChangeRequest::GoOnline { network } => self.presence(network, true),
            ChangeRequest::GoOffline { network } => self.presence(network, false),
            ChangeRequest::Delete { network } => {
                let roster = self.owned(network)?;
                let network = roster.head().network;
                let about = About {
                    ends: true,
                    ..about(roster, None)
                };
                let message = ClientMessage::DeleteNetwork(DeleteNetwork { network });
                Ok(Plan::Ask(Box::new(message), about))
            }
            ChangeRequest::SetPassword {
                network,
                password: secret,
            } => {
                let roster = self.owned(network)?;
                let message = ClientMessage::SetPassword(SetPassword {
                    network: roster.head().network,
                    password: password(secret.as_ref())?,
                });
                Ok(Plan::Ask(Box::new(message), about(roster, None)))
            }
            ChangeRequest::SetAccess {
                network,
                locked,
                approval,
            } => {
                let roster = self.owned(network)?;
                let message = ClientMessage::SetAccess(SetAccess {
                    network: roster.head().network,
                    locked: *locked,
                    approval: *approval,
                });
                Ok(Plan::Ask(Box::new(message), about(roster, None)))
            }
            ChangeRequest::Evict { .. }
            | ChangeRequest::Approve { .. }
            | ChangeRequest::Reject { .. }
            | ChangeRequest::SetRole { .. } => self.member_change(request),
        }
    }

    /// The network, of which this node is an owner.
    fn owned(&self, network: &str) -> Result<&VerifiedRoster, ApiError> {
        let roster = network_called(self.rosters, network)?;
        if is_owner(roster, &self.me) {
            Ok(roster)
        } else {
            Err(not_allowed())
        }
    }

    /// Changes of one member by an owner.
    fn member_change(&self, request: &ChangeRequest) -> Result<Plan, ApiError> {
        let (ChangeRequest::Evict {
            network: name,
            member: target,
            ..
        }
        | ChangeRequest::Approve {
            network: name,
            member: target,
        }
        | ChangeRequest::Reject {
            network: name,
            member: target,
        }
        | ChangeRequest::SetRole {
            network: name,
            member: target,
            ..
        }) = request
        else {
            return Err(nonsense());
        };
        let roster = self.owned(name)?;
        let found = member_called(roster.members(), target)?;
        let (network, member) = (roster.head().network, found.member);
        let waits = found.caps.has(Caps::PENDING);
        let settle = |approved| {
            if waits {
                Ok(ClientMessage::Settle(Settle {
                    network,
                    member,
                    approved,
                }))
            } else {
                let words = format_args!("{} is a member already", found.name);
                Err(ApiError::refused(code::ALREADY_MEMBER, words)
                    .hint("to end a membership: kanpachi evict NETWORK MEMBER"))
            }
        };
        let message = match request {
            ChangeRequest::Approve { .. } => settle(true)?,
            ChangeRequest::Reject { .. } => settle(false)?,
            ChangeRequest::SetRole { owner, .. } if waits && *owner => {
                return Err(still_waiting(found));
            }
            ChangeRequest::SetRole { owner, .. } => ClientMessage::SetRole(SetRole {
                network,
                member,
                owner: *owner,
            }),
            ChangeRequest::Evict {
                password: secret, ..
            } => {
                if found.node == self.me {
                    let error = ApiError::usage("nobody evicts the machine itself");
                    return Err(error.hint("kanpachi leave NETWORK"));
                }
                ClientMessage::Evict(Evict {
                    network,
                    member,
                    password: password(secret.as_ref())?,
                })
            }
            _ => return Err(nonsense()),
        };
        let mut about = about(roster, Some(found));
        about.evicts = matches!(message, ClientMessage::Evict(_)).then_some(member);
        Ok(Plan::Ask(Box::new(message), about))
    }

    /// Leaves a network, or stops waiting for one.
    fn leave(&self, name: &str, heir: Option<&str>) -> Result<Plan, ApiError> {
        let folded = fold(name);
        let plan = |network, heir: Option<MemberId>, about: About| {
            let message = ClientMessage::Leave(Leave { network, heir });
            Plan::Ask(
                Box::new(message),
                About {
                    ends: true,
                    ..about
                },
            )
        };
        let waiting = self.waiting.iter().find(|w| fold(&w.name) == folded);
        let roster = match (network_called(self.rosters, name), waiting) {
            (Err(_), Some(waiting)) => {
                let about = About {
                    network: waiting.network,
                    name: waiting.name.clone(),
                    member: None,
                    evicts: None,
                    ends: true,
                };
                return Ok(plan(waiting.network, None, about));
            }
            (roster, _) => roster?,
        };
        let heir = heir.map(|h| self.heir(roster, h)).transpose()?;
        let about = about(roster, heir);
        Ok(plan(about.network, heir.map(|h| h.member), about))
    }

    fn heir<'r>(&self, roster: &'r VerifiedRoster, target: &str) -> Result<&'r Member, ApiError> {
        let heir = member_called(roster.members(), target)?;
        if heir.node == self.me {
            let error = ApiError::usage("the heir is somebody who stays");
            return Err(error.hint("see who: kanpachi list"));
        }
        if heir.caps.has(Caps::PENDING) {
            return Err(still_waiting(heir));
        }
        Ok(heir)
    }

    fn presence(&self, name: &str, online: bool) -> Result<Plan, ApiError> {
        let roster = network_called(self.rosters, name)?;
        Ok(Plan::Presence(about(roster, None), online))
    }
}

fn still_waiting(member: &Member) -> ApiError {
    ApiError::refused(
        code::ALREADY_WAITING,
        format_args!("{} awaits approval", member.name),
    )
    .hint("let it in first: kanpachi approve NETWORK MEMBER")
}

impl Core {
    pub(super) async fn change(&mut self, request: ChangeRequest, reply: Reply<ChangeReply>) {
        let plan = match self.rosters() {
            Some(rosters) => View {
                rosters,
                waiting: &self.state.waiting,
                me: self.me(),
            }
            .plan(&request),
            None => Err(not_joined()),
        };
        match plan {
            Ok(Plan::Ask(message, about)) => match self.ask(&message) {
                Ok(id) => drop(self.state.pending.insert(id, Pending::Change(about, reply))),
                Err(error) => self.change_alone(about, reply, error).await,
            },
            Ok(Plan::Presence(about, online)) => {
                let result = self.set_online(about.network, online).await;
                let result = result.map(|()| about.reply());
                let _ = reply.send(result);
            }
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// There is no coordinator to ask. An owner can put a member out all the same; everything else has to wait.
    pub(super) async fn change_alone(
        &mut self,
        about: About,
        reply: Reply<ChangeReply>,
        error: ApiError,
    ) {
        let result = match about.evicts {
            Some(member) if !self.state.logged_out => {
                let suspended = self.suspend(about.network, member).await;
                suspended.map(|()| ChangeReply {
                    suspended: true,
                    ..about.reply()
                })
            }
            _ => Err(error),
        };
        let _ = reply.send(result);
    }

    /// The coordinator answered a change.
    pub(super) async fn answer_change(
        &mut self,
        about: About,
        reply: Reply<ChangeReply>,
        message: ServerMessage,
    ) {
        let result = match message {
            ServerMessage::Done(_) => Ok(about.reply()),
            ServerMessage::Evicted(evicted) => Ok(ChangeReply {
                revoked_invites: Some(evicted.revoked_invites),
                password_known: Some(evicted.password_known),
                ..about.reply()
            }),
            ServerMessage::Refused(refusal) => Err(refused(&refusal)),
            _ => Err(nonsense()),
        };
        if result.is_ok() && about.ends && self.drop_network(about.network) {
            self.members_changed().await;
        }
        let _ = reply.send(result);
    }

    /// The coordinator says that this machine is out of a network. Nobody is told who asked for that, nor twice.
    pub(super) fn handle_removed(&mut self, network: NetworkId) -> bool {
        let asked = self.state.pending.values().any(
            |p| matches!(p, Pending::Change(about, _) if about.ends && about.network == network),
        );
        let waited = self.state.waiting.iter().any(|w| w.network == network);
        let held = self.drop_network(network);
        if (held || waited) && !asked {
            tracing::warn!(network = %network.short(), "this machine is no member any more");
        }
        held
    }

    /// This machine is no member of a network any more, or does not wait for it any more. `true` when its roster was
    /// here and is gone.
    pub(super) fn drop_network(&mut self, network: NetworkId) -> bool {
        self.wait_for(|waiting| waiting.retain(|w| w.network != network));
        let held = self.rosters().is_some_and(|r| r.roster(&network).is_some());
        held && self.take_up(Update::Removed(network))
    }

    /// Is there for the others of a network from now on, or is not: on disk, then for this node, then for the others.
    async fn set_online(&mut self, network: NetworkId, online: bool) -> Result<(), ApiError> {
        self.db.set_online(&network, online)?;
        if let Some(rosters) = self.rosters_mut() {
            rosters.set_online(network, online);
        }
        // Nobody there to be told: the next login tells it.
        let _ = self.ask(&ClientMessage::SetPresence(SetPresence { network, online }));
        self.members_changed().await;
        Ok(())
    }

    /// Tells the coordinator in which networks this node is not there. It forgets that with every session.
    pub(super) fn tell_presence(&mut self) {
        let offline: Vec<NetworkId> = self
            .rosters()
            .map(|r| r.offline().collect())
            .unwrap_or_default();
        for network in offline {
            let online = false;
            let _ = self.ask(&ClientMessage::SetPresence(SetPresence { network, online }));
        }
    }

    /// Changes for which networks this node awaits approval, on disk too: a machine that starts without a coordinator
    /// has them in its list.
    pub(super) fn wait_for(&mut self, change: impl FnOnce(&mut Vec<Waiting>)) {
        let mut waiting = self.state.waiting.clone();
        change(&mut waiting);
        if waiting == self.state.waiting {
            return;
        }
        if let Err(error) = self.db.set_waiting(&waiting) {
            // The next login says it again.
            tracing::warn!(%error, "what this machine waits for was not stored");
        }
        self.state.waiting = waiting;
    }

    /// A network whose roster came is none to wait for any more.
    pub(super) fn wait_no_more(&mut self) {
        let me = self.me();
        let Some(rosters) = self.rosters() else {
            return;
        };
        let is_in = |w: &Waiting| {
            rosters
                .roster(&w.network)
                .and_then(|r| r.member(&me))
                .is_some()
        };
        let waiting = self.state.waiting.iter();
        let over: Vec<NetworkId> = waiting.filter(|w| is_in(w)).map(|w| w.network).collect();
        self.wait_for(|waiting| waiting.retain(|w| !over.contains(&w.network)));
    }

    /// Names of networks in which this node awaits approval.
    pub(super) fn waiting_names(&self) -> Vec<String> {
        self.state.waiting.iter().map(|w| w.name.clone()).collect()
    }
}

impl About {
    fn reply(&self) -> ChangeReply {
        ChangeReply {
            network: self.name.clone(),
            member: self.member.clone(),
            ..ChangeReply::default()
        }
    }
}

#[cfg(test)]
#[path = "networks_tests.rs"]
mod tests;
