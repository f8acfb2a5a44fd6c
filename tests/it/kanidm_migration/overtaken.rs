//! Several concurrent migrations: one that waits delays no other, and a plan that another has overtaken is refused
//! instead of failing every item.

use serde_json::json;
use sidle::proto::*;
use sidle_dev::random_word;
use uuid::Uuid;

use super::{Stage, counts, stage};
use crate::migration::{header, import, reason, row};
use crate::support::within;

/// Another tenant of the stage, with users whose addresses have these local parts.
async fn tenant(stage: &Stage, names: &[String]) -> Uuid {
    let slug = format!("t{}", random_word(10));
    let id = stage.server.tenant(&slug).await;
    let rows = names
        .iter()
        .zip(1..)
        .map(|(name, n)| ImportRow { legacy_id: format!("{slug}-{n}"), ..row(n, &format!("{name}@{slug}.example")) });
    let imported = import(&stage.client, header(&slug), rows.collect()).await.unwrap();
    assert_eq!(imported.summary.accepted, i64::try_from(names.len()).unwrap());
    id
}

async fn plan(stage: &Stage, tenant: Uuid) -> Plan {
    let cohort = Some(Cohort { tenant_ids: vec![tenant.to_string()], ..Default::default() });
    let request = PlanMigrationRequest { cohort, request_id: String::new() };
    stage.client.migration.clone().plan_migration(request).await.unwrap().into_inner().plan.unwrap()
}

fn names(stage: &Stage, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{}-x{n}", stage.slug)).collect()
}

#[tokio::test]
async fn a_migration_that_waits_holds_up_no_other() {
    let stage = stage().await;
    stage.users(5).await;
    let request = SyncTenantGroupsRequest { tenant_ids: vec![stage.tenant.to_string()], validate_only: false };
    let groups = stage.client.migration.clone().sync_tenant_groups(request).await.unwrap().into_inner().groups;
    let first = stage.plan().await;
    let gone = json!({ "filter": { "eq": ["uuid", groups[0].group_uuid] } });
    stage.kanidm.post("/v1/raw/delete", &gone).await.unwrap();
    let other = tenant(&stage, &names(&stage, 5)).await;
    let second = plan(&stage, other).await;

    let waiting = stage.start(&first).await;
    let running = stage.start(&second).await;
    assert_eq!(counts(stage.watch(&running).await.last().unwrap()), (5, 0, 0, 0), "it does not wait for the first");
    let get = GetMigrationRequest { migration_id: waiting.migration_id };
    let seen = stage.client.migration.clone().get_migration(get.clone()).await.unwrap().into_inner().migration.unwrap();
    assert_eq!((seen.state(), seen.waiting_for()), (MigrationState::Running, WaitReason::TenantGroupDeleted));
    assert_eq!(seen.counts.unwrap().pending, 5, "nobody fails of it");
}

/// A migration that keeps failing must not be tried before all others each time.
#[tokio::test]
async fn a_migration_that_stumbles_each_time_holds_up_no_other() {
    let stage = stage().await;
    stage.users(5).await;
    let first = stage.plan().await;
    let other = tenant(&stage, &names(&stage, 5)).await;
    let second = plan(&stage, other).await;
    let refuse = format!(
        "CREATE FUNCTION stumble() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$;
         CREATE TRIGGER stumble BEFORE UPDATE ON migration_items FOR EACH ROW
             WHEN (OLD.tenant_id = '{}') EXECUTE FUNCTION stumble()",
        stage.tenant
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(refuse)).execute(stage.server.sql()).await.unwrap();
    let stumbling = stage.start(&first).await;
    let running = stage.start(&second).await;
    assert_eq!(counts(stage.watch(&running).await.last().unwrap()), (5, 0, 0, 0), "it has its turn");
    sqlx::query("DROP TRIGGER stumble ON migration_items").execute(stage.server.sql()).await.unwrap();
    assert_eq!(counts(stage.watch(&stumbling).await.last().unwrap()), (5, 0, 0, 0), "and so has the other");
}

#[tokio::test]
async fn a_tenant_whose_group_was_deleted_holds_up_no_other_tenant_of_the_migration() {
    let stage = stage().await;
    // More than a batch of each, in turns.
    stage.users(50).await;
    let other = tenant(&stage, &names(&stage, 50)).await;
    let request = SyncTenantGroupsRequest { tenant_ids: vec![stage.tenant.to_string()], validate_only: false };
    let groups = stage.client.migration.clone().sync_tenant_groups(request).await.unwrap().into_inner().groups;
    let cohort = Some(Cohort { tenant_ids: vec![stage.tenant.to_string(), other.to_string()], ..Default::default() });
    let request = PlanMigrationRequest { cohort, request_id: String::new() };
    let both = stage.client.migration.clone().plan_migration(request).await.unwrap().into_inner().plan.unwrap();
    assert_eq!(both.will_be_created, 100);
    let gone = json!({ "filter": { "eq": ["uuid", groups[0].group_uuid] } });
    stage.kanidm.post("/v1/raw/delete", &gone).await.unwrap();

    let migration = stage.start(&both).await;
    let request = WatchMigrationRequest { migration_id: migration.migration_id.clone(), ..Default::default() };
    let mut stream = stage.client.migration.clone().watch_migration(request).await.unwrap().into_inner();
    within("the tenant's part waits for its group", async {
        loop {
            let seen = stream.message().await.unwrap().expect("it does not end");
            if seen.waiting_for() == WaitReason::TenantGroupDeleted {
                assert_eq!(
                    (seen.state(), counts(&seen)),
                    (MigrationState::Running, (50, 0, 0, 0)),
                    "the others are through"
                );
                break;
            }
        }
    })
    .await;
    let items = stage.items(&migration.migration_id).await;
    for (email, item) in items {
        let expected = if email.ends_with(&stage.mail("")) { ItemState::Pending } else { ItemState::Linked };
        assert_eq!(item.state(), expected, "{email}");
    }
}

#[tokio::test]
async fn of_two_plans_with_the_same_names_the_later_one_is_refused_and_planned_again() {
    let stage = stage().await;
    let wanted = names(&stage, 6);
    let tenants = [tenant(&stage, &wanted).await, tenant(&stage, &wanted).await, tenant(&stage, &wanted).await];
    let plans = [plan(&stage, tenants[0]).await, plan(&stage, tenants[1]).await, plan(&stage, tenants[2]).await];
    let first = stage.start(&plans[0]).await;
    // While the first may still run, and after it.
    let refused = stage.try_start(&plans[1]).await.unwrap_err();
    assert_eq!(reason(&refused), "PLAN_STALE", "{refused:?}");
    assert_eq!(counts(stage.watch(&first).await.last().unwrap()), (6, 0, 0, 0));
    assert_eq!(reason(&stage.try_start(&plans[2]).await.unwrap_err()), "PLAN_STALE");
    let tried = StartMigrationRequest {
        plan_id: plans[2].plan_id.clone(),
        plan_digest: plans[2].digest.clone(),
        request_id: String::new(),
        validate_only: true,
    };
    let refused = stage.client.migration.clone().start_migration(tried).await.unwrap_err();
    assert_eq!(reason(&refused), "PLAN_STALE", "validation fails when the call would");
    for tenant in &tenants[1..] {
        let again = stage.start(&plan(&stage, *tenant).await).await;
        assert_eq!(counts(stage.watch(&again).await.last().unwrap()), (6, 0, 0, 0));
    }
}

#[tokio::test]
async fn a_plan_leaves_alone_the_names_that_another_migration_is_about_to_give() {
    let stage = stage().await;
    let wanted = names(&stage, 3);
    let (one, two) = (tenant(&stage, &wanted).await, tenant(&stage, &wanted).await);
    let first = plan(&stage, one).await;
    stage.start(&first).await;
    // Whether or not Kanidm has seen the first by now.
    let second = plan(&stage, two).await;
    let migration = stage.start(&second).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (3, 0, 0, 0));
}

#[tokio::test]
async fn a_plan_none_of_whose_users_is_as_planned_is_refused() {
    let stage = stage().await;
    stage.users(3).await;
    let (one, two) = (stage.plan().await, stage.plan().await);
    stage.watch(&stage.start(&one).await).await;
    assert_eq!(reason(&stage.try_start(&two).await.unwrap_err()), "PLAN_STALE");
}

/// As in many installations: analysed once after the schema was created, and then filled.
#[tokio::test]
async fn starting_reads_each_table_once_whatever_the_statistics_say() {
    let stage = stage().await;
    const ITEMS: i64 = 2000;
    let sql = stage.server.sql();
    for table in ["users", "migration_plan_items", "migration_items", "migrations", "migration_plans"] {
        let off = format!("ALTER TABLE {table} SET (autovacuum_enabled = false)");
        sqlx::raw_sql(sqlx::AssertSqlSafe(off)).execute(sql).await.unwrap();
    }
    sqlx::raw_sql("ANALYZE migration_plan_items, migration_items, migrations, migration_plans")
        .execute(sql)
        .await
        .unwrap();
    let plan_id = Uuid::new_v4();
    let fill = "
        WITH made AS (
            INSERT INTO users (user_id, tenant_id, email, email_key)
            SELECT gen_random_uuid(), $1, n || '@many.example', n || '@many.example' FROM generate_series(1, $3::int8) n
            RETURNING user_id
        ), planned AS (
            INSERT INTO migration_plans (plan_id, tenant_id, cohort, digest, total, will_be_created, needs_review,
                will_be_refused, reasons, hashes, names_derived, created_by, expires_at)
            VALUES ($2, $1, '{}', sha256('x'), $3, 0, 0, $3, '{}', '[]', 0, $2, now() + interval '1 day')
        )
        INSERT INTO migration_plan_items (plan_id, ordinal, item_id, user_id, tenant_id, user_version, kanidm_name,
            display_name, mail, is_admin, group_names, forecast, reason)
        SELECT $2, row_number() OVER (), gen_random_uuid(), user_id, $1, 1, 'x', 'x', 'x', false, '{}', 'will_be_refused',
            'mail_taken'
        FROM made";
    sqlx::query(fill).bind(stage.tenant).bind(plan_id).bind(ITEMS).execute(sql).await.unwrap();
    let digest: String = sqlx::query_scalar("SELECT encode(sha256('x'), 'hex')").fetch_one(sql).await.unwrap();
    let start = Plan { plan_id: plan_id.to_string(), digest, ..Default::default() };
    let migration = stage.start(&start).await;
    stage.watch(&migration).await;
    // A connection reports its statistics some time later, all together.
    let (inserted, scanned) = within("the connections have told what they did", async {
        loop {
            let seen: (i64, i64) =
                sqlx::query_as("SELECT n_tup_ins, seq_scan FROM pg_stat_user_tables WHERE relname = 'migration_items'")
                    .fetch_one(sql)
                    .await
                    .unwrap();
            if seen.0 >= ITEMS {
                break seen;
            }
            // Makes connections with unreported statistics report them.
            stage.client.migration.clone().list_migrations(ListMigrationsRequest::default()).await.unwrap();
        }
    })
    .await;
    assert_eq!(inserted, ITEMS);
    assert!(scanned < 50, "it was read from end to end {scanned} times for {ITEMS} items");
}
