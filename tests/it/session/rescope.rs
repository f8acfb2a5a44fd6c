//! Every change of a principal's rights takes effect immediately: the tokens from before are refused on every replica,
//! open streams end, and the next refresh gives the new rights or none.

use std::collections::BTreeSet;

use sidle::access::policies;
use sidle::proto::*;
use tonic::{Code, Status};
use uuid::Uuid;

use super::{is_good, refresh};
use crate::look::reason;
use crate::support::{Client, Setup, TestServer, until, within};

/// RPCs of the directory that change a user's rights; each has a case below.
const CHANGES_RIGHTS: &[&str] = &[
    "CreateMembership",
    "DeleteMembership",
    "DeleteTenant",
    "DeleteUser",
    "DisableUser",
    "LockUser",
    "UpdateRole",
    "UpdateTenant",
    "UpdateUser",
];

/// RPCs of the directory that do not change the rights of a user who has tokens.
const LEAVES_RIGHTS: &[&str] = &[
    // The user gets something new that is in no token yet, or an authentication method again.
    "CreateRole",
    "CreateTenant",
    "CreateUser",
    "EnableUser",
    "RestoreUser",
    "UnlockUser",
    "LinkKanidmPerson",
    // Only a role without holders can be deleted.
    "DeleteRole",
    // Service accounts have no sessions; their tokens are tested in `a_programs_tokens_end_with_what_they_came_from`.
    "CreateApiKey",
    "CreateServiceAccount",
    "DeleteApiKey",
    "DeleteServiceAccount",
    "UpdateServiceAccount",
    // Keys sign tokens; they do not define rights.
    "RotateSigningKeys",
];

/// A member of a tenant of its own with a role of its own.
struct Member {
    tenant: Uuid,
    /// The user's home tenant.
    home: Uuid,
    user: Uuid,
    role: Role,
    membership: String,
    tokens: TokenPair,
}

/// The result of the next refresh.
enum After {
    /// These permissions in the tenant, and these on the platform.
    Rights(&'static [&'static str], &'static [&'static str]),
    /// A refusal for this reason.
    Refused(&'static str),
}

async fn member(server: &TestServer, admin: &Client, name: &str) -> Member {
    let home = server.tenant(&format!("home-{name}")).await;
    let tenant = server.tenant(&format!("tenant-{name}")).await;
    let email = format!("{name}@example.com");
    let user = server.user(home, &email, "user").await;
    let role = CreateRoleRequest {
        tenant_id: tenant.to_string(),
        name: "watcher".to_owned(),
        permissions: vec!["audit.read".to_owned(), "users.read".to_owned()],
        ..Default::default()
    };
    let role = admin.directory.clone().create_role(role).await.unwrap().into_inner().role.unwrap();
    let grant = membership(user, Some(tenant), &role.role_id);
    let membership = admin.directory.clone().create_membership(grant).await.unwrap().into_inner().membership.unwrap();
    let login = AuthenticatePasswordRequest {
        identifier: email,
        password: crate::support::ADMIN_PASSWORD.to_owned(),
        tenant_id: tenant.to_string(),
        ..Default::default()
    };
    let tokens = crate::authenticate::ask(server, login).await.unwrap().tokens.unwrap();
    Member { tenant, home, user, role, membership: membership.membership_id, tokens }
}

fn membership(user: Uuid, tenant: Option<Uuid>, role: &str) -> CreateMembershipRequest {
    CreateMembershipRequest {
        user_id: user.to_string(),
        tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
        role_id: role.to_owned(),
        ..Default::default()
    }
}

fn mask(path: &str) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: vec![path.to_owned()] })
}

/// The cases: a unique name, the RPC, and the result of the next refresh.
fn cases() -> Vec<(&'static str, &'static str, After)> {
    use After::{Refused, Rights};
    vec![
        ("granted", "CreateMembership", Rights(&["audit.read", "tokens.verify", "users.read"], &[])),
        ("everywhere", "CreateMembership", Rights(&["audit.read", "users.read"], &["tokens.verify"])),
        ("ungranted", "DeleteMembership", Refused("NO_TENANT")),
        ("undone", "DeleteTenant", Refused("NO_TENANT")),
        ("gone", "DeleteUser", Refused("INVALID_REFRESH_TOKEN")),
        ("off", "DisableUser", Refused("INVALID_REFRESH_TOKEN")),
        ("locked", "LockUser", Refused("INVALID_REFRESH_TOKEN")),
        ("narrowed", "UpdateRole", Rights(&["users.read"], &[])),
        ("closed", "UpdateTenant", Refused("NO_TENANT")),
        ("must-change", "UpdateUser", Rights(&[], &[])),
    ]
}

async fn change(admin: &Client, case: &str, member: &Member) {
    let mut directory = admin.directory.clone();
    let user_id = member.user.to_string();
    let done: Result<(), Status> = match case {
        "granted" | "everywhere" => {
            let place = (case == "granted").then_some(member.tenant);
            let role = CreateRoleRequest {
                tenant_id: place.map(|id| id.to_string()).unwrap_or_default(),
                name: format!("verifier-{case}"),
                permissions: vec!["tokens.verify".to_owned()],
                is_platform: place.is_none(),
                ..Default::default()
            };
            let role = directory.create_role(role).await.unwrap().into_inner().role.unwrap();
            let grant = membership(member.user, place, &role.role_id);
            let grant = admin.proven("sidle.v1.DirectoryService/CreateMembership", &user_id, grant).await;
            directory.create_membership(grant).await.map(drop)
        }
        "ungranted" => {
            let request = DeleteMembershipRequest { membership_id: member.membership.clone(), ..Default::default() };
            directory.delete_membership(request).await.map(drop)
        }
        "undone" => {
            let request = DeleteTenantRequest { tenant_id: member.tenant.to_string(), ..Default::default() };
            directory.delete_tenant(request).await.map(drop)
        }
        "gone" => directory.delete_user(DeleteUserRequest { user_id, ..Default::default() }).await.map(drop),
        "off" => directory.disable_user(DisableUserRequest { user_id, ..Default::default() }).await.map(drop),
        "locked" => directory.lock_user(LockUserRequest { user_id, ..Default::default() }).await.map(drop),
        "narrowed" => {
            let role = Role { permissions: vec!["users.read".to_owned()], ..member.role.clone() };
            let request =
                UpdateRoleRequest { role: Some(role), update_mask: mask("permissions"), ..Default::default() };
            directory.update_role(request).await.map(drop)
        }
        "closed" => {
            let id = get_tenant_request::Identifier::TenantId(member.tenant.to_string());
            let tenant = directory.get_tenant(GetTenantRequest { identifier: Some(id) }).await;
            let mut tenant = tenant.unwrap().into_inner().tenant.unwrap();
            tenant.status = TenantStatus::Disabled.into();
            let request =
                UpdateTenantRequest { tenant: Some(tenant), update_mask: mask("status"), ..Default::default() };
            directory.update_tenant(request).await.map(drop)
        }
        "must-change" => {
            let id = get_user_request::Identifier::UserId(user_id);
            let user = directory.get_user(GetUserRequest { identifier: Some(id), ..Default::default() }).await;
            let user = User { must_change_password: true, ..user.unwrap().into_inner().user.unwrap() };
            let update_mask = mask("must_change_password");
            let request = UpdateUserRequest { user: Some(user), update_mask, ..Default::default() };
            directory.update_user(request).await.map(drop)
        }
        other => panic!("no such case: {other}"),
    };
    done.unwrap_or_else(|status| panic!("{case}: {status:?}"));
}

/// Waits until the server refuses the token.
async fn refused(server: &TestServer, token: &str, case: &str) {
    until(&format!("{case}: the token is refused"), async || !is_good(server, token).await).await;
}

/// How an open stream ends.
async fn end_of(mut stream: tonic::Streaming<StreamEventsResponse>) -> Status {
    within("the stream ends", async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the stream ended without a reason"),
                Err(status) => return status,
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_change_of_rights_voids_tokens_everywhere_ends_streams_and_shows_at_the_next_refresh() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let admin = one.admin().await;
    for (case, rpc, after) in cases() {
        let member = member(&one, &admin, case).await;
        let old = &member.tokens.access_token;
        assert!(is_good(&one, old).await && is_good(&two, old).await, "{case}");
        let mut streams = Vec::new();
        for server in [&one, &two] {
            let open = server.client(old).audit.stream_events(StreamEventsRequest::default()).await;
            streams.push(open.unwrap_or_else(|e| panic!("{case}: {e:?}")).into_inner());
        }
        change(&admin, case, &member).await;
        assert!(!is_good(&one, old).await, "{case} ({rpc}): at once on the replica that was asked");
        refused(&two, old, case).await;
        for stream in streams {
            assert_eq!(end_of(stream).await.code(), Code::Unauthenticated, "{case}: its streams");
        }
        match (refresh(&two, &member.tokens.refresh_token, None).await, after) {
            (Err(status), After::Refused(why)) => assert_eq!(reason(&status), why, "{case}"),
            (Ok(next), After::Rights(here, everywhere)) => {
                let token = next.tokens.unwrap().access_token;
                let client = one.client(&token);
                let claims = client.authenticate.clone().who_am_i(WhoAmIRequest {}).await.unwrap().into_inner().claims;
                let claims = claims.unwrap();
                assert_eq!(claims.tenant_id, member.tenant.to_string(), "{case}");
                assert_eq!(
                    (&claims.permissions[..], &claims.platform_permissions[..]),
                    (&owned(here)[..], &owned(everywhere)[..]),
                    "{case}"
                );
            }
            (got, _) => panic!("{case}: {got:?}"),
        }
        assert!(!is_good(&two, old).await, "{case}: a refresh does not bring the old one back");
        let _ = member.home;
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// A new RPC is entered here as one that changes rights or not, and if it does, with its case.
#[test]
fn every_rpc_of_the_directory_is_accounted_for() {
    let reads = |name: &str| name.starts_with("Get") || name.starts_with("List");
    let rpcs: BTreeSet<&str> = policies()
        .iter()
        .filter_map(|(path, _)| path.strip_prefix("/sidle.v1.DirectoryService/"))
        .filter(|name| !reads(name))
        .collect();
    let known: BTreeSet<&str> = CHANGES_RIGHTS.iter().chain(LEAVES_RIGHTS).copied().collect();
    assert_eq!(rpcs, known);
    let tested: BTreeSet<&str> = cases().iter().map(|(_, rpc, _)| *rpc).collect();
    assert_eq!(tested, CHANGES_RIGHTS.iter().copied().collect());
}

/// CVE-2023-22492, CVE-2024-46999: a disabled user keeps nothing: no refresh, no token, no authentication method, also
/// when the session began elsewhere or is used for the first time since; and enabling them does not restore old
/// sessions.
#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_user_keeps_no_grant_and_an_enabled_one_gets_none_back() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let admin = one.admin().await;
    let member = member(&one, &admin, "ann").await;
    let elsewhere = two.sign_in("ann@example.com").await;
    change(&admin, "off", &member).await;
    for tokens in [&member.tokens, &elsewhere] {
        for server in [&two, &one] {
            let refused = refresh(server, &tokens.refresh_token, None).await.unwrap_err();
            assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN");
            self::refused(server, &tokens.access_token, "off").await;
        }
    }
    let refused = crate::authenticate::attempt(&two, "ann@example.com", crate::support::ADMIN_PASSWORD).await;
    assert_eq!(reason(&refused.unwrap_err()), "INVALID_CREDENTIALS");
    let enable = EnableUserRequest { user_id: member.user.to_string(), ..Default::default() };
    admin.directory.clone().enable_user(enable).await.unwrap();
    for tokens in [&member.tokens, &elsewhere] {
        assert!(
            refresh(&one, &tokens.refresh_token, None).await.is_err() && !is_good(&two, &tokens.access_token).await
        );
    }
    one.sign_in("ann@example.com").await;
}

/// Even a row that was disabled behind the service's back, without its sessions being ended, refreshes no more.
#[tokio::test]
async fn the_refresh_itself_looks_at_the_user() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let member = member(&server, &admin, "ann").await;
    for (off, on) in [
        ("status = 'disabled'", "status = 'active'"),
        ("status = 'pending_verification'", "status = 'active'"),
        ("deleted_at = now()", "deleted_at = NULL"),
        (
            "locked_until = now() + interval '1 hour', lock_reason = 'administrator'",
            "locked_until = NULL, lock_reason = NULL",
        ),
    ] {
        crate::authenticate::set(&server, member.user, off).await;
        let refused = refresh(&server, &member.tokens.refresh_token, None).await.unwrap_err();
        assert_eq!(reason(&refused), "INVALID_REFRESH_TOKEN", "{off}");
        crate::authenticate::set(&server, member.user, on).await;
    }
    // A lock after failures does not end existing sessions.
    let lock = "locked_until = now() + interval '1 hour', lock_reason = 'too_many_failures'";
    crate::authenticate::set(&server, member.user, lock).await;
    refresh(&server, &member.tokens.refresh_token, None).await.expect("the token was spent by no refusal, and lives");
    assert!(is_good(&server, &member.tokens.access_token).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_programs_tokens_end_with_what_they_came_from() {
    let setup = Setup::new().await;
    let (one, two) = (setup.start().await, setup.start().await);
    let admin = one.admin().await;
    for case in ["key deleted", "permissions", "disabled", "account deleted", "tenant disabled"] {
        let tenant = one.tenant(&format!("t-{}", case.replace(' ', "-"))).await;
        let mut directory = admin.directory.clone();
        let new = CreateServiceAccountRequest {
            tenant_id: tenant.to_string(),
            name: case.replace(' ', "-"),
            permissions: vec!["users.read".to_owned()],
            ..Default::default()
        };
        let account = admin.create_service_account(new).await.unwrap().service_account.unwrap();
        let service_account_id = account.service_account_id.clone();
        let key = CreateApiKeyRequest { service_account_id: service_account_id.clone(), ..Default::default() };
        let key = admin.create_api_key(key).await.unwrap();
        let token = crate::authenticate::exchange(&one, &key.secret).await.unwrap().access_token;
        assert!(is_good(&one, &token).await && is_good(&two, &token).await);
        let update = |account: ServiceAccount, path: &str| UpdateServiceAccountRequest {
            service_account: Some(account),
            update_mask: mask(path),
            validate_only: false,
        };
        let is_usable = match case {
            "key deleted" => {
                let api_key_id = key.api_key.unwrap().api_key_id;
                directory.delete_api_key(DeleteApiKeyRequest { api_key_id }).await.unwrap();
                false
            }
            "permissions" => {
                let account = ServiceAccount { permissions: Vec::new(), ..account };
                admin.update_service_account(update(account, "permissions")).await.unwrap();
                true
            }
            "disabled" => {
                let account = ServiceAccount { status: ServiceAccountStatus::Disabled.into(), ..account };
                admin.update_service_account(update(account, "status")).await.unwrap();
                false
            }
            "account deleted" => {
                let request = DeleteServiceAccountRequest { service_account_id, ..Default::default() };
                directory.delete_service_account(request).await.unwrap();
                false
            }
            _ => {
                let id = get_tenant_request::Identifier::TenantId(tenant.to_string());
                let found = directory.get_tenant(GetTenantRequest { identifier: Some(id) }).await;
                let mut tenant = found.unwrap().into_inner().tenant.unwrap();
                tenant.status = TenantStatus::Disabled.into();
                let request =
                    UpdateTenantRequest { tenant: Some(tenant), update_mask: mask("status"), ..Default::default() };
                directory.update_tenant(request).await.unwrap();
                false
            }
        };
        assert!(!is_good(&one, &token).await, "{case}");
        refused(&two, &token, case).await;
        let again = crate::authenticate::exchange(&two, &key.secret).await;
        assert_eq!(again.is_ok(), is_usable, "{case}");
        assert!(again.is_err() || again.unwrap().permissions.is_empty(), "{case}");
    }
}
