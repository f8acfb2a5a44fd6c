//! A locked row delays only the calls that need it, and statements of cancelled calls are cancelled.

use std::time::Duration;

use sidle::db::Scope;
use sidle::fault::{Fault, Reason};
use sidle::proto;
use tonic::{Code, Request};
use uuid::Uuid;

use super::{pool, waiting_for_locks};
use crate::authenticate::attempt;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, eventually, within};

/// A server of five connections whose statements may wait for a minute, with so many users.
async fn stage(users: usize) -> TestServer {
    let setup = Setup::new().await.with("DATABASE__LOCK_TIMEOUT", "60s").with("DATABASE__STATEMENT_TIMEOUT", "60s");
    let server = setup.with("DATABASE__ACQUIRE_TIMEOUT", "30s").start().await;
    let tenant = server.tenant("acme").await;
    for number in 0..users {
        server.user(tenant, &format!("user{number}@example.com"), "user").await;
    }
    server.user(tenant, "other@example.com", "user").await;
    server
}

fn login(number: usize) -> proto::AuthenticatePasswordRequest {
    proto::AuthenticatePasswordRequest {
        identifier: format!("user{number}@example.com"),
        password: ADMIN_PASSWORD.into(),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_locked_by_somebody_delay_their_own_callers_only() {
    let server = stage(12).await;
    let tokens = server.sign_in("other@example.com").await;
    let mut holder = server.sql().begin().await.unwrap();
    let hold = "UPDATE users SET full_name = full_name WHERE email LIKE 'user%'";
    sqlx::query(hold).execute(&mut *holder).await.unwrap();

    let held: Vec<_> = (0..12)
        .map(|number| {
            let mut client = server.client("").authenticate;
            tokio::spawn(async move { client.authenticate_password(login(number)).await })
        })
        .collect();
    eventually("logins wait for the locked rows", async || (waiting_for_locks(&server).await >= 2).then_some(())).await;

    for _ in 0..5 {
        attempt(&server, "other@example.com", ADMIN_PASSWORD).await.expect("another login goes on");
        let whoami = server.client(&tokens.access_token).authenticate.who_am_i(proto::WhoAmIRequest::default()).await;
        whoami.expect("tokens are verified");
        let ready = reqwest::get(format!("{}/readyz", server.ops_url())).await.unwrap();
        assert_eq!(ready.status(), 200);
    }
    holder.rollback().await.unwrap();
    for answer in held {
        match answer.await.unwrap() {
            Ok(_) => {}
            // Refused, to leave connections to others.
            Err(refused) => assert_eq!(refused.code(), Code::Unavailable, "{refused:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_cancels_the_statement() {
    let server = stage(3).await;
    let admin = server.admin().await;
    let users = "SELECT user_id FROM users WHERE email LIKE 'user%'";
    let users: Vec<uuid::Uuid> = sqlx::query_scalar(users).fetch_all(server.sql()).await.unwrap();
    let mut holder = server.sql().begin().await.unwrap();
    let hold = "UPDATE users SET full_name = full_name WHERE email LIKE 'user%'";
    sqlx::query(hold).execute(&mut *holder).await.unwrap();
    let held: Vec<_> = users
        .into_iter()
        .map(|user| {
            let mut request = Request::new(proto::LockUserRequest { user_id: user.to_string(), ..Default::default() });
            request.set_timeout(Duration::from_secs(2));
            let mut client = admin.plain.clone();
            tokio::spawn(async move { client.lock_user(request).await })
        })
        .collect();
    eventually("calls wait for the locked rows", async || (waiting_for_locks(&server).await == 3).then_some(())).await;
    for answer in held {
        let refused = answer.await.unwrap().expect_err("the rows are held");
        assert!([Code::DeadlineExceeded, Code::Cancelled].contains(&refused.code()), "{refused:?}");
    }
    eventually("the statements are cancelled", async || (waiting_for_locks(&server).await == 0).then_some(())).await;
    holder.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_too_long_for_a_lock_is_told_to_come_back() {
    let setup = Setup::new().await.with("DATABASE__LOCK_TIMEOUT", "50ms");
    let server = setup.start().await;
    let tenant = server.tenant("acme").await;
    server.user(tenant, "user0@example.com", "user").await;
    let mut holder = server.sql().begin().await.unwrap();
    sqlx::query("SELECT FROM users FOR UPDATE").execute(&mut *holder).await.unwrap();
    let refused = server.client("").authenticate.authenticate_password(login(0)).await.unwrap_err();
    assert_eq!((refused.code(), crate::look::reason(&refused).as_str()), (Code::Unavailable, "DATABASE_UNAVAILABLE"));
}

/// A transaction that may wait for others' keys has its own bound, which a longer one of all transactions leaves alone.
#[tokio::test]
async fn whoever_waits_for_others_keys_gives_up_before_others() {
    let setup = Setup::new().await.with("DATABASE__LOCK_TIMEOUT", "60s");
    let db = pool(&setup, 4);
    let timeout = "SELECT current_setting('lock_timeout')";
    let mut ordinary = db.begin(Scope::Platform).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, String>(timeout).fetch_one(&mut *ordinary).await.unwrap(), "1min");
    ordinary.commit().await.unwrap();
    let mut contended = db.begin_contended(Scope::Platform).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, String>(timeout).fetch_one(&mut *contended).await.unwrap(), "2s");
    contended.commit().await.unwrap();
    let mut next = db.begin(Scope::Platform).await.unwrap();
    assert_eq!(sqlx::query_scalar::<_, String>(timeout).fetch_one(&mut *next).await.unwrap(), "1min", "for one only");
}

/// The server ends a statement that takes longer than it may.
#[tokio::test]
async fn a_statement_that_takes_too_long_is_cancelled_by_the_server() {
    let setup = Setup::new().await.with("DATABASE__STATEMENT_TIMEOUT", "100ms");
    let db = pool(&setup, 1);
    let mut tx = db.begin(Scope::Platform).await.unwrap();
    let slow = within("the statement", sqlx::query("SELECT pg_sleep(3600)").execute(&mut *tx)).await.unwrap_err();
    assert_eq!(slow.as_database_error().and_then(|error| error.code()).as_deref(), Some("57014"));
    assert_eq!(Fault::from(slow).reason(), Reason::DatabaseUnavailable);
}

/// An import into one tenant that is held open must not cost the other tenants their connections.
#[tokio::test(flavor = "multi_thread")]
async fn of_what_may_wait_for_others_keys_one_tenant_has_half() {
    let setup = Setup::new().await;
    let (one, other) = (Scope::Tenant(Uuid::from_u128(1)), Scope::Tenant(Uuid::from_u128(2)));
    // A quarter of the pool: four.
    let db = pool(&setup, 16);
    let began = futures_util::future::join_all((0..6).map(|_| db.begin_contended(one))).await;
    let (held, refused): (Vec<_>, Vec<_>) = began.into_iter().partition(Result::is_ok);
    assert_eq!((held.len(), refused.len()), (2, 4));
    for fault in refused.into_iter().filter_map(Result::err) {
        assert_eq!(fault.reason(), Reason::ValueContended);
    }
    let others = [db.begin_contended(other).await, db.begin_contended(Scope::Platform).await];
    assert!(others.iter().all(Result::is_ok), "there is room for others");
    drop(held);
    db.begin_contended(one).await.expect("what was given back is there again").commit().await.unwrap();
}

/// A caller who registers, or signs in for the first time, acts for the platform, but within the tenant's share of
/// waiting calls.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_for_a_tenants_users_takes_nothing_from_the_platforms_share() {
    let setup = Setup::new().await;
    let tenant = Some(Uuid::from_u128(1));
    let db = pool(&setup, 16);
    let began = futures_util::future::join_all((0..3).map(|_| db.begin_contended_for(Scope::Platform, tenant))).await;
    let held: Vec<_> = began.into_iter().filter_map(Result::ok).collect();
    assert_eq!(held.len(), 2, "half of a quarter of the pool");
    db.begin_contended(Scope::Platform).await.expect("the platform's own share").commit().await.unwrap();
}
