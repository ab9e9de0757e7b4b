//! What the coordinator declines, and what this node declines itself, in words for people.

use kanpachi_common::wire::control::{Refused, codes};

use crate::ipc::error::{ApiError, code};

const NEW_INVITE: &str = "ask for a new one: kanpachi invite NETWORK, on a machine that is in";

/// A refusal of the coordinator. What a person may not know why is said in one way, whatever the coordinator's words.
pub(super) fn refused(refused: &Refused) -> ApiError {
    let words = refused
        .message
        .chars()
        .take(300)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect::<String>();
    match refused.code {
        codes::INVITE_USED => {
            ApiError::refused(code::INVITE_USED, "the invite was used already").hint(NEW_INVITE)
        }
        codes::INVITE_EXPIRED => {
            ApiError::refused(code::INVITE_EXPIRED, "the invite has expired").hint(NEW_INVITE)
        }
        codes::INVITE_UNKNOWN => ApiError::refused(
            code::INVITE_UNKNOWN,
            "the coordinator does not know this invite: it was withdrawn or never made",
        )
        .hint(NEW_INVITE),
        codes::OTHER_ORG => ApiError::refused(code::OTHER_ORGANISATION, words).hint(
            "the coordinator was probably set up anew; ask for an invite to the new organisation",
        ),
        codes::VERSION => ApiError::refused(code::PROTOCOL_VERSION, words)
            .hint("update Kanpachi on the older of the two machines"),
        codes::BUSY => ApiError::refused(code::BUSY, words).hint("try again in a minute"),
        codes::RECOVERY => ApiError::refused(code::RECOVERY, words)
            .hint("whoever runs the coordinator ends this; tunnels go on meanwhile"),
        codes::BAD_NAME => ApiError::refused(code::BAD_NAME, words),
        number => membership(number).unwrap_or_else(|| ApiError::refused(code::REFUSED, words)),
    }
}

/// Refusals that are about networks and their members.
fn membership(number: u16) -> Option<ApiError> {
    let (code, words, hint) = match number {
        codes::NETWORK_EXISTS => (
            code::NETWORK_EXISTS,
            "a network of that name exists",
            "choose another name, or join it: kanpachi join NETWORK",
        ),
        codes::WRONG_PASSWORD => (
            code::WRONG_PASSWORD,
            "no network has this name and password",
            "check both; a network without a password is joined by an invite: kanpachi join INVITE",
        ),
        codes::LOCKED => (
            code::NETWORK_LOCKED,
            "the network takes nobody new",
            "an owner can change that: kanpachi set-access NETWORK unlock",
        ),
        codes::EVICTED => (
            code::EVICTED,
            "this machine was evicted from the network",
            "an owner can let it in again by a new invite: kanpachi invite NETWORK",
        ),
        codes::LAST_OWNER => (
            code::LAST_OWNER,
            "a network does not go without an owner, and nobody else is one",
            "name a successor: kanpachi leave NETWORK --heir NAME, or end it: kanpachi delete NETWORK",
        ),
        codes::NO_MEMBER => (
            code::UNKNOWN_PEER,
            "the network has no such member any more",
            "see who is: kanpachi list",
        ),
        codes::NETWORK_FULL => (
            code::NETWORK_FULL,
            "the network has as many members as it may have",
            "an owner can make room: kanpachi evict NETWORK MEMBER",
        ),
        codes::NOT_REGISTERED => (
            code::NOT_JOINED,
            "the coordinator does not know this machine",
            "join by a new invite: kanpachi join INVITE",
        ),
        codes::NOT_ALLOWED => (
            code::NOT_ALLOWED,
            "only an owner of the network may do this",
            "see who: kanpachi list",
        ),
        codes::NO_NETWORK => (
            code::UNKNOWN_NETWORK,
            "this machine is in no such network any more",
            "see which: kanpachi list",
        ),
        _ => return None,
    };
    Some(ApiError::refused(code, words).hint(hint))
}

pub(super) fn not_allowed() -> ApiError {
    membership(codes::NOT_ALLOWED).unwrap_or_else(nonsense)
}

pub(super) fn no_coordinator() -> ApiError {
    ApiError::unreachable(
        code::COORDINATOR_UNREACHABLE,
        "no coordinator answers right now, and only it can do this",
    )
    .hint("see why: kanpachi status")
}

/// The line to the coordinator is full.
pub(super) fn not_taken() -> ApiError {
    ApiError::unreachable(
        code::COORDINATOR_UNREACHABLE,
        "the coordinator does not take requests right now, and only it can do this",
    )
    .hint("try again in a minute")
}

pub(super) fn logged_out() -> ApiError {
    ApiError::refused(code::LOGGED_OUT, "this machine is logged out").hint("kanpachi login")
}

pub(super) fn not_joined() -> ApiError {
    ApiError::refused(code::NOT_JOINED, "this machine is in no network yet")
        .hint("join one: kanpachi join INVITE; or host one: kanpachi host")
}

pub(super) fn not_suspended() -> ApiError {
    ApiError::refused(
        code::REFUSED,
        "only the coordinator can do this: the members would not obey this machine's word alone",
    )
    .hint("try again when a coordinator answers: kanpachi status")
}

pub(super) fn nonsense() -> ApiError {
    ApiError::failed(
        code::FAILED,
        "the coordinator gave an answer that makes no sense",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipc::error::ExitCode;

    fn of(code: u16) -> ApiError {
        refused(&Refused {
            code,
            message: "its\nwords".into(),
            retry_ms: None,
        })
    }

    #[test]
    fn every_refusal_about_members_has_its_code_and_names_what_helps() {
        let expected = [
            (codes::NETWORK_EXISTS, code::NETWORK_EXISTS, "kanpachi join"),
            (
                codes::WRONG_PASSWORD,
                code::WRONG_PASSWORD,
                "kanpachi join INVITE",
            ),
            (
                codes::LOCKED,
                code::NETWORK_LOCKED,
                "kanpachi set-access NETWORK unlock",
            ),
            (codes::EVICTED, code::EVICTED, "kanpachi invite NETWORK"),
            (
                codes::LAST_OWNER,
                code::LAST_OWNER,
                "kanpachi leave NETWORK --heir NAME",
            ),
            (
                codes::LAST_OWNER,
                code::LAST_OWNER,
                "kanpachi delete NETWORK",
            ),
            (codes::NO_MEMBER, code::UNKNOWN_PEER, "kanpachi list"),
            (
                codes::NETWORK_FULL,
                code::NETWORK_FULL,
                "kanpachi evict NETWORK MEMBER",
            ),
            (
                codes::NOT_REGISTERED,
                code::NOT_JOINED,
                "kanpachi join INVITE",
            ),
            (codes::NOT_ALLOWED, code::NOT_ALLOWED, "kanpachi list"),
            (codes::NO_NETWORK, code::UNKNOWN_NETWORK, "kanpachi list"),
        ];
        for (number, code, command) in expected {
            let error = of(number);
            assert_eq!((error.code.as_str(), error.exit), (code, ExitCode::Refused));
            let hint = error.hint.unwrap();
            assert!(hint.contains(command), "{code}: {hint}");
        }
    }

    #[test]
    fn what_is_not_known_here_is_said_in_the_coordinators_words() {
        let error = of(999);
        assert_eq!(
            (error.code.as_str(), error.message.as_str()),
            (code::REFUSED, "its words")
        );
    }
}
