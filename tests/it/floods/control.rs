//! Control frames without effect, requests that are not gRPC, and connections that never begin.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::ServerName;
use sidle::app::App;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::{Method, Request};

use super::{PATIENCE, counted, port_of};
use crate::bounds::{JWKS, PREFACE, connect, frame, headers, is_served, request, status_of};
use crate::support::{Setup, TestServer, within};

/// Kind, stream and payload of frames that an attacker sends again and again.
fn floods() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("PING", frame(6, 0, 0, &[7; 8])),
        ("SETTINGS", frame(4, 0, 0, &[])),
        ("PRIORITY", frame(2, 0, 101, &[0, 0, 0, 0, 16])),
        ("WINDOW_UPDATE", frame(8, 0, 0, &[0, 0, 0, 1])),
        ("an unknown kind", frame(0xbe, 0, 0, &[])),
        ("empty DATA", frame(0, 0, 1, &[])),
    ]
}

/// Sends a flood over a connection on which a call was begun, and returns whether the server tolerates it.
async fn survives(stream: impl AsyncRead + AsyncWrite, flood: &[u8]) -> bool {
    let (mut from, mut to) = tokio::io::split(stream);
    let begin = [PREFACE, &frame(4, 0, 0, &[]), &frame(1, 0x4, 1, &headers(JWKS))].concat();
    to.write_all(&begin).await.unwrap();
    // Whatever it answers is read, so that nothing stops it from reading on.
    let answers = async {
        let mut rest = Vec::new();
        let _ = from.read_to_end(&mut rest).await;
    };
    let flood = async {
        let many = flood.repeat(1_000);
        for _ in 0..200 {
            if to.write_all(&many).await.is_err() {
                return false;
            }
        }
        true
    };
    tokio::pin!(answers);
    let sent = tokio::select! {
        () = &mut answers => false,
        sent = flood => sent,
    };
    // All of it may be in the buffers of two sockets: what counts is whether the server closes.
    sent && tokio::time::timeout(PATIENCE, answers).await.is_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_control_frames_ends_its_connection_and_no_other() {
    let server = TestServer::start().await;
    for (closed, (name, flood)) in (1..).zip(floods()) {
        let stream = TcpStream::connect(port_of(&server)).await.unwrap();
        assert!(!survives(stream, &flood).await, "the server puts up with a flood of {name}");
        let series = "sidle_connections_refused_total{why=\"control_frames\"}";
        // The library has a bound of its own for empty data, and may reach it first.
        assert!(counted(&server, series) >= closed - u64::from(name == "empty DATA"), "{name}");
        assert!(is_served(&server).await, "{name}");
    }
}

/// A client that pings with every call to measure bandwidth, as clients do, does not count as a flood.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_gets_something_done_may_send_control_frames() {
    let server = TestServer::start().await;
    let stream = TcpStream::connect(port_of(&server)).await.unwrap();
    let (mut send, mut connection) = h2::client::handshake(stream).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let connection = tokio::spawn(connection);
    for number in 0..1_500 {
        pings.ping(h2::Ping::opaque()).await.unwrap_or_else(|error| panic!("after {number} calls: {error}"));
        assert_eq!(status_of(&mut send, request(JWKS), &[0; 5]).await.as_deref(), Some("0"), "call {number}");
    }
    assert!(!connection.is_finished());
}

/// A server with TLS.
struct Secured {
    app: App,
    address: SocketAddr,
    running: Option<sidle::app::Running>,
    connector: TlsConnector,
    _folder: tempfile::TempDir,
}

impl Secured {
    async fn start(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        std::fs::write(&certificate, issued.cert.pem()).unwrap();
        std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
        let mut setup = Setup::new().await.with("SERVER__PLAINTEXT", "false");
        setup = setup.with("SERVER__TLS_CERTIFICATE", &certificate.to_string_lossy());
        setup = setup.with("SERVER__TLS_KEY", &key.to_string_lossy());
        for (key, value) in settings {
            setup = setup.with(key, value);
        }
        let config = sidle::config::Config::load(None, setup.environment().clone()).unwrap();
        let app = App::new(config, sidle::context::Context::system()).await.unwrap();
        let running = app.clone().start().await.unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        tls.alpn_protocols.push(b"h2".to_vec());
        let connector = TlsConnector::from(Arc::new(tls));
        Self { app, address: running.grpc_address, running: Some(running), connector, _folder: folder }
    }

    async fn connect(&self) -> tokio_rustls::client::TlsStream<TcpStream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        self.connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.unwrap()
    }

    async fn stop(mut self) {
        self.running.take().unwrap().stop().await.unwrap();
    }
}

/// Inside TLS as well, where a wrapper around the socket would not see the frames.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_control_frames_inside_tls_ends_its_connection() {
    let server = Secured::start(&[]).await;
    for (name, flood) in floods().into_iter().take(3) {
        assert!(!survives(server.connect().await, &flood).await, "the server puts up with a flood of {name}");
    }
    let page = server.app.metrics.render().unwrap();
    assert!(page.contains("sidle_connections_refused_total{why=\"control_frames\"} 3"), "{page}");
    let (mut send, connection) = h2::client::handshake(server.connect().await).await.unwrap();
    tokio::spawn(connection);
    assert_eq!(status_of(&mut send, request(JWKS), &[0; 5]).await.as_deref(), Some("0"));
    drop(send);
    server.stop().await;
}

/// A few bytes from time to time do not keep a connection open that never begins to speak HTTP/2.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_does_not_begin_in_time_is_closed() {
    let server = Setup::new().await.with("SERVER__HANDSHAKE_TIMEOUT", "500ms").start().await;
    let (mut lives, _connection) = connect(&server).await;
    for said in [&b""[..], b"PRI * HTTP", PREFACE, &[PREFACE, &[0, 0, 0, 4]].concat()] {
        let mut silent = TcpStream::connect(port_of(&server)).await.unwrap();
        silent.write_all(said).await.unwrap();
        let gone = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut Vec::new())).await;
        gone.unwrap_or_else(|_| panic!("kept although it said no more than {said:?}")).ok();
    }
    assert!(counted(&server, "sidle_connections_refused_total{why=\"preface\"}") >= 4);
    assert_eq!(status_of(&mut lives, request(JWKS), &[0; 5]).await.as_deref(), Some("0"), "who has begun may be idle");

    let secured = Secured::start(&[("SERVER__HANDSHAKE_TIMEOUT", "500ms")]).await;
    let mut silent = TcpStream::connect(secured.address).await.unwrap();
    let mut after_tls = secured.connect().await;
    let (mut one, mut other) = (Vec::new(), Vec::new());
    let _ = within("before TLS and after it", async {
        tokio::join!(silent.read_to_end(&mut one), after_tls.read_to_end(&mut other))
    })
    .await;
    secured.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_grpc_is_told_so_as_http_says() {
    let server = TestServer::start().await;
    let (send, _connection) = connect(&server).await;
    let calls = counted(&server, "sidle_calls_total{method=\"/sidle.v1.AuthenticateService/GetJwks\",code=\"OK\"}");
    let ask = async |method: Method, content_type: Option<&str>| {
        let mut request = Request::builder().method(method).uri(format!("http://sidle{JWKS}"));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let mut ready = send.clone().ready().await.unwrap();
        let (answer, mut stream) = ready.send_request(request.body(()).unwrap(), false).unwrap();
        // Refused, perhaps before it was read.
        let _ = stream.send_data(bytes::Bytes::from_static(&[0; 5]), true);
        let answer = within("an answer", answer).await.unwrap();
        (answer.status().as_u16(), answer.headers().contains_key("grpc-status"))
    };
    let form = "application/x-www-form-urlencoded";
    for content_type in [None, Some("text/plain"), Some(form), Some("application/json"), Some("application/grpc-web")] {
        assert_eq!(ask(Method::POST, content_type).await, (415, false), "{content_type:?}");
    }
    for method in [Method::GET, Method::PUT, Method::OPTIONS] {
        assert_eq!(ask(method, Some("application/grpc")).await, (405, false));
    }
    let mut request = request(JWKS);
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    assert_eq!(status_of(&mut send.clone(), request, &[0; 5]).await.as_deref(), Some("0"));
    assert_eq!(counted(&server, "sidle_requests_not_grpc_total{status=\"415\"}"), 5);
    assert_eq!(counted(&server, "sidle_requests_not_grpc_total{status=\"405\"}"), 3);
    let after = counted(&server, "sidle_calls_total{method=\"/sidle.v1.AuthenticateService/GetJwks\",code=\"OK\"}");
    assert_eq!(after, calls + 1, "only the one that was gRPC is a call");
}
