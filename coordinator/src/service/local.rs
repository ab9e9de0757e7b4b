//! What the program that runs the coordinator may ask for: networks, invites, addresses.

use std::time::Duration;

use kanpachi_common::{
    NetworkId, NodeId, Signed,
    id::Hash,
    invite::{self, Invite, InviteSecret},
    name,
    org::{Address, Directory, Server},
    roster::{HARD_SECONDS, SOFT_SECONDS},
    secret::NetworkSecret,
    time::DAY,
    wire::{control::InviteMade, mirror::Mirrored},
};
use zeroize::Zeroizing;

use super::{IN_INVITE, Servers, Service, ServiceError, actor::Input, server};
use crate::{
    clock,
    store::{NetworkSummary, NewInvite, NewNetwork, Refusal, RemoveMember, StoreError},
};

/// How often this machine's addresses are looked at.
const LOOK_AGAIN: Duration = Duration::from_secs(30);

/// What kind of invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InviteOptions {
    /// How often it may be used; `None` for any number of times.
    pub uses: Option<u32>,
    /// For how long, in seconds.
    pub expires_in: u64,
    /// Whoever joins by it becomes owner, if the network has none then.
    pub founder: bool,
}

impl Default for InviteOptions {
    /// Once, within seven days.
    fn default() -> Self {
        Self {
            uses: Some(1),
            expires_in: 7 * DAY,
            founder: false,
        }
    }
}

impl Service {
    /// The network of this name, created when there is none.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn ensure_network(&self, wanted: &str) -> Result<NetworkSummary, ServiceError> {
        let wanted = name::check(wanted).map_err(|e| ServiceError::Invalid(e.to_string()))?;
        if let Some(found) = self.find_network(&wanted).await? {
            return Ok(found);
        }
        self.may_sign()?;
        let new = NewNetwork {
            network: NetworkId(*random()?),
            name: wanted.clone(),
            secret: NetworkSecret::new(1, *random()?),
            soft_seconds: SOFT_SECONDS,
            hard_seconds: Some(HARD_SECONDS),
            now: clock::wall(),
        };
        match self.inner.store.create_network(new).await {
            Ok(created) => {
                self.changed(created.network).await?;
                Ok(created)
            }
            // Somebody else was faster.
            Err(StoreError::Refused(Refusal::NetworkExists)) => self
                .find_network(&wanted)
                .await?
                .ok_or_else(|| StoreError::from(Refusal::NetworkExists).into()),
            Err(error) => Err(error.into()),
        }
    }

    /// The network of this name, or any when there is none of it; nothing is created.
    ///
    /// # Errors
    /// [`ServiceError::Recovery`] when there is no network at all, or what the store says.
    pub async fn known_network(&self, wanted: &str) -> Result<NetworkSummary, ServiceError> {
        let found = match self.find_network(wanted).await? {
            Some(found) => Some(found),
            None => self.networks().await?.into_iter().next(),
        };
        found.ok_or_else(|| ServiceError::Recovery(self.recovery().unwrap_or_default()))
    }

    async fn find_network(&self, wanted: &str) -> Result<Option<NetworkSummary>, ServiceError> {
        let folded = name::fold(wanted);
        let networks = self.networks().await?;
        Ok(networks.into_iter().find(|n| name::fold(&n.name) == folded))
    }

    /// All networks, by name.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn networks(&self) -> Result<Vec<NetworkSummary>, ServiceError> {
        Ok(self.inner.store.networks().await?)
    }

    /// Makes an invite.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn make_invite(
        &self,
        network: NetworkId,
        options: InviteOptions,
    ) -> Result<InviteMade, ServiceError> {
        self.may_sign()?;
        if options.uses == Some(0) || options.expires_in == 0 {
            let text = "an invite is for at least one use and one second";
            return Err(ServiceError::Invalid(text.to_owned()));
        }
        let mut secret = InviteSecret([0; 16]);
        getrandom::fill(&mut secret.0)?;
        let now = clock::wall();
        let expires_at = now.plus(options.expires_in);
        let token_hash: Hash = invite::token_hash(&secret.token());
        let new = NewInvite {
            network,
            by: None,
            token_hash,
            uses: options.uses,
            expires_at,
            founder: options.founder,
            now,
        };
        let stored = self.inner.store.create_invite(new).await?;
        let link = Invite {
            org: self.inner.org,
            network,
            floor: stored.floor,
            secret,
            addresses: self.addresses(),
            name: stored.network_name,
        }
        .to_link();
        Ok(InviteMade { link, expires_at })
    }

    /// Ends a membership: for all members at once, with a new network secret.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn remove_member(
        &self,
        network: NetworkId,
        node: NodeId,
    ) -> Result<(), ServiceError> {
        self.may_sign()?;
        let remove = RemoveMember {
            network,
            node,
            by: None,
            secret: *random()?,
            now: clock::wall(),
        };
        self.inner.store.remove_member(remove).await?;
        self.changed(network).await
    }

    /// The addresses that invites hold, best first.
    #[must_use]
    pub fn addresses(&self) -> Vec<Address> {
        self.published().addresses
    }

    /// The newest directory.
    #[must_use]
    pub fn directory(&self) -> Signed<Directory> {
        self.published().directory
    }

    /// Publishes other addresses: the directory is signed again when they differ, and sent to everybody.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn set_servers(&self, servers: Servers) -> Result<(), ServiceError> {
        self.may_sign()?;
        let own: Server = server(self.inner.identity, &servers);
        let directory = self
            .inner
            .store
            .publish_directory(
                vec![own],
                servers.bootstraps,
                self.inner.directory_floor,
                clock::wall(),
            )
            .await?;
        let addresses: Vec<_> = servers.addresses.into_iter().take(IN_INVITE).collect();
        {
            let mut published = self
                .inner
                .published
                .write()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            published.directory = directory.clone();
            published.addresses.clone_from(&addresses);
        }
        self.input(Input::Directory(Box::new(directory), addresses))
            .await
    }

    /// Looks for the addresses again from time to time and publishes them when they differ.
    pub fn keep_current(&self, find: impl Fn() -> Servers + Send + 'static) {
        let (service, stop) = (self.clone(), self.inner.stop.clone());
        let look = async move {
            let mut current = find();
            loop {
                tokio::time::sleep(LOOK_AGAIN).await;
                let found = find();
                if found == current {
                    continue;
                }
                match service.set_servers(found.clone()).await {
                    Ok(()) => current = found,
                    Err(error) => tracing::warn!(%error, "new addresses could not be published"),
                }
            }
        };
        self.inner
            .tasks
            .spawn(async move { stop.run_until_cancelled_owned(look).await });
    }

    /// What a mirror keeps of a network, or of keys and servers alone.
    ///
    /// # Errors
    /// [`ServiceError`]
    pub async fn mirrored(&self, network: Option<NetworkId>) -> Result<Mirrored, ServiceError> {
        let roster = match network {
            Some(network) => Some(self.inner.store.public_roster(network).await?),
            None => None,
        };
        Ok(Mirrored {
            manifest: self.inner.manifest.clone(),
            directory: self.directory(),
            roster,
        })
    }

    /// An error while the members know more than this coordinator.
    pub(super) fn may_sign(&self) -> Result<(), ServiceError> {
        match self.recovery() {
            Some(why) => Err(ServiceError::Recovery(why)),
            None => Ok(()),
        }
    }
}

fn random() -> Result<Zeroizing<[u8; 32]>, ServiceError> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes)?;
    Ok(bytes)
}
