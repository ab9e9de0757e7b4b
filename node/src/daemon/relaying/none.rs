//! Stands in for the relay in a program without servers: it cannot be made.

use std::convert::Infallible;

use kanpachi_proto::roster::Rosters;
use kanpachi_transport::SharedSocket;

use crate::{
    dataplane::Aside,
    ipc::{api, error::ApiError},
};

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::daemon) struct Relaying(Infallible);

impl Relaying {
    /// Says that there is none.
    pub(in crate::daemon) fn new(_: SharedSocket, _: Option<u64>) -> Result<Self, ApiError> {
        Err(
            ApiError::usage("--relay: this program was built without a relay")
                .hint("use one that was built with the feature host"),
        )
    }

    pub(in crate::daemon) fn datagrams(&self) -> Box<dyn Aside> {
        match self.0 {}
    }

    pub(in crate::daemon) fn counts(&self) -> api::Relaying {
        match self.0 {}
    }

    pub(in crate::daemon) fn set_rosters(&self, _: Option<&Rosters>) {
        match self.0 {}
    }

    pub(in crate::daemon) fn serve(&self, _: &mut kanpachi_transport::streams::Control) {
        match self.0 {}
    }
}
