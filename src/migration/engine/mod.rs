//! The engine that moves users to Kanidm. Every replica runs one; a job is leased to one of them at a time, and taken over
//! when its holder stops sending heartbeats. What is to be done is read from the items, never remembered: an engine
//! that is killed anywhere leaves nothing behind that the next one does not find.

mod adopt;
mod batch;
mod create;
mod isolation;
mod item;
mod pace;
mod project;
mod run;
mod store;
mod trouble;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::pace::Pace;
use super::groups::Groups;
use crate::audit::Recorder;
use crate::config::MigrationConfig;
use crate::context::Context;
use crate::db::Db;
use crate::kanidm::Kanidm;
use crate::metrics::Metrics;
use crate::shared::Core;

/// The engine of this replica. Clones are the same engine.
#[derive(Clone)]
pub struct Engine {
    parts: Arc<Parts>,
}

struct Parts {
    db: Db,
    context: Context,
    recorder: Recorder,
    metrics: Metrics,
    groups: Groups,
    kanidm: Kanidm,
    config: MigrationConfig,
    /// Stands for this replica in leases.
    replica: Uuid,
    wake: Arc<Notify>,
    paces: Mutex<Paces>,
}

/// How fast this Kanidm is, by kind of call.
struct Paces {
    create: Pace,
    join: Pace,
}

/// A job that this replica holds.
#[derive(Clone, Copy, Debug)]
struct Lease {
    migration_id: Uuid,
    owner: Uuid,
    /// Every taking-up has a number; what was begun under an older one is refused by the database.
    epoch: i64,
    duration: Duration,
}

impl Engine {
    /// An engine for this Kanidm.
    pub fn new(core: Core, kanidm: Kanidm, config: MigrationConfig) -> Self {
        let pace = Pace::new(config.batch_size, kanidm.limit(), config.longest_call);
        let paces = Mutex::new(Paces { create: pace.clone(), join: pace });
        let kanidm = for_questions(&kanidm, config.longest_call);
        let groups = Groups::new(&core, Some(kanidm.clone()));
        let Core { db, context, recorder, metrics, .. } = core;
        let replica = context.new_id();
        let wake = Arc::new(Notify::new());
        Self { parts: Arc::new(Parts { db, context, recorder, metrics, groups, kanidm, config, replica, wake, paces }) }
    }

    /// Reads or updates the paces.
    fn pace<T>(&self, with: impl FnOnce(&mut Paces) -> T) -> T {
        with(&mut self.parts.paces.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notified, it wakes the engine, since there may be something to do. Not needed for correctness: it looks by itself.
    pub(super) fn wake(&self) -> Arc<Notify> {
        Arc::clone(&self.parts.wake)
    }

    /// Works until `stop` is cancelled: takes jobs up, one at a time, and gives the one in hand back at the end. One that
    /// cannot go on is deferred, so that it holds up no other. What goes wrong is logged and retried.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            // It looks at `stop` by itself, and gives the job back before it returns.
            let worked = self.work_once(&stop).await;
            let pause = match worked {
                Ok(None) => continue,
                Ok(Some(pause)) => pause.min(self.parts.config.poll),
                Err(fault) => {
                    tracing::warn!(event = "migration_engine_interrupted", cause = %fault, "the engine will try again");
                    self.parts.context.entropy.jitter(self.parts.config.poll)
                }
            };
            tokio::select! {
                () = self.parts.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    }
}

/// The client of Kanidm for questions, which may take as long as anything.
fn for_questions(kanidm: &Kanidm, longest: Duration) -> Kanidm {
    kanidm.within(longest.max(kanidm.limit()))
}
