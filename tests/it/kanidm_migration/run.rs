use std::collections::BTreeSet;

use futures_util::StreamExt as _;
use sidle::proto::*;
use sidle_dev::random_word;
use uuid::Uuid;

use super::{counts, stage};
use crate::migration::reason;
use crate::support::within;

#[tokio::test]
async fn a_migration_moves_everybody_but_those_who_cannot_be_and_says_why() {
    let stage = stage().await;
    stage.users(300).await;
    let plan = stage.plan().await;
    assert_eq!(plan.will_be_created, 300);
    // After the plan, so that Kanidm itself refuses them, in batches with innocent others.
    let clashing = [7, 40, 41, 150, 299];
    for n in clashing {
        stage.kanidm.create_person(&format!("x{}", random_word(12)), "Somebody", &stage.mail(n)).await.unwrap();
    }
    let namesake = format!("{}-77", stage.slug);
    stage.kanidm.create_person(&namesake, "Somebody", &stage.mail("namesake")).await.unwrap();
    let migration = stage.start(&plan).await;
    assert_eq!(migration.counts.as_ref().unwrap().pending, 300);
    let seen = stage.watch(&migration).await;
    let last = seen.last().unwrap();
    assert_eq!((last.state(), counts(last)), (MigrationState::Completed, (294, 6, 0, 0)));

    let failed: BTreeSet<(String, ItemReason)> = stage
        .items(&migration.migration_id)
        .await
        .into_values()
        .filter(|item| item.state() == ItemState::Failed)
        .map(|item| (item.email.clone(), item.reason()))
        .collect();
    let mut expected: BTreeSet<(String, ItemReason)> =
        clashing.iter().map(|n| (stage.mail(n), ItemReason::MailTaken)).collect();
    expected.insert((stage.mail(77), ItemReason::NameTaken));
    assert_eq!(failed, expected);
    let named: i32 = seen.iter().map(|message| i32::try_from(message.failures.len()).unwrap()).sum();
    assert!(named <= 6 && seen.iter().flat_map(|m| &m.failures).all(|failure| failure.remedy.ends_with('.')));
    stage.moved(&stage.mails(300, &[7, 40, 41, 77, 150, 299])).await;

    let mut client = stage.client.migration.clone();
    let read =
        client.get_migration(GetMigrationRequest { migration_id: migration.migration_id.clone() }).await.unwrap();
    let read = read.into_inner().migration.unwrap();
    assert_eq!(read.reasons.iter().map(|count| count.items).sum::<i64>(), 6);
    assert!(read.ended_at.is_some() && read.state() == MigrationState::Completed);
    let filter = ListMigrationItemsRequest {
        migration_id: migration.migration_id.clone(),
        reasons: vec![ItemReason::NameTaken as i32],
        ..Default::default()
    };
    assert_eq!(client.list_migration_items(filter).await.unwrap().into_inner().items.len(), 1);

    // Each link is an event of its own, and so is each batch.
    let links: i64 = sqlx::query_scalar(
        "SELECT count(DISTINCT target_id) FROM audit_events WHERE event_type = 'migration.item_linked'
         AND details ->> 'migration_id' = $1",
    )
    .bind(&migration.migration_id)
    .fetch_one(stage.server.sql())
    .await
    .unwrap();
    assert_eq!(links, 294);
}

#[tokio::test]
async fn a_watcher_resumes_anywhere_without_missing_or_repeating_a_step() {
    let stage = stage().await;
    stage.users(200).await;
    let plan = stage.plan().await;
    let migration = stage.start(&plan).await;
    // One that is cut after every message, and one that is not.
    let mut request = WatchMigrationRequest { migration_id: migration.migration_id.clone(), ..Default::default() };
    let mut pieces = Vec::new();
    within("the migration ends", async {
        loop {
            let mut stream =
                stage.client.migration.clone().watch_migration(request.clone()).await.unwrap().into_inner();
            let Some(message) = stream.next().await else { break };
            let message = message.unwrap();
            request.cursor = message.cursor.clone();
            pieces.push(message);
        }
    })
    .await;
    super::adds_up(&pieces);
    assert_eq!(pieces.last().unwrap().state(), MigrationState::Completed);
    // From the first cursor on, everything is sent again, the same for every watcher.
    request.cursor = pieces[0].cursor.clone();
    let stream = stage.client.migration.clone().watch_migration(request.clone()).await.unwrap().into_inner();
    let whole: Vec<WatchMigrationResponse> = stream.map(Result::unwrap).collect().await;
    let steps = |messages: &[WatchMigrationResponse]| {
        messages.iter().filter(|m| !m.heartbeat).map(|m| (m.step, m.counts.unwrap(), m.finished)).collect::<Vec<_>>()
    };
    assert_eq!(steps(&whole), steps(&pieces)[1..]);
    // Past the end there is nothing, and a new watcher sees how it ended.
    request.cursor = pieces.last().unwrap().cursor.clone();
    let mut stream = stage.client.migration.clone().watch_migration(request.clone()).await.unwrap().into_inner();
    assert!(within("the end of the stream", stream.next()).await.is_none());
    assert_eq!(stage.watch(&migration).await.len(), 1);

    // A cursor is bound to one caller and one migration.
    let other = WatchMigrationRequest { migration_id: Uuid::new_v4().to_string(), ..request };
    let refused = stage.client.migration.clone().watch_migration(other).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_PAGE_TOKEN");
}

#[tokio::test]
async fn users_who_changed_since_the_plan_are_left_alone() {
    let stage = stage().await;
    let imported = stage.users(60).await;
    let plan = stage.plan().await;
    let id = |line| Uuid::parse_str(&imported.verdict(line).user_id).unwrap();
    for (line, change) in [
        (3, "UPDATE users SET email = 'new@x.example', email_key = 'new@x.example' WHERE user_id = $1"),
        (13, "UPDATE users SET status = 'disabled' WHERE user_id = $1"),
        (23, "UPDATE users SET deleted_at = now() WHERE user_id = $1"),
        (
            33,
            "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source)
              SELECT gen_random_uuid(), u.tenant_id, u.user_id, r.role_id, 'local' FROM users u, roles r
              WHERE u.user_id = $1 AND r.name = 'admin' AND r.tenant_id IS NULL",
        ),
        (43, "UPDATE users SET auth_method = 'dual', kanidm_user_id = gen_random_uuid() WHERE user_id = $1"),
    ] {
        sqlx::query(change).bind(id(line)).execute(stage.server.sql()).await.unwrap();
    }
    let migration = stage.start(&plan).await;
    let seen = stage.watch(&migration).await;
    assert_eq!(counts(seen.last().unwrap()), (55, 0, 5, 0));
    let items = stage.items(&migration.migration_id).await;
    for (line, expected) in [
        (3, ItemReason::UserChanged),
        (13, ItemReason::UserChanged),
        (23, ItemReason::UserDeleted),
        (33, ItemReason::UserChanged),
        (43, ItemReason::AlreadyMigrated),
    ] {
        let item = &items[&stage.mail(line)];
        assert_eq!((item.state(), item.reason()), (ItemState::Skipped, expected), "{line}");
        assert_eq!(stage.kanidm.person(&id(line).to_string()).await.unwrap(), None, "{line}");
    }
}
