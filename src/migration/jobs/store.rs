//! SQL of migrations as callers see them.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::db::{Connection, constraint};
use crate::fault::{Fault, Reason, Result};
use crate::migration::vocabulary::{ItemReason, ItemState, MigrationKind, MigrationState, WaitReason};

/// Items by what became of them: pending + done + failed + skipped = total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All.
    pub total: i64,
    /// Not finished.
    pub pending: i64,
    pub done: i64,
    /// Failed, or waiting for a decision.
    pub failed: i64,
    /// Left alone.
    pub skipped: i64,
    /// Those of the failed that wait for a decision.
    pub needs_review: i64,
}

/// A run of the engine.
#[derive(Clone, Debug)]
pub struct Job {
    pub migration_id: Uuid,
    /// What it does.
    pub kind: MigrationKind,
    /// Where it stands.
    pub state: MigrationState,
    /// Its items.
    pub counts: Counts,
    /// Plan that it came from.
    pub plan_id: Option<Uuid>,
    /// Tenant, when all users belong to one.
    pub tenant_id: Option<Uuid>,
    /// Number of the last step.
    pub step: i64,
    /// Who started it.
    pub started_by: Uuid,
    /// What it waits for.
    pub waiting_for: Option<WaitReason>,
    /// Since when.
    pub waiting_since: Option<DateTime<Utc>>,
    /// Milliseconds since it was taken up, by the database's clock; 0 before.
    pub elapsed_ms: i64,
    /// When items changed last.
    pub progressed_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Counts changes of its state.
    pub version: i64,
    /// When it was started.
    pub created_at: DateTime<Utc>,
}

/// One user's part in a migration.
#[derive(Clone, Debug)]
pub struct JobItem {
    pub item_id: Uuid,
    /// Its place.
    pub ordinal: i32,
    pub user_id: Uuid,
    /// Home tenant.
    pub tenant_id: Uuid,
    /// How far it has come.
    pub state: ItemState,
    /// Why it went no further.
    pub reason: Option<ItemReason>,
    /// Name of the person.
    pub kanidm_name: String,
    /// Display name of the person.
    pub display_name: String,
    /// Address of the person.
    pub mail: String,
    /// Groups of the person, for people.
    pub group_names: Vec<String>,
    /// How often it was taken up.
    pub attempts: i32,
    /// Counts changes.
    pub version: i64,
    /// When it changed last.
    pub updated_at: DateTime<Utc>,
}

/// Which migrations are listed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct JobFilter {
    /// In this state.
    pub state: Option<MigrationState>,
    /// Of this kind.
    pub kind: Option<MigrationKind>,
}

/// Which items are listed.
#[derive(Clone, Debug, Default, Serialize)]
pub struct ItemFilter {
    /// In one of these states; any when empty.
    pub states: Vec<ItemState>,
    /// For one of these reasons; any when empty.
    pub reasons: Vec<ItemReason>,
}

/// A row of `migrations` as it is read everywhere.
struct Row {
    migration_id: Uuid,
    kind: String,
    state: String,
    total: i64,
    pending: i64,
    done: i64,
    failed: i64,
    skipped: i64,
    needs_review: i64,
    plan_id: Option<Uuid>,
    tenant_id: Option<Uuid>,
    step: i64,
    started_by: Uuid,
    waiting_for: Option<String>,
    waiting_since: Option<DateTime<Utc>>,
    elapsed_ms: i64,
    progressed_at: Option<DateTime<Utc>>,
    ended_at: Option<DateTime<Utc>>,
    version: i64,
    created_at: DateTime<Utc>,
}

impl Row {
    fn job(self) -> Result<Job> {
        let id = self.migration_id;
        let unknown = || Fault::unknown_word("migrations.kind, state or waiting_for", id);
        Ok(Job {
            migration_id: self.migration_id,
            kind: MigrationKind::parse(&self.kind).ok_or_else(unknown)?,
            state: MigrationState::parse(&self.state).ok_or_else(unknown)?,
            counts: Counts {
                total: self.total,
                pending: self.pending,
                done: self.done,
                failed: self.failed,
                skipped: self.skipped,
                needs_review: self.needs_review,
            },
            plan_id: self.plan_id,
            tenant_id: self.tenant_id,
            step: self.step,
            started_by: self.started_by,
            waiting_for: self
                .waiting_for
                .as_deref()
                .map(|word| WaitReason::parse(word).ok_or_else(unknown))
                .transpose()?,
            waiting_since: self.waiting_since,
            elapsed_ms: self.elapsed_ms,
            progressed_at: self.progressed_at,
            ended_at: self.ended_at,
            version: self.version,
            created_at: self.created_at,
        })
    }
}

pub(super) struct PlanRow {
    pub digest: Vec<u8>,
    pub expires_at: DateTime<Utc>,
    pub migration_id: Option<Uuid>,
}

/// A plan that is to be started. Of two concurrent starts the second waits here, and then finds the first.
pub(super) async fn lock_plan(tx: &mut Connection, plan_id: Uuid) -> Result<Option<PlanRow>> {
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('sidle plan ' || $1::text, 0))", plan_id.to_string())
        .execute(&mut *tx)
        .await?;
    Ok(sqlx::query_as!(
        PlanRow,
        r#"SELECT p.digest, p.expires_at, m.migration_id AS "migration_id?"
           FROM migration_plans p LEFT JOIN migrations m USING (plan_id) WHERE p.plan_id = $1"#,
        plan_id,
    )
    .fetch_optional(tx)
    .await?)
}

/// Makes the migration, with the counts that the plan foresees: what is bound to fail has failed.
pub(super) async fn insert_job(tx: &mut Connection, migration_id: Uuid, plan_id: Uuid, started_by: Uuid) -> Result<()> {
    sqlx::query!(
        "INSERT INTO migrations (migration_id, kind, state, plan_id, tenant_id, total, pending, failed, skipped, needs_review,
             started_by)
         SELECT $1, 'bulk', 'pending', p.plan_id, p.tenant_id, p.total, p.will_be_created,
             p.needs_review + p.will_be_refused - held.items, held.items, p.needs_review, $3
         FROM migration_plans p, LATERAL (
             SELECT count(*) AS items FROM migration_plan_items i
             WHERE i.plan_id = p.plan_id AND i.reason = 'in_other_migration'
         ) AS held
         WHERE p.plan_id = $2",
        migration_id,
        plan_id,
        started_by,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Makes the items. An earlier intent for the same user is carried over: the person that it may have made is still ours.
pub(super) async fn insert_items(tx: &mut Connection, migration_id: Uuid, plan_id: Uuid) -> Result<()> {
    let inserted = sqlx::query!(
        "INSERT INTO migration_items (item_id, migration_id, ordinal, user_id, tenant_id, user_version, kanidm_name,
             display_name, mail, is_admin, group_names, state, reason, intent_recorded_at, user_rights_version)
         SELECT p.item_id, $1, p.ordinal, p.user_id, p.tenant_id, p.user_version, p.kanidm_name, p.display_name, p.mail,
             p.is_admin, p.group_names,
             CASE WHEN p.forecast = 'will_be_created' THEN 'pending' WHEN p.forecast = 'needs_review' THEN 'needs_review'
                 WHEN p.reason = 'in_other_migration' THEN 'skipped' ELSE 'failed' END,
             p.reason,
             (SELECT max(i.intent_recorded_at) FROM migration_items i WHERE i.user_id = p.user_id), p.user_rights_version
         FROM migration_plan_items p WHERE p.plan_id = $2",
        migration_id,
        plan_id,
    )
    .execute(tx)
    .await;
    match inserted {
        Err(error) if constraint(&error) == Some("migration_items_open_user_key") => {
            let text = "Another migration that has not ended holds some of these users.";
            Err(Fault::new(Reason::MigrationOverlap, text))
        }
        Err(error) if constraint(&error) == Some("migration_items_open_name_key") => Err(names_taken(None)),
        Err(error) => Err(error.into()),
        Ok(_) => Ok(()),
    }
}

/// Makes the statements of this transaction go by indexes, whatever the statistics say: tables that were analysed while
/// they were empty, and are full now, would be read from end to end for every row.
pub(in crate::migration) async fn by_index(tx: &mut Connection) -> Result<()> {
    sqlx::query!("SET LOCAL enable_seqscan = off").execute(tx).await?;
    Ok(())
}

/// The refusal of a plan whose names a migration gave to others since.
fn names_taken(names: Option<i64>) -> Fault {
    let text = "Names of the plan were given to other users by a migration since the plan was made.";
    let fault = Fault::new(Reason::PlanStale, text);
    match names {
        Some(names) => fault.with("names_taken", names),
        None => fault,
    }
}

/// Refuses a plan that is overtaken: names in it are another's by now, or none of its users is as planned.
pub(super) async fn refuse_overtaken(tx: &mut Connection, plan_id: Uuid, will_be_created: i64) -> Result<()> {
    let standing = sqlx::query!(r#"SELECT fit AS "fit!", taken AS "taken!" FROM migration_plan_standing($1)"#, plan_id)
        .fetch_one(tx)
        .await?;
    if standing.taken > 0 {
        return Err(names_taken(Some(standing.taken)));
    }
    if standing.fit == 0 && will_be_created > 0 {
        return Err(Fault::new(Reason::PlanStale, "None of the plan's users is as planned any more."));
    }
    Ok(())
}

/// A migration, if the scope reaches it.
pub(super) async fn job(tx: &mut Connection, migration_id: Uuid) -> Result<Option<Job>> {
    let row = sqlx::query_as!(
        Row,
        r#"SELECT migration_id, kind, state, total, pending, done, failed, skipped, needs_review, plan_id, tenant_id, step,
               started_by, waiting_for, waiting_since, progressed_at, ended_at, version, created_at,
               coalesce(extract(epoch FROM coalesce(ended_at, clock_timestamp()) - taken_up_at) * 1000, 0)::int8 AS "elapsed_ms!"
           FROM migrations WHERE migration_id = $1"#,
        migration_id,
    )
    .fetch_optional(tx)
    .await?;
    row.map(Row::job).transpose()
}

/// Migrations, newest first.
pub(super) async fn list(tx: &mut Connection, filter: JobFilter, after: Option<Uuid>, limit: i64) -> Result<Vec<Job>> {
    let rows = sqlx::query_as!(
        Row,
        r#"SELECT migration_id, kind, state, total, pending, done, failed, skipped, needs_review, plan_id, tenant_id, step,
               started_by, waiting_for, waiting_since, progressed_at, ended_at, version, created_at,
               coalesce(extract(epoch FROM coalesce(ended_at, clock_timestamp()) - taken_up_at) * 1000, 0)::int8 AS "elapsed_ms!"
           FROM migrations
           WHERE ($1::text IS NULL OR state = $1) AND ($2::text IS NULL OR kind = $2) AND ($3::uuid IS NULL OR migration_id < $3)
           ORDER BY migration_id DESC LIMIT $4"#,
        filter.state.map(MigrationState::as_str),
        filter.kind.map(MigrationKind::as_str),
        after,
        limit,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(Row::job).collect()
}

struct ItemRow {
    item_id: Uuid,
    ordinal: i32,
    user_id: Uuid,
    tenant_id: Uuid,
    state: String,
    reason: Option<String>,
    kanidm_name: String,
    display_name: String,
    mail: String,
    group_names: Vec<String>,
    attempts: i32,
    version: i64,
    updated_at: DateTime<Utc>,
}

impl ItemRow {
    fn item(self) -> Result<JobItem> {
        let id = self.item_id;
        Ok(JobItem {
            item_id: id,
            ordinal: self.ordinal,
            user_id: self.user_id,
            tenant_id: self.tenant_id,
            state: ItemState::parse(&self.state).ok_or_else(|| Fault::unknown_word("migration_items.state", id))?,
            reason: self.reason.as_deref().map(|word| item_reason(word, id)).transpose()?,
            kanidm_name: self.kanidm_name,
            display_name: self.display_name,
            mail: self.mail,
            group_names: self.group_names,
            attempts: self.attempts,
            version: self.version,
            updated_at: self.updated_at,
        })
    }
}

/// Items of a migration in their order.
pub(super) async fn items(
    tx: &mut Connection,
    migration_id: Uuid,
    filter: &ItemFilter,
    after: i32,
    limit: i64,
) -> Result<Vec<JobItem>> {
    let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
    let reasons: Vec<&str> = filter.reasons.iter().map(|reason| reason.as_str()).collect();
    let rows = sqlx::query_as!(
        ItemRow,
        "SELECT item_id, ordinal, user_id, tenant_id, state, reason, kanidm_name, display_name, mail, group_names, attempts,
             version, updated_at
         FROM migration_items
         WHERE migration_id = $1 AND ordinal > $2 AND (cardinality($3::text[]) = 0 OR state = ANY ($3))
             AND (cardinality($4::text[]) = 0 OR reason = ANY ($4))
         ORDER BY ordinal LIMIT $5",
        migration_id,
        after,
        &states as &[&str],
        &reasons as &[&str],
        limit,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(ItemRow::item).collect()
}

/// How many items have each reason.
pub(super) async fn reasons(tx: &mut Connection, migration_id: Uuid) -> Result<BTreeMap<ItemReason, i64>> {
    let rows = sqlx::query!(
        r#"SELECT reason AS "reason!", count(*) AS "items!" FROM migration_items
           WHERE migration_id = $1 AND reason IS NOT NULL GROUP BY reason"#,
        migration_id,
    )
    .fetch_all(tx)
    .await?;
    rows.into_iter().map(|row| Ok((item_reason(&row.reason, migration_id)?, row.items))).collect()
}

fn item_reason(word: &str, row: Uuid) -> Result<ItemReason> {
    ItemReason::parse(word).ok_or_else(|| Fault::unknown_word("migration_items.reason", row))
}
