//! A long transaction elsewhere keeps inbox rows that were moved to the log from being removed. Waiting events are
//! found at the same cost all the same, and none that commits late is missed.

use std::collections::BTreeSet;

use sidle::audit::{Filter, Page};
use sidle::db::Scope;
use sqlx::{AssertSqlSafe, PgPool, Row as _};

use super::{Parts, numbered, superuser};
use crate::support::Setup;

/// Events written while the other transaction is open.
const MANY: i64 = 20_000;

/// Pages that `statement` reads, in a transaction of the service.
async fn buffers(parts: &Parts, statement: &str) -> i64 {
    let mut tx = parts.db.begin(Scope::Platform).await.unwrap();
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}");
    // Twice: the first time the function is read and planned.
    let mut found = 0;
    for _ in 0..2 {
        let row = sqlx::query(AssertSqlSafe(explain.clone())).fetch_one(&mut *tx).await.unwrap();
        let plan: serde_json::Value = row.get(0);
        let plan = &plan[0]["Plan"];
        found = ["Shared Hit Blocks", "Shared Read Blocks"].iter().map(|name| plan[name].as_i64().unwrap()).sum();
    }
    found
}

async fn write(parts: &Parts, numbers: std::ops::Range<i64>) {
    for first in numbers.clone().step_by(500) {
        let last = (first + 500).min(numbers.end);
        parts.record((first..last).map(|number| numbered(None, number))).await;
        parts.sequence().await;
    }
}

async fn delivered(parts: &Parts) -> BTreeSet<i64> {
    let page = Page { size: 10 * MANY, ..Page::default() };
    let events = parts.log.list(&Filter::new(Scope::Platform), page).await.unwrap();
    assert!(events.iter().map(|event| event.position).eq(1..=i64::try_from(events.len()).unwrap()));
    let numbers: BTreeSet<i64> = events.iter().map(|event| event.details["number"].as_i64().unwrap()).collect();
    assert_eq!(numbers.len(), events.len(), "no event twice");
    numbers
}

/// A snapshot as `pg_dump` holds it, or a transaction that has written, as an operator's.
async fn open(admin: &PgPool, first: &'static str) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let mut tx = admin.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    sqlx::query(first).execute(&mut *tx).await.unwrap();
    tx
}

async fn looks_stay_cheap_beside(first: &'static str) {
    let setup = Setup::new().await;
    let (parts, admin) = (Parts::new(&setup), superuser(&setup));
    write(&parts, 0..500).await;
    let long = open(&admin, first).await;
    // And one of our own, open all the while, with an event that has a low number.
    let mut late = parts.db.begin(Scope::Platform).await.unwrap();
    parts.recorder.record(&mut late, numbered(None, -1)).await.unwrap();
    write(&parts, 500..MANY).await;

    let dead: i64 =
        sqlx::query_scalar("SELECT pg_relation_size('audit_inbox') / current_setting('block_size')::bigint")
            .fetch_one(&admin)
            .await
            .unwrap();
    assert!(dead > 200, "the rows are still there: {dead} pages");
    for statement in [
        "SELECT audit_oldest_waiting()",
        "SELECT inbox_id FROM audit_waiting(1000) ORDER BY inbox_id",
        "SELECT * FROM audit_newest()",
        "SELECT * FROM audit_lock_head()",
    ] {
        let looked_at = buffers(&parts, statement).await;
        assert!(looked_at < 150, "{statement} looks at {looked_at} pages beside {dead} dead ones");
    }

    late.commit().await.unwrap();
    parts.sequence().await;
    write(&parts, MANY..MANY + 10).await;
    assert_eq!(delivered(&parts).await, (-1..MANY + 10).collect(), "whoever commits late is not missed");
    drop(long);
}

#[tokio::test]
async fn what_waits_is_found_at_the_same_cost_beside_an_open_snapshot() {
    looks_stay_cheap_beside("SELECT count(*) FROM users").await;
}

#[tokio::test]
async fn what_waits_is_found_at_the_same_cost_beside_a_transaction_that_has_written() {
    looks_stay_cheap_beside("SELECT pg_current_xact_id()").await;
}

/// Transactions that draw their numbers early and commit in every order, each between steps of the sequencer.
#[tokio::test]
async fn transactions_that_commit_in_any_order_lose_no_event() {
    let setup = Setup::new().await.with("DATABASE__POOL_SIZE", "12");
    let parts = Parts::new(&setup);
    let mut number = 0..;
    let mut expected = BTreeSet::new();
    let mut open = Vec::new();
    for round in 0..60_usize {
        let mut tx = parts.db.begin(Scope::Platform).await.unwrap();
        // Some have an id long before they write, some write again later.
        if round % 3 == 0 {
            sqlx::query("SELECT pg_current_xact_id()").execute(&mut *tx).await.unwrap();
        } else {
            let own = number.next().unwrap();
            parts.recorder.record(&mut tx, numbered(None, own)).await.unwrap();
            expected.insert(own);
        }
        open.push(tx);
        if open.len() > 8 {
            let mut tx = open.remove((round * 7) % open.len());
            let own = number.next().unwrap();
            parts.recorder.record(&mut tx, numbered(None, own)).await.unwrap();
            expected.insert(own);
            tx.commit().await.unwrap();
        }
        if round % 2 == 0 {
            let own = number.next().unwrap();
            parts.record([numbered(None, own)]).await;
            expected.insert(own);
        }
        parts.sequence().await;
    }
    for (at, tx) in open.into_iter().enumerate() {
        tx.commit().await.unwrap();
        if at % 2 == 0 {
            parts.sequence().await;
        }
    }
    parts.sequence().await;
    assert_eq!(delivered(&parts).await, expected);
}

/// More than one batch, in a transaction whose numbers lie before those of thousands that were moved meanwhile.
#[tokio::test]
async fn a_late_transaction_of_many_events_is_moved_whole() {
    let setup = Setup::new().await;
    let parts = Parts::new(&setup);
    let mut late = parts.db.begin(Scope::Platform).await.unwrap();
    parts.recorder.record_all(&mut late, (0..2500).map(|number| numbered(None, number))).await.unwrap();
    write(&parts, 2500..6000).await;
    late.commit().await.unwrap();
    write(&parts, 6000..6001).await;
    assert_eq!(delivered(&parts).await, (0..6001).collect());
}
