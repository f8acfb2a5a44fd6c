//! Unknown identifiers: what an anonymous caller can make up fills neither the log nor the table of keys.

use futures_util::future::join_all;
use serde_json::Value;
use sqlx::Row as _;
use tokio_util::sync::CancellationToken;

use super::attempt;
use crate::look::{event, reason, reasons};
use crate::support::{Setup, TestServer, until};

const NAMES: usize = 2000;

/// Details of the refusals that are durable, in the order of writing.
async fn recorded(server: &TestServer) -> Vec<Value> {
    let select = "SELECT details FROM (
             SELECT event_type, outcome, reason, event_id, details FROM audit_inbox
             UNION SELECT event_type, outcome, reason, event_id, details FROM audit_events) events
         WHERE event_type = 'user.login_refused' AND reason = 'unknown' ORDER BY event_id";
    sqlx::query(select).fetch_all(server.sql()).await.unwrap().iter().map(|row| row.get(0)).collect()
}

async fn counted(server: &TestServer) -> i64 {
    let select = "SELECT coalesce(sum(refusals), 0)::bigint FROM unknown_refusals";
    sqlx::query_scalar(select).fetch_one(server.sql()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_unknown_names_leave_one_event_an_interval_and_no_keys() {
    let server = Setup::new().await.with("THROTTLE__PER_MINUTE", "0").start().await;
    let names: Vec<String> = (0..NAMES).map(|n| format!("nobody{n}@example.com")).collect();
    for names in names.chunks(40) {
        for answer in join_all(names.iter().map(|name| attempt(&server, name, "a guess"))).await {
            assert_eq!(reason(&answer.unwrap_err()), "INVALID_CREDENTIALS");
        }
    }
    // Each was durable before it was answered, as a count if not as an event.
    assert_eq!(counted(&server).await, NAMES as i64 - 1);
    let first = recorded(&server).await;
    assert_eq!(first.len(), 1);
    assert_eq!((&first[0]["refusals"], &first[0]["earlier"]), (&1.into(), &0.into()));

    // Once the interval is over, one event records all the others.
    server.context.clock.advance(std::time::Duration::from_secs(301));
    let stop = CancellationToken::new();
    let tidy = tokio::spawn(server.app().authenticate.clone().purge_expired(stop.clone()));
    until("the interval is recorded", async || recorded(&server).await.len() >= 2).await;
    stop.cancel();
    tidy.await.unwrap();
    let all = recorded(&server).await;
    assert_eq!((all.len(), &all[1]["refusals"]), (2, &(NAMES as i64 - 1).into()));
    assert_eq!(counted(&server).await, 0);
    let waiting = "SELECT count(*) FROM audit_inbox";
    until("events get their places", async || {
        sqlx::query_scalar::<_, i64>(waiting).fetch_one(server.sql()).await.unwrap() == 0
    })
    .await;
    let keys: i64 =
        sqlx::query_scalar("SELECT count(*) FROM audit_subject_keys").fetch_one(server.sql()).await.unwrap();
    assert!(keys <= 2, "{keys} keys: one for all strangers of a day");
}

/// A password reset requested for an unknown identifier leaves no event; one for a user does.
#[tokio::test(flavor = "multi_thread")]
async fn resets_asked_for_in_nobodys_name_leave_nothing() {
    // No mail server listens: messages stay in the outbox.
    let setup = Setup::new().await.with("MAIL__HOST", "127.0.0.1").with("MAIL__PORT", "1").with("MAIL__TLS", "none");
    let setup = setup.with("MAIL__FROM", "sidle@example.com").with("MAIL__ORIGIN", "https://accounts.example");
    let server = setup.with("MAIL__POLL", "50ms").start().await;
    let tenant = server.tenant("a").await;
    let ann = server.user(tenant, "ann@example.com", "user").await;
    let names = (0..20).map(|n| format!("nobody{n}@example.com")).chain(["ann@example.com".to_owned()]);
    for identifier in names {
        let request = sidle::proto::RequestPasswordResetRequest { identifier };
        server.client("").authenticate.request_password_reset(request).await.unwrap();
    }
    let asked = event(&server, "user.password_reset_requested").await;
    assert_eq!(asked.target_id, Some(ann.to_string()));
    let left = "SELECT count(*) FROM password_reset_requests";
    until("every request is answered", async || {
        sqlx::query_scalar::<_, i64>(left).fetch_one(server.sql()).await.unwrap() == 0
    })
    .await;
    assert_eq!(reasons(&server, "user.password_reset_requested", "success").await.len(), 1);
}
