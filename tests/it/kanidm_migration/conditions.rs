//! Errors of Kanidm that the entries do not cause, or one of a hundred without a valid answer. Needs dev Kanidm's
//! switches.

use std::time::Duration;

use sidle::proto::*;

use super::{Stage, counts, stage, stage_with};
use crate::support::{until, within};

const CREATE: &str = "/v1/raw/create";
const MEMBERS: &str = "/v1/group/";
const JOIN: &str = "POST /v1/group/{id}/_attr/{attr}";

/// Watches until the migration waits for `wait`; returns the message.
async fn waits(stage: &Stage, migration: &Migration, wait: WaitReason) -> WatchMigrationResponse {
    let request = WatchMigrationRequest { migration_id: migration.migration_id.clone(), ..Default::default() };
    let mut stream = stage.client.migration.clone().watch_migration(request).await.unwrap().into_inner();
    within("the migration waits for that", async {
        loop {
            let message = stream.message().await.unwrap().expect("it does not end");
            if message.waiting_for() == wait {
                return message;
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_full_disk_at_kanidm_fails_nobody_and_the_job_goes_on_by_itself() {
    let stage = stage().await;
    stage.users(400).await;
    let plan = stage.plan().await;
    let full = (500, r#""backendengine""#);
    stage.kanidm.answer_with(CREATE, None, full, None).await.unwrap();
    let migration = stage.start(&plan).await;
    let message = waits(&stage, &migration, WaitReason::KanidmFailing).await;
    assert_eq!((message.state(), counts(&message)), (MigrationState::Running, (0, 0, 0, 0)));
    let tries = stage.kanidm.requests("POST /v1/raw/create").await.unwrap();
    assert!(tries < 10, "a condition of the server is not taken apart: {tries} tries");
    // Now persons can be created, but not added to groups.
    stage.kanidm.heal().await.unwrap();
    let before = stage.kanidm.requests(JOIN).await.unwrap();
    stage.kanidm.answer_with(MEMBERS, Some("["), full, None).await.unwrap();
    until("Kanidm is asked to put somebody into a group", async || {
        stage.kanidm.requests(JOIN).await.unwrap() != before
    })
    .await;
    let message = waits(&stage, &migration, WaitReason::KanidmFailing).await;
    assert_eq!(counts(&message), (0, 0, 0, 0));
    stage.kanidm.heal().await.unwrap();
    let last = stage.watch(&migration).await.pop().unwrap();
    assert_eq!((last.state(), counts(&last)), (MigrationState::Completed, (400, 0, 0, 0)));
    assert_eq!(last.waiting_for(), WaitReason::Unspecified);
    stage.moved(&stage.mails(400, &[])).await;
}

#[tokio::test]
async fn every_condition_of_the_server_is_told_and_waited_for() {
    let stage = stage().await;
    for (round, (status, body, wait)) in [
        (500, r#""backend""#, WaitReason::KanidmFailing),
        (500, r#""resourcelimit""#, WaitReason::KanidmFailing),
        (413, "", WaitReason::KanidmFailing),
        (401, "", WaitReason::KanidmAccessDenied),
        (403, r#""accessdenied""#, WaitReason::KanidmAccessDenied),
        (500, "", WaitReason::KanidmUnavailable),
        (500, "Internal Server Error", WaitReason::KanidmUnavailable),
        (400, "<html>no</html>", WaitReason::KanidmUnavailable),
        (422, "Failed to deserialize the JSON body", WaitReason::KanidmUnavailable),
        (404, "", WaitReason::KanidmUnavailable),
        (404, "404 page not found", WaitReason::KanidmUnavailable),
        (404, r#""nomatchingentries""#, WaitReason::KanidmAnswersUnclear),
        (500, r#"{"somethingnew":1}"#, WaitReason::KanidmAnswersUnclear),
    ]
    .into_iter()
    .enumerate()
    {
        let rows = (1..=6).map(|n| {
            let n = n + 100 * i64::try_from(round).unwrap();
            crate::migration::row(n, &stage.mail(n))
        });
        crate::migration::import(&stage.client, crate::migration::header(&stage.slug), rows.collect()).await.unwrap();
        let plan = stage.plan().await;
        assert_eq!(plan.will_be_created, 6);
        stage.kanidm.answer_with(CREATE, None, (status, body), None).await.unwrap();
        let migration = stage.start(&plan).await;
        let message = waits(&stage, &migration, wait).await;
        assert_eq!(counts(&message), (0, 0, 0, 0), "{status} {body}");
        stage.kanidm.heal().await.unwrap();
        let last = stage.watch(&migration).await.pop().unwrap();
        assert_eq!(counts(&last), (6, 0, 0, 0), "{status} {body}");
    }
}

#[tokio::test]
async fn one_of_a_hundred_without_a_sensible_answer_does_not_hold_up_the_others() {
    let stage = stage().await;
    let imported = stage.users(100).await;
    let plan = stage.plan().await;
    let answers = [
        (422, "Failed to deserialize the JSON body into the target type"),
        (413, ""),
        (500, ""),
        (400, "<html>blocked</html>"),
        (500, r#""somethingnew""#),
        (200, "<html>welcome</html>"),
    ];
    // The first of a batch, the last of one, and between.
    let guilty = [1, 40, 41, 60, 80, 100];
    for (n, answer) in guilty.into_iter().zip(answers) {
        let user = imported.verdict(n).user_id.clone();
        stage.kanidm.answer_with(CREATE, Some(&user), answer, None).await.unwrap();
    }
    let migration = stage.start(&plan).await;
    let last = stage.watch(&migration).await.pop().unwrap();
    assert_eq!((last.state(), counts(&last)), (MigrationState::Completed, (94, 6, 0, 6)));
    let items = stage.items(&migration.migration_id).await;
    for n in guilty {
        let item = &items[&stage.mail(n)];
        assert_eq!((item.state(), item.reason()), (ItemState::NeedsReview, ItemReason::AnswerUnclear), "{n}");
        assert!(item.remedy.ends_with('.'));
    }
    stage.moved(&stage.mails(100, &guilty)).await;
    // Once the answers are valid again, a new plan includes them.
    stage.kanidm.heal().await.unwrap();
    let migration = stage.start(&stage.plan().await).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (6, 0, 0, 0));
    stage.moved(&stage.mails(100, &[])).await;
}

#[tokio::test]
async fn answers_that_nobody_understands_end_after_a_bounded_number_of_tries() {
    let bounds = |setup: crate::support::Setup| {
        setup.with("MIGRATION__UNCLEAR_TRIES", "3").with("MIGRATION__UNCLEAR_TIME", "0s")
    };
    let stage = stage_with(bounds).await;
    stage.users(50).await;
    for (status, body, wait) in [
        (418, r#""teapot""#, WaitReason::KanidmAnswersUnclear),
        (200, "<html>welcome</html>", WaitReason::KanidmUnavailable),
    ] {
        let plan = stage.plan().await;
        stage.kanidm.answer_with(CREATE, None, (status, body), None).await.unwrap();
        let migration = stage.start(&plan).await;
        let last = stage.watch(&migration).await.pop().unwrap();
        assert_eq!((last.state(), counts(&last)), (MigrationState::Cancelled, (0, 0, 50, 0)));
        assert_eq!(last.waiting_for(), wait, "it tells what it stopped for");
        let items = stage.items(&migration.migration_id).await;
        assert!(items.values().all(|item| item.reason() == ItemReason::Stopped));
        stage.kanidm.heal().await.unwrap();
    }
    // No user is held by the stopped migration.
    let migration = stage.start(&stage.plan().await).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (50, 0, 0, 0));
    stage.moved(&stage.mails(50, &[])).await;
}

/// A page in place of Kanidm's answer stays until an operator repairs the proxy before it.
#[tokio::test]
async fn answers_that_nobody_understands_are_waited_out_for_a_while() {
    let once = |setup: crate::support::Setup| setup.with("MIGRATION__UNCLEAR_TRIES", "1");
    let stage = stage_with(once).await;
    stage.users(5).await;
    stage.kanidm.answer_with(CREATE, None, (404, "404 page not found"), None).await.unwrap();
    let migration = stage.start(&stage.plan().await).await;
    until("fifteen tries", async || stage.kanidm.requests("POST /v1/raw/create").await.unwrap() >= 15).await;
    let message = waits(&stage, &migration, WaitReason::KanidmUnavailable).await;
    assert_eq!((message.state(), counts(&message)), (MigrationState::Running, (0, 0, 0, 0)));
    stage.kanidm.heal().await.unwrap();
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (5, 0, 0, 0));
}

#[tokio::test]
async fn a_kanidm_slower_than_the_time_limit_gets_smaller_batches_until_it_comes_through() {
    let limits =
        |setup: crate::support::Setup| setup.with("KANIDM__TIMEOUT", "3s").with("MIGRATION__LONGEST_CALL", "4s");
    let stage = stage_with(limits).await;
    stage.users(30).await;
    let plan = stage.plan().await;
    // A batch of 30 takes nine seconds; the longest call is four.
    stage.kanidm.slow(CREATE, Duration::from_millis(300)).await.unwrap();
    let migration = stage.start(&plan).await;
    waits(&stage, &migration, WaitReason::KanidmTooSlow).await;
    let last = stage.watch(&migration).await.pop().unwrap();
    assert_eq!((last.state(), counts(&last)), (MigrationState::Completed, (30, 0, 0, 0)));
    stage.moved(&stage.mails(30, &[])).await;
}
