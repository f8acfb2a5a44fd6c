//! Which persons may sign in, and to which tenants.

use sidle::proto;

use super::{World, group, is_good, person};
use crate::authenticate::{attempt, set};
use crate::look::{event, reason, reasons};
use crate::support::ADMIN_PASSWORD;

#[tokio::test]
async fn a_linked_user_signs_in_by_either_door() {
    let world = World::new().await;
    attempt(&world.server, "ann@example.com", ADMIN_PASSWORD).await.expect("with the password");
    let completed: bool = world.column("SELECT migration_completed_at IS NULL FROM users WHERE user_id = $1").await;
    assert!(completed, "a password login migrates nobody");

    let signed_in = world.login().await.expect("through Kanidm");
    let user = signed_in.user.clone().unwrap();
    assert_eq!((user.user_id, signed_in.tenant_id.clone()), (world.user.to_string(), world.tenant.to_string()));
    let tokens = signed_in.tokens.unwrap();
    let mut client = world.server.client(&tokens.access_token);
    let session = client.session.get_session(proto::GetSessionRequest::default()).await.unwrap().into_inner();
    let session = session.session.unwrap();
    assert_eq!(session.auth_method(), proto::SessionAuthMethod::Kanidm);
    assert!(!session.kanidm_session_id.is_empty(), "Kanidm's own session is known");
    let completed: bool = world.column("SELECT migration_completed_at IS NOT NULL FROM users WHERE user_id = $1").await;
    assert!(completed);
    assert_eq!(event(&world.server, "user.migrated").await.target_id, Some(world.user.to_string()));
    let sources: i64 = world.column("SELECT count(*) FROM memberships WHERE user_id = $1 AND source = 'kanidm'").await;
    assert_eq!(sources, 1, "the group's membership stands beside the local one");

    world.login().await.expect("again");
    assert_eq!(reasons(&world.server, "user.migrated", "success").await.len(), 1, "migrated once");
    let sealed: Vec<u8> = world
        .column("SELECT kanidm_refresh_token FROM sessions WHERE user_id = $1 AND auth_method = 'kanidm' LIMIT 1")
        .await;
    assert_eq!(sealed[0], 1, "Kanidm's refresh token is kept sealed");
}

#[tokio::test]
async fn nobody_signs_in_by_name_or_address() {
    let world = World::new().await;
    let (stranger, bearer) = person(&world.kanidm, "stranger").await;
    let entry = world.kanidm.person(&stranger.to_string()).await.unwrap().unwrap();
    let name = entry["name"][0].as_str().unwrap();
    // A user with the very name and address of the person, in the person's group; but they are not linked.
    let user = world.server.user(world.tenant, &format!("{name}@example.com"), "admin").await;
    set(&world.server, user, &format!("username = '{name}', username_key = '{name}', auth_method = 'password'")).await;
    world.kanidm.add_member(&world.group.to_string(), &stranger.to_string()).await.unwrap();
    assert_eq!(reason(&world.login_as(&bearer).await.unwrap_err()), "PERSON_NOT_LINKED");
    assert_eq!(reasons(&world.server, "user.login_refused", "refused").await, ["not_linked"]);
}

#[tokio::test]
async fn who_was_rolled_back_or_disabled_does_not_come_in() {
    let world = World::new().await;
    set(&world.server, world.user, "auth_method = 'password'").await;
    assert_eq!(reason(&world.login().await.unwrap_err()), "PERSON_NOT_LINKED");
    set(&world.server, world.user, "auth_method = 'kanidm', status = 'disabled'").await;
    assert_eq!(reason(&world.login().await.unwrap_err()), "INVALID_CREDENTIALS");
    set(&world.server, world.user, "status = 'active', deleted_at = now()").await;
    assert_eq!(reason(&world.login().await.unwrap_err()), "PERSON_NOT_LINKED");
}

#[tokio::test]
async fn an_administrators_lock_shuts_this_door_too_and_a_lock_after_failures_does_not() {
    let world = World::new().await;
    let until = "locked_until = now() + interval '1 hour'";
    set(&world.server, world.user, &format!("{until}, lock_reason = 'too_many_failures'")).await;
    world.login().await.expect("whoever guesses locks nobody out of Kanidm");
    set(&world.server, world.user, &format!("{until}, lock_reason = 'administrator'")).await;
    assert_eq!(reason(&world.login().await.unwrap_err()), "INVALID_CREDENTIALS");
    assert_eq!(reasons(&world.server, "user.login_refused", "refused").await, ["locked"]);
    let told = event(&world.server, "user.login_refused").await;
    assert_eq!((told.target_id.clone(), told.tenant_id), (Some(world.user.to_string()), Some(world.tenant)));
    let came_from = "SELECT count(*) FROM audit_events WHERE event_type = 'user.login_refused' AND origin_subject = $1";
    assert_eq!(world.column::<i64>(came_from).await, 0, "whoever came has not shown to be the user");
    let signed_in = event(&world.server, "user.authenticated").await;
    assert_eq!((signed_in.actor_id, signed_in.tenant_id), (Some(world.user), Some(world.tenant)));
    assert_eq!(signed_in.target_id.clone(), Some(world.user.to_string()));
    assert_eq!(signed_in.details["first_kanidm_login"], true);
}

#[tokio::test]
async fn groups_give_tenants_and_only_recorded_ones_do() {
    let world = World::new().await;
    let (server, kanidm) = (&world.server, &world.kanidm);
    sqlx::query("DELETE FROM memberships").execute(server.sql()).await.unwrap();
    assert_eq!(world.login().await.unwrap().tenant_id, world.tenant.to_string(), "the group gives the tenant");

    let other = server.tenant("b").await;
    let admins = group(kanidm, server, other, "admin").await;
    kanidm.add_member(&admins.to_string(), &world.person.to_string()).await.unwrap();
    let signed_in = world.login().await.unwrap();
    let mut client = server.client(&signed_in.tokens.unwrap().access_token).authenticate;
    let tenants = client.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner().tenants;
    let seen: Vec<_> = tenants.iter().map(|tenant| (tenant.slug.as_str(), tenant.roles.join(","))).collect();
    assert_eq!(seen, [("a", "user".to_owned()), ("b", "admin".to_owned())]);

    // A group that is not recorded, whatever its name, and one mapped to a role of the platform.
    let name = format!("tenant_c_{}", uuid::Uuid::new_v4().simple());
    let named = serde_json::json!({ "attrs": { "name": [name] } });
    kanidm.post("/v1/group", &named).await.unwrap();
    kanidm.add_member(&name, &world.person.to_string()).await.unwrap();
    let platform = "UPDATE kanidm_tenant_groups SET role_id = (SELECT role_id FROM roles WHERE is_platform LIMIT 1) WHERE tenant_id = $1";
    sqlx::query(platform).bind(other).execute(server.sql()).await.unwrap();
    let signed_in = world.login().await.unwrap();
    let mut client = server.client(&signed_in.tokens.unwrap().access_token).authenticate;
    let me = client.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner();
    assert_eq!(me.tenants.len(), 1, "{:?}", me.tenants);
    assert!(me.claims.unwrap().platform_permissions.is_empty());

    for group in [&world.group, &admins] {
        kanidm.remove_member(&group.to_string(), &world.person.to_string()).await.unwrap();
    }
    assert_eq!(reason(&world.login().await.unwrap_err()), "NO_TENANT");
}

#[tokio::test]
async fn losing_a_group_ends_older_tokens_at_the_next_login() {
    let world = World::new().await;
    let admins = group(&world.kanidm, &world.server, world.tenant, "admin").await;
    world.kanidm.add_member(&admins.to_string(), &world.person.to_string()).await.unwrap();
    let admin = world.login().await.unwrap().tokens.unwrap();
    assert!(is_good(&world.server, &admin.access_token).await);
    world.kanidm.remove_member(&admins.to_string(), &world.person.to_string()).await.unwrap();
    let member = world.login().await.unwrap().tokens.unwrap();
    assert!(!is_good(&world.server, &admin.access_token).await, "it still said admin");
    assert!(is_good(&world.server, &member.access_token).await);
    let refreshed = world.refresh(&admin.refresh_token, 1).await.unwrap().tokens.unwrap();
    let mut client = world.server.client(&refreshed.access_token).authenticate;
    let claims = client.who_am_i(proto::WhoAmIRequest {}).await.unwrap().into_inner().claims.unwrap();
    assert_eq!(claims.roles, ["user"]);
}
