//! SQL of the engine. Every write asks for the lease first: its epoch distinguishes a holder from one that was replaced.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use crate::db::Connection;
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use super::Lease;
use super::item::{Item, Settled};
use crate::fault::{Fault, Result};
use crate::kanidm::NewPerson;
use crate::migration::groups::GroupRole;
use crate::migration::jobs::{Counts, Job};
use crate::migration::vocabulary::{ItemReason, ItemState, MigrationKind, MigrationState, WaitReason};

fn interval(duration: Duration) -> Result<PgInterval> {
    // Postgres counts microseconds, and the driver refuses to round: a jittered duration has more digits.
    let whole = u64::try_from(duration.as_micros()).map(Duration::from_micros).map_err(Fault::internal)?;
    PgInterval::try_from(whole).map_err(Fault::internal)
}

/// A job that was taken up.
pub(super) struct TakenJob {
    pub lease: Lease,
    pub previous_owner: Option<Uuid>,
}

/// Takes up a job that has no holder, by the database's clock: the oldest that was not deferred, else the one that was due
/// to be retried first.
pub(super) async fn take(tx: &mut Connection, owner: Uuid, duration: Duration) -> Result<Option<TakenJob>> {
    let row = sqlx::query!(
        r#"WITH next AS (
               SELECT migration_id, lease_owner FROM migrations
               WHERE state IN ('pending', 'running') AND (lease_until IS NULL OR lease_until < clock_timestamp())
                   AND (retry_at IS NULL OR retry_at <= clock_timestamp())
               ORDER BY retry_at NULLS FIRST, created_at LIMIT 1 FOR UPDATE SKIP LOCKED
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
    Ok(row.map(|row| TakenJob {
        lease: Lease { migration_id: row.migration_id, owner, epoch: row.lease_epoch, duration },
        previous_owner: row.previous_owner,
    }))
}

/// How long it is until a deferred job is due; none when there is no such job.
pub(super) async fn next_due(tx: &mut Connection) -> Result<Option<Duration>> {
    let seconds = sqlx::query_scalar!(
        "SELECT extract(epoch FROM min(retry_at) - clock_timestamp())::float8 FROM migrations
         WHERE state IN ('pending', 'running') AND lease_owner IS NULL AND retry_at IS NOT NULL",
    )
    .fetch_one(tx)
    .await?;
    Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX)))
}

/// How often in a row a job was deferred; how often of late because answers to everything could not be understood, and since
/// how long.
pub(super) async fn waits(tx: &mut Connection, lease: &Lease) -> Result<(i32, i32, Duration)> {
    let row = sqlx::query!(
        r#"SELECT waits, unclear,
               coalesce(extract(epoch FROM clock_timestamp() - unclear_since)::float8, 0) AS "unclear_for!"
           FROM migrations WHERE migration_id = $1"#,
        lease.migration_id
    )
    .fetch_one(tx)
    .await?;
    let unclear_for = Duration::try_from_secs_f64(row.unclear_for.max(0.0)).unwrap_or_default();
    Ok((row.waits, row.unclear, unclear_for))
}

/// Defers the job and gives it back, so that others are not held up by it.
pub(super) async fn put_off(tx: &mut Connection, lease: &Lease, waits: (i32, i32), delay: Duration) -> Result<()> {
    sqlx::query!(
        "UPDATE migrations SET waits = $3, unclear = $4,
             unclear_since = CASE WHEN $4 > 0 THEN coalesce(unclear_since, clock_timestamp()) END, retry_at = clock_timestamp() + $5, lease_owner = NULL, lease_until = NULL
         WHERE migration_id = $1 AND lease_epoch = $2",
        lease.migration_id,
        lease.epoch,
        waits.0,
        waits.1,
        interval(delay)?,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Ends the open items of a job that stops, as skipped; how many there were.
pub(super) async fn skip_open(tx: &mut Connection, migration_id: Uuid, reason: ItemReason) -> Result<i64> {
    let skipped = sqlx::query!(
        "UPDATE migration_items SET state = 'skipped', reason = $2
         WHERE migration_id = $1 AND state IN ('pending', 'intent_recorded', 'created', 'grouped')",
        migration_id,
        reason.as_str(),
    )
    .execute(tx)
    .await?;
    Ok(i64::try_from(skipped.rows_affected()).unwrap_or(i64::MAX))
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
    let unknown = || Fault::unknown_word("migrations.kind, state or waiting_for", lease.migration_id);
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
        waiting_for: row.waiting_for.as_deref().map(|word| WaitReason::parse(word).ok_or_else(unknown)).transpose()?,
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
             waits = CASE WHEN $9 IS NULL THEN 0 ELSE waits END, unclear = CASE WHEN $9 IS NULL THEN 0 ELSE unclear END,
             retry_at = CASE WHEN $9 IS NULL THEN NULL ELSE retry_at END,
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
pub(super) async fn open_items(
    tx: &mut Connection,
    migration_id: Uuid,
    after: i32,
    left_alone: &[Uuid],
    limit: i64,
) -> Result<Vec<Item>> {
    let rows = sqlx::query_as!(
        OpenItemRow,
        r#"SELECT i.item_id, i.ordinal, i.user_id, i.tenant_id, i.user_version, i.user_rights_version, i.kanidm_name,
               i.display_name, i.mail, i.state, i.intent_recorded_at IS NOT NULL AS "had_intent!",
               CASE WHEN u.deleted_at IS NOT NULL THEN 'user_deleted'
                   WHEN u.kanidm_user_id IS NOT NULL THEN 'already_migrated'
                   WHEN u.version <> i.user_version OR u.rights_version <> i.user_rights_version OR u.status <> 'active'
                       OR u.auth_method <> 'password'
                       OR i.is_admin <> EXISTS (SELECT FROM memberships m JOIN roles r USING (role_id)
                           WHERE m.user_id = u.user_id AND m.tenant_id = u.tenant_id AND m.source <> 'kanidm'
                               AND r.is_admin)
                   THEN 'user_changed' END AS change
           FROM migration_items i JOIN users u USING (user_id)
           WHERE i.migration_id = $1 AND i.ordinal > $2 AND i.state IN ('pending', 'intent_recorded', 'created', 'grouped')
               AND i.tenant_id <> ALL ($4)
           ORDER BY i.ordinal LIMIT $3 FOR UPDATE OF i"#,
        migration_id,
        after,
        limit,
        left_alone,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(Item::try_from).collect()
}

struct OpenItemRow {
    item_id: Uuid,
    ordinal: i32,
    user_id: Uuid,
    tenant_id: Uuid,
    user_version: i64,
    user_rights_version: i64,
    kanidm_name: String,
    display_name: String,
    mail: String,
    state: String,
    had_intent: bool,
    change: Option<String>,
}

impl TryFrom<OpenItemRow> for Item {
    type Error = Fault;

    fn try_from(row: OpenItemRow) -> Result<Self> {
        let id = row.item_id;
        Ok(Self {
            item_id: id,
            ordinal: row.ordinal,
            tenant_id: row.tenant_id,
            user_version: row.user_version,
            user_rights_version: row.user_rights_version,
            person: NewPerson {
                uuid: row.user_id,
                name: row.kanidm_name,
                display_name: row.display_name,
                mail: row.mail,
            },
            state: ItemState::parse(&row.state).ok_or_else(|| Fault::unknown_word("migration_items.state", id))?,
            had_intent: row.had_intent,
            change: row.change.as_deref().map(|word| item_reason(word, id)).transpose()?,
        })
    }
}

fn item_reason(word: &str, row: Uuid) -> Result<ItemReason> {
    ItemReason::parse(word).ok_or_else(|| Fault::unknown_word("migration_items.reason", row))
}

/// How an item's user stands at the moment.
pub(super) struct Standing {
    /// Why the user is no longer the one that was planned for, if so.
    pub change: Option<ItemReason>,
    /// Whether Sidle says that they are in the home tenant, whatever a group says.
    pub is_member: bool,
    /// Whether Sidle says that they administer it, whatever a group says.
    pub is_admin: bool,
}

/// How the users of items stand, by item, and keeps their rights from being changed until the transaction ends.
pub(super) async fn hold_rights(tx: &mut Connection, items: &[&Item]) -> Result<HashMap<Uuid, Standing>> {
    let user_ids: Vec<Uuid> = items.iter().map(|item| item.person.uuid).collect();
    let item_ids: Vec<Uuid> = items.iter().map(|item| item.item_id).collect();
    // As every change of rights does first; then what was committed before is read.
    sqlx::query!("SELECT user_id FROM users WHERE user_id = ANY ($1) ORDER BY user_id FOR NO KEY UPDATE", &user_ids)
        .fetch_all(&mut *tx)
        .await?;
    let rows = sqlx::query!(
        r#"SELECT i.item_id, held.is_member AS "is_member!", held.is_admin AS "is_admin!",
               CASE WHEN u.deleted_at IS NOT NULL THEN 'user_deleted'
                   WHEN u.kanidm_user_id IS NOT NULL THEN 'already_migrated'
                   WHEN u.version <> i.user_version OR u.rights_version <> i.user_rights_version OR u.status <> 'active'
                       OR u.auth_method <> 'password' OR i.is_admin <> held.is_admin
                   THEN 'user_changed' END AS change
           FROM migration_items i JOIN users u USING (user_id), LATERAL (
               SELECT count(*) > 0 AS is_member, coalesce(bool_or(r.is_admin), false) AS is_admin
               FROM memberships m JOIN roles r USING (role_id)
               WHERE m.user_id = u.user_id AND m.tenant_id = u.tenant_id AND m.source <> 'kanidm') AS held
           WHERE i.item_id = ANY ($1)"#,
        &item_ids,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter()
        .map(|row| {
            let change = row.change.as_deref().map(|word| item_reason(word, row.item_id)).transpose()?;
            Ok((row.item_id, Standing { change, is_member: row.is_member, is_admin: row.is_admin }))
        })
        .collect()
}

/// Records what is about to be put into groups: user, tenant, group and what the group is.
pub(super) async fn write_projections(
    tx: &mut Connection,
    projections: &[(Uuid, Uuid, Uuid, GroupRole)],
) -> Result<()> {
    let user_ids: Vec<Uuid> = projections.iter().map(|projection| projection.0).collect();
    let tenant_ids: Vec<Uuid> = projections.iter().map(|projection| projection.1).collect();
    let groups: Vec<Uuid> = projections.iter().map(|projection| projection.2).collect();
    let roles: Vec<&str> = projections.iter().map(|projection| projection.3.as_str()).collect();
    sqlx::query!(
        "INSERT INTO kanidm_projections (user_id, tenant_id, kanidm_group_uuid, role, projected_at)
         SELECT given.user_id, given.tenant_id, given.kanidm_group_uuid, given.role, clock_timestamp()
         FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[])
             AS given (user_id, tenant_id, kanidm_group_uuid, role)
         ON CONFLICT (user_id, kanidm_group_uuid)
             DO UPDATE SET projected_at = excluded.projected_at, withdrawn_at = NULL",
        &user_ids,
        &tenant_ids,
        &groups,
        &roles as &[&str],
    )
    .execute(tx)
    .await?;
    Ok(())
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
    let rights: Vec<i64> = items.iter().map(|item| item.user_rights_version).collect();
    let names: Vec<&str> = items.iter().map(|item| item.person.name.as_str()).collect();
    let linked = sqlx::query_scalar!(
        "UPDATE users AS u
         SET auth_method = 'dual', kanidm_user_id = u.user_id, kanidm_name = given.name, kanidm_synced_at = now()
         FROM unnest($1::uuid[], $2::int8[], $3::text[], $4::int8[]) AS given (user_id, version, name, rights_version)
         WHERE u.user_id = given.user_id AND u.version = given.version AND u.rights_version = given.rights_version
             AND u.auth_method = 'password'
             AND u.kanidm_user_id IS NULL AND u.status = 'active' AND u.deleted_at IS NULL
         RETURNING u.user_id",
        &user_ids,
        &versions,
        &names as &[&str],
        &rights,
    )
    .fetch_all(tx)
    .await?;
    Ok(linked.into_iter().collect())
}
