//! One step of a run: bounded waits for locks, repeated when a session locks a table for too long, and which one that was.

use std::time::Duration;

use sqlx::PgConnection;

use super::store;
use crate::fault::Fault;

/// SQLSTATE of a function that would be replaced by one with other result columns.
const OTHER_COLUMNS: &str = "42P13";
/// SQLSTATE of what the role may not do.
const DENIED: &str = "42501";
/// SQLSTATE of a statement that waited for a lock for too long.
const LOCK_TIMEOUT: &str = "55P03";

/// How a step waits for tables that others lock. Whatever comes after it waits behind it meanwhile, so that it waits
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

/// Why a step could not be done.
#[derive(Debug)]
pub(super) enum Failure {
    /// A statement of this file failed.
    Sql(String, sqlx::Error),
    /// What it did is not what it may do.
    Fault(Fault),
}

impl Failure {
    pub fn sql(file: impl Into<String>, error: sqlx::Error) -> Self {
        Self::Sql(file.into(), error)
    }

    fn code(&self) -> Option<String> {
        let Self::Sql(_, error) = self else { return None };
        Some(error.as_database_error()?.code()?.into_owned())
    }

    /// What to say of a file that runs without a transaction: nothing of it is rolled back.
    pub fn outside(self) -> Fault {
        match self {
            Self::Sql(file, error) => Fault::internal(format!(
                "{file} failed: {error}. It runs without a transaction, so what it did before that stays; repeat the command \
                 when the cause is gone, and it begins again"
            )),
            Self::Fault(fault) => fault,
        }
    }

    /// Whether a statement gave up because another session locks what it wants.
    pub fn is_lock_timeout(&self) -> bool {
        self.code().as_deref() == Some(LOCK_TIMEOUT)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl From<Failure> for Fault {
    fn from(failure: Failure) -> Self {
        let remedy = match failure.code().as_deref() {
            Some(OTHER_COLUMNS) => ". A function with other result columns or parameter names needs another name",
            Some(DENIED) => {
                ". The role of database.owner_url must own the database's schema `public` and may make roles, unless sidle_app \
                 was made before (CREATE ROLE sidle_app LOGIN PASSWORD '...')"
            }
            _ => "",
        };
        match failure {
            // The files are ours and hold no data, so the database's message may be shown.
            Failure::Sql(file, error) => Self::internal(format!("{file} failed and was rolled back: {error}{remedy}")),
            Failure::Fault(fault) => fault,
        }
    }
}

/// Counts the attempts of one step.
pub(super) struct Attempts<'a> {
    step: &'a str,
    wait: LockWait,
    attempt: u32,
}

impl<'a> Attempts<'a> {
    pub fn new(step: &'a str, wait: LockWait) -> Self {
        Self { step, wait, attempt: 1 }
    }

    /// After a wait that was too long: pauses, so that what came after passes, or gives up for good.
    pub async fn again(&mut self, blocking: &[String]) -> Result<(), Fault> {
        let (step, attempt) = (self.step, self.attempt);
        let holders = blocking.join("; ");
        if attempt >= self.wait.attempts {
            return Err(Fault::internal(format!(
                "{step} waited {attempt} times for what another session holds, and gave up. In its way: {holders}. End them, \
                 or wait for them, and repeat the command"
            )));
        }
        tracing::warn!(event = "schema_step_waits", file = step, attempt, holders, "a table is held by somebody else");
        tokio::time::sleep(self.wait.pause * 2_u32.saturating_pow(attempt - 1)).await;
        self.attempt += 1;
        Ok(())
    }
}

/// Does `work` on the connection of `process`, and reports which sessions it waited for last. The database knows that only
/// while it waits, so that `watch`, another connection, looks again and again.
pub(super) async fn watched<T>(
    watch: &mut PgConnection,
    process: i32,
    wait: LockWait,
    work: impl Future<Output = T>,
) -> (T, Vec<String>) {
    let pause = (wait.timeout / 8).clamp(Duration::from_millis(5), Duration::from_millis(250));
    let mut work = std::pin::pin!(work);
    let mut seen = Vec::new();
    loop {
        if let Ok(done) = tokio::time::timeout(pause, &mut work).await {
            return (done, seen);
        }
        match store::blocking(watch, process).await {
            Ok(blocking) if blocking.is_empty() => {}
            Ok(blocking) => seen = blocking,
            Err(error) => tracing::debug!(error = %error, "whom a step waits for is not known"),
        }
    }
}
