//! Bounds on what a client can do to a connection: its handshake, streams, resets, headers, messages, compression,
//! depth.

use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use sidle::proto;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tonic::codegen::http::{Request, Response};
use tonic::{Code, Status};

use crate::support::{Setup, TestServer, until, within};

pub(crate) const WHO: &str = "/sidle.v1.AuthenticateService/WhoAmI";
pub(crate) const JWKS: &str = "/sidle.v1.AuthenticateService/GetJwks";

/// An HTTP/2 connection without gRPC over it.
pub(crate) async fn connect(server: &TestServer) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let address = server.grpc_url().replace("http://", "");
    let (send, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    (send, tokio::spawn(connection))
}

pub(crate) fn request(path: &str) -> Request<()> {
    let uri = format!("http://sidle{path}");
    Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(()).unwrap()
}

/// Sends one request with this body and returns the gRPC status that it ends with.
pub(crate) async fn status_of(send: &mut SendRequest<Bytes>, request: Request<()>, body: &[u8]) -> Option<String> {
    let mut ready = send.clone().ready().await.ok()?;
    let (response, mut stream) = ready.send_request(request, false).ok()?;
    // Fails where it was answered, and the stream closed, before this was sent.
    let _ = stream.send_data(Bytes::copy_from_slice(body), true);
    let response: Response<h2::RecvStream> = response.await.ok()?;
    let read = |headers: &tonic::codegen::http::HeaderMap| {
        headers.get("grpc-status").map(|value| value.to_str().unwrap().to_owned())
    };
    if let Some(status) = read(response.headers()) {
        return Some(status);
    }
    let mut body = response.into_body();
    within("the end of the body", async {
        while let Some(Ok(part)) = body.data().await {
            let _ = body.flow_control().release_capacity(part.len());
        }
    })
    .await;
    body.trailers().await.ok().flatten().as_ref().and_then(read)
}

/// Whether another client is served meanwhile.
pub(crate) async fn is_served(server: &TestServer) -> bool {
    server.client("").authenticate.get_jwks(proto::GetJwksRequest {}).await.is_ok()
}

/// The rapid reset of 2023: requests that are cancelled as soon as they are made.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_the_connection_that_sends_it_and_no_other() {
    let server = TestServer::start().await;
    let (send, connection) = connect(&server).await;
    let flood = async {
        for _ in 0..50_000 {
            let Ok(mut ready) = send.clone().ready().await else { return true };
            let Ok((_, mut stream)) = ready.send_request(request(WHO), false) else { return true };
            stream.send_reset(h2::Reason::CANCEL);
        }
        false
    };
    assert!(flood.await, "the server puts up with it");
    let ended = connection.await.unwrap().expect_err("ended by the server");
    assert!(ended.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) || ended.is_io(), "{ended:?}");
    assert!(is_served(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_has_a_bounded_number_of_streams() {
    let server = Setup::new().await.with("SERVER__MAX_STREAMS_PER_CONNECTION", "4").start().await;
    let (mut send, _connection) = connect(&server).await;
    assert_eq!(status_of(&mut send, request(JWKS), &[0, 0, 0, 0, 0]).await.as_deref(), Some("0"));
    assert_eq!(send.current_max_send_streams(), 4, "it is told");

    // A client that ignores that is refused the fifth: handmade frames, none of which completes a call.
    let mut stream = TcpStream::connect(server.grpc_url().replace("http://", "")).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    for id in 0..8u32 {
        stream.write_all(&frame(1, 0x4, 2 * id + 1, &headers(JWKS))).await.unwrap();
    }
    let mut refused = Vec::new();
    let mut seen = Vec::new();
    let looked = tokio::time::timeout(Duration::from_secs(20), async {
        while refused.len() < 4 {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.unwrap();
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await.unwrap();
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            seen.push((head[3], id));
            if head[3] == 3 && payload == [0, 0, 0, 7] {
                refused.push(id);
            }
        }
    });
    assert!(looked.await.is_ok(), "REFUSED_STREAM for four of eight; seen (kind, stream): {seen:?}");
    assert_eq!(refused, [9, 11, 13, 15]);
    assert!(is_served(&server).await);
}

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A request's headers as HPACK encodes them, without the dynamic table.
pub(crate) fn headers(path: &str) -> Vec<u8> {
    let literal = |into: &mut Vec<u8>, text: &str| {
        into.push(u8::try_from(text.len()).unwrap());
        into.extend(text.as_bytes());
    };
    // POST, http, then path and authority by their numbers in the static table.
    let mut block = vec![0x83, 0x86, 0x04];
    literal(&mut block, path);
    block.push(0x01);
    literal(&mut block, "sidle");
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        block.push(0);
        literal(&mut block, name);
        literal(&mut block, value);
    }
    block
}

/// Headers that never end.
#[tokio::test(flavor = "multi_thread")]
async fn endless_headers_end_the_connection_before_they_are_kept() {
    let server = TestServer::start().await;
    let mut stream = TcpStream::connect(server.grpc_url().replace("http://", "")).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    stream.write_all(&frame(1, 0, 1, &headers(WHO))).await.unwrap();
    let mut more = vec![0, 1, b'x', 0x7f, 0x81, 0x7e];
    more.resize(16_384, b'y');
    let mut sent = 0usize;
    within("the connection takes no more, or all of it", async {
        while sent < 256 << 20 && stream.write_all(&frame(9, 0, 1, &more)).await.is_ok() {
            sent += more.len();
        }
    })
    .await;
    // The kernel may still accept what fits into the buffers of two sockets.
    assert!(sent < 64 << 20, "{sent} bytes of headers were taken");
    assert!(is_served(&server).await);
}

#[tokio::test]
async fn headers_over_the_limit_are_refused_and_the_connection_goes_on() {
    let server = TestServer::start().await;
    let (mut send, _connection) = connect(&server).await;
    let mut large = request(JWKS);
    for number in 0..40 {
        let name = tonic::codegen::http::HeaderName::try_from(format!("x-{number}")).unwrap();
        large.headers_mut().insert(name, "y".repeat(1_000).try_into().unwrap());
    }
    let answer = status_of(&mut send, large, &[0, 0, 0, 0, 0]).await;
    assert!(answer.as_deref() != Some("0") && answer.as_deref() != Some("13"), "{answer:?}");
    assert!(is_served(&server).await);
}

/// A length is only announced; no memory is reserved for it.
#[tokio::test]
async fn a_message_that_says_it_is_huge_is_refused_at_its_length() {
    let server = TestServer::start().await;
    let (mut send, _connection) = connect(&server).await;
    for length in [[0xff; 4], [0x7f, 0xff, 0xff, 0xff], [0, 0x40, 0, 1]] {
        let mut body = vec![0];
        body.extend(length);
        body.extend([0; 64]);
        let answer = status_of(&mut send, request(JWKS), &body).await;
        assert!(matches!(answer.as_deref(), Some("3" | "8" | "11")), "{length:?}: {answer:?}");
    }
    assert!(is_served(&server).await);
}

/// Compression is not supported, so that nothing can be small on the wire and large in memory.
#[tokio::test]
async fn a_decompression_bomb_is_not_unpacked() {
    let server = TestServer::start().await;
    let (mut send, _connection) = connect(&server).await;
    for encoding in ["gzip", "deflate", "zstd", "br"] {
        let mut compressed = request(JWKS);
        compressed.headers_mut().insert("grpc-encoding", encoding.try_into().unwrap());
        // gzip's magic number and noise; the flag says that the message is compressed.
        let answer = status_of(&mut send, compressed, &[1, 0, 0, 0, 6, 0x1f, 0x8b, 8, 0, 0, 0]).await;
        assert_eq!(answer.as_deref(), Some("12"), "{encoding}: UNIMPLEMENTED");
    }
}

fn nested(depth: usize) -> prost_types::Struct {
    use prost_types::value::Kind;
    let mut value = prost_types::Value { kind: Some(Kind::NumberValue(1.0)) };
    for level in 0..depth {
        let kind = if level % 2 == 0 {
            Kind::ListValue(prost_types::ListValue { values: vec![value] })
        } else {
            Kind::StructValue(prost_types::Struct { fields: [("a".to_owned(), value)].into() })
        };
        value = prost_types::Value { kind: Some(kind) };
    }
    prost_types::Struct { fields: [("a".to_owned(), value)].into() }
}

/// A field of this number that holds these bytes.
fn wrap(number: u32, bytes: &[u8]) -> Vec<u8> {
    let mut field = Vec::with_capacity(bytes.len() + 8);
    for mut part in [u64::from(number) << 3 | 2, bytes.len() as u64] {
        while part >= 0x80 {
            field.push((part & 0x7f) as u8 | 0x80);
            part >>= 7;
        }
        field.push(part as u8);
    }
    field.extend(bytes);
    field
}

#[tokio::test]
async fn settings_are_bounded_in_depth_and_size() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let create = async |number: usize, settings: prost_types::Struct| -> Result<(), Status> {
        let request = proto::CreateTenantRequest {
            slug: format!("t{number}"),
            name: "x".to_owned(),
            settings: Some(settings),
            ..Default::default()
        };
        admin.directory.clone().create_tenant(request).await.map(drop)
    };
    for depth in [0, 5, 13, 14, 15, 16, 17, 30, 47, 48, 49, 50, 51, 90, 99, 100, 101] {
        match create(depth, nested(depth)).await {
            Ok(()) => assert!(depth < 16, "{depth} levels were taken"),
            Err(status) => {
                assert_eq!(status.code(), Code::InvalidArgument, "{depth}: {status:?}");
                assert!(depth > 5, "{depth} levels were refused");
            }
        }
    }
    // So deep that a client's own encoder would not do it: encoded from the inside out.
    let rpc = crate::dynamic::rpcs().into_iter().find(|rpc| rpc.name() == "CreateTenant").unwrap();
    let settings = rpc.input().get_field_by_name("settings").unwrap().number();
    let token = server.sign_in("root@platform.example").await.access_token;
    for depth in [1_000, 20_000] {
        // A value that is a list of one value, and so on; then the entry of an object.
        let mut value = Vec::new();
        for _ in 0..depth {
            value = wrap(6, &wrap(1, &value));
        }
        let entry = [wrap(1, b"a"), wrap(2, &value)].concat();
        let message = wrap(settings, &wrap(1, &entry));
        let refused = crate::dynamic::send(&server.channel, &rpc, message, &token).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{depth}: {refused:?}");
    }
    let text = |text: String| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text)) };
    let wide = prost_types::Struct { fields: [("a".to_owned(), text("x".repeat(70_000)))].into() };
    assert_eq!(create(1_000, wide).await.unwrap_err().code(), Code::InvalidArgument);
    for bad in [("a\0".to_owned(), text("b".to_owned())), ("a".to_owned(), text("b\0".to_owned()))] {
        let fields = prost_types::Struct { fields: [bad].into() };
        assert_eq!(create(1_001, fields).await.unwrap_err().code(), Code::InvalidArgument, "NUL");
    }
    for number in [f64::NAN, f64::INFINITY] {
        let value = prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(number)) };
        let fields = prost_types::Struct { fields: [("a".to_owned(), value)].into() };
        assert_eq!(create(1_002, fields).await.unwrap_err().code(), Code::InvalidArgument, "{number}");
    }
}

/// More concurrent calls than there are permits: the rest are refused immediately, and none is lost.
#[tokio::test(flavor = "multi_thread")]
async fn calls_over_the_bound_are_turned_away_at_once() {
    let server = Setup::new().await.with("SERVER__MAX_CONCURRENT_CALLS", "2").start().await;
    let (send, _connection) = connect(&server).await;
    // Three calls that are never finished, for two permits: only the last one is answered.
    let (mut answers, mut held) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let mut ready = send.clone().ready().await.unwrap();
        let (answer, stream) = ready.send_request(request(JWKS), false).unwrap();
        answers.push(answer);
        held.push(stream);
    }
    let (answer, ..) = within("RESOURCE_EXHAUSTED", futures_util::future::select_all(answers)).await;
    assert_eq!(answer.unwrap().headers()["grpc-status"], "8");
    for mut stream in held {
        stream.send_reset(h2::Reason::CANCEL);
    }
    until("there is room again", async || is_served(&server).await).await;
}

/// On a port with TLS a connection takes a permit only for a short time before its handshake.
#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_finish_the_handshake_is_let_go_and_others_are_served_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    let setup = Setup::new().await.with("SERVER__PLAINTEXT", "false");
    let setup = setup.with("SERVER__TLS_CERTIFICATE", &certificate.to_string_lossy());
    let setup = setup.with("SERVER__TLS_KEY", &key.to_string_lossy());
    let config = sidle::config::Config::load(None, setup.environment().clone()).unwrap();
    let app = sidle::app::App::new(config, sidle::context::Context::system()).await.unwrap();
    let running = app.start().await.unwrap();
    let serves = async || {
        let authority = tonic::transport::Certificate::from_pem(issued.cert.pem());
        let tls = tonic::transport::ClientTlsConfig::new().ca_certificate(authority).domain_name("localhost");
        let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{}", running.grpc_address)).unwrap();
        let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
        let mut client = proto::authenticate_service_client::AuthenticateServiceClient::new(channel);
        client.get_jwks(proto::GetJwksRequest {}).await.expect("somebody else is served");
    };

    let mut silent = TcpStream::connect(running.grpc_address).await.unwrap();
    // The head of a ClientHello that is never completed.
    let mut halting = TcpStream::connect(running.grpc_address).await.unwrap();
    halting.write_all(&[22, 3, 1, 1, 0]).await.unwrap();
    serves().await;
    let (mut one, mut other) = ([0; 1], [0; 1]);
    let ended =
        within("they are let go", async { tokio::join!(silent.read(&mut one), halting.read(&mut other)) }).await;
    assert!(matches!(ended, (Ok(0) | Err(_), Ok(0) | Err(_))), "{ended:?}");
    serves().await;
    running.stop().await.unwrap();
}

/// Anonymous callers cannot take every permit from signed-in ones: tokens are verified all the while.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_leave_places_to_those_who_have_signed_in() {
    let server = Setup::new().await.with("SERVER__MAX_CONCURRENT_CALLS", "16").start().await;
    let admin = server.admin().await;
    let (mut answers, mut held) = (Vec::new(), Vec::new());
    // Each of eight addresses gets two of the eight anonymous permits.
    for own in 2..10 {
        let stream = crate::floods::connect_from(&format!("127.0.0.{own}"), crate::floods::port_of(&server)).await;
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..2 {
            let mut ready = send.clone().ready().await.unwrap();
            let (answer, stream) = ready.send_request(request(JWKS), false).unwrap();
            answers.push(answer);
            held.push(stream);
        }
    }
    for _ in 0..8 {
        let turned_away = futures_util::future::select_all(answers);
        let (answer, _, others) = within("eight have no place", turned_away).await;
        assert_eq!(answer.unwrap().headers()["grpc-status"], "8");
        answers = others;
    }
    admin.authenticate.clone().who_am_i(proto::WhoAmIRequest {}).await.expect("a place for who has signed in");
    let (mut prober, _probing) = connect(&server).await;
    let health = status_of(&mut prober, request("/grpc.health.v1.Health/Check"), &[0; 5]).await;
    assert_eq!(health.as_deref(), Some("0"), "nor does the replica look dead");
    assert_eq!(held.len(), 16);
}

/// A connection that never begins to speak, or stops, is closed at some time; one that answers pings is not.
#[tokio::test(flavor = "multi_thread")]
async fn who_falls_silent_is_let_go_and_who_lives_is_not() {
    let server = Setup::new().await.with("SERVER__IDLE_TIMEOUT", "600ms").start().await;
    let address = server.grpc_url().replace("http://", "");
    let (mut lives, connection) = connect(&server).await;
    for said in ["", "PRI * HTTP/2.0\r\n"] {
        let mut silent = TcpStream::connect(&address).await.unwrap();
        silent.write_all(said.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        // With or without a GOAWAY.
        within(&format!("its end, after {said:?}"), silent.read_to_end(&mut rest)).await.ok();
    }
    assert!(!connection.is_finished());
    assert_eq!(status_of(&mut lives, request(JWKS), &[0; 5]).await.as_deref(), Some("0"));
}
