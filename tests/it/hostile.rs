//! No input gives `INTERNAL` or a panic: every field of every RPC is given invalid values, one at a time, with the
//! others valid.

use futures_util::future::join_all;
use prost_reflect::prost::Message as _;
use prost_reflect::{
    Cardinality, DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, MethodDescriptor, Value,
};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::dynamic::{call, exchange, path, rpcs};
use crate::support::server::with_proof;
use crate::support::{ADMIN_PASSWORD, Setup, TestServer};

/// How deep messages within messages are filled in.
const DEEPEST: usize = 4;

/// Existing resources, for fields to name.
struct World {
    /// Home tenant of the administrators.
    home: Uuid,
    tenant: Uuid,
    user: Uuid,
    role: String,
    membership: String,
    account: String,
    key: String,
    session: String,
}

impl World {
    async fn make(server: &TestServer) -> Self {
        use sidle::proto::*;
        let tenant = server.tenant("victims").await;
        let user = server.user(tenant, "victim@example.com", "user").await;
        let admin = server.client(&server.sign_in("root@platform.example").await.access_token);
        let mut directory = admin.directory.clone();
        let role = CreateRoleRequest { tenant_id: tenant.to_string(), name: "some".to_owned(), ..Default::default() };
        let role = directory.create_role(role).await.unwrap().into_inner().role.unwrap().role_id;
        let grant = CreateMembershipRequest {
            user_id: user.to_string(),
            tenant_id: tenant.to_string(),
            role_id: role.clone(),
            ..Default::default()
        };
        let membership = directory.create_membership(grant).await.unwrap().into_inner().membership.unwrap();
        let account = CreateServiceAccountRequest { name: "program".to_owned(), ..Default::default() };
        let account = admin.create_service_account(account).await.unwrap().service_account.unwrap();
        let key = CreateApiKeyRequest { service_account_id: account.service_account_id.clone(), ..Default::default() };
        let key = admin.create_api_key(key).await.unwrap().api_key.unwrap().api_key_id;
        let tokens = server.sign_in("victim@example.com").await;
        let mut client = server.client(&tokens.access_token).session;
        let session = client.get_session(GetSessionRequest::default()).await.unwrap().into_inner().session.unwrap();
        Self {
            home: server.tenant("administrators").await,
            tenant,
            user,
            role,
            membership: membership.membership_id,
            account: account.service_account_id,
            key,
            session: session.session_id,
        }
    }

    /// A valid value for a field of this name.
    fn text(&self, rpc: &str, field: &str) -> String {
        let fresh = Uuid::new_v4();
        match field {
            "tenant_id" | "home_tenant_id" => self.tenant.to_string(),
            "user_id" => self.user.to_string(),
            "role_id" | "role_ids" => self.role.clone(),
            "membership_id" => self.membership.clone(),
            "service_account_id" | "client_id" => self.account.clone(),
            "api_key_id" => self.key.clone(),
            "session_id" => self.session.clone(),
            // The first page, and any version.
            "page_token" | "cursor" => String::new(),
            "etag" if rpc.starts_with("Update") => "v1".to_owned(),
            "etag" => String::new(),
            "email" => format!("{}@example.com", fresh.simple()),
            "identifier" => "victim@example.com".to_owned(),
            "password" | "current_password" | "new_password" => ADMIN_PASSWORD.to_owned(),
            "slug" | "name" | "username" | "external_id" => format!("x{}", fresh.simple()),
            "audience" => "sidle".to_owned(),
            "authority" => "corp".to_owned(),
            "uri" => format!("spiffe://example.org/{}", fresh.simple()),
            "permissions" | "scopes" => "users.read".to_owned(),
            "api_key" => sidle::token::opaque::mint("sidle_ak_", &sidle::context::Entropy::system()).to_string(),
            "refresh_token" => sidle::token::opaque::mint("sidle_rt_", &sidle::context::Entropy::system()).to_string(),
            id if id.ends_with("_id") || id.ends_with("_ids") => fresh.to_string(),
            _ => "something".to_owned(),
        }
    }
}

/// A valid message.
fn sensible(world: &World, rpc: &str, shape: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(shape.clone());
    match shape.full_name() {
        "google.protobuf.Timestamp" => message.set_field_by_name("seconds", Value::I64(4_000_000_000)),
        "google.protobuf.Duration" => message.set_field_by_name("seconds", Value::I64(60)),
        "google.protobuf.FieldMask" => {
            let path = match rpc {
                "UpdateUser" => "full_name",
                "UpdateTenant" => "name",
                _ => "description",
            };
            message.set_field_by_name("paths", Value::List(vec![Value::String(path.to_owned())]));
        }
        _ if depth < DEEPEST => {
            for field in shape.fields() {
                // A dry run would end before what is to be reached.
                if field.name() == "validate_only" || field.is_map() {
                    continue;
                }
                let value = sensible_value(world, rpc, &field, depth);
                let value = if field.is_list() { Value::List(vec![value]) } else { value };
                message.set_field(&field, value);
            }
        }
        _ => {}
    }
    message
}

fn sensible_value(world: &World, rpc: &str, field: &FieldDescriptor, depth: usize) -> Value {
    match field.kind() {
        Kind::String => Value::String(world.text(rpc, field.name())),
        Kind::Bytes => Value::Bytes(b"x".to_vec().into()),
        // A member of a oneof that counts only when it is set.
        Kind::Bool => Value::Bool(field.containing_oneof().is_some()),
        Kind::Enum(_) => Value::EnumNumber(1),
        Kind::Message(shape) => Value::Message(sensible(world, rpc, &shape, depth + 1)),
        kind => number(&kind, 1),
    }
}

fn number(kind: &Kind, value: i64) -> Value {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Value::I32(value as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Value::I64(value),
        Kind::Uint32 | Kind::Fixed32 => Value::U32(value as u32),
        Kind::Uint64 | Kind::Fixed64 => Value::U64(value as u64),
        Kind::Float => Value::F32(value as f32),
        _ => Value::F64(value as f64),
    }
}

/// Invalid values for a field of this kind.
fn hostile(field: &FieldDescriptor) -> Vec<Value> {
    let numbers = |kind: &Kind| [0, -1, i64::MIN, i64::MAX, i64::from(i32::MIN)].map(|n| number(kind, n)).to_vec();
    match field.kind() {
        Kind::String => [
            "",
            " ",
            "\0",
            "a\0b",
            "\r\nBcc: x@example.com",
            "\u{202e}\u{feff}\u{10ffff}",
            "'; DROP TABLE users; -- %s%n ${jndi:x} {{7*7}}",
            "-",
            "99999999999999999999999999",
            "00000000-0000-0000-0000-000000000000",
            "{\"a\":",
            "@",
            "9999-99-99T99:99:99Z",
            "../../../../etc/passwd",
        ]
        .into_iter()
        .map(|text| Value::String(text.to_owned()))
        .chain([Value::String("é".repeat(3_000)), Value::String("x".repeat(200_000))])
        .collect(),
        Kind::Bytes => [Vec::new(), vec![0; 3], vec![0xff; 40], vec![b'['; 100_000]]
            .map(|bytes| Value::Bytes(bytes.into()))
            .to_vec(),
        Kind::Bool => vec![Value::Bool(true)],
        Kind::Enum(_) => [0, -1, 2, 99, i32::MAX].map(Value::EnumNumber).to_vec(),
        Kind::Double => [f64::NAN, f64::INFINITY, f64::MIN, -0.0].map(Value::F64).to_vec(),
        Kind::Float => [f32::NAN, f32::NEG_INFINITY].map(Value::F32).to_vec(),
        Kind::Message(_) => Vec::new(),
        kind => numbers(&kind),
    }
}

/// The valid message with one field invalid, for every field and every invalid value.
fn spoilt(world: &World, rpc: &str, shape: &MessageDescriptor, depth: usize) -> Vec<(String, DynamicMessage)> {
    let mut all = Vec::new();
    if depth > DEEPEST {
        return all;
    }
    for field in shape.fields() {
        let base = || sensible(world, rpc, shape, depth);
        let mut add = |how: String, value: Option<Value>| {
            let mut message = base();
            match value {
                Some(value) => message.set_field(&field, value),
                None => message.clear_field(&field),
            }
            all.push((format!("{}{how}", field.name()), message));
        };
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { continue };
            let value = sensible_value(world, rpc, &entry.map_entry_value_field(), depth);
            for key in ["", "\0", "a\0b", &"x".repeat(5_000)] {
                let map = [(MapKey::String(key.to_owned()), value.clone())].into_iter().collect();
                add(format!("[{:?}]", &key[..key.len().min(9)]), Some(Value::Map(map)));
            }
            continue;
        }
        add(" left out".to_owned(), None);
        for value in hostile(&field) {
            let how = format!(" = {}", short(&value));
            match field.cardinality() {
                Cardinality::Repeated => add(how, Some(Value::List(vec![value.clone(), value]))),
                _ => add(how, Some(value)),
            }
        }
        if field.is_list() {
            let one = sensible_value(world, rpc, &field, depth);
            add(" 5000 times".to_owned(), Some(Value::List(vec![one; 5_000])));
        }
        if let Kind::Message(inner) = field.kind() {
            for (how, message) in spoilt(world, rpc, &inner, depth + 1) {
                let value = Value::Message(message);
                let value = if field.is_list() { Value::List(vec![value]) } else { value };
                add(format!(".{how}"), Some(value));
            }
        }
    }
    all
}

fn short(value: &Value) -> String {
    format!("{value:?}").chars().take(60).collect()
}

fn is_ours(status: &Status) -> bool {
    matches!(status.code(), Code::Internal | Code::Unknown | Code::DataLoss | Code::Unavailable)
        || (status.code() == Code::DeadlineExceeded)
}

/// The token of an administrator of the platform that only this test uses.
async fn administrator(server: &TestServer, world: &World) -> String {
    let email = format!("{}@platform.example", Uuid::new_v4().simple());
    server.user(world.home, &email, "SYSTEM_ADMIN").await;
    server.sign_in(&email).await.access_token
}

/// Sends all messages to one RPC and returns what went wrong.
async fn torture(server: &TestServer, world: &World, rpc: &MethodDescriptor) -> (usize, Vec<String>) {
    let mut failures = Vec::new();
    let mut token = administrator(server, world).await;
    let messages = spoilt(world, rpc.name(), &rpc.input(), 0);
    for (how, message) in &messages {
        let mut answer = call(&server.channel, rpc, message, &token).await;
        if answer.as_ref().is_err_and(|status| status.code() == Code::Unauthenticated) {
            // Some calls end the caller's own sessions, or change what the caller signs in with.
            token = administrator(server, world).await;
            answer = call(&server.channel, rpc, message, &token).await;
        }
        // With a step-up token there is more to reach.
        if let Err(refused) = &answer
            && let Some(asked) = refused.get_details_error_info().filter(|info| info.reason == "STEP_UP_REQUIRED")
        {
            let client = server.client(&token);
            let of = |key: &str| asked.metadata[key].as_str();
            let proof = client.prove_change(of("method"), of("target"), of("change")).await;
            let request = with_proof(message.encode_to_vec(), &proof);
            answer = exchange(&server.channel, rpc, request, &token).await.map(|_| None);
        }
        match answer {
            Err(status) if is_ours(&status) => {
                failures.push(format!("{} {how}: {:?} {}", path(rpc), status.code(), status.message()));
            }
            _ => {}
        }
    }
    (messages.len(), failures)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_field_of_any_rpc_can_be_filled_so_that_the_service_fails() {
    let setup = Setup::new().await.with("THROTTLE__PER_MINUTE", "0").with("THROTTLE__MAIL_PER_MINUTE", "0");
    let server = setup.with("DATABASE__POOL_SIZE", "10").with("SESSIONS__PER_USER", "0").start().await;
    server.admin().await;
    let world = World::make(&server).await;
    let rpcs = rpcs();
    let mut failures = Vec::new();
    let mut sent = 0;
    // A few at a time: the test is about the messages, not the load.
    for some in rpcs.chunks(8) {
        for (messages, wrong) in join_all(some.iter().map(|rpc| torture(&server, &world, rpc))).await {
            sent += messages;
            failures.extend(wrong);
        }
    }
    assert!(sent > 3_000, "only {sent} messages were made up");
    assert!(failures.is_empty(), "{} of {sent}:\n{}", failures.len(), failures.join("\n"));
    assert_eq!(server.app().metrics.panics.get(), 0);
}
