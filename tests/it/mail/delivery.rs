//! Sending: through a server that defers, refuses, hangs up or is not there.

use std::collections::BTreeSet;

use sidle::mail::{Kind, Message};
use sidle_dev::smtp::{Fault, Options, Smtp};

use super::{ann, row, server, smtp, until, with_mail, with_token, write};
use crate::support::Setup;

#[tokio::test]
async fn a_message_has_text_and_html_and_names_its_sender() {
    let (server, mut smtp) = server().await;
    let token = "sidle_pr_0123456789012345678901234567890123456789012";
    write(&server, with_token("ann@letters.example", token)).await;
    let message = smtp.message().await.unwrap();
    assert_eq!(
        (message.from.as_str(), message.to.as_slice()),
        ("sidle@example.com", &["ann@letters.example".to_owned()][..])
    );
    assert_eq!(message.header("From").unwrap(), "Sidle <sidle@example.com>");
    assert_eq!(message.header("Auto-Submitted").unwrap(), "auto-generated");
    let body = message.body();
    let link = format!("https://accounts.example.com/reset-password#token={token}");
    assert!(body.contains("text/plain") && body.contains("text/html") && body.matches(&link).count() >= 2, "{body}");
}

#[tokio::test]
async fn what_is_put_off_is_tried_again_until_it_arrives_once() {
    let (server, mut smtp) = server().await;
    smtp.fault(Fault::Defer, 2).await.unwrap();
    let user = ann(&server).await;
    write(&server, Message::to_user(Kind::PasswordChanged, user)).await;
    smtp.message().await.unwrap();
    until(&server, "password_changed", "sent").await;
    assert_eq!(row(&server, "password_changed").await.2, 3);
    assert_eq!(smtp.taken().unwrap().len(), 1);
    let page = server.app().metrics.render().unwrap();
    assert!(
        page.contains("sidle_mail_sent_total 1") && page.contains("mail_failures_total{class=\"deferred\"} 2"),
        "{page}"
    );
}

#[tokio::test]
async fn what_is_refused_is_given_up_and_does_not_stop_the_others() {
    for (fault, state) in [(Fault::Recipient, "failed"), (Fault::Refuse, "failed")] {
        let (server, mut smtp) = server().await;
        smtp.fault(fault, 1).await.unwrap();
        let user = ann(&server).await;
        write(&server, Message::to_user(Kind::PasswordChanged, user)).await;
        until(&server, "password_changed", state).await;
        write(&server, Message::to_user(Kind::TotpEnabled, user)).await;
        smtp.message().await.unwrap();
        let (line, _, attempts) = row(&server, "password_changed").await;
        assert!(attempts == 1 && line.contains("refused") && !line.contains("letters.example"), "{line}");
        assert_eq!(smtp.taken().unwrap().len(), 1);
    }
}

/// A refused sender is an error of the configuration: it must not cost the messages.
#[tokio::test]
async fn a_server_that_refuses_the_sender_loses_no_message() {
    let (server, mut smtp) = server().await;
    smtp.fault(Fault::Sender, 1).await.unwrap();
    let user = ann(&server).await;
    write(&server, Message::to_user(Kind::PasswordChanged, user)).await;
    smtp.message().await.unwrap();
    until(&server, "password_changed", "sent").await;
}

#[tokio::test]
async fn a_connection_that_ends_before_the_message_is_taken_delivers_it_once() {
    let (server, mut smtp) = server().await;
    smtp.fault(Fault::DropBefore, 1).await.unwrap();
    let user = ann(&server).await;
    write(&server, Message::to_user(Kind::PasswordChanged, user)).await;
    smtp.failed().await.unwrap();
    smtp.message().await.unwrap();
    until(&server, "password_changed", "sent").await;
    assert_eq!(smtp.taken().unwrap().len(), 1);
}

/// The one window that SMTP leaves: the server has the message, and its answer is lost.
#[tokio::test]
async fn a_lost_answer_sends_again_under_the_same_message_id() {
    let (server, mut smtp) = server().await;
    smtp.fault(Fault::DropAfter, 1).await.unwrap();
    let user = ann(&server).await;
    write(&server, Message::to_user(Kind::PasswordChanged, user)).await;
    let first = smtp.message().await.unwrap();
    let second = smtp.message().await.unwrap();
    assert_eq!(first.header("Message-ID").unwrap(), second.header("Message-ID").unwrap());
    until(&server, "password_changed", "sent").await;
    assert_eq!(smtp.taken().unwrap().len(), 2);
}

#[tokio::test]
async fn a_dead_mail_server_leaves_the_service_ready_and_the_messages_wait() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = with_mail(Setup::new().await, port).start().await;
    let user = ann(&server).await;
    write(&server, Message::to_user(Kind::PasswordChanged, user)).await;
    super::tls::until_failed(&server, "connection").await;
    let ready = reqwest::get(format!("{}/readyz", server.ops_url())).await.unwrap();
    assert_eq!(ready.status(), 200);
    server.sign_in("ann@letters.example").await;
    assert_eq!(row(&server, "password_changed").await.2, 0, "what the server never heard of is no attempt");

    let mut smtp = Smtp::start(Options { port, ..Options::default() }).await.unwrap();
    assert_eq!(smtp.message().await.unwrap().to, ["ann@letters.example"]);
}

#[tokio::test]
async fn replicas_share_the_work_and_send_nothing_twice() {
    let mut smtp = smtp().await;
    let setup = with_mail(Setup::new().await, smtp.port);
    let (first, second) = (setup.start().await, setup.start().await);
    for number in 0..60 {
        let server = if number % 2 == 0 { &first } else { &second };
        write(server, Message::to_address(Kind::TotpEnabled, None, format!("n{number}@letters.example"))).await;
    }
    for _ in 0..60 {
        smtp.message().await.unwrap();
    }
    let taken = smtp.taken().unwrap();
    let addresses: BTreeSet<&str> = taken.iter().map(|message| message.to[0].as_str()).collect();
    assert_eq!((taken.len(), addresses.len()), (60, 60));
}

#[tokio::test]
async fn a_message_that_is_of_no_use_any_more_is_given_up() {
    let (server, mut smtp) = server().await;
    smtp.fault(Fault::Defer, 1000).await.unwrap();
    let message = with_token("ann@letters.example", "sidle_pr_x").lifetime(std::time::Duration::from_millis(100));
    write(&server, message).await;
    until(&server, "password_reset", "expired").await;
    assert!(!row(&server, "password_reset").await.0.contains("letters.example"));
    let page = server.app().metrics.render().unwrap();
    assert!(page.contains("mail_failures_total{class=\"expired\"} 1"), "{page}");
}

/// Names and addresses that only an import or a write to the database could contain.
#[tokio::test]
async fn hostile_names_and_addresses_add_neither_headers_nor_recipients_nor_markup() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    let name = "Eve\r\nBcc: all@letters.example\r\n\r\n.\r\nRCPT TO:<all@letters.example> <script>alert(1)</script>";
    sqlx::query("UPDATE users SET full_name = $2 WHERE user_id = $1")
        .bind(user)
        .bind(name)
        .execute(server.sql())
        .await
        .unwrap();
    write(&server, Message::to_user(Kind::PasswordChanged, user)).await;
    let message = smtp.message().await.unwrap();
    assert_eq!(message.to, ["ann@letters.example"]);
    assert_eq!(message.header("Bcc"), None);
    let body = message.body();
    assert!(!body.contains("<script>") || !body.split("text/html").nth(1).unwrap().contains("<script>"), "{body}");
    assert!(!body.lines().any(|line| line.starts_with("Bcc:") || line == "."), "{body}");

    for address in ["ann@letters.example\r\nBcc: all@letters.example", "a@b.example>\r\nRCPT TO:<all@letters.example"] {
        sqlx::query("UPDATE users SET email = $2 WHERE user_id = $1")
            .bind(user)
            .bind(address)
            .execute(server.sql())
            .await
            .unwrap();
        sqlx::query("DELETE FROM mail_outbox").execute(server.sql()).await.unwrap();
        write(&server, Message::to_user(Kind::TotpDisabled, user)).await;
        until(&server, "totp_disabled", "failed").await;
    }
    assert_eq!(smtp.taken().unwrap().len(), 1);
}
