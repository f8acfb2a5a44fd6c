//! A cancelled call leaves nothing behind on a pooled connection: no transaction, no scope, no statement.

use sidle::db::{Db, Scope};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use super::{abandoned, pool};
use crate::support::{Setup, until};

/// More waits than any of the calls below has.
const MOST_WAITS: usize = 24;

/// A database of its own, a pool of one connection to it, and a second connection to observe it.
async fn stage() -> (Setup, Db, PgPool) {
    let setup = Setup::new().await;
    let sql = PgPoolOptions::new().max_connections(2).connect(&setup.superuser_url()).await.unwrap();
    for statement in ["CREATE TABLE scratch (n bigint PRIMARY KEY)", "GRANT ALL ON scratch TO sidle_app"] {
        sqlx::query(statement).execute(&sql).await.unwrap();
    }
    let db = pool(&setup, 1);
    (setup, db, sql)
}

/// Writes on the pool's one connection and sees from another that it is committed, without a scope.
async fn assert_clean(db: &Db, sql: &PgPool, n: i64, after: &str) {
    let (scoped, old): (bool, bool) = sqlx::query_as(
        "SELECT coalesce(current_setting('sidle.tenant_id', true), '') <> ''
            OR coalesce(current_setting('sidle.platform', true), '') <> '', EXISTS (SELECT FROM scratch WHERE n = $1)",
    )
    .bind(n)
    .fetch_one(db)
    .await
    .unwrap_or_else(|error| panic!("{after}: {error}"));
    assert!(!scoped, "{after}: a scope was left behind");
    assert!(!old);
    sqlx::query("INSERT INTO scratch VALUES ($1)").bind(n).execute(db).await.unwrap();
    let seen: bool =
        sqlx::query_scalar("SELECT EXISTS (SELECT FROM scratch WHERE n = $1)").bind(n).fetch_one(sql).await.unwrap();
    assert!(seen, "{after}: an acknowledged write was not committed");
    let open: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename <> current_user
            AND state LIKE 'idle in transaction%'",
    )
    .fetch_one(sql)
    .await
    .unwrap();
    assert_eq!(open, 0, "{after}: a transaction was left open");
}

#[tokio::test]
async fn a_begin_that_is_abandoned_at_any_await_leaves_nothing_behind() {
    let (_setup, db, sql) = stage().await;
    let mut finished = 0;
    for round in 0..200_usize {
        let waits = round % MOST_WAITS;
        let tenant = Uuid::from_u128(round as u128);
        let begun = abandoned(db.begin(Scope::Tenant(tenant)), waits).await;
        finished += usize::from(begun.is_some());
        drop(begun);
        assert_clean(&db, &sql, round as i64, &format!("begin dropped after {waits} waits")).await;
    }
    assert!(finished > 0 && finished < 200, "some were dropped in the middle, and some were not: {finished}");
}

/// The same by the clock, as deadlines do it.
#[tokio::test(flavor = "multi_thread")]
async fn a_begin_that_is_abandoned_at_any_time_leaves_nothing_behind() {
    let (_setup, db, sql) = stage().await;
    for round in 0..200_u64 {
        let deadline = std::time::Duration::from_micros(round * 15);
        drop(tokio::time::timeout(deadline, db.begin(Scope::Platform)).await);
        assert_clean(&db, &sql, round as i64, &format!("begin dropped after {deadline:?}")).await;
    }
}

#[tokio::test]
async fn a_statement_or_a_commit_that_is_abandoned_is_done_or_undone_as_a_whole() {
    let (_setup, db, sql) = stage().await;
    let mut n = 0;
    for waits in 0..MOST_WAITS {
        for statements in 0..3_i64 {
            n += 10;
            let work = async {
                let mut tx = db.begin(Scope::Platform).await.unwrap();
                for number in 0..=statements {
                    sqlx::query("INSERT INTO scratch VALUES ($1)")
                        .bind(n + 1 + number)
                        .execute(&mut *tx)
                        .await
                        .unwrap();
                }
                tx.commit().await.unwrap();
            };
            let done = abandoned(work, waits).await;
            let after = format!("a transaction of {} dropped after {waits} waits", statements + 1);
            assert_clean(&db, &sql, n, &after).await;
            let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM scratch WHERE n BETWEEN $1 AND $2")
                .bind(n + 1)
                .bind(n + 9)
                .fetch_one(&sql)
                .await
                .unwrap();
            assert!(kept == statements + 1 || (kept == 0 && done.is_none()), "{after}: {kept} rows were kept");
        }
    }
}

#[tokio::test]
async fn a_single_statement_that_is_abandoned_holds_nobody_up() {
    let (_setup, db, sql) = stage().await;
    for waits in 0..MOST_WAITS {
        let slow = sqlx::query("SELECT pg_sleep(30)").execute(&db);
        // Waits for the answer at the latest; the statement would go on for half a minute.
        let slept = tokio::select! {
            biased;
            slept = abandoned(slow, waits) => slept.is_some(),
            () = running(&sql, "SELECT pg_sleep(30)") => false,
        };
        assert!(!slept);
        assert_clean(&db, &sql, waits as i64, &format!("a statement dropped after {waits} waits")).await;
    }
}

/// Returns when the server works on this statement.
async fn running(sql: &PgPool, statement: &str) {
    let is_running = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND state = 'active' AND query = $1)";
    until("the server works on the statement", async || {
        sqlx::query_scalar::<_, bool>(is_running).bind(statement).fetch_one(sql).await.unwrap()
    })
    .await;
}

/// Postgres answers the COMMIT of a failed transaction with ROLLBACK, which the driver takes for success.
#[tokio::test]
async fn a_transaction_with_a_failed_statement_is_never_said_to_be_committed() {
    let (_setup, db, sql) = stage().await;
    let mut tx = db.begin(Scope::Platform).await.unwrap();
    sqlx::query("INSERT INTO scratch VALUES (1)").execute(&mut *tx).await.unwrap();
    sqlx::query("INSERT INTO scratch VALUES (1)").execute(&mut *tx).await.unwrap_err();
    tx.commit().await.unwrap_err();
    assert_clean(&db, &sql, 1, "a failed statement").await;
}

#[tokio::test]
async fn a_scope_is_set_once_in_a_transaction() {
    let (_setup, db, _sql) = stage().await;
    for first in [Scope::Platform, Scope::Tenant(Uuid::from_u128(1))] {
        let mut tx = db.begin(first).await.unwrap();
        let again = sqlx::query("SELECT scope_begin(NULL)").execute(&mut *tx).await.unwrap_err();
        assert_eq!(again.as_database_error().unwrap().code().unwrap(), "25001");
    }
}
