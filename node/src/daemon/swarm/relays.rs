//! The streams to relays that carry data.

use std::{collections::BTreeMap, sync::Arc};

use kanpachi_common::NodeId;
use tokio::task::AbortHandle;

use super::Task;
use crate::{
    daemon::{core::NativeWriter, engine, relay_io::Link},
    dataplane::Dataplane,
};

/// The streams to relays, each with its task.
pub(super) struct Links {
    engine: engine::Handle,
    dataplane: Arc<Dataplane<NativeWriter>>,
    tasks: BTreeMap<NodeId, AbortHandle>,
}

impl Links {
    pub(super) fn new(engine: engine::Handle, dataplane: Arc<Dataplane<NativeWriter>>) -> Self {
        Self {
            engine,
            dataplane,
            tasks: BTreeMap::new(),
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

impl Task {
    /// Keeps a stream to each of these, and to no others.
    pub(super) fn set_relays(&mut self, relays: Vec<NodeId>) {
        let control = &self.control;
        let links = &mut self.relays;
        links.tasks.retain(|relay, task| {
            let stays = relays.contains(relay);
            if !stays {
                task.abort();
            }
            stays
        });
        for relay in relays {
            links.tasks.entry(relay).or_insert_with(|| {
                let link = Link {
                    relay,
                    control: control.clone(),
                    engine: links.engine.clone(),
                    inbound: links.dataplane.inbound(),
                };
                tokio::spawn(link.keep()).abort_handle()
            });
        }
    }
}
