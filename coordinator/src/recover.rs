//! The operator ends a recovery: on the database of a coordinator that is stopped.

use std::path::Path;

use kanpachi_common::UnixTime;
use zeroize::Zeroizing;

use crate::{
    clock,
    org::Organisation,
    server::StartError,
    service::ServiceError,
    store::{
        EndRecovery, Recovered, Recovery, Store, StoreError,
        sqlite::{DATABASE, Database, SqliteStore},
    },
};

/// The database of a coordinator that is not running. Nobody else has it while the value lives.
#[derive(Debug)]
pub struct Stopped {
    store: SqliteStore,
}

impl Stopped {
    /// Opens what is there; nothing is made.
    ///
    /// # Errors
    /// [`StartError`], also while the coordinator runs.
    pub fn open(state_dir: &Path) -> Result<Self, StartError> {
        if !state_dir.join(DATABASE).exists() {
            let text = format!("there is no coordinator in {}", state_dir.display());
            return Err(StoreError::Path(text).into());
        }
        let mut database = Database::open(state_dir)?;
        let organisation = Organisation::open(&mut database, None, clock::wall())?;
        let store = database.into_store(organisation.signer.clone())?;
        Ok(Self { store })
    }

    /// The recovery that it is in, if any.
    ///
    /// # Errors
    /// [`StartError`]
    pub async fn recovery(&self) -> Result<Option<Recovery>, StartError> {
        Ok(self.store.recovery().await?)
    }

    /// Ends it.
    ///
    /// # Errors
    /// [`StartError`]; also when newer heads were seen than the rosters that are here, unless that is `incomplete` on
    /// purpose.
    pub async fn end(&self, incomplete: bool) -> Result<Recovered, StartError> {
        end(&self.store, incomplete).await
    }
}

/// Ends the recovery of a store that nobody serves yet.
///
/// # Errors
/// [`StartError`]
pub async fn end(store: &dyn Store, incomplete: bool) -> Result<Recovered, StartError> {
    let mut seed = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *seed).map_err(ServiceError::from)?;
    let end = EndRecovery {
        seed: *seed,
        incomplete,
        now: clock::wall(),
    };
    Ok(store.end_recovery(end).await?)
}

/// What a person should know of a recovery before ending it, line by line.
#[must_use]
pub fn describe(recovery: &Recovery, now: UnixTime) -> Vec<String> {
    let minutes = now.0.saturating_sub(recovery.since.0) / 60;
    let mut lines = vec![format!(
        "in recovery for {minutes} minutes: members know more than this database"
    )];
    lines.extend(recovery.networks.iter().map(ToString::to_string));
    for (node, address) in &recovery.displaced {
        lines.push(format!(
            "{address} belongs to another machine by the roster of its members: {} gets a new address",
            node.short()
        ));
    }
    if recovery.suspensions > 0 {
        lines.push(format!(
            "{} suspensions by owners become evictions",
            recovery.suspensions
        ));
    }
    lines.push(
        "all invites that were made before end; networks that were taken over have no password until an owner sets one; whoever is missing from their rosters needs a new invite"
            .to_owned(),
    );
    lines
}

/// What came of it, line by line.
#[must_use]
pub fn summarise(recovered: &Recovered) -> Vec<String> {
    let mut lines = vec![format!(
        "recovery ended: {} networks go on, {} members were evicted by suspensions",
        recovered.changed.len(),
        recovered.evicted
    )];
    for (node, address) in &recovered.moved {
        lines.push(format!("{} has the address {address} now", node.short()));
    }
    lines
}
