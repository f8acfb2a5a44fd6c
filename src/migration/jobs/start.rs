//! Starting the migration that a plan describes.

use uuid::Uuid;

use super::{Job, Jobs, Step, store};
use crate::access::Call;
use crate::access::replay::{Answer, ChangeRequest};
use crate::audit::{Event, EventType};
use crate::change::Change;
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};
use crate::migration::groups;

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
    /// Checks that there is an engine to run what is started.
    ///
    /// # Errors
    /// `KANIDM_NOT_CONFIGURED`.
    pub fn ensure_startable(&self) -> Result<()> {
        groups::configured(self.engine.as_ref()).map(|_| ())
    }

    /// Starts a migration for a call: what the plan foresees to fail has failed, the rest is for the engine.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a call that could not be repeated safely; `NOT_FOUND`, `PLAN_STALE`, `MIGRATION_OVERLAP`.
    pub async fn start<A: Answer>(
        &self,
        call: &Call,
        scope: Scope,
        request: &ChangeRequest<'_>,
        starting: &Starting<'_>,
        answer: impl FnOnce(Job) -> A,
    ) -> Result<A> {
        let engine = groups::configured(self.engine.as_ref())?;
        if starting.request_id.is_none() && !request.is_validation() {
            return Err(Fault::field("request_id", "must be a UUID, so that the call can be repeated safely"));
        }
        let mut change = self.changes.begin(scope).await?;
        if let Some(first) = change.repeated(call, request).await? {
            return Ok(first);
        }
        let job = self.make(&mut change, call, starting).await?;
        let answer = change.answer(answer(job)).await?;
        if !request.is_validation() {
            engine.notify_one();
        }
        Ok(answer)
    }

    async fn make(&self, change: &mut Change, call: &Call, starting: &Starting<'_>) -> Result<Job> {
        let stale = |text| Fault::new(Reason::PlanStale, text);
        let tx = &mut change.tx;
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
        change.record(event).await?;
        Ok(job)
    }
}
