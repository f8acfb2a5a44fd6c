//! Running schema migrations.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};
use sqlx::{Connection as _, PgConnection};

use super::embedded::MIGRATIONS;
use super::{Embedded, store};
use crate::config::DatabaseConfig;
use crate::context::Clock;
use crate::db::Db;
use crate::fault::{Fault, Reason, Result};

/// One migration and whether it is applied.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Number in the file name.
    pub version: i64,
    /// Words in the file name.
    pub description: String,
    /// File name of the way up.
    pub filename: String,
    /// When and how long, if it is applied.
    pub applied: Option<Applied>,
}

/// A row of `schema_migrations`.
#[derive(Clone, Debug)]
pub struct Applied {
    /// When.
    pub applied_at: DateTime<Utc>,
    /// How long it took.
    pub execution_time_ms: i64,
    /// Digest of the file as it was applied.
    pub checksum: Vec<u8>,
}

/// What a run would do or did: file names in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files applied, or to be applied.
    pub files: Vec<String>,
}

/// How a step waits for tables that others hold. Everybody who comes after it waits behind it meanwhile, so that it waits
/// for a short while and then lets them pass.
#[derive(Clone, Copy, Debug)]
pub struct LockWait {
    /// Longest wait for one lock.
    pub timeout: Duration,
    /// Pause before the second attempt; doubled before each further one.
    pub pause: Duration,
    /// Attempts in all.
    pub attempts: u32,
}

impl Default for LockWait {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(3), pause: Duration::from_secs(1), attempts: 6 }
    }
}

/// The schema of one database.
pub struct Schema {
    connection: PgConnection,
    clock: Clock,
    lock_wait: LockWait,
}

impl Schema {
    /// Connects with `database.owner_url`, or with `database.direct_url` or `database.url` where it is not set.
    ///
    /// # Errors
    /// When the address cannot be read or the database not be reached.
    pub async fn connect(config: &DatabaseConfig, clock: Clock) -> Result<Self> {
        let (connection, _) = config.owner_target()?.named("sidle-schema").connect().await?;
        Ok(Self { connection, clock, lock_wait: LockWait::default() })
    }

    /// With another way to wait for tables that others hold.
    #[must_use]
    pub fn with_lock_wait(self, lock_wait: LockWait) -> Self {
        Self { lock_wait, ..self }
    }

    /// Every migration that this release knows, and whether it is applied.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn status(&mut self) -> Result<Vec<Migration>> {
        let applied = store::applied(&mut self.connection).await?;
        Ok(MIGRATIONS
            .iter()
            .map(|known| Migration {
                version: known.version,
                description: known.description.replace('_', " "),
                filename: known.filename.to_owned(),
                applied: applied.iter().find(|(version, _)| *version == known.version).map(|(_, row)| row.clone()),
            })
            .collect())
    }

    /// Applies what is pending, or with `dry_run` says what would be.
    ///
    /// # Errors
    /// When an applied file differs from this release's, when a file fails (it is rolled back as a whole), or when the
    /// database fails.
    pub async fn up(&mut self, dry_run: bool) -> Result<Plan> {
        let mut plan = Plan::default();
        self.lock().await?;
        let status = self.status().await?;
        check(&status)?;
        for (known, state) in MIGRATIONS.iter().zip(&status) {
            if state.applied.is_some() {
                continue;
            }
            plan.files.push(known.filename.to_owned());
            if !dry_run {
                self.apply(known).await?;
            }
        }
        if !dry_run && !plan.files.is_empty() {
            store::share(&mut self.connection).await?;
        }
        self.unlock().await?;
        Ok(plan)
    }

    /// Takes back everything above `version`, the newest first.
    ///
    /// # Errors
    /// As [`Schema::up`].
    pub async fn down(&mut self, version: i64, dry_run: bool) -> Result<Plan> {
        let mut plan = Plan::default();
        self.lock().await?;
        let status = self.status().await?;
        for (known, state) in MIGRATIONS.iter().zip(&status).rev() {
            if known.version <= version || state.applied.is_none() {
                continue;
            }
            plan.files.push(known.filename.replace(".up.sql", ".down.sql"));
            if !dry_run {
                self.revert(known).await?;
            }
        }
        self.unlock().await?;
        Ok(plan)
    }

    async fn apply(&mut self, known: &Embedded) -> Result<()> {
        let clock = self.clock.clone();
        let begun = clock.instant();
        let millis = || i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.step(known.filename, known.up, async |tx| {
            store::record(tx, known.version, known.filename, millis(), &checksum(known)).await
        })
        .await?;
        tracing::info!(event = "database_tables_created", file = known.filename, millis = millis(), "applied");
        Ok(())
    }

    async fn revert(&mut self, known: &Embedded) -> Result<()> {
        self.step(known.filename, known.down, async |tx| store::forget(tx, known.version).await).await?;
        tracing::info!(event = "database_tables_removed", version = known.version, "reverted");
        Ok(())
    }

    /// Runs `sql` and what `record` adds in one transaction, again when a table is held by somebody else for too long.
    async fn step(
        &mut self,
        file: &str,
        sql: &'static str,
        record: impl AsyncFn(&mut PgConnection) -> Result<()>,
    ) -> Result<()> {
        let LockWait { timeout, mut pause, attempts } = self.lock_wait;
        let mut attempt = 1;
        loop {
            let mut tx = self.connection.begin().await?;
            store::bound_lock_waits(&mut tx, timeout).await?;
            match store::run(&mut tx, sql).await {
                Ok(()) => {
                    record(&mut tx).await?;
                    return Ok(tx.commit().await?);
                }
                Err(error) if store::is_lock_timeout(&error) => tx.rollback().await?,
                Err(error) => return Err(failed(file, error)),
            }
            let holders = store::open_transactions(&mut self.connection).await?.join("; ");
            if attempt >= attempts {
                return Err(Fault::internal(format!(
                    "{file} waited {attempts} times for a table that somebody else holds, and was rolled back each time. \
                     Open transactions: {holders}. End them, or wait for them, and repeat the command"
                )));
            }
            tracing::warn!(event = "schema_step_waits", file, attempt, holders, "a table is held by somebody else");
            tokio::time::sleep(pause).await;
            (attempt, pause) = (attempt + 1, pause * 2);
        }
    }

    async fn lock(&mut self) -> Result<()> {
        store::lock(&mut self.connection).await?;
        store::prepare(&mut self.connection).await
    }

    async fn unlock(&mut self) -> Result<()> {
        store::unlock(&mut self.connection).await
    }
}

/// Whether a service of this release can work with the database as it is.
///
/// # Errors
/// Names the first file that is not applied; `DATABASE_UNAVAILABLE` when the database does not answer.
pub async fn require_current(db: &Db) -> Result<()> {
    let mut connection = db.direct().await?;
    let applied = store::applied(&mut connection).await?;
    let is_applied = |known: &&Embedded| applied.iter().any(|(version, _)| *version == known.version);
    match MIGRATIONS.iter().find(|known| !is_applied(known)) {
        None => Ok(()),
        Some(missing) => Err(Fault::new(
            Reason::Internal,
            format!("The database lacks {}: apply the schema with `sidle schema up`.", missing.filename),
        )),
    }
}

fn checksum(known: &Embedded) -> [u8; 32] {
    Sha256::digest(known.up).into()
}

fn failed(file: &str, error: sqlx::Error) -> Fault {
    // The files are ours and hold no data, so the database's own words may be told.
    Fault::internal(format!("{file} failed and was rolled back: {error}"))
}

/// What was applied must be what this release has: an edited file would make two databases of one version differ.
fn check(status: &[Migration]) -> Result<()> {
    for (known, state) in MIGRATIONS.iter().zip(status) {
        if state.applied.as_ref().is_some_and(|row| row.checksum != checksum(known)) {
            return Err(Fault::internal(format!(
                "{} was changed after it was applied to this database",
                known.filename
            )));
        }
    }
    Ok(())
}
