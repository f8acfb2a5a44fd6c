//! Migrations as callers see them: starting one, reading it, following it. The engine does the work.

mod start;
mod step;
mod store;
mod watch;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use uuid::Uuid;

pub use self::start::Starting;
pub use self::step::{Failure, Step};
pub(in crate::migration) use self::store::by_index;
pub use self::watch::{Cursor, Seen, Sight, Watch};
use super::vocabulary::{ItemReason, ItemState, MigrationKind, MigrationState, WaitReason};
use crate::audit::Recorder;
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Result};

/// Items by what became of them: pending + done + failed + skipped = total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// All.
    pub total: i64,
    /// Not finished.
    pub pending: i64,
    /// Done.
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
    /// The migration.
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
    /// The item.
    pub item_id: Uuid,
    /// Its place.
    pub ordinal: i32,
    /// The user.
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

/// Starts migrations and reads them.
#[derive(Clone, Debug)]
pub struct Jobs {
    db: Db,
    context: Context,
    recorder: Recorder,
}

impl Jobs {
    /// Migrations in this database.
    pub fn new(db: Db, context: Context, recorder: Recorder) -> Self {
        Self { db, context, recorder }
    }

    /// A migration.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn get(&self, scope: Scope, migration_id: Uuid) -> Result<Job> {
        let mut tx = self.db.begin(scope).await?;
        store::job(&mut tx, migration_id).await?.ok_or_else(|| Fault::not_found("migration"))
    }

    /// How many items of a migration have each reason.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn reasons(&self, scope: Scope, migration_id: Uuid) -> Result<BTreeMap<ItemReason, i64>> {
        let mut tx = self.db.begin(scope).await?;
        store::reasons(&mut tx, migration_id).await
    }

    /// Migrations, newest first, after one of them.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self, scope: Scope, filter: JobFilter, after: Option<Uuid>, limit: i64) -> Result<Vec<Job>> {
        let mut tx = self.db.begin(scope).await?;
        store::list(&mut tx, filter, after, limit).await
    }

    /// Items of a migration in their order, after an ordinal.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub async fn items(
        &self,
        scope: Scope,
        migration_id: Uuid,
        filter: &ItemFilter,
        after: i32,
        limit: i64,
    ) -> Result<Vec<JobItem>> {
        let mut tx = self.db.begin(scope).await?;
        store::job(&mut tx, migration_id).await?.ok_or_else(|| Fault::not_found("migration"))?;
        store::items(&mut tx, migration_id, filter, after, limit).await
    }
}
