//! Steps of progress. Each is an audit event in the transaction of what it reports, so that the order in which watchers
//! see them is that of the log, and no step is lost or reported twice.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Counts, Job};
use crate::audit::{Event, EventType, StoredEvent};
use crate::fault::{Fault, Result};
use crate::migration::vocabulary::{ItemReason, MigrationState, WaitReason};

/// Failures that a step names; all of them are in the list of items.
const NAMED: usize = 20;

/// Types of the events that are steps.
pub(super) const TYPES: [EventType; 5] = [
    EventType::MigrationStarted,
    EventType::MigrationBatchProcessed,
    EventType::MigrationTakenOver,
    EventType::MigrationCompleted,
    EventType::MigrationFailed,
];

/// An item that failed or needs review.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub item_id: Uuid,
    pub user_id: Uuid,
    pub reason: ItemReason,
}

/// A step of progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its number, from 0 without gaps.
    pub step: i64,
    /// Where the migration stands after it.
    pub state: MigrationState,
    /// The items after it.
    pub counts: Counts,
    /// Items finished in it.
    pub finished: i64,
    /// Items that failed in it, the first few.
    pub failures: Vec<Failure>,
    /// What the migration waits for.
    pub waiting_for: Option<WaitReason>,
    /// Milliseconds since the migration was taken up.
    pub elapsed_ms: i64,
}

impl Step {
    /// Where `job` stands, as its last step.
    pub fn of(job: &Job) -> Self {
        Self {
            step: job.step,
            state: job.state,
            counts: job.counts,
            finished: 0,
            failures: Vec::new(),
            waiting_for: job.waiting_for,
            elapsed_ms: job.elapsed_ms,
        }
    }

    /// The step with what was finished in it.
    #[must_use]
    pub fn finishing(mut self, finished: i64, failures: Vec<Failure>) -> Self {
        self.finished = finished;
        self.failures = failures;
        self.failures.truncate(NAMED);
        self
    }

    /// Users moved per second since the migration was taken up.
    pub fn items_per_second(&self) -> f64 {
        // Both are far below what a double holds exactly.
        if self.elapsed_ms > 0 { self.counts.done as f64 * 1000.0 / self.elapsed_ms as f64 } else { 0.0 }
    }

    /// The event of the step.
    pub fn event(&self, event: Event, job: &Job) -> Event {
        event
            .tenant(job.tenant_id)
            .target("migration", job.migration_id)
            .detail("step", self.step)
            .detail("state", self.state)
            .detail("counts", self.counts)
            .detail("finished", self.finished)
            .detail("failures", &self.failures)
            .detail("waiting_for", self.waiting_for)
            .detail("elapsed_ms", self.elapsed_ms)
    }

    /// The step that an event reports.
    ///
    /// # Errors
    /// When it holds values that this release does not know: a watcher that skipped it might wait for ever for the last one.
    pub(super) fn read(event: &StoredEvent) -> Result<Self> {
        serde_json::from_value(serde_json::Value::Object(event.details.clone()))
            .map_err(|_| Fault::unknown_word("audit_events.details", event.event_id))
    }
}
