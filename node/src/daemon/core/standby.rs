//! Logging out and in: a node that is logged out keeps what it knows, and is there for nobody.

use std::time::Duration;

use kanpachi_proto::spread::Spread;

use super::{Core, State, engine, refusals::logged_out};
use crate::{
    dataplane::OutboundThread,
    ipc::{api::SessionReply, error::ApiError},
    platform::Adapter as _,
};

/// The session with the organisation is given this long to say goodbye.
const GOODBYE: Duration = Duration::from_secs(2);

impl State {
    /// Nobody is there any more: what was under way with others never ends, and has to begin anew.
    fn forget_company(&mut self) {
        self.peers.clear();
        self.online.clear();
        self.up.clear();
        self.spread = Spread::default();
        self.records = None;
        self.standing = None;
        self.offered = None;
    }
}

impl Core {
    /// Takes up what is on disk, whether there is anything or not.
    pub(super) async fn take_up_state(&mut self) -> Result<(), ApiError> {
        self.state.logged_out = !self.db.is_logged_in()?;
        if !self.state.logged_out {
            return self.resume().await;
        }
        if let Some(org) = self.db.org()? {
            self.state.resting = Some(self.load_rosters(org)?);
        }
        tracing::warn!("this machine is logged out");
        self.progress.warn(format_args!(
            "this machine is logged out; log in with: kanpachi login"
        ));
        Ok(())
    }

    /// Begins to be there: session, adapter, peers.
    async fn resume(&mut self) -> Result<(), ApiError> {
        let Some(org) = self.db.org()? else {
            return Ok(());
        };
        let hints = self.db.hints()?;
        self.begin_session(org, hints).await?;
        // The servers first. Whom no direct path leads to waits for them, and with many members it takes a while until all
        // are tried.
        self.drive().await;
        self.servers_changed();
        self.bring_adapter_up().await?;
        self.members_changed().await;
        Ok(())
    }

    /// Logs in or out: on disk first, so that a restart in between changes nothing.
    pub(super) async fn set_logged_in(&mut self, wanted: bool) -> Result<SessionReply, ApiError> {
        let already = self.state.logged_out != wanted;
        if !already {
            self.db.set_logged_in(wanted)?;
            self.state.logged_out = !wanted;
            if !wanted {
                self.rest().await;
            } else if let Err(error) = self.resume().await {
                // Half there is worse than not there.
                self.db.set_logged_in(false)?;
                self.state.logged_out = true;
                self.rest().await;
                return Err(error);
            }
        }
        Ok(SessionReply {
            logged_in: wanted,
            already,
        })
    }

    /// Stops being there. The rosters stay at hand, for the status.
    async fn rest(&mut self) {
        self.finish_join(Err(logged_out()));
        self.fail_pending().await;
        // Whoever has a session with this node is told that it goes.
        self.engine.send(engine::Command::Members(vec![])).await;
        self.state.swarm_events = None;
        if let Some(session) = self.state.session.take() {
            session.stop.cancel();
            let _ = tokio::time::timeout(GOODBYE, session.running).await;
            self.state.resting = Some(session.rosters);
        }
        self.state.forget_company();
        self.state.last_error = None;
        self.state.coordinator_since = Some(jiff::Timestamp::now());
        self.take_adapter_down().await;
    }

    pub(super) async fn take_adapter_down(&mut self) {
        self.dataplane.detach();
        if let Some(adapter) = self.state.adapter.take() {
            adapter.stop();
            if let Some(Err(error)) = self.state.outbound.take().map(OutboundThread::join) {
                tracing::debug!(%error, "the adapter's reader");
            }
            if let Err(error) = adapter.close().await {
                tracing::debug!(%error, "the adapter");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Instant};

    use super::{
        super::fixture::{MEMBERS, Org},
        *,
    };

    #[test]
    fn a_member_that_was_being_asked_is_asked_after_the_next_login() {
        let (rosters, now) = (Org::new().rosters(1, &[("lan", &MEMBERS)]), Instant::now());
        let (peer, mut state) = (Org::node(2), State::default());
        let asked = |state: &mut State, now| {
            state.spread.set_peers(&BTreeSet::from([peer]));
            state.spread.handle_up(&peer, now);
            state
                .spread
                .poll_ask(&rosters, now + Duration::from_secs(60))
        };
        assert_eq!(asked(&mut state, now), Some(peer));
        state.forget_company();
        assert!(!state.spread.is_live(&peer));
        assert_eq!(asked(&mut state, now), Some(peer));
    }
}
