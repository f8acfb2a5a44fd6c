//! Making a plan, and reading it back.

use std::collections::{BTreeMap, HashSet};

use chrono::TimeDelta;
use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::forecast::{Outlook, outlook};
use super::model::{Cohort, Plan, PlanItem};
use super::store::{self, User};
use crate::access::Call;
use crate::access::replay::{Answer, ChangeRequest};
use crate::audit::{Event, EventType};
use crate::change::{Change, Changes};
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Result};
use crate::kanidm::Kanidm;
use crate::migration::groups::{Groups, Standing, configured};
use crate::migration::import::HashCounts;
use crate::migration::vocabulary::{Forecast, ItemReason};
use crate::shared::Core;

/// Users that a plan holds at most.
const LARGEST: usize = 250_000;
/// Items that are written with one statement.
const BATCH: usize = 1000;
/// How long a plan can be started.
const LIFETIME: TimeDelta = TimeDelta::days(7);

/// Makes plans and reads them.
#[derive(Clone)]
pub struct Plans {
    db: Db,
    context: Context,
    changes: Changes,
    groups: Groups,
    kanidm: Option<Kanidm>,
}

impl Plans {
    /// Plans for this Kanidm.
    pub fn new(core: &Core, changes: Changes, groups: Groups, kanidm: Option<Kanidm>) -> Self {
        Self { db: core.db.clone(), context: core.context.clone(), changes, groups, kanidm }
    }

    /// Makes a plan for a call: what a migration of the cohort would do.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a cohort that is empty or too large; `KANIDM_NOT_CONFIGURED`, `KANIDM_UNAVAILABLE`,
    /// `KANIDM_REFUSED`.
    pub async fn make<A: Answer>(
        &self,
        call: &Call,
        scope: Scope,
        request: &ChangeRequest<'_>,
        cohort: Cohort,
        answer: impl FnOnce(Plan) -> A,
    ) -> Result<A> {
        // A repeat is answered before Kanidm is asked again, and once more when two were concurrent.
        let mut change = self.changes.begin(scope).await?;
        if let Some(first) = change.repeated(call, request).await? {
            return Ok(first);
        }
        drop(change);
        let draft = self.draft(scope, cohort).await?;
        let mut change = self.changes.begin(scope).await?;
        if let Some(first) = change.repeated(call, request).await? {
            return Ok(first);
        }
        keep(&mut change, call, &draft).await?;
        change.answer(answer(draft.plan)).await
    }

    /// Works out a plan and does not keep it yet. Reads users, and asks Kanidm without holding a transaction.
    async fn draft(&self, scope: Scope, cohort: Cohort) -> Result<Draft> {
        let kanidm = configured(self.kanidm.as_ref())?;
        let wanted = cohort.limit.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
        let limit = wanted.unwrap_or(LARGEST + 1).min(LARGEST + 1);
        let mut tx = self.db.begin(scope).await?;
        let users = store::users(&mut tx, scope, &cohort, i64::try_from(limit).unwrap_or(i64::MAX)).await?;
        drop(tx);
        if users.is_empty() {
            return Err(Fault::field("cohort", "must hold at least one active user who signs in with a password only"));
        }
        if users.len() > LARGEST {
            return Err(Fault::field("cohort", format!("must hold at most {LARGEST} users; plan tenant by tenant")));
        }
        let tenants: HashSet<Uuid> = users.iter().map(|user| user.tenant_id).collect();
        let tenants: Vec<Uuid> = tenants.into_iter().collect();
        let groups = self.groups.inspect(scope, &tenants).await?;
        let foreign: HashSet<Uuid> =
            groups.iter().filter(|group| group.standing == Standing::NotOurs).map(|group| group.tenant_id).collect();
        let outlooks = outlook(&self.db, kanidm, &users, &foreign).await?;
        Ok(self.assemble(cohort, &tenants, &users, outlooks))
    }

    fn assemble(&self, cohort: Cohort, tenants: &[Uuid], users: &[User], outlooks: Vec<Outlook>) -> Draft {
        let now = self.context.now();
        let mut plan = Plan {
            plan_id: self.context.new_id(),
            tenant_id: if let [only] = tenants { Some(*only) } else { None },
            cohort,
            digest: Vec::new(),
            total: 0,
            will_be_created: 0,
            needs_review: 0,
            will_be_refused: 0,
            reasons: BTreeMap::new(),
            hashes: HashCounts::new(),
            names_derived: 0,
            created_at: now,
            expires_at: now + LIFETIME,
            migration_id: None,
        };
        let mut items = Vec::with_capacity(users.len());
        for (user, outlook) in users.iter().zip(outlooks) {
            count(&mut plan, user, &outlook);
            items.push(item(self.context.new_id(), user, outlook));
        }
        plan.digest = digest(&items);
        Draft { plan, items }
    }

    /// A plan.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn get(&self, scope: Scope, plan_id: Uuid) -> Result<Plan> {
        let mut tx = self.db.begin(scope).await?;
        store::plan(&mut tx, plan_id).await?.ok_or_else(|| Fault::not_found("plan"))
    }

    /// Items of a plan after an ordinal, with their ordinals.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn items(
        &self,
        scope: Scope,
        plan_id: Uuid,
        forecast: Option<Forecast>,
        after: i32,
        limit: i64,
    ) -> Result<Vec<(i32, PlanItem)>> {
        let mut tx = self.db.begin(scope).await?;
        store::items(&mut tx, plan_id, forecast, after, limit).await
    }
}

/// A plan that is not kept yet.
struct Draft {
    plan: Plan,
    items: Vec<PlanItem>,
}

/// Counts a user of the plan.
fn count(plan: &mut Plan, user: &User, outlook: &Outlook) {
    plan.total += 1;
    *match outlook.forecast {
        Forecast::WillBeCreated => &mut plan.will_be_created,
        Forecast::NeedsReview => &mut plan.needs_review,
        Forecast::WillBeRefused => &mut plan.will_be_refused,
    } += 1;
    if let Some(reason) = outlook.reason {
        *plan.reasons.entry(reason).or_default() += 1;
    }
    if user.username.as_deref() != Some(outlook.name.as_str()) {
        plan.names_derived += 1;
    }
    let hash = (user.hash_kind.clone().unwrap_or_default(), i32::from(user.hash_cost.unwrap_or_default()));
    *plan.hashes.entry(hash).or_default() += 1;
}

/// What is intended for a user.
fn item(item_id: Uuid, user: &User, outlook: Outlook) -> PlanItem {
    PlanItem {
        item_id,
        user_id: user.user_id,
        tenant_id: user.tenant_id,
        user_version: user.version,
        user_rights_version: user.rights_version,
        display_name: user.display_name(&outlook.name),
        kanidm_name: outlook.name,
        mail: user.email_key.clone(),
        is_admin: user.is_admin,
        group_names: user.group_names(),
        forecast: outlook.forecast,
        reason: outlook.reason,
    }
}

/// Keeps a draft.
async fn keep(change: &mut Change, call: &Call, draft: &Draft) -> Result<()> {
    let plan = &draft.plan;
    store::keep(&mut change.tx, plan, call.principal()?.id).await?;
    let mut first = 1;
    for batch in draft.items.chunks(BATCH) {
        store::keep_items(&mut change.tx, plan.plan_id, first, batch).await?;
        first += i32::try_from(batch.len()).unwrap_or(i32::MAX);
    }
    let event = Event::new(EventType::MigrationPlanned, call)
        .tenant(plan.tenant_id)
        .target("migration_plan", plan.plan_id)
        .detail("digest", HEXLOWER.encode(&plan.digest))
        .detail("total", plan.total)
        .detail("will_be_created", plan.will_be_created)
        .detail("needs_review", plan.needs_review)
        .detail("will_be_refused", plan.will_be_refused);
    change.record(event).await
}

/// Digest over what is intended, in its order: no ids of this plan and no times, so that the same intentions have the
/// same digest.
fn digest(items: &[PlanItem]) -> Vec<u8> {
    let mut hasher = Sha256::new();
    let mut text = |value: &str| {
        hasher.update((value.len() as u64).to_be_bytes());
        hasher.update(value);
    };
    for item in items {
        text(&item.user_id.to_string());
        text(&item.tenant_id.to_string());
        text(&item.user_version.to_string());
        text(&item.kanidm_name);
        text(&item.display_name);
        text(&item.mail);
        text(&item.group_names.join(","));
        text(item.forecast.as_str());
        text(item.reason.map_or("", ItemReason::as_str));
    }
    hasher.finalize().to_vec()
}
