//! Running schema migrations.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection};

use super::files::{Files, MigrationFile, is_outside_transaction};
use super::functions::{self, Changes};
use super::statements;
use super::step::{Attempts, Failure, LockWait, watched};
use super::store::{self, Applied};
use crate::config::DatabaseConfig;
use crate::context::Clock;
use crate::db::{Db, reach};
use crate::fault::{Fault, Result};
use crate::startup::{self, StartFailure};

/// How long the database may take to say what is applied.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a run asks whether the one before it has ended.
const LOCK_PAUSE: Duration = Duration::from_millis(100);

/// One migration and whether it is applied.
#[derive(Clone, Debug)]
pub struct Migration {
    /// Number in the file name.
    pub version: i64,
    /// Words in the file name.
    pub description: String,
    /// File name of the way up.
    pub filename: String,
    /// When and how long, if it was begun.
    pub applied: Option<Applied>,
}

impl Migration {
    /// Whether it is applied entirely.
    pub fn is_applied(&self) -> bool {
        self.applied.as_ref().is_some_and(|applied| applied.applied_at.is_some())
    }
}

/// What a run would do or did, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Versioned files.
    pub files: Vec<String>,
    /// Functions whose text is not what the database has.
    pub functions: Vec<String>,
    /// Functions that go.
    pub dropped: Vec<String>,
}

impl Plan {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.functions.is_empty() && self.dropped.is_empty()
    }

    fn of(files: Vec<String>, changes: &Changes) -> Self {
        Self { files, functions: changes.files(), dropped: changes.dropped() }
    }
}

/// The schema of one database.
pub struct Schema {
    connection: PgConnection,
    /// Looks whom the other connection waits for.
    watch: PgConnection,
    clock: Clock,
    lock_wait: LockWait,
    files: Files,
}

impl Schema {
    /// Connects with `database.owner_url`, or with `database.direct_url` or `database.url` where it is not set.
    ///
    /// # Errors
    /// When the address cannot be read or the database not be reached.
    pub async fn connect(config: &DatabaseConfig, clock: Clock) -> startup::Result<Self> {
        let (setting, target) = config.owner_target()?;
        let connection = reach(setting, &target.named("sidle-schema"), config.acquire_timeout).await?;
        let watch = reach(setting, &target.named("sidle-schema-watch"), config.acquire_timeout).await?;
        Ok(Self { connection, watch, clock, lock_wait: LockWait::default(), files: Files::embedded() })
    }

    /// With another way to wait for tables that others hold.
    #[must_use]
    pub fn with_lock_wait(self, lock_wait: LockWait) -> Self {
        Self { lock_wait, ..self }
    }

    /// With other files than those of this release.
    #[doc(hidden)]
    #[must_use]
    pub fn with_files(self, files: Files) -> Self {
        Self { files, ..self }
    }

    /// Every migration that this release knows, and whether it is applied.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn status(&mut self) -> Result<Vec<Migration>> {
        let applied = store::applied(&mut self.connection).await?;
        let state = |known: &MigrationFile| Migration {
            version: known.version,
            description: known.description.replace('_', " "),
            filename: known.filename.clone().into_owned(),
            applied: applied.get(&known.version).cloned(),
        };
        Ok(self.files.migrations.iter().map(state).collect())
    }

    /// What is pending now, whatever another run may be doing about it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn pending(&mut self) -> Result<Plan> {
        let applied = store::applied(&mut self.connection).await?;
        let files = self.files.clone();
        let changes = self.changes(&files, &applied).await?;
        Ok(Plan::of(pending(&files, &applied).map(|file| file.filename.clone().into_owned()).collect(), &changes))
    }

    /// Applies what is pending, or with `dry_run` says what would be.
    ///
    /// # Errors
    /// When an applied file differs from this release's, when a file fails (it is rolled back as a whole, except for one
    /// that runs without a transaction), or when the database fails.
    pub async fn up(&mut self, dry_run: bool) -> Result<Plan> {
        self.lock(dry_run).await?;
        let done = self.go_up(dry_run).await;
        store::unlock(&mut self.connection).await?;
        done
    }

    /// Takes back everything above `version`, the newest first, and puts back the functions of that time.
    ///
    /// # Errors
    /// As [`Schema::up`]; when a newer release has migrated the database.
    pub async fn down(&mut self, version: i64, dry_run: bool) -> Result<Plan> {
        self.lock(dry_run).await?;
        let done = self.go_down(version, dry_run).await;
        store::unlock(&mut self.connection).await?;
        done
    }

    async fn go_up(&mut self, dry_run: bool) -> Result<Plan> {
        let applied = store::applied(&mut self.connection).await?;
        let files = self.files.clone();
        check(&files, &applied)?;
        let mut changes = Some(self.changes(&files, &applied).await?);
        let pending: Vec<&MigrationFile> = pending(&files, &applied).collect();
        let names = pending.iter().map(|file| file.filename.clone().into_owned()).collect();
        let plan = Plan::of(names, changes.as_ref().unwrap_or(&Changes::default()));
        if dry_run || plan.is_empty() {
            return Ok(plan);
        }
        let version = newest(&applied).max(pending.last().map_or(0, |file| file.version));
        for (at, file) in pending.iter().enumerate() {
            let is_last = at + 1 == pending.len();
            if is_outside_transaction(&file.up) {
                self.apply_outside(file).await?;
            } else {
                let with = if is_last { changes.take() } else { None };
                self.apply(file, &with.unwrap_or_default(), version).await?;
            }
        }
        if let Some(changes) = changes.filter(|changes| !changes.is_empty()) {
            let step = Step { name: "functions", sql: "", changes: &changes, back: false, record: Record::Nothing };
            self.step(step, version).await?;
        }
        store::prepare(&mut self.connection).await?;
        Ok(plan)
    }

    /// Functions of a newer release are left alone: they do what this one expects of them.
    async fn changes(&mut self, files: &Files, applied: &BTreeMap<i64, Applied>) -> Result<Changes> {
        if newest(applied) > files.newest() {
            return Ok(Changes::default());
        }
        let present = store::functions(&mut self.connection, newest(applied)).await?;
        Ok(Changes::up(&files.functions, &present))
    }

    async fn go_down(&mut self, version: i64, dry_run: bool) -> Result<Plan> {
        let applied = store::applied(&mut self.connection).await?;
        let files = self.files.clone();
        if newest(&applied) > files.newest().max(version) {
            return Err(Fault::internal(format!(
                "this release does not know version {}: take it back with the release that brought it",
                newest(&applied)
            )));
        }
        let is_above = |known: &&MigrationFile| known.version > version && applied.contains_key(&known.version);
        let above: Vec<&MigrationFile> = files.migrations.iter().filter(is_above).rev().collect();
        let mut present = store::functions(&mut self.connection, newest(&applied)).await?;
        let past = store::functions(&mut self.connection, version).await?;
        let names: Vec<String> = above.iter().map(|file| file.down_filename()).collect();
        if dry_run || names.is_empty() {
            let changes = if names.is_empty() { Changes::default() } else { Changes::back(&past, &present) };
            return Ok(Plan::of(names, &changes));
        }
        let plan = Plan::of(names, &Changes::back(&past, &present));
        for file in above {
            let past = store::functions(&mut self.connection, file.version - 1).await?;
            let changes = Changes::back(&past, &present);
            if is_outside_transaction(&file.down) {
                store::begin(&mut self.connection, file).await?;
                self.statements(&file.down_filename(), &file.down).await?;
                self.revert(file, "", &changes).await?;
            } else {
                self.revert(file, &file.down, &changes).await?;
            }
            present = past;
        }
        Ok(plan)
    }

    async fn apply(&mut self, file: &MigrationFile, changes: &Changes, version: i64) -> Result<()> {
        let record = Record::Applied(file, self.clock.stopwatch());
        let step = Step { name: &file.filename, sql: &file.up, changes, back: false, record };
        self.step(step, version).await
    }

    async fn revert(&mut self, file: &MigrationFile, sql: &str, changes: &Changes) -> Result<()> {
        let name = file.down_filename();
        let step = Step { name: &name, sql, changes, back: true, record: Record::Reverted(file) };
        self.step(step, file.version - 1).await
    }

    /// Begun before and finished after: what is found begun was interrupted, and is repeated from its first statement.
    async fn apply_outside(&mut self, file: &MigrationFile) -> Result<()> {
        let begun = self.clock.stopwatch();
        store::begin(&mut self.connection, file).await?;
        self.statements(&file.filename, &file.up).await?;
        let step = Step {
            name: &file.filename,
            sql: "",
            changes: &Changes::default(),
            back: false,
            record: Record::Applied(file, begun),
        };
        self.step(step, file.version).await
    }

    /// Runs a file statement by statement, outside of a transaction.
    async fn statements(&mut self, name: &str, sql: &str) -> Result<()> {
        store::bound_session_lock_waits(&mut self.connection, Some(self.lock_wait.timeout)).await?;
        let mut attempts = Attempts::new(name, self.lock_wait);
        let done = loop {
            let process = store::process(&mut self.connection).await?;
            let work = statement_by_statement(&mut self.connection, name, sql);
            match watched(&mut self.watch, process, self.lock_wait, work).await {
                (Err(failure), blocking) if failure.is_lock_timeout() => {
                    let blocking = self.named(blocking).await?;
                    if let Err(fault) = attempts.again(&blocking).await {
                        break Err(fault);
                    }
                }
                (done, _) => break done.map_err(Failure::outside),
            }
        };
        store::bound_session_lock_waits(&mut self.connection, None).await?;
        done
    }

    /// Runs a step in one transaction, again when another session locks a table for too long.
    async fn step(&mut self, step: Step<'_>, version: i64) -> Result<()> {
        let mut attempts = Attempts::new(step.name, self.lock_wait);
        loop {
            let process = store::process(&mut self.connection).await?;
            let mut tx = self.connection.begin().await?;
            store::bound_lock_waits(&mut tx, self.lock_wait.timeout).await?;
            match watched(&mut self.watch, process, self.lock_wait, step.perform(&mut tx, version)).await {
                (Ok(()), _) => {
                    tx.commit().await?;
                    step.tell();
                    return Ok(());
                }
                (Err(failure), blocking) => {
                    tx.rollback().await?;
                    if !failure.is_lock_timeout() {
                        return Err(failure.into());
                    }
                    let blocking = self.named(blocking).await?;
                    attempts.again(&blocking).await?;
                }
            }
        }
    }

    /// The blocking sessions that were seen; when none was seen in time, those with an open transaction.
    async fn named(&mut self, blocking: Vec<String>) -> Result<Vec<String>> {
        if !blocking.is_empty() {
            return Ok(blocking);
        }
        Ok(store::open_transactions(&mut self.connection).await?)
    }

    async fn lock(&mut self, dry_run: bool) -> Result<()> {
        while !store::try_lock(&mut self.connection).await? {
            tokio::time::sleep(LOCK_PAUSE).await;
        }
        if !dry_run {
            store::prepare(&mut self.connection).await?;
        }
        Ok(())
    }
}

/// What is done in one transaction.
struct Step<'a> {
    name: &'a str,
    sql: &'a str,
    changes: &'a Changes,
    /// Functions that go may need tables that an older schema lacks, and those that come back may need its tables.
    back: bool,
    record: Record<'a>,
}

enum Record<'a> {
    Applied(&'a MigrationFile, crate::context::Stopwatch),
    Reverted(&'a MigrationFile),
    Nothing,
}

impl Step<'_> {
    async fn perform(&self, tx: &mut PgConnection, version: i64) -> Result<(), Failure> {
        let failed = |error| Failure::sql(self.name, error);
        if self.back {
            self.changes.drop(tx).await?;
        }
        if !self.sql.is_empty() {
            store::run(tx, self.sql).await.map_err(failed)?;
        }
        if !self.back {
            self.changes.drop(tx).await?;
        }
        let made = self.changes.apply(tx).await?;
        match &self.record {
            Record::Applied(file, begun) => store::record(tx, file, millis(*begun)).await.map_err(failed)?,
            Record::Reverted(file) => store::forget(tx, file.version).await.map_err(failed)?,
            Record::Nothing => {}
        }
        // What comes back is recorded already, as it was then.
        if !self.back && !self.changes.is_empty() {
            self.changes.record(tx, version, &made).await.map_err(failed)?;
        }
        Ok(())
    }

    fn tell(&self) {
        let (applied, dropped) = (self.changes.files().len(), self.changes.dropped().len());
        match &self.record {
            Record::Applied(file, begun) => {
                let (file, millis) = (file.filename.as_ref(), millis(*begun));
                tracing::info!(event = "database_tables_created", file, millis, functions = applied, "applied");
            }
            Record::Reverted(file) => {
                tracing::info!(event = "database_tables_removed", version = file.version, "reverted");
            }
            Record::Nothing => {
                tracing::info!(event = "database_functions_applied", functions = applied, dropped, "applied");
            }
        }
    }
}

fn millis(begun: crate::context::Stopwatch) -> i64 {
    i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX)
}

/// What was interrupted while it made an index has left an invalid one behind, in whose place the file makes another.
async fn statement_by_statement(connection: &mut PgConnection, name: &str, sql: &str) -> Result<(), Failure> {
    let failed = |error| Failure::sql(name, error);
    let names: Vec<&str> = sql.split(|c: char| !(c.is_alphanumeric() || c == '_')).collect();
    for index in store::invalid_indexes(connection).await.map_err(failed)? {
        if names.contains(&index.as_str()) {
            tracing::info!(event = "invalid_index_dropped", file = name, index, "an interrupted run left it behind");
            let drop = format!("DROP INDEX CONCURRENTLY IF EXISTS public.{index}");
            store::run(connection, &drop).await.map_err(failed)?;
        }
    }
    for statement in statements::split(sql) {
        store::run(connection, statement).await.map_err(failed)?;
    }
    Ok(())
}

/// Whether a service of this release can work with the database as it is.
///
/// # Errors
/// Says whether the schema is missing, older or newer, names the first file that is not applied, and what to do.
pub async fn require_current(db: &Db) -> startup::Result<()> {
    let asked = async {
        let mut connection = db.direct().await?;
        let applied = store::applied(&mut connection).await?;
        let present = store::functions(&mut connection, newest(&applied)).await?;
        Ok::<_, Fault>((applied, present))
    };
    let unread = |cause: String| StartFailure::new("read the schema of the database", cause).may_pass();
    let (applied, present) = tokio::time::timeout(ANSWER, asked)
        .await
        .map_err(|_| unread("there was no answer in time".to_owned()))?
        .map_err(StartFailure::from)?;
    let files = Files::embedded();
    let missing = pending(&files, &applied).next().map(|known| known.filename.as_ref());
    // A newer release may have changed functions, but not what this one gets from them.
    let is_ahead = newest(&applied) > files.newest();
    let look = if is_ahead { functions::unknown } else { functions::missing };
    match missing.or_else(|| look(&files.functions, &present).map(|file| file.path.as_ref())) {
        None => Ok(()),
        Some(missing) => Err(outdated(missing, newest(&applied), files.newest())),
    }
}

/// Which of the two is behind, and what to do.
fn outdated(missing: &str, applied: i64, known: i64) -> StartFailure {
    let with = |cause: String| StartFailure::new("work with this database", cause);
    let up = "Run `sidle schema up`, with database.owner_url, before the service; in development, database.migrate_on_start \
              does it.";
    if applied == 0 {
        return with(format!("it has no schema of Sidle; the first file that is missing is {missing}")).remedy(up);
    }
    if applied > known {
        let cause =
            format!("its schema is newer (version {applied}) than this release knows ({known}), and lacks {missing}");
        return with(cause).remedy("Run the release that applied the schema, or a later one.");
    }
    let cause = match applied == known {
        true => format!("its schema lacks {missing} as this release has it"),
        false => {
            format!("its schema is older (version {applied}) than this release needs ({known}); it lacks {missing}")
        }
    };
    with(cause).remedy(up)
}

/// What is not applied entirely.
fn pending<'a>(
    files: &'a Files,
    applied: &'a BTreeMap<i64, Applied>,
) -> impl Iterator<Item = &'a MigrationFile> + use<'a> {
    let is_pending =
        |known: &&MigrationFile| applied.get(&known.version).is_none_or(|applied| applied.applied_at.is_none());
    files.migrations.iter().filter(is_pending)
}

fn newest(applied: &BTreeMap<i64, Applied>) -> i64 {
    applied.last_key_value().map_or(0, |(version, _)| *version)
}

/// What was applied must be what this release has: an edited file would make two databases of one version differ. One
/// that was interrupted may be edited, since it may be its text that cannot work.
fn check(files: &Files, applied: &BTreeMap<i64, Applied>) -> Result<()> {
    for known in files.migrations.iter() {
        let applied = applied.get(&known.version).filter(|applied| applied.applied_at.is_some());
        if applied.is_some_and(|applied| applied.checksum != known.checksum()) {
            return Err(Fault::internal(format!(
                "{} was changed after it was applied to this database",
                known.filename
            )));
        }
    }
    Ok(())
}
