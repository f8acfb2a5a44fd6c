//! What a refused call leaves behind: a line in the log under its id, and where the caller was known an event.

use std::collections::HashMap;

use prost_types::FieldMask;
use serde_json::Value;
use sidle::proto::import_users_request::Part;
use sidle::proto::*;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::correlation::{Logged, call};
use crate::edge::Raw;
use crate::look::reason;
use crate::support::process::Process;
use crate::support::{ADMIN_PASSWORD, Client, Setup, TestServer, eventually, within};

/// A way to be refused: the RPC, the id of the call, the answer, and what it must leave.
struct Refused {
    method: &'static str,
    id: Uuid,
    status: Status,
    reason: &'static str,
    caller: Option<Uuid>,
    event: Option<&'static str>,
}

/// A server, the same as a real process, and people.
struct World {
    server: TestServer,
    process: Process,
    tenant: Uuid,
    ann: Uuid,
    bob: Uuid,
    keeper: Uuid,
    root: Uuid,
}

const ANN: &str = "ann@harbour.example";
const BOB: &str = "bob@harbour.example";
/// An administrator of the tenant.
const KEEPER: &str = "keeper@harbour.example";
const ROOT: &str = "root@harbour.example";
const LOGIN: &str = "/sidle.v1.AuthenticateService/AuthenticatePassword";
const NO_METHOD: &str = "/sidle.v1.AuthenticateService/NoSuchMethod";
const TYPED: &str = "a guess that must not be found in the log";

impl World {
    async fn new(settings: &[(&str, &str)]) -> Self {
        let mut setup = Setup::new().await;
        for (name, value) in settings {
            setup = setup.with(name, value);
        }
        let server = setup.start().await;
        let tenant = server.tenant("harbour").await;
        let ann = server.user(tenant, ANN, "user").await;
        let bob = server.user(tenant, BOB, "user").await;
        let keeper = server.user(tenant, KEEPER, "super_admin").await;
        let root = server.user(tenant, ROOT, "SYSTEM_ADMIN").await;
        let process = Process::start(&setup).await;
        Self { server, process, tenant, ann, bob, keeper, root }
    }

    /// Clients of the process that act as this user.
    async fn acting(&self, email: &str) -> Client {
        self.process.client(&self.server.sign_in(email).await.access_token)
    }

    /// Types of the events of a call that are durable, numbered or not.
    async fn events(&self, id: Uuid) -> Vec<String> {
        sqlx::query_scalar(
            "SELECT event_type FROM audit_inbox WHERE correlation_id = $1
             UNION SELECT event_type FROM audit_events WHERE correlation_id = $1",
        )
        .bind(id)
        .fetch_all(self.server.sql())
        .await
        .unwrap()
    }
}

fn header() -> ImportHeader {
    ImportHeader { source: "legacy".to_owned(), request_id: Uuid::new_v4().to_string(), ..Default::default() }
}

fn guess(identifier: &str) -> AuthenticatePasswordRequest {
    let (identifier, password) = (identifier.to_owned(), TYPED.to_owned());
    AuthenticatePasswordRequest { identifier, password, ..Default::default() }
}

/// Makes a call that is refused for `reason`, of this caller, and leaves this event.
async fn refused<T, A>(
    method: &'static str,
    reason: &'static str,
    (caller, event): (Option<Uuid>, Option<&'static str>),
    message: T,
    make: impl AsyncFnOnce(Request<T>) -> Result<A, Status>,
) -> Refused {
    let (id, request) = call(message);
    let status = make(request).await.map(drop).expect_err(method);
    Refused { method, id, status, reason, caller, event }
}

/// Refusals of callers who have not signed in.
async fn of_strangers(world: &World) -> Vec<Refused> {
    let nobody = world.process.client("").authenticate;
    let forged = world.process.client("not.a.token").authenticate;
    let lock = LockUserRequest { user_id: world.bob.to_string(), ..Default::default() };
    world.acting(ROOT).await.plain.lock_user(lock).await.unwrap();
    let right = AuthenticatePasswordRequest { password: ADMIN_PASSWORD.to_owned(), ..guess(BOB) };
    let mut found = Vec::new();
    for (message, event) in [
        (guess(ANN), Some("user.login_refused")),
        (guess("nobody@harbour.example"), Some("user.login_refused")),
        // Of those who are nobody one event stands for many.
        (guess("nobody.else@harbour.example"), None),
        (right, Some("user.login_refused")),
    ] {
        let make = async |request| nobody.clone().authenticate_password(request).await;
        found.push(refused(LOGIN, "INVALID_CREDENTIALS", (None, event), message, make).await);
    }
    for client in [&nobody, &forged] {
        let make = async |request| client.clone().who_am_i(request).await;
        let method = "/sidle.v1.AuthenticateService/WhoAmI";
        found.push(refused(method, "UNAUTHENTICATED", (None, None), WhoAmIRequest {}, make).await);
    }
    let token = RefreshTokenRequest { refresh_token: format!("sidle_rt_{}", "A".repeat(43)), ..Default::default() };
    let make = async |request| nobody.clone().refresh_token(request).await;
    let method = "/sidle.v1.AuthenticateService/RefreshToken";
    found.push(refused(method, "INVALID_REFRESH_TOKEN", (None, None), token, make).await);
    found
}

/// Refusals of callers who are known and may not.
async fn of_the_denied(world: &World) -> Vec<Refused> {
    let (ann, keeper) = (world.acting(ANN).await, world.acting(KEEPER).await);
    let root = world.acting(ROOT).await;
    let denied = |caller| (Some(caller), Some("access.denied"));
    let mut found = Vec::new();
    let make = async |request| ann.plain.clone().list_users(request).await;
    let (method, message) = ("/sidle.v1.DirectoryService/ListUsers", ListUsersRequest::default());
    found.push(refused(method, "PERMISSION_DENIED", denied(world.ann), message, make).await);
    // Has the permission that the RPC requires, and less than the user whom it is aimed at.
    let make = async |request| keeper.plain.clone().lock_user(request).await;
    let message = LockUserRequest { user_id: world.root.to_string(), ..Default::default() };
    let method = "/sidle.v1.DirectoryService/LockUser";
    found.push(refused(method, "PERMISSION_DENIED", denied(world.keeper), message, make).await);
    let make = async |request| ann.authenticate.clone().enroll_totp(request).await;
    let (method, message) = ("/sidle.v1.AuthenticateService/EnrollTotp", EnrollTotpRequest::default());
    found.push(refused(method, "STEP_UP_REQUIRED", denied(world.ann), message, make).await);
    // In the trailers of a stream that was opened.
    let import = ImportUsersRequest { part: Some(Part::Header(header())) };
    let make = async |request: Request<_>| {
        let answers = root.migration.clone().import_users(request.map(|import| tokio_stream::iter([import]))).await;
        within("the import ends", answers?.into_inner().message()).await
    };
    let method = "/sidle.v1.MigrationService/ImportUsers";
    found.push(refused(method, "STEP_UP_REQUIRED", denied(world.root), import, make).await);
    found
}

/// Refusals of callers who are known for what they asked.
async fn of_requests(world: &World) -> Vec<Refused> {
    let root = world.acting(ROOT).await;
    let by_root = (Some(world.root), None);
    let mut found = Vec::new();
    for (id, reason) in [(Uuid::new_v4().to_string(), "NOT_FOUND"), (TYPED.to_owned(), "INVALID_FIELD")] {
        let message = GetTenantRequest { identifier: Some(get_tenant_request::Identifier::TenantId(id)) };
        let make = async |request| root.plain.clone().get_tenant(request).await;
        found.push(refused("/sidle.v1.DirectoryService/GetTenant", reason, by_root, message, make).await);
    }
    let read =
        GetTenantRequest { identifier: Some(get_tenant_request::Identifier::TenantId(world.tenant.to_string())) };
    let tenant = root.plain.clone().get_tenant(read).await.unwrap().into_inner().tenant.unwrap();
    let change = |name: &str| UpdateTenantRequest {
        tenant: Some(Tenant { name: name.to_owned(), ..tenant.clone() }),
        update_mask: Some(FieldMask { paths: vec!["name".to_owned()] }),
        validate_only: false,
    };
    root.proving(change("Port"), async |request| root.plain.clone().update_tenant(request).await).await.unwrap();
    let make = async |request: Request<UpdateTenantRequest>| {
        let (metadata, _, message) = request.into_parts();
        let proof = root.proven("sidle.v1.DirectoryService/UpdateTenant", &tenant.tenant_id, message).await;
        let mut request = Request::new(proof.get_ref().clone());
        *request.metadata_mut() = metadata;
        request.metadata_mut().insert("sidle-step-up", proof.metadata().get("sidle-step-up").unwrap().clone());
        root.plain.clone().update_tenant(request).await
    };
    let method = "/sidle.v1.DirectoryService/UpdateTenant";
    found.push(refused(method, "ETAG_MISMATCH", by_root, change("Quay"), make).await);
    found
}

/// Refusals of what is no call of the contract.
async fn of_the_edge(world: &World) -> Vec<Refused> {
    let raw = async |mut request: Request<Vec<u8>>, path: &'static str, token: &str| {
        request.metadata_mut().insert("user-agent", "nobody {\"level\":\"ERROR\"}".parse().unwrap());
        if !token.is_empty() {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut grpc = Grpc::new(world.process.channel());
        grpc.ready().await.unwrap();
        grpc.unary(request, PathAndQuery::from_static(path), Raw).await
    };
    let token = world.server.sign_in(ANN).await.access_token;
    let undecodable = async |request| raw(request, LOGIN, "").await;
    let unknown = async |request| raw(request, NO_METHOD, &token).await;
    vec![
        refused(LOGIN, "MALFORMED_REQUEST", (None, None), vec![0xff], undecodable).await,
        refused(NO_METHOD, "NO_SUCH_METHOD", (Some(world.ann), None), Vec::new(), unknown).await,
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_is_in_the_log_under_its_id_and_that_of_a_known_caller_is_an_event() {
    let world = World::new(&[]).await;
    let mut found = of_strangers(&world).await;
    found.extend(of_the_denied(&world).await);
    found.extend(of_requests(&world).await);
    found.extend(of_the_edge(&world).await);
    for Refused { method, id, status, reason: expected, caller, event } in found {
        assert_eq!(reason(&status), expected, "{method}: {status:?}");
        let said = status.get_error_details().error_info().unwrap().metadata["correlation_id"].clone();
        assert_eq!(said, id.to_string(), "{method}");
        // Of a caller who is known, or of a login, it is durable before the answer.
        let events = world.events(id).await;
        assert_eq!(events.first().map(String::as_str), event, "{method} {expected}");
        let lines = eventually(&format!("{method} {expected} is in the log"), async || {
            let lines = world.process.logged_under(id);
            lines.iter().any(|line| line["event"] == "call_refused").then_some(lines)
        })
        .await;
        let refused: Vec<&Value> = lines.iter().filter(|line| line["event"] == "call_refused").collect();
        assert_eq!(refused.len(), 1, "one line: {lines:#?}");
        assert_eq!(refused[0]["reason"], expected);
        assert_eq!(refused[0]["level"], "INFO");
        assert_eq!(refused[0]["address"], "127.0.0.1", "{method}");
        assert_eq!(refused[0]["span"]["method"], method);
        assert_eq!(refused[0]["caller"].as_str().map(str::to_owned), caller.map(|id| id.to_string()), "{method}");
        for line in lines.iter().filter(|line| line["event"] == "user_login_refused") {
            assert_eq!(line["address"], "127.0.0.1", "{line}");
        }
    }
    let log = world.process.log();
    for personal in ["harbour.example", TYPED, ADMIN_PASSWORD] {
        assert!(!log.contains(personal), "{personal:?} is in the log");
    }
    assert!(!world.process.logged("user_login_refused").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_shed_is_in_the_log_under_its_id() {
    // One call without a login at a time.
    let world = World::new(&[("SERVER__MAX_CONCURRENT_CALLS", "8")]).await;
    let mut grpc = Grpc::new(world.process.channel());
    grpc.ready().await.unwrap();
    let path = PathAndQuery::from_static(LOGIN);
    let pending = Request::new(tokio_stream::pending::<Vec<u8>>());
    let held = tokio::spawn(async move { grpc.client_streaming(pending, path, Raw).await.map(drop) });
    let mut client = world.process.client("").authenticate;
    // Shed as soon as the other call has arrived.
    let (id, status) = eventually("a call is shed", async || {
        let (id, request) = call(GetJwksRequest {});
        client.get_jwks(request).await.err().map(|status| (id, status))
    })
    .await;
    assert_eq!(reason(&status), "OVERLOADED");
    let line = eventually("its line", async || world.process.logged_under(id).pop()).await;
    assert_eq!((&line["event"], &line["reason"]), (&"call_unavailable".into(), &"OVERLOADED".into()));
    assert_eq!((&line["address"], &line["level"]), (&"127.0.0.1".into(), &"WARN".into()));
    held.abort();
}

#[tokio::test]
async fn an_expired_token_is_in_the_log_under_the_id_of_its_call() {
    let (logged, _guard) = Logged::start_at(tracing::Level::INFO);
    let server = TestServer::start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, ANN, "user").await;
    let ann = server.client(&server.sign_in(ANN).await.access_token);
    server.context.clock.advance(std::time::Duration::from_secs(24 * 3600));
    let (id, request) = call(WhoAmIRequest {});
    let refused = ann.authenticate.clone().who_am_i(request).await.unwrap_err();
    assert_eq!(reason(&refused), "UNAUTHENTICATED");
    assert_eq!(logged.events(id, "call_refused").await, ["call_refused"]);
}

/// The address is the client's and not what it says (S21), also in the lines of refused logins.
#[tokio::test]
async fn lines_have_the_address_that_a_configured_proxy_saw_and_no_other() {
    let (logged, _guard) = Logged::start_at(tracing::Level::INFO);
    for (proxies, seen) in [("", "127.0.0.1"), ("127.0.0.1", "198.51.100.7")] {
        let server = Setup::new().await.with("SERVER__TRUSTED_PROXIES", proxies).start().await;
        let tenant = server.tenant("harbour").await;
        server.user(tenant, ANN, "user").await;
        let (id, mut request) = call(guess(ANN));
        request.metadata_mut().insert("x-forwarded-for", "203.0.113.66, 198.51.100.7".parse().unwrap());
        server.client("").authenticate.authenticate_password(request).await.unwrap_err();
        let lines = logged.under(id, "call_refused").await;
        for event in ["user_login_refused", "call_refused"] {
            let line =
                lines.iter().find(|line| line["event"] == event).unwrap_or_else(|| panic!("{event}: {lines:#?}"));
            assert_eq!(line["address"], seen, "{event} behind {proxies:?}");
        }
    }
}

/// A denial that cannot be recorded is not answered: it would be one that nobody can find.
#[tokio::test]
async fn a_denial_is_durable_before_it_is_answered() {
    let server = TestServer::start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, ANN, "user").await;
    let ann = server.client(&server.sign_in(ANN).await.access_token);
    let root = server.admin().await;
    let denied = async || ann.plain.clone().list_users(ListUsersRequest::default()).await.unwrap_err();
    // Denied in the trailers of its answer.
    let import = async || {
        let messages = tokio_stream::iter([ImportUsersRequest { part: Some(Part::Header(header())) }]);
        let answers = root.migration.clone().import_users(messages).await.unwrap().into_inner();
        within("the import ends", { answers }.message()).await.unwrap_err()
    };
    assert_eq!([reason(&denied().await), reason(&import().await)], ["PERMISSION_DENIED", "STEP_UP_REQUIRED"]);
    sqlx::query("ALTER FUNCTION audit_record RENAME TO audit_record_gone").execute(server.sql()).await.unwrap();
    assert_eq!([reason(&denied().await), reason(&import().await)], ["INTERNAL", "INTERNAL"]);
}

/// Who hangs up before the answer takes nothing back: the event is written all the same.
#[tokio::test]
async fn a_caller_who_hangs_up_is_recorded_all_the_same() {
    let server = TestServer::start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, ANN, "user").await;
    let ann = server.client(&server.sign_in(ANN).await.access_token);
    let mut held = server.sql().begin().await.unwrap();
    sqlx::query("LOCK TABLE audit_inbox IN EXCLUSIVE MODE").execute(&mut *held).await.unwrap();
    let denied = tokio::spawn(async move { ann.plain.clone().list_users(ListUsersRequest::default()).await.map(drop) });
    let waits = "SELECT true FROM pg_locks WHERE NOT granted AND relation = 'audit_inbox'::regclass LIMIT 1";
    eventually("the recording waits", async || {
        sqlx::query_scalar::<_, bool>(waits).fetch_optional(server.sql()).await.unwrap()
    })
    .await;
    denied.abort();
    let gone = "sidle_calls_total{method=\"/sidle.v1.DirectoryService/ListUsers\",code=\"CANCELLED\"} 1";
    eventually("the service knows that nobody waits", async || {
        server.app().metrics.render().unwrap().contains(gone).then_some(())
    })
    .await;
    held.rollback().await.unwrap();
    eventually("the event", async || details(&server).await.pop()).await;
}

#[tokio::test]
async fn a_caller_who_is_denied_without_end_does_not_fill_the_audit_log() {
    let server = TestServer::start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, ANN, "user").await;
    let ann = server.client(&server.sign_in(ANN).await.access_token);
    let denied = async || {
        let refused = ann.plain.clone().list_users(ListUsersRequest::default()).await.unwrap_err();
        assert_eq!(reason(&refused), "PERMISSION_DENIED");
    };
    for _ in 0..100 {
        denied().await;
    }
    let written: Vec<Value> = details(&server).await;
    assert!((60..100).contains(&written.len()), "{} events", written.len());
    let more = 100 - written.len() as u64 + left_out(&written);
    // Some time later there may be another event, which says how many had none.
    server.context.clock.advance(std::time::Duration::from_secs(60));
    denied().await;
    let written = details(&server).await;
    assert_eq!(left_out(&written), more, "those without an event are counted");
    let fields: HashMap<&str, &str> =
        HashMap::from([("method", "sidle.v1.DirectoryService/ListUsers"), ("permission", "users.read")]);
    for (name, value) in fields {
        assert_eq!(written[0][name], value);
    }
}

async fn details(server: &TestServer) -> Vec<Value> {
    sqlx::query_scalar(
        "SELECT details FROM (
             SELECT event_id, details FROM audit_inbox WHERE event_type = 'access.denied'
             UNION SELECT event_id, details FROM audit_events WHERE event_type = 'access.denied') events
         ORDER BY event_id",
    )
    .fetch_all(server.sql())
    .await
    .unwrap()
}

fn left_out(details: &[Value]) -> u64 {
    details.iter().filter_map(|details| details["left_out"].as_u64()).sum()
}
