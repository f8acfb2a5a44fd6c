//! API keys.

use chrono::{DateTime, Timelike as _, Utc};
use sidle::proto;

use super::{api_key, exchange};
use crate::look::{event, reason, reasons};
use crate::support::{Client, TestServer, until};

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
    for unknown in [&sidle::token::opaque::mint("sidle_ak_", &server.context.entropy)[..], "sidle_ak_short", "x"] {
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

fn secret_of(account: &str) -> proto::CreateApiKeyRequest {
    proto::CreateApiKeyRequest {
        service_account_id: account.to_owned(),
        kind: proto::ApiKeyKind::ClientSecret.into(),
        ..Default::default()
    }
}

async fn by_secret(
    server: &TestServer,
    id: &str,
    secret: &str,
) -> Result<proto::AuthenticateServiceAccountResponse, tonic::Status> {
    let credentials = proto::ClientCredentials { client_id: id.to_owned(), client_secret: secret.to_owned() };
    let request =
        proto::AuthenticateServiceAccountRequest { client_credentials: Some(credentials), ..Default::default() };
    Ok(server.client("").authenticate.authenticate_service_account(request).await?.into_inner())
}

async fn account(admin: &Client, name: &str) -> String {
    let request = proto::CreateServiceAccountRequest {
        name: name.to_owned(),
        permissions: vec!["tokens.verify".to_owned(), "users.read".to_owned()],
        ..Default::default()
    };
    let created = admin.create_service_account(request).await.unwrap();
    created.service_account.unwrap().service_account_id
}

#[tokio::test]
async fn a_clients_secret_is_good_with_its_id_only_and_can_be_rotated_without_a_gap() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let (billing, other) = (account(&admin, "billing").await, account(&admin, "other").await);
    let create = async |request| admin.create_api_key(request).await;
    let first = create(secret_of(&billing)).await.unwrap();
    assert!(first.secret.starts_with("sidle_cs_") && first.secret.len() == 52);
    let answer = by_secret(&server, &billing, &first.secret).await.unwrap();
    assert_eq!((answer.service_account_id.as_str(), answer.permissions.len()), (billing.as_str(), 2));

    // The secret with another client's id, a secret as a key, a key as a secret, and what never was one.
    let key = create(proto::CreateApiKeyRequest { kind: 0, ..secret_of(&billing) }).await.unwrap().secret;
    let unknown = sidle::token::opaque::mint("sidle_cs_", &server.context.entropy);
    for (id, secret) in [(&other, &first.secret[..]), (&billing, &key), (&billing, &unknown), (&billing, "x")] {
        let refused = by_secret(&server, id, secret).await.unwrap_err();
        assert_eq!(
            (reason(&refused).as_str(), refused.message()),
            ("INVALID_CREDENTIALS", "The credentials are not accepted.")
        );
    }
    assert_eq!(reason(&exchange(&server, &first.secret).await.unwrap_err()), "INVALID_CREDENTIALS");
    // The prefix tells the kinds apart before the database is asked; it does not rely on that.
    let as_key = "SELECT outcome::text FROM api_key_exchange($1, 'api_key', NULL, now(), NULL, NULL)";
    let digest = sidle::token::opaque::digest(&first.secret).to_vec();
    let outcome: String = sqlx::query_scalar(as_key).bind(digest).fetch_one(&server.app().db).await.expect("an answer");
    assert_eq!(outcome, "unknown");
    let both = proto::AuthenticateServiceAccountRequest {
        api_key: key.clone(),
        client_credentials: Some(proto::ClientCredentials { client_id: billing.clone(), client_secret: key }),
        ..Default::default()
    };
    let refused = server.client("").authenticate.authenticate_service_account(both).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_FIELD");

    let second = create(secret_of(&billing)).await.unwrap();
    for secret in [&first.secret, &second.secret] {
        by_secret(&server, &billing, secret).await.expect("both work");
    }
    assert_eq!(reason(&create(secret_of(&billing)).await.unwrap_err()), "TOO_MANY_SECRETS");
    let api_key_id = first.api_key.unwrap().api_key_id;
    admin.directory.clone().delete_api_key(proto::DeleteApiKeyRequest { api_key_id }).await.unwrap();
    by_secret(&server, &billing, &first.secret).await.expect_err("gone");
    by_secret(&server, &billing, &second.secret).await.expect("goes on");
    create(secret_of(&billing)).await.expect("there is room again");
}

/// CVE-2026-94000: a caller who may only administer service accounts does not get more through them.
#[tokio::test]
async fn a_delegated_administrator_gains_nothing_through_keys() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let tenant = server.tenant("north").await;
    let delegated = proto::CreateRoleRequest {
        tenant_id: tenant.to_string(),
        name: "delegate".to_owned(),
        permissions: vec!["service_accounts.read".to_owned(), "service_accounts.write".to_owned()],
        ..Default::default()
    };
    let role = root.directory.clone().create_role(delegated).await.unwrap().into_inner().role.unwrap().role_id;
    let user = server.user(tenant, "del@north.example", "user").await;
    let grant = proto::CreateMembershipRequest {
        user_id: user.to_string(),
        tenant_id: tenant.to_string(),
        role_id: role,
        ..Default::default()
    };
    root.directory.clone().create_membership(grant).await.unwrap();
    let del = server.client(&server.sign_in("del@north.example").await.access_token);
    let new = |permissions: &[&str], tenant: &str, name: &str| proto::CreateServiceAccountRequest {
        tenant_id: tenant.to_owned(),
        name: name.to_owned(),
        permissions: permissions.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    let here = tenant.to_string();
    for (permissions, place) in [
        (&["users.write"][..], here.as_str()),
        (&["*"], &here),
        (&["service_accounts.write"], ""),
        (&["service_accounts.write"], &server.tenant("south").await.to_string()),
    ] {
        let refused = del.create_service_account(new(permissions, place, "more")).await.unwrap_err();
        assert!(["PERMISSION_DENIED", "NOT_FOUND"].contains(&reason(&refused).as_str()), "{permissions:?} {refused:?}");
    }
    let mut own = del
        .create_service_account(new(&["service_accounts.read"], &here, "mine"))
        .await
        .unwrap()
        .service_account
        .unwrap();
    let id = own.service_account_id.clone();
    let widen = |account: proto::ServiceAccount, path: &str| proto::UpdateServiceAccountRequest {
        service_account: Some(account),
        update_mask: Some(prost_types::FieldMask { paths: vec![path.to_owned()] }),
        validate_only: false,
    };
    own.permissions = vec!["*".to_owned()];
    let refused = del.update_service_account(widen(own.clone(), "permissions")).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
    // A certificate of the operator's authority is not a tenant's to assign.
    own.certificates =
        vec![proto::ClientCertificate { authority: "corp".to_owned(), uri: "spiffe://corp/payments".to_owned() }];
    let refused = del.update_service_account(widen(own.clone(), "certificates")).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
    for scopes in [&["users.write"][..], &["*"]] {
        for kind in [proto::ApiKeyKind::ApiKey, proto::ApiKeyKind::ClientSecret] {
            let scopes = scopes.iter().map(|name| (*name).to_owned()).collect();
            let wide = proto::CreateApiKeyRequest { scopes, kind: kind.into(), ..secret_of(&id) };
            let refused = del.create_api_key(wide).await.unwrap_err();
            assert_eq!(reason(&refused), "PERMISSION_DENIED");
        }
    }
    // An account to which another caller gave more is out of scope from then on, for keys and for changes.
    let get = proto::GetServiceAccountRequest {
        identifier: Some(proto::get_service_account_request::Identifier::ServiceAccountId(id.clone())),
    };
    let mut account =
        root.directory.clone().get_service_account(get).await.unwrap().into_inner().service_account.unwrap();
    account.permissions.push("users.write".to_owned());
    root.update_service_account(widen(account.clone(), "permissions")).await.unwrap();
    let refused = del.create_api_key(secret_of(&id)).await.unwrap_err();
    assert_eq!(reason(&refused), "PERMISSION_DENIED");
}

/// A key's rights are its scopes within its owner's present rights, at the moment of the exchange and after it.
#[tokio::test]
async fn a_key_shrinks_with_its_account() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let id = account(&admin, "billing").await;
    let request = proto::CreateApiKeyRequest { kind: 0, scopes: vec!["users.read".to_owned()], ..secret_of(&id) };
    let key = admin.create_api_key(request).await.unwrap().secret;
    let before = exchange(&server, &key).await.unwrap();
    assert_eq!(before.permissions, ["users.read"]);
    let get = proto::GetServiceAccountRequest {
        identifier: Some(proto::get_service_account_request::Identifier::ServiceAccountId(id)),
    };
    let mut account =
        admin.directory.clone().get_service_account(get).await.unwrap().into_inner().service_account.unwrap();
    account.permissions = vec!["tokens.verify".to_owned()];
    let update = proto::UpdateServiceAccountRequest {
        service_account: Some(account),
        update_mask: Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] }),
        validate_only: false,
    };
    admin.update_service_account(update).await.unwrap();
    let list = proto::ListUsersRequest::default();
    let refused = server.client(&before.access_token).directory.list_users(list).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::Unauthenticated, "the token from before is refused at once");
    assert!(exchange(&server, &key).await.unwrap().permissions.is_empty());
}

#[tokio::test]
async fn an_address_that_tries_keys_is_slowed_down_whatever_it_tries() {
    let setup = crate::support::Setup::new().await.with("THROTTLE__PER_MINUTE", "1").with("THROTTLE__BURST", "4");
    let server = setup.start().await;
    let unknown = sidle::token::opaque::mint("sidle_ak_", &server.context.entropy);
    let id = uuid::Uuid::from_u128(1).to_string();
    for n in 0..4 {
        let refused = match n % 2 {
            0 => exchange(&server, &unknown).await,
            _ => by_secret(&server, &id, &unknown).await,
        };
        assert_eq!(reason(&refused.unwrap_err()), "INVALID_CREDENTIALS");
    }
    let key = api_key(&server, None, &["tokens.verify"], &[]).await;
    assert_eq!(reason(&exchange(&server, &key).await.unwrap_err()), "THROTTLED");
    let replica = setup.start().await;
    assert_eq!(reason(&exchange(&replica, &key).await.unwrap_err()), "THROTTLED", "counted over all replicas");
    server.context.clock.advance(std::time::Duration::from_secs(61));
    exchange(&server, &key).await.expect("after a while");
}

/// An attacker with a leaked key keeps exchanging it. One exchange that waits while the key is revoked must not then
/// return a token that is younger than the revocation.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_while_its_exchange_waits_buys_nothing() {
    let server = TestServer::start().await;
    let key = api_key(&server, None, &["users.read"], &[]).await;
    let mut revoking = server.sql().begin().await.unwrap();
    sqlx::query("SELECT FROM service_accounts FOR UPDATE").execute(&mut *revoking).await.unwrap();
    let waiting = exchange(&server, &key);
    let revoke = async {
        // The exchange has read the key and waits for its account.
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()
                     AND query LIKE '%api_key_exchange%'";
        until("the exchange waits for its account", async || {
            sqlx::query_scalar::<_, i64>(waits).fetch_one(server.sql()).await.unwrap() != 0
        })
        .await;
        sqlx::query("UPDATE api_keys SET revoked_at = now()").execute(&mut *revoking).await.unwrap();
        sqlx::query("UPDATE service_accounts SET tokens_valid_from = now()").execute(&mut *revoking).await.unwrap();
        revoking.commit().await.unwrap();
    };
    let (answer, ()) = tokio::join!(waiting, revoke);
    assert_eq!(reason(&answer.unwrap_err()), "INVALID_CREDENTIALS");
}
