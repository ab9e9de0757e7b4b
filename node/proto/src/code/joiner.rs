//! The side that joins: starts the exchange, proves the key, opens the invite.

use std::fmt;

use kanpachi_common::{
    invite::Invite,
    wire::{
        MAX_VERSION, MIN_VERSION,
        code::{CodeRefusal, CodeReply, CodeRequest},
    },
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{
    Code,
    exchange::{self, Ends, Half, Keys},
};

/// One try.
pub struct Joiner {
    ends: Ends,
    state: State,
}

enum State {
    Started(Half),
    Confirmed(Keys),
    Over,
}

impl fmt::Debug for Joiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Joiner")
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

/// What comes next.
#[derive(Debug)]
pub enum Step {
    /// Send this and wait for the answer.
    Send(CodeRequest),
    /// The link of an invite for the organisation that was asked for.
    Done(Zeroizing<String>),
}

/// Why there is no invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Failure {
    /// The host said so.
    #[error("the host refused: {0:?}")]
    Refused(CodeRefusal),
    /// The host does not know the code either: it is not the host that showed it.
    #[error("what answers there does not know the code of this host")]
    Impostor,
    /// It does not keep to the protocol.
    #[error("what answers there does not speak as a host does")]
    Malformed,
}

impl Joiner {
    /// Starts a try; the message goes first on the stream.
    #[must_use]
    pub fn start(code: &Code, ends: Ends, seed: [u8; 32]) -> (Self, CodeRequest) {
        let (half, element) = exchange::joiner(code, &ends, seed);
        let start = CodeRequest::Start {
            min_version: MIN_VERSION,
            max_version: MAX_VERSION,
            org: ends.org,
            element,
        };
        let state = State::Started(half);
        (Self { ends, state }, start)
    }

    /// Takes an answer of the host. After an error the try is over.
    ///
    /// # Errors
    /// [`Failure`]
    pub fn handle_reply(&mut self, reply: &CodeReply) -> Result<Step, Failure> {
        let state = std::mem::replace(&mut self.state, State::Over);
        match (state, reply) {
            (_, CodeReply::Refused(refusal)) => Err(Failure::Refused(*refusal)),
            (State::Started(half), CodeReply::Element(element)) => {
                let keys = half.finish(element).ok_or(Failure::Malformed)?;
                let confirm = CodeRequest::Confirm(keys.joiner_tag());
                self.state = State::Confirmed(keys);
                Ok(Step::Send(confirm))
            }
            (State::Confirmed(keys), CodeReply::Invite { tag, sealed }) => {
                if !keys.is_host(tag) {
                    return Err(Failure::Impostor);
                }
                let link = keys.open(sealed).ok_or(Failure::Impostor)?;
                let link = str::from_utf8(&link).map_err(|_| Failure::Malformed)?;
                let invite = Invite::parse(link).map_err(|_| Failure::Malformed)?;
                if invite.org != self.ends.org {
                    return Err(Failure::Malformed);
                }
                Ok(Step::Done(Zeroizing::new(link.to_owned())))
            }
            _ => Err(Failure::Malformed),
        }
    }
}
