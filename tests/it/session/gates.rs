//! The functions through which sessions change, and those whose answer opens something, as the service's role can call them
//! in the wrong scope.

use sidle::db::Scope;
use uuid::Uuid;

use crate::authenticate::set;
use crate::support::TestServer;

/// Why the service may not call this in `scope`, nothing of which stays.
async fn refusal(server: &TestServer, scope: Scope, call: &'static str, ids: (Uuid, Uuid, Uuid)) -> Option<String> {
    let (user, session, tenant) = ids;
    let mut tx = server.app().db.begin(scope).await.unwrap();
    let done = sqlx::query(call).bind(user).bind(session).bind(tenant).execute(&mut *tx).await;
    done.err()
        .map(|error| error.as_database_error().map_or_else(|| error.to_string(), |error| error.message().to_owned()))
}

#[tokio::test]
async fn what_writes_sessions_for_the_platform_refuses_a_tenants_transaction() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    server.sign_in("ann@example.com").await;
    let read = "SELECT session_id, user_id, to_jsonb(s)::text FROM sessions s";
    let (session, user, before): (Uuid, Uuid, String) = sqlx::query_as(read).fetch_one(server.sql()).await.unwrap();
    for (call, why) in [
        (
            "SELECT session_link_kanidm($2, gen_random_uuid(), 'sealed')::text, $1::uuid, $3::uuid",
            "sessions are linked in the scope of the platform",
        ),
        (
            "SELECT session_renew($1, $2, gen_random_uuid(), sha256('renewed'), gen_random_uuid(), now(), now(),
                 interval '1 hour', interval '1 hour')::text, $3::uuid",
            "sessions are renewed in the scope of the platform",
        ),
        (
            "SELECT session_open_kanidm($1, $3, now(), ROW(gen_random_uuid(), 'sidle', false, gen_random_uuid(), now(),
                 gen_random_uuid(), sha256('opened'), NULL, NULL, NULL, NULL, 'fingerprint', NULL, NULL, NULL, 'sealed',
                 now() + interval '1 hour', now() + interval '1 hour', 0, NULL)::new_session)::text, $2::uuid",
            "new row violates row-level security policy for table \"refresh_tokens\"",
        ),
    ] {
        let ids = (user, session, tenant);
        assert_eq!(refusal(&server, Scope::Tenant(tenant), call, ids).await.as_deref(), Some(why), "{call}");
        assert_eq!(refusal(&server, Scope::Platform, call, ids).await, None, "{call}");
    }
    let (_, _, after): (Uuid, Uuid, String) = sqlx::query_as(read).fetch_one(server.sql()).await.unwrap();
    assert_eq!(after, before);
}

/// What sees nothing outside of the platform's scope must not take that for there being nothing.
#[tokio::test]
async fn outside_the_platforms_scope_an_address_has_always_had_its_share_of_messages() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    for (scope, expected) in [(Scope::Tenant(tenant), true), (Scope::Platform, false)] {
        let mut tx = server.app().db.begin(scope).await.unwrap();
        let limited = "SELECT mail_rate_limited('ann@example.com', 'verify_email', 5)";
        let limited: bool = sqlx::query_scalar(limited).fetch_one(&mut *tx).await.unwrap();
        assert_eq!(limited, expected, "{scope:?}");
    }
}

/// As above: that no credential is known of is what makes a user one who is still to enrol.
#[tokio::test]
async fn outside_the_platforms_scope_nobody_is_waiting_to_enrol() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    set(&server, user, "auth_method = 'dual', kanidm_user_id = gen_random_uuid()").await;
    for (scope, expected) in [(Scope::Tenant(tenant), false), (Scope::Platform, true)] {
        let mut tx = server.app().db.begin(scope).await.unwrap();
        let pending = "SELECT enrolment_pending(u) FROM users u WHERE user_id = $1";
        let pending: bool = sqlx::query_scalar(pending).bind(user).fetch_one(&mut *tx).await.unwrap();
        assert_eq!(pending, expected, "{scope:?}");
    }
}
