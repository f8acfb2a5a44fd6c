//! The migration: groups, a plan, the run, and the result of each user.

use std::collections::{BTreeMap, BTreeSet};

use sidle::proto::{
    Cohort, Forecast, GetPlanRequest, IntendedPerson, ItemState, ListMigrationItemsRequest, MigrationItem, Plan,
    PlanItem, PlanMigrationRequest, StartMigrationRequest, SyncTenantGroupsRequest, TenantGroupRole,
};

use super::{Demo, watch};
use crate::Result;
use crate::client::{refused, word};
use crate::output::{self, fact, note};

const PAGE: i32 = 1000;

/// The result of the migration.
pub struct Migrated {
    pub migration_id: String,
    /// The person of each linked user, by user id.
    pub linked: BTreeMap<String, IntendedPerson>,
    /// Items that failed.
    pub failed: Vec<Failed>,
}

/// A user who could not be migrated.
pub struct Failed {
    pub legacy_id: String,
    pub email: String,
    pub reason: String,
    pub remedy: String,
}

/// Creates the tenants' groups and a plan for all users.
pub async fn plan(demo: &mut Demo<'_>) -> Result<Plan> {
    groups(demo).await?;
    let step = output::step(8, "A dry run: PlanMigration");
    let plan = make_plan(demo).await?;
    let items = plan_items(demo, &plan.plan_id).await?;
    fact("users with a password only", plan.total);
    fact("will be created in Kanidm", plan.will_be_created);
    fact("will be refused", plan.will_be_refused);
    for refusal in items.iter().filter(|item| item.forecast() == Forecast::WillBeRefused) {
        fact("", format!("{}: {}", refusal.email, word(refusal.reason().as_str_name(), "ITEM_REASON_")));
    }
    fact("names that had to be derived", plan.names_derived);
    examples(demo, &items);
    fact("digest of the plan", &plan.digest);
    let again = make_plan(demo).await?;
    fact("digest of a second plan", if again.digest == plan.digest { "the same" } else { &again.digest });
    compare_plan(demo, &plan, &items);
    demo.checks.same("digest of a second plan", &plan.digest, &again.digest);
    step.done();
    Ok(plan)
}

async fn groups(demo: &mut Demo<'_>) -> Result<()> {
    let step = output::step(7, "A group for each tenant's members and administrators: SyncTenantGroups");
    let request =
        SyncTenantGroupsRequest { tenant_ids: demo.tenants.values().cloned().collect(), validate_only: false };
    let answer = demo.admin.migration.sync_tenant_groups(request).await;
    let groups = answer.map_err(refused("SyncTenantGroups"))?.into_inner().groups;
    for group in &groups {
        let role = word(group.role().as_str_name(), "TENANT_GROUP_ROLE_").to_lowercase();
        let outcome = word(group.outcome().as_str_name(), "TENANT_GROUP_OUTCOME_").to_lowercase();
        fact(&group.group_name, format!("{role:8}  {outcome}  {}", group.group_uuid));
    }
    let found: BTreeSet<(String, TenantGroupRole)> =
        groups.iter().map(|group| (group.tenant_slug.clone(), group.role())).collect();
    let both = [TenantGroupRole::Member, TenantGroupRole::Admin];
    let expected = demo.tenants.keys().flat_map(|slug| both.map(|role| (slug.clone(), role))).collect();
    demo.checks.same("groups", &expected, &found);
    step.done();
    Ok(())
}

async fn make_plan(demo: &mut Demo<'_>) -> Result<Plan> {
    // By tenant: the first administrator, whose home is another, is not migrated.
    let cohort = Cohort { tenant_ids: demo.tenants.values().cloned().collect(), ..Default::default() };
    let request = PlanMigrationRequest { cohort: Some(cohort), ..Default::default() };
    let answer = demo.admin.migration.plan_migration(request).await.map_err(refused("PlanMigration"))?;
    Ok(answer.into_inner().plan.unwrap_or_default())
}

async fn plan_items(demo: &mut Demo<'_>, plan_id: &str) -> Result<Vec<PlanItem>> {
    let (mut items, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = GetPlanRequest { plan_id: plan_id.to_owned(), page_size: PAGE, page_token, ..Default::default() };
        let page = demo.admin.migration.get_plan(request).await.map_err(refused("GetPlan"))?.into_inner();
        items.extend(page.items);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(items);
        }
    }
}

/// One example for each cause that the sample knows, where possible one that shows it.
fn examples(demo: &Demo<'_>, items: &[PlanItem]) {
    let mut rows = Vec::new();
    for (cause, expected) in &demo.expected.names {
        let ids = expected.ids();
        let candidates = items.iter().filter_map(|item| {
            let user = demo.imported.get(&item.user_id).filter(|user| ids.contains(&user.legacy_id))?;
            let before = if user.username.is_empty() { &item.email } else { &user.username };
            Some((before, &item.person.as_ref()?.name))
        });
        // Nothing is visible where the name is simply the username or the part before the `@`.
        let shows = |(before, name): &(&String, &String)| before.split('@').next() == Some(name.as_str());
        if let Some((before, name)) = candidates.min_by_key(shows) {
            rows.push(vec![
                format!("  {}", cause.replace('_', " ")),
                output::clipped(before, 32),
                output::clipped(name, 32),
            ]);
        }
    }
    output::table(&["  for example", "username, or e-mail", "name in Kanidm"], &rows);
}

fn compare_plan(demo: &mut Demo<'_>, plan: &Plan, items: &[PlanItem]) {
    let (expected, checks) = (&demo.expected, &mut demo.checks);
    let of = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    checks.number("planned: users", expected.migration.total, of(plan.total));
    checks.number("planned: will be created", expected.migration.succeeds, of(plan.will_be_created));
    checks.number("planned: will be refused", expected.migration.fails, of(plan.will_be_refused));
    let derived = &expected.names_derived;
    checks.within("planned: derived names", derived.at_least, derived.at_most, of(plan.names_derived));
    checks.same("planned: users who need review", &0, &plan.needs_review);
    checks.same("planned: items", &expected.migration.total, &items.len());
    let names: BTreeSet<&str> =
        items.iter().filter_map(|item| item.person.as_ref()).map(|person| person.name.as_str()).collect();
    let planned = items.iter().filter(|item| item.person.is_some()).count();
    checks.same("planned: different names", &planned, &names.len());
    let mut by_tenant: BTreeMap<String, usize> = BTreeMap::new();
    for (slug, id) in &demo.tenants {
        by_tenant.insert(slug.clone(), items.iter().filter(|item| item.tenant_id == *id).count());
    }
    checks.same("planned: users by tenant", &expected.migration.total_by_tenant, &by_tenant);
    let reasons: BTreeMap<String, usize> = plan
        .reasons
        .iter()
        .map(|count| (word(count.reason().as_str_name(), "ITEM_REASON_"), of(count.items)))
        .collect();
    checks.same("planned: reasons", &fails_by_reason(&demo.expected), &reasons);
}

fn fails_by_reason(expected: &crate::expected::Expected) -> BTreeMap<String, usize> {
    expected.migration.fails_by_reason.iter().map(|(reason, rows)| (reason.clone(), rows.count)).collect()
}

/// Starts the plan, watches it to its end, and compares the result of each user.
pub async fn run(demo: &mut Demo<'_>, plan: &Plan) -> Result<Migrated> {
    let step = output::step(9, "The migration: StartMigration, WatchMigration");
    let request = StartMigrationRequest {
        plan_id: plan.plan_id.clone(),
        plan_digest: plan.digest.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        validate_only: false,
    };
    let answer = demo.admin.migration.start_migration(request).await.map_err(refused("StartMigration"))?;
    let migration = answer.into_inner().migration.unwrap_or_default();
    fact("migration", &migration.migration_id);
    let counts = watch::to_the_end(demo, &migration.migration_id).await?;
    let items = items(demo, &migration.migration_id).await?;
    let migrated = sort(demo, migration.migration_id, &items);

    let (expected, checks) = (&demo.expected.migration, &mut demo.checks);
    let of = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
    checks.number("migrated: done", expected.succeeds, of(counts.done));
    checks.number("migrated: failed", expected.fails, of(counts.failed));
    checks.same(
        "migrated: pending, skipped, need review",
        &(0, 0, 0),
        &(counts.pending, counts.skipped, counts.needs_review),
    );
    checks.same("items", &expected.total, &items.len());
    checks.same("items that are linked", &expected.succeeds, &migrated.linked.len());
    let failed: BTreeMap<String, BTreeSet<String>> =
        expected.fails_by_reason.iter().map(|(reason, rows)| (reason.clone(), rows.ids())).collect();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for item in &migrated.failed {
        found.entry(item.reason.clone()).or_default().insert(item.legacy_id.clone());
    }
    checks.same("users who failed, by reason", &failed, &found);
    for failed in &migrated.failed {
        note(format!("  failed  {}: {}", failed.email, failed.reason));
    }
    step.done();
    Ok(migrated)
}

async fn items(demo: &mut Demo<'_>, migration_id: &str) -> Result<Vec<MigrationItem>> {
    let (mut items, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListMigrationItemsRequest {
            migration_id: migration_id.to_owned(),
            page_size: PAGE,
            page_token,
            ..Default::default()
        };
        let answer = demo.admin.migration.list_migration_items(request).await;
        let page = answer.map_err(refused("ListMigrationItems"))?.into_inner();
        items.extend(page.items);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(items);
        }
    }
}

fn sort(demo: &Demo<'_>, migration_id: String, items: &[MigrationItem]) -> Migrated {
    let linked = items.iter().filter(|item| item.state() == ItemState::Linked);
    let linked = linked.map(|item| (item.user_id.clone(), item.person.clone().unwrap_or_default())).collect();
    let failed = items.iter().filter(|item| item.state() == ItemState::Failed).map(|item| Failed {
        legacy_id: demo.imported.get(&item.user_id).map(|user| user.legacy_id.clone()).unwrap_or_default(),
        email: item.email.clone(),
        reason: word(item.reason().as_str_name(), "ITEM_REASON_"),
        remedy: item.remedy.clone(),
    });
    Migrated { migration_id, linked, failed: failed.collect() }
}
