//! Store effects as data: what the core wants done, and what came of it.

use kanpachi_common::{NetworkId, Password, wire::control::Held};

use crate::{
    password::Passwords,
    store::{
        Adopt, Adopted, BringSuspends, Changes, CreateNetwork, DeleteNetwork, Evict, Evicted,
        InviteStored, JoinByPassword, JoinNetwork, JoinedNetwork, Leave, LoggedIn, Login, NamesSet,
        NewInvite, Newcomer, PasswordHash, Refusal, Result, Seen, SetAccess, SetName, SetPassword,
        SetRole, Settle, Store,
    },
};

/// Names an intent until its outcome comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IntentId(pub u64);

/// One transaction that the core asks for, and the password that is hashed or verified before it.
#[derive(Clone, Debug)]
pub enum Intent {
    /// [`Store::login`]
    Login(Login),
    /// [`Store::join_network`]
    Join(JoinNetwork),
    /// [`Store::password_of`], then [`Store::join_by_password`] if the password is right.
    JoinByPassword(Box<PasswordJoin>),
    /// [`Store::create_network_by`]
    CreateNetwork(Box<CreateNetwork>, Option<Password>),
    /// [`Store::create_invite`]
    Invite(NewInvite),
    /// [`Store::set_name`]
    SetName(SetName),
    /// [`Store::leave`]
    Leave(Leave),
    /// [`Store::delete_network`]
    DeleteNetwork(DeleteNetwork),
    /// [`Store::evict`]
    Evict(Evict, Option<Password>),
    /// [`Store::set_password`]
    SetPassword(SetPassword, Option<Password>),
    /// [`Store::set_access`]
    SetAccess(SetAccess),
    /// [`Store::settle`]
    Settle(Settle),
    /// [`Store::set_role`]
    SetRole(SetRole),
    /// [`Store::bring_suspends`]
    Suspends(BringSuspends),
    /// [`Store::see`]
    See(Box<Seen>),
    /// [`Store::adopt`]
    Adopt(Box<Adopt>),
    /// [`Store::changes_since`]
    Changes(NetworkId, Vec<Held>),
}

impl Intent {
    /// May anything be signed or given out by it? A login says itself whether it may.
    pub(super) const fn signs(&self) -> bool {
        !matches!(
            self,
            Self::Login(_) | Self::See(_) | Self::Adopt(_) | Self::Changes(..)
        )
    }
}

/// A node says the name of a network and its password.
#[derive(Clone, Debug)]
pub struct PasswordJoin {
    /// What it calls the network.
    pub name: String,
    /// What it says.
    pub password: Password,
    /// Who joins.
    pub newcomer: Newcomer,
    /// Wall time.
    pub now: kanpachi_common::UnixTime,
}

/// What an intent came to.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// [`Store::login`]
    Login(LoggedIn),
    /// [`Store::join_network`], [`Store::join_by_password`], [`Store::create_network_by`]
    Join(JoinedNetwork),
    /// [`Store::create_invite`]
    Invite(InviteStored),
    /// [`Store::set_name`]
    SetName(NamesSet),
    /// [`Store::evict`]
    Evict(Evicted),
    /// Of the other changes, networks whose roster is another now.
    Changed(Vec<NetworkId>),
    /// [`Store::see`], [`Store::adopt`]
    Adopted(Adopted),
    /// [`Store::changes_since`]
    Changes(Box<Changes>),
}

/// Runs an intent.
///
/// # Errors
/// What the store says.
pub async fn run(store: &dyn Store, passwords: &dyn Passwords, intent: Intent) -> Result<Outcome> {
    Ok(match intent {
        Intent::Login(login) => Outcome::Login(store.login(login).await?),
        Intent::Join(join) => Outcome::Join(store.join_network(join).await?),
        Intent::JoinByPassword(join) => {
            Outcome::Join(join_by_password(store, passwords, *join).await?)
        }
        Intent::CreateNetwork(mut create, password) => {
            create.password = hash(passwords, password).await?;
            Outcome::Join(store.create_network_by(*create).await?)
        }
        Intent::Invite(new) => Outcome::Invite(store.create_invite(new).await?),
        Intent::SetName(set) => Outcome::SetName(store.set_name(set).await?),
        Intent::Leave(leave) => Outcome::Changed(store.leave(leave).await?),
        Intent::DeleteNetwork(delete) => Outcome::Changed(store.delete_network(delete).await?),
        Intent::Evict(mut evict, password) => {
            evict.password = hash(passwords, password).await?;
            Outcome::Evict(store.evict(evict).await?)
        }
        Intent::SetPassword(mut set, password) => {
            set.password = hash(passwords, password).await?;
            store.set_password(set).await?;
            Outcome::Changed(vec![])
        }
        Intent::SetAccess(set) => Outcome::Changed(store.set_access(set).await?),
        Intent::Settle(settle) => Outcome::Changed(store.settle(settle).await?),
        Intent::SetRole(set) => Outcome::Changed(store.set_role(set).await?),
        Intent::Suspends(brought) => Outcome::Changed(store.bring_suspends(brought).await?),
        Intent::See(seen) => Outcome::Adopted(Adopted {
            changed: vec![],
            recovery: store.see(*seen).await?,
        }),
        Intent::Adopt(adopt) => Outcome::Adopted(store.adopt(*adopt).await?),
        Intent::Changes(network, held) => {
            Outcome::Changes(Box::new(store.changes_since(network, held).await?))
        }
    })
}

async fn hash(
    passwords: &dyn Passwords,
    password: Option<Password>,
) -> Result<Option<PasswordHash>> {
    match password {
        Some(password) => passwords.hash(password).await.map(Some),
        None => Ok(None),
    }
}

/// An unknown name, a network without a password and a wrong password go the same way and take as long.
async fn join_by_password(
    store: &dyn Store,
    passwords: &dyn Passwords,
    join: PasswordJoin,
) -> Result<JoinedNetwork> {
    let stored = store.password_of(join.name).await?;
    let hash = stored.as_ref().map(|stored| stored.hash.clone());
    let right = passwords.verify(join.password, hash).await?;
    match stored {
        Some(verified) if right => {
            let join = JoinByPassword {
                verified,
                newcomer: join.newcomer,
                now: join.now,
            };
            store.join_by_password(join).await
        }
        _ => Err(Refusal::WrongPassword.into()),
    }
}
