//! Starting the migration that a plan describes.

use crate::db::Connection;
use uuid::Uuid;

use super::{Job, Jobs, Step, store};
use crate::access::Call;
use crate::audit::{Event, EventType};
use crate::fault::{Fault, Reason, Result};

/// A plan that is to be started.
#[derive(Clone, Debug)]
pub struct Starting<'a> {
    pub plan_id: Uuid,
    /// Its digest, as the starter saw it.
    pub digest: &'a [u8],
    /// `request_id` of the call.
    pub request_id: Option<Uuid>,
}

impl Jobs {
    /// Starts a migration in the transaction of the call: what the plan foresees to fail has failed, the rest is for the
    /// engine.
    ///
    /// # Errors
    /// `NOT_FOUND`, `PLAN_STALE`, `MIGRATION_OVERLAP`.
    pub async fn start(&self, tx: &mut Connection, call: &Call, starting: &Starting<'_>) -> Result<Job> {
        let stale = |text| Fault::new(Reason::PlanStale, text);
        let plan = store::lock_plan(tx, starting.plan_id).await?.ok_or_else(|| Fault::not_found("plan"))?;
        if plan.digest != starting.digest {
            return Err(stale("The digest is not that of the plan."));
        }
        if plan.expires_at <= self.context.now() {
            return Err(stale("The plan has expired."));
        }
        if let Some(migration_id) = plan.migration_id {
            return Err(stale("The plan was started before.").with("migration_id", migration_id));
        }
        let migration_id = self.context.new_id();
        store::insert_job(tx, migration_id, starting.plan_id, call.principal()?.id).await?;
        store::by_index(tx).await?;
        store::insert_items(tx, migration_id, starting.plan_id).await?;
        let job = store::job(tx, migration_id)
            .await?
            .ok_or_else(|| Fault::internal("the migration just started is not there"))?;
        store::refuse_overtaken(tx, starting.plan_id, job.counts.pending).await?;
        let event = Step::of(&job)
            .event(Event::new(EventType::MigrationStarted, call), &job)
            .request(starting.request_id)
            .detail("plan_id", starting.plan_id);
        self.recorder.record(tx, event).await?;
        Ok(job)
    }
}
