//! The schema as the database sees it: up and down, with descriptions, and isolated by row-level security.

use std::time::Duration;

use sidle::config::Config;
use sidle::context::Clock;
use sidle::schema::{LockWait, Migration, Schema};
use sidle_dev::postgres::Database;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::support::database;

mod runner;
mod waits;

async fn schema(database: &Database) -> Schema {
    let settings = [
        ("SIDLE_SERVER__PLAINTEXT".to_owned(), "true".to_owned()),
        ("SIDLE_DATABASE__OWNER_URL".to_owned(), database.owner_url.clone()),
    ];
    Schema::connect(&Config::load(None, settings).unwrap().database, Clock::system()).await.unwrap()
}

/// All tables, columns, indexes, policies, functions and triggers of ours in the catalogue, with their privileges and
/// their descriptions.
async fn shape(connection: &mut PgConnection) -> Vec<String> {
    let query = "
        SELECT concat_ws(' ', 'column', c.relname || '.' || a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
               a.attidentity, pg_get_expr(d.adbin, d.adrelid), a.attacl, col_description(c.oid, a.attnum))
               FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
               LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
               WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
        UNION ALL SELECT concat_ws(' ', 'table', relname, relpersistence, relrowsecurity, relforcerowsecurity, reloptions,
               relacl, obj_description(oid)) FROM pg_class
               WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public'
        UNION ALL SELECT concat_ws(' ', 'policy', tablename, policyname, cmd, roles, qual, with_check) FROM pg_policies
        UNION ALL SELECT concat_ws(' ', 'function', oid::regprocedure, pg_get_function_result(oid), prosecdef, provolatile,
               proconfig, proacl, md5(concat(prosrc, pg_get_function_sqlbody(oid))), obj_description(oid)) FROM pg_proc
               WHERE pronamespace = 'public'::regnamespace
        UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
        UNION ALL SELECT concat_ws(' ', 'constraint', conrelid::regclass, conname, pg_get_constraintdef(oid), convalidated)
               FROM pg_constraint WHERE connamespace = 'public'::regnamespace
        ORDER BY 1";
    sqlx::query_scalar(query).fetch_all(connection).await.unwrap()
}

/// The part of a shape that is not the runner's own record.
fn ours(shape: Vec<String>) -> Vec<String> {
    shape.into_iter().filter(|line| !line.contains("schema_migrations") && !line.contains("schema_functions")).collect()
}

#[tokio::test]
async fn every_migration_can_be_taken_back_and_applied_again() {
    let database = database().await;
    let mut schema = schema(&database).await;
    let mut look = PgConnection::connect(&database.owner_url).await.unwrap();
    let before = shape(&mut look).await;
    assert!(before.len() > 100, "the schema is there");

    let status = schema.status().await.unwrap();
    assert!(status.iter().all(Migration::is_applied), "the template has everything applied");
    for migration in status.iter().rev() {
        schema
            .down(migration.version - 1, false)
            .await
            .unwrap_or_else(|e| panic!("down {}: {e:?}", migration.filename));
    }
    let left = ours(shape(&mut look).await);
    assert!(left.is_empty(), "left behind: {left:#?}");
    schema.up(false).await.unwrap();
    assert_eq!(shape(&mut look).await, before);
}

/// A step that waits in line for a table would hold up every statement behind it.
#[tokio::test]
async fn a_step_gives_up_on_a_table_that_somebody_holds_and_names_them() {
    let database = database().await;
    let wait = LockWait { timeout: Duration::from_millis(50), pause: Duration::from_millis(1), attempts: 2 };
    let mut schema = schema(&database).await.with_lock_wait(wait);
    let mut look = PgConnection::connect(&database.owner_url).await.unwrap();
    let before = shape(&mut look).await;
    let mut holder = PgConnection::connect(&format!("{}?application_name=report", database.owner_url)).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM users").execute(&mut *held).await.unwrap();
    let down = tokio::time::timeout(Duration::from_secs(60), schema.down(0, false));
    let fault = down.await.expect("it gives up").unwrap_err();
    let cause = fault.cause().unwrap().to_string();
    assert!(cause.contains("report") && cause.contains("pid ") && cause.contains(".down.sql"), "{cause}");
    // The steps that were rolled back before it were rolled back completely.
    held.rollback().await.unwrap();
    schema.up(false).await.unwrap();
    assert_eq!(shape(&mut look).await, before);
}

#[tokio::test]
async fn two_runs_at_once_apply_everything_once() {
    let database = Database::create("sidle_test", None).await.unwrap();
    let (mut first, mut second) = (schema(&database).await, schema(&database).await);
    let (first, second) = tokio::join!(first.up(false), second.up(false));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.is_empty() != second.is_empty(), "{first:?} {second:?}");
    assert!(!first.files.is_empty() || !second.files.is_empty());
}

#[tokio::test]
async fn a_service_says_what_the_schema_lacks() {
    let setup = crate::support::Setup::new().await;
    let mut schema = schema(setup.database()).await;
    let last = schema.status().await.unwrap().pop().unwrap();
    let mut look = PgConnection::connect(&setup.database().owner_url).await.unwrap();
    let refusal = async || {
        let config = Config::load(None, setup.environment().clone()).unwrap();
        let app = sidle::app::App::new(config, sidle::context::Context::system()).await.unwrap();
        let refused = sidle::schema::require_current(&app.db).await.err();
        refused.map(|failure| format!("{failure} {}", failure.what_to_do().unwrap_or_default()))
    };
    assert_eq!(refusal().await, None);

    // Another text of a function belongs to another release. When its schema is newer as well, it does what this one
    // expects.
    sqlx::query("UPDATE schema_functions SET checksum = '\\x00' WHERE name = 'login_begin'")
        .execute(&mut look)
        .await
        .unwrap();
    let fault = refusal().await.expect("refused");
    assert!(fault.contains("functions/authenticate/login_begin.sql") && fault.contains("sidle schema up"), "{fault}");
    let newer = "INSERT INTO schema_migrations (version, filename, applied_at, execution_time_ms, checksum)
        VALUES (9999, '9999_newer.up.sql', now(), 0, '\\x00')";
    sqlx::query(newer).execute(&mut look).await.unwrap();
    assert_eq!(refusal().await, None);
    assert!(schema.up(false).await.unwrap().is_empty(), "nothing of a newer release is overwritten");
    let fault = schema.down(0, false).await.unwrap_err().cause().unwrap().to_string();
    assert!(fault.contains("9999"), "{fault}");
    sqlx::query("DELETE FROM schema_migrations WHERE version = 9999").execute(&mut look).await.unwrap();
    assert_eq!(schema.up(false).await.unwrap().functions, ["functions/authenticate/login_begin.sql"]);
    assert_eq!(refusal().await, None);

    schema.down(last.version - 1, false).await.unwrap();
    let config = Config::load(None, setup.environment().clone()).unwrap();
    let app = sidle::app::App::new(config, sidle::context::Context::system()).await.unwrap();
    let failure = app.start().await.err().expect("does not start");
    let told = format!("{failure} {}", failure.what_to_do().unwrap_or_default());
    assert!(told.contains(&last.filename) && told.contains("sidle schema up"), "{told}");
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let database = Database::create("sidle_test", None).await.unwrap();
    let mut schema = schema(&database).await;
    let plan = schema.up(true).await.unwrap();
    assert_eq!(plan.files.first().map(String::as_str), Some("0001_foundation.up.sql"));
    assert!(plan.functions.contains(&"functions/audit/audit_record.sql".to_owned()), "{plan:?}");
    assert_eq!(schema.pending().await.unwrap(), plan);
    assert!(!schema.status().await.unwrap().iter().any(Migration::is_applied));
    let mut look = PgConnection::connect(&database.owner_url).await.unwrap();
    assert!(shape(&mut look).await.is_empty());
}

#[tokio::test]
async fn every_table_and_column_is_explained() {
    let database = database().await;
    let mut look = PgConnection::connect(&database.owner_url).await.unwrap();
    let bare: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || coalesce('.' || a.attname, '') FROM pg_class c
         LEFT JOIN LATERAL (SELECT attname, attnum FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
                            UNION ALL SELECT NULL, 0) a ON true
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v')
           AND col_description(c.oid, a.attnum) IS NULL AND (a.attnum > 0 OR obj_description(c.oid) IS NULL)",
    )
    .fetch_all(&mut look)
    .await
    .unwrap();
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}

#[tokio::test]
async fn the_application_role_owns_nothing_and_is_walled_everywhere() {
    let database = database().await;
    let mut look = PgConnection::connect(&database.owner_url).await.unwrap();
    let open: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')
         -- What is applied is nobody's secret and belongs to no tenant.
         AND relname NOT IN ('schema_migrations', 'schema_functions')
         AND NOT (relrowsecurity AND relforcerowsecurity) AND has_table_privilege('sidle_app', oid, 'SELECT, INSERT, UPDATE, DELETE')",
    )
    .fetch_all(&mut look)
    .await
    .unwrap();
    assert!(open.is_empty(), "tables that the application reaches without forced row-level security: {open:?}");

    let role = sqlx::query(
        "SELECT rolsuper, rolbypassrls, rolcreaterole, rolcreatedb FROM pg_roles WHERE rolname = 'sidle_app'",
    );
    let role = role.fetch_one(&mut look).await.unwrap();
    for right in ["rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb"] {
        assert!(!role.get::<bool, _>(right), "{right}");
    }
    let owned: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_class WHERE relowner = 'sidle_app'::regrole")
        .fetch_one(&mut look)
        .await
        .unwrap();
    assert_eq!(owned, 0);

    let everybodys: Vec<String> = sqlx::query_scalar(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef
         AND has_function_privilege('public', oid, 'EXECUTE')",
    )
    .fetch_all(&mut look)
    .await
    .unwrap();
    assert!(everybodys.is_empty(), "functions that run as the owner for everybody: {everybodys:?}");
}

/// With no tenant set no row is visible, whatever there is.
#[tokio::test]
async fn without_a_tenant_no_row_is_visible() {
    let server = crate::support::TestServer::start().await;
    let tenant = server.tenant("walls").await;
    server.user(tenant, "someone@walls.example", "SYSTEM_ADMIN").await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')
         AND relrowsecurity AND has_table_privilege('sidle_app', oid, 'SELECT')",
    )
    .fetch_all(server.sql())
    .await
    .unwrap();
    assert!(tables.len() >= 9, "{tables:?}");
    let mut app = PgConnection::connect(&server.setup.database().app_url).await.unwrap();
    for table in tables {
        let count = format!("SELECT count(*) FROM {table}");
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut app).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
    let all: i64 = sqlx::query_scalar("SELECT count(*) FROM users").fetch_one(server.sql()).await.unwrap();
    assert!(all > 0, "there was something to see");
}

/// A temporary table of the service's role, with a trigger of its own, must not stand in the way of a function that runs
/// as the owner: the trigger would be the owner's as well.
#[tokio::test]
async fn functions_look_at_temporary_tables_last() {
    let database = database().await;
    let mut look = PgConnection::connect(&database.owner_url).await.unwrap();
    let first: Vec<String> = sqlx::query_scalar(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace
         AND prosqlbody IS NULL AND NOT coalesce(proconfig && ARRAY['search_path=pg_catalog, public, pg_temp', 'search_path=pg_catalog'], false)",
    )
    .fetch_all(&mut look)
    .await
    .unwrap();
    assert!(first.is_empty(), "functions that temporary tables can be put in the way of: {first:?}");

    let mut app = PgConnection::connect(&database.app_url).await.unwrap();
    for trap in [
        "CREATE TEMPORARY TABLE address_attempts (network text, lane text, free_at timestamptz, PRIMARY KEY (network, lane))",
        "CREATE FUNCTION pg_temp.trap() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN RAISE EXCEPTION 'sprung as %', current_user; END $$",
        "CREATE TRIGGER trap BEFORE INSERT ON pg_temp.address_attempts FOR EACH ROW EXECUTE FUNCTION pg_temp.trap()",
    ] {
        sqlx::query(trap).execute(&mut app).await.unwrap();
    }
    let call = "SELECT rate_limit_acquire('lane', 'network', now(), interval '1 second', interval '1 minute')";
    sqlx::query(call).execute(&mut app).await.expect("the trap is not looked at");
}
