//! What the hot calls read: rows that an index leads to, however many others there are. Counted by Postgres itself.

use sidle::proto;
use sidle_dev::smtp::Smtp;
use sqlx::{Connection as _, PgConnection};

use crate::authenticate::factors::ENROLL;
use crate::authenticate::{api_key, ask, attempt, exchange};
use crate::mail::{smtp, with_mail};
use crate::support::{ADMIN_PASSWORD, Setup, TestServer, cheap_hash, until};

/// Tables that grow with the organisation, and are read by hot calls.
const TABLES: [&str; 8] = [
    "api_keys",
    "known_devices",
    "memberships",
    "platform_grants",
    "refresh_tokens",
    "service_accounts",
    "sessions",
    "users",
];

/// So many calls that statements also run from the plan that a connection keeps.
const ROUNDS: usize = 8;

/// Fills every one of them, so that a sequential scan never pays. Users are `user1` to `user10000`.
async fn crowd(server: &TestServer) {
    let tenant = server.tenant("crowd").await;
    let fill = "
        WITH crowd AS (
            INSERT INTO users (user_id, tenant_id, email, email_key, username, username_key, password_hash,
                password_cost, verified_at)
            SELECT gen_random_uuid(), $1::uuid, name || '@crowd.example', name || '@crowd.example', name, name, $2::text,
                4, now()
            FROM (SELECT 'user' || n AS name FROM generate_series(1, 10000) n) names
            RETURNING user_id
        ), members AS (
            INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
            SELECT gen_random_uuid(), $1, c.user_id, r.role_id, 'local' FROM crowd c, roles r
            WHERE r.name = 'user' AND r.tenant_id IS NULL
        ), granted AS (
            INSERT INTO platform_grants (user_id, role_id)
            SELECT c.user_id, r.role_id FROM crowd c, roles r WHERE r.name = 'SYSTEM_ADMIN' AND r.tenant_id IS NULL
        ), devices AS (
            INSERT INTO known_devices (known_device_id, user_id, token_hash, created_at, expires_at)
            SELECT gen_random_uuid(), user_id, sha256(user_id::text::bytea), now(), now() + interval '180 days'
            FROM crowd
        ), begun AS (
            INSERT INTO sessions (session_id, user_id, tenant_id, audience, created_at, last_activity_at,
                idle_expires_at, expires_at)
            SELECT gen_random_uuid(), user_id, $1, 'sidle', now(), now(), now() + interval '7 days',
                now() + interval '30 days'
            FROM crowd
            RETURNING session_id
        ), kept AS (
            INSERT INTO refresh_tokens (refresh_token_id, token_family, session_id, token_hash, created_at, expires_at)
            SELECT gen_random_uuid(), session_id, session_id, sha256(session_id::text::bytea), now(),
                now() + interval '7 days'
            FROM begun
        ), programs AS (
            INSERT INTO service_accounts (service_account_id, name)
            SELECT gen_random_uuid(), 'crowd-' || n FROM generate_series(1, 10000) n
            RETURNING service_account_id
        )
        INSERT INTO api_keys (api_key_id, service_account_id, display_prefix, key_hash)
        SELECT gen_random_uuid(), service_account_id, 'sidle_ak_', sha256(service_account_id::text::bytea)
        FROM programs";
    sqlx::query(fill).bind(tenant).bind(cheap_hash(ADMIN_PASSWORD)).execute(server.sql()).await.unwrap();
    sqlx::raw_sql("ANALYZE").execute(server.sql()).await.unwrap();
    // Work that runs every minute may scan the tables: it does not run here.
    let idle =
        "REVOKE EXECUTE ON FUNCTION expire_old_sessions FROM sidle_app; REVOKE DELETE ON known_devices FROM sidle_app";
    sqlx::raw_sql(idle).execute(server.sql()).await.unwrap();
}

/// How often each table was scanned sequentially, and through an index.
async fn scans(watcher: &mut PgConnection) -> Vec<(String, i64, i64)> {
    // A connection reports its statistics late, but at the latest when it ends: so all others are waited for.
    let others = "SELECT count(*) FROM pg_stat_activity
                      WHERE datname = current_database() AND pid <> pg_backend_pid()
                          AND backend_type = 'client backend'";
    until("everybody else has left", async || {
        sqlx::query_scalar::<_, i64>(others).fetch_one(&mut *watcher).await.unwrap() == 0
    })
    .await;
    let scans = "SELECT relname::text, seq_scan, idx_scan FROM pg_stat_user_tables
                 WHERE schemaname = 'public' AND relname = ANY ($1) ORDER BY relname";
    let tables: Vec<String> = TABLES.into_iter().map(str::to_owned).collect();
    sqlx::query_as(scans).bind(tables).fetch_all(watcher).await.unwrap()
}

/// Every hot call, as one user among many.
async fn hot_calls(server: &TestServer, smtp: &mut Smtp, key: &str, number: usize) {
    let (name, email) = (format!("user{number}"), format!("user{number}@crowd.example"));
    let anybody = server.client("");
    let signed_in = attempt(server, &email, ADMIN_PASSWORD).await.unwrap();
    let from_known_device = proto::AuthenticatePasswordRequest {
        identifier: name,
        password: ADMIN_PASSWORD.to_owned(),
        known_device_token: signed_in.known_device_token.clone(),
        ..Default::default()
    };
    ask(server, from_known_device).await.unwrap();
    for identifier in [email.as_str(), "nobody@crowd.example", "nobody"] {
        attempt(server, identifier, "a guess").await.unwrap_err();
    }
    let tokens = signed_in.tokens.unwrap();
    let own = server.client(&tokens.access_token);
    own.authenticate.clone().who_am_i(proto::WhoAmIRequest {}).await.unwrap();
    own.prove(ENROLL, "").await;
    let refresh = proto::RefreshTokenRequest { refresh_token: tokens.refresh_token, ..Default::default() };
    anybody.authenticate.clone().refresh_token(refresh).await.unwrap();
    exchange(server, key).await.unwrap();
    let reset = proto::RequestPasswordResetRequest { identifier: email.clone() };
    anybody.authenticate.clone().request_password_reset(reset).await.unwrap();
    assert_eq!(smtp.message().await.unwrap().to, [email]);
}

#[tokio::test]
async fn no_hot_call_reads_a_large_table_from_end_to_end() {
    let mut smtp = smtp().await;
    let setup = with_mail(Setup::new().await, smtp.port).with("DATABASE__POOL_SIZE", "2");
    let setup = setup.with("DATABASE__ACQUIRE_TIMEOUT", "60s");
    let arranging = setup.start().await;
    crowd(&arranging).await;
    let key = api_key(&arranging, None, &["tokens.verify"], &[]).await;
    let sql = arranging.sql().clone();
    let mut watcher = PgConnection::connect_with(&sql.connect_options()).await.unwrap();
    arranging.stop().await;
    sql.close().await;

    let before = scans(&mut watcher).await;
    let server = setup.start().await;
    for round in 1..=ROUNDS {
        hot_calls(&server, &mut smtp, &key, round * 1000).await;
    }
    server.stop().await;
    let after = scans(&mut watcher).await;
    assert_eq!((before.len(), after.len()), (TABLES.len(), TABLES.len()));
    for ((table, whole, by_index), (_, whole_after, by_index_after)) in before.into_iter().zip(after) {
        assert!(by_index_after >= by_index + ROUNDS as i64, "{table} was not read, or it was not counted");
        assert_eq!(whole_after, whole, "{table} was read from end to end");
    }
}
