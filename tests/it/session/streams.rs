//! Open streams outlast the access token that opened them, and nothing else: neither the session nor the key it came from,
//! neither the rights nor the tenant.

use std::time::Duration;

use sidle::audit::{Event, EventType};
use sidle::db::Scope;
use sidle::proto::*;
use tonic::{Status, Streaming};
use uuid::Uuid;

use super::{refresh, signed_in};
use crate::authenticate::{ask, exchange};
use crate::look::reason;
use crate::support::{ADMIN_PASSWORD, Client, Setup, TestServer, within};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An event of nobody's, which wakes whoever follows the log.
async fn happen(server: &TestServer) {
    let app = server.app();
    let mut tx = app.db.begin(Scope::Platform).await.unwrap();
    app.recorder.record(&mut tx, Event::by_system(EventType::RoleUpdated, Uuid::nil())).await.unwrap();
    tx.commit().await.unwrap();
    app.recorder.wake();
}

async fn follow(client: &Client) -> Streaming<StreamEventsResponse> {
    let filter = Some(AuditFilter { types: vec!["role.updated".to_owned()], ..Default::default() });
    let request = StreamEventsRequest { filter, ..Default::default() };
    let mut stream = client.audit.clone().stream_events(request).await.expect("the stream opens").into_inner();
    let first = within("the state of the stream", stream.message()).await.unwrap().unwrap();
    assert!(first.caught_up);
    stream
}

/// The event that happens next, on an open stream.
async fn next(server: &TestServer, stream: &mut Streaming<StreamEventsResponse>) -> Result<(), Status> {
    happen(server).await;
    within("the event, or the end", async {
        while stream.message().await?.expect("no end without a reason").event.is_none() {}
        Ok(())
    })
    .await
}

/// The reason for which a stream ends, whatever comes before.
async fn end<T>(stream: &mut Streaming<T>) -> String {
    let status = within("the end of the stream", async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some(), "no end without a reason"),
                Err(status) => break status,
            }
        }
    });
    reason(&status.await)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_stream_outlasts_its_token_and_ends_with_its_session() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    let migration = Uuid::new_v4();
    sqlx::query(
        "INSERT INTO migrations (migration_id, kind, state, total, pending, started_by) VALUES ($1, 'bulk', 'pending', 1, 1, $1)",
    )
    .bind(migration)
    .execute(server.sql())
    .await
    .unwrap();
    let every_second = Some(prost_types::Duration { seconds: 1, nanos: 0 });
    let mut events = follow(&client).await;
    let watch = WatchMigrationRequest {
        migration_id: migration.to_string(),
        heartbeat_interval: every_second,
        ..Default::default()
    };
    let mut steps = client.migration.clone().watch_migration(watch).await.unwrap().into_inner();
    let request = WatchRevocationsRequest::default();
    let mut revocations = client.session.clone().watch_revocations(request).await.unwrap().into_inner();
    within("where it stands", steps.message()).await.unwrap().unwrap();

    server.context.clock.advance(HOUR);
    let late = client.session.clone().get_session(GetSessionRequest::default()).await.unwrap_err();
    assert_eq!(reason(&late), "UNAUTHENTICATED", "the token itself is over");
    next(&server, &mut events).await.expect("the event");
    for _ in 0..2 {
        assert!(within("a heartbeat", steps.message()).await.expect("goes on").is_some());
        assert!(within("a heartbeat", revocations.message()).await.expect("goes on").is_some());
    }

    let again = server.client(&server.sign_in("root@platform.example").await.access_token);
    let all = RevokeAllSessionsRequest { keep_current: true, ..Default::default() };
    again.session.clone().revoke_all_sessions(all).await.unwrap();
    happen(&server).await;
    assert_eq!(end(&mut events).await, "UNAUTHENTICATED");
    assert_eq!(end(&mut steps).await, "UNAUTHENTICATED");
    assert_eq!(end(&mut revocations).await, "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_stream_ends_when_its_session_lapses() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    let mut events = follow(&client).await;
    server.context.clock.advance(6 * DAY);
    next(&server, &mut events).await.expect("the idle timeout is a week");
    server.context.clock.advance(2 * DAY);
    assert_eq!(reason(&next(&server, &mut events).await.unwrap_err()), "UNAUTHENTICATED");
}

/// What was revoked longer ago than a token lives is in no replica's memory any more: a stream whose reader did not read
/// meanwhile must not go on all the same. Here nobody ever heard of it.
#[tokio::test]
async fn a_stream_does_not_outlast_a_session_whose_end_no_replica_remembers() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    let mut events = follow(&client).await;
    let sql = "UPDATE sessions SET status = 'revoked', revoked_at = now(), revoke_reason = 'logout'";
    sqlx::query(sql).execute(server.sql()).await.unwrap();
    next(&server, &mut events).await.expect("the replica has not heard of it");
    server.context.clock.advance(HOUR);
    assert_eq!(reason(&next(&server, &mut events).await.unwrap_err()), "UNAUTHENTICATED");
}

#[tokio::test]
async fn after_its_token_a_stream_ends_with_rights_that_change() {
    let server = TestServer::start().await;
    server.admin().await;
    let (tenant, _, _) = signed_in(&server).await;
    for (name, change) in [
        ("eve", "UPDATE users SET tokens_valid_from = now() WHERE user_id = $1"),
        ("fay", "UPDATE users SET status = 'disabled' WHERE user_id = $1"),
        ("gus", "UPDATE users SET deleted_at = now() WHERE user_id = $1"),
        (
            "hal",
            "UPDATE users SET locked_until = now() + interval '10 days', lock_reason = 'administrator' WHERE user_id = $1",
        ),
    ] {
        let email = format!("{name}@example.com");
        let user = server.user(tenant, &email, "SYSTEM_ADMIN").await;
        let client = server.client(&server.sign_in(&email).await.access_token);
        let mut events = follow(&client).await;
        server.context.clock.advance(HOUR);
        next(&server, &mut events).await.expect("nothing has changed");
        // Behind the service's back, so that the answer comes from the database alone.
        sqlx::query(change).bind(user).execute(server.sql()).await.unwrap();
        server.context.clock.advance(Duration::from_secs(5));
        assert_eq!(reason(&next(&server, &mut events).await.unwrap_err()), "UNAUTHENTICATED", "{name}");
    }
}

#[tokio::test]
async fn a_stream_of_one_tenant_ends_after_its_token_when_the_session_moves_to_another() {
    let server = TestServer::start().await;
    let (home, other) = (server.tenant("home").await, server.tenant("other").await);
    let user = server.user(home, "ann@example.com", "admin").await;
    sqlx::query(
        "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
         SELECT $1, $2, $3, role_id, 'local' FROM roles WHERE name = 'admin' AND tenant_id IS NULL",
    )
    .bind(Uuid::new_v4())
    .bind(other)
    .bind(user)
    .execute(server.sql())
    .await
    .unwrap();
    let tokens = server.sign_in("ann@example.com").await;
    let filter = Some(AuditFilter::default());
    let request = StreamEventsRequest { filter, ..Default::default() };
    let client = server.client(&tokens.access_token);
    let mut events = client.audit.clone().stream_events(request).await.unwrap().into_inner();
    let request =
        RefreshTokenRequest { refresh_token: tokens.refresh_token, tenant_id: other.to_string(), ..Default::default() };
    let moved = server.client("").authenticate.refresh_token(request).await.unwrap().into_inner();
    assert_eq!(moved.tenant_id, other.to_string());
    server.context.clock.advance(HOUR);
    assert_eq!(end(&mut events).await, "UNAUTHENTICATED");
    // A refresh that stays is no reason to end.
    let stays = server.client(
        &refresh(&server, &moved.tokens.unwrap().refresh_token, None).await.unwrap().tokens.unwrap().access_token,
    );
    let mut events = stays.audit.clone().stream_events(StreamEventsRequest::default()).await.unwrap().into_inner();
    within("the state of the stream", events.message()).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_programs_stream_ends_with_its_key_and_not_with_its_token() {
    let server = TestServer::start().await;
    let key = crate::authenticate::api_key(&server, None, &["audit.read"], &[]).await;
    let ends = server.context.now() + chrono::TimeDelta::hours(3);
    sqlx::query("UPDATE api_keys SET expires_at = $1").bind(ends).execute(server.sql()).await.unwrap();
    let program = exchange(&server, &key).await.unwrap();
    let client = server.client(&program.access_token);
    let mut events = follow(&client).await;
    server.context.clock.advance(HOUR);
    next(&server, &mut events).await.expect("the key is good");
    server.context.clock.advance(3 * HOUR);
    assert_eq!(reason(&next(&server, &mut events).await.unwrap_err()), "UNAUTHENTICATED");

    sqlx::query("UPDATE api_keys SET expires_at = NULL").execute(server.sql()).await.unwrap();
    let client = server.client(&exchange(&server, &key).await.unwrap().access_token);
    let mut events = follow(&client).await;
    server.context.clock.advance(HOUR);
    next(&server, &mut events).await.expect("the key is good");
    sqlx::query("UPDATE service_accounts SET status = 'disabled'").execute(server.sql()).await.unwrap();
    server.context.clock.advance(Duration::from_secs(5));
    assert_eq!(reason(&next(&server, &mut events).await.unwrap_err()), "UNAUTHENTICATED");
}

#[tokio::test]
async fn a_stream_outlasts_the_key_that_signed_its_token_unless_that_was_revoked() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    for (reason_of_retirement, goes_on) in [("expired", true), ("revoked", false)] {
        let client = server.client(&server.sign_in("root@platform.example").await.access_token);
        let mut events = follow(&client).await;
        server.context.clock.advance(HOUR);
        next(&server, &mut events).await.expect("the session is good");
        let retire =
            "UPDATE signing_keys SET state = 'retired', retired_at = now(), retire_reason = $1, private_key = '',
            expires_at = now()";
        let mut tx = server.sql().begin().await.unwrap();
        sqlx::query(retire).bind(reason_of_retirement).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
        server.context.clock.advance(Duration::from_secs(5));
        let after = next(&server, &mut events).await;
        assert_eq!(after.is_ok(), goes_on, "{reason_of_retirement}: {after:?}");
    }
    drop(client);
}

/// Many ask together, and each gets the answer about its own session.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_streams_only_those_end_whose_sessions_have() {
    let setup = Setup::new().await.with("SESSIONS__PER_USER", "0");
    let server = setup.start().await;
    server.admin().await;
    let mut streams = Vec::new();
    for _ in 0..40 {
        let login = AuthenticatePasswordRequest {
            identifier: "root@platform.example".to_owned(),
            password: ADMIN_PASSWORD.to_owned(),
            ..Default::default()
        };
        let signed_in = ask(&server, login).await.unwrap();
        let client = server.client(&signed_in.tokens.unwrap().access_token);
        streams.push((signed_in.session_id, follow(&client).await));
    }
    server.context.clock.advance(HOUR);
    let ended: Vec<Uuid> = streams.iter().step_by(3).map(|(session, _)| session.parse().unwrap()).collect();
    let sql = "UPDATE sessions SET status = 'revoked', revoked_at = now(), revoke_reason = 'logout' WHERE session_id = ANY ($1)";
    sqlx::query(sql).bind(&ended).execute(server.sql()).await.unwrap();
    happen(&server).await;
    let answers = streams.iter_mut().map(|(session, stream)| {
        let has_ended = ended.contains(&session.parse().unwrap());
        async move {
            let answer = within("the event, or the end", stream.message()).await;
            assert_eq!(answer.is_err(), has_ended, "{answer:?}");
        }
    });
    futures_util::future::join_all(answers).await;
}
