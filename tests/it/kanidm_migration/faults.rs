//! A Kanidm that loses replies, is down, stalls, or gives invalid answers. Needs dev Kanidm's switches.

use futures_util::StreamExt as _;
use sidle::proto::*;
use sidle_dev::kanidm::Fault;

use super::{Stage, adds_up, counts, stage};
use crate::support::within;

const CREATE: &str = "/v1/raw/create";

#[tokio::test]
async fn lost_replies_give_nobody_two_persons_or_none() {
    let stage = stage().await;
    stage.users(200).await;
    let plan = stage.plan().await;
    // Every second batch is created and not answered, and some memberships as well.
    for after in [0, 1, 2] {
        stage.kanidm.fault(Fault::DropReply, CREATE, after, Some(1)).await.unwrap();
    }
    stage.kanidm.fault(Fault::DropReply, "/v1/group/", 6, Some(2)).await.unwrap();
    let migration = stage.start(&plan).await;
    let seen = stage.watch(&migration).await;
    assert_eq!(counts(seen.last().unwrap()), (200, 0, 0, 0));
    assert!(seen.iter().any(|message| message.waiting_for() == WaitReason::KanidmUnavailable));
    assert_eq!(seen.last().unwrap().waiting_for(), WaitReason::Unspecified);
    stage.moved(&stage.mails(200, &[])).await;
    let items = stage.items(&migration.migration_id).await;
    assert!(items.values().any(|item| item.attempts > 1), "something had to be taken up again");
}

#[tokio::test]
async fn a_lost_reply_to_a_batch_with_guilty_entries_still_ends_right() {
    let stage = stage().await;
    stage.users(80).await;
    let plan = stage.plan().await;
    for n in [5, 6, 61] {
        stage
            .kanidm
            .create_person(&format!("x{}", sidle_dev::random_word(12)), "Somebody", &stage.mail(n))
            .await
            .unwrap();
    }
    // The replies to halves and quarters of the refused batches are lost too.
    for after in [2, 3, 5, 8] {
        stage.kanidm.fault(Fault::DropReply, CREATE, after, Some(1)).await.unwrap();
    }
    let migration = stage.start(&plan).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (77, 3, 0, 0));
    stage.moved(&stage.mails(80, &[5, 6, 61])).await;
}

/// Watches until a message meets the condition, and returns the stream's last cursor with it.
async fn until(
    stage: &Stage,
    migration: &Migration,
    wanted: impl Fn(&WatchMigrationResponse) -> bool,
) -> WatchMigrationResponse {
    let request = WatchMigrationRequest { migration_id: migration.migration_id.clone(), ..Default::default() };
    let mut stream = stage.client.migration.clone().watch_migration(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    within("such a message of the migration", async {
        loop {
            let message = stream.next().await.expect("the stream goes on").unwrap();
            seen.push(message.clone());
            adds_up(&seen);
            if wanted(&message) {
                return message;
            }
        }
    })
    .await
}

#[tokio::test]
async fn with_kanidm_down_the_job_waits_and_goes_on_by_itself() {
    let stage = stage().await;
    stage.users(100).await;
    for fault in [Fault::Fail, Fault::Garbage] {
        let plan = stage.plan().await;
        stage.kanidm.fault(fault, CREATE, 0, None).await.unwrap();
        let migration = stage.start(&plan).await;
        let waiting = |message: &WatchMigrationResponse| message.waiting_for() == WaitReason::KanidmUnavailable;
        let waits = until(&stage, &migration, waiting).await;
        assert_eq!((waits.state(), counts(&waits).1), (MigrationState::Running, 0), "{fault:?}: nobody fails of it");
        stage.kanidm.heal().await.unwrap();
        let last = stage.watch(&migration).await.pop().unwrap();
        assert_eq!((last.state(), counts(&last).1), (MigrationState::Completed, 0));
        let again = (201..=240).map(|n| crate::migration::row(n, &stage.mail(format!("{n}-more"))));
        crate::migration::import(&stage.client, crate::migration::header(&stage.slug), again.collect()).await.unwrap();
    }
    let moved: i64 = sqlx::query_scalar("SELECT count(*) FROM users WHERE auth_method = 'dual'")
        .fetch_one(stage.server.sql())
        .await
        .unwrap();
    assert_eq!(moved, 140);
}

#[tokio::test]
async fn planning_with_kanidm_down_says_so() {
    let stage = stage().await;
    stage.users(3).await;
    stage.kanidm.fault(Fault::Fail, "/v1/", 0, None).await.unwrap();
    let refused = stage.try_plan().await.unwrap_err();
    assert_eq!(crate::migration::reason(&refused), "KANIDM_UNAVAILABLE");
    stage.kanidm.heal().await.unwrap();
    assert_eq!(stage.plan().await.total, 3);
}

#[tokio::test]
async fn a_silent_stream_shows_that_it_lives() {
    let stage = stage().await;
    stage.users(3).await;
    let plan = stage.plan().await;
    stage.kanidm.fault(Fault::Stall, CREATE, 0, None).await.unwrap();
    let migration = stage.start(&plan).await;
    let interval = prost_types::Duration { seconds: 1, nanos: 0 };
    let mut request = WatchMigrationRequest {
        migration_id: migration.migration_id.clone(),
        heartbeat_interval: Some(interval),
        ..Default::default()
    };
    let mut seen = Vec::new();
    let mut stream = stage.client.migration.clone().watch_migration(request.clone()).await.unwrap().into_inner();
    within("two heartbeats", async {
        while seen.iter().filter(|message: &&WatchMigrationResponse| message.heartbeat).count() < 2 {
            seen.push(stream.message().await.unwrap().unwrap());
        }
    })
    .await;
    // A heartbeat's cursor can be resumed like any other.
    request.cursor = seen.last().unwrap().cursor.clone();
    stage.kanidm.heal().await.unwrap();
    let mut stream = stage.client.migration.clone().watch_migration(request.clone()).await.unwrap().into_inner();
    within("the migration ends", async {
        while let Some(message) = stream.message().await.unwrap() {
            seen.push(message);
        }
    })
    .await;
    adds_up(&seen);
    assert_eq!(counts(seen.last().unwrap()), (3, 0, 0, 0));
    for seconds in [0, 61] {
        request.heartbeat_interval = Some(prost_types::Duration { seconds, nanos: 0 });
        let refused = stage.client.migration.clone().watch_migration(request.clone()).await.unwrap_err();
        assert_eq!(crate::migration::reason(&refused), "INVALID_FIELD");
    }
}
