//! Commands that call a service, and find none, or something else in its place.

use super::Attempt;
use super::fakes::{Certificate, Fake, closed_port};
use crate::support::Setup;

const WHOAMI: [&str; 1] = ["whoami"];

fn attempt(server: &str) -> Attempt {
    Attempt::new().env("SIDLE_SERVER", server).env("SIDLE_TOKEN", "token")
}

#[tokio::test]
async fn a_service_that_cannot_be_reached_is_named_with_the_cause() {
    let port = closed_port();
    attempt(&format!("http://127.0.0.1:{port}")).word(port, "PORT").says("call_refused", &WHOAMI).await;
    attempt("https://no-such-host.invalid:50051").says("call_unresolvable", &WHOAMI).await;
    let closing = Fake::closing().await;
    let to = format!("http://127.0.0.1:{}", closing.port);
    attempt(&to).word(closing.port, "PORT").says("call_closed", &WHOAMI).await;
}

#[tokio::test]
async fn a_scheme_or_a_certificate_that_is_wrong_is_told_from_a_service_that_is_down() {
    let certificate = Certificate::new("localhost");
    let tls = Fake::tls(&certificate, false).await;
    let to = |scheme: &str, port: u16| attempt(&format!("{scheme}://localhost:{port}")).word(port, "PORT");
    to("https", tls.port).says("call_untrusted", &WHOAMI).await;
    let plain = Setup::new().await.start().await;
    let port = plain.grpc_url().rsplit_once(':').unwrap().1.parse().unwrap();
    to("https", port).says("call_with_tls_to_none", &WHOAMI).await;
    let named = Fake::tls(&Certificate::new("sidle.example"), false).await;
    let other = to("https", named.port);
    let file = other.file("ca.pem", &Certificate::new("sidle.example").pem, 0o644);
    other.env("SIDLE_CA", &file.to_string_lossy()).says("call_with_another_authority", &WHOAMI).await;
}

#[tokio::test]
async fn an_address_that_must_not_be_called_is_refused() {
    attempt("http://sidle.example.com:50051").says("call_in_plaintext", &WHOAMI).await;
    attempt("sidle.example.com:50051").says("call_without_scheme", &WHOAMI).await;
}
