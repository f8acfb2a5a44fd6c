//! The RPCs of migration: read the request, call the module, write the response.

mod convert;
mod import;
mod table;

use futures_util::stream::{Stream, StreamExt as _};
use uuid::Uuid;

use super::engine::Engine;
use super::groups::{self, Groups};
use super::jobs::{JobFilter, Jobs, Starting};
use super::plan::Plans;
use crate::access::live::Heartbeat;
use crate::access::paging::{Paging, cut, page_size};
use crate::access::replay::Replay;
use crate::access::{Call, input};
use crate::audit::{Recorder, Streams};
use crate::authenticate::StepUps;
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Result};
use crate::kanidm::Kanidm;
use crate::proto::*;

const READ: &str = "migration.read";
const RUN: &str = "migration.run";
const GET_PLAN: &str = "GetPlan";
const LIST: &str = "ListMigrations";
const LIST_ITEMS: &str = "ListMigrationItems";
const PLAN: &str = "PlanMigration";
const START: &str = "StartMigration";
/// The method that cursors belong to.
const WATCH: &str = "WatchMigration";

/// What the service is made of.
#[derive(Clone)]
pub struct Parts {
    /// Connections to Postgres.
    pub db: Db,
    /// Time and randomness.
    pub context: Context,
    /// Writes audit events.
    pub recorder: Recorder,
    /// Page tokens and cursors.
    pub paging: Paging,
    /// Opens streams over the audit log, in which progress stands.
    pub streams: Streams,
    /// The Kanidm to move to, where one is configured.
    pub kanidm: Option<Kanidm>,
    /// The engine of this replica, where there is a Kanidm.
    pub engine: Option<Engine>,
    /// Asks for fresh proofs.
    pub step_ups: StepUps,
}

/// `sidle.v1.MigrationService`.
#[derive(Clone)]
pub struct Service {
    db: Db,
    context: Context,
    recorder: Recorder,
    paging: Paging,
    streams: Streams,
    kanidm: Option<Kanidm>,
    engine: Option<Engine>,
    step_ups: StepUps,
    groups: Groups,
    plans: Plans,
    jobs: Jobs,
}

impl Service {
    /// The service made of these parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { db, context, recorder, paging, streams, kanidm, engine, step_ups } = parts;
        let groups = Groups::new(db.clone(), context.clone(), recorder.clone(), kanidm.clone());
        Self {
            plans: Plans::new(db.clone(), context.clone(), recorder.clone(), groups.clone(), kanidm.clone()),
            jobs: Jobs::new(db.clone(), context.clone(), recorder.clone()),
            groups,
            db,
            context,
            recorder,
            paging,
            streams,
            kanidm,
            engine,
            step_ups,
        }
    }

    /// The scope in which the caller may use `permission` on these tenants, and the tenants: where none is named, those
    /// that the caller reaches.
    fn reach(call: &Call, permission: &'static str, tenants: Vec<Uuid>) -> Result<(Scope, Vec<Uuid>)> {
        let principal = call.principal()?;
        for tenant in &tenants {
            principal.authorize(permission, Some(*tenant))?;
        }
        let scope = principal.authorize(permission, None)?;
        let tenants = if tenants.is_empty() { scope.tenant().into_iter().collect() } else { tenants };
        Ok((scope, tenants))
    }

    fn read_scope(call: &Call) -> Result<Scope> {
        call.principal()?.authorize(READ, None)
    }

    async fn plan(&self, call: &Call, request: PlanMigrationRequest) -> Result<PlanMigrationResponse> {
        let mut cohort = convert::cohort(request.cohort.clone().unwrap_or_default())?;
        let (scope, tenants) = Self::reach(call, RUN, std::mem::take(&mut cohort.tenant_ids))?;
        cohort.tenant_ids = tenants;
        // A repeat is answered before Kanidm is asked again, and once more when two were concurrent.
        let mut tx = self.db.begin(scope).await?;
        let (_, earlier) = Replay::begin(&mut tx, call, PLAN, &request.request_id, &request).await?;
        if let Some(answer) = earlier {
            return Ok(answer);
        }
        drop(tx);
        let draft = self.plans.draft(scope, cohort).await?;
        let mut tx = self.db.begin(scope).await?;
        let (replay, earlier) = Replay::begin(&mut tx, call, PLAN, &request.request_id, &request).await?;
        if let Some(answer) = earlier {
            return Ok(answer);
        }
        self.plans.keep(&mut tx, call, &draft).await?;
        let response = PlanMigrationResponse { plan: Some(convert::plan(draft.plan)) };
        Replay::finish(replay, &mut tx, &response).await?;
        tx.commit().await?;
        Ok(response)
    }

    async fn plan_of(&self, call: &Call, request: GetPlanRequest) -> Result<GetPlanResponse> {
        let scope = Self::read_scope(call)?;
        let plan_id = input::uuid("plan_id", &request.plan_id)?;
        let forecast = convert::forecast(request.forecast)?;
        let size = page_size(request.page_size)?;
        let bound = (plan_id, forecast);
        let after = self.paging.decode(call, GET_PLAN, &bound, &request.page_token)?.unwrap_or(0);
        let plan = self.plans.get(scope, plan_id).await?;
        let mut items = self.plans.items(scope, plan_id, forecast, after, size + 1).await?;
        let last = cut(&mut items, size).map(|(ordinal, _)| *ordinal);
        Ok(GetPlanResponse {
            plan: Some(convert::plan(plan)),
            next_page_token: last.map(|last| self.paging.encode(call, GET_PLAN, &bound, &last)).unwrap_or_default(),
            items: items.into_iter().map(|(_, item)| convert::plan_item(item)).collect(),
        })
    }

    async fn start(&self, call: &Call, request: StartMigrationRequest) -> Result<StartMigrationResponse> {
        groups::configured(self.kanidm.as_ref())?;
        let scope = call.principal()?.authorize(RUN, None)?;
        let starting = Starting {
            plan_id: input::uuid("plan_id", &request.plan_id)?,
            digest: &convert::plan_digest(&request.plan_digest)?,
            request_id: input::optional_uuid("request_id", &request.request_id)?,
        };
        if starting.request_id.is_none() && !request.validate_only {
            return Err(Fault::field("request_id", "must be a UUID, so that the call can be repeated safely"));
        }
        let mut tx = self.db.begin(scope).await?;
        let request_id = if request.validate_only { "" } else { &request.request_id };
        let (replay, earlier) = Replay::begin(&mut tx, call, START, request_id, &request).await?;
        if let Some(answer) = earlier {
            return Ok(answer);
        }
        let job = self.jobs.start(&mut tx, call, &starting).await?;
        let mut response = StartMigrationResponse { migration: Some(convert::migration(job, Vec::new())) };
        if request.validate_only {
            // Everything was done as it would be, and is undone now.
            drop(tx);
            if let Some(migration) = &mut response.migration {
                migration.migration_id.clear();
            }
            return Ok(response);
        }
        Replay::finish(replay, &mut tx, &response).await?;
        tx.commit().await?;
        if let Some(engine) = &self.engine {
            engine.wake();
        }
        Ok(response)
    }

    async fn get(&self, call: &Call, request: GetMigrationRequest) -> Result<GetMigrationResponse> {
        let scope = Self::read_scope(call)?;
        let migration_id = input::uuid("migration_id", &request.migration_id)?;
        let job = self.jobs.get(scope, migration_id).await?;
        let reasons = convert::reasons(self.jobs.reasons(scope, migration_id).await?);
        Ok(GetMigrationResponse { migration: Some(convert::migration(job, reasons)) })
    }

    async fn list(&self, call: &Call, request: ListMigrationsRequest) -> Result<ListMigrationsResponse> {
        let scope = Self::read_scope(call)?;
        let filter =
            JobFilter { state: convert::migration_state(request.state)?, kind: convert::migration_kind(request.kind)? };
        let size = page_size(request.page_size)?;
        let after = self.paging.decode(call, LIST, &filter, &request.page_token)?;
        let mut jobs = self.jobs.list(scope, filter, after, size + 1).await?;
        let last = cut(&mut jobs, size).map(|job| job.migration_id);
        Ok(ListMigrationsResponse {
            next_page_token: last.map(|last| self.paging.encode(call, LIST, &filter, &last)).unwrap_or_default(),
            migrations: jobs.into_iter().map(|job| convert::migration(job, Vec::new())).collect(),
        })
    }

    async fn list_items(&self, call: &Call, request: ListMigrationItemsRequest) -> Result<ListMigrationItemsResponse> {
        let scope = Self::read_scope(call)?;
        let migration_id = input::uuid("migration_id", &request.migration_id)?;
        let filter = convert::item_filter(&request.states, &request.reasons)?;
        let size = page_size(request.page_size)?;
        let bound = (migration_id, &filter);
        let after = self.paging.decode(call, LIST_ITEMS, &bound, &request.page_token)?.unwrap_or(0);
        let mut items = self.jobs.items(scope, migration_id, &filter, after, size + 1).await?;
        let last = cut(&mut items, size).map(|item| item.ordinal);
        Ok(ListMigrationItemsResponse {
            next_page_token: last.map(|last| self.paging.encode(call, LIST_ITEMS, &bound, &last)).unwrap_or_default(),
            items: items.into_iter().map(|item| convert::item(migration_id, item)).collect(),
        })
    }

    async fn watch(
        &self,
        call: Call,
        request: WatchMigrationRequest,
    ) -> Result<impl Stream<Item = Result<WatchMigrationResponse>> + use<>> {
        let scope = Self::read_scope(&call)?;
        let migration_id = input::uuid("migration_id", &request.migration_id)?;
        let cursor = self.paging.decode(&call, WATCH, &migration_id, &request.cursor)?;
        let heartbeat = Heartbeat::interval(request.heartbeat_interval, 1..=60)?;
        let updates = self.jobs.watch(call.clone(), &self.streams, scope, migration_id, cursor, heartbeat).await?;
        let paging = self.paging.clone();
        Ok(updates.map(move |update| {
            let update = update?;
            let cursor = paging.encode(&call, WATCH, &migration_id, &update.cursor);
            Ok(convert::update(&update, cursor))
        }))
    }

    async fn sync_groups(&self, call: &Call, request: SyncTenantGroupsRequest) -> Result<SyncTenantGroupsResponse> {
        let tenants = request.tenant_ids.iter().map(|id| input::uuid("tenant_ids", id)).collect::<Result<Vec<_>>>()?;
        let (scope, tenants) = Self::reach(call, RUN, tenants)?;
        let groups = if request.validate_only {
            self.groups.inspect(scope, &tenants).await?
        } else {
            self.groups.sync(call, scope, &tenants).await?
        };
        groups::all_usable(&groups)?;
        Ok(SyncTenantGroupsResponse { groups: groups.into_iter().map(convert::group).collect() })
    }
}
