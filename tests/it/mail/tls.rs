//! TLS to the mail server: always with a verified certificate, never given up because the server does not offer it.

use std::path::PathBuf;

use sidle::mail::{Kind, Message};
use sidle_dev::smtp::{Options, Smtp};
use tempfile::TempDir;

use super::{with_mail, write};
use crate::support::{Setup, TestServer, until};

/// A certificate for `name` with its key, as files.
pub(super) fn certificate(name: &str) -> (TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let issued = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
    std::fs::write(&certificate, issued.cert.pem()).unwrap();
    std::fs::write(&key, issued.signing_key.serialize_pem()).unwrap();
    (folder, certificate, key)
}

pub(super) async fn secured(tls: &'static str, name: &str, login: Option<&'static str>) -> (Smtp, TempDir, PathBuf) {
    let (folder, certificate, key) = certificate(name);
    let options = Options { tls, certificate: Some((certificate.clone(), key)), login, port: 0 };
    (Smtp::start(options).await.unwrap(), folder, certificate)
}

pub(super) async fn start(port: u16, tls: &str, ca: &std::path::Path) -> Setup {
    with_mail(Setup::new().await, port).with("MAIL__TLS", tls).with("MAIL__CA_FILE", &ca.to_string_lossy())
}

pub(super) async fn until_failed(server: &TestServer, class: &str) {
    let line = format!("mail_failures_total{{class=\"{class}\"}}");
    until(&line, async || server.app().metrics.render().unwrap().contains(&line)).await;
}

#[tokio::test]
async fn messages_go_over_starttls_and_over_tls_with_a_login() {
    for tls in ["starttls", "tls"] {
        let (mut smtp, _folder, ca) = secured(tls, "localhost", Some("sidle:hunter2")).await;
        let setup = start(smtp.port, tls, &ca).await.with("MAIL__USERNAME", "sidle").with("MAIL__PASSWORD", "hunter2");
        let server = setup.start().await;
        write(&server, Message::to_address(Kind::TotpEnabled, None, "ann@letters.example")).await;
        let message = smtp.message().await.unwrap();
        assert!(message.tls && message.login.as_deref() == Some("sidle"), "{tls}: {message:?}");
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_from_other_failures() {
    let (smtp, _folder, ca) = secured("starttls", "localhost", Some("sidle:hunter2")).await;
    let setup = start(smtp.port, "starttls", &ca).await.with("MAIL__USERNAME", "sidle").with("MAIL__PASSWORD", "wrong");
    let server = setup.start().await;
    write(&server, Message::to_address(Kind::TotpEnabled, None, "ann@letters.example")).await;
    until_failed(&server, "login").await;
    assert!(smtp.taken().unwrap().is_empty());
}

/// An attacker in between removes the offer of STARTTLS: nothing may be sent in the clear then.
#[tokio::test]
async fn a_server_that_does_not_offer_starttls_gets_nothing() {
    let smtp = Smtp::start(Options::default()).await.unwrap();
    let (_folder, ca, _) = certificate("localhost");
    let server = start(smtp.port, "starttls", &ca).await.start().await;
    write(&server, Message::to_address(Kind::TotpEnabled, None, "ann@letters.example")).await;
    until_failed(&server, "tls").await;
    assert!(smtp.taken().unwrap().is_empty());
}

#[tokio::test]
async fn a_certificate_of_another_name_or_authority_gets_nothing() {
    for (tls, name, own) in [
        ("starttls", "elsewhere.example", true),
        ("tls", "elsewhere.example", true),
        ("starttls", "localhost", false),
        ("tls", "localhost", false),
    ] {
        let (smtp, _folder, ca) = secured(tls, name, None).await;
        let (_other, another, _) = certificate("localhost");
        let server = start(smtp.port, tls, if own { &ca } else { &another }).await.start().await;
        write(&server, Message::to_address(Kind::TotpEnabled, None, "ann@letters.example")).await;
        until_failed(&server, "tls").await;
        assert!(smtp.taken().unwrap().is_empty(), "{tls} {name}");
    }
}
