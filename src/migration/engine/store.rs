//! SQL of the engine. Every write asks for the lease first: its epoch tells a holder from one who was replaced.

use std::collections::HashSet;
use std::time::Duration;

use crate::db::Connection;
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use super::Lease;
use super::item::{Item, Settled};
use crate::fault::{Fault, Result};
use crate::kanidm::NewPerson;
use crate::migration::jobs::{Counts, Job};
use crate::migration::vocabulary::{ItemReason, ItemState, MigrationKind, MigrationState, WaitReason};

fn interval(duration: Duration) -> Result<PgInterval> {
    PgInterval::try_from(duration).map_err(Fault::internal)
}

/// A job that was taken up.
pub(super) struct Taken {
    pub lease: Lease,
    pub previous_owner: Option<Uuid>,
}

/// Takes up the oldest job that nobody holds, by the database's clock.
pub(super) async fn take(tx: &mut Connection, owner: Uuid, duration: Duration) -> Result<Option<Taken>> {
    let row = sqlx::query!(
        r#"WITH next AS (
               SELECT migration_id, lease_owner FROM migrations
               WHERE state IN ('pending', 'running') AND (lease_until IS NULL OR lease_until < clock_timestamp())
               ORDER BY created_at LIMIT 1 FOR UPDATE SKIP LOCKED
           )
           UPDATE migrations m
           SET state = 'running', lease_owner = $1, lease_until = clock_timestamp() + $2, lease_epoch = lease_epoch + 1,
               taken_up_at = coalesce(taken_up_at, clock_timestamp())
           FROM next WHERE m.migration_id = next.migration_id
           RETURNING m.migration_id, m.lease_epoch, next.lease_owner AS "previous_owner?""#,
        owner,
        interval(duration)?,
    )
    .fetch_optional(tx)
    .await?;
    Ok(row.map(|row| Taken {
        lease: Lease { migration_id: row.migration_id, owner, epoch: row.lease_epoch, duration },
        previous_owner: row.previous_owner,
    }))
}

/// Extends the lease; false when it is lost.
pub(super) async fn extend(tx: &mut Connection, lease: &Lease) -> Result<bool> {
    let extended = sqlx::query!(
        "UPDATE migrations SET lease_until = clock_timestamp() + $4
         WHERE migration_id = $1 AND lease_owner = $2 AND lease_epoch = $3",
        lease.migration_id,
        lease.owner,
        lease.epoch,
        interval(lease.duration)?,
    )
    .execute(tx)
    .await?;
    Ok(extended.rows_affected() == 1)
}

/// Gives the job back, so that another replica need not wait for the lease to lapse.
pub(super) async fn release(tx: &mut Connection, lease: &Lease) -> Result<()> {
    sqlx::query!(
        "UPDATE migrations SET lease_owner = NULL, lease_until = NULL
         WHERE migration_id = $1 AND lease_owner = $2 AND lease_epoch = $3",
        lease.migration_id,
        lease.owner,
        lease.epoch,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Locks the job until the end of the transaction; none when the lease is lost.
pub(super) async fn lock(tx: &mut Connection, lease: &Lease) -> Result<Option<Job>> {
    let row = sqlx::query!(
        r#"SELECT migration_id, kind, state, total, pending, done, failed, skipped, needs_review, plan_id, tenant_id, step,
               started_by, waiting_for, waiting_since, progressed_at, ended_at, version, created_at,
               coalesce(extract(epoch FROM clock_timestamp() - taken_up_at) * 1000, 0)::int8 AS "elapsed_ms!"
           FROM migrations WHERE migration_id = $1 AND lease_owner = $2 AND lease_epoch = $3 FOR UPDATE"#,
        lease.migration_id,
        lease.owner,
        lease.epoch,
    )
    .fetch_optional(tx)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let unknown = || Fault::internal("a migration holds a word that this release does not know");
    Ok(Some(Job {
        migration_id: row.migration_id,
        kind: MigrationKind::parse(&row.kind).ok_or_else(unknown)?,
        state: MigrationState::parse(&row.state).ok_or_else(unknown)?,
        counts: Counts {
            total: row.total,
            pending: row.pending,
            done: row.done,
            failed: row.failed,
            skipped: row.skipped,
            needs_review: row.needs_review,
        },
        plan_id: row.plan_id,
        tenant_id: row.tenant_id,
        step: row.step,
        started_by: row.started_by,
        waiting_for: row.waiting_for.as_deref().and_then(WaitReason::parse),
        waiting_since: row.waiting_since,
        elapsed_ms: row.elapsed_ms,
        progressed_at: row.progressed_at,
        ended_at: row.ended_at,
        version: row.version,
        created_at: row.created_at,
    }))
}

/// Writes the job's counts, step, state and what it waits for.
pub(super) async fn advance(tx: &mut Connection, lease: &Lease, job: &Job, progressed: bool) -> Result<()> {
    let counts = job.counts;
    sqlx::query!(
        "UPDATE migrations
         SET pending = $3, done = $4, failed = $5, skipped = $6, needs_review = $7, step = $8, waiting_for = $9,
             waiting_since = CASE WHEN $9::text IS NULL THEN NULL ELSE coalesce(waiting_since, clock_timestamp()) END,
             progressed_at = CASE WHEN $10 THEN clock_timestamp() ELSE progressed_at END,
             lease_until = clock_timestamp() + $11
         WHERE migration_id = $1 AND lease_epoch = $2",
        lease.migration_id,
        lease.epoch,
        counts.pending,
        counts.done,
        counts.failed,
        counts.skipped,
        counts.needs_review,
        job.step,
        job.waiting_for.map(WaitReason::as_str),
        progressed,
        interval(lease.duration)?,
    )
    .execute(&mut *tx)
    .await?;
    if job.state.is_final() {
        sqlx::query!(
            "UPDATE migrations SET state = $2, ended_at = clock_timestamp(), lease_owner = NULL, lease_until = NULL
             WHERE migration_id = $1",
            lease.migration_id,
            job.state.as_str(),
        )
        .execute(tx)
        .await?;
    }
    Ok(())
}

/// Active tenants that open items belong to.
pub(super) async fn tenants(tx: &mut Connection, migration_id: Uuid) -> Result<Vec<Uuid>> {
    Ok(sqlx::query_scalar!(
        "SELECT t.tenant_id FROM tenants t
         WHERE t.status = 'active' AND t.deleted_at IS NULL AND EXISTS (
             SELECT FROM migration_items i WHERE i.migration_id = $1 AND i.tenant_id = t.tenant_id
                 AND i.state IN ('pending', 'intent_recorded', 'created', 'grouped'))",
        migration_id,
    )
    .fetch_all(tx)
    .await?)
}

/// The next open items after an ordinal, with what has become of their users since the plan.
pub(super) async fn open_items(tx: &mut Connection, migration_id: Uuid, after: i32, limit: i64) -> Result<Vec<Item>> {
    let rows = sqlx::query!(
        r#"SELECT i.item_id, i.ordinal, i.user_id, i.tenant_id, i.user_version, i.kanidm_name, i.display_name, i.mail,
               i.is_admin, i.state, i.intent_recorded_at IS NOT NULL AS "had_intent!",
               CASE WHEN u.deleted_at IS NOT NULL THEN 'user_deleted'
                   WHEN u.kanidm_user_id IS NOT NULL THEN 'already_migrated'
                   WHEN u.version <> i.user_version OR u.status <> 'active' OR u.auth_method <> 'password'
                       OR i.is_admin <> EXISTS (SELECT FROM memberships m JOIN roles r USING (role_id)
                           WHERE m.user_id = u.user_id AND m.tenant_id = u.tenant_id AND r.is_admin)
                   THEN 'user_changed' END AS change
           FROM migration_items i JOIN users u USING (user_id)
           WHERE i.migration_id = $1 AND i.ordinal > $2 AND i.state IN ('pending', 'intent_recorded', 'created', 'grouped')
           ORDER BY i.ordinal LIMIT $3 FOR UPDATE OF i"#,
        migration_id,
        after,
        limit,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            Ok(Item {
                item_id: row.item_id,
                ordinal: row.ordinal,
                tenant_id: row.tenant_id,
                user_version: row.user_version,
                person: NewPerson {
                    uuid: row.user_id,
                    name: row.kanidm_name,
                    display_name: row.display_name,
                    mail: row.mail,
                },
                is_admin: row.is_admin,
                state: ItemState::parse(&row.state).ok_or_else(|| Fault::internal("an item in an unknown state"))?,
                had_intent: row.had_intent,
                change: row.change.as_deref().and_then(ItemReason::parse),
            })
        })
        .collect()
}

/// Records the intent to create the persons of items, and that they were taken up.
pub(super) async fn intend(tx: &mut Connection, items: &[Uuid]) -> Result<()> {
    sqlx::query!(
        "UPDATE migration_items
         SET state = CASE WHEN state = 'pending' THEN 'intent_recorded' ELSE state END, attempts = attempts + 1,
             intent_recorded_at = coalesce(intent_recorded_at, clock_timestamp())
         WHERE item_id = ANY ($1)",
        items,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes what became of open items; returns those that were.
pub(super) async fn settle(tx: &mut Connection, migration_id: Uuid, results: &[Settled]) -> Result<HashSet<Uuid>> {
    let item_ids: Vec<Uuid> = results.iter().map(|settled| settled.item_id).collect();
    let states: Vec<&str> = results.iter().map(|settled| settled.state.as_str()).collect();
    let reasons: Vec<Option<&str>> = results.iter().map(|settled| settled.reason.map(ItemReason::as_str)).collect();
    let settled = sqlx::query_scalar!(
        "UPDATE migration_items AS i SET state = given.state, reason = given.reason
         FROM unnest($2::uuid[], $3::text[], $4::text[]) AS given (item_id, state, reason)
         WHERE i.item_id = given.item_id AND i.migration_id = $1
             AND i.state IN ('pending', 'intent_recorded', 'created', 'grouped')
         RETURNING i.item_id",
        migration_id,
        &item_ids,
        &states as &[&str],
        &reasons as &[Option<&str>],
    )
    .fetch_all(tx)
    .await?;
    Ok(settled.into_iter().collect())
}

/// Links users to their persons, those that are still as planned; returns them.
pub(super) async fn link(tx: &mut Connection, items: &[Item]) -> Result<HashSet<Uuid>> {
    if items.is_empty() {
        return Ok(HashSet::new());
    }
    let user_ids: Vec<Uuid> = items.iter().map(|item| item.person.uuid).collect();
    let versions: Vec<i64> = items.iter().map(|item| item.user_version).collect();
    let names: Vec<&str> = items.iter().map(|item| item.person.name.as_str()).collect();
    let linked = sqlx::query_scalar!(
        "UPDATE users AS u
         SET auth_method = 'dual', kanidm_user_id = u.user_id, kanidm_name = given.name, kanidm_synced_at = now()
         FROM unnest($1::uuid[], $2::int8[], $3::text[]) AS given (user_id, version, name)
         WHERE u.user_id = given.user_id AND u.version = given.version AND u.auth_method = 'password'
             AND u.kanidm_user_id IS NULL AND u.status = 'active' AND u.deleted_at IS NULL
         RETURNING u.user_id",
        &user_ids,
        &versions,
        &names as &[&str],
    )
    .fetch_all(tx)
    .await?;
    Ok(linked.into_iter().collect())
}
