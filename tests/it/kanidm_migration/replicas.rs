//! Several replicas on one database.

use sidle::proto::*;
use sidle_dev::kanidm::Fault;
use uuid::Uuid;

use super::{counts, stage};
use crate::support::{until, within};

#[tokio::test]
async fn two_replicas_share_the_work_and_do_nothing_twice() {
    let stage = stage().await;
    let other = stage.setup.start().await;
    stage.users(200).await;
    // Two migrations of halves, so that both replicas have something to work on.
    let ids: Vec<String> = sqlx::query_scalar("SELECT user_id::text FROM users WHERE tenant_id = $1 ORDER BY user_id")
        .bind(stage.tenant)
        .fetch_all(stage.server.sql())
        .await
        .unwrap();
    let mut migrations = Vec::new();
    for half in ids.chunks(100) {
        let cohort = Some(Cohort { user_ids: half.to_vec(), ..Default::default() });
        let request = PlanMigrationRequest { cohort, request_id: String::new() };
        let plan = stage.client.migration.clone().plan_migration(request).await.unwrap().into_inner().plan.unwrap();
        migrations.push(stage.start(&plan).await);
    }
    // The one is watched through the replica that may have run the other.
    let far = other.client(&stage.token);
    for migration in &migrations {
        for client in [&stage.client, &far] {
            let request = WatchMigrationRequest { migration_id: migration.migration_id.clone(), ..Default::default() };
            let mut stream = client.migration.clone().watch_migration(request).await.unwrap().into_inner();
            let mut seen = Vec::new();
            within("the migration ends", async {
                while let Some(message) = stream.message().await.unwrap() {
                    seen.push(message);
                }
            })
            .await;
            super::adds_up(&seen);
            assert_eq!(counts(seen.last().unwrap()), (100, 0, 0, 0));
        }
    }
    stage.moved(&stage.mails(200, &[])).await;
}

#[tokio::test]
async fn two_replicas_that_make_groups_at_once_make_the_same() {
    let stage = stage().await;
    let replica = stage.setup.start().await;
    let other = replica.client(&stage.token);
    let mut tenants = Vec::new();
    for n in 0..12 {
        tenants.push(stage.server.tenant(&format!("{}-{n}", stage.slug)).await.to_string());
    }
    let sync = async |client: &crate::support::Client| {
        let request = SyncTenantGroupsRequest { tenant_ids: tenants.clone(), validate_only: false };
        let groups = client.migration.clone().sync_tenant_groups(request).await.unwrap().into_inner().groups;
        groups.into_iter().map(|group| (group.group_name, group.group_uuid)).collect::<Vec<_>>()
    };
    let (here, there) = tokio::join!(sync(&stage.client), sync(&other));
    assert_eq!((here.len(), &here), (24, &there));
}

/// The replica that held the lease fell silent midway and never released it.
#[tokio::test]
async fn a_lapsed_lease_is_taken_over_where_its_holder_left_it() {
    let stage = stage().await;
    stage.users(50).await;
    let plan = stage.plan().await;
    let migration = stage.start(&plan).await;
    stage.watch(&migration).await;
    // Reset to the state when a holder died midway: some done, some created, some only intended, one not begun.
    let id = Uuid::parse_str(&migration.migration_id).unwrap();
    let ghost = Uuid::new_v4();
    let sql = stage.server.sql();
    for statement in [
        "UPDATE users SET auth_method = 'password', kanidm_user_id = NULL, kanidm_name = NULL, kanidm_synced_at = NULL
         WHERE user_id IN (SELECT user_id FROM migration_items WHERE migration_id = $1 AND ordinal > 10)",
        "UPDATE migration_items i SET state = CASE WHEN ordinal > 40 THEN 'intent_recorded' ELSE 'created' END,
             user_version = (SELECT version FROM users u WHERE u.user_id = i.user_id)
         WHERE migration_id = $1 AND ordinal > 10",
        "UPDATE migrations SET state = 'running', ended_at = NULL, done = 10, pending = 40 WHERE migration_id = $1",
    ] {
        sqlx::query(statement).bind(id).execute(sql).await.unwrap();
    }
    sqlx::query("UPDATE migrations SET lease_owner = $2, lease_until = clock_timestamp() - interval '1 ms' WHERE migration_id = $1")
        .bind(id)
        .bind(ghost)
        .execute(sql)
        .await
        .unwrap();
    let seen = stage.watch(&migration).await;
    assert_eq!(counts(seen.last().unwrap()), (50, 0, 0, 0));
    stage.moved(&stage.mails(50, &[])).await;
    let taken_over: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM audit_events WHERE event_type = 'migration.taken_over' AND details ->> 'from_replica' = $1",
    )
    .bind(ghost.to_string())
    .fetch_one(sql)
    .await
    .unwrap();
    assert_eq!(taken_over, 1);
}

/// A holder that lost its lease while Kanidm processed its requests writes nothing of their results.
#[tokio::test]
async fn who_lost_the_lease_writes_no_more() {
    let stage = stage().await;
    stage.users(80).await;
    let plan = stage.plan().await;
    stage.kanidm.fault(Fault::Stall, "/v1/raw/create", 0, None).await.unwrap();
    let migration = stage.start(&plan).await;
    let (id, ghost, sql) = (Uuid::parse_str(&migration.migration_id).unwrap(), Uuid::new_v4(), stage.server.sql());
    // Both batches are at Kanidm.
    until("both batches are with Kanidm", async || stage.kanidm.requests("POST /v1/raw/create").await.unwrap() >= 2)
        .await;
    let steal = "UPDATE migrations SET lease_owner = $2, lease_epoch = lease_epoch + 1,
                     lease_until = clock_timestamp() + interval '1 hour' WHERE migration_id = $1";
    sqlx::query(steal).bind(id).bind(ghost).execute(sql).await.unwrap();
    stage.kanidm.heal().await.unwrap();
    until("everybody is in Kanidm", async || stage.persons().await.len() >= 80).await;
    let lapse = "UPDATE migrations SET lease_until = clock_timestamp() - interval '1 ms' WHERE migration_id = $1";
    sqlx::query(lapse).bind(id).execute(sql).await.unwrap();
    let seen = stage.watch(&migration).await;
    assert_eq!(counts(seen.last().unwrap()), (80, 0, 0, 0));
    stage.moved(&stage.mails(80, &[])).await;
    // The first step after the start is the take-over, so nothing was written before it.
    let first: String =
        sqlx::query_scalar("SELECT event_type FROM audit_events WHERE target_id = $1 AND details ->> 'step' = '1'")
            .bind(&migration.migration_id)
            .fetch_one(sql)
            .await
            .unwrap();
    assert_eq!(first, "migration.taken_over");
    let items = stage.items(&migration.migration_id).await;
    assert!(items.values().all(|item| item.attempts == 2), "every item was taken up by both");
}
