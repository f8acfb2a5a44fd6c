//! The edge: unreadable input, bounds, correlation ids, health, reflection, the HTTP port for operators, TLS.

use std::collections::BTreeMap;
use std::time::Duration;

use prost::Message as _;
use prost_types::FileDescriptorProto;
use sidle::proto;
use tonic::client::Grpc;
use tonic::codec::{DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Request, Status};
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::support::{Setup, TestServer, within};

const LOGIN: &str = "/sidle.v1.AuthenticateService/AuthenticatePassword";

/// Sends bytes as they are.
#[derive(Default)]
pub struct Raw;

pub struct RawWriter;
pub struct RawReader;

impl tonic::codec::Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = ();
    type Encoder = RawWriter;
    type Decoder = RawReader;
    fn encoder(&mut self) -> RawWriter {
        RawWriter
    }
    fn decoder(&mut self) -> RawReader {
        RawReader
    }
}

impl Encoder for RawWriter {
    type Item = Vec<u8>;
    type Error = Status;
    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        bytes::BufMut::put_slice(buffer, &item);
        Ok(())
    }
}

impl Decoder for RawReader {
    type Item = ();
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        bytes::Buf::advance(buffer, bytes::Buf::remaining(buffer));
        Ok(Some(()))
    }
}

async fn send(server: &TestServer, path: &'static str, request: Request<Vec<u8>>) -> Status {
    let mut grpc = Grpc::new(server.channel.clone());
    grpc.ready().await.unwrap();
    grpc.unary(request, PathAndQuery::from_static(path), Raw).await.expect_err("refused")
}

fn reason(status: &Status) -> String {
    status.get_error_details().error_info().map(|info| info.reason.clone()).unwrap_or_default()
}

#[tokio::test]
async fn bytes_that_are_no_message_are_the_callers_mistake() {
    let server = TestServer::start().await;
    for garbage in [vec![0xff; 64], vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], vec![0x0a, 0x02, 0xc3, 0x28], vec![0x07]]
    {
        let status = send(&server, LOGIN, Request::new(garbage.clone())).await;
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::InvalidArgument, "MALFORMED_REQUEST"),
            "{garbage:?}"
        );
    }
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_not_read() {
    let server = Setup::new().await.with("SERVER__MAX_MESSAGE_BYTES", "1000").start().await;
    let status = send(&server, LOGIN, Request::new(vec![0x0a; 2000])).await;
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::InvalidArgument), "{status:?}");
}

#[tokio::test]
async fn broken_headers_are_the_callers_mistake() {
    let server = TestServer::start().await;
    for (name, value) in [("grpc-timeout", "soon"), ("grpc-encoding", "snappy")] {
        let mut request = Request::new(Vec::new());
        request.metadata_mut().insert(name, value.parse().unwrap());
        let status = send(&server, LOGIN, request).await;
        assert!(matches!(status.code(), Code::InvalidArgument | Code::Unimplemented), "{name}: {status:?}");
    }
}

#[tokio::test]
async fn a_compressed_flag_without_an_encoding_is_the_callers_mistake() {
    let server = TestServer::start().await;
    let body = [1u8, 0, 0, 0, 2, 0x0a, 0x00];
    let answer = http2(&server, LOGIN, &body).await;
    let code = answer.headers().get("grpc-status").map(|value| value.to_str().unwrap().to_owned());
    assert!(matches!(code.as_deref(), Some("3" | "12")), "{answer:?}");
    let cut = http2(&server, LOGIN, &[0, 0, 0, 0, 9, 1]).await;
    let code = cut.headers().get("grpc-status").map(|value| value.to_str().unwrap().to_owned());
    assert_ne!(code.as_deref(), Some("13"), "{cut:?}");
}

/// One handmade HTTP/2 request.
async fn http2(server: &TestServer, path: &str, body: &[u8]) -> tonic::codegen::http::Response<()> {
    use tower::ServiceExt as _;
    let body = tonic::body::Body::new(http_body_util::Full::new(bytes::Bytes::copy_from_slice(body)));
    let request =
        tonic::codegen::http::Request::post(path).header("content-type", "application/grpc").header("te", "trailers");
    let response = server.channel.clone().oneshot(request.body(body).unwrap()).await.unwrap();
    response.map(drop)
}

#[tokio::test]
async fn a_correlation_id_is_kept_or_made_and_returned_in_errors() {
    let server = TestServer::start().await;
    let id = Uuid::new_v4();
    let mut request = Request::new(vec![0xff]);
    request.metadata_mut().insert("x-correlation-id", id.to_string().parse().unwrap());
    let status = send(&server, LOGIN, request).await;
    assert_eq!(status.metadata().get("x-correlation-id").unwrap().to_str().unwrap(), id.to_string());
    assert_eq!(status.get_error_details().error_info().unwrap().metadata["correlation_id"], id.to_string());

    let mut request = Request::new(vec![0xff]);
    request.metadata_mut().insert("x-correlation-id", "free text; not taken over".parse().unwrap());
    let status = send(&server, LOGIN, request).await;
    assert!(Uuid::parse_str(status.metadata().get("x-correlation-id").unwrap().to_str().unwrap()).is_ok());
}

#[tokio::test]
async fn a_deadline_in_the_past_is_answered_as_one() {
    let server = TestServer::start().await;
    let mut request = Request::new(Vec::new());
    request.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
    let status = send(&server, LOGIN, request).await;
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
}

#[tokio::test]
async fn health_and_both_reflections_answer() {
    use tonic_reflection::pb::{v1, v1alpha};
    let server = TestServer::start().await;
    let mut health = tonic_health::pb::health_client::HealthClient::new(server.channel.clone());
    for service in ["", "sidle.v1.AuthenticateService", "sidle.v1.MigrationService"] {
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), tonic_health::pb::health_check_response::ServingStatus::Serving, "{service}");
    }

    let mut client = v1::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let answer = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
    let answer = within("an answer", answer.into_inner().message()).await;
    let Some(v1::server_reflection_response::MessageResponse::ListServicesResponse(list)) =
        answer.unwrap().unwrap().message_response
    else {
        panic!("no list of services")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    for name in ["sidle.v1.AuditService", "sidle.v1.DirectoryService", "grpc.health.v1.Health"] {
        assert!(names.iter().any(|found| found == name), "{name} in {names:?}");
    }

    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let symbol =
        v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol("sidle.v1.SessionService".into());
    let ask = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(symbol) };
    let answer = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
    let answer = within("an answer", answer.into_inner().message()).await;
    let Some(v1alpha::server_reflection_response::MessageResponse::FileDescriptorResponse(file)) =
        answer.unwrap().unwrap().message_response
    else {
        panic!("no file")
    };
    assert!(!file.file_descriptor_proto.is_empty());
}

/// The files that reflection answers one request with, and what each takes.
async fn reflected(server: &TestServer, request: MessageRequest) -> Vec<(usize, FileDescriptorProto)> {
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
    let asked = format!("{request:?}");
    let mut client = ServerReflectionClient::new(server.channel.clone());
    let ask = tonic_reflection::pb::v1::ServerReflectionRequest { host: String::new(), message_request: Some(request) };
    let answers = client.server_reflection_info(tokio_stream::iter([ask])).await.unwrap();
    let answer = within(&asked, answers.into_inner().message()).await.unwrap().unwrap();
    let Some(MessageResponse::FileDescriptorResponse(files)) = answer.message_response else {
        panic!("{asked}: {answer:?}")
    };
    let file = |bytes: Vec<u8>| (bytes.len(), FileDescriptorProto::decode(bytes.as_slice()).unwrap());
    files.file_descriptor_proto.into_iter().map(file).collect()
}

/// Every file by name, as a client gets to them that follows imports.
async fn all_reflected(server: &TestServer, symbols: &[&str]) -> BTreeMap<String, (usize, FileDescriptorProto)> {
    let mut wanted: Vec<_> = symbols.iter().map(|name| MessageRequest::FileContainingSymbol((*name).into())).collect();
    let mut found = BTreeMap::new();
    // Files import files; no chain of ours is longer.
    for _ in 0..8 {
        for request in std::mem::take(&mut wanted) {
            for (bytes, file) in reflected(server, request).await {
                let imports = file.dependency.iter().filter(|import| !found.contains_key(*import));
                wanted.extend(imports.cloned().map(MessageRequest::FileByFilename));
                found.insert(file.name().to_owned(), (bytes, file));
            }
        }
    }
    assert!(wanted.is_empty(), "{wanted:?}");
    found
}

/// What clients show: the contract's documentation, and the details of errors as what they are.
#[tokio::test]
async fn reflection_serves_comments_and_the_types_of_error_details() {
    let server = TestServer::start().await;
    let mut symbols =
        vec!["google.rpc.Status", "google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo"];
    symbols.extend(["sidle.v1.AuthenticateService", "sidle.v1.SessionService", "sidle.v1.AuditService"]);
    symbols.extend(["sidle.v1.MigrationService", "sidle.v1.DirectoryService", "sidle.v1.Reason"]);
    let files = all_reflected(&server, &symbols).await;
    for name in ["google/rpc/status.proto", "google/rpc/error_details.proto", "google/protobuf/any.proto"] {
        assert!(files.contains_key(name), "{name} in {:?}", files.keys());
    }
    for (name, (bytes, file)) in &files {
        assert!(*bytes < 512 * 1024, "{name} takes {bytes} bytes: clients read messages of 4 MiB");
        let places = file.source_code_info.as_ref().map(|info| info.location.as_slice()).unwrap_or_default();
        if !name.starts_with("sidle/") {
            assert!(places.is_empty(), "{name}: comments of others stay out");
            continue;
        }
        for (at, service) in file.service.iter().enumerate() {
            for (method, rpc) in service.method.iter().enumerate() {
                let path = [6, i32::try_from(at).unwrap(), 2, i32::try_from(method).unwrap()];
                let comment = places.iter().find(|place| place.path == path).map(|place| place.leading_comments());
                assert!(comment.is_some_and(|text| text.len() > 20), "{name}: {} has its comment", rpc.name());
            }
        }
    }
}

#[tokio::test]
async fn reflection_asks_for_a_login_unless_it_is_open() {
    use tonic_reflection::pb::v1;
    let server = Setup::new().await.with("SERVER__OPEN_REFLECTION", "false").start().await;
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(server.channel.clone());
    let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
    let ask = v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let refused = client.server_reflection_info(tokio_stream::iter([ask])).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated);
}

/// With a login reflection answers, on both versions; an invalid token counts as none.
#[tokio::test]
async fn reflection_answers_who_has_signed_in() {
    use tonic_reflection::pb::{v1, v1alpha};
    let server = Setup::new().await.with("SERVER__OPEN_REFLECTION", "false").start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, "ann@harbour.example", "user").await;
    let token = server.sign_in("ann@harbour.example").await.access_token;
    for (token, answers) in [(token.as_str(), true), ("not.a.token", false), ("", false)] {
        let bearer = crate::support::server::Bearer::new(token);
        let channel = tonic::service::interceptor::InterceptedService::new(server.channel.clone(), bearer);
        let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
        let list = v1::server_reflection_request::MessageRequest::ListServices(String::new());
        let ask = v1::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
        assert_eq!(client.server_reflection_info(tokio_stream::iter([ask])).await.is_ok(), answers, "{token}");
        let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
        let list = v1alpha::server_reflection_request::MessageRequest::ListServices(String::new());
        let ask = v1alpha::ServerReflectionRequest { host: String::new(), message_request: Some(list) };
        assert_eq!(client.server_reflection_info(tokio_stream::iter([ask])).await.is_ok(), answers, "{token}");
    }
}

/// Public pages are on a port that serves nothing else.
#[tokio::test]
async fn keys_can_be_published_apart_from_the_metrics() {
    let setup = Setup::new().await.with("SERVER__PUBLIC_ADDRESS", "127.0.0.1:0");
    let config = sidle::config::Config::load(None, setup.environment().clone()).unwrap();
    let app = sidle::app::App::new(config, sidle::context::Context::system()).await.unwrap();
    let running = app.start().await.unwrap();
    let public = format!("http://{}", running.public_address.expect("it was asked for"));
    let (status, keys) = get(&format!("{public}/.well-known/jwks.json")).await;
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(status, 200);
    assert!(!keys["keys"].as_array().unwrap().is_empty() && !keys.to_string().contains("\"d\""), "{keys}");
    let (status, health) = get(&format!("{public}/healthz")).await;
    assert_eq!((status, health.as_str()), (200, r#"{"status":"healthy"}"#), "no figures, no version");
    for page in ["metrics", "readyz", "", "debug", ".well-known/", "metrics/../metrics", "%6detrics"] {
        assert_eq!(get(&format!("{public}/{page}")).await.0, 404, "{page}");
    }
    running.stop().await.unwrap();
    assert!(TestServer::start().await.app().config.server.public_address.is_none(), "off unless asked for");
}

/// The address that a session records, with headers that a client might forge: (proxies, headers, recorded).
#[tokio::test]
async fn the_address_of_a_client_is_not_what_it_says() {
    for (proxies, headers, noted) in [
        ("", &["198.51.100.7"][..], "127.0.0.1"),
        ("192.0.2.1", &["198.51.100.7"], "127.0.0.1"),
        // Behind a proxy: what the proxy appended counts, not what the client had put before it.
        ("127.0.0.1", &["203.0.113.66, 198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1", &["203.0.113.66", "198.51.100.7"], "198.51.100.7"),
        ("127.0.0.1,192.0.2.1", &["203.0.113.66, 198.51.100.7, 192.0.2.1"], "198.51.100.7"),
        ("127.0.0.1,192.0.2.1", &["198.51.100.7, ::ffff:192.0.2.1"], "198.51.100.7"),
        ("127.0.0.0/8,192.0.2.0/24", &["198.51.100.7, ::ffff:192.0.2.9, 192.0.2.3"], "198.51.100.7"),
        ("192.0.2.0/24", &["198.51.100.7"], "127.0.0.1"),
        ("127.0.0.1", &["198.51.100.7, unknown"], "127.0.0.1"),
        ("127.0.0.1", &["198.51.100.7, 203.0.113.66:99"], "127.0.0.1"),
        ("127.0.0.1", &[""], "127.0.0.1"),
        ("127.0.0.1", &["127.0.0.1"], "127.0.0.1"),
    ] {
        let server = Setup::new().await.with("SERVER__TRUSTED_PROXIES", proxies).start().await;
        let tenant = server.tenant("harbour").await;
        server.user(tenant, "ann@harbour.example", "user").await;
        let mut request = Request::new(proto::AuthenticatePasswordRequest {
            identifier: "ann@harbour.example".to_owned(),
            password: crate::support::ADMIN_PASSWORD.to_owned(),
            ..Default::default()
        });
        for value in headers {
            request.metadata_mut().append("x-forwarded-for", value.parse().unwrap());
        }
        // Other headers that some programs trust.
        for name in ["x-real-ip", "forwarded", "x-client-ip", "true-client-ip"] {
            request.metadata_mut().insert(name, "203.0.113.99".parse().unwrap());
        }
        server.client("").authenticate.authenticate_password(request).await.unwrap();
        let stored: String =
            sqlx::query_scalar("SELECT host(ip_address) FROM sessions").fetch_one(server.sql()).await.unwrap();
        assert_eq!(stored, noted, "{proxies}: {headers:?}");
    }
}

/// A plain HTTP/1.1 GET: status and body.
pub(crate) async fn get(url: &str) -> (u16, String) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (_, rest) = url.split_once("://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = tokio::net::TcpStream::connect(host).await.unwrap();
    let request = format!("GET /{path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    within("the answer", stream.read_to_string(&mut answer)).await.unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer.split_once("\r\n\r\n").unwrap().1.to_owned())
}

#[tokio::test]
async fn the_pages_for_operators_tell_how_it_is() {
    let server = TestServer::start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, "ann@harbour.example", "user").await;
    server.sign_in("ann@harbour.example").await;

    let (status, health) = get(&format!("{}/healthz", server.ops_url())).await;
    let health: serde_json::Value = serde_json::from_str(&health).unwrap();
    assert_eq!(status, 200);
    assert_eq!(health["database"]["status"], "healthy");
    for figure in ["size", "checked_in", "checked_out", "overflow"] {
        assert!(health["database"]["pool_stats"][figure].is_u64(), "{figure}");
    }
    let (status, ready) = get(&format!("{}/readyz", server.ops_url())).await;
    assert_eq!(status, 200, "{ready}");

    let (_, metrics) = get(&format!("{}/metrics", server.ops_url())).await;
    for name in ["sidle_user_login_attempts_total", "sidle_database_connections", "sidle_user_sessions_active"] {
        assert!(metrics.contains(name), "{name}");
    }
    assert!(!metrics.contains("harbour.example"), "nothing personal among the metrics");

    let (status, keys) = get(&format!("{}/.well-known/jwks.json", server.ops_url())).await;
    let keys: serde_json::Value = serde_json::from_str(&keys).unwrap();
    assert_eq!(status, 200);
    assert!(!keys["keys"].as_array().unwrap().is_empty() && !keys.to_string().contains("\"d\""), "{keys}");
}

#[tokio::test]
async fn tls_is_served_when_configured_and_needed_unless_plaintext_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let setup = Setup::new()
        .await
        .with("SERVER__PLAINTEXT", "false")
        .with("SERVER__TLS_CERTIFICATE", &certificate.to_string_lossy())
        .with("SERVER__TLS_KEY", &key.to_string_lossy());
    let config = sidle::config::Config::load(None, setup.environment().clone()).unwrap();
    let app = sidle::app::App::new(config, sidle::context::Context::system()).await.unwrap();
    let running = app.start().await.unwrap();

    let authority = tonic::transport::Certificate::from_pem(issued.cert.pem());
    let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
    let url = format!("https://{}", running.grpc_address);
    let channel =
        tonic::transport::Endpoint::from_shared(url).unwrap().tls_config(tls).unwrap().connect().await.unwrap();
    let mut client = proto::authenticate_service_client::AuthenticateServiceClient::new(channel);
    client.get_jwks(proto::GetJwksRequest {}).await.expect("answers over TLS");

    let plain = tonic::transport::Endpoint::from_shared(format!("http://{}", running.grpc_address)).unwrap();
    let plain = plain.timeout(Duration::from_secs(5)).connect().await;
    if let Ok(channel) = plain {
        let mut client = proto::authenticate_service_client::AuthenticateServiceClient::new(channel);
        client.get_jwks(proto::GetJwksRequest {}).await.expect_err("not without TLS");
    }
    running.stop().await.unwrap();
}
