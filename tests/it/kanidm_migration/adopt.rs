//! Persons that already exist in Kanidm under a user's uuid: when they are adopted.

use serde_json::json;
use sidle::proto::*;
use sidle_dev::random_word;

use super::{Stage, counts, stage};

async fn person(stage: &Stage, uuid: &str, name: &str, mail: &str, display_name: &str) {
    let entry = json!({ "attrs": {
        "class": ["object", "account", "person"], "uuid": [uuid], "name": [name], "displayname": [display_name],
        "mail": [mail],
    }});
    stage.kanidm.post("/v1/raw/create", &json!({ "entries": [entry] })).await.unwrap();
}

#[tokio::test]
async fn without_an_intent_nobody_is_adopted() {
    let stage = stage().await;
    let imported = stage.users(50).await;
    let plan = stage.plan().await;
    // An attacker with the right to create persons guesses exactly what is to be created.
    let name = format!("{}-33", stage.slug);
    person(&stage, &imported.verdict(33).user_id, &name, &stage.mail(33), "Person 33").await;
    let migration = stage.start(&plan).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (49, 1, 0, 1));
    let item = &stage.items(&migration.migration_id).await[&stage.mail(33)];
    assert_eq!((item.state(), item.reason()), (ItemState::NeedsReview, ItemReason::PersonNotOurs));
    stage.moved(&stage.mails(50, &[33])).await;
}

#[tokio::test]
async fn with_an_intent_only_the_intended_person_without_a_credential_is_adopted() {
    let stage = stage().await;
    let imported = stage.users(6).await;
    let id = |line| imported.verdict(line).user_id.clone();
    for line in 1..=6 {
        stage.earlier_intent(&id(line), &format!("{}-{line}", stage.slug), &format!("Person {line}")).await;
    }
    let name = |line: i64| format!("{}-{line}", stage.slug);
    let plan = stage.plan().await;
    assert_eq!(plan.will_be_created, 6);
    // After the plan, so that the engine has to notice it.
    person(&stage, &id(1), &name(1), &stage.mail(1), "Person 1").await;
    person(&stage, &id(2), &name(2), &stage.mail("elsewhere"), "Person 2").await;
    person(&stage, &id(3), &format!("x{}", random_word(12)), &stage.mail(3), "Person 3").await;
    person(&stage, &id(4), &name(4), &stage.mail(4), "Mallory").await;
    person(&stage, &id(5), &name(5), &stage.mail(5), "Person 5").await;
    let link = stage.kanidm.reset_link(&id(5)).await.unwrap();
    stage.kanidm.use_reset_link(&link, &format!("{}-{}", random_word(12), random_word(12))).await.unwrap();
    let migration = stage.start(&plan).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (2, 4, 0, 4));
    let items = stage.items(&migration.migration_id).await;
    for (line, reason) in [
        (2, ItemReason::PersonDiffers),
        (3, ItemReason::PersonDiffers),
        (4, ItemReason::PersonDiffers),
        (5, ItemReason::PersonHasCredential),
    ] {
        let item = &items[&stage.mail(line)];
        assert_eq!((item.state(), item.reason()), (ItemState::NeedsReview, reason), "{line}");
    }
    stage.moved(&stage.mails(6, &[2, 3, 4, 5])).await;
}

#[tokio::test]
async fn a_person_in_the_recycle_bin_is_a_failure_of_its_own() {
    let stage = stage().await;
    let imported = stage.users(3).await;
    let plan = stage.plan().await;
    let id = imported.verdict(2).user_id.clone();
    person(&stage, &id, &format!("x{}", random_word(12)), &stage.mail("bin"), "Gone").await;
    stage.kanidm.delete_person(&id).await.unwrap();
    let migration = stage.start(&plan).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (2, 1, 0, 0));
    assert_eq!(stage.items(&migration.migration_id).await[&stage.mail(2)].reason(), ItemReason::PersonDeleted);
}
