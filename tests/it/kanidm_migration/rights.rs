//! A user who ceases to be an administrator does not become one again through a group that Sidle put them into.

use serde_json::json;
use sidle::proto::*;
use uuid::Uuid;

use super::{Stage, counts, stage};
use crate::support::until;

const JOIN: &str = "POST /v1/group/{id}/_attr/{attr}";
const PASSWORD: &str = "a-password-that-Kanidm-likes-4711";

/// A demotion: the administrator's role is removed, a plain one is added.
async fn demote(stage: &Stage, user: &str) {
    let mut client = stage.client.directory.clone();
    let list =
        ListMembershipsRequest { tenant_id: stage.tenant.to_string(), user_id: user.to_owned(), ..Default::default() };
    let held = client.list_memberships(list).await.unwrap().into_inner().memberships;
    for membership in held.iter().filter(|held| held.role_name == "admin" && held.source() != GrantSource::Kanidm) {
        let delete = DeleteMembershipRequest { membership_id: membership.membership_id.clone(), ..Default::default() };
        let call = async |request| stage.client.directory.clone().delete_membership(request).await;
        stage.client.proving(delete, call).await.unwrap();
    }
    give(stage, user, "user").await;
}

async fn give(stage: &Stage, user: &str, role: &str) {
    let role: Uuid = sqlx::query_scalar("SELECT role_id FROM roles WHERE name = $1 AND tenant_id IS NULL")
        .bind(role)
        .fetch_one(stage.server.sql())
        .await
        .unwrap();
    give_role(stage, user, role).await;
}

async fn give_role(stage: &Stage, user: &str, role: Uuid) {
    let create = CreateMembershipRequest {
        request_id: Uuid::new_v4().to_string(),
        validate_only: false,
        user_id: user.to_owned(),
        tenant_id: stage.tenant.to_string(),
        role_id: role.to_string(),
    };
    let call = async |request| stage.client.directory.clone().create_membership(request).await;
    stage.client.proving(create, call).await.unwrap();
}

/// Signs a migrated user in through Kanidm; returns the roles they have then.
async fn roles_after_login(stage: &Stage, user: &str) -> Vec<String> {
    let person = stage.kanidm.person(user).await.unwrap().expect("a person");
    let status = stage.kanidm.get(&format!("/v1/person/{user}/_credential/_status")).await;
    if !status.is_ok_and(|status| status["creds"].as_array().is_some_and(|creds| !creds.is_empty())) {
        let link = stage.kanidm.reset_link(user).await.unwrap();
        stage.kanidm.use_reset_link(&link, PASSWORD).await.unwrap();
    }
    let bearer = stage.kanidm.sign_in(person["name"][0].as_str().unwrap(), PASSWORD).await.unwrap();
    let mut client = stage.server.client("").authenticate;
    let start =
        StartKanidmLoginRequest { redirect_uri: "https://app.example/callback".to_owned(), ..Default::default() };
    let begun = client.start_kanidm_login(start).await.unwrap().into_inner();
    let back = stage.kanidm.authorise(&bearer, &begun.authorization_url).await.unwrap();
    let complete = CompleteKanidmLoginRequest { state: back.state, code: back.code, login_secret: begun.login_secret };
    let signed_in = client.complete_kanidm_login(complete).await.unwrap().into_inner().signed_in.unwrap();
    let mut client = stage.server.client(&signed_in.tokens.unwrap().access_token).authenticate;
    client.who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().claims.unwrap().roles
}

/// Links a user by hand, as an administrator does after a review.
async fn link(stage: &Stage, user: &str) {
    let linked = sqlx::query(
        "UPDATE users SET auth_method = 'dual', kanidm_user_id = user_id, kanidm_synced_at = now()
         WHERE user_id::text = $1 AND kanidm_user_id IS NULL",
    );
    assert_eq!(linked.bind(user).execute(stage.server.sql()).await.unwrap().rows_affected(), 1);
}

async fn administers_in_kanidm(stage: &Stage, user: &str) -> bool {
    let person = stage.kanidm.person(user).await.unwrap().expect("a person");
    let name = person["name"][0].as_str().unwrap().to_owned();
    stage.kanidm.members(&format!("tenant_{}_admins", stage.slug)).await.unwrap().contains(&name)
}

#[tokio::test]
async fn who_is_demoted_before_the_run_is_moved_as_what_they_are() {
    let stage = stage().await;
    let imported = stage.users(20).await;
    let user = &imported.verdict(10).user_id;
    let plan = stage.plan().await;
    demote(&stage, user).await;
    let migration = stage.start(&plan).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (19, 0, 1, 0));
    let item = &stage.items(&migration.migration_id).await[&stage.mail(10)];
    assert_eq!((item.state(), item.reason()), (ItemState::Skipped, ItemReason::UserChanged));
    let migration = stage.start(&stage.plan().await).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (1, 0, 0, 0));
    assert!(!administers_in_kanidm(&stage, user).await);
    assert_eq!(roles_after_login(&stage, user).await, ["user"]);
}

/// While the request to create the person is at Kanidm: the intent is recorded, nothing is in a group yet.
#[tokio::test]
async fn who_is_demoted_while_the_person_is_made_is_not_put_into_the_group_of_administrators() {
    let stage = stage().await;
    let imported = stage.users(20).await;
    let user = &imported.verdict(10).user_id;
    let plan = stage.plan().await;
    let hold = json!({ "mode": "stall", "path_prefix": "/v1/raw/create", "body_contains": user });
    stage.kanidm.post("/_dev/fault", &hold).await.unwrap();
    let migration = stage.start(&plan).await;
    until("Kanidm has the request", async || stage.kanidm.requests("POST /v1/raw/create").await.unwrap() != 0).await;
    demote(&stage, user).await;
    stage.kanidm.heal().await.unwrap();
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (19, 1, 0, 1));
    let item = &stage.items(&migration.migration_id).await[&stage.mail(10)];
    assert_eq!((item.state(), item.reason()), (ItemState::NeedsReview, ItemReason::UserChangedMeanwhile));
    assert!(!administers_in_kanidm(&stage, user).await);
    link(&stage, user).await;
    assert_eq!(roles_after_login(&stage, user).await, ["user"]);
}

/// While the request to put the person into the group is at Kanidm: it cannot be cancelled, so it counts for nothing.
#[tokio::test]
async fn who_is_demoted_while_the_group_is_joined_gets_nothing_from_the_group() {
    let stage = stage().await;
    let imported = stage.users(20).await;
    let user = &imported.verdict(10).user_id;
    let plan = stage.plan().await;
    let hold = json!({ "mode": "stall", "path_prefix": "/v1/group/", "body_contains": user });
    stage.kanidm.post("/_dev/fault", &hold).await.unwrap();
    let before = stage.kanidm.requests(JOIN).await.unwrap();
    let migration = stage.start(&plan).await;
    until("Kanidm has the request", async || stage.kanidm.requests(JOIN).await.unwrap() != before).await;
    demote(&stage, user).await;
    stage.kanidm.heal().await.unwrap();
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (19, 1, 0, 1));
    assert!(administers_in_kanidm(&stage, user).await, "Kanidm did what it was asked for");
    link(&stage, user).await;
    for _ in 0..2 {
        assert_eq!(roles_after_login(&stage, user).await, ["user"]);
    }
}

#[tokio::test]
async fn who_is_demoted_after_the_run_gets_nothing_from_the_group_until_they_are_promoted() {
    let stage = stage().await;
    let imported = stage.users(30).await;
    let migration = stage.start(&stage.plan().await).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (30, 0, 0, 0));
    // Before the first login through Kanidm, and after it, when the group has already given its own membership.
    let (early, late, other) =
        (&imported.verdict(10).user_id, &imported.verdict(20).user_id, &imported.verdict(30).user_id);
    demote(&stage, early).await;
    assert!(administers_in_kanidm(&stage, early).await, "nobody took them out there");
    assert_eq!(roles_after_login(&stage, early).await, ["user"]);
    assert_eq!(roles_after_login(&stage, late).await, ["admin", "user"]);
    demote(&stage, late).await;
    let left: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM memberships m JOIN roles r USING (role_id) WHERE user_id::text = $1 AND r.is_admin",
    )
    .bind(late)
    .fetch_one(stage.server.sql())
    .await
    .unwrap();
    assert_eq!(left, 0, "what the group gave goes with the right that it came from");
    assert_eq!(roles_after_login(&stage, late).await, ["user"]);
    give(&stage, early, "admin").await;
    assert_eq!(roles_after_login(&stage, early).await, ["admin", "user"]);
    assert_eq!(roles_after_login(&stage, other).await, ["admin", "user"], "nobody else is touched");
}

/// The same when the role loses `is_admin`.
#[tokio::test]
async fn a_role_that_ceases_to_be_an_administrators_takes_the_group_with_it() {
    let stage = stage().await;
    let imported = stage.users(5).await;
    let user = &imported.verdict(1).user_id;
    let role: Uuid = sqlx::query_scalar(
        "INSERT INTO roles (role_id, tenant_id, name, is_admin) VALUES (gen_random_uuid(), $1, 'chief', true) RETURNING role_id",
    )
    .bind(stage.tenant)
    .fetch_one(stage.server.sql())
    .await
    .unwrap();
    give_role(&stage, user, role).await;
    let migration = stage.start(&stage.plan().await).await;
    assert_eq!(counts(stage.watch(&migration).await.last().unwrap()), (5, 0, 0, 0));
    assert!(administers_in_kanidm(&stage, user).await);
    let mut roles = roles_after_login(&stage, user).await;
    roles.sort();
    assert_eq!(roles, ["admin", "user"]);
    let get = GetRoleRequest { role_id: role.to_string() };
    let read = stage.client.directory.clone().get_role(get).await.unwrap().into_inner().role.unwrap();
    let update = UpdateRoleRequest {
        role: Some(Role { is_admin: false, ..read }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["is_admin".to_owned()] }),
        ..Default::default()
    };
    let call = async |request| stage.client.directory.clone().update_role(request).await;
    stage.client.proving(update, call).await.unwrap();
    let mut roles = roles_after_login(&stage, user).await;
    roles.sort();
    assert_eq!(roles, ["user"]);
}
