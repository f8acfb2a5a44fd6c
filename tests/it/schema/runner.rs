//! Running made-up files: functions that follow their texts, both ways, and files that run without a transaction.

use std::time::Duration;

use sidle::schema::{Files, FunctionFile, LockWait, MigrationFile, Schema};
use sidle_dev::postgres::Database;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{ours, schema, shape};
use crate::support::eventually;

/// Versioned files 1, 2, ... and functions, which may be of any text.
fn files(migrations: &[(&str, &str)], functions: &[(&str, &str)]) -> Files {
    let migration = |(at, (up, down)): (usize, &(&str, &str))| MigrationFile {
        version: i64::try_from(at).unwrap() + 1,
        description: "step".into(),
        filename: format!("{:04}_step.up.sql", at + 1).into(),
        up: (*up).to_owned().into(),
        down: (*down).to_owned().into(),
    };
    let function = |(name, sql): &(&str, &str)| FunctionFile {
        name: (*name).to_owned().into(),
        path: format!("functions/some/{name}.sql").into(),
        sql: (*sql).to_owned().into(),
    };
    Files {
        migrations: migrations.iter().enumerate().map(migration).collect(),
        functions: functions.iter().map(function).collect(),
    }
}

/// A function without arguments that gives `value`.
fn gives(name: &str, value: i32) -> String {
    format!("CREATE OR REPLACE FUNCTION {name}() RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN {value}; END $$;")
}

struct Stage {
    database: Database,
    look: PgConnection,
}

impl Stage {
    async fn new() -> Self {
        let database = Database::create("sidle_test", None).await.unwrap();
        let look = PgConnection::connect(&database.owner_url).await.unwrap();
        Self { database, look }
    }

    async fn schema(&self, files: &Files) -> Schema {
        schema(&self.database).await.with_files(files.clone())
    }

    async fn ask<T>(&mut self, question: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let question = AssertSqlSafe(question.to_owned());
        sqlx::query_scalar(question).fetch_one(&mut self.look).await.unwrap()
    }

    /// The functions that exist, with their texts.
    async fn functions(&mut self) -> Vec<String> {
        let all = "SELECT array_agg(proname || ': ' || prosrc ORDER BY proname) FROM pg_proc
            WHERE pronamespace = 'public'::regnamespace";
        self.ask::<Option<Vec<String>>>(all).await.unwrap_or_default()
    }
}

#[tokio::test]
async fn a_function_is_applied_again_when_its_text_changed_and_alone() {
    let mut stage = Stage::new().await;
    let table = ("CREATE TABLE t (x integer)", "DROP TABLE t");
    let (f, g, other) = (gives("f", 1), gives("g", 1), gives("f", 2));
    let plan = stage.schema(&files(&[table], &[("f", &f), ("g", &g)])).await.up(false).await.unwrap();
    assert_eq!((plan.files.len(), plan.functions.len()), (1, 2));
    let applied = "SELECT applied_at FROM schema_functions WHERE name = 'g'";
    let before: chrono::DateTime<chrono::Utc> = stage.ask(applied).await;

    let changed = files(&[table], &[("f", &other), ("g", &g)]);
    let mut schema = stage.schema(&changed).await;
    let pending = schema.up(true).await.unwrap();
    assert_eq!((pending.files.len(), pending.functions.as_slice()), (0, &["functions/some/f.sql".to_owned()][..]));
    assert_eq!(stage.ask::<i32>("SELECT f()").await, 1, "a dry run applies nothing");
    assert_eq!(schema.up(false).await.unwrap(), pending);
    assert_eq!(stage.ask::<i32>("SELECT f() * 10 + g()").await, 21);
    assert_eq!(stage.ask::<chrono::DateTime<chrono::Utc>>(applied).await, before);
    assert!(schema.up(false).await.unwrap().is_empty());
}

#[tokio::test]
async fn going_down_puts_back_the_functions_of_that_time() {
    let mut stage = Stage::new().await;
    let one = ("CREATE TABLE t (x integer)", "DROP TABLE t");
    let two = ("ALTER TABLE t ADD COLUMN y integer", "ALTER TABLE t DROP COLUMN y");
    let three = ("CREATE TABLE u (x integer)", "DROP TABLE u");
    // `of_row` needs the table as an argument, and `on_t` is called by a trigger.
    let row = "CREATE OR REPLACE FUNCTION of_row(r t) RETURNS integer LANGUAGE plpgsql AS $$ BEGIN RETURN r.x; END $$;
        COMMENT ON FUNCTION of_row(t) IS 'One.'; REVOKE ALL ON FUNCTION of_row(t) FROM PUBLIC;";
    let on_t = "CREATE OR REPLACE FUNCTION on_t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
        CREATE OR REPLACE TRIGGER t_before BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION on_t();";
    let (f, goes) = (gives("f", 1), gives("goes", 1));
    let first = files(&[one], &[("f", &f), ("goes", &goes), ("of_row", row), ("on_t", on_t)]);
    stage.schema(&first).await.up(false).await.unwrap();
    // Once more under the same version: what is restored is what was there last.
    let f = gives("f", 2);
    let first = files(&[one], &[("f", &f), ("goes", &goes), ("of_row", row), ("on_t", on_t)]);
    stage.schema(&first).await.up(false).await.unwrap();
    let before = (ours(shape(&mut stage.look).await), stage.functions().await);

    let (f, new) = (gives("f", 3), gives("new", 1));
    let second = files(&[one, two, three], &[("f", &f), ("new", &new), ("of_row", row)]);
    let mut schema = stage.schema(&second).await;
    let plan = schema.up(false).await.unwrap();
    assert_eq!(plan.functions, ["functions/some/f.sql", "functions/some/new.sql"]);
    assert_eq!(plan.dropped, ["goes", "on_t"]);
    assert_eq!(stage.ask::<i64>("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal").await, 0);
    let after = (ours(shape(&mut stage.look).await), stage.functions().await);
    assert!(after.1.iter().any(|text| text.contains("RETURN 3")), "{after:?}");

    let plan = schema.down(1, false).await.unwrap();
    assert_eq!(plan.files, ["0003_step.down.sql", "0002_step.down.sql"]);
    assert_eq!(plan.dropped, ["new"]);
    assert_eq!((ours(shape(&mut stage.look).await), stage.functions().await), before);
    // The release of that version finds its own functions.
    assert!(stage.schema(&first).await.up(false).await.unwrap().is_empty());

    schema.up(false).await.unwrap();
    assert_eq!((ours(shape(&mut stage.look).await), stage.functions().await), after);
    schema.down(0, false).await.unwrap();
    assert_eq!(ours(shape(&mut stage.look).await), Vec::<String>::new());
}

#[tokio::test]
async fn a_function_or_trigger_without_a_file_goes() {
    let mut stage = Stage::new().await;
    let table = ("CREATE TABLE t (x integer)", "DROP TABLE t");
    let on_t = "CREATE OR REPLACE FUNCTION on_t() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;
        CREATE OR REPLACE TRIGGER t_stays BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION on_t();";
    let more =
        format!("{on_t} CREATE OR REPLACE TRIGGER t_goes BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION on_t();");
    let f = gives("f", 1);
    stage.schema(&files(&[table], &[("f", &f), ("on_t", &more)])).await.up(false).await.unwrap();
    let plan = stage.schema(&files(&[table], &[("on_t", on_t)])).await.up(false).await.unwrap();
    assert_eq!(
        (plan.functions.as_slice(), plan.dropped.as_slice()),
        (&["functions/some/on_t.sql".to_owned()][..], &["f".to_owned()][..])
    );
    let triggers = "SELECT array_agg(tgname::text) FROM pg_trigger WHERE NOT tgisinternal";
    assert_eq!(stage.ask::<Vec<String>>(triggers).await, ["t_stays"]);
    // The last one too, and not restored.
    let mut schema = stage.schema(&files(&[table], &[])).await;
    assert_eq!(schema.up(false).await.unwrap().dropped, ["on_t"]);
    assert!(stage.functions().await.is_empty());
    assert!(schema.up(false).await.unwrap().is_empty());
}

#[tokio::test]
async fn functions_are_applied_in_the_transaction_of_the_last_file() {
    let mut stage = Stage::new().await;
    let steps = [("CREATE TABLE t (x integer)", "DROP TABLE t"), ("CREATE TABLE u (x integer)", "DROP TABLE u")];
    let fault =
        stage.schema(&files(&steps, &[("f", "CREATE FUNCTION f() nonsense")])).await.up(false).await.unwrap_err();
    let cause = fault.cause().unwrap().to_string();
    assert!(cause.contains("functions/some/f.sql") && cause.contains("rolled back"), "{cause}");
    assert_eq!(stage.ask::<Vec<i64>>("SELECT array_agg(version) FROM schema_migrations").await, [1]);
    assert!(!stage.ask::<bool>("SELECT to_regclass('u') IS NOT NULL").await);

    // A function that names one that comes after it, and a column of the last file.
    let f = "CREATE OR REPLACE FUNCTION f() RETURNS bigint LANGUAGE sql AS $$ SELECT count(y.x) + g() FROM u y $$";
    stage.schema(&files(&steps, &[("f", f), ("g", &gives("g", 1))])).await.up(false).await.unwrap();
    assert_eq!(stage.ask::<i64>("SELECT f()").await, 1);
}

#[tokio::test]
async fn another_signature_needs_another_name() {
    let mut stage = Stage::new().await;
    let refused = [
        ("CREATE OR REPLACE FUNCTION f(x integer) RETURNS integer LANGUAGE sql AS 'SELECT 1'", "f(integer)"),
        ("CREATE OR REPLACE FUNCTION f(OUT x integer, OUT y integer) LANGUAGE sql AS 'SELECT 1, 2'", "another name"),
        (
            "CREATE OR REPLACE FUNCTION other() RETURNS integer LANGUAGE sql AS 'SELECT 1'; DROP FUNCTION f()",
            "does not make",
        ),
    ];
    stage.schema(&files(&[], &[("f", &gives("f", 1))])).await.up(false).await.unwrap();
    for (text, expected) in refused {
        let fault = stage.schema(&files(&[], &[("f", text)])).await.up(false).await.unwrap_err();
        let cause = fault.cause().unwrap().to_string();
        assert!(cause.contains("functions/some/f.sql") && cause.contains(expected), "{cause}");
        assert_eq!(stage.ask::<i32>("SELECT f()").await, 1);
        assert_eq!(stage.functions().await.len(), 1);
    }
}

/// What an index without a transaction is made of.
const INDEX: (&str, &str) = (
    "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS idx_t_x ON t (x);\n\n-- Another; after it.\n\
     CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_t_y ON t (y);",
    "-- no-transaction\nDROP INDEX CONCURRENTLY IF EXISTS idx_t_x;\nDROP INDEX CONCURRENTLY IF EXISTS idx_t_y;",
);
const TABLE: (&str, &str) =
    ("CREATE TABLE t (x integer, y integer); INSERT INTO t VALUES (1, 1), (1, 2)", "DROP TABLE t");
/// Names of the indexes, with whether they can be used.
const INDEXES: &str = "SELECT coalesce(array_agg(indexrelid::regclass::text || ' ' || indisvalid::text
        ORDER BY indexrelid::regclass::text), '{}') FROM pg_index
    JOIN pg_class c ON c.oid = indrelid WHERE c.relname = 't'";

#[tokio::test]
async fn a_file_can_run_without_a_transaction() {
    let mut stage = Stage::new().await;
    let with = files(&[TABLE, INDEX], &[("f", &gives("f", 1))]);
    let mut schema = stage.schema(&with).await;
    schema.up(false).await.unwrap();
    assert_eq!(stage.ask::<Vec<String>>(INDEXES).await, ["idx_t_x true", "idx_t_y true"]);
    assert_eq!(stage.ask::<i32>("SELECT f()").await, 1, "functions come after it");
    assert!(schema.status().await.unwrap().iter().all(sidle::schema::Migration::is_applied));
    schema.down(1, false).await.unwrap();
    assert!(stage.ask::<Vec<String>>(INDEXES).await.is_empty());
    assert!(schema.status().await.unwrap()[1].applied.is_none());

    // With no such first line the same file is one transaction, which Postgres refuses.
    let within = INDEX.0.replace("-- no-transaction", "");
    let fault = stage.schema(&files(&[TABLE, (&within, INDEX.1)], &[])).await.up(false).await.unwrap_err();
    let cause = fault.cause().unwrap().to_string();
    assert!(cause.contains("0002_step.up.sql") && cause.contains("transaction block"), "{cause}");
}

#[tokio::test]
async fn what_a_file_without_a_transaction_did_before_it_failed_is_completed_later() {
    let mut stage = Stage::new().await;
    let unique = INDEX.0.replace(
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS idx_t_x",
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS idx_t_x",
    );
    let mut schema = stage.schema(&files(&[TABLE, (&unique, INDEX.1)], &[])).await;
    let fault = schema.up(false).await.unwrap_err();
    let cause = fault.cause().unwrap().to_string();
    assert!(cause.contains("0002_step.up.sql") && cause.contains("begins again"), "{cause}");
    assert_eq!(stage.ask::<Vec<String>>(INDEXES).await, ["idx_t_x false"]);
    assert!(!schema.status().await.unwrap()[1].is_applied());
    sqlx::query("DELETE FROM t WHERE y = 2").execute(&mut stage.look).await.unwrap();
    assert_eq!(schema.up(false).await.unwrap().files, ["0002_step.up.sql"]);
    assert_eq!(stage.ask::<Vec<String>>(INDEXES).await, ["idx_t_x true", "idx_t_y true"]);
}

#[tokio::test]
async fn an_interrupted_file_is_found_and_repaired_by_the_next_run() {
    let mut stage = Stage::new().await;
    let wait = LockWait { timeout: Duration::from_secs(300), ..LockWait::default() };
    stage.schema(&files(&[TABLE], &[])).await.up(false).await.unwrap();
    // An index waits for every transaction that may be writing into its table.
    let mut holder = PgConnection::connect(&stage.database.owner_url).await.unwrap();
    let mut held = holder.begin().await.unwrap();
    sqlx::query("LOCK TABLE t IN ROW EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let with = files(&[TABLE, INDEX], &[]);
    let mut interrupted = stage.schema(&with).await.with_lock_wait(wait);
    let run = tokio::spawn(async move { interrupted.up(false).await });
    eventually("the index is being made", async || {
        (stage.ask::<Vec<String>>(INDEXES).await == ["idx_t_x false"]).then_some(())
    })
    .await;
    let kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'sidle-schema'";
    assert_eq!(stage.ask::<i64>(kill).await, 1);
    run.await.unwrap().unwrap_err();
    held.rollback().await.unwrap();
    assert_eq!(stage.ask::<Vec<String>>(INDEXES).await, ["idx_t_x false"], "the interrupted run left it behind");

    let mut schema = stage.schema(&with).await;
    let begun = schema.status().await.unwrap().pop().unwrap();
    assert!(begun.applied.is_some() && !begun.is_applied(), "{begun:?}");
    assert_eq!(schema.up(false).await.unwrap().files, ["0002_step.up.sql"]);
    assert_eq!(stage.ask::<Vec<String>>(INDEXES).await, ["idx_t_x true", "idx_t_y true"]);
    assert!(schema.status().await.unwrap().pop().unwrap().is_applied());
}

/// A run that waits for another one must not be what that one's index waits for.
#[tokio::test]
async fn two_runs_at_once_make_an_index_without_a_transaction_once() {
    let mut stage = Stage::new().await;
    let with = files(&[TABLE, INDEX], &[("f", &gives("f", 1))]);
    let (mut first, mut second) = (stage.schema(&with).await, stage.schema(&with).await);
    let (first, second) = tokio::join!(first.up(false), second.up(false));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert!(first.is_empty() != second.is_empty(), "{first:?} {second:?}");
    assert_eq!(stage.ask::<Vec<String>>(INDEXES).await, ["idx_t_x true", "idx_t_y true"]);
}
