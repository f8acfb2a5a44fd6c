use serde_json::json;
use sidle::proto::*;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::{Stage, counts, stage};
use crate::migration::reason;

async fn sync(stage: &Stage, validate_only: bool) -> Result<Vec<TenantGroup>, tonic::Status> {
    let request = SyncTenantGroupsRequest { tenant_ids: vec![stage.tenant.to_string()], validate_only };
    Ok(stage.client.migration.clone().sync_tenant_groups(request).await?.into_inner().groups)
}

async fn recorded(stage: &Stage) -> Vec<(Uuid, String, bool)> {
    sqlx::query_as(
        "SELECT kanidm_group_uuid, kanidm_group_name, confirmed_at IS NOT NULL FROM kanidm_tenant_groups
         WHERE tenant_id = $1 ORDER BY role DESC",
    )
    .bind(stage.tenant)
    .fetch_all(stage.server.sql())
    .await
    .unwrap()
}

#[tokio::test]
async fn both_groups_are_made_once_and_known_by_uuid() {
    let stage = stage().await;
    let foreseen = sync(&stage, true).await.unwrap();
    assert_eq!(foreseen.iter().map(|group| group.group_uuid.as_str()).collect::<Vec<_>>(), ["", ""]);
    assert!(recorded(&stage).await.is_empty(), "validation records nothing");

    let made = sync(&stage, false).await.unwrap();
    let again = sync(&stage, false).await.unwrap();
    let roles = [TenantGroupRole::Member, TenantGroupRole::Admin];
    let names = [format!("tenant_{}_users", stage.slug), format!("tenant_{}_admins", stage.slug)];
    for (at, (group, name)) in made.iter().zip(&names).enumerate() {
        assert_eq!((group.role(), group.outcome()), (roles[at], TenantGroupOutcome::Created));
        assert_eq!((&again[at].group_uuid, again[at].outcome()), (&group.group_uuid, TenantGroupOutcome::Confirmed));
        let entry = stage.kanidm.get(&format!("/v1/group/{name}")).await.unwrap();
        assert_eq!(entry["attrs"]["uuid"][0], group.group_uuid.as_str());
        assert_eq!(recorded(&stage).await[at], (Uuid::parse_str(&group.group_uuid).unwrap(), name.clone(), true));
    }
}

#[tokio::test]
async fn a_crash_between_recording_and_confirming_is_made_good() {
    let stage = stage().await;
    sync(&stage, false).await.unwrap();
    // As after a lost reply: the group exists, and that is not recorded.
    sqlx::query("UPDATE kanidm_tenant_groups SET confirmed_at = NULL WHERE tenant_id = $1")
        .bind(stage.tenant)
        .execute(stage.server.sql())
        .await
        .unwrap();
    // As before the call: the uuid is recorded, and Kanidm does not know it.
    let fresh = Uuid::new_v4();
    sqlx::query(
        "UPDATE kanidm_tenant_groups SET kanidm_group_uuid = $2, kanidm_group_name = kanidm_group_name || '2'
         WHERE tenant_id = $1 AND role = 'admin'",
    )
    .bind(stage.tenant)
    .bind(fresh)
    .execute(stage.server.sql())
    .await
    .unwrap();
    let groups = sync(&stage, false).await.unwrap();
    assert_eq!(groups[0].outcome(), TenantGroupOutcome::Confirmed);
    assert_eq!((groups[1].outcome(), &groups[1].group_uuid), (TenantGroupOutcome::Created, &fresh.to_string()));
    assert!(recorded(&stage).await.iter().all(|(.., confirmed)| *confirmed));
}

#[tokio::test]
async fn a_group_that_others_made_under_our_name_is_never_adopted() {
    let stage = stage().await;
    stage.users(5).await;
    let name = format!("tenant_{}_admins", stage.slug);
    stage.kanidm.post("/v1/group", &json!({ "attrs": { "name": [name] } })).await.unwrap();
    for validate_only in [true, false] {
        let refused = sync(&stage, validate_only).await.unwrap_err();
        assert_eq!(reason(&refused), "GROUP_NOT_OURS");
        let info = refused.get_error_details().error_info().unwrap().clone();
        assert_eq!(info.metadata.get("groups"), Some(&name));
    }
    // The other group was made all the same, and no person was put into the foreign one.
    let users = stage.kanidm.get(&format!("/v1/group/tenant_{}_users", stage.slug)).await.unwrap();
    assert_ne!(users, serde_json::Value::Null);
    let plan = stage.plan().await;
    assert_eq!((plan.will_be_refused, plan.reasons[0].reason()), (5, ItemReason::GroupNotOurs));
    assert!(stage.kanidm.members(&name).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_foreign_group_that_appears_after_the_plan_fails_the_items() {
    let stage = stage().await;
    stage.users(5).await;
    let plan = stage.plan().await;
    assert_eq!(plan.will_be_created, 5);
    let name = format!("tenant_{}_users", stage.slug);
    stage.kanidm.post("/v1/group", &json!({ "attrs": { "name": [name] } })).await.unwrap();
    let migration = stage.start(&plan).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (0, 5, 0, 0));
    assert!(stage.persons().await.is_empty(), "nobody is made who cannot be grouped");
}
