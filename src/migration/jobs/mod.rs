//! Migrations as callers see them: starting one, reading it, following it. The engine does the work.

mod start;
mod step;
mod store;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Notify;
use uuid::Uuid;

pub use self::start::Starting;
pub use self::step::{Failure, Step};
pub(in crate::migration) use self::store::by_index;
pub use self::store::{Counts, ItemFilter, Job, JobFilter, JobItem};
pub use self::watch::ProgressUpdate;
use super::vocabulary::ItemReason;
use crate::change::Changes;
use crate::context::Context;
use crate::db::{Db, Scope};
use crate::fault::{Fault, Result};
use crate::shared::Core;

/// Starts migrations and reads them.
#[derive(Clone)]
pub struct Jobs {
    db: Db,
    context: Context,
    changes: Changes,
    engine: Option<Arc<Notify>>,
}

impl Jobs {
    /// Migrations in this database; notified, `engine` runs what was started. There is none without a Kanidm.
    pub fn new(core: &Core, changes: Changes, engine: Option<Arc<Notify>>) -> Self {
        Self { db: core.db.clone(), context: core.context.clone(), changes, engine }
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
