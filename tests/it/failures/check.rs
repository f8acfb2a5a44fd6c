//! `sidle config check`: everything that is wrong, not only the first of it.

use serde_json::Value;

use super::fakes::{Certificate, Fake, closed_port};
use super::{Attempt, OTHER_KEY, PASSWORD};
use crate::support::{Setup, kanidm};

const CHECK: [&str; 2] = ["config", "check"];

#[tokio::test]
async fn everything_that_is_wrong_is_reported_together() {
    let (one, other) = (Certificate::new("localhost"), Certificate::new("localhost"));
    let (postgres, idm, smtp) = (closed_port(), closed_port(), closed_port());
    let attempt = Attempt::new()
        .with("SERVER__PLAINTEXT", "false")
        .with_file("SERVER__TLS_CERTIFICATE", "tls.crt", &one.pem, 0o644)
        .with_file("SERVER__TLS_KEY", "tls.key", &other.key, 0o600)
        .without("SEAL__KEYS")
        .with_file("SEAL__KEY_FILE", "seal.key", &format!("1:{OTHER_KEY}\n"), 0o644)
        .with("DATABASE__URL", &format!("postgres://sidle_app:{PASSWORD}@127.0.0.1:{postgres}/sidle"))
        .with("KANIDM__URL", &format!("http://localhost:{idm}"))
        .with("KANIDM__TOKEN", PASSWORD)
        .with("MAIL__HOST", "localhost")
        .with("MAIL__PORT", &smtp.to_string())
        .with("MAIL__TLS", "none")
        .with("MAIL__FROM", "sidle@example.com")
        .with("MAIL__ORIGIN", "https://accounts.example.com")
        .word(postgres, "PORT")
        .word(idm, "PORT")
        .word(smtp, "PORT");
    attempt.says("check_everything", &CHECK).await;
    attempt.says("check_everything_offline", &["config", "check", "--offline"]).await;
    attempt.says("check_everything_as_json", &["config", "check", "--output", "json"]).await;
}

#[tokio::test]
async fn a_kanidm_that_cannot_be_used_is_told_with_the_cause() {
    let setup = Setup::new().await;
    let attempt = |url: &str| Attempt::of(&setup).with("KANIDM__URL", url).with("KANIDM__TOKEN", PASSWORD);
    let port = closed_port();
    attempt(&format!("https://localhost:{port}")).word(port, "HTTPS").says("check_kanidm_refused", &CHECK).await;
    attempt("https://no-such-host.invalid").says("check_kanidm_unresolvable", &CHECK).await;
    let server = Fake::tls(&Certificate::new("localhost"), false).await;
    let untrusted = attempt(&format!("https://localhost:{}", server.port)).word(server.port, "HTTPS");
    untrusted.says("check_kanidm_untrusted", &CHECK).await;
    let plain = Fake::saying("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let without = attempt(&format!("https://localhost:{}", plain.port)).word(plain.port, "HTTPS");
    without.says("check_kanidm_without_tls", &CHECK).await;
}

#[tokio::test]
async fn a_token_that_kanidm_does_not_take_is_told_from_a_kanidm_that_is_down() {
    let kanidm = kanidm().await;
    let access = kanidm.prepare("https://app.example/callback").await.unwrap();
    let setup = Setup::new().await.with_kanidm(&kanidm, &access);
    let attempt = Attempt::of(&setup).with("KANIDM__TOKEN", "no-token").word(kanidm.url.clone(), "KANIDM");
    attempt.says("check_kanidm_token", &CHECK).await;
}

/// What is right passes, without a change to the database and with nothing sent.
#[tokio::test]
async fn a_configuration_that_is_right_can_be_used() {
    let setup = Setup::new().await;
    let smtp = crate::mail::smtp().await;
    let setup = crate::mail::with_mail(setup, smtp.port);
    let run = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidle"));
        command.args(arguments).env_clear().envs(setup.environment());
        command.output().await.unwrap()
    };
    let ran = run(&CHECK).await;
    let text = String::from_utf8(ran.stdout).unwrap();
    assert!(ran.status.success() && text.ends_with("The configuration can be used.\n"), "{text}");
    let ran = run(&["config", "check", "--output", "json"]).await;
    let told: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((&told["usable"], &told["errors"]), (&true.into(), &serde_json::json!([])), "{told}");
    assert!(smtp.taken().unwrap().is_empty());
}
