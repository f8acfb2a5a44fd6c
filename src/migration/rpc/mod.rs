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
use crate::access::paging::{cut, page_size};
use crate::access::replay::{Answer, ChangeRequest, answers_without_secrets};
use crate::access::{Call, input};
use crate::audit::Streams;
use crate::authenticate::StepUps;
use crate::change::Changes;
use crate::db::Scope;
use crate::fault::Result;
use crate::kanidm::Kanidm;
use crate::proto::*;
use crate::session::Sessions;
use crate::shared::Core;

const READ: &str = "migration.read";
const RUN: &str = "migration.run";
const GET_PLAN: &str = "GetPlan";
const LIST: &str = "ListMigrations";
const LIST_ITEMS: &str = "ListMigrationItems";
const PLAN: &str = "PlanMigration";
const START: &str = "StartMigration";
/// The method that cursors belong to.
const WATCH: &str = "WatchMigration";

/// `sidle.v1.MigrationService`.
#[derive(Clone)]
pub struct Service {
    core: Core,
    streams: Streams,
    step_ups: StepUps,
    groups: Groups,
    plans: Plans,
    jobs: Jobs,
}

impl Service {
    /// The service that moves users to this Kanidm with this engine, where there is one; what ends is reported to
    /// `sessions`.
    pub fn new(
        core: Core,
        sessions: &Sessions,
        streams: Streams,
        step_ups: StepUps,
        kanidm: Option<Kanidm>,
        engine: Option<&Engine>,
    ) -> Self {
        let changes = Changes::new(&core, sessions.revocations.clone());
        let groups = Groups::new(&core, kanidm.clone());
        Self {
            plans: Plans::new(&core, changes.clone(), groups.clone(), kanidm),
            jobs: Jobs::new(&core, changes, engine.map(Engine::wake)),
            groups,
            core,
            streams,
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
        let asked = ChangeRequest::new(PLAN, &request.request_id, false, &request);
        let answer = |plan| PlanMigrationResponse { plan: Some(convert::plan(plan)) };
        self.plans.make(call, scope, &asked, cohort, answer).await
    }

    async fn plan_of(&self, call: &Call, request: GetPlanRequest) -> Result<GetPlanResponse> {
        let scope = Self::read_scope(call)?;
        let plan_id = input::uuid("plan_id", &request.plan_id)?;
        let forecast = convert::forecast(request.forecast)?;
        let size = page_size(request.page_size)?;
        let bound = (plan_id, forecast);
        let after = self.core.paging.decode(call, GET_PLAN, &bound, &request.page_token)?.unwrap_or(0);
        let plan = self.plans.get(scope, plan_id).await?;
        let mut items = self.plans.items(scope, plan_id, forecast, after, size + 1).await?;
        let last = cut(&mut items, size).map(|(ordinal, _)| *ordinal);
        Ok(GetPlanResponse {
            plan: Some(convert::plan(plan)),
            next_page_token: last
                .map(|last| self.core.paging.encode(call, GET_PLAN, &bound, &last))
                .unwrap_or_default(),
            items: items.into_iter().map(|(_, item)| convert::plan_item(item)).collect(),
        })
    }

    async fn start(&self, call: &Call, request: StartMigrationRequest) -> Result<StartMigrationResponse> {
        self.jobs.ensure_startable()?;
        let scope = call.principal()?.authorize(RUN, None)?;
        let starting = Starting {
            plan_id: input::uuid("plan_id", &request.plan_id)?,
            digest: &convert::plan_digest(&request.plan_digest)?,
            request_id: input::optional_uuid("request_id", &request.request_id)?,
        };
        let asked = ChangeRequest::new(START, &request.request_id, request.validate_only, &request);
        let answer = |job| StartMigrationResponse { migration: Some(convert::migration(job, Vec::new())) };
        self.jobs.start(call, scope, &asked, &starting, answer).await
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
        let after = self.core.paging.decode(call, LIST, &filter, &request.page_token)?;
        let mut jobs = self.jobs.list(scope, filter, after, size + 1).await?;
        let last = cut(&mut jobs, size).map(|job| job.migration_id);
        Ok(ListMigrationsResponse {
            next_page_token: last.map(|last| self.core.paging.encode(call, LIST, &filter, &last)).unwrap_or_default(),
            migrations: jobs.into_iter().map(|job| convert::migration(job, Vec::new())).collect(),
        })
    }

    async fn list_items(&self, call: &Call, request: ListMigrationItemsRequest) -> Result<ListMigrationItemsResponse> {
        let scope = Self::read_scope(call)?;
        let migration_id = input::uuid("migration_id", &request.migration_id)?;
        let filter = convert::item_filter(&request.states, &request.reasons)?;
        let size = page_size(request.page_size)?;
        let bound = (migration_id, &filter);
        let after = self.core.paging.decode(call, LIST_ITEMS, &bound, &request.page_token)?.unwrap_or(0);
        let mut items = self.jobs.items(scope, migration_id, &filter, after, size + 1).await?;
        let last = cut(&mut items, size).map(|item| item.ordinal);
        Ok(ListMigrationItemsResponse {
            next_page_token: last
                .map(|last| self.core.paging.encode(call, LIST_ITEMS, &bound, &last))
                .unwrap_or_default(),
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
        let cursor = self.core.paging.decode(&call, WATCH, &migration_id, &request.cursor)?;
        let heartbeat = Heartbeat::interval(request.heartbeat_interval, 1..=60)?;
        let updates = self.jobs.watch(call.clone(), &self.streams, scope, migration_id, cursor, heartbeat).await?;
        let paging = self.core.paging.clone();
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

answers_without_secrets!(PlanMigrationResponse);

impl Answer for StartMigrationResponse {
    fn for_repeats(&self) -> Self {
        self.clone()
    }

    fn of_validation(mut self) -> Self {
        if let Some(migration) = &mut self.migration {
            migration.migration_id.clear();
        }
        self
    }
}
