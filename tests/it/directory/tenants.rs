//! Tenants, and the isolation between them.

use sidle::proto::*;
use sqlx::{Connection as _, PgConnection};
use uuid::Uuid;

use super::{
    ADMIN, create_role, create_user, events, field, get_user, grant, mask, member, memberships, new_user, reason,
    refusal,
};
use crate::support::{Client, TestServer};

fn new_tenant(slug: &str) -> CreateTenantRequest {
    CreateTenantRequest { slug: slug.to_owned(), name: slug.to_uppercase(), ..Default::default() }
}

#[tokio::test]
async fn a_tenant_is_made_changed_and_read_back() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let settings = prost_types::Struct {
        fields: [("stars".to_owned(), prost_types::Value { kind: Some(prost_types::value::Kind::NumberValue(4.0)) })]
            .into(),
    };
    let request = CreateTenantRequest {
        external_id: "H-17".to_owned(),
        settings: Some(settings.clone()),
        ..new_tenant("hotel-north")
    };
    let made = admin.directory.clone().create_tenant(request).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!((made.settings.clone(), made.status), (Some(settings), TenantStatus::Active.into()));
    for identifier in [
        get_tenant_request::Identifier::TenantId(made.tenant_id.clone()),
        get_tenant_request::Identifier::Slug("hotel-north".to_owned()),
        get_tenant_request::Identifier::ExternalId("H-17".to_owned()),
    ] {
        let request = GetTenantRequest { identifier: Some(identifier) };
        assert_eq!(admin.directory.clone().get_tenant(request).await.unwrap().into_inner().tenant.unwrap(), made);
    }
    let update = UpdateTenantRequest {
        tenant: Some(Tenant { name: "Hotel North".to_owned(), external_id: String::new(), ..made.clone() }),
        update_mask: mask(&["name", "external_id"]),
        validate_only: false,
    };
    let changed = admin.directory.clone().update_tenant(update.clone()).await.unwrap().into_inner().tenant.unwrap();
    assert_eq!((changed.name.as_str(), changed.external_id.as_str()), ("Hotel North", ""));
    assert_eq!(reason(admin.directory.clone().update_tenant(update).await), "ETAG_MISMATCH");
    assert_eq!(field(admin.directory.clone().create_tenant(new_tenant("Hotel")).await), "slug");
}

#[tokio::test]
async fn a_slug_is_never_used_again() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let made = admin.directory.clone().create_tenant(new_tenant("north")).await.unwrap().into_inner().tenant.unwrap();
    let tenant: Uuid = made.tenant_id.parse().unwrap();
    let user = create_user(&admin, new_user(tenant, "ann@example.com")).await;
    let delete = DeleteTenantRequest { tenant_id: made.tenant_id, etag: String::new() };
    assert_eq!(reason(admin.directory.clone().delete_tenant(delete.clone()).await), "IN_USE");
    let gone = DeleteUserRequest { user_id: user.user_id, etag: String::new(), ..Default::default() };
    admin.directory.clone().delete_user(gone).await.unwrap();
    admin.directory.clone().delete_tenant(delete.clone()).await.unwrap();
    assert_eq!(reason(admin.directory.clone().delete_tenant(delete).await), "NOT_FOUND");
    let again = admin.directory.clone().create_tenant(new_tenant("north")).await;
    assert_eq!(refusal(again), ("ALREADY_EXISTS".to_owned(), "slug".to_owned()));
}

/// Two tenants: an administrator of the one, and a user in the other.
struct Neighbours {
    root: Client,
    boss: Client,
    north: Uuid,
    south: Uuid,
    victim: User,
}

async fn neighbours(server: &TestServer) -> Neighbours {
    let root = server.admin().await;
    let (north, south) = (server.tenant("north").await, server.tenant("south").await);
    let (_, boss) = member(server, north, "boss@north.example", "super_admin").await;
    let victim = create_user(&root, new_user(south, "ann@south.example")).await;
    Neighbours { root, boss, north, south, victim }
}

#[tokio::test]
async fn an_administrator_of_one_tenant_reaches_no_user_of_another() {
    let server = TestServer::start().await;
    let Neighbours { root, boss, south, victim, .. } = neighbours(&server).await;
    let d = || boss.directory.clone();
    let id = victim.user_id.clone();
    let by_id =
        GetUserRequest { identifier: Some(get_user_request::Identifier::UserId(id.clone())), include_deleted: true };
    assert_eq!(reason(d().get_user(by_id).await), "NOT_FOUND");
    let by_mail = Some(get_user_request::Identifier::Email(victim.email.clone()));
    assert_eq!(reason(d().get_user(GetUserRequest { identifier: by_mail, include_deleted: false }).await), "NOT_FOUND");
    let update =
        UpdateUserRequest { user: Some(victim.clone()), update_mask: mask(&["full_name"]), validate_only: false };
    assert_eq!(reason(d().update_user(update).await), "NOT_FOUND");
    let etag = String::new;
    assert_eq!(reason(d().disable_user(DisableUserRequest { user_id: id.clone(), etag: etag() }).await), "NOT_FOUND");
    assert_eq!(
        reason(d().enable_user(EnableUserRequest { user_id: id.clone(), ..Default::default() }).await),
        "NOT_FOUND"
    );
    assert_eq!(reason(d().lock_user(LockUserRequest { user_id: id.clone(), ..Default::default() }).await), "NOT_FOUND");
    assert_eq!(reason(d().unlock_user(UnlockUserRequest { user_id: id.clone() }).await), "NOT_FOUND");
    assert_eq!(
        reason(d().delete_user(DeleteUserRequest { user_id: id.clone(), etag: etag(), ..Default::default() }).await),
        "NOT_FOUND"
    );
    assert_eq!(reason(d().create_user(new_user(south, "eve@south.example")).await), "PERMISSION_DENIED");
    assert_eq!(get_user(&root, &id).await, victim, "nothing has changed");
}

#[tokio::test]
async fn an_administrator_of_one_tenant_reaches_no_membership_of_another() {
    let server = TestServer::start().await;
    let Neighbours { root, boss, north, south, victim } = neighbours(&server).await;
    let membership = memberships(&root, &victim.user_id).await.remove(0);
    let d = || boss.directory.clone();
    let id = victim.user_id.clone();
    let membership_id = membership.membership_id.clone();
    assert_eq!(
        reason(d().get_membership(GetMembershipRequest { membership_id: membership_id.clone() }).await),
        "NOT_FOUND"
    );
    assert_eq!(
        reason(d().delete_membership(DeleteMembershipRequest { membership_id, ..Default::default() }).await),
        "NOT_FOUND"
    );
    assert_eq!(reason(d().create_membership(grant(&id, Some(south), ADMIN)).await), "NOT_FOUND");
    // Nor is a user of another tenant pulled into one's own.
    assert_eq!(reason(d().create_membership(grant(&id, Some(north), ADMIN)).await), "NOT_FOUND");
    assert_eq!(memberships(&root, &id).await, [membership], "nothing has changed");
}

#[tokio::test]
async fn an_administrator_of_one_tenant_reaches_neither_another_nor_its_roles() {
    let server = TestServer::start().await;
    let Neighbours { root, boss, south, .. } = neighbours(&server).await;
    let role = create_role(&root, south, "CLERK", &["users.read"]).await;
    let d = || boss.directory.clone();
    let etag = String::new;
    let by_slug = Some(get_tenant_request::Identifier::Slug("south".to_owned()));
    assert_eq!(reason(d().get_tenant(GetTenantRequest { identifier: by_slug }).await), "NOT_FOUND");
    assert_eq!(reason(d().create_tenant(new_tenant("west")).await), "PERMISSION_DENIED");
    let tenant =
        Tenant { tenant_id: south.to_string(), etag: "v1".to_owned(), name: "Mine".to_owned(), ..Default::default() };
    let update = UpdateTenantRequest { tenant: Some(tenant), update_mask: mask(&["name"]), validate_only: false };
    assert_eq!(reason(d().update_tenant(update).await), "NOT_FOUND");
    let delete = DeleteTenantRequest { tenant_id: south.to_string(), etag: etag() };
    assert_eq!(reason(d().delete_tenant(delete).await), "PERMISSION_DENIED");

    assert_eq!(reason(d().get_role(GetRoleRequest { role_id: role.role_id.clone() }).await), "NOT_FOUND");
    let update = UpdateRoleRequest { role: Some(role.clone()), update_mask: mask(&["name"]), validate_only: false };
    assert_eq!(reason(d().update_role(update).await), "NOT_FOUND");
    let delete = DeleteRoleRequest { role_id: role.role_id.clone(), etag: etag() };
    assert_eq!(reason(d().delete_role(delete).await), "NOT_FOUND");
    let get = GetRoleRequest { role_id: role.role_id.clone() };
    let found = root.directory.clone().get_role(get).await.unwrap().into_inner().role.unwrap();
    assert_eq!(found, role, "nothing has changed");
}

#[tokio::test]
async fn an_administrator_of_one_tenant_reaches_no_program_of_another() {
    let server = TestServer::start().await;
    let Neighbours { root, boss, south, .. } = neighbours(&server).await;
    let account = CreateServiceAccountRequest {
        tenant_id: south.to_string(),
        name: "south-api".to_owned(),
        ..Default::default()
    };
    let account = root.create_service_account(account).await.unwrap().service_account.unwrap();
    let key = CreateApiKeyRequest { service_account_id: account.service_account_id.clone(), ..Default::default() };
    let key = root.create_api_key(key.clone()).await.unwrap().api_key.unwrap();
    let d = || boss.directory.clone();
    let etag = String::new;
    let service_account_id = account.service_account_id.clone();
    let identifier = Some(get_service_account_request::Identifier::ServiceAccountId(service_account_id.clone()));
    assert_eq!(reason(d().get_service_account(GetServiceAccountRequest { identifier }).await), "NOT_FOUND");
    let update = UpdateServiceAccountRequest {
        service_account: Some(account.clone()),
        update_mask: mask(&["description"]),
        validate_only: false,
    };
    assert_eq!(reason(d().update_service_account(update).await), "NOT_FOUND");
    let create = CreateApiKeyRequest { service_account_id: service_account_id.clone(), ..Default::default() };
    assert_eq!(reason(d().create_api_key(create).await), "NOT_FOUND");
    let delete = DeleteServiceAccountRequest { service_account_id, etag: etag() };
    assert_eq!(reason(d().delete_service_account(delete).await), "NOT_FOUND");
    assert_eq!(reason(d().get_api_key(GetApiKeyRequest { api_key_id: key.api_key_id.clone() }).await), "NOT_FOUND");
    assert_eq!(
        reason(d().delete_api_key(DeleteApiKeyRequest { api_key_id: key.api_key_id.clone() }).await),
        "NOT_FOUND"
    );
    let get = GetApiKeyRequest { api_key_id: key.api_key_id.clone() };
    let found = root.directory.clone().get_api_key(get).await.unwrap().into_inner().api_key.unwrap();
    assert_eq!(found, key, "nothing has changed");
    let identifier =
        Some(get_service_account_request::Identifier::ServiceAccountId(account.service_account_id.clone()));
    let found = root.directory.clone().get_service_account(GetServiceAccountRequest { identifier }).await.unwrap();
    assert_eq!(found.into_inner().service_account.unwrap(), account, "nothing has changed");
}

#[tokio::test]
async fn lists_of_one_tenant_show_nothing_of_another() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let (north, south) = (server.tenant("north").await, server.tenant("south").await);
    let (_, boss) = member(&server, north, "boss@north.example", "super_admin").await;
    create_user(&root, new_user(south, "ann@south.example")).await;
    let role = create_role(&root, south, "CLERK", &["users.read"]).await;
    for tenant_id in [String::new(), south.to_string()] {
        let users = ListUsersRequest { tenant_id: tenant_id.clone(), ..Default::default() };
        let users = boss.directory.clone().list_users(users).await.unwrap().into_inner().users;
        assert!(users.iter().all(|user| user.tenant_id == north.to_string()), "{users:?}");
        assert_eq!(users.len(), usize::from(tenant_id.is_empty()));
        let roles = ListRolesRequest { tenant_id: tenant_id.clone(), ..Default::default() };
        let roles = boss.directory.clone().list_roles(roles).await.unwrap().into_inner().roles;
        assert!(roles.iter().all(|found| found.role_id != role.role_id && !found.is_platform), "{roles:?}");
        let asked = ListMembershipsRequest { tenant_id, ..Default::default() };
        let found = boss.directory.clone().list_memberships(asked).await.unwrap().into_inner().memberships;
        assert!(found.iter().all(|found| found.tenant_id == north.to_string()), "{found:?}");
    }
    let tenants =
        boss.directory.clone().list_tenants(ListTenantsRequest::default()).await.unwrap().into_inner().tenants;
    assert_eq!(tenants.iter().map(|tenant| tenant.slug.as_str()).collect::<Vec<_>>(), ["north"]);
    let platform = ListMembershipsRequest { platform_only: true, ..Default::default() };
    assert_eq!(reason(boss.directory.clone().list_memberships(platform).await), "PERMISSION_DENIED");
}

/// What the code above forgets, the database refuses.
#[tokio::test]
async fn the_application_role_sees_only_what_its_scope_allows() {
    const TABLES: [&str; 8] = [
        "users",
        "tenants",
        "memberships",
        "platform_grants",
        "service_accounts",
        "api_keys",
        "request_answers",
        "roles",
    ];
    let server = TestServer::start().await;
    let root = server.admin().await;
    let (north, south) = (server.tenant("north").await, server.tenant("south").await);
    for tenant in [north, south] {
        let name = format!("api-{tenant}");
        let account =
            CreateServiceAccountRequest { tenant_id: tenant.to_string(), name: name.clone(), ..Default::default() };
        let account = root.create_service_account(account).await.unwrap();
        let id = account.service_account.unwrap().service_account_id;
        root.create_api_key(CreateApiKeyRequest { service_account_id: id, ..Default::default() }).await.unwrap();
        create_user(
            &root,
            CreateUserRequest { request_id: tenant.to_string(), ..new_user(tenant, &format!("{name}@example.com")) },
        )
        .await;
    }
    let mut app = PgConnection::connect(&server.setup.database().app_url).await.unwrap();
    for table in TABLES {
        let sql = format!("SELECT count(*) FROM {table}");
        let all: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql.clone())).fetch_one(server.sql()).await.unwrap();
        let seen: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut app).await.unwrap();
        assert!(all > 0 && seen == 0, "{table}: {seen} of {all} rows are seen without a scope");
    }
    sqlx::query("SELECT set_config('sidle.tenant_id', $1, false)")
        .bind(north.to_string())
        .execute(&mut app)
        .await
        .unwrap();
    for table in ["users", "tenants", "memberships", "service_accounts", "api_keys"] {
        let sql = format!("SELECT tenant_id FROM {table}");
        let seen: Vec<Uuid> = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&mut app).await.unwrap();
        assert_eq!(seen, [north], "{table}");
    }
    let foreign =
        sqlx::query("UPDATE users SET full_name = 'x' WHERE tenant_id = $1").bind(south).execute(&mut app).await;
    assert_eq!(foreign.unwrap().rows_affected(), 0);
    let smuggled = sqlx::query("UPDATE users SET tenant_id = $1").bind(south).execute(&mut app).await;
    assert!(smuggled.unwrap_err().to_string().contains("row-level security"));
    for forbidden in
        ["DELETE FROM users", "TRUNCATE users", "ALTER TABLE users DISABLE ROW LEVEL SECURITY", "DELETE FROM tenants"]
    {
        let refused =
            sqlx::query(sqlx::AssertSqlSafe(forbidden.to_owned())).execute(&mut app).await.unwrap_err().to_string();
        assert!(refused.contains("permission denied") || refused.contains("must be owner"), "{forbidden}: {refused}");
    }
}

#[tokio::test]
async fn a_disabled_tenant_is_closed_at_once() {
    let server = TestServer::start().await;
    let root = server.admin().await;
    let tenant = server.tenant("north").await;
    let (ann, client) = member(&server, tenant, "ann@north.example", "user").await;
    let identifier = Some(get_tenant_request::Identifier::TenantId(tenant.to_string()));
    let before =
        root.directory.clone().get_tenant(GetTenantRequest { identifier }).await.unwrap().into_inner().tenant.unwrap();
    let update = UpdateTenantRequest {
        tenant: Some(Tenant { status: TenantStatus::Disabled.into(), ..before }),
        update_mask: mask(&["status"]),
        validate_only: false,
    };
    root.directory.clone().update_tenant(update).await.unwrap();
    assert_eq!(reason(client.authenticate.clone().who_am_i(WhoAmIRequest {}).await), "UNAUTHENTICATED");
    let told = events(&server, "tenant.updated").await;
    assert!(told.iter().any(|(_, details)| details["principals"] == serde_json::json!([ann.to_string()])), "{told:?}");
    let login = AuthenticatePasswordRequest {
        identifier: "ann@north.example".to_owned(),
        password: crate::support::ADMIN_PASSWORD.to_owned(),
        ..Default::default()
    };
    assert!(server.client("").authenticate.clone().authenticate_password(login).await.is_err());
}
