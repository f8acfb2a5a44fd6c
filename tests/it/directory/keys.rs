//! Service accounts and their keys.

use sidle::proto::*;
use uuid::Uuid;

use super::{field, mask, member, reason};
use crate::support::{Client, TestServer};

async fn account(client: &Client, tenant: Option<Uuid>, name: &str, permissions: &[&str]) -> ServiceAccount {
    let request = CreateServiceAccountRequest {
        tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
        name: name.to_owned(),
        permissions: permissions.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    client.create_service_account(request).await.expect("created").service_account.unwrap()
}

fn key_of(account: &ServiceAccount) -> CreateApiKeyRequest {
    CreateApiKeyRequest { service_account_id: account.service_account_id.clone(), ..Default::default() }
}

async fn exchange(server: &TestServer, key: &str) -> Result<AuthenticateServiceAccountResponse, tonic::Status> {
    let request = AuthenticateServiceAccountRequest { api_key: key.to_owned(), ..Default::default() };
    Ok(server.client("").authenticate.clone().authenticate_service_account(request).await?.into_inner())
}

async fn is_signed_in(server: &TestServer, token: &str) -> bool {
    server.client(token).authenticate.clone().who_am_i(WhoAmIRequest {}).await.is_ok()
}

#[tokio::test]
async fn a_key_is_shown_once_and_stored_nowhere() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let account = account(&admin, None, "billing", &["tokens.verify", "users.read"]).await;
    let request = CreateApiKeyRequest {
        request_id: Uuid::from_u128(0x7e57).to_string(),
        description: "nightly run".to_owned(),
        scopes: vec!["tokens.verify".to_owned()],
        ..key_of(&account)
    };
    let first = admin.create_api_key(request.clone()).await.unwrap();
    assert!(first.secret.starts_with("sidle_ak_") && first.secret.len() == 52 && !first.is_repeat);
    let repeat = admin.create_api_key(request).await.unwrap();
    assert_eq!((repeat.secret.as_str(), repeat.is_repeat), ("", true));
    assert_eq!(repeat.api_key, first.api_key);
    let key = first.api_key.unwrap();
    assert!(first.secret.starts_with(&key.display_prefix) && key.display_prefix.len() < 20);

    // Nowhere in the database, as text or as bytes: a dump of the rows that this has written does not hold it.
    let body = &first.secret["sidle_ak_".len()..];
    for table in ["api_keys", "request_answers", "audit_inbox", "audit_events"] {
        let sql = format!("SELECT coalesce(string_agg(t::text, ' '), '') FROM {table} t");
        let dump: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(server.sql()).await.unwrap();
        let hex: String = body.bytes().map(|byte| format!("{byte:02x}")).collect();
        assert!(!dump.contains(body) && !dump.contains(&hex), "{table} holds the key");
    }
    let signed_in = exchange(&server, &first.secret).await.unwrap();
    assert_eq!(signed_in.permissions, ["tokens.verify"], "the key narrows what the account may do");
}

#[tokio::test]
async fn a_revoked_key_and_its_tokens_are_refused_at_once() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let account = account(&admin, None, "billing", &["tokens.verify"]).await;
    let made = admin.create_api_key(key_of(&account)).await.unwrap();
    let token = exchange(&server, &made.secret).await.unwrap().access_token;
    assert!(is_signed_in(&server, &token).await);
    let delete = DeleteApiKeyRequest { api_key_id: made.api_key.unwrap().api_key_id };
    admin.directory.clone().delete_api_key(delete.clone()).await.unwrap();
    assert!(!is_signed_in(&server, &token).await);
    assert!(exchange(&server, &made.secret).await.is_err());
    admin.directory.clone().delete_api_key(delete).await.expect("revoking again is no change");
    assert_eq!(super::events(&server, "api_key.revoked").await.len(), 1);
    let list = ListApiKeysRequest { service_account_id: account.service_account_id, ..Default::default() };
    assert!(admin.directory.clone().list_api_keys(list.clone()).await.unwrap().into_inner().api_keys.is_empty());
    let all = ListApiKeysRequest { include_revoked: true, ..list };
    let all = admin.directory.clone().list_api_keys(all).await.unwrap().into_inner().api_keys;
    assert!(all[0].revoked_at.is_some());
}

#[tokio::test]
async fn changed_rights_of_an_account_end_its_tokens() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let account = account(&admin, None, "billing", &["tokens.verify", "users.read"]).await;
    let made = admin.create_api_key(key_of(&account)).await.unwrap();
    let token = exchange(&server, &made.secret).await.unwrap().access_token;
    let update = |account: ServiceAccount, path: &str| UpdateServiceAccountRequest {
        service_account: Some(account),
        update_mask: mask(&[path]),
        validate_only: false,
    };
    let less = ServiceAccount { permissions: vec!["tokens.verify".to_owned()], ..account };
    let answer = admin.update_service_account(update(less, "permissions")).await.unwrap();
    assert!(!is_signed_in(&server, &token).await);
    server.context.clock.advance(std::time::Duration::from_millis(5));
    let again = exchange(&server, &made.secret).await.unwrap();
    assert_eq!(again.permissions, ["tokens.verify"]);

    let off = ServiceAccount { status: ServiceAccountStatus::Disabled.into(), ..answer.service_account.unwrap() };
    let off = admin.update_service_account(update(off, "status")).await.unwrap();
    assert!(!is_signed_in(&server, &again.access_token).await);
    assert!(exchange(&server, &made.secret).await.is_err());

    let service_account_id = off.service_account.unwrap().service_account_id;
    let delete = DeleteServiceAccountRequest { service_account_id, etag: String::new() };
    let deleted = admin.directory.clone().delete_service_account(delete).await.unwrap().into_inner();
    assert_eq!(deleted.api_keys_revoked, 1);
    // The name can be used again.
    self::account(&admin, None, "billing", &[]).await;
}

#[tokio::test]
async fn a_key_does_not_exceed_its_account_nor_an_account_its_maker() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("north").await;
    let (_, owner) = member(&server, tenant, "owner@north.example", "super_admin").await;
    let own = account(&owner, Some(tenant), "north-api", &["users.read"]).await;
    assert!(!own.created_by.is_empty());
    let wide = CreateApiKeyRequest { scopes: vec!["users.write".to_owned()], ..key_of(&own) };
    assert_eq!(reason(owner.create_api_key(wide).await), "PERMISSION_DENIED");
    let late =
        CreateApiKeyRequest { expires_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }), ..key_of(&own) };
    assert_eq!(field(owner.create_api_key(late).await), "expires_at");

    // A caller who may only make accounts cannot take over one that may do more.
    let maker = account(&admin, Some(tenant), "maker", &["service_accounts.write", "service_accounts.read"]).await;
    let key = admin.create_api_key(key_of(&maker)).await.unwrap().secret;
    let maker = server.client(&exchange(&server, &key).await.unwrap().access_token);
    assert_eq!(reason(maker.create_api_key(key_of(&own)).await), "PERMISSION_DENIED");
    let more = CreateServiceAccountRequest {
        tenant_id: tenant.to_string(),
        name: "more".to_owned(),
        permissions: vec!["users.read".to_owned()],
        ..Default::default()
    };
    assert_eq!(reason(maker.create_service_account(more).await), "PERMISSION_DENIED");
}
