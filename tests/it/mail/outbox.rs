//! Writing messages: with the change or not at all, unreadable, and deleted when they are sent.

use data_encoding::HEXLOWER;
use sidle::db::Scope;
use sidle::mail::{Kind, Message};

use super::{ann, row, server, until, with_token, write};
use crate::support::TestServer;

#[tokio::test]
async fn a_message_goes_to_the_address_that_its_user_had_when_it_was_written() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    let app = server.app();
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    app.outbox.enqueue(&mut tx, Message::to_user(Kind::PasswordChanged, user)).await.unwrap();
    let moved = "UPDATE users SET email = 'eve@letters.example', email_key = 'eve@letters.example' WHERE user_id = $1";
    sqlx::query(moved).bind(user).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(smtp.message().await.unwrap().to, ["ann@letters.example"]);
}

#[tokio::test]
async fn a_change_that_is_not_made_sends_nothing() {
    let (server, mut smtp) = server().await;
    let user = ann(&server).await;
    let app = server.app();
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    app.outbox.enqueue(&mut tx, Message::to_user(Kind::PasswordChanged, user)).await.unwrap();
    drop(tx);
    write(&server, Message::to_user(Kind::TotpEnabled, user)).await;
    let message = smtp.message().await.unwrap();
    assert_eq!(message.header("Subject").unwrap(), "An authenticator application was added to your account");
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM mail_outbox").fetch_one(server.sql()).await.unwrap();
    assert_eq!(rows, 1);
}

#[tokio::test]
async fn a_message_can_be_written_from_a_tenants_transaction() {
    let (server, mut smtp) = server().await;
    let tenant = server.tenant("walls").await;
    let user = server.user(tenant, "ann@walls.example", "user").await;
    let app = server.app();
    let mut tx = app.db.begin(Scope::Tenant(tenant)).await.unwrap();
    app.outbox.enqueue(&mut tx, Message::to_user(Kind::PasswordChanged, user)).await.unwrap();
    let seen: i64 = sqlx::query_scalar("SELECT count(*) FROM mail_outbox").fetch_one(&mut *tx).await.unwrap();
    assert_eq!(seen, 0, "no tenant reads the outbox");
    tx.commit().await.unwrap();
    assert_eq!(smtp.message().await.unwrap().to, ["ann@walls.example"]);
}

#[tokio::test]
async fn a_token_lies_sealed_in_the_outbox_and_only_until_it_is_sent() {
    let (server, mut smtp) = server().await;
    smtp.fault(sidle_dev::smtp::Fault::Defer, 1).await.unwrap();
    let slow = "UPDATE mail_outbox SET next_attempt_at = now() + interval '1 hour'";
    let (app, token) = (server.app(), "sidle_pr_0123456789012345678901234567890123456789012");
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    app.outbox.enqueue(&mut tx, with_token("ann@letters.example", token)).await.unwrap();
    sqlx::query(slow).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let hidden = HEXLOWER.encode(token.as_bytes());
    let (line, ..) = row(&server, "password_reset").await;
    assert!(!line.contains(token) && !line.contains(&hidden) && line.contains("ann@letters.example"), "{line}");

    sqlx::query("UPDATE mail_outbox SET next_attempt_at = now()").execute(server.sql()).await.unwrap();
    assert_eq!(smtp.message().await.unwrap().token().as_deref(), Some(token));
    until(&server, "password_reset", "sent").await;
    let gone = "SELECT recipient IS NULL AND parameters IS NULL FROM mail_outbox";
    assert!(sqlx::query_scalar::<_, bool>(gone).fetch_one(server.sql()).await.unwrap());
    assert!(!row(&server, "password_reset").await.0.contains("letters.example"));
}

/// An attacker who can write to the database moves a sealed token into a message to themselves.
#[tokio::test]
async fn a_sealed_token_that_is_moved_to_another_message_does_not_open() {
    let (server, mut smtp) = server().await;
    let app = server.app();
    let token = "sidle_pr_0123456789012345678901234567890123456789012";
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    app.outbox.enqueue(&mut tx, with_token("ann@letters.example", token)).await.unwrap();
    sqlx::query("UPDATE mail_outbox SET next_attempt_at = now() + interval '1 hour'").execute(&mut *tx).await.unwrap();
    app.outbox.enqueue(&mut tx, Message::to_address(Kind::VerifyEmail, None, "eve@letters.example")).await.unwrap();
    let moved = "UPDATE mail_outbox e SET parameters = a.parameters FROM mail_outbox a
        WHERE e.kind = 'verify_email' AND a.kind = 'password_reset'";
    sqlx::query(moved).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    until(&server, "verify_email", "failed").await;
    write(&server, Message::to_address(Kind::TotpEnabled, None, "last@letters.example")).await;
    assert_eq!(smtp.message().await.unwrap().to, ["last@letters.example"], "nothing was sent before");
}

#[tokio::test]
async fn without_a_mail_server_nothing_is_written() {
    let server = TestServer::start().await;
    let user = ann(&server).await;
    write(&server, Message::to_user(Kind::PasswordChanged, user)).await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM mail_outbox").fetch_one(server.sql()).await.unwrap();
    assert_eq!(rows, 0);
}
