//! Mail, from the outbox to a real mail server, which is a process of its own.

mod crash;
mod delivery;
mod notices;
mod outbox;
mod registration;
mod reset;
mod starttls;
mod tls;

use sidle::db::Scope;
use sidle::mail::{Kind, Message};
use sidle_dev::smtp::{Options, Smtp};
use sqlx::Row as _;
use uuid::Uuid;

pub(crate) use crate::look::reason as refused;
use crate::support::{Setup, TestServer};

/// A mail server without TLS.
pub(crate) async fn smtp() -> Smtp {
    Smtp::start(Options::default()).await.expect("a mail server starts")
}

/// Settings for a server that sends through `smtp`.
pub(crate) fn with_mail(setup: Setup, port: u16) -> Setup {
    setup
        .with("MAIL__HOST", "localhost")
        .with("MAIL__PORT", &port.to_string())
        .with("MAIL__TLS", "none")
        .with("MAIL__FROM", "Sidle <sidle@example.com>")
        .with("MAIL__ORIGIN", "https://accounts.example.com")
        .with("MAIL__POLL", "50ms")
        .with("MAIL__RETRY_AFTER", "50ms")
        .with("THROTTLE__MAIL_PER_MINUTE", "0")
}

/// A server that sends through a mail server of its own.
pub(crate) async fn server() -> (TestServer, Smtp) {
    let smtp = smtp().await;
    let server = with_mail(Setup::new().await, smtp.port).start().await;
    (server, smtp)
}

/// Writes a message, and commits it.
async fn write(server: &TestServer, message: Message) {
    let app = server.app();
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    app.outbox.enqueue(&mut tx, message).await.unwrap();
    tx.commit().await.unwrap();
}

/// A message to `address` that holds `token`.
fn with_token(address: &str, token: &str) -> Message {
    Message::to_address(Kind::PasswordReset, None, address)
        .with("token", token)
        .with("expires_at", "2026-01-02T12:00:00Z")
}

/// A row of the outbox as text, to search for what must not be in it, and its state and attempts.
async fn row(server: &TestServer, kind: &str) -> (String, String, i32) {
    let query = "SELECT mail_outbox::text AS line, state, attempts FROM mail_outbox WHERE kind = $1";
    let row = sqlx::query(query).bind(kind).fetch_one(server.sql()).await.unwrap();
    (row.get("line"), row.get("state"), row.get("attempts"))
}

/// Waits until the only message of this kind has this state.
async fn until(server: &TestServer, kind: &str, state: &str) {
    crate::support::until(&format!("{kind} is {state}"), async || row(server, kind).await.1 == state).await;
}

/// A user to send to.
async fn ann(server: &TestServer) -> Uuid {
    let tenant = server.tenant("letters").await;
    server.user(tenant, "ann@letters.example", "user").await
}
