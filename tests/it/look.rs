//! Queries for what a call left behind.

use sidle::audit::{Filter, Progress, StoredEvent};
use sidle::db::Scope;
use std::sync::Arc;
use tonic::Status;
use tonic_types::StatusExt as _;

use crate::support::{TestServer, until, within};

/// The reason of a refusal, such as `NOT_FOUND`.
pub fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map_or_else(|| format!("{:?} without a reason: {}", status.code(), status.message()), |info| info.reason)
}

/// Reasons of the events of this type and outcome that are durable, numbered or not, in order of writing.
pub async fn reasons(server: &TestServer, event_type: &str, outcome: &str) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT coalesce(reason, '') FROM (
             SELECT event_type, outcome, reason, event_id FROM audit_inbox
             UNION SELECT event_type, outcome, reason, event_id FROM audit_events) events
         WHERE event_type = $1 AND outcome = $2 ORDER BY event_id",
    )
    .bind(event_type)
    .bind(outcome)
    .fetch_all(server.sql())
    .await
    .unwrap()
}

/// Waits until a statement of the service waits for a lock that another holds.
pub async fn a_statement_waits(server: &TestServer) {
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'sidle_app' AND wait_event_type = 'Lock')";
    until("a statement waits for a lock", async || sqlx::query_scalar(waiting).fetch_one(server.sql()).await.unwrap())
        .await;
}

/// The first event of this type; waits for it if it is not recorded yet.
pub async fn event(server: &TestServer, event_type: &str) -> Arc<StoredEvent> {
    let log = &server.app().log;
    let mut follow = log.follow(Filter::new(Scope::Platform), log.beginning());
    within(&format!("an event {event_type}"), async {
        loop {
            match follow.progress().await.unwrap() {
                Progress::Event(event) if event.event_type == event_type => return event,
                Progress::End => panic!("the server stopped before {event_type} happened"),
                _ => {}
            }
        }
    })
    .await
}
