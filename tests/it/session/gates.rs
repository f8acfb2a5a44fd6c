//! The functions that change sessions, as the service's role can call them in the wrong scope.

use sidle::db::Scope;
use uuid::Uuid;

use crate::support::TestServer;

#[tokio::test]
async fn what_writes_sessions_for_the_platform_refuses_a_tenants_transaction() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    server.sign_in("ann@example.com").await;
    let read = "SELECT session_id, user_id, to_jsonb(s)::text FROM sessions s";
    let (session, user, before): (Uuid, Uuid, String) = sqlx::query_as(read).fetch_one(server.sql()).await.unwrap();
    for call in [
        "SELECT session_link_kanidm($1, $2, NULL)::text",
        "SELECT session_renew($2, $1, gen_random_uuid(), '\\x00', gen_random_uuid(), now(), now(), interval '1 hour',
             interval '1 hour')::text",
        "SELECT session_open_kanidm($2, NULL, now(), NULL)::text || $1::text",
    ] {
        let mut tx = server.app().db.begin(Scope::Tenant(tenant)).await.unwrap();
        let done = sqlx::query(call).bind(session).bind(user).execute(&mut *tx).await;
        assert!(done.is_err(), "{call}");
    }
    let (_, _, after): (Uuid, Uuid, String) = sqlx::query_as(read).fetch_one(server.sql()).await.unwrap();
    assert_eq!(after, before);
    // A function that sees nothing outside the platform's scope must not take that for a permission.
    crate::authenticate::set(&server, user, "auth_method = 'dual', kanidm_user_id = gen_random_uuid()").await;
    let strict = "SELECT mail_rate_limited('ann@example.com', 'verify_email', 5), coalesce(enrolment_pending(u), false)
        FROM users u WHERE user_id = $1";
    let mut tx = server.app().db.begin(Scope::Tenant(tenant)).await.unwrap();
    let answers: (bool, bool) = sqlx::query_as(strict).bind(user).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(answers, (true, false));
    drop(tx);
    let mut tx = server.app().db.begin(Scope::Platform).await.unwrap();
    let answers: (bool, bool) = sqlx::query_as(strict).bind(user).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(answers, (false, true), "in the platform's scope");
}
