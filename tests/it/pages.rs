//! Page tokens, cursors and stored answers are bound to the caller and the request that they were made for.

use prost_reflect::{Cardinality, DynamicMessage, Kind, MethodDescriptor, Value};
use sidle::proto;
use tonic::Status;
use uuid::Uuid;

use crate::dynamic::{call, rpcs};
use crate::look::reason;
use crate::support::{Client, TestServer, within};

/// Paged RPCs whose lists cannot be filled without a Kanidm; the binding of their tokens is the same code.
const NEEDS_MORE: &[&str] = &["GetPlan", "ListMigrations", "ListMigrationItems", "ListUnmigratedUsers"];

/// Two of everything that can be listed, and two administrators of the platform in the same tenant.
struct World {
    server: TestServer,
    tokens: [String; 2],
    tenant: Uuid,
    user: Uuid,
}

impl World {
    async fn make() -> Self {
        let server = TestServer::start().await;
        let admin = server.admin().await;
        let tenant: Uuid = sqlx::query_scalar("SELECT tenant_id FROM tenants").fetch_one(server.sql()).await.unwrap();
        let user = server.user(tenant, "second@platform.example", "SYSTEM_ADMIN").await;
        for name in ["one", "two"] {
            server.tenant(name).await;
            server.sign_in("root@platform.example").await;
            server.sign_in("second@platform.example").await;
            let account = proto::CreateServiceAccountRequest { name: name.to_owned(), ..Default::default() };
            let account = admin.create_service_account(account).await.unwrap().service_account;
            let id = account.unwrap().service_account_id;
            let key = proto::CreateApiKeyRequest { service_account_id: id, ..Default::default() };
            admin.create_api_key(key).await.unwrap();
        }
        let rotate = proto::RotateSigningKeysRequest::default();
        // Two keys, since keys can be rotated already.
        let _ = admin.rotate_signing_keys(rotate).await;
        let tokens = [
            server.sign_in("root@platform.example").await.access_token,
            server.sign_in("second@platform.example").await.access_token,
        ];
        Self { server, tokens, tenant, user }
    }

    async fn ask(
        &self,
        rpc: &MethodDescriptor,
        message: &DynamicMessage,
        who: usize,
    ) -> Result<DynamicMessage, Status> {
        call(&self.server.channel, rpc, message, &self.tokens[who]).await.map(|answer| answer.expect("an answer"))
    }

    /// The first page, of one entry.
    fn first(&self, rpc: &MethodDescriptor) -> DynamicMessage {
        let mut message = DynamicMessage::new(rpc.input());
        message.set_field_by_name("page_size", Value::I32(1));
        match rpc.name() {
            "ListMemberships" => message.set_field_by_name("tenant_id", Value::String(self.tenant.to_string())),
            "ListSessions" => message.set_field_by_name("user_id", Value::String("-".to_owned())),
            _ => {}
        }
        message
    }
}

fn paged() -> Vec<MethodDescriptor> {
    let is_paged = |rpc: &MethodDescriptor| rpc.input().get_field_by_name("page_token").is_some();
    rpcs().into_iter().filter(is_paged).collect()
}

#[tokio::test]
async fn a_page_token_is_worth_nothing_to_others_elsewhere_or_with_another_filter() {
    let world = World::make().await;
    let mut tokens = Vec::new();
    for rpc in paged() {
        let name = rpc.name().to_owned();
        let first = world.first(&rpc);
        let answer = match world.ask(&rpc, &first, 0).await {
            Ok(answer) => answer,
            Err(status) if status.code() == tonic::Code::Unimplemented => continue,
            Err(_) if NEEDS_MORE.contains(&name.as_str()) => continue,
            Err(status) => panic!("{name}: {status:?}"),
        };
        let token = answer.get_field_by_name("next_page_token").unwrap().as_str().unwrap().to_owned();
        if token.is_empty() {
            assert!(NEEDS_MORE.contains(&name.as_str()) || name == "ListSigningKeys", "{name} has no second page");
            continue;
        }
        let with = |token: &str| {
            let mut next = first.clone();
            next.set_field_by_name("page_token", Value::String(token.to_owned()));
            next
        };
        world.ask(&rpc, &with(&token), 0).await.unwrap_or_else(|status| panic!("{name}: {status:?}"));

        let stolen = world.ask(&rpc, &with(&token), 1).await.expect_err("somebody else's");
        assert_eq!(reason(&stolen), "INVALID_PAGE_TOKEN", "{name}: somebody else's");
        for field in rpc.input().fields() {
            if ["page_token", "page_size"].contains(&field.name()) {
                continue;
            }
            let value = match field.kind() {
                Kind::String if field.name() == "tenant_id" => Value::String(world.tenant.to_string()),
                Kind::String => Value::String(world.user.to_string()),
                Kind::Bool => Value::Bool(true),
                Kind::Enum(_) => Value::EnumNumber(2),
                _ => continue,
            };
            let value = if field.cardinality() == Cardinality::Repeated { Value::List(vec![value]) } else { value };
            if *first.get_field(&field) == value {
                continue;
            }
            let mut other = with(&token);
            other.set_field(&field, value);
            let refused = match world.ask(&rpc, &other, 0).await {
                Ok(_) => panic!("{name}: taken with another {}", field.name()),
                Err(refused) => reason(&refused),
            };
            assert!(
                ["INVALID_PAGE_TOKEN", "INVALID_FIELD"].contains(&refused.as_str()),
                "{name}, {}: {refused}",
                field.name()
            );
        }
        for at in [0, token.len() / 2, token.len() - 1] {
            let mut forged = token.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = world.ask(&rpc, &with(&String::from_utf8(forged).unwrap()), 0).await;
            // The last letter may carry bits that mean nothing; what it decodes to is then the same token.
            if at + 1 < token.len() {
                assert_eq!(reason(&forged.expect_err("forged")), "INVALID_PAGE_TOKEN", "{name}: forged at {at}");
            }
        }
        tokens.push((rpc, token));
    }
    assert!(tokens.len() >= 7, "only {} lists were looked at", tokens.len());
    for (rpc, _) in &tokens {
        for (other, token) in &tokens {
            if rpc.full_name() == other.full_name() {
                continue;
            }
            let mut message = world.first(rpc);
            message.set_field_by_name("page_token", Value::String(token.clone()));
            let refused = world.ask(rpc, &message, 0).await.expect_err("another list's");
            assert_eq!(reason(&refused), "INVALID_PAGE_TOKEN", "{} with a token of {}", rpc.name(), other.name());
        }
    }
}

/// A cursor of the audit stream: bound to caller and filter in the same way.
#[tokio::test]
async fn a_cursor_resumes_its_own_stream_only() {
    let world = World::make().await;
    let client = |who: usize| world.server.client(&world.tokens[who]).audit;
    let after = |cursor: &str| proto::StreamEventsRequest {
        start: Some(proto::stream_events_request::Start::Cursor(cursor.to_owned())),
        ..Default::default()
    };
    let everything = proto::StreamEventsRequest {
        start: Some(proto::stream_events_request::Start::FromBeginning(true)),
        ..Default::default()
    };
    let mut stream = client(0).stream_events(everything).await.unwrap().into_inner();
    let cursor = within("the state of the stream", stream.message()).await.unwrap().unwrap().cursor;
    let own = client(0).stream_events(after(&cursor)).await.unwrap();
    within("the state of the stream", own.into_inner().message()).await.expect("its own");
    let outcome = async |who: usize, request: proto::StreamEventsRequest| match client(who).stream_events(request).await
    {
        Err(status) => reason(&status),
        Ok(stream) => within("the state of the stream", stream.into_inner().message())
            .await
            .map_or_else(|status| reason(&status), |_| "taken".to_owned()),
    };
    assert_eq!(outcome(1, after(&cursor)).await, "INVALID_PAGE_TOKEN");
    let other = if cursor.starts_with('A') { 'B' } else { 'A' };
    assert_eq!(outcome(0, after(&format!("{other}{}", &cursor[1..]))).await, "INVALID_PAGE_TOKEN");
}

fn new_tenant(id: Uuid, slug: &str) -> proto::CreateTenantRequest {
    proto::CreateTenantRequest {
        request_id: id.to_string(),
        slug: slug.to_owned(),
        name: slug.to_owned(),
        ..Default::default()
    }
}

async fn create(client: &Client, request: proto::CreateTenantRequest) -> Result<String, Status> {
    let answer = client.directory.clone().create_tenant(request).await?.into_inner();
    Ok(answer.tenant.unwrap().tenant_id)
}

#[tokio::test]
async fn a_stored_answer_is_for_the_same_caller_the_same_call_and_a_day() {
    let world = World::make().await;
    let (one, two) = (world.server.client(&world.tokens[0]), world.server.client(&world.tokens[1]));
    let id = Uuid::from_u128(0x5e55);
    let first = create(&one, new_tenant(id, "north")).await.unwrap();
    assert_eq!(create(&one, new_tenant(id, "north")).await.unwrap(), first, "the same answer");
    assert_eq!(reason(&create(&one, new_tenant(id, "south")).await.unwrap_err()), "REQUEST_ID_REUSED", "another body");
    // Another caller with the same id gets nothing of it: their call is a call of its own.
    assert_eq!(reason(&create(&two, new_tenant(id, "north")).await.unwrap_err()), "ALREADY_EXISTS");
    assert_ne!(create(&two, new_tenant(id, "west")).await.unwrap(), first);
    // So is another RPC with the same id.
    let role = proto::CreateRoleRequest { request_id: id.to_string(), name: "some".to_owned(), ..Default::default() };
    one.directory.clone().create_role(role).await.unwrap();
    let age = "UPDATE request_answers SET created_at = created_at - interval '24 hours'";
    sqlx::query(age).execute(world.server.sql()).await.unwrap();
    assert_eq!(reason(&create(&one, new_tenant(id, "north")).await.unwrap_err()), "ALREADY_EXISTS", "made anew");
    create(&one, new_tenant(id, "east")).await.expect("the id is free again");
}

/// Every call that returns a secret and can be repeated: what is stored for the repeat does not hold it.
#[tokio::test]
async fn a_stored_answer_holds_no_secret() {
    let world = World::make().await;
    let admin = world.server.client(&world.tokens[0]);
    let account = proto::CreateServiceAccountRequest { name: "billing".to_owned(), ..Default::default() };
    let account = admin.create_service_account(account).await.unwrap();
    let service_account_id = account.service_account.unwrap().service_account_id;
    let mut secrets = Vec::new();
    for kind in [proto::ApiKeyKind::ApiKey, proto::ApiKeyKind::ClientSecret] {
        let request = proto::CreateApiKeyRequest {
            request_id: Uuid::new_v4().to_string(),
            service_account_id: service_account_id.clone(),
            kind: kind.into(),
            ..Default::default()
        };
        let first = admin.create_api_key(request.clone()).await.unwrap();
        let repeat = admin.create_api_key(request).await.unwrap();
        assert!(repeat.is_repeat && repeat.secret.is_empty());
        secrets.push(first.secret);
    }
    let stored: Vec<Vec<u8>> = sqlx::query_scalar("SELECT answer || body_digest FROM request_answers")
        .fetch_all(world.server.sql())
        .await
        .unwrap();
    assert!(stored.len() >= 2);
    for secret in &secrets {
        let body = &secret.as_bytes()["sidle_ak_".len()..];
        let digest = sidle::token::opaque::digest(secret);
        for answer in &stored {
            for part in [&body[6..], &digest[..]] {
                assert!(!answer.windows(part.len()).any(|window| window == part), "a secret is kept");
            }
        }
    }
}
