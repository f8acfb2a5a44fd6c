//! API keys.

use chrono::{DateTime, Timelike as _, Utc};
use sidle::proto;

use super::{api_key, exchange};
use crate::look::{event, reason, reasons};
use crate::support::TestServer;

#[tokio::test]
async fn a_key_permits_what_its_scopes_leave_of_the_accounts_rights() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    for (rights, scopes, permits) in [
        (&["users.read", "audit.read"][..], &[][..], &["audit.read", "users.read"][..]),
        (&["users.read", "audit.read"], &["audit.read", "users.write"], &["audit.read"]),
        (&["*"], &["users.read"], &["users.read"]),
        (&["users.read"], &["*"], &["users.read"]),
        (&["users.read"], &["audit.read"], &[]),
    ] {
        let key = api_key(&server, Some(tenant), rights, scopes).await;
        let answer = exchange(&server, &key).await.unwrap();
        assert_eq!(answer.permissions, permits, "{rights:?} within {scopes:?}");
        assert_eq!(answer.tenant_id, tenant.to_string());
        let mut client = server.client(&answer.access_token).authenticate;
        let me = client.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner();
        let claims = me.claims.unwrap();
        assert_eq!(claims.permissions, permits);
        assert_eq!(claims.platform_permissions, Vec::<String>::new(), "confined to its tenant");
        assert_eq!((claims.kind(), claims.session_id), (proto::PrincipalKind::ServiceAccount, String::new()));
        assert!(matches!(me.principal, Some(proto::who_am_i_response::Principal::ServiceAccountName(_))));
    }
    let platform = exchange(&server, &api_key(&server, None, &["tokens.verify"], &[]).await).await.unwrap();
    let mut client = server.client(&platform.access_token).authenticate;
    let claims = client.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner().claims.unwrap();
    assert_eq!((claims.permissions.len(), claims.platform_permissions), (0, vec!["tokens.verify".to_owned()]));
}

#[tokio::test]
async fn a_keys_use_is_recorded_to_the_minute() {
    let server = TestServer::start().await;
    let key = api_key(&server, None, &["tokens.verify"], &[]).await;
    let account = exchange(&server, &key).await.unwrap().service_account_id;
    let used: DateTime<Utc> =
        sqlx::query_scalar("SELECT last_used_at FROM api_keys").fetch_one(server.sql()).await.unwrap();
    assert_eq!((used.second(), used.nanosecond()), (0, 0));
    let recorded = event(&server, "service_account.authenticated").await;
    assert_eq!(recorded.actor_id.map(|id| id.to_string()), Some(account));
    assert_eq!(recorded.target_kind.as_deref(), Some("api_key"));
}

#[tokio::test]
async fn keys_that_are_no_good_are_refused_alike_and_written_down() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    for (change, why) in [
        ("UPDATE api_keys SET revoked_at = now()", "revoked"),
        ("UPDATE api_keys SET expires_at = now() - interval '1 second'", "expired"),
        ("UPDATE service_accounts SET status = 'disabled'", "disabled"),
        ("UPDATE service_accounts SET deleted_at = now()", "disabled"),
        ("UPDATE tenants SET status = 'disabled'", "tenant_disabled"),
    ] {
        let key = api_key(&server, Some(tenant), &["users.read"], &[]).await;
        exchange(&server, &key).await.unwrap();
        sqlx::query(change).execute(server.sql()).await.unwrap();
        let refused = exchange(&server, &key).await.unwrap_err();
        assert_eq!(
            (reason(&refused).as_str(), refused.message()),
            ("INVALID_CREDENTIALS", "The credentials are not accepted.")
        );
        let written = reasons(&server, "service_account.login_refused", "refused").await;
        assert_eq!(written.last().map(String::as_str), Some(why));
    }
    for unknown in [&sidle::session::opaque::mint("sidle_ak_", &server.context.entropy)[..], "sidle_ak_short", "x"] {
        let refused = exchange(&server, unknown).await.unwrap_err();
        assert_eq!(
            (reason(&refused).as_str(), refused.message()),
            ("INVALID_CREDENTIALS", "The credentials are not accepted.")
        );
    }
}

#[tokio::test]
async fn a_token_does_not_outlive_its_key() {
    let server = TestServer::start().await;
    let key = api_key(&server, None, &["users.read"], &[]).await;
    sqlx::query("UPDATE api_keys SET expires_at = now() + interval '1 minute'").execute(server.sql()).await.unwrap();
    let ends = exchange(&server, &key).await.unwrap().access_token_expires_at.unwrap().seconds;
    assert!(ends <= server.context.now().timestamp() + 60);
}
