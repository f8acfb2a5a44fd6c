//! The section of README.md about other clients.

use uuid::Uuid;

use super::{Place, block};
use crate::support::{Setup, TestServer};

const README: &str = "README.md";
const ANN: &str = "ann@harbour.example";

async fn server() -> TestServer {
    let server = Setup::new().await.start().await;
    let tenant = server.tenant("harbour").await;
    server.user(tenant, ANN, "user").await;
    server
}

/// That a client has signed in, made a call with the token, and shows why another was refused.
fn assert_told(client: &str, said: &str) {
    assert!(said.contains(ANN), "{client} shows who has signed in:\n{said}");
    assert!(said.contains("UNAUTHENTICATED"), "{client} shows the reason of a refusal:\n{said}");
    let has_id = said.split(|c: char| !c.is_ascii_hexdigit() && c != '-').any(|word| Uuid::parse_str(word).is_ok());
    assert!(has_id, "{client} shows ids:\n{said}");
}

#[tokio::test]
async fn grpcurl_signs_in_calls_and_shows_reasons_and_documentation() {
    let server = server().await;
    let said = Place::new(&server, ANN).shell(&block(README, "grpcurl")).await;
    assert_told("grpcurl", &said);
    assert!(said.contains("google.rpc.ErrorInfo") && said.contains(r#""reason":"UNAUTHENTICATED""#), "{said}");
    assert!(said.contains("// Returns the caller's identity"), "the contract's comments:\n{said}");
}

/// Other kinds of detail are shown as well as `ErrorInfo`.
#[tokio::test]
async fn grpcurl_shows_which_field_is_wrong() {
    let server = server().await;
    let place = Place::new(&server, ANN);
    let call = r#"grpcurl -plaintext -d '{"new_password": "x"}' $SIDLE sidle.v1.AuthenticateService/ResetPassword"#;
    let said = place.shell(call).await;
    assert!(said.contains("google.rpc.BadRequest") && said.contains("fieldViolations"), "{said}");
}

/// A refused stream is a refusal to every client, not a broken connection.
#[tokio::test]
async fn grpcurl_is_told_that_reflection_asks_for_a_login() {
    let server = Setup::new().await.with("SERVER__OPEN_REFLECTION", "false").start().await;
    let said = Place::new(&server, ANN).shell("grpcurl -plaintext $SIDLE list").await;
    assert!(said.contains("code = Unauthenticated"), "{said}");
}

#[tokio::test]
async fn buf_signs_in_calls_and_shows_reasons() {
    let server = server().await;
    assert_told("buf", &Place::new(&server, ANN).shell(&block(README, "buf")).await);
}

#[tokio::test]
async fn python_signs_in_calls_and_shows_reasons() {
    let server = server().await;
    let place = Place::new(&server, ANN);
    let generate = block(README, "python stubs");
    let stubs = generate.lines().find(|line| line.contains("grpc_tools.protoc")).expect("how stubs are made");
    assert_eq!(place.shell(stubs).await, "");
    place.file("whoami.py", &block(README, "python"));
    let (code, said) = place.run("python", &["whoami.py"]).await;
    assert_eq!(code, 0, "{said}");
    assert_told("Python", &said);
}

#[tokio::test]
async fn node_signs_in_calls_and_shows_reasons() {
    let server = server().await;
    let place = Place::new(&server, ANN);
    place.file("whoami.js", &block(README, "node"));
    let (code, said) = place.run("node", &["whoami.js"]).await;
    assert_eq!(code, 0, "{said}");
    assert_told("Node", &said);
}
