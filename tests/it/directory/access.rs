//! Delegated administration: it gives no caller more rights, and changes take effect immediately.

use sidle::proto::*;
use uuid::Uuid;

use super::{
    ADMIN, SUPER_ADMIN, SYSTEM_ADMIN, create_role, create_user, events, field, grant, grant_on_platform, mask, member,
    memberships, new_user, reason,
};
use crate::support::{Client, TestServer, until};

async fn who_am_i(client: &Client) -> Result<WhoAmIResponse, tonic::Status> {
    Ok(client.authenticate.clone().who_am_i(WhoAmIRequest {}).await?.into_inner())
}

/// CVE-2026-94000: a delegated administrator gains rights through roles and groups.
#[tokio::test]
async fn an_administrator_of_a_tenant_cannot_rise() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let tenant = server.tenant("north").await;
    let (id, admin) = member(&server, tenant, "admin@north.example", "admin").await;
    let owner = server.user(tenant, "owner@north.example", "super_admin").await;
    let operator = create_user(&root, new_user(tenant, "operator@north.example")).await;
    grant_on_platform(&root, &operator.user_id).await;
    let mut d = admin.directory.clone();

    assert_eq!(reason(d.create_membership(grant(id, Some(tenant), SUPER_ADMIN)).await), "PERMISSION_DENIED");
    assert_eq!(reason(d.create_membership(grant(id, None, SYSTEM_ADMIN)).await), "PERMISSION_DENIED");
    assert_eq!(field(d.create_membership(grant(id, Some(tenant), SYSTEM_ADMIN)).await), "role_id");
    let stronger = CreateUserRequest { role_ids: vec![SUPER_ADMIN.to_owned()], ..new_user(tenant, "x@north.example") };
    assert_eq!(reason(d.create_user(stronger).await), "PERMISSION_DENIED");
    let role = CreateRoleRequest {
        tenant_id: tenant.to_string(),
        name: "MINE".to_owned(),
        permissions: vec!["*".to_owned()],
        ..Default::default()
    };
    assert_eq!(reason(d.create_role(role).await), "PERMISSION_DENIED");
    let account = CreateServiceAccountRequest {
        tenant_id: tenant.to_string(),
        name: "mine".to_owned(),
        permissions: vec!["*".to_owned()],
        ..Default::default()
    };
    assert_eq!(reason(d.create_service_account(account).await), "PERMISSION_DENIED");

    // A stronger user's address, status and roles are out of scope: with the address the password could be reset.
    for stronger in [owner.to_string(), operator.user_id.clone()] {
        let identifier = Some(get_user_request::Identifier::UserId(stronger.clone()));
        let request = GetUserRequest { identifier, include_deleted: false };
        let user = d.get_user(request).await.unwrap().into_inner().user.unwrap();
        let update = UpdateUserRequest {
            user: Some(User { email: "mine@north.example".to_owned(), ..user }),
            update_mask: mask(&["email"]),
            validate_only: false,
        };
        assert_eq!(reason(d.update_user(update).await), "PERMISSION_DENIED");
        let disable = DisableUserRequest { user_id: stronger.clone(), etag: String::new() };
        assert_eq!(reason(d.disable_user(disable).await), "PERMISSION_DENIED");
        let delete = DeleteUserRequest { user_id: stronger.clone(), etag: String::new(), ..Default::default() };
        assert_eq!(reason(d.delete_user(delete).await), "PERMISSION_DENIED");
        let lock = LockUserRequest { user_id: stronger, ..Default::default() };
        assert_eq!(reason(d.lock_user(lock).await), "PERMISSION_DENIED");
    }
    let membership_id = memberships(&root, owner).await.remove(0).membership_id;
    assert_eq!(
        reason(d.delete_membership(DeleteMembershipRequest { membership_id, ..Default::default() }).await),
        "PERMISSION_DENIED"
    );

    // What the caller holds may be granted.
    let user = create_user(&admin, new_user(tenant, "ann@north.example")).await;
    d.create_membership(grant(&user.user_id, Some(tenant), ADMIN)).await.expect("one's own role can be given");
}

#[tokio::test]
async fn everything_in_a_tenant_does_not_reach_past_it() {
    let server = TestServer::start().await;
    server.admin().await;
    let tenant = server.tenant("north").await;
    let (id, owner) = member(&server, tenant, "owner@north.example", "super_admin").await;
    let mut d = owner.directory.clone();
    let role = |tenant: Option<Uuid>, is_platform| CreateRoleRequest {
        tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
        name: "MINE".to_owned(),
        is_platform,
        ..Default::default()
    };
    assert_eq!(reason(d.create_role(role(None, false)).await), "PERMISSION_DENIED", "shared");
    assert_eq!(reason(d.create_role(role(None, true)).await), "PERMISSION_DENIED", "on the platform");
    assert_eq!(field(d.create_role(role(Some(tenant), true)).await), "is_platform");
    let account = CreateServiceAccountRequest { name: "mine".to_owned(), ..Default::default() };
    assert_eq!(reason(d.create_service_account(account).await), "PERMISSION_DENIED", "on the platform");
    assert_eq!(reason(d.create_membership(grant(id, None, SYSTEM_ADMIN)).await), "PERMISSION_DENIED");
    for (name, path) in [("status", "status"), ("external_id", "external_id")] {
        let tenant = Tenant {
            tenant_id: tenant.to_string(),
            etag: "v1".to_owned(),
            status: 2,
            external_id: name.to_owned(),
            ..Default::default()
        };
        let update = UpdateTenantRequest { tenant: Some(tenant), update_mask: mask(&[path]), validate_only: false };
        assert_eq!(reason(d.update_tenant(update).await), "PERMISSION_DENIED", "{path}");
    }
    create_role(&owner, tenant, "EVERYTHING", &["*"]).await;
}

#[tokio::test]
async fn a_user_without_rights_gets_nothing() {
    let server = TestServer::start().await;
    server.admin().await;
    let tenant = server.tenant("north").await;
    let (id, user) = member(&server, tenant, "ann@north.example", "user").await;
    let mut d = user.directory.clone();
    assert_eq!(reason(d.list_users(ListUsersRequest::default()).await), "PERMISSION_DENIED");
    assert_eq!(reason(d.create_membership(grant(id, Some(tenant), ADMIN)).await), "PERMISSION_DENIED");
    assert_eq!(
        reason(server.client("").directory.clone().list_users(ListUsersRequest::default()).await),
        "UNAUTHENTICATED"
    );
}

#[tokio::test]
async fn a_changed_role_counts_at_once() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let tenant = server.tenant("north").await;
    let role = create_role(&root, tenant, "CLERK", &["users.read"]).await;
    let user = server.user(tenant, "ann@north.example", "user").await;
    root.directory.clone().create_membership(grant(user, Some(tenant), &role.role_id)).await.unwrap();
    let tokens = server.sign_in("ann@north.example").await;
    let before = server.client(&tokens.access_token);
    before.directory.clone().list_users(ListUsersRequest::default()).await.expect("the role permits it");

    let update = UpdateRoleRequest {
        role: Some(Role { permissions: vec!["roles.read".to_owned()], ..role.clone() }),
        update_mask: mask(&["permissions"]),
        validate_only: false,
    };
    root.directory.clone().update_role(update.clone()).await.unwrap();
    assert_eq!(reason(before.directory.clone().list_users(ListUsersRequest::default()).await), "UNAUTHENTICATED");
    let told = events(&server, "role.updated").await;
    assert!(told.iter().any(|(_, details)| details["principals"] == serde_json::json!([user.to_string()])), "{told:?}");
    // The session continues, with the new rights.
    let refresh = RefreshTokenRequest {
        refresh_token: tokens.refresh_token,
        request_id: Uuid::from_u128(7).to_string(),
        ..Default::default()
    };
    let fresh =
        server.client("").authenticate.clone().refresh_token(refresh).await.unwrap().into_inner().tokens.unwrap();
    let after = server.client(&fresh.access_token);
    assert_eq!(reason(after.directory.clone().list_users(ListUsersRequest::default()).await), "PERMISSION_DENIED");
    after.directory.clone().list_roles(ListRolesRequest::default()).await.expect("the role permits this now");
    assert_eq!(reason(root.directory.clone().update_role(update).await), "ETAG_MISMATCH");
}

#[tokio::test]
async fn a_given_and_a_taken_role_count_at_once() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let (north, south) = (server.tenant("north").await, server.tenant("south").await);
    let (user, client) = member(&server, north, "ann@north.example", "user").await;
    let answer = root.directory.clone().create_membership(grant(user, Some(south), ADMIN)).await.unwrap().into_inner();
    let membership = answer.membership.unwrap();
    assert_eq!((membership.role_name.as_str(), membership.source), ("admin", GrantSource::Local.into()));
    assert_eq!(reason(client.authenticate.clone().who_am_i(WhoAmIRequest {}).await), "UNAUTHENTICATED");
    let twice = root.directory.clone().create_membership(grant(user, Some(south), ADMIN)).await;
    assert_eq!(reason(twice), "ALREADY_EXISTS");

    // A visitor's access ends too when the visited tenant, whose administrator cannot change the visitor's record,
    // removes the role.
    let (_, boss) = member(&server, south, "boss@south.example", "super_admin").await;
    let visitor = server.client(&server.sign_in("ann@north.example").await.access_token);
    who_am_i(&visitor).await.expect("good before");
    let list = ListMembershipsRequest { user_id: user.to_string(), ..Default::default() };
    let seen = boss.directory.clone().list_memberships(list).await.unwrap().into_inner().memberships;
    assert_eq!(seen.iter().map(|seen| &seen.membership_id).collect::<Vec<_>>(), [&membership.membership_id]);
    let delete = DeleteMembershipRequest { membership_id: membership.membership_id, ..Default::default() };
    boss.directory.clone().delete_membership(delete.clone()).await.unwrap();
    assert!(who_am_i(&visitor).await.is_err());
    assert_eq!(reason(boss.directory.clone().delete_membership(delete).await), "NOT_FOUND");
    let disable = DisableUserRequest { user_id: user.to_string(), etag: String::new() };
    assert_eq!(reason(boss.directory.clone().disable_user(disable).await), "NOT_FOUND");
}

/// A refresh that read the old rights just before they change may issue its token while the change still waits for it.
/// That token must not outlive the change.
#[tokio::test]
async fn a_token_issued_while_rights_change_does_not_keep_the_old_ones() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let tenant = server.tenant("north").await;
    let user = server.user(tenant, "ann@north.example", "user").await;
    // As a refresh does: the user's row is locked, then the rights are read, then the token is issued.
    let mut refresh = server.sql().begin().await.unwrap();
    let row = "SELECT tokens_valid_from FROM users WHERE user_id = $1";
    let named: Option<chrono::DateTime<chrono::Utc>> =
        sqlx::query_scalar(sqlx::AssertSqlSafe(format!("{row} FOR SHARE")))
            .bind(user)
            .fetch_one(&mut *refresh)
            .await
            .unwrap();
    let request = grant(user, Some(tenant), ADMIN);
    let request = root.proven("sidle.v1.DirectoryService/CreateMembership", &user.to_string(), request).await;
    let mut directory = root.plain.clone();
    let change = tokio::spawn(async move { directory.create_membership(request).await });
    let waiting = "SELECT EXISTS (SELECT FROM pg_stat_activity
        WHERE datname = current_database() AND usename = 'sidle_app' AND wait_event_type = 'Lock')";
    until("the change waits for the user's row", async || {
        sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut *refresh).await.unwrap()
    })
    .await;
    // Although the replica's clock is ahead.
    server.context.clock.advance(std::time::Duration::from_secs(60));
    refresh.commit().await.unwrap();
    change.await.unwrap().unwrap();
    let revoked: Option<chrono::DateTime<chrono::Utc>> =
        sqlx::query_scalar(row).bind(user).fetch_one(server.sql()).await.unwrap();
    assert!(named < revoked, "what the token names, {named:?}, comes before {revoked:?}");
}

#[tokio::test]
async fn a_role_in_use_stays_and_a_built_in_one_as_it_is() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let tenant = server.tenant("north").await;
    let role = create_role(&root, tenant, "CLERK", &["users.read"]).await;
    let user = server.user(tenant, "ann@north.example", "user").await;
    let membership = root.directory.clone().create_membership(grant(user, Some(tenant), &role.role_id)).await.unwrap();
    let delete = DeleteRoleRequest { role_id: role.role_id.clone(), etag: role.etag.clone() };
    assert_eq!(reason(root.directory.clone().delete_role(delete.clone()).await), "IN_USE");
    let membership_id = membership.into_inner().membership.unwrap().membership_id;
    root.directory
        .clone()
        .delete_membership(DeleteMembershipRequest { membership_id, ..Default::default() })
        .await
        .unwrap();
    root.directory.clone().delete_role(delete).await.unwrap();
    let again = create_role(&root, tenant, "CLERK", &[]).await;
    let request = CreateRoleRequest { tenant_id: tenant.to_string(), name: "CLERK".to_owned(), ..Default::default() };
    assert_eq!(field(root.directory.clone().create_role(request).await), "name");
    assert_ne!(again.role_id, role.role_id);

    let get = GetRoleRequest { role_id: ADMIN.to_owned() };
    let built_in = root.directory.clone().get_role(get).await.unwrap().into_inner().role.unwrap();
    assert!(built_in.is_built_in);
    let update = UpdateRoleRequest { role: Some(built_in), update_mask: mask(&["permissions"]), validate_only: false };
    assert_eq!(field(root.directory.clone().update_role(update).await), "role_id");
    let delete = DeleteRoleRequest { role_id: ADMIN.to_owned(), etag: String::new() };
    assert_eq!(field(root.directory.clone().delete_role(delete).await), "role_id");
}

#[tokio::test]
async fn a_role_of_one_tenant_is_not_given_in_another() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let (north, south) = (server.tenant("north").await, server.tenant("south").await);
    let role = create_role(&root, south, "CLERK", &[]).await;
    let user = server.user(north, "ann@north.example", "user").await;
    assert_eq!(
        reason(root.directory.clone().create_membership(grant(user, Some(north), &role.role_id)).await),
        "NOT_FOUND"
    );
    assert_eq!(field(root.directory.clone().create_membership(grant(user, None, &role.role_id)).await), "role_id");
}

/// CVE-2026-94000: a role with `is_admin` puts its holder into the tenant's group of administrators in Kanidm, and that
/// group gives what the role itself does not say.
#[tokio::test]
async fn a_delegated_administrator_makes_no_administrators() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let tenant = server.tenant("north").await;
    let delegate = create_role(&root, tenant, "delegate", &["roles.write", "memberships.write", "roles.read"]).await;
    let user = server.user(tenant, "del@north.example", "user").await;
    root.directory.clone().create_membership(grant(user, Some(tenant), &delegate.role_id)).await.unwrap();
    let del = server.client(&server.sign_in("del@north.example").await.access_token);
    let hollow = |is_admin| CreateRoleRequest {
        tenant_id: tenant.to_string(),
        name: format!("hollow-{is_admin}"),
        is_admin,
        ..Default::default()
    };
    assert_eq!(reason(del.directory.clone().create_role(hollow(true)).await), "PERMISSION_DENIED");
    let role = del.directory.clone().create_role(hollow(false)).await.unwrap().into_inner().role.unwrap();
    let update = UpdateRoleRequest {
        role: Some(Role { is_admin: true, ..role }),
        update_mask: mask(&["is_admin"]),
        validate_only: false,
    };
    assert_eq!(reason(del.directory.clone().update_role(update).await), "PERMISSION_DENIED");
    // Nor assigns one that another caller made.
    let made = root.directory.clone().create_role(hollow(true)).await.unwrap().into_inner().role.unwrap();
    let given = del.directory.clone().create_membership(grant(user, Some(tenant), &made.role_id)).await;
    assert_eq!(reason(given), "PERMISSION_DENIED");
    root.directory.clone().create_membership(grant(user, Some(tenant), &made.role_id)).await.expect("who holds it may");
}
