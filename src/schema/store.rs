//! SQL of the schema's own record. Not checked at compile time: the table is made here.

use std::time::Duration;

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::Applied;
use crate::fault::Result;

/// The advisory lock of schema runs; the digits are arbitrary but fixed for good.
const LOCK: i64 = 0x0051_d1e5_c4e3;

pub(super) async fn lock(connection: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT pg_advisory_lock($1)").bind(LOCK).execute(connection).await?;
    Ok(())
}

pub(super) async fn unlock(connection: &mut PgConnection) -> Result<()> {
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(connection).await?;
    Ok(())
}

pub(super) async fn prepare(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql(
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             version           bigint PRIMARY KEY,
             filename          text NOT NULL,
             applied_at        timestamptz NOT NULL DEFAULT now(),
             execution_time_ms bigint NOT NULL,
             checksum          bytea NOT NULL
         );
         COMMENT ON TABLE schema_migrations IS 'Schema migrations that are applied to this database.';
         COMMENT ON COLUMN schema_migrations.version IS 'Number in the file name.';
         COMMENT ON COLUMN schema_migrations.filename IS 'File that was applied.';
         COMMENT ON COLUMN schema_migrations.applied_at IS 'When it was applied.';
         COMMENT ON COLUMN schema_migrations.execution_time_ms IS 'How long it took, in milliseconds.';
         COMMENT ON COLUMN schema_migrations.checksum IS 'SHA-256 of the file as it was applied.';",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets the service see what is applied, so that it can say what is missing.
pub(super) async fn share(connection: &mut PgConnection) -> Result<()> {
    sqlx::raw_sql("GRANT SELECT ON schema_migrations TO sidle_app").execute(connection).await?;
    Ok(())
}

pub(super) async fn applied(connection: &mut PgConnection) -> Result<Vec<(i64, Applied)>> {
    let exists: bool =
        sqlx::query_scalar("SELECT to_regclass('schema_migrations') IS NOT NULL").fetch_one(&mut *connection).await?;
    if !exists {
        return Ok(Vec::new());
    }
    let rows =
        sqlx::query("SELECT version, applied_at, execution_time_ms, checksum FROM schema_migrations ORDER BY version")
            .fetch_all(connection)
            .await?;
    let mut applied = Vec::with_capacity(rows.len());
    for row in rows {
        let record = Applied {
            applied_at: row.try_get("applied_at")?,
            execution_time_ms: row.try_get("execution_time_ms")?,
            checksum: row.try_get("checksum")?,
        };
        applied.push((row.try_get("version")?, record));
    }
    Ok(applied)
}

pub(super) async fn run(connection: &mut PgConnection, sql: &'static str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await?;
    Ok(())
}

/// Bounds how long the rest of the transaction waits for a lock.
pub(super) async fn bound_lock_waits(connection: &mut PgConnection, timeout: Duration) -> sqlx::Result<()> {
    let set = format!("SET LOCAL lock_timeout = {}", timeout.as_millis());
    sqlx::raw_sql(AssertSqlSafe(set)).execute(connection).await?;
    Ok(())
}

/// Whether a statement gave up because somebody else holds what it wants.
pub(super) fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}

/// The transactions that are open in this database, the oldest first: whoever is in the way is among them.
pub(super) async fn open_transactions(connection: &mut PgConnection) -> Result<Vec<String>> {
    let open =
        "SELECT format('pid %s (%s, %s, open for %s s)', pid, coalesce(nullif(application_name, ''), 'no name'), state,
            extract(epoch FROM clock_timestamp() - xact_start)::bigint)
        FROM pg_stat_activity
        WHERE datname = current_database() AND xact_start IS NOT NULL AND pid <> pg_backend_pid()
        ORDER BY xact_start LIMIT 5";
    Ok(sqlx::query_scalar(open).fetch_all(connection).await?)
}

pub(super) async fn record(
    connection: &mut PgConnection,
    version: i64,
    filename: &str,
    millis: i64,
    checksum: &[u8],
) -> Result<()> {
    sqlx::query(
        "INSERT INTO schema_migrations (version, filename, execution_time_ms, checksum) VALUES ($1, $2, $3, $4)",
    )
    .bind(version)
    .bind(filename)
    .bind(millis)
    .bind(checksum)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn forget(connection: &mut PgConnection, version: i64) -> Result<()> {
    sqlx::query("DELETE FROM schema_migrations WHERE version = $1").bind(version).execute(connection).await?;
    Ok(())
}
