//! Limits of request bytes: the largest message of an RPC, and budgets for unfinished requests.

use std::future::poll_fn;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use sidle::proto;
use tokio::net::TcpStream;
use tonic::codegen::http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::bounds::{JWKS, WHO, connect, is_served, request, status_of};
use crate::support::process::Process;
use crate::support::server::with_proof;
use crate::support::{Setup, TestServer, until, within};

const IMPORT: &str = "/sidle.v1.MigrationService/ImportUsers";

/// The head of a message that announces so many bytes, and the first of them, which make no message.
fn begun(length: u32, sent: usize) -> Bytes {
    [&[0], length.to_be_bytes().as_slice(), vec![0x07; sent].as_slice()].concat().into()
}

/// Begins a call with `body`, sent as far as flow control lets it, and does not finish it.
async fn begin(send: &mut SendRequest<Bytes>, path: &str, body: Bytes) -> (ResponseFuture, SendStream<Bytes>) {
    begin_as(send, path, body, None).await
}

/// The same with an access token.
async fn begin_as(
    send: &mut SendRequest<Bytes>,
    path: &str,
    body: Bytes,
    token: Option<&str>,
) -> (ResponseFuture, SendStream<Bytes>) {
    let mut ready = send.clone().ready().await.unwrap();
    let mut request = request(path);
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let (answer, mut stream) = ready.send_request(request, false).unwrap();
    // A call that is refused by its head may be over before its body is sent.
    let _ = stream.send_data(body, false);
    (answer, stream)
}

/// Status and reason of an answer that consists of a refusal only.
async fn refusal(answer: ResponseFuture) -> (String, Option<String>) {
    let answer = within("an answer", answer).await.unwrap();
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).map(HeaderValue::as_bytes).map(|value| String::from_utf8_lossy(value).into_owned())
    };
    let status = Status::from_header_map(answer.headers());
    let reason = status.and_then(|status| status.get_details_error_info()).map(|info| info.reason);
    (text(answer.headers(), "grpc-status").unwrap_or_default(), reason)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_over_the_limit_of_its_rpc_is_refused_at_its_length() {
    let server = TestServer::start().await;
    let (mut send, _connection) = connect(&server).await;
    // Five bytes, and the rest never comes.
    for length in [64 * 1024 + 1, 4 << 20, u32::MAX] {
        let (answer, _held) = begin(&mut send, JWKS, begun(length, 0)).await;
        assert_eq!(refusal(answer).await, ("8".to_owned(), Some("MESSAGE_TOO_LARGE".to_owned())), "{length}");
    }
    // The service has read it and finds that it is no valid message.
    let whole = begun(64 * 1024, 64 * 1024);
    assert_eq!(status_of(&mut send, request(JWKS), &whole).await.as_deref(), Some("3"));

    // An anonymous caller is refused as such, and nothing is read, whatever the RPC accepts from others.
    for path in [WHO, IMPORT, "/sidle.v1.AuthenticateService/VerifyTokens"] {
        let (answer, _held) = begin(&mut send, path, begun(4 << 20, 60_000)).await;
        assert_eq!(refusal(answer).await.0, "16", "{path}");
    }
    let admin = server.admin().await;
    let tokens = |count: usize| proto::VerifyTokensRequest {
        tokens: vec!["x".repeat(8 * 1024); count],
        audience: "sidle".to_owned(),
    };
    admin.authenticate.clone().verify_tokens(tokens(256)).await.expect("as large as it may be");
    let refused = admin.authenticate.clone().verify_tokens(tokens(280)).await.expect_err("larger");
    let info = refused.get_details_error_info().unwrap();
    assert_eq!((refused.code(), info.reason.as_str()), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert_eq!(info.metadata["max_request_bytes"], "2228224");
}

/// In a stream each message is limited by itself, the last one like the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_bounded_message_by_message() {
    use proto::import_users_request::Part;
    let server = Setup::new().await.with("SERVER__MAX_MESSAGE_BYTES", "100000").start().await;
    let admin = server.admin().await;
    let part = |part| proto::ImportUsersRequest { part: Some(part) };
    let header = proto::ImportHeader {
        source: "legacy".to_owned(),
        request_id: server.context.new_id().to_string(),
        validate_only: true,
        ..Default::default()
    };
    let rows = |size: usize| {
        let row = proto::ImportRow { email: "x".repeat(size), ..Default::default() };
        part(Part::Rows(proto::ImportRows { rows: vec![row] }))
    };
    let parts = vec![part(Part::Header(header)), rows(90_000), rows(90_000), rows(110_000)];
    let unproven = admin.migration.clone().import_users(tokio_stream::iter(vec![parts[0].clone()])).await.unwrap();
    let asked = within("a refusal", unproven.into_inner().message()).await.expect_err("an import asks for a proof");
    let request = with_proof(tokio_stream::iter(parts), &admin.prove_asked(&asked).await);
    let mut answers = admin.migration.clone().import_users(request).await.unwrap().into_inner();
    let mut verdicts = 0;
    let refused = within("the import ends", async {
        loop {
            match answers.message().await {
                Ok(Some(_)) => verdicts += 1,
                Ok(None) => panic!("it was taken"),
                Err(refused) => break refused,
            }
        }
    })
    .await;
    assert_eq!(verdicts, 2, "{refused:?}");
    assert_eq!(refused.get_details_error_info().unwrap().reason, "MESSAGE_TOO_LARGE");
}

/// The original attack: many anonymous calls, each with most of a large message. The memory of the real program is
/// measured, which had grown by 600 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_calls_of_strangers_take_little_memory() {
    let server = Process::start(&Setup::new().await).await;
    server.client("").authenticate.get_jwks(proto::GetJwksRequest {}).await.unwrap();
    let before = server.resident();
    let mut held = Vec::new();
    let (large, allowed) = (begun(4 << 20, (4 << 20) - 1), begun(64 * 1024, 64 * 1024 - 1));
    for _ in 0..4 {
        let (mut send, connection) =
            h2::client::handshake(TcpStream::connect(&server.address).await.unwrap()).await.unwrap();
        tokio::spawn(connection);
        let mut answers = Vec::new();
        for _ in 0..75 {
            let (answer, stream) = begin(&mut send, JWKS, large.clone()).await;
            answers.push(answer);
            held.push(stream);
        }
        for answer in answers {
            assert_eq!(refusal(answer).await.0, "8");
        }
        // As many as the budget allows are held; the others are refused.
        for _ in 0..75 {
            let (_, stream) = begin(&mut send, JWKS, allowed.clone()).await;
            held.push(stream);
        }
        // Everything sent before has arrived.
        assert_eq!(status_of(&mut send, request(JWKS), &[0; 5]).await.as_deref(), Some("0"));
    }
    let grown = server.resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB for {} unfinished calls", grown >> 20, held.len());
    server.client("").authenticate.get_jwks(proto::GetJwksRequest {}).await.expect("others are served");
    drop(held);
}

/// How the budgets are counted: one address has a quarter, small calls continue, and what is finished is given back.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bytes_of_strangers_are_counted_and_given_back() {
    let setup = Setup::new().await.with("SERVER__MAX_UNFINISHED_BYTES_UNAUTHENTICATED", "262144");
    let server = setup.start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, "ann@harbour.example", "user").await;
    let (mut send, _connection) = connect(&server).await;
    let (mut other, _another) = connect(&server).await;
    // Two of these do not fit into 64 KiB, on whichever connections they are sent: one is refused.
    let (first, mut one) = begin(&mut send, JWKS, begun(60_000, 40_000)).await;
    let (second, mut two) = begin(&mut other, JWKS, begun(60_000, 40_000)).await;
    let answered = futures_util::future::select(Box::pin(refusal(first)), Box::pin(refusal(second)));
    let answered = within("one of them", answered).await.factor_first();
    assert_eq!(answered.0, ("8".to_owned(), Some("TOO_MANY_UNFINISHED_BYTES".to_owned())));
    server.sign_in("ann@harbour.example").await;
    assert!(is_served(&server).await, "small calls are not turned away");

    one.send_reset(h2::Reason::CANCEL);
    two.send_reset(h2::Reason::CANCEL);
    let body = begun(60_000, 60_000);
    // Whole messages of this size are read again as soon as the reset has arrived: 3 is the status of an invalid
    // message.
    until("what was held is given back", async || {
        status_of(&mut send, request(JWKS), &body).await.as_deref() == Some("3")
    })
    .await;
}

/// A signed-in caller has a share as well, over all connections, and others have theirs.
#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bytes_of_one_caller_are_counted_and_others_go_on() {
    let setup = Setup::new().await.with("SERVER__MAX_MESSAGE_BYTES", "65536");
    let server = setup.with("SERVER__MAX_UNFINISHED_BYTES_AUTHENTICATED", "262144").start().await;
    let tenant = server.tenant("harbour").await;
    let mut tokens = Vec::new();
    for email in ["ann@harbour.example", "bob@harbour.example"] {
        server.user(tenant, email, "user").await;
        tokens.push(server.sign_in(email).await.access_token);
    }
    let (mut send, _connection) = connect(&server).await;
    let (mut other, _another) = connect(&server).await;
    let (first, _one) = begin_as(&mut send, WHO, begun(60_000, 40_000), Some(&tokens[0])).await;
    let (second, _two) = begin_as(&mut other, WHO, begun(60_000, 40_000), Some(&tokens[0])).await;
    let answered = futures_util::future::select(Box::pin(refusal(first)), Box::pin(refusal(second)));
    let answered = within("one of them", answered).await.factor_first();
    assert_eq!(answered.0, ("8".to_owned(), Some("TOO_MANY_UNFINISHED_BYTES".to_owned())));
    let mut bobs = request(WHO);
    bobs.headers_mut().insert("authorization", format!("Bearer {}", tokens[1]).parse().unwrap());
    let read = status_of(&mut send, bobs, &begun(60_000, 60_000)).await;
    assert_eq!(read.as_deref(), Some("3"), "read and no message");
}

#[tokio::test(flavor = "multi_thread")]
async fn unfinished_bytes_of_a_connection_are_counted_and_other_connections_go_on() {
    let setup = Setup::new().await.with("SERVER__MAX_MESSAGE_BYTES", "65536");
    let setup = setup.with("SERVER__MAX_UNFINISHED_BYTES_PER_CONNECTION", "65536");
    let server = setup.start().await;
    let (mut send, _connection) = connect(&server).await;
    let (first, _one) = begin(&mut send, JWKS, begun(60_000, 40_000)).await;
    let (second, _two) = begin(&mut send, JWKS, begun(60_000, 40_000)).await;
    let answered = futures_util::future::select(Box::pin(refusal(first)), Box::pin(refusal(second)));
    let answered = within("one of them", answered).await.factor_first();
    assert_eq!(answered.0, ("8".to_owned(), Some("TOO_MANY_UNFINISHED_BYTES".to_owned())));
    let (mut other, _another) = connect(&server).await;
    let body = begun(60_000, 60_000);
    assert_eq!(status_of(&mut other, request(JWKS), &body).await.as_deref(), Some("3"), "read and no message");
}

/// A client is given small flow-control windows, so that little is buffered before it is read.
#[tokio::test(flavor = "multi_thread")]
async fn windows_are_as_small_as_configured() {
    let server = TestServer::start().await;
    let config = &server.app().config.server;
    let (mut send, _connection) = connect(&server).await;
    assert_eq!(status_of(&mut send, request(JWKS), &[0; 5]).await.as_deref(), Some("0"));
    let mut ready = send.clone().ready().await.unwrap();
    let (_answer, mut stream) = ready.send_request(request(JWKS), false).unwrap();
    stream.reserve_capacity(16 << 20);
    let capacity = within("room for more", poll_fn(|cx| stream.poll_capacity(cx))).await;
    let capacity = capacity.unwrap().unwrap();
    assert!(capacity <= config.stream_window_bytes as usize, "{capacity}");
}
