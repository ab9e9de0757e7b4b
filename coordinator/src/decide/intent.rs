//! Store effects as data: what the core wants done, and what came of it.

use kanpachi_common::{NetworkId, wire::control::Held};

use crate::store::{
    Changes, InviteStored, JoinNetwork, JoinedNetwork, LoggedIn, Login, NamesSet, NewInvite,
    Result, SetName, Store,
};

/// Names an intent until its outcome comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IntentId(pub u64);

/// One transaction that the core asks for.
#[derive(Clone, Debug)]
pub enum Intent {
    /// [`Store::login`]
    Login(Login),
    /// [`Store::join_network`]
    Join(JoinNetwork),
    /// [`Store::create_invite`]
    Invite(NewInvite),
    /// [`Store::set_name`]
    SetName(SetName),
    /// [`Store::changes_since`]
    Changes(NetworkId, Vec<Held>),
}

/// What an intent came to; the same variants.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// [`Store::login`]
    Login(LoggedIn),
    /// [`Store::join_network`]
    Join(JoinedNetwork),
    /// [`Store::create_invite`]
    Invite(InviteStored),
    /// [`Store::set_name`]
    SetName(NamesSet),
    /// [`Store::changes_since`]
    Changes(Box<Changes>),
}

/// Runs an intent.
///
/// # Errors
/// What the store says.
pub async fn run(store: &dyn Store, intent: Intent) -> Result<Outcome> {
    Ok(match intent {
        Intent::Login(login) => Outcome::Login(store.login(login).await?),
        Intent::Join(join) => Outcome::Join(store.join_network(join).await?),
        Intent::Invite(new) => Outcome::Invite(store.create_invite(new).await?),
        Intent::SetName(set) => Outcome::SetName(store.set_name(set).await?),
        Intent::Changes(network, held) => {
            Outcome::Changes(Box::new(store.changes_since(network, held).await?))
        }
    })
}
