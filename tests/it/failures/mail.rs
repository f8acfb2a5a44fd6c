//! A mail server that cannot be used, tried with `sidle mail test`, and messages that cannot be made.

use super::fakes::{Certificate, Fake, closed_port};
use super::{Attempt, PASSWORD};

const TEST: [&str; 3] = ["mail", "test", "ann@example.com"];

fn attempt(host: &str, port: u16, tls: &str) -> Attempt {
    Attempt::new()
        .with("MAIL__HOST", host)
        .with("MAIL__PORT", &port.to_string())
        .with("MAIL__TLS", tls)
        .with("MAIL__FROM", "sidle@example.com")
        .with("MAIL__ORIGIN", "https://accounts.example.com")
        .with("MAIL__TIMEOUT", "2s")
        .word(port, "PORT")
}

#[tokio::test]
async fn a_mail_server_that_cannot_be_reached_is_named_with_the_cause() {
    attempt("localhost", closed_port(), "none").says("mail_refused", &TEST).await;
    attempt("no-such-host.invalid", 2525, "tls").with("MAIL__TIMEOUT", "30s").says("mail_unresolvable", &TEST).await;
    let silent = Fake::silent().await;
    attempt("localhost", silent.port, "none").with("MAIL__TIMEOUT", "300ms").says("mail_silent", &TEST).await;
    let closing = Fake::closing().await;
    attempt("localhost", closing.port, "tls").says("mail_closed", &TEST).await;
}

#[tokio::test]
async fn what_is_wrong_with_its_tls_is_told_apart() {
    let certificate = Certificate::new("localhost");
    let server = Fake::tls(&certificate, false).await;
    let other = Certificate::new("localhost");
    let untrusted = attempt("localhost", server.port, "tls").with_file("MAIL__CA_FILE", "ca.pem", &other.pem, 0o644);
    untrusted.says("mail_untrusted", &TEST).await;
    let clear = Fake::saying("220 mx ESMTP\r\n250 mx\r\n").await;
    attempt("localhost", clear.port, "tls").says("mail_without_tls", &TEST).await;
    let web = Fake::saying("HTTP/1.1 400 Bad Request\r\n\r\n").await;
    attempt("localhost", web.port, "starttls").says("mail_of_another_protocol", &TEST).await;
    let smtp = crate::mail::smtp().await;
    attempt("localhost", smtp.port, "starttls").says("mail_without_starttls", &TEST).await;
}

#[tokio::test]
async fn settings_and_templates_of_mail_are_refused_by_name() {
    Attempt::new().says("mail_not_configured", &TEST).await;
    let plain = attempt("mail.example.com", 587, "none");
    plain.says("mail_in_plaintext", &TEST).await;
    let secret = attempt("localhost", 587, "none").with("MAIL__USERNAME", "sidle").with("MAIL__PASSWORD", PASSWORD);
    secret.says("mail_password_in_plaintext", &TEST).await;
    let broken = attempt("localhost", 587, "none");
    broken.file("password_reset.txt", "Subject: Hello\n{{ nothing }}\n", 0o644);
    let folder = broken.home.path().to_string_lossy().into_owned();
    broken.with("MAIL__TEMPLATES", &folder).says("start_template_broken", &["serve"]).await;
}

/// Looking at a message needs no server for it.
#[tokio::test]
async fn a_message_is_shown_without_a_mail_server() {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidle"));
    let shown = command.args(["mail", "preview", "password_reset"]).env_clear().output().await.unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.status.success() && text.starts_with("Subject: ") && text.contains("#token="), "{text}");
}
