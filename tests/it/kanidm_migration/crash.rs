//! The server is killed midway, again and again. Run as the real program, since only a process can be killed.

use sidle::proto::*;
use sidle_dev::kanidm::Fault;

use super::{Stage, adds_up, counts, stage};
use crate::support::process::Process;
use crate::support::{Client, Setup, until, within};

/// The stage, without a running engine in its own server: users are imported and planned there, and migrated by
/// processes.
async fn quiet(users: i64) -> (Stage, Setup, Plan) {
    let stage = stage().await;
    stage.users(users).await;
    let plan = stage.plan().await;
    let setup = stage.setup.clone().with("MIGRATION__LEASE", "1s").with("MIGRATION__BATCH_SIZE", "15");
    (stage, setup, plan)
}

async fn start(client: &Client, plan: &Plan) -> Migration {
    let request = StartMigrationRequest {
        plan_id: plan.plan_id.clone(),
        plan_digest: plan.digest.clone(),
        request_id: uuid::Uuid::new_v4().to_string(),
        validate_only: false,
    };
    client.migration.clone().start_migration(request).await.unwrap().into_inner().migration.unwrap()
}

#[tokio::test]
async fn killed_again_and_again_it_carries_on_and_the_watcher_misses_nothing() {
    let (mut stage, setup, plan) = quiet(240).await;
    stage.rest().await;
    let mut server = Process::start(&setup).await;
    let migration = start(&server.client(&stage.token), &plan).await;
    let mut request = WatchMigrationRequest { migration_id: migration.migration_id.clone(), ..Default::default() };
    let mut seen: Vec<WatchMigrationResponse> = Vec::new();
    let mut kills = 0;
    let ended = |seen: &[WatchMigrationResponse]| seen.last().is_some_and(|m| m.state() == MigrationState::Completed);
    // Each round sees a step, and there are fewer of them.
    for _ in 0..500 {
        if ended(&seen) {
            break;
        }
        let client = server.client(&stage.token);
        let mut stream = client.migration.clone().watch_migration(request.clone()).await.unwrap().into_inner();
        // One, two or three steps on, so that it is killed at different points.
        for _ in 0..=kills % 3 {
            let Some(message) = within("the next step", stream.message()).await.unwrap() else { break };
            request.cursor = message.cursor.clone();
            seen.push(message);
        }
        adds_up(&seen);
        if !ended(&seen) {
            server.kill().await;
            kills += 1;
            server = Process::start(&setup).await;
        }
    }
    assert!(kills >= 5, "only killed {kills} times");
    assert_eq!(counts(seen.last().unwrap()), (240, 0, 0, 0));
    server.kill().await;
    stage.wake().await;
    stage.moved(&stage.mails(240, &[])).await;
}

/// Killed while requests to Kanidm are in progress, whose outcome stays unknown.
#[tokio::test]
async fn killed_while_kanidm_works_nobody_is_made_twice() {
    let (mut stage, setup, plan) = quiet(60).await;
    stage.rest().await;
    let server = Process::start(&setup).await;
    const CREATE: &str = "POST /v1/raw/create";
    let before = stage.kanidm.requests(CREATE).await.unwrap();
    stage.kanidm.fault(Fault::Stall, "/v1/raw/create", 1, None).await.unwrap();
    start(&server.client(&stage.token), &plan).await;
    // The count shows that the request is held.
    until("Kanidm holds a request", async || stage.kanidm.requests(CREATE).await.unwrap() >= before + 3).await;
    server.kill().await;
    stage.kanidm.heal().await.unwrap();
    stage.wake().await;
    let list = stage.client.migration.clone().list_migrations(ListMigrationsRequest::default()).await.unwrap();
    let migration = list.into_inner().migrations.remove(0);
    let seen = stage.watch(&migration).await;
    assert_eq!(counts(seen.last().unwrap()), (60, 0, 0, 0));
    stage.moved(&stage.mails(60, &[])).await;
}
