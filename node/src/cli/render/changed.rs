//! What the verbs that change networks say when they are through.

use kanpachi_common::name;

use super::{Look, Sign, Tone, clean};
use crate::ipc::api::{ChangeReply, ChangeRequest, JoinReply, SessionReply};

/// `kanpachi create` is through.
#[must_use]
pub fn created(network: &str, password: bool, look: &Look) -> String {
    let network = clean(network);
    let how = if password {
        format!(
            "  machines of the organisation join it by its password: kanpachi join {network}\n  \
             everybody else by an invite: kanpachi invite {network}\n"
        )
    } else {
        format!(
            "  it has no password, so it is entered by invite only: kanpachi invite {network}\n"
        )
    };
    format!(
        "{} {} is made, and this machine owns it\n{how}",
        look.paint(Tone::Good, look.sign(Sign::On)),
        look.paint(Tone::Strong, &network)
    )
}

/// `kanpachi join NETWORK` is through: in, or on the doorstep.
#[must_use]
pub fn entered(network: &str, reply: &JoinReply, client: Option<&str>, look: &Look) -> String {
    let same = |other: &String| name::fold(other) == name::fold(network);
    let waits = reply.waiting.iter().any(same);
    let network = clean(network);
    if waits {
        return format!("{}\n", on_the_doorstep(&network, client, look));
    }
    format!(
        "{} this machine is in {}\n  see who is there: kanpachi list\n",
        look.paint(Tone::Good, look.sign(Sign::On)),
        look.paint(Tone::Strong, &network)
    )
}

/// One line about a network that this machine waits for, with what its owner types.
pub(super) fn on_the_doorstep(network: &str, client: Option<&str>, look: &Look) -> String {
    let command = client
        .filter(|id| !id.is_empty())
        .map(|id| format!(": kanpachi approve {network} {}", clean(id)))
        .unwrap_or_default();
    format!(
        "{} an owner of {} has to let this machine in{command}",
        look.paint(Tone::Warn, look.sign(Sign::Question)),
        look.paint(Tone::Strong, network)
    )
}

/// A change is made.
#[must_use]
pub fn changed(request: &ChangeRequest, reply: &ChangeReply, look: &Look) -> String {
    let network = look.paint(Tone::Strong, &clean(&reply.network));
    let (_, typed) = request.parts();
    let member = reply.member.as_deref().or(typed).map(clean);
    let member = member.as_deref().unwrap_or("it");
    match request {
        ChangeRequest::Leave { heir: None, .. } => format!("this machine has left {network}\n"),
        ChangeRequest::Leave { heir: Some(_), .. } => {
            format!("this machine has left {network}, which {member} owns now\n")
        }
        ChangeRequest::Delete { .. } => format!("{network} is deleted\n"),
        ChangeRequest::Evict { password, .. } => evicted(member, password.is_some(), reply, look),
        ChangeRequest::SetPassword {
            password: Some(_), ..
        } => format!("{network} has a new password\n"),
        ChangeRequest::SetPassword { password: None, .. } => {
            format!("{network} has no password: it is entered by invite only\n")
        }
        ChangeRequest::SetAccess {
            locked, approval, ..
        } => access(&network, *locked, *approval),
        ChangeRequest::Approve { .. } => format!("{member} is in {network}\n"),
        ChangeRequest::Reject { .. } => format!("{member} was not let into {network}\n"),
        ChangeRequest::SetRole { owner: true, .. } => {
            format!("{member} is an owner of {network}\n")
        }
        ChangeRequest::SetRole { owner: false, .. } => {
            format!("{member} is a member of {network}, not an owner\n")
        }
        ChangeRequest::GoOnline { .. } => format!("this machine is there in {network} again\n"),
        ChangeRequest::GoOffline { .. } => format!(
            "this machine is offline in {network}, until: kanpachi go-online {}\n",
            clean(&reply.network)
        ),
    }
}

fn evicted(member: &str, new_password: bool, reply: &ChangeReply, look: &Look) -> String {
    let network = clean(&reply.network);
    if reply.suspended {
        return suspended(member, &network, new_password, look);
    }
    let revoked = match reply.revoked_invites {
        None | Some(0) => "no invite had to be revoked".to_owned(),
        Some(1) => "1 invite was revoked".to_owned(),
        Some(count) => format!("{count} invites were revoked"),
    };
    let text = format!(
        "{member} is out of {}; {revoked}\n",
        look.paint(Tone::Strong, &network)
    );
    if new_password {
        return text + &format!("{network} has a new password\n");
    }
    if reply.password_known != Some(true) {
        return text;
    }
    text + &format!(
        "{} {member} may know the password of {network}, which should change: kanpachi set-password {network}\n",
        look.paint(Tone::Warn, look.sign(Sign::Attention))
    )
}

/// Evicted without a coordinator: what holds, and what has to wait.
fn suspended(member: &str, network: &str, new_password: bool, look: &Look) -> String {
    let mut text = format!(
        "{member} is out of {} by your word: every member that hears it obeys\n{} no coordinator answers right now; it makes this final when it is back\n",
        look.paint(Tone::Strong, network),
        look.paint(Tone::Warn, look.sign(Sign::Attention))
    );
    if new_password {
        text += &format!(
            "{} the password of {network} did not change: kanpachi set-password {network}, then\n",
            look.paint(Tone::Warn, look.sign(Sign::Attention))
        );
    }
    text
}

fn access(network: &str, locked: Option<bool>, approval: Option<bool>) -> String {
    let locked = locked.map(|locked| match locked {
        true => "is locked: it takes nobody new",
        false => "is unlocked",
    });
    let approval = approval.map(|approval| match approval {
        true => "asks its owners to approve whoever joins",
        false => "lets in whoever joins",
    });
    [locked, approval]
        .into_iter()
        .flatten()
        .map(|what| format!("{network} {what}\n"))
        .collect()
}

/// `kanpachi login` or `kanpachi logout` is through.
#[must_use]
pub fn session(reply: &SessionReply) -> String {
    match (reply.logged_in, reply.already) {
        (true, false) => "logged in\n",
        (true, true) => "already logged in\n",
        (false, false) => "logged out: offline in all networks, until: kanpachi login\n",
        (false, true) => "already logged out\n",
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::{super::looks, *};
    use crate::ipc::api::Secret;

    fn reply(member: Option<&str>) -> ChangeReply {
        ChangeReply {
            network: "lan".to_owned(),
            member: member.map(str::to_owned),
            revoked_invites: Some(2),
            password_known: Some(true),
            suspended: false,
        }
    }

    fn evict(password: Option<&str>) -> ChangeRequest {
        ChangeRequest::Evict {
            network: "lan".to_owned(),
            member: "090-736-821".to_owned(),
            password: password.map(|text| Secret::new(text.to_owned())),
        }
    }

    #[test]
    fn evicting_tells_what_is_left_to_do() {
        let say =
            |request: &ChangeRequest, reply: &ChangeReply| changed(request, reply, &looks::plain());
        assert_eq!(
            say(&evict(None), &reply(Some("lamp"))),
            "lamp is out of lan; 2 invites were revoked\n\
             ▲ lamp may know the password of lan, which should change: kanpachi set-password lan\n"
        );
        assert_eq!(
            say(&evict(Some("geheim")), &reply(Some("lamp"))),
            "lamp is out of lan; 2 invites were revoked\nlan has a new password\n"
        );
        let none = ChangeReply {
            revoked_invites: Some(0),
            password_known: Some(false),
            ..reply(None)
        };
        assert_eq!(
            say(&evict(None), &none),
            "090-736-821 is out of lan; no invite had to be revoked\n"
        );
    }

    #[test]
    fn access_is_told_for_what_was_set() {
        assert_eq!(
            access("lan", Some(true), Some(true)),
            "lan is locked: it takes nobody new\nlan asks its owners to approve whoever joins\n"
        );
        assert_eq!(access("lan", Some(false), None), "lan is unlocked\n");
    }

    #[test]
    fn who_has_to_wait_is_told_what_the_owner_types() {
        let mut joined = JoinReply {
            name: "desk".to_owned(),
            ipv4: None,
            ipv6: None,
            networks: Vec::new(),
            waiting: vec!["games".to_owned()],
        };
        assert_eq!(
            entered("games", &joined, Some("090-736-821"), &looks::plain()),
            "? an owner of games has to let this machine in: kanpachi approve games 090-736-821\n"
        );
        joined.waiting.clear();
        assert!(
            entered("games", &joined, None, &looks::plain())
                .starts_with("● this machine is in games\n")
        );
    }
}
