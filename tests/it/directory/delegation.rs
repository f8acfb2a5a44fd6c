//! Delegation: attacks by administrators of a tenant on users with more rights, on members of other tenants, and on
//! what all tenants share.

use sidle::proto::*;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::{ADMIN, SUPER_ADMIN, create_role, create_user, field, get_user, grant, new_user, reason};
use crate::support::{Client, TestServer, eventually};

const USER: &str = "00000000-0000-7000-8000-000000000004";

/// A tenant with an administrator of each kind, and one of the platform whose home it is as well.
struct Harbour {
    server: TestServer,
    tenant: Uuid,
    root_id: String,
    root: Client,
    /// All permissions within the tenant.
    boss: Client,
    boss_id: String,
    /// Sidle's own list of permissions for administrators of users.
    admin: Client,
}

impl Harbour {
    async fn new() -> Self {
        let server = TestServer::start().await;
        let tenant = server.tenant("harbour").await;
        let root_id = server.user(tenant, "root@harbour.example", "SYSTEM_ADMIN").await.to_string();
        let boss_id = server.user(tenant, "boss@harbour.example", "super_admin").await.to_string();
        server.user(tenant, "admin@harbour.example", "admin").await;
        let [root, boss, admin] = ["root", "boss", "admin"].map(|name| format!("{name}@harbour.example"));
        let client = async |email: &str| server.client(&server.sign_in(email).await.access_token);
        let (root, boss, admin) = (client(&root).await, client(&boss).await, client(&admin).await);
        Self { tenant, root_id, root, boss, boss_id, admin, server }
    }

    async fn is_good(&self, client: &Client) -> bool {
        client.authenticate.clone().who_am_i(WhoAmIRequest {}).await.is_ok()
    }

    async fn membership_of(&self, user: &str) -> String {
        let request = ListMembershipsRequest {
            user_id: user.to_owned(),
            tenant_id: self.tenant.to_string(),
            ..Default::default()
        };
        let found = self.root.directory.clone().list_memberships(request).await.unwrap().into_inner();
        found.memberships[0].membership_id.clone()
    }

    async fn session_of(&self, user: &str) -> String {
        let request = ListSessionsRequest { user_id: user.to_owned(), ..Default::default() };
        let found = self.root.session.clone().list_sessions(request).await.unwrap().into_inner();
        found.sessions[0].session_id.clone()
    }
}

/// The update of one field of a user.
async fn update(client: &Client, as_seen_by: &Client, id: &str, path: &str) -> Result<(), tonic::Status> {
    let user = get_user(as_seen_by, id).await;
    let user = User {
        email: "thief@harbour.example".to_owned(),
        username: "thief".to_owned(),
        full_name: "Another Name".to_owned(),
        must_change_password: !user.must_change_password,
        has_second_factor: false,
        ..user
    };
    let update_mask = Some(prost_types::FieldMask { paths: vec![path.to_owned()] });
    let request = UpdateUserRequest { user: Some(user), update_mask, validate_only: false };
    let call = async |request| client.plain.clone().update_user(request).await;
    client.proving(request, call).await.map(drop)
}

/// Every call that targets a user, each made correctly except for the target.
async fn aim_everything(at: &Harbour, by: &Client, user: &str) -> Vec<(&'static str, String)> {
    let (directory, session) = (|| by.directory.clone(), || by.session.clone());
    let (membership_id, session_id) = (at.membership_of(user).await, at.session_of(user).await);
    let user_id = user.to_owned();
    let lock = LockUserRequest { user_id: user_id.clone(), ..Default::default() };
    let unlock = UnlockUserRequest { user_id: user_id.clone() };
    let disable = DisableUserRequest { user_id: user_id.clone(), ..Default::default() };
    let enable = EnableUserRequest { user_id: user_id.clone(), ..Default::default() };
    let delete = DeleteUserRequest { user_id: user_id.clone(), ..Default::default() };
    let give = grant(user, Some(at.tenant), USER);
    let take = DeleteMembershipRequest { membership_id, ..Default::default() };
    let end = RevokeSessionRequest { session_id };
    let end_all = RevokeAllSessionsRequest { user_id: user_id.clone(), keep_current: false };
    vec![
        ("RevokeSession", reason(session().revoke_session(end).await)),
        ("RevokeAllSessions", reason(session().revoke_all_sessions(end_all).await)),
        ("UpdateUser", reason(update(by, &at.root, user, "full_name").await)),
        ("LockUser", reason(directory().lock_user(lock).await)),
        ("UnlockUser", reason(directory().unlock_user(unlock).await)),
        ("DisableUser", reason(directory().disable_user(disable).await)),
        ("EnableUser", reason(directory().enable_user(enable).await)),
        ("CreateMembership", reason(directory().create_membership(give).await)),
        ("DeleteMembership", reason(directory().delete_membership(take).await)),
        ("DeleteUser", reason(directory().delete_user(delete).await)),
    ]
}

#[tokio::test]
async fn nothing_that_is_aimed_at_a_user_reaches_past_what_the_caller_holds() {
    let at = Harbour::new().await;
    for (by, user, whose) in [
        (&at.boss, &at.root_id, "an administrator of the platform by one of the tenant"),
        (&at.admin, &at.root_id, "an administrator of the platform by one of people"),
        (&at.admin, &at.boss_id, "an administrator of the tenant by one of people"),
    ] {
        for (call, refused) in aim_everything(&at, by, user).await {
            assert_eq!(refused, "PERMISSION_DENIED", "{call}: {whose}");
        }
    }
    assert!(at.is_good(&at.root).await && at.is_good(&at.boss).await, "their tokens and sessions are as they were");
}

/// An empty role voids the tokens of its holder: assigned and removed in a loop it would lock a user out.
#[tokio::test]
async fn an_empty_role_voids_nobodys_tokens_above_its_giver() {
    let at = Harbour::new().await;
    let empty = create_role(&at.boss, at.tenant, "nothing", &[]).await;
    let given = at.boss.directory.clone().create_membership(grant(&at.root_id, Some(at.tenant), &empty.role_id)).await;
    assert_eq!(reason(given), "PERMISSION_DENIED");
    assert!(at.is_good(&at.root).await);

    // Nor those of a user with no permission of ours on the platform, but a role there all the same.
    let watch = CreateRoleRequest { name: "watch".to_owned(), is_platform: true, ..Default::default() };
    let watch = at.root.directory.clone().create_role(watch).await.unwrap().into_inner().role.unwrap();
    let guard = at.server.user(at.tenant, "guard@harbour.example", "user").await.to_string();
    at.root.directory.clone().create_membership(grant(&guard, None, &watch.role_id)).await.unwrap();
    at.server.sign_in("guard@harbour.example").await;
    for (call, refused) in aim_everything(&at, &at.boss, &guard).await {
        assert_eq!(refused, "PERMISSION_DENIED", "{call}");
    }
}

#[tokio::test]
async fn an_administrator_ends_the_sessions_of_whom_they_cover() {
    let at = Harbour::new().await;
    let plain = at.server.user(at.tenant, "plain@harbour.example", "user").await.to_string();
    let client = at.server.client(&at.server.sign_in("plain@harbour.example").await.access_token);
    let end = RevokeSessionRequest { session_id: at.session_of(&plain).await };
    at.admin.session.clone().revoke_session(end).await.expect("ended");
    assert!(!at.is_good(&client).await);
    at.server.sign_in("plain@harbour.example").await;
    let end = RevokeAllSessionsRequest { user_id: plain, keep_current: false };
    assert_eq!(at.admin.session.clone().revoke_all_sessions(end).await.unwrap().into_inner().sessions_revoked, 1);
}

/// A guest's role in another tenant is an application's: it holds no permission of Sidle's, and is a right all the
/// same.
#[tokio::test]
async fn a_member_of_another_tenant_is_not_the_home_administrators_to_take_over() {
    let at = Harbour::new().await;
    let shop = at.server.tenant("shop").await;
    let cashier = create_role(&at.root, shop, "cashier", &[]).await;
    let guest = at.server.user(at.tenant, "guest@harbour.example", "user").await.to_string();
    let plain = at.server.user(at.tenant, "plain@harbour.example", "user").await.to_string();
    at.root.directory.clone().create_membership(grant(&guest, Some(shop), &cashier.role_id)).await.unwrap();
    for path in ["email", "username", "must_change_password", "has_second_factor"] {
        assert_eq!(reason(update(&at.boss, &at.root, &guest, path).await), "PERMISSION_DENIED", "{path}");
    }
    assert_eq!(get_user(&at.root, &guest).await.email, "guest@harbour.example");
    // An address chosen by another caller and marked as verified: a way to reset the password.
    let disable = DisableUserRequest { user_id: guest.clone(), ..Default::default() };
    at.boss.directory.clone().disable_user(disable).await.expect("the home may switch its users off");
    let confirm = EnableUserRequest { user_id: guest.clone(), email_verified: true, ..Default::default() };
    assert_eq!(reason(at.boss.directory.clone().enable_user(confirm).await), "PERMISSION_DENIED");
    let enable = EnableUserRequest { user_id: guest.clone(), ..Default::default() };
    at.boss.directory.clone().enable_user(enable).await.expect("and on again");
    // What takes nothing over, and a user who is a member here only.
    update(&at.boss, &at.root, &guest, "full_name").await.expect("a name");
    update(&at.boss, &at.root, &plain, "username").await.expect("a member of this tenant only");
    update(&at.root, &at.root, &guest, "email").await.expect("from the platform");
}

#[tokio::test]
async fn a_role_is_given_by_who_has_it_or_may_assign() {
    let at = Harbour::new().await;
    let cashier = create_role(&at.boss, at.tenant, "cashier", &[]).await;
    let plain = at.server.user(at.tenant, "plain@harbour.example", "user").await.to_string();
    let give = || grant(&plain, Some(at.tenant), &cashier.role_id);
    let refused = at.admin.directory.clone().create_membership(give()).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().metadata["permission"], "roles.assign");
    let with_role =
        CreateUserRequest { role_ids: vec![cashier.role_id.clone()], ..new_user(at.tenant, "new@harbour.example") };
    assert_eq!(reason(at.admin.directory.clone().create_user(with_role).await), "PERMISSION_DENIED");
    // The administrator's own role, and the plain member's, come with the permission to assign roles.
    create_user(&at.admin, new_user(at.tenant, "member@harbour.example")).await;
    at.admin.directory.clone().create_membership(grant(&plain, Some(at.tenant), ADMIN)).await.expect("one's own");
    at.boss.directory.clone().create_membership(give()).await.expect("who may assign");

    let second = at.server.user(at.tenant, "second@harbour.example", "admin").await;
    at.boss.directory.clone().create_membership(grant(second, Some(at.tenant), &cashier.role_id)).await.unwrap();
    let second = at.server.client(&at.server.sign_in("second@harbour.example").await.access_token);
    let other = at.server.user(at.tenant, "other@harbour.example", "user").await;
    second.directory.clone().create_membership(grant(other, Some(at.tenant), &cashier.role_id)).await.expect("has it");
}

#[tokio::test]
async fn names_of_roles_that_are_no_tenants_own_are_reserved() {
    let at = Harbour::new().await;
    let shared = CreateRoleRequest { name: "auditor".to_owned(), ..Default::default() };
    at.root.directory.clone().create_role(shared).await.unwrap();
    let own = create_role(&at.boss, at.tenant, "clerk", &[]).await;
    for name in [
        "SYSTEM_ADMIN",
        "system-admin",
        "SystemAdmin",
        "SYSTEM_ADM1N",
        "Systern.Admin",
        "Super_Admin",
        "ADMIN",
        "User",
        "Aud1tor",
    ] {
        let request =
            CreateRoleRequest { tenant_id: at.tenant.to_string(), name: name.to_owned(), ..Default::default() };
        assert_eq!(field(at.boss.directory.clone().create_role(request).await), "name", "{name}");
        let rename = UpdateRoleRequest {
            role: Some(Role { name: name.to_owned(), ..own.clone() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["name".to_owned()] }),
            validate_only: false,
        };
        assert_eq!(field(at.boss.directory.clone().update_role(rename).await), "name", "renamed to {name}");
    }
    create_role(&at.boss, at.tenant, "HOTEL_ADMIN", &[]).await;
    // Neither does the database accept them.
    let insert = "INSERT INTO roles (role_id, tenant_id, name) VALUES (gen_random_uuid(), $1, 'System.Admin')";
    let refused = sqlx::query(insert).bind(at.tenant).execute(at.server.sql()).await.unwrap_err();
    assert_eq!(refused.as_database_error().and_then(|error| error.constraint()), Some("roles_reserved_check"));
}

#[tokio::test]
async fn a_token_says_whose_a_role_is() {
    let at = Harbour::new().await;
    let own = create_role(&at.boss, at.tenant, "HOTEL_ADMIN", &[]).await;
    let user = at.server.user(at.tenant, "clerk@harbour.example", "user").await;
    at.boss.directory.clone().create_membership(grant(user, Some(at.tenant), &own.role_id)).await.unwrap();
    let claims = async |email: &str| {
        let client = at.server.client(&at.server.sign_in(email).await.access_token);
        let me = client.authenticate.clone().who_am_i(WhoAmIRequest {}).await.unwrap().into_inner();
        (me.claims.unwrap(), me.tenants)
    };
    let (clerk, tenants) = claims("clerk@harbour.example").await;
    assert_eq!((clerk.roles, clerk.tenant_roles), (vec!["user".to_owned()], vec!["HOTEL_ADMIN".to_owned()]));
    assert!(clerk.platform_roles.is_empty());
    assert_eq!(
        (&tenants[0].roles[..], &tenants[0].tenant_roles[..]),
        (&["user".to_owned()][..], &["HOTEL_ADMIN".to_owned()][..])
    );
    let (root, _) = claims("root@harbour.example").await;
    assert_eq!((root.roles, root.platform_roles), (vec!["user".to_owned()], vec!["SYSTEM_ADMIN".to_owned()]));
}

/// Migrating users creates persons in the Kanidm of all tenants: `*` in a tenant does not include it.
#[tokio::test]
async fn everything_in_a_tenant_moves_nobody() {
    let at = Harbour::new().await;
    let account = CreateServiceAccountRequest {
        tenant_id: at.tenant.to_string(),
        name: "everything".to_owned(),
        permissions: vec!["*".to_owned()],
        ..Default::default()
    };
    let account = at.boss.create_service_account(account).await.unwrap().service_account.unwrap().service_account_id;
    let key = CreateApiKeyRequest { service_account_id: account, ..Default::default() };
    let key = at.boss.create_api_key(key).await.unwrap().secret;
    let program = crate::authenticate::exchange(&at.server, &key).await.unwrap();
    let program = at.server.client(&program.access_token);
    let cohort = Some(Cohort { tenant_ids: vec![at.tenant.to_string()], ..Default::default() });
    for caller in [&at.boss, &program] {
        let migration = || caller.migration.clone();
        let plan = PlanMigrationRequest { cohort: cohort.clone(), ..Default::default() };
        assert_eq!(reason(migration().plan_migration(plan).await), "PERMISSION_DENIED");
        assert_eq!(reason(migration().start_migration(StartMigrationRequest::default()).await), "PERMISSION_DENIED");
        let sync = SyncTenantGroupsRequest::default();
        assert_eq!(reason(migration().sync_tenant_groups(sync).await), "PERMISSION_DENIED");
    }
    // Nor can they grant it, to a role, an account or through one of either.
    let role = CreateRoleRequest {
        tenant_id: at.tenant.to_string(),
        name: "mover".to_owned(),
        permissions: vec!["migration.run".to_owned()],
        ..Default::default()
    };
    assert_eq!(reason(at.boss.directory.clone().create_role(role.clone()).await), "PERMISSION_DENIED");
    let mover = CreateServiceAccountRequest {
        tenant_id: at.tenant.to_string(),
        name: "mover".to_owned(),
        permissions: role.permissions.clone(),
        ..Default::default()
    };
    assert_eq!(reason(at.boss.create_service_account(mover).await), "PERMISSION_DENIED");

    // The platform grants it to a tenant by name.
    let role = at.root.directory.clone().create_role(role).await.unwrap().into_inner().role.unwrap();
    let user = at.server.user(at.tenant, "mover@harbour.example", "user").await;
    let refused = at.boss.directory.clone().create_membership(grant(user, Some(at.tenant), &role.role_id)).await;
    assert_eq!(reason(refused), "PERMISSION_DENIED");
    at.root.directory.clone().create_membership(grant(user, Some(at.tenant), &role.role_id)).await.unwrap();
    let mover = at.server.client(&at.server.sign_in("mover@harbour.example").await.access_token);
    let plan = PlanMigrationRequest { cohort, ..Default::default() };
    assert_eq!(reason(mover.migration.clone().plan_migration(plan).await), "KANIDM_NOT_CONFIGURED");
}

fn confined(domain: &str) -> prost_types::Struct {
    use prost_types::value::Kind;
    let value = |kind| prost_types::Value { kind: Some(kind) };
    let list = prost_types::ListValue { values: vec![value(Kind::StringValue(domain.to_owned()))] };
    let sidle = prost_types::Struct { fields: [("domains".to_owned(), value(Kind::ListValue(list)))].into() };
    prost_types::Struct { fields: [("sidle".to_owned(), value(Kind::StructValue(sidle)))].into() }
}

#[tokio::test]
async fn users_of_a_confined_tenant_have_addresses_of_its_domains_only() {
    let at = Harbour::new().await;
    let settle = async |client: &Directory, settings: prost_types::Struct| {
        let identifier = Some(get_tenant_request::Identifier::TenantId(at.tenant.to_string()));
        let tenant = client.clone().get_tenant(GetTenantRequest { identifier }).await.unwrap().into_inner();
        let tenant = Some(Tenant { settings: Some(settings), ..tenant.tenant.unwrap() });
        let update_mask = Some(prost_types::FieldMask { paths: vec!["settings".to_owned()] });
        let request = UpdateTenantRequest { tenant, update_mask, validate_only: false };
        client.clone().update_tenant(request).await
    };
    assert_eq!(reason(settle(&at.boss.plain, confined("evil.example")).await), "PERMISSION_DENIED", "the platform's");
    settle(&at.root.plain, confined("harbour.example")).await.expect("narrower needs no proof");
    assert_eq!(reason(settle(&at.boss.plain, prost_types::Struct::default()).await), "PERMISSION_DENIED", "set free");
    assert_eq!(reason(settle(&at.root.plain, confined("evil.example")).await), "STEP_UP_REQUIRED");
    assert_eq!(reason(settle(&at.root.plain, prost_types::Struct::default()).await), "STEP_UP_REQUIRED");

    let foreign = new_user(at.tenant, "ceo@elsewhere.example");
    assert_eq!(field(at.boss.directory.clone().create_user(foreign).await), "email");
    let ann = create_user(&at.boss, new_user(at.tenant, "Ann@Harbour.example")).await;
    let moved = UpdateUserRequest {
        user: Some(User { email: "ceo@elsewhere.example".to_owned(), ..ann.clone() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["email".to_owned()] }),
        validate_only: false,
    };
    let call = async |request| at.boss.plain.clone().update_user(request).await;
    assert_eq!(field(at.boss.proving(moved, call).await), "email");

    let rows = vec![
        crate::migration::row(1, "bob@harbour.example"),
        crate::migration::row(2, "ceo@elsewhere.example"),
        crate::migration::row(3, "eve@evil.harbour.example"),
    ];
    let imported = crate::migration::import(&at.root, crate::migration::header("harbour"), rows).await.unwrap();
    assert_eq!((imported.summary.accepted, imported.summary.refused), (1, 2));
    let found = imported.verdicts[1].findings[0].reason();
    assert_eq!(found, ImportReason::EmailForeignDomain);

    // Whatever statement adds a user: one trigger checks it.
    let insert = "INSERT INTO users (user_id, tenant_id, email, email_key) VALUES (gen_random_uuid(), $1, $2, $2)";
    let refused = sqlx::query(insert).bind(at.tenant).bind("ceo@elsewhere.example").execute(at.server.sql()).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.as_database_error().and_then(|error| error.constraint()), Some("users_email_domain_check"));
    let rename = "UPDATE users SET email = $2, email_key = $2 WHERE user_id = $1::uuid";
    let refused = sqlx::query(rename).bind(&ann.user_id).bind("x@elsewhere.example").execute(at.server.sql()).await;
    assert!(refused.is_err());
}

type Directory = crate::support::server::Directory;

#[tokio::test]
async fn a_key_has_a_longest_life_also_where_none_is_asked_for() {
    let at = Harbour::new().await;
    let account = CreateServiceAccountRequest {
        tenant_id: at.tenant.to_string(),
        name: "till".to_owned(),
        permissions: vec!["users.read".to_owned()],
        ..Default::default()
    };
    let account = at.boss.create_service_account(account).await.unwrap().service_account.unwrap().service_account_id;
    let days = |days: i64| at.server.context.now() + chrono::TimeDelta::days(days);
    let key = CreateApiKeyRequest { service_account_id: account, ..Default::default() };
    let made = at.boss.create_api_key(key.clone()).await.unwrap().api_key.unwrap();
    let ends = made.expires_at.expect("an end").seconds;
    assert!((days(364).timestamp()..=days(365).timestamp()).contains(&ends), "{ends}");
    assert_eq!(made.created_by, at.boss_id);
    let at_most =
        |at: chrono::DateTime<chrono::Utc>| Some(prost_types::Timestamp { seconds: at.timestamp(), nanos: 0 });
    let late = CreateApiKeyRequest { expires_at: at_most(days(366)), ..key };
    assert_eq!(field(at.boss.create_api_key(late).await), "expires_at");
}

/// A user about to lose access makes a key.
#[tokio::test]
async fn deleting_or_demoting_a_user_lists_and_ends_what_they_made() {
    let at = Harbour::new().await;
    let mut keys = Vec::new();
    for name in ["leaver", "demoted"] {
        let email = format!("{name}@harbour.example");
        let user = at.server.user(at.tenant, &email, "super_admin").await.to_string();
        let client = at.server.client(&at.server.sign_in(&email).await.access_token);
        let account = CreateServiceAccountRequest {
            tenant_id: at.tenant.to_string(),
            name: name.to_owned(),
            permissions: vec!["users.read".to_owned()],
            ..Default::default()
        };
        let account = client.create_service_account(account).await.unwrap().service_account.unwrap();
        let key = CreateApiKeyRequest { service_account_id: account.service_account_id.clone(), ..Default::default() };
        let own = client.create_api_key(key.clone()).await.unwrap();
        // Another maker's key of the same account stays valid.
        let other = at.boss.create_api_key(key).await.unwrap().secret;
        let token = crate::authenticate::exchange(&at.server, &own.secret).await.unwrap().access_token;
        keys.push((user, account.service_account_id, own, other, at.server.client(&token)));
    }
    let ended =
        async |made: MadeCredentials,
               (_, account, own, other, program): &(_, String, CreateApiKeyResponse, String, Client)| {
            let id = own.api_key.clone().unwrap().api_key_id;
            assert_eq!((made.api_key_ids, made.kept), (vec![id], false));
            let listed = ListUsersRequest::default();
            assert!(
                program.directory.clone().list_users(listed).await.is_err(),
                "what the key bought has ended as well"
            );
            crate::authenticate::exchange(&at.server, &own.secret).await.expect_err("the key has ended");
            crate::authenticate::exchange(&at.server, other).await.expect("somebody else made this one");
            let _: &String = account;
            made.service_account_ids
        };
    let leaver = &keys[0];
    let delete = DeleteUserRequest { user_id: leaver.0.clone(), ..Default::default() };
    let made = at.boss.directory.clone().delete_user(delete).await.unwrap().into_inner().made.unwrap();
    assert_eq!(ended(made, leaver).await, std::slice::from_ref(&leaver.1), "the account is told, and stays");

    let demoted = &keys[1];
    at.boss.directory.clone().create_membership(grant(&demoted.0, Some(at.tenant), USER)).await.unwrap();
    let request = ListMembershipsRequest {
        user_id: demoted.0.clone(),
        tenant_id: at.tenant.to_string(),
        role_id: SUPER_ADMIN.to_owned(),
        ..Default::default()
    };
    let membership = at.root.directory.clone().list_memberships(request).await.unwrap().into_inner().memberships;
    let take = DeleteMembershipRequest { membership_id: membership[0].membership_id.clone(), ..Default::default() };
    let made = at.boss.directory.clone().delete_membership(take).await.unwrap().into_inner().made.unwrap();
    assert!(ended(made, demoted).await.is_empty());
}

/// Where others depend on a key, the caller who deletes its maker says so.
#[tokio::test]
async fn what_a_user_made_is_kept_only_on_request() {
    let at = Harbour::new().await;
    let user = at.server.user(at.tenant, "leaver@harbour.example", "super_admin").await.to_string();
    let client = at.server.client(&at.server.sign_in("leaver@harbour.example").await.access_token);
    let account =
        CreateServiceAccountRequest { tenant_id: at.tenant.to_string(), name: "till".to_owned(), ..Default::default() };
    let account = client.create_service_account(account).await.unwrap().service_account.unwrap().service_account_id;
    let key = CreateApiKeyRequest { service_account_id: account, ..Default::default() };
    let key = client.create_api_key(key).await.unwrap();
    let delete = DeleteUserRequest { user_id: user, keep_credentials: true, ..Default::default() };
    let made = at.boss.directory.clone().delete_user(delete).await.unwrap().into_inner().made.unwrap();
    assert_eq!((made.api_key_ids.len(), made.kept), (1, true));
    crate::authenticate::exchange(&at.server, &key.secret).await.expect("kept");
}

/// A user about to lose access has a service account make the key: what that makes with a user's key ends with them as
/// well.
#[tokio::test]
async fn what_a_program_made_with_a_users_key_ends_with_the_user() {
    let at = Harbour::new().await;
    let leaver = at.server.user(at.tenant, "leaver@harbour.example", "super_admin").await.to_string();
    let client = at.server.client(&at.server.sign_in("leaver@harbour.example").await.access_token);
    let account = async |client: &Client, name: &str, permissions: &[&str]| {
        let request = CreateServiceAccountRequest {
            tenant_id: at.tenant.to_string(),
            name: name.to_owned(),
            permissions: permissions.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        client.create_service_account(request).await.unwrap().service_account.unwrap().service_account_id
    };
    let key = async |client: &Client, account: &str| {
        let request = CreateApiKeyRequest { service_account_id: account.to_owned(), ..Default::default() };
        client.create_api_key(request).await.unwrap()
    };
    let program = async |key: &CreateApiKeyResponse| {
        let token = crate::authenticate::exchange(&at.server, &key.secret).await.unwrap().access_token;
        at.server.client(&token)
    };
    let makes = ["service_accounts.write", "service_accounts.read"];
    let (maker, second) = (account(&at.boss, "maker", &makes).await, account(&at.boss, "second", &makes).await);
    // A chain: the leaver's key makes a key of another account, and that one a key of an account that it made itself.
    let first_key = key(&client, &maker).await;
    let second_key = key(&program(&first_key).await, &second).await;
    let third = account(&program(&second_key).await, "third", &[]).await;
    let third_key = key(&program(&second_key).await, &third).await;
    // The credential that was used may be deleted by then.
    let gone = DeleteApiKeyRequest { api_key_id: first_key.api_key.clone().unwrap().api_key_id };
    client.directory.clone().delete_api_key(gone).await.unwrap();
    // Keys that the same accounts have from another maker stay, and so do those they make from then on.
    let others_key = key(&at.boss, &second).await;

    let delete = DeleteUserRequest { user_id: leaver, ..Default::default() };
    let made = at.boss.directory.clone().delete_user(delete).await.unwrap().into_inner().made.unwrap();
    let id = |key: &CreateApiKeyResponse| key.api_key.clone().unwrap().api_key_id;
    let (mut told, mut expected) = (made.api_key_ids, vec![id(&second_key), id(&third_key)]);
    told.sort();
    expected.sort();
    assert_eq!(told, expected);
    for key in [&second_key, &third_key] {
        crate::authenticate::exchange(&at.server, &key.secret).await.expect_err("the key has ended");
    }
    crate::authenticate::exchange(&at.server, &others_key.secret).await.expect("somebody else made this one");
}

/// The end of a caller comes entirely before what it makes, which then is not made, or after it, and ends it.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_made_by_a_caller_that_is_being_ended() {
    let at = Harbour::new().await;
    let account = async |name: &str, permissions: &[&str]| {
        let request = CreateServiceAccountRequest {
            tenant_id: at.tenant.to_string(),
            name: name.to_owned(),
            permissions: permissions.iter().map(|name| (*name).to_owned()).collect(),
            ..Default::default()
        };
        at.boss.create_service_account(request).await.unwrap().service_account.unwrap().service_account_id
    };
    let maker = account("maker", &["service_accounts.write", "service_accounts.read"]).await;
    let plain = account("plain", &[]).await;
    let request = CreateApiKeyRequest { service_account_id: maker.clone(), ..Default::default() };
    let key = at.boss.create_api_key(request).await.unwrap();
    let token = crate::authenticate::exchange(&at.server, &key.secret).await.unwrap().access_token;
    let making = CreateApiKeyRequest { service_account_id: plain.clone(), ..Default::default() };

    let mut ending = at.server.sql().begin().await.unwrap();
    let hold = "SELECT FROM service_accounts WHERE service_account_id = $1::uuid FOR UPDATE";
    sqlx::query(hold).bind(&maker).execute(&mut *ending).await.unwrap();
    let made = tokio::spawn({
        let (program, making) = (at.server.client(&token), making.clone());
        async move { program.plain.clone().create_api_key(making).await }
    });
    let waits = async || (crate::database::waiting_for_locks(&at.server).await == 1).then_some(());
    eventually("the program waits", waits).await;
    let end = "SELECT set_config('sidle.platform', 'on', true), tokens_revoke(NULL, ARRAY[$1::uuid])";
    sqlx::query(end).bind(&maker).execute(&mut *ending).await.unwrap();
    ending.commit().await.unwrap();
    assert_eq!(made.await.unwrap().unwrap_err().code(), tonic::Code::Unauthenticated);

    // A user who makes a key is locked before the account, in the order of the deletion of the user: no deadlock.
    let proven = at.boss.proven("sidle.v1.DirectoryService/CreateApiKey", &plain, making).await;
    let mut ending = at.server.sql().begin().await.unwrap();
    let hold = "SELECT FROM users WHERE user_id = $1::uuid FOR UPDATE";
    sqlx::query(hold).bind(&at.boss_id).execute(&mut *ending).await.unwrap();
    let mut directory = at.boss.plain.clone();
    let made = tokio::spawn(async move { directory.create_api_key(proven).await });
    eventually("the user waits", waits).await;
    let account = "SELECT FROM service_accounts WHERE service_account_id = $1::uuid FOR UPDATE NOWAIT";
    sqlx::query(account).bind(&plain).execute(&mut *ending).await.expect("nobody holds the account");
    ending.rollback().await.unwrap();
    made.await.unwrap().expect("and the key is made");
}

/// Another name is another role to the services that read it.
#[tokio::test]
async fn a_role_is_renamed_by_who_may_assign_roles() {
    let at = Harbour::new().await;
    let cashier = create_role(&at.boss, at.tenant, "cashier", &[]).await;
    let editor = create_role(&at.boss, at.tenant, "editor", &["roles.write", "roles.read"]).await;
    let holder = at.server.user(at.tenant, "holder@harbour.example", "user").await;
    for role in [&cashier, &editor] {
        at.boss.directory.clone().create_membership(grant(holder, Some(at.tenant), &role.role_id)).await.unwrap();
    }
    let holder = at.server.client(&at.server.sign_in("holder@harbour.example").await.access_token);
    let update = |role: Role, path: &str| UpdateRoleRequest {
        role: Some(role),
        update_mask: Some(prost_types::FieldMask { paths: vec![path.to_owned()] }),
        validate_only: false,
    };
    let rename = Role { name: "treasurer".to_owned(), ..cashier.clone() };
    let refused = holder.directory.clone().update_role(update(rename.clone(), "name")).await.unwrap_err();
    assert_eq!(refused.get_details_error_info().unwrap().metadata["permission"], "roles.assign");
    let described = Role { description: "At the till.".to_owned(), ..cashier };
    let described = holder.directory.clone().update_role(update(described, "description")).await.unwrap().into_inner();
    let rename = Role { etag: described.role.unwrap().etag, ..rename };
    at.boss.directory.clone().update_role(update(rename, "name")).await.expect("who may assign");
}

/// What is given to a user who was deleted meanwhile would still be there when they are restored.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_given_to_a_user_who_is_being_deleted() {
    let at = Harbour::new().await;
    let ann = at.server.user(at.tenant, "ann@harbour.example", "user").await;
    let proven = at
        .boss
        .proven("sidle.v1.DirectoryService/CreateMembership", &ann.to_string(), grant(ann, Some(at.tenant), ADMIN))
        .await;
    let mut deleting = at.server.sql().begin().await.unwrap();
    sqlx::query("UPDATE users SET deleted_at = now() WHERE user_id = $1")
        .bind(ann)
        .execute(&mut *deleting)
        .await
        .unwrap();
    let mut directory = at.boss.plain.clone();
    let given = tokio::spawn(async move { directory.create_membership(proven).await });
    let waits = async || (crate::database::waiting_for_locks(&at.server).await == 1).then_some(());
    eventually("it waits for the deletion", waits).await;
    deleting.commit().await.unwrap();
    assert_eq!(given.await.unwrap().unwrap_err().code(), tonic::Code::NotFound);
}
