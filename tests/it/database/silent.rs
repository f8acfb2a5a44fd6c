//! Servers and connections that fall silent without being closed: a machine that lost its power, a network that drops
//! packets. No answer is waited for without a bound.

use std::net::TcpListener;

use sidle::db::Scope;
use sidle::fault::{Fault, Reason};
use sqlx::{AssertSqlSafe, Row as _};

use super::{pool, waiting_for_locks};
use crate::authenticate::attempt;
use crate::support::proxy::Proxy;
use crate::support::{ADMIN_PASSWORD, Setup, eventually, within};

/// The setup with its database behind a proxy.
async fn behind_a_proxy(setup: &Setup) -> (Setup, Proxy) {
    let url = setup.environment()["SIDLE_DATABASE__URL"].clone();
    let (before, after) = url.rsplit_once('@').unwrap();
    let (target, database) = after.split_once('/').unwrap();
    let proxy = Proxy::start(target).await;
    let behind = setup.clone().with("DATABASE__URL", &format!("{before}@{}/{database}", proxy.address));
    (behind, proxy)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_statement_whose_answer_never_comes_fails_and_the_next_one_has_another_connection() {
    let setup = Setup::new().await.with("DATABASE__STATEMENT_TIMEOUT", "500ms");
    let (setup, proxy) = behind_a_proxy(&setup).await;
    let db = pool(&setup, 1);
    let ask = async || sqlx::query("SELECT 1").fetch_one(&db).await.map(|row| row.get::<i32, _>(0));
    assert_eq!(ask().await.unwrap(), 1);

    proxy.strand();
    let failed = within("a single statement", ask()).await.unwrap_err();
    assert_eq!(Fault::from(failed).reason(), Reason::DatabaseUnavailable);
    assert_eq!(within("the next one", ask()).await.unwrap(), 1);

    proxy.strand();
    let many = within("a statement of many rows", sqlx::query("SELECT generate_series(1, 3)").fetch_all(&db)).await;
    assert_eq!(Fault::from(many.unwrap_err()).reason(), Reason::DatabaseUnavailable);

    let mut tx = db.begin(Scope::Platform).await.unwrap();
    proxy.strand();
    let failed = within("one in a transaction", sqlx::query("SELECT 1").execute(&mut *tx)).await.unwrap_err();
    assert_eq!(Fault::from(failed).reason(), Reason::DatabaseUnavailable);
    drop(tx);
    let tx = db.begin(Scope::Platform).await.unwrap();
    proxy.strand();
    assert_eq!(within("a commit", tx.commit()).await.unwrap_err().reason(), Reason::DatabaseUnavailable);
    // A transaction that has done nothing yet begins on another connection, unnoticed by its caller.
    assert_eq!(ask().await.unwrap(), 1);
    proxy.strand();
    within("a beginning", db.begin(Scope::Platform)).await.expect("it began");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_way_to_the_database_vanished_events_are_delivered_and_tokens_accepted_again() {
    let setup = Setup::new().await.with("DATABASE__STATEMENT_TIMEOUT", "1s");
    let (setup, proxy) = behind_a_proxy(&setup).await;
    let server = setup.start().await;
    let tenant = server.tenant("acme").await;
    server.user(tenant, "ann@example.com", "user").await;
    server.sign_in("ann@example.com").await;
    let known = "SELECT count(*) FROM audit_events WHERE event_type = 'user.authenticated'";
    let known = async || sqlx::query_scalar::<_, i64>(known).fetch_one(server.sql()).await.unwrap();
    eventually("the event has its position", async || (known().await == 1).then_some(())).await;

    proxy.strand();
    let tokens =
        eventually("a login comes through", async || attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.ok())
            .await;
    eventually("its event has its position", async || (known().await > 1).then_some(())).await;
    eventually("its token is accepted", async || {
        let mut client = server.client(&tokens.tokens.as_ref()?.access_token).authenticate;
        client.who_am_i(sidle::proto::WhoAmIRequest {}).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_vanished_while_it_gave_positions_holds_up_the_others_for_seconds_only() {
    let setup = Setup::new()
        .await
        .with("DATABASE__LOCK_TIMEOUT", "1h")
        .with("DATABASE__STATEMENT_TIMEOUT", "1h")
        .with("DATABASE__IDLE_IN_TRANSACTION_TIMEOUT", "1h");
    let (behind, proxy) = behind_a_proxy(&setup).await;
    let vanishing = behind.start().await;
    let tenant = vanishing.tenant("acme").await;
    vanishing.user(tenant, "ann@example.com", "user").await;
    // It gives positions, and waits for the table while it holds the lock on the end of the log.
    let mut holder = vanishing.sql().begin().await.unwrap();
    sqlx::query("LOCK TABLE audit_events IN SHARE MODE").execute(&mut *holder).await.unwrap();
    attempt(&vanishing, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
    eventually("it waits", async || (waiting_for_locks(&vanishing).await > 0).then_some(())).await;
    proxy.freeze();
    holder.rollback().await.unwrap();

    let other = setup.start().await;
    let known = "SELECT count(*) FROM audit_events WHERE event_type = 'user.authenticated'";
    let known = async || sqlx::query_scalar::<_, i64>(known).fetch_one(other.sql()).await.unwrap();
    eventually("another replica gives the positions", async || (known().await == 1).then_some(())).await;
    proxy.mend();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_servers_one_that_says_nothing_does_not_keep_the_next_from_being_tried() {
    let setup = Setup::new().await;
    // Accepts connections and answers none, as some networks do.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = &setup.environment()["SIDLE_DATABASE__URL"];
    let url = url.replacen('@', &format!("@{},", silent.local_addr().unwrap()), 1);
    let setup = setup.with("DATABASE__URL", &url);
    let server = setup.start().await;
    let tenant = server.tenant("acme").await;
    server.user(tenant, "ann@example.com", "user").await;
    attempt(&server, "ann@example.com", ADMIN_PASSWORD).await.unwrap();
}

#[tokio::test]
async fn a_transaction_that_was_idle_for_too_long_is_unavailability_and_no_fault_of_ours() {
    let setup = Setup::new().await;
    let server = setup.start().await;
    let db = pool(&setup, 1);
    let mut tx = db.begin(Scope::Platform).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
    sqlx::query("SET LOCAL idle_in_transaction_session_timeout = 1").execute(&mut *tx).await.unwrap();
    let there = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}");
    eventually("the server has ended it", async || {
        let there: i64 = sqlx::query_scalar(AssertSqlSafe(there.clone())).fetch_one(server.sql()).await.unwrap();
        (there == 0).then_some(())
    })
    .await;
    let failed = sqlx::query("SELECT 1").execute(&mut *tx).await.unwrap_err();
    assert_eq!(Fault::from(failed).reason(), Reason::DatabaseUnavailable);
    drop(tx);
    db.begin(Scope::Platform).await.expect("another connection takes its place");
}
