//! A rehash of the same password is no change of the password.

use futures_util::future::join_all;
use serde_json::json;
use sqlx::Row as _;

use super::factors::counted;
use super::{attempt, set_hash};
use crate::look::reasons;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

const ANN: &str = "ann@example.com";

/// 7 of 10 second logins were refused while the hash of the first was being replaced.
#[tokio::test(flavor = "multi_thread")]
async fn logins_in_a_row_and_at_once_succeed_while_the_hash_is_replaced() {
    let server = Setup::new().await.with("PASSWORDS__COST", "5").start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, ANN, "user").await;
    for round in 0..5 {
        set_hash(&server, user, &bcrypt::hash(ADMIN_PASSWORD, 4).unwrap(), 4).await;
        for login in 0..3 {
            let answer = attempt(&server, ANN, ADMIN_PASSWORD).await;
            assert!(answer.is_ok(), "round {round}, login {login}: {answer:?}");
        }
        set_hash(&server, user, &bcrypt::hash(ADMIN_PASSWORD, 4).unwrap(), 4).await;
        for answer in join_all((0..10).map(|_| attempt(&server, ANN, ADMIN_PASSWORD))).await {
            assert!(answer.is_ok(), "round {round}: {answer:?}");
        }
    }
    assert!(reasons(&server, "user.login_refused", "refused").await.is_empty());
    assert_eq!(counted(&server, user).await, (0, false));
}

/// Between the two statements of a login.
#[tokio::test]
async fn another_password_between_begin_and_end_refuses_the_login() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, ANN, "user").await;
    let begin = "SELECT password_version FROM login_begin($1, now(), 5, interval '15 minutes', NULL, NULL, NULL, NULL)";
    let version: i64 = sqlx::query(begin).bind(ANN).fetch_one(server.sql()).await.unwrap().get(0);
    set_hash(&server, user, &bcrypt::hash("another", 4).unwrap(), 4).await;
    let refused = json!({
        "event_id": server.context.new_id(), "event_type": "user.login_refused", "outcome": "refused",
        "occurred_at": server.context.now(), "actor_kind": "anonymous",
    });
    let finish = "SELECT outcome::text FROM login_finish($1, $2, NULL, now(), NULL, NULL, ROW($3, NULL)::prepared_event, NULL, NULL, false,
        NULL, NULL)";
    let finish = sqlx::query(finish).bind(user).bind(version).bind(refused);
    let outcome: String = finish.fetch_one(server.sql()).await.unwrap().get(0);
    assert_eq!(outcome, "refused");
    assert_eq!(reasons(&server, "user.login_refused", "refused").await, ["changed_meanwhile"]);
    // A rehash that is marked as such leaves the version as it is.
    let rehash = "UPDATE users SET password_hash = 'x', password_rehashes = password_rehashes + 1 WHERE user_id = $1
        RETURNING password_version";
    let after: i64 = sqlx::query_scalar(rehash).bind(user).fetch_one(server.sql()).await.unwrap();
    assert_eq!(after, version + 1, "one change so far");
}
