//! Unfinished calls: each holds a permit of concurrent calls, and no caller gets all of them.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::future::join_all;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use sidle::proto;
use tonic::codegen::http::HeaderValue;

use super::{PATIENCE, connect_from, port_of};
use crate::bounds::{JWKS, WHO, request, status_of};
use crate::support::process::Process;
use crate::support::{Setup, TestServer, eventually};

const CHECK: &str = "/grpc.health.v1.Health/Check";

/// A connection from this address.
async fn from(own: &str, server: &TestServer) -> SendRequest<Bytes> {
    from_to(own, port_of(server)).await
}

async fn from_to(own: &str, to: SocketAddr) -> SendRequest<Bytes> {
    let (send, connection) = h2::client::handshake(connect_from(own, to).await).await.unwrap();
    tokio::spawn(connection);
    send
}

/// Begins so many calls, with this access token where there is one, and sends nothing of any request.
async fn begin(
    send: &SendRequest<Bytes>,
    path: &str,
    token: Option<&str>,
    count: usize,
) -> (Vec<ResponseFuture>, Vec<SendStream<Bytes>>) {
    let mut begun = Vec::new();
    for _ in 0..count {
        let mut request = request(path);
        if let Some(token) = token {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        let mut ready = send.clone().ready().await.unwrap();
        begun.push(ready.send_request(request, false).unwrap());
    }
    begun.into_iter().unzip()
}

/// The status of the next call that is answered, and the others.
async fn next(answers: Vec<ResponseFuture>) -> (String, Vec<ResponseFuture>) {
    let answered = tokio::time::timeout(PATIENCE, futures_util::future::select_all(answers)).await;
    let (answer, _, others) = answered.expect("one is answered");
    (status(answer), others)
}

fn status(answer: Result<tonic::codegen::http::Response<h2::RecvStream>, h2::Error>) -> String {
    let status = answer.unwrap().headers().get("grpc-status").map(HeaderValue::as_bytes).unwrap_or_default().to_vec();
    String::from_utf8(status).unwrap()
}

/// Of sixteen permits eight are for calls without a login, two of these for one address.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_address_leave_places_to_strangers_elsewhere() {
    let server = Setup::new().await.with("SERVER__MAX_CONCURRENT_CALLS", "16").start().await;
    let (one, two) = (from("127.0.0.2", &server).await, from("127.0.0.2", &server).await);
    let (mut answers, _held) = begin(&one, JWKS, None, 4).await;
    let (more, _held_too) = begin(&two, JWKS, None, 4).await;
    answers.extend(more);
    for _ in 0..6 {
        let (turned_away, others) = next(answers).await;
        assert_eq!(turned_away, "8");
        answers = others;
    }
    let mut elsewhere = from("127.0.0.3", &server).await;
    assert_eq!(status_of(&mut elsewhere, request(JWKS), &[0; 5]).await.as_deref(), Some("0"));
    // Signed-in callers have the rest of the address's permits.
    let tenant = server.tenant("harbour").await;
    server.user(tenant, "ann@harbour.example", "user").await;
    let token = server.sign_in("ann@harbour.example").await.access_token;
    let mut beside = from("127.0.0.2", &server).await;
    let mut who = request(WHO);
    who.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
    assert_eq!(status_of(&mut beside, who, &[0; 5]).await.as_deref(), Some("0"));
    assert_eq!(answers.len(), 2, "two are held");
}

/// One account with many addresses is one caller: it gets a quarter of the permits.
#[tokio::test(flavor = "multi_thread")]
async fn calls_of_one_caller_leave_places_to_others_wherever_they_come_from() {
    let server = Setup::new().await.with("SERVER__MAX_CONCURRENT_CALLS", "16").start().await;
    let tenant = server.tenant("harbour").await;
    for email in ["ann@harbour.example", "bob@harbour.example"] {
        server.user(tenant, email, "user").await;
    }
    let token = server.sign_in("ann@harbour.example").await.access_token;
    let bob = server.client(&server.sign_in("bob@harbour.example").await.access_token);
    let (mut answers, mut held) = (Vec::new(), Vec::new());
    for own in ["127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5"] {
        let (more, open) = begin(&from(own, &server).await, WHO, Some(&token), 4).await;
        answers.extend(more);
        held.extend(open);
    }
    for _ in 0..12 {
        let (turned_away, others) = next(answers).await;
        assert_eq!(turned_away, "8");
        answers = others;
    }
    bob.authenticate.clone().who_am_i(proto::WhoAmIRequest {}).await.expect("others have their places");
    assert_eq!((answers.len(), held.len()), (4, 16), "four are held");
}

/// A probe gets a permit and an answer whatever one address does; and a call that is never completed loses its permit.
#[tokio::test(flavor = "multi_thread")]
async fn health_checks_without_a_request_keep_no_probe_out() {
    let server = TestServer::start().await;
    let mut attacker = from("127.0.0.2", &server).await;
    let (answers, held) = begin(&attacker, CHECK, None, 128).await;
    // Everything sent before has arrived.
    assert_eq!(status_of(&mut attacker, request(JWKS), &[0; 5]).await.as_deref(), Some("0"));
    let mut prober = from("127.0.0.1", &server).await;
    assert_eq!(status_of(&mut prober, request(CHECK), &[0; 5]).await.as_deref(), Some("0"));
    let answered = tokio::time::timeout(PATIENCE, join_all(answers)).await.expect("an answer to each");
    let statuses: Vec<String> = answered.into_iter().map(status).collect();
    let count = |wanted: &str| statuses.iter().filter(|status| *status == wanted).count();
    assert_eq!(count("4") + count("8"), held.len(), "too late or too many: {statuses:?}");
    assert!(count("8") > 0, "one address has a few at once");
    assert_eq!(status_of(&mut attacker, request(CHECK), &[0; 5]).await.as_deref(), Some("0"), "and has them again");
}

/// Refusals do not fill the log: one address gets 60 lines at once and then one a second, and the next line says how many were
/// left out.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_turned_away_do_not_fill_the_log() {
    let server = Process::start(&Setup::new().await.with("SERVER__MAX_CONCURRENT_CALLS", "16")).await;
    let begun = std::time::Instant::now();
    let mut send = from_to("127.0.0.2", server.address.parse().unwrap()).await;
    let (mut answers, held) = begin(&send, JWKS, None, 8).await;
    // The two that were first have the address's permits from then on.
    for _ in 0..6 {
        let (turned_away, others) = next(answers).await;
        assert_eq!(turned_away, "8");
        answers = others;
    }
    let flood = async {
        for _ in 0..300 {
            assert_eq!(status_of(&mut send, request(JWKS), &[0; 5]).await.as_deref(), Some("8"));
        }
    };
    tokio::time::timeout(PATIENCE, flood).await.expect("they are turned away");
    // Another address has lines of its own.
    let other = from_to("127.0.0.3", server.address.parse().unwrap()).await;
    let (others, _held) = begin(&other, JWKS, None, 3).await;
    let (turned_away, others) = next(others).await;
    assert_eq!(turned_away, "8");
    let lines = eventually("its line is written", async || {
        let lines = server.logged("call_unavailable");
        lines.last().is_some_and(|line| line["address"] == "127.0.0.3").then_some(lines)
    })
    .await;
    let left_out: u64 = lines.iter().filter_map(|line| line["left_out"].as_u64()).sum();
    assert_eq!(lines.len() as u64 + left_out, 307, "each is written or counted");
    assert!(lines.len() as u64 <= 62 + begun.elapsed().as_secs(), "{} lines", lines.len());
    assert!(lines.iter().all(|line| line["reason"] == "OVERLOADED"));
    assert_eq!(others.len(), 2, "two are held");
    assert_eq!((answers.len(), held.len()), (2, 8), "two are held");
}
