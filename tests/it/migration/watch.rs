//! Watching a migration at which nothing happens, while a lot happens elsewhere.

use sidle::audit::{Event, EventType};
use sidle::db::Scope;
use sidle::fault::Fault;
use sidle::proto::*;
use uuid::Uuid;

use super::reason;
use crate::support::{TestServer, within};

/// Other calls' events, one after the other until the server stops: each reaches every watcher, and none is about a
/// migration.
fn events_of_others(server: &TestServer) {
    let app = server.app().clone();
    let record = async move || {
        let mut tx = app.db.begin(Scope::Platform).await?;
        app.recorder.record(&mut tx, Event::by_system(EventType::RoleUpdated, Uuid::nil())).await?;
        tx.commit().await?;
        app.recorder.wake();
        Ok::<_, Fault>(())
    };
    tokio::spawn(async move { while record().await.is_ok() {} });
}

/// A request to watch a migration that waits, with a heartbeat every second.
async fn watching(server: &TestServer) -> WatchMigrationRequest {
    let migration = Uuid::new_v4();
    sqlx::query(
        "INSERT INTO migrations (migration_id, kind, state, total, pending, started_by) VALUES ($1, 'bulk', 'pending', 1, 1, $1)",
    )
    .bind(migration)
    .execute(server.sql())
    .await
    .unwrap();
    WatchMigrationRequest {
        migration_id: migration.to_string(),
        heartbeat_interval: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_others_keep_neither_heartbeats_from_a_watcher_nor_the_end_of_its_rights() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    let request = watching(&server).await;
    let mut stream = client.migration.clone().watch_migration(request).await.unwrap().into_inner();
    let first = within("where it stands", stream.message()).await.unwrap().unwrap();
    assert_eq!((first.heartbeat, first.state()), (false, MigrationState::Pending));

    events_of_others(&server);
    let next = within("a heartbeat", stream.message()).await.unwrap().unwrap();
    assert!(next.heartbeat && next.cursor != first.cursor, "it has read on");
    client.session.clone().revoke_session(RevokeSessionRequest::default()).await.unwrap();
    let ended = within("the end of the stream", async {
        loop {
            match stream.message().await {
                Ok(message) => assert!(message.expect("no end without a reason").heartbeat),
                Err(status) => return status,
            }
        }
    })
    .await;
    assert_eq!(reason(&ended), "UNAUTHENTICATED");
}

/// The steps that a resumed watcher has missed come first: a heartbeat that told where the migration stands would make them
/// look as if they had been sent, and their failures would be lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_watcher_is_told_nothing_of_steps_that_it_has_not_been_sent() {
    let server = TestServer::start().await;
    let client = server.admin().await;
    let request = watching(&server).await;
    let mut fresh = client.migration.clone().watch_migration(request.clone()).await.unwrap().into_inner();
    let first = within("where it stands", fresh.message()).await.unwrap().unwrap();
    drop(fresh);
    // Steps whose events have yet to be put in order.
    sqlx::query("UPDATE migrations SET step = step + 9").execute(server.sql()).await.unwrap();
    let resume = WatchMigrationRequest { cursor: first.cursor, ..request.clone() };
    let mut resumed = client.migration.clone().watch_migration(resume).await.unwrap().into_inner();
    events_of_others(&server);
    let mut witness = client.migration.clone().watch_migration(request).await.unwrap().into_inner();
    for _ in 0..3 {
        within("three heartbeats", witness.message()).await.unwrap().unwrap();
    }
    client.session.clone().revoke_session(RevokeSessionRequest::default()).await.unwrap();
    let ended = within("the end of the stream", resumed.message()).await.expect_err("nothing was sent before the end");
    assert_eq!(reason(&ended), "UNAUTHENTICATED");
}
