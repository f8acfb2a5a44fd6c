//! Step-up tokens: every sensitive call refuses without one, and one is valid for one call, in one session, for one
//! target, for five minutes.

use std::time::Duration;

use sidle::context::Context;
use sidle::proto::step_up_request::Proof;
use sidle::proto::*;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

use super::factors::*;
use super::{api_key, attempt, exchange, set, set_hash, tidy};
use crate::look::{event, reason, reasons};
use crate::support::server::with_proof;
use crate::support::{ADMIN_PASSWORD, Client, Setup, TestServer, cheap_hash};

fn metadata(status: &Status, key: &str) -> Option<String> {
    status.get_details_error_info().and_then(|info| info.metadata.get(key).cloned())
}

fn password() -> Proof {
    Proof::Password(ADMIN_PASSWORD.to_owned())
}

/// Refused without a proof where there is a Kanidm: tests/it/kanidm_login/admin_link.rs and link.rs.
const NEED_KANIDM: [&str; 2] =
    ["sidle.v1.DirectoryService/LinkKanidmPerson", "sidle.v1.AuthenticateService/StartKanidmLogin"];

/// Required of users only: a service account has a lasting credential already, and makes these calls without a step-up
/// token. So it does with `CreateMembership` in a tenant.
const OF_PEOPLE: [&str; 11] = [
    "sidle.v1.DirectoryService/CreateApiKey",
    "sidle.v1.DirectoryService/CreateServiceAccount",
    "sidle.v1.DirectoryService/CreateTenant",
    "sidle.v1.DirectoryService/CreateUser",
    "sidle.v1.DirectoryService/EnableUser",
    "sidle.v1.DirectoryService/RotateSigningKeys",
    "sidle.v1.DirectoryService/UnlockUser",
    "sidle.v1.DirectoryService/UpdateRole",
    "sidle.v1.DirectoryService/UpdateServiceAccount",
    "sidle.v1.DirectoryService/UpdateTenant",
    "sidle.v1.MigrationService/ImportUsers",
];

/// Where [`make_another`] makes another change to the same target.
const HAS_VARIANTS: [&str; 7] = [
    "UpdateUser",
    "CreateApiKey",
    "CreateServiceAccount",
    "UpdateServiceAccount",
    "UpdateRole",
    "CreateUser",
    "CreateTenant",
];

/// Every RPC that declares that it needs a proof, but for those that need a Kanidm before.
fn sensitive() -> impl Iterator<Item = &'static str> {
    sidle::access::all_sensitive().filter(|method| !NEED_KANIDM.contains(method))
}

/// A sensitive call: its caller, its target, and its request.
struct Case<'a> {
    method: &'static str,
    client: &'a Client,
    target: String,
    proof: Proof,
    /// What is made in a tenant is made there; none is the platform.
    tenant: Option<Uuid>,
}

/// Settings that let anyone register.
fn open() -> prost_types::Struct {
    let yes = prost_types::Value { kind: Some(prost_types::value::Kind::BoolValue(true)) };
    prost_types::Struct { fields: [("allow_registration".to_owned(), yes)].into() }
}

/// Makes the sensitive call `method` correctly, except for the step-up token.
async fn make(case: &Case<'_>, token: &str) -> Result<(), Status> {
    make_another(case, 0, token).await
}

/// As [`make`], with another change for each `variant` where there is one.
async fn make_another(case: &Case<'_>, variant: u32, token: &str) -> Result<(), Status> {
    let (mut own, mut directory) = (case.client.authenticate.clone(), case.client.plain.clone());
    let tenant_id = case.tenant.map(|id| id.to_string()).unwrap_or_default();
    let user_id = case.target.clone();
    let target = case.target.clone();
    // Another one each time, so that there is something to change.
    let other = |permissions: Vec<String>| match (variant, permissions.iter().any(|name| name == "users.read")) {
        (0, true) => vec!["roles.read".to_owned()],
        (0, false) => vec!["users.read".to_owned()],
        _ => vec!["*".to_owned()],
    };
    match case.method {
        "sidle.v1.AuthenticateService/EnrollTotp" => {
            own.enroll_totp(with_proof(EnrollTotpRequest {}, token)).await.map(drop)
        }
        "sidle.v1.AuthenticateService/DisableTotp" => {
            own.disable_totp(with_proof(DisableTotpRequest {}, token)).await.map(drop)
        }
        "sidle.v1.AuthenticateService/RegenerateRecoveryCodes" => {
            own.regenerate_recovery_codes(with_proof(RegenerateRecoveryCodesRequest {}, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/UpdateUser" => {
            let identifier = Some(get_user_request::Identifier::UserId(user_id));
            let request = GetUserRequest { identifier, include_deleted: false };
            let user = directory.get_user(request).await?.into_inner().user.unwrap();
            let request = UpdateUserRequest {
                user: Some(User {
                    email: format!("moved-{variant}-{}-{}@other.example", user.email.len(), case.target),
                    ..user
                }),
                update_mask: Some(prost_types::FieldMask { paths: vec!["email".to_owned()] }),
                validate_only: false,
            };
            directory.update_user(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/CreateMembership" => {
            let role = if case.tenant.is_some() { 2 } else { 1 };
            let role_id = format!("00000000-0000-7000-8000-00000000000{role}");
            let request = CreateMembershipRequest { user_id, role_id, tenant_id, ..Default::default() };
            directory.create_membership(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/CreateApiKey" => {
            let description = variant.to_string();
            let request = CreateApiKeyRequest { service_account_id: target, description, ..Default::default() };
            directory.create_api_key(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/CreateServiceAccount" => {
            let name = format!("made-{variant}-{tenant_id}");
            let request = CreateServiceAccountRequest { name, tenant_id, ..Default::default() };
            directory.create_service_account(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/UpdateServiceAccount" => {
            let identifier = Some(get_service_account_request::Identifier::ServiceAccountId(target));
            let request = GetServiceAccountRequest { identifier };
            let account = directory.get_service_account(request).await?.into_inner().service_account.unwrap();
            let request = UpdateServiceAccountRequest {
                service_account: Some(ServiceAccount { permissions: other(account.permissions.clone()), ..account }),
                update_mask: Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] }),
                validate_only: false,
            };
            directory.update_service_account(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/UpdateRole" => {
            let role = directory.get_role(GetRoleRequest { role_id: target }).await?.into_inner().role.unwrap();
            let request = UpdateRoleRequest {
                role: Some(Role { permissions: other(role.permissions.clone()), ..role }),
                update_mask: Some(prost_types::FieldMask { paths: vec!["permissions".to_owned()] }),
                validate_only: false,
            };
            directory.update_role(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/CreateUser" => {
            let tenant_id = case.tenant.expect("a home").to_string();
            let email = format!("made-{variant}@{tenant_id}.example");
            let request = CreateUserRequest { email, tenant_id, ..Default::default() };
            directory.create_user(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/CreateTenant" => {
            let slug = format!("made-{variant}");
            let (name, settings) = (slug.clone(), Some(open()));
            let request = CreateTenantRequest { slug, name, settings, ..Default::default() };
            directory.create_tenant(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/UpdateTenant" => {
            let settle = async |settings: prost_types::Struct, token: &str| {
                let identifier = Some(get_tenant_request::Identifier::TenantId(target.clone()));
                let found = directory.clone().get_tenant(GetTenantRequest { identifier }).await?.into_inner();
                let request = UpdateTenantRequest {
                    tenant: Some(Tenant { settings: Some(settings), ..found.tenant.unwrap() }),
                    update_mask: Some(prost_types::FieldMask { paths: vec!["settings".to_owned()] }),
                    validate_only: false,
                };
                directory.clone().update_tenant(with_proof(request, token)).await.map(drop)
            };
            let identifier = Some(get_tenant_request::Identifier::TenantId(target.clone()));
            let found =
                directory.clone().get_tenant(GetTenantRequest { identifier }).await?.into_inner().tenant.unwrap();
            // Only where registration is open: each change gives the tenant another etag, and makes the next another
            // request.
            if found.settings.is_some_and(|settings| !settings.fields.is_empty()) {
                settle(prost_types::Struct::default(), "").await.expect("closing needs no proof");
            }
            settle(open(), token).await
        }
        "sidle.v1.MigrationService/ImportUsers" => {
            let rows = vec![crate::migration::row(1, &format!("{}@import.example", Uuid::new_v4()))];
            let mut messages = crate::migration::messages(crate::migration::header("homes"), rows);
            if let Some(import_users_request::Part::Rows(rows)) = &mut messages[1].part {
                rows.rows[0].legacy_id = Uuid::new_v4().to_string();
            }
            crate::migration::send_once(case.client, messages, token).await.map(drop)
        }
        "sidle.v1.DirectoryService/RotateSigningKeys" => {
            let request = RotateSigningKeysRequest { request_id: Uuid::new_v4().to_string(), ..Default::default() };
            directory.rotate_signing_keys(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/EnableUser" => {
            directory.disable_user(DisableUserRequest { user_id: target.clone(), ..Default::default() }).await?;
            let request = EnableUserRequest { user_id: target, ..Default::default() };
            directory.enable_user(with_proof(request, token)).await.map(drop)
        }
        "sidle.v1.DirectoryService/UnlockUser" => {
            directory.lock_user(LockUserRequest { user_id: target.clone(), ..Default::default() }).await?;
            directory.unlock_user(with_proof(UnlockUserRequest { user_id: target }, token)).await.map(drop)
        }
        other => panic!("{other} asks for a step-up: make it here, so that its refusal is tested"),
    }
}

/// The case for every RPC that declares that it needs a step-up, each with a caller of its own: on the platform, and in
/// a tenant where that is possible.
async fn cases<'a>(
    server: &TestServer,
    admin: &'a Client,
    boss: (&'a Client, Uuid),
    people: &'a [Guarded],
    plain: &'a Client,
) -> Vec<Case<'a>> {
    let homes = server.tenant("homes").await;
    let (boss, own) = boss;
    let theirs = server.user(own, "theirs@example.com", "user").await.to_string();
    let request =
        CreateServiceAccountRequest { name: "tenants".to_owned(), tenant_id: own.to_string(), ..Default::default() };
    let own_account = boss.create_service_account(request).await.unwrap().service_account.unwrap().service_account_id;
    let request = CreateRoleRequest { name: "clerk".to_owned(), tenant_id: own.to_string(), ..Default::default() };
    let own_role = boss.directory.clone().create_role(request).await.unwrap().into_inner().role.unwrap().role_id;
    let victim = server.user(server.tenant("victims").await, "victim@example.com", "user").await.to_string();
    let role = CreateRoleRequest { name: "watch".to_owned(), is_platform: true, ..Default::default() };
    let role = admin.directory.clone().create_role(role).await.unwrap().into_inner().role.unwrap().role_id;
    let account = service_account(admin, "program").await;
    let colleague = server.user(server.tenant("colleagues").await, "colleague@example.com", "SYSTEM_ADMIN").await;
    let mut people = people.iter();
    sensitive()
        .map(|method| match method.rsplit('/').next().unwrap() {
            "CreateServiceAccount" | "RotateSigningKeys" | "CreateTenant" | "ImportUsers" => {
                Case { method, client: admin, target: String::new(), proof: password(), tenant: None }
            }
            "CreateUser" => {
                Case { method, client: admin, target: String::new(), proof: password(), tenant: Some(homes) }
            }
            "UpdateTenant" => {
                Case { method, client: admin, target: homes.to_string(), proof: password(), tenant: None }
            }
            "CreateApiKey" | "UpdateServiceAccount" => {
                Case { method, client: admin, target: account.clone(), proof: password(), tenant: None }
            }
            "UpdateRole" => Case { method, client: admin, target: role.clone(), proof: password(), tenant: None },
            "EnableUser" | "UnlockUser" => {
                Case { method, client: admin, target: colleague.to_string(), proof: password(), tenant: None }
            }
            "EnrollTotp" => Case { method, client: plain, target: String::new(), proof: password(), tenant: None },
            "DisableTotp" | "RegenerateRecoveryCodes" => {
                let person = people.next().expect("one for each");
                let proof = Proof::RecoveryCode(person.codes[0].clone());
                Case { method, client: &person.client, target: String::new(), proof, tenant: None }
            }
            _ => Case { method, client: admin, target: victim.clone(), proof: password(), tenant: None },
        })
        .chain(IN_TENANTS.into_iter().map(|method| {
            let target = match method.rsplit('/').next().unwrap() {
                "CreateServiceAccount" | "CreateUser" => String::new(),
                "CreateApiKey" | "UpdateServiceAccount" => own_account.clone(),
                "UpdateRole" => own_role.clone(),
                "UpdateTenant" => own.to_string(),
                _ => theirs.clone(),
            };
            Case { method, client: boss, target, proof: password(), tenant: Some(own) }
        }))
        .collect()
}

/// What a tenant's administrator needs one for as well.
const IN_TENANTS: [&str; 10] = [
    "sidle.v1.DirectoryService/CreateApiKey",
    "sidle.v1.DirectoryService/CreateMembership",
    "sidle.v1.DirectoryService/CreateServiceAccount",
    "sidle.v1.DirectoryService/CreateUser",
    "sidle.v1.DirectoryService/EnableUser",
    "sidle.v1.DirectoryService/UnlockUser",
    "sidle.v1.DirectoryService/UpdateRole",
    "sidle.v1.DirectoryService/UpdateServiceAccount",
    "sidle.v1.DirectoryService/UpdateTenant",
    "sidle.v1.DirectoryService/UpdateUser",
];

/// A service account of the platform.
async fn service_account(admin: &Client, name: &str) -> String {
    let request = CreateServiceAccountRequest { name: name.to_owned(), ..Default::default() };
    let request = admin.proven("sidle.v1.DirectoryService/CreateServiceAccount", "", request).await;
    let created = admin.directory.clone().create_service_account(request).await.unwrap().into_inner();
    created.service_account.unwrap().service_account_id
}

#[tokio::test]
async fn every_sensitive_call_needs_a_proof_for_exactly_this() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let admin = server.admin().await;
    let people = [guarded(&server, tenant, "ann@example.com").await, guarded(&server, tenant, "bob@example.com").await];
    server.user(tenant, "plain@example.com", "user").await;
    let plain = server.client(&server.sign_in("plain@example.com").await.access_token);
    let other = server.client(&server.sign_in("root@platform.example").await.access_token);
    let harbour = server.tenant("harbour").await;
    server.user(harbour, "boss@harbour.example", "super_admin").await;
    let boss = server.client(&server.sign_in("boss@harbour.example").await.access_token);
    let boss_elsewhere = server.client(&server.sign_in("boss@harbour.example").await.access_token);
    for case in cases(&server, &admin, (&boss, harbour), &people, &plain).await {
        let method = case.method;
        let other = if std::ptr::eq(case.client, &boss) { &boss_elsewhere } else { &other };
        let refused = make(&case, "").await.expect_err(method);
        assert_eq!(
            (refused.code(), reason(&refused).as_str()),
            (Code::FailedPrecondition, "STEP_UP_REQUIRED"),
            "{method}"
        );
        assert_eq!(metadata(&refused, "method").as_deref(), Some(method));
        assert_eq!(metadata(&refused, "target").as_deref(), Some(case.target.as_str()), "{method}");
        assert!(metadata(&refused, "ways").is_some_and(|ways| !ways.is_empty()), "{method}");
        // Invalid tokens, and those of another user, for another target, for another call.
        let another = sensitive().find(|other| *other != method).unwrap();
        let elsewhere = Uuid::new_v4().to_string();
        let change = metadata(&refused, "change").expect("what the call changes");
        let wrong = [
            "sidle_su_".to_owned() + &"A".repeat(43),
            other.prove_change(method, &case.target, &change).await,
            other.prove_change(method, &elsewhere, &change).await,
        ];
        for token in wrong {
            assert_eq!(reason(&make(&case, &token).await.expect_err(method)), "STEP_UP_REQUIRED", "{method}");
        }
        if matches!(case.proof, Proof::Password(_)) {
            for token in [
                case.client.prove_change(another, &case.target, &change).await,
                case.client.prove_change(method, &elsewhere, &change).await,
            ] {
                assert_eq!(reason(&make(&case, &token).await.expect_err(method)), "STEP_UP_REQUIRED", "{method}");
            }
        }
        let request = StepUpRequest {
            method: method.to_owned(),
            target: case.target.clone(),
            change,
            proof: Some(case.proof.clone()),
        };
        let token = case.client.authenticate.clone().step_up(request).await.unwrap().into_inner().step_up_token;
        assert!(token.starts_with("sidle_su_"));
        if HAS_VARIANTS.iter().any(|name| method.ends_with(name)) {
            let refused = make_another(&case, 1, &token).await.expect_err(method);
            assert_eq!(reason(&refused), "STEP_UP_REQUIRED", "{method}: the same method and target, another change");
        }
        make(&case, &token).await.unwrap_or_else(|status| panic!("{method} with its proof: {status:?}"));
        // Once.
        let refused = make(&case, &token).await.expect_err(method);
        assert!(
            ["STEP_UP_REQUIRED", "INVALID_FACTOR_STATE", "ALREADY_EXISTS", "UNAUTHENTICATED", "PERMISSION_DENIED"]
                .contains(&reason(&refused).as_str())
        );
    }
    let recorded = event(&server, "user.stepped_up").await;
    assert!(recorded.details.get("method").is_some() && recorded.details.get("factor").is_some(), "{recorded:?}");
}

/// A step-up token of one tenant is void in another, in which the same call may mean something else.
#[tokio::test]
async fn a_proof_is_for_the_tenant_that_the_session_acts_in() {
    let server = TestServer::start().await;
    let (home, other) = (server.tenant("home").await, server.tenant("other").await);
    let boss = server.user(home, "boss@example.com", "super_admin").await;
    crate::session::refresh::join(&server, other, boss).await;
    let tokens = server.sign_in("boss@example.com").await;
    let here = server.client(&tokens.access_token);
    let token = here.prove(ENROLL, "").await;
    let switch =
        RefreshTokenRequest { refresh_token: tokens.refresh_token, tenant_id: other.to_string(), ..Default::default() };
    let switched = server.client("").authenticate.refresh_token(switch).await.unwrap().into_inner().tokens.unwrap();
    let there = server.client(&switched.access_token);
    let refused = there.authenticate.clone().enroll_totp(with_proof(EnrollTotpRequest {}, &token)).await.unwrap_err();
    assert_eq!(reason(&refused), "STEP_UP_REQUIRED", "the same session, in another tenant");
    here.authenticate.clone().enroll_totp(with_proof(EnrollTotpRequest {}, &token)).await.expect("where it was made");
}

/// The rights of a session do not suffice for these, whichever user holds them; and a service account has nothing to
/// reauthenticate with.
#[tokio::test]
async fn a_service_account_never_satisfies_a_step_up() {
    let server = TestServer::start().await;
    let key = api_key(&server, None, &["*"], &[]).await;
    let program = server.client(&exchange(&server, &key).await.unwrap().access_token);
    let admin = server.admin().await;
    let victim = server.user(server.tenant("victims").await, "victim@example.com", "user").await.to_string();
    let request = StepUpRequest { method: DISABLE.to_owned(), proof: Some(password()), ..Default::default() };
    let refused = program.authenticate.clone().step_up(request).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused).as_str()), (Code::PermissionDenied, "USER_REQUIRED"));
    for method in sensitive().filter(|method| !OF_PEOPLE.contains(method)) {
        let own = method.contains("Authenticate");
        let target = if own { String::new() } else { victim.clone() };
        let case = Case { method, client: &program, target: target.clone(), proof: password(), tenant: None };
        // Not even with a user's step-up token.
        for token in [String::new(), admin.prove(method, &target).await] {
            assert_eq!(reason(&make(&case, &token).await.expect_err(method)), "USER_REQUIRED", "{method}");
        }
    }
}

/// Rotating its own keys is what a service account does unattended; a user's session needs a step-up before it becomes
/// a credential that outlasts it, in a tenant as on the platform.
#[tokio::test]
async fn what_outlasts_a_session_is_asked_of_people_and_taking_away_of_nobody() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("a").await;
    let key = api_key(&server, None, &["*"], &[]).await;
    let program = server.client(&exchange(&server, &key).await.unwrap().access_token);
    let account = service_account(&admin, "another").await;
    let role = CreateRoleRequest { name: "watch".to_owned(), is_platform: true, ..Default::default() };
    let role = admin.directory.clone().create_role(role).await.unwrap().into_inner().role.unwrap().role_id;
    let colleague = server.user(tenant, "colleague@example.com", "SYSTEM_ADMIN").await;
    let plain = server.user(tenant, "plain@example.com", "user").await;
    let homes = server.tenant("homes").await;
    for method in OF_PEOPLE {
        let target = match method.rsplit('/').next().unwrap() {
            "CreateApiKey" | "UpdateServiceAccount" => account.clone(),
            "UpdateRole" => role.clone(),
            "EnableUser" | "UnlockUser" => colleague.to_string(),
            "UpdateTenant" => homes.to_string(),
            _ => String::new(),
        };
        let home = method.ends_with("CreateUser").then_some(homes);
        let case = Case { method, client: &program, target, proof: password(), tenant: home };
        make(&case, "").await.unwrap_or_else(|status| panic!("{method}: {status:?}"));
    }

    let grant = "sidle.v1.DirectoryService/CreateMembership";
    let case =
        Case { method: grant, client: &program, target: plain.to_string(), proof: password(), tenant: Some(tenant) };
    make(&case, "").await.expect("a role in a tenant");

    // A user who becomes an administrator of every tenant by `is_admin` is one as much as by a permission.
    let shared = CreateRoleRequest { name: "shared".to_owned(), ..Default::default() };
    let shared = admin.directory.clone().create_role(shared).await.unwrap().into_inner().role.unwrap();
    let mark = UpdateRoleRequest {
        role: Some(Role { is_admin: true, ..shared }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["is_admin".to_owned()] }),
        validate_only: false,
    };
    assert_eq!(reason(&admin.plain.clone().update_role(mark).await.unwrap_err()), "STEP_UP_REQUIRED");

    // Without the required change, the administrator who set the password could keep signing in with it.
    set(&server, plain, "must_change_password = true").await;
    let identifier = Some(get_user_request::Identifier::UserId(plain.to_string()));
    let user = admin.plain.clone().get_user(GetUserRequest { identifier, include_deleted: false }).await.unwrap();
    let user = User { must_change_password: false, ..user.into_inner().user.unwrap() };
    let paths = vec!["must_change_password".to_owned()];
    let update_mask = Some(prost_types::FieldMask { paths });
    let update = UpdateUserRequest { user: Some(user), update_mask, validate_only: false };
    assert_eq!(reason(&admin.plain.clone().update_user(update).await.unwrap_err()), "STEP_UP_REQUIRED");

    // Removing rights requires none.
    let identifier = Some(get_service_account_request::Identifier::ServiceAccountId(account.clone()));
    let status = async |status: ServiceAccountStatus| {
        let request = GetServiceAccountRequest { identifier: identifier.clone() };
        let known = admin.directory.clone().get_service_account(request).await.unwrap().into_inner();
        let request = UpdateServiceAccountRequest {
            service_account: Some(ServiceAccount { status: status.into(), ..known.service_account.unwrap() }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["status".to_owned()] }),
            validate_only: false,
        };
        admin.plain.clone().update_service_account(request).await
    };
    status(ServiceAccountStatus::Disabled).await.expect("switched off in an emergency");
    assert_eq!(reason(&status(ServiceAccountStatus::Active).await.unwrap_err()), "STEP_UP_REQUIRED");
    let delete = DeleteServiceAccountRequest { service_account_id: account, ..Default::default() };
    admin.directory.clone().delete_service_account(delete).await.expect("deleted");
}

#[tokio::test]
async fn of_two_calls_with_one_proof_exactly_one_gets_through() {
    let context = Context::system();
    let setup = Setup::new().await;
    let (one, two) = (setup.start_with(context.clone()).await, setup.start_with(context).await);
    let tenant = one.tenant("a").await;
    let ann = guarded(&one, tenant, "ann@example.com").await;
    let session = one.sql();
    for code in &ann.codes[..1] {
        let token = ann.prove(REGENERATE, Proof::RecoveryCode(code.clone())).await.unwrap();
        let elsewhere = ann.client.on(two.channel.clone());
        let call = async |client: &Client| {
            client
                .authenticate
                .clone()
                .regenerate_recovery_codes(with_proof(RegenerateRecoveryCodesRequest {}, &token))
                .await
        };
        let answers = tokio::join!(call(&ann.client), call(&elsewhere), call(&ann.client), call(&elsewhere));
        let won = [answers.0.is_ok(), answers.1.is_ok(), answers.2.is_ok(), answers.3.is_ok()];
        assert_eq!(won.iter().filter(|won| **won).count(), 1, "{won:?}");
    }
    let changes: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM (SELECT event_type FROM audit_inbox UNION ALL SELECT event_type FROM audit_events) e
         WHERE event_type = 'user.recovery_codes_regenerated'",
    )
    .fetch_one(session)
    .await
    .unwrap();
    assert_eq!(changes, 1);
}

#[tokio::test]
async fn a_proof_is_of_one_session() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    let own = server.client(&server.sign_in("ann@example.com").await.access_token);
    let stolen = server.client(&server.sign_in("ann@example.com").await.access_token);
    let token = own.prove(ENROLL, "").await;
    let refused = stolen.authenticate.clone().enroll_totp(with_proof(EnrollTotpRequest {}, &token)).await.unwrap_err();
    assert_eq!(reason(&refused), "STEP_UP_REQUIRED");
    own.authenticate
        .clone()
        .enroll_totp(with_proof(EnrollTotpRequest {}, &token))
        .await
        .expect("not spent by the thief");
}

/// Session, expiry, and every change of what the user reauthenticated with.
#[tokio::test]
async fn a_proof_dies_with_what_it_stands_on() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let changes = [
        "lapse",
        "session",
        "password_changed_at = now()",
        "email = 'new@example.com', email_key = 'new@example.com'",
        "kanidm_user_id = gen_random_uuid(), auth_method = 'dual'",
        "nothing",
    ];
    for (n, change) in changes.into_iter().enumerate() {
        let email = format!("ann{n}@example.com");
        let user = server.user(tenant, &email, "user").await;
        let client = server.client(&server.sign_in(&email).await.access_token);
        let token = client.prove(ENROLL, "").await;
        match change {
            "lapse" => server.context.clock.advance(Duration::from_secs(301)),
            "session" => {
                let end = "UPDATE sessions SET status = 'revoked', revoked_at = now(), revoke_reason = 'user' WHERE user_id = $1";
                sqlx::query(end).bind(user).execute(server.sql()).await.map(drop).unwrap();
            }
            "nothing" => {}
            assignment => set(&server, user, assignment).await,
        }
        let answer = client.authenticate.clone().enroll_totp(with_proof(EnrollTotpRequest {}, &token)).await;
        match answer {
            Ok(_) => assert_eq!(change, "nothing"),
            Err(refused) => {
                assert_eq!(reason(&refused), "STEP_UP_REQUIRED", "{change}");
                assert_ne!(change, "nothing");
            }
        }
    }
    tidy(&server).await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM step_up_tokens WHERE expires_at <= $1")
        .bind(server.context.now())
        .fetch_one(server.sql())
        .await
        .unwrap();
    assert_eq!(left, 0, "what has lapsed is removed");
}

/// A second factor that is enrolled after the password was proved voids that step-up token.
#[tokio::test]
async fn enrolling_a_factor_voids_proofs_by_the_weaker_one() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    let before = client.prove(DISABLE, "").await;
    enrol(&server, &client).await;
    let refused =
        client.authenticate.clone().disable_totp(with_proof(DisableTotpRequest {}, &before)).await.unwrap_err();
    assert_eq!(reason(&refused), "STEP_UP_REQUIRED");
}

#[tokio::test]
async fn a_call_that_fails_spends_nothing() {
    let server = TestServer::start().await;
    let admin = server.admin().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "taken@example.com", "user").await;
    let user = server.user(tenant, "ann@example.com", "user").await.to_string();
    let update = async |email: &str, token: &str, validate_only| {
        let identifier = Some(get_user_request::Identifier::UserId(user.clone()));
        let request = GetUserRequest { identifier, include_deleted: false };
        let known = admin.directory.clone().get_user(request).await.unwrap().into_inner().user.unwrap();
        let request = UpdateUserRequest {
            user: Some(User { email: email.to_owned(), ..known }),
            update_mask: Some(prost_types::FieldMask { paths: vec!["email".to_owned()] }),
            validate_only,
        };
        admin.directory.clone().update_user(with_proof(request, token)).await
    };
    let proof = async |email: &str| {
        let refused = update(email, "", false).await.unwrap_err();
        admin.prove_asked(&refused).await
    };
    let token = proof("taken@example.com").await;
    assert_eq!(reason(&update("taken@example.com", &token, false).await.unwrap_err()), "ALREADY_EXISTS");
    assert_eq!(reason(&update("free@example.com", &token, false).await.unwrap_err()), "STEP_UP_REQUIRED");
    assert_eq!(reason(&update("taken@example.com", &token, false).await.unwrap_err()), "ALREADY_EXISTS", "still good");
    let token = proof("free@example.com").await;
    update("free@example.com", &token, true).await.expect("a trial run spends nothing either");
    update("free@example.com", &token, false).await.expect("the proof is still good");
    assert_eq!(reason(&update("third@example.com", &token, false).await.unwrap_err()), "STEP_UP_REQUIRED");
    // Calls that are not sensitive need none.
    update("free@example.com", "", false).await.expect("the address that is there already");
}

/// CVE-2025-64102: guesses at a step-up are counted with those at the login, over every kind of proof.
#[tokio::test]
async fn guesses_at_a_proof_lock_like_guesses_at_the_login() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let bob = server.user(tenant, "bob@example.com", "user").await;
    let client = server.client(&server.sign_in("bob@example.com").await.access_token);
    for n in 1..=5 {
        let refused = prove(&client, ENROLL, "", Proof::Password(format!("guess {n}"))).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Unauthenticated, "INVALID_CREDENTIALS"));
    }
    assert_eq!(counted(&server, bob).await, (5, true));
    assert_eq!(reason(&prove(&client, ENROLL, "", password()).await.unwrap_err()), "INVALID_CREDENTIALS");
    assert_eq!(reason(&attempt(&server, "bob@example.com", ADMIN_PASSWORD).await.unwrap_err()), "INVALID_CREDENTIALS");

    let ann = guarded(&server, tenant, "ann@example.com").await;
    for n in 0..5 {
        let guess = match n % 2 {
            0 => Proof::TotpCode(ann.wrong(&server)),
            _ => Proof::RecoveryCode("0000-0000-0000-0000".to_owned()),
        };
        assert_eq!(reason(&ann.prove(DISABLE, guess).await.unwrap_err()), "INVALID_CREDENTIALS");
    }
    assert_eq!(counted(&server, ann.user).await, (5, true));
    let right = [Proof::TotpCode(ann.code(&server)), Proof::RecoveryCode(ann.codes[0].clone())];
    for proof in right {
        assert_eq!(reason(&ann.prove(DISABLE, proof).await.unwrap_err()), "INVALID_CREDENTIALS", "locked");
    }
    assert_eq!(reasons(&server, "user.step_up_refused", "refused").await[..5], ["wrong_code"; 5]);
}

/// A right proof gives its attempt back and no more: a stolen session cannot get more guesses at the login.
#[tokio::test]
async fn right_proofs_between_guesses_do_not_hold_the_lock_off() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "bob@example.com", "user").await;
    let client = server.client(&server.sign_in("bob@example.com").await.access_token);
    for _ in 0..4 {
        attempt(&server, "bob@example.com", "a guess").await.unwrap_err();
        client.prove(ENROLL, "").await;
    }
    assert_eq!(counted(&server, user).await, (4, false));
    attempt(&server, "bob@example.com", "a guess").await.unwrap_err();
    assert_eq!(counted(&server, user).await, (5, true));
}

/// Between reading the password and storing the token lies a hash: a change in between must win.
#[tokio::test]
async fn a_password_that_was_changed_meanwhile_proves_nothing() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    let user = server.user(tenant, "ann@example.com", "user").await;
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    // The old password is right when it is compared, and is replaced when the token is to be stored: a trigger changes
    // it as the attempt is given back.
    set_hash(&server, user, &cheap_hash(ADMIN_PASSWORD), 4).await;
    let other = cheap_hash("another password entirely");
    let change = format!(
        "CREATE FUNCTION meanwhile() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN NEW.password_hash := '{other}'; NEW.password_changed_at := clock_timestamp(); RETURN NEW; END $$;
         CREATE TRIGGER meanwhile BEFORE UPDATE OF failed_login_attempts ON users FOR EACH ROW
         WHEN (OLD.failed_login_attempts > NEW.failed_login_attempts) EXECUTE FUNCTION meanwhile()"
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(change)).execute(server.sql()).await.unwrap();
    let refused = prove(&client, ENROLL, "", password()).await.unwrap_err();
    assert_eq!(reason(&refused), "INVALID_CREDENTIALS");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM step_up_tokens").fetch_one(server.sql()).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_field() {
    let server = TestServer::start().await;
    let tenant = server.tenant("a").await;
    server.user(tenant, "ann@example.com", "user").await;
    let client = server.client(&server.sign_in("ann@example.com").await.access_token);
    let step_up = async |method: &str, target: &str, proof: Option<Proof>| {
        let request =
            StepUpRequest { method: method.to_owned(), target: target.to_owned(), change: String::new(), proof };
        let refused = client.authenticate.clone().step_up(request).await.unwrap_err();
        (reason(&refused), refused.get_details_bad_request().map(|bad| bad.field_violations[0].field.clone()))
    };
    let field = |name: &str| ("INVALID_FIELD".to_owned(), Some(name.to_owned()));
    assert_eq!(step_up("sidle.v1.SessionService/GetSession", "", Some(password())).await, field("method"));
    assert_eq!(step_up("", "", Some(password())).await, field("method"));
    assert_eq!(step_up(ENROLL, "not an id", Some(password())).await, field("target"));
    assert_eq!(step_up(ENROLL, "", None).await, field("proof"));
    let unread = StepUpRequest {
        method: ENROLL.to_owned(),
        change: "nonsense".to_owned(),
        proof: Some(password()),
        ..Default::default()
    };
    let unread = client.authenticate.clone().step_up(unread).await.unwrap_err();
    assert_eq!(unread.get_details_bad_request().unwrap().field_violations[0].field, "change");
    assert_eq!(step_up(ENROLL, "", Some(Proof::TotpCode("1".repeat(999)))).await, field("totp_code"));
    assert_eq!(step_up(ENROLL, "", Some(Proof::Password(String::new()))).await, field("password"));
    // A method that the account does not have is named, since the caller has signed in; and nothing is counted.
    assert_eq!(step_up(ENROLL, "", Some(Proof::TotpCode("123456".to_owned()))).await.0, "STEP_UP_REQUIRED");
}
