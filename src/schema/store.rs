//! SQL of the schema's own record. Not checked at compile time: the tables are made here.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::files::{FunctionFile, MigrationFile};

/// The advisory lock of schema runs; the digits are arbitrary but fixed for good.
const LOCK: i64 = 0x0051_d1e5_c4e3;

/// A row of `schema_migrations`.
#[derive(Clone, Debug)]
pub struct Applied {
    /// When it began.
    pub begun_at: DateTime<Utc>,
    /// When it was applied; none for a file without a transaction that is under way or was interrupted.
    pub applied_at: Option<DateTime<Utc>>,
    /// How long it took.
    pub execution_time_ms: Option<i64>,
    /// Digest of the file as it was applied.
    pub checksum: Vec<u8>,
}

/// A function as a row of `schema_functions` has it.
#[derive(Clone, Debug)]
pub(super) struct Recorded {
    /// Name and argument types.
    pub signature: String,
    pub checksum: Vec<u8>,
    pub sql: String,
    /// Whether the database has the function indeed.
    pub is_there: bool,
}

/// Whether the lock of schema runs was free and is held now. Does not wait: a waiting session holds a snapshot
/// meanwhile, and an index that is made without a transaction waits for every snapshot.
pub(super) async fn try_lock(connection: &mut PgConnection) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock($1)").bind(LOCK).fetch_one(connection).await
}

pub(super) async fn unlock(connection: &mut PgConnection) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_unlock($1)").bind(LOCK).execute(connection).await?;
    Ok(())
}

pub(super) async fn prepare(connection: &mut PgConnection) -> sqlx::Result<()> {
    run(
        connection,
        "CREATE TABLE IF NOT EXISTS schema_migrations (
             version           bigint PRIMARY KEY,
             filename          text NOT NULL,
             begun_at          timestamptz NOT NULL DEFAULT now(),
             applied_at        timestamptz,
             execution_time_ms bigint,
             checksum          bytea NOT NULL,
             CONSTRAINT schema_migrations_applied_check CHECK ((applied_at IS NULL) = (execution_time_ms IS NULL))
         );
         COMMENT ON TABLE schema_migrations IS 'Schema migrations that are applied to this database.';
         COMMENT ON COLUMN schema_migrations.version IS 'Number in the file name.';
         COMMENT ON COLUMN schema_migrations.filename IS 'File that was applied.';
         COMMENT ON COLUMN schema_migrations.begun_at IS 'When it began.';
         COMMENT ON COLUMN schema_migrations.applied_at IS 'When it was applied; null for a file without a transaction that is under way or was interrupted.';
         COMMENT ON COLUMN schema_migrations.execution_time_ms IS 'How long it took, in milliseconds.';
         COMMENT ON COLUMN schema_migrations.checksum IS 'SHA-256 of the file as it was applied.';

         CREATE TABLE IF NOT EXISTS schema_functions (
             version    bigint NOT NULL,
             name       text NOT NULL,
             signature  text NOT NULL,
             sql        text,
             checksum   bytea,
             applied_at timestamptz NOT NULL DEFAULT now(),
             PRIMARY KEY (version, name),
             CONSTRAINT schema_functions_sql_check CHECK ((sql IS NULL) = (checksum IS NULL))
         );
         COMMENT ON TABLE schema_functions IS 'Database functions as they were while a version of the schema was the newest. A version without rows has those of the version before it.';
         COMMENT ON COLUMN schema_functions.version IS 'Version of the schema.';
         COMMENT ON COLUMN schema_functions.name IS 'Name of the function, and of its file.';
         COMMENT ON COLUMN schema_functions.signature IS 'Name and argument types, to drop it by.';
         COMMENT ON COLUMN schema_functions.sql IS 'The file as it was applied; null for a function that was dropped.';
         COMMENT ON COLUMN schema_functions.checksum IS 'SHA-256 of the file as it was applied.';
         COMMENT ON COLUMN schema_functions.applied_at IS 'When it was applied.';

         -- The service sees what is applied, so that it can say what is missing. The first file makes its role.
         DO $$
         BEGIN
             IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'sidle_app') THEN
                 GRANT SELECT ON schema_migrations, schema_functions TO sidle_app;
             END IF;
         END
         $$",
    )
    .await
}

async fn has(connection: &mut PgConnection, table: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(table).fetch_one(connection).await
}

pub(super) async fn applied(connection: &mut PgConnection) -> sqlx::Result<BTreeMap<i64, Applied>> {
    if !has(connection, "schema_migrations").await? {
        return Ok(BTreeMap::new());
    }
    let all = "SELECT version, begun_at, applied_at, execution_time_ms, checksum FROM schema_migrations";
    let rows = sqlx::query(all).fetch_all(connection).await?;
    let read = |row: sqlx::postgres::PgRow| {
        let applied = Applied {
            begun_at: row.try_get("begun_at")?,
            applied_at: row.try_get("applied_at")?,
            execution_time_ms: row.try_get("execution_time_ms")?,
            checksum: row.try_get("checksum")?,
        };
        Ok((row.try_get("version")?, applied))
    };
    rows.into_iter().map(read).collect()
}

/// The functions that were in force, by name, while `version` was the newest.
pub(super) async fn functions(connection: &mut PgConnection, version: i64) -> sqlx::Result<BTreeMap<String, Recorded>> {
    if !has(connection, "schema_functions").await? {
        return Ok(BTreeMap::new());
    }
    let rows = sqlx::query(
        "SELECT name, signature, sql, checksum, to_regprocedure(signature) IS NOT NULL AS is_there
         FROM schema_functions
         WHERE version = (SELECT max(version) FROM schema_functions WHERE version <= $1) AND sql IS NOT NULL",
    );
    let read = |row: sqlx::postgres::PgRow| {
        let recorded = Recorded {
            signature: row.try_get("signature")?,
            checksum: row.try_get("checksum")?,
            sql: row.try_get("sql")?,
            is_there: row.try_get("is_there")?,
        };
        Ok((row.try_get("name")?, recorded))
    };
    rows.bind(version).fetch_all(connection).await?.into_iter().map(read).collect()
}

/// Sends a file's text as it is.
pub(super) async fn run(connection: &mut PgConnection, sql: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await?;
    Ok(())
}

/// Bounds how long the rest of the transaction waits for a lock.
pub(super) async fn bound_lock_waits(connection: &mut PgConnection, timeout: Duration) -> sqlx::Result<()> {
    run(connection, &format!("SET LOCAL lock_timeout = {}", timeout.as_millis())).await
}

/// Bounds how long what follows outside of transactions waits for a lock; none for as long as it takes.
pub(super) async fn bound_session_lock_waits(
    connection: &mut PgConnection,
    timeout: Option<Duration>,
) -> sqlx::Result<()> {
    let timeout = timeout.map_or("DEFAULT".to_owned(), |timeout| timeout.as_millis().to_string());
    run(connection, &format!("SET lock_timeout = {timeout}")).await
}

/// What functions name may be made later in the same transaction.
pub(super) async fn skip_checks_of_bodies(connection: &mut PgConnection) -> sqlx::Result<()> {
    run(connection, "SET LOCAL check_function_bodies = off").await
}

pub(super) async fn process(connection: &mut PgConnection) -> sqlx::Result<i32> {
    sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection).await
}

/// How a session is named to who is to end it. What the schema's owner may not see of others' sessions is left out.
const DESCRIBED: &str = "format('pid %s (%s%s%s)', s.pid, coalesce(nullif(a.application_name, ''), 'no name'),
    ', ' || a.state, ', transaction open for ' || extract(epoch FROM clock_timestamp() - a.xact_start)::bigint || ' s')";

/// The sessions that a process waits for now, the one with the oldest transaction first.
pub(super) async fn blocking(connection: &mut PgConnection, process: i32) -> sqlx::Result<Vec<String>> {
    let blocking = format!(
        "SELECT {DESCRIBED} FROM unnest(pg_blocking_pids($1)) AS s(pid) LEFT JOIN pg_stat_activity a USING (pid)
         ORDER BY a.xact_start LIMIT 5"
    );
    sqlx::query_scalar(AssertSqlSafe(blocking)).bind(process).fetch_all(connection).await
}

/// The transactions that are open in this database, the oldest first: the blocking ones are among them.
pub(super) async fn open_transactions(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    let open = format!(
        "SELECT {DESCRIBED} FROM pg_stat_activity s JOIN pg_stat_activity a USING (pid)
         WHERE a.datname = current_database() AND a.xact_start IS NOT NULL AND a.pid <> pg_backend_pid()
         ORDER BY a.xact_start LIMIT 5"
    );
    sqlx::query_scalar(AssertSqlSafe(open)).fetch_all(connection).await
}

/// Records that a file without a transaction has begun. One that was interrupted begins again.
pub(super) async fn begin(connection: &mut PgConnection, file: &MigrationFile) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO schema_migrations (version, filename, checksum) VALUES ($1, $2, $3)
         ON CONFLICT (version) DO UPDATE SET filename = excluded.filename, checksum = excluded.checksum,
             begun_at = excluded.begun_at, applied_at = NULL, execution_time_ms = NULL",
    )
    .bind(file.version)
    .bind(file.filename.as_ref())
    .bind(&file.checksum()[..])
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn record(connection: &mut PgConnection, file: &MigrationFile, millis: i64) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO schema_migrations (version, filename, applied_at, execution_time_ms, checksum)
         VALUES ($1, $2, clock_timestamp(), $3, $4)
         ON CONFLICT (version) DO UPDATE SET applied_at = excluded.applied_at,
             execution_time_ms = excluded.execution_time_ms",
    )
    .bind(file.version)
    .bind(file.filename.as_ref())
    .bind(millis)
    .bind(&file.checksum()[..])
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets a version, and the functions of it and of whatever came after it.
pub(super) async fn forget(connection: &mut PgConnection, version: i64) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM schema_functions WHERE version >= $1").bind(version).execute(&mut *connection).await?;
    sqlx::query("DELETE FROM schema_migrations WHERE version = $1").bind(version).execute(connection).await?;
    Ok(())
}

/// The indexes that an interrupted run left behind, which are kept up to date and never used.
pub(super) async fn invalid_indexes(connection: &mut PgConnection) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT c.relname::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
         WHERE NOT i.indisvalid AND c.relnamespace = 'public'::regnamespace ORDER BY 1",
    )
    .fetch_all(connection)
    .await
}

/// Gives `version` a set of functions of its own, as yet the one of the version before it.
pub(super) async fn begin_set(connection: &mut PgConnection, version: i64) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO schema_functions (version, name, signature, sql, checksum, applied_at)
         SELECT $1, name, signature, sql, checksum, applied_at FROM schema_functions
         WHERE version = (SELECT max(version) FROM schema_functions WHERE version <= $1)
         ON CONFLICT DO NOTHING",
    )
    .bind(version)
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn record_function(
    connection: &mut PgConnection,
    version: i64,
    file: &FunctionFile,
    signature: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "INSERT INTO schema_functions (version, name, signature, sql, checksum) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (version, name) DO UPDATE SET signature = excluded.signature, sql = excluded.sql,
             checksum = excluded.checksum, applied_at = excluded.applied_at",
    )
    .bind(version)
    .bind(file.name.as_ref())
    .bind(signature)
    .bind(file.sql.as_ref())
    .bind(&file.checksum()[..])
    .execute(connection)
    .await?;
    Ok(())
}

pub(super) async fn record_dropped(connection: &mut PgConnection, version: i64, name: &str) -> sqlx::Result<()> {
    let gone =
        "UPDATE schema_functions SET sql = NULL, checksum = NULL, applied_at = now() WHERE version = $1 AND name = $2";
    sqlx::query(gone).bind(version).bind(name).execute(connection).await?;
    Ok(())
}

/// Name and argument types of every function of this name.
pub(super) async fn signatures(connection: &mut PgConnection, name: &str) -> sqlx::Result<Vec<String>> {
    let all = "SELECT oid::regprocedure::text FROM pg_proc
        WHERE pronamespace = 'public'::regnamespace AND proname = $1 ORDER BY 1";
    sqlx::query_scalar(all).bind(name).fetch_all(connection).await
}

/// The triggers that call a function: names, and statements that drop them.
pub(super) async fn triggers(connection: &mut PgConnection, signature: &str) -> sqlx::Result<Vec<(String, String)>> {
    let all = "SELECT tgname::text, format('DROP TRIGGER %I ON %s', tgname, tgrelid::regclass) FROM pg_trigger
        WHERE tgfoid = to_regprocedure($1) AND NOT tgisinternal ORDER BY 1";
    sqlx::query_as(all).bind(signature).fetch_all(connection).await
}
