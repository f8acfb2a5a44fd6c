//! DirectoryService.

mod access;
mod admins;
mod delegation;
mod keys;
mod tenants;
mod users;

use sidle::proto::*;
use tonic::Status;
use tonic_types::StatusExt as _;
use uuid::Uuid;

use crate::support::{Client, TestServer};

pub(crate) const SUPER_ADMIN: &str = "00000000-0000-7000-8000-000000000002";
const SYSTEM_ADMIN: &str = "00000000-0000-7000-8000-000000000001";
const UPDATE_USER: &str = "sidle.v1.DirectoryService/UpdateUser";
const CREATE_MEMBERSHIP: &str = "sidle.v1.DirectoryService/CreateMembership";
const ADMIN: &str = "00000000-0000-7000-8000-000000000003";

/// `ErrorInfo.reason` of a call that must fail, and the field that it is refused for, if it is for one.
fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (String, String) {
    let status = answer.expect_err("the call is refused");
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("no reason in {status:?}"));
    let field = match details.bad_request() {
        Some(bad) => bad.field_violations[0].field.clone(),
        None => info.metadata.get("field").cloned().unwrap_or_default(),
    };
    (info.reason.clone(), field)
}

/// `ErrorInfo.reason` of a call that must fail.
fn reason<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    refusal(answer).0
}

/// The field that a call is refused for.
fn field<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    refusal(answer).1
}

fn new_user(tenant: Uuid, email: &str) -> CreateUserRequest {
    CreateUserRequest {
        tenant_id: tenant.to_string(),
        email: email.to_owned(),
        email_verified: true,
        ..Default::default()
    }
}

async fn create_user(client: &Client, request: CreateUserRequest) -> User {
    client.directory.clone().create_user(request).await.expect("created").into_inner().user.unwrap()
}

async fn get_user(client: &Client, id: &str) -> User {
    let identifier = Some(get_user_request::Identifier::UserId(id.to_owned()));
    let request = GetUserRequest { identifier, include_deleted: true };
    client.directory.clone().get_user(request).await.expect("found").into_inner().user.unwrap()
}

async fn create_role(client: &Client, tenant: Uuid, name: &str, permissions: &[&str]) -> Role {
    let request = CreateRoleRequest {
        tenant_id: tenant.to_string(),
        name: name.to_owned(),
        permissions: permissions.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    };
    client.directory.clone().create_role(request).await.expect("created").into_inner().role.unwrap()
}

fn grant(user: impl ToString, tenant: Option<Uuid>, role: &str) -> CreateMembershipRequest {
    CreateMembershipRequest {
        user_id: user.to_string(),
        tenant_id: tenant.map(|id| id.to_string()).unwrap_or_default(),
        role_id: role.to_owned(),
        ..Default::default()
    }
}

/// Makes a user an administrator of the platform, with the step-up that it requires.
async fn grant_on_platform(admin: &Client, user: &str) {
    let request = admin.proven(CREATE_MEMBERSHIP, user, grant(user, None, SYSTEM_ADMIN)).await;
    admin.directory.clone().create_membership(request).await.expect("granted");
}

/// Memberships of a user, everywhere.
async fn memberships(client: &Client, user: impl ToString) -> Vec<Membership> {
    let request = ListMembershipsRequest { user_id: user.to_string(), ..Default::default() };
    client.directory.clone().list_memberships(request).await.expect("listed").into_inner().memberships
}

/// A signed-in member of a tenant with a shared role.
async fn member(server: &TestServer, tenant: Uuid, email: &str, role: &str) -> (Uuid, Client) {
    let id = server.user(tenant, email, role).await;
    let tokens = server.sign_in(email).await;
    (id, server.client(&tokens.access_token))
}

fn mask(paths: &[&str]) -> Option<prost_types::FieldMask> {
    Some(prost_types::FieldMask { paths: paths.iter().map(|path| (*path).to_owned()).collect() })
}

/// Events of a type in the order they were recorded, with or without a position: target and details.
async fn events(server: &TestServer, kind: &str) -> Vec<(String, serde_json::Value)> {
    let sql = "SELECT target_id, details FROM (
            SELECT event_id, event_type, target_id, details FROM audit_inbox
            UNION ALL SELECT event_id, event_type, target_id, details FROM audit_events) every
        WHERE event_type = $1 ORDER BY event_id";
    sqlx::query_as(sql).bind(kind).fetch_all(server.sql()).await.unwrap()
}
