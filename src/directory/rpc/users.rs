//! Users on the wire.

use chrono::TimeDelta;
use zeroize::Zeroizing;

use super::super::store::{self, AuthMethod, LockReason, UserStatus};
use super::super::users::{self, Edit, Filter, NewUser};
use super::super::{kanidm, tenants};
use super::convert::{choice, fields, made as made_to_proto, optional_version, resource, time, version};
use super::{BEGINNING, Service, page};
use crate::access::names::{email_key, username, username_key};
use crate::access::replay::{ChangeRequest, answers_without_secrets};
use crate::access::{Call, etag, input, paging};
use crate::fault::{Fault, Result};
use crate::proto::get_user_request::Identifier;
use crate::proto::{self, *};

const LIST: &str = "sidle.v1.DirectoryService/ListUsers";
const CREATE: &str = "sidle.v1.DirectoryService/CreateUser";
const LINK: &str = "/sidle.v1.DirectoryService/LinkKanidmPerson";

pub(super) async fn get(service: &Service, call: &Call, request: GetUserRequest) -> Result<GetUserResponse> {
    let (_, mut tx) = service.directory.read(call, "users.read").await?;
    let found = match request.identifier {
        Some(Identifier::UserId(id)) => {
            store::users::by_id(&mut tx, input::uuid("user_id", &id)?, request.include_deleted).await?
        }
        Some(Identifier::Email(email)) => {
            let email = input::required("email", &email, 254)?;
            store::users::by_email(&mut tx, &email_key(&email)).await?
        }
        Some(Identifier::Username(name)) => {
            // What cannot be a username belongs to no user.
            match username_key(&input::required("username", &name, 254)?) {
                Some(key) => store::users::by_username(&mut tx, &key).await?,
                None => None,
            }
        }
        None => return Err(Fault::field("identifier", "must be one of user_id, email, username")),
    };
    let user = found.ok_or_else(|| Fault::not_found("user"))?;
    Ok(GetUserResponse { user: Some(write(user)) })
}

pub(super) async fn list(service: &Service, call: &Call, request: ListUsersRequest) -> Result<ListUsersResponse> {
    let size = paging::page_size(request.page_size)?;
    let named = input::optional_uuid("tenant_id", &request.tenant_id)?;
    let status = choice("status", request.status, read_status)?;
    let auth_method = choice("auth_method", request.auth_method, read_method)?;
    let asked = (named, request.status, request.auth_method, request.locked_only, request.include_deleted);
    let after = service.paging.decode(call, LIST, &asked, &request.page_token)?.unwrap_or(BEGINNING);
    let (scope, mut tx) = service.directory.read(call, "users.read").await?;
    let filter = Filter {
        tenant_id: tenants::reach(scope, named),
        status,
        auth_method,
        locked_at: request.locked_only.then(|| service.directory.context.now()),
        include_deleted: request.include_deleted,
    };
    let found = store::users::list(&mut tx, filter, after, size + 1).await?;
    let (found, next) = page(found, size, |user| user.user_id);
    let next_page_token = next.map(|id| service.paging.encode(call, LIST, &asked, &id)).unwrap_or_default();
    Ok(ListUsersResponse { users: found.into_iter().map(write).collect(), next_page_token })
}

pub(super) async fn create(
    service: &Service,
    call: &Call,
    mut request: CreateUserRequest,
) -> Result<CreateUserResponse> {
    // Taken out before the digest of the request is stored, from which a weak password could be found by trying.
    let password = Zeroizing::new(std::mem::take(&mut request.initial_password));
    let new = NewUser {
        tenant_id: input::optional_uuid("tenant_id", &request.tenant_id)?,
        email: input::email("email", &request.email)?,
        username: username("username", &request.username)?,
        full_name: input::text("full_name", &request.full_name, 200)?,
        must_change_password: request.must_change_password.unwrap_or(!password.is_empty()),
        email_verified: request.email_verified,
        role_ids: read_roles(&request.role_ids)?,
    };
    let asked = ChangeRequest::new(CREATE, &request.request_id, request.validate_only, &request);
    let answer = |user| CreateUserResponse { user: Some(write(user)) };
    service.directory.create_user(call, &asked, new, &password, answer).await
}

fn read_roles(ids: &[String]) -> Result<Vec<uuid::Uuid>> {
    if ids.len() > 20 {
        return Err(Fault::field("role_ids", "must be at most 20"));
    }
    ids.iter().map(|id| input::uuid("role_ids", id)).collect()
}

pub(super) async fn update(service: &Service, call: &Call, request: UpdateUserRequest) -> Result<UpdateUserResponse> {
    let user = resource("user", request.user)?;
    let id = input::uuid("user.user_id", &user.user_id)?;
    let mut edit = Edit::default();
    let changeable = &["email", "username", "full_name", "must_change_password", "has_second_factor"];
    for field in fields(request.update_mask, changeable)? {
        match field {
            "email" => edit.email = Some(input::email("user.email", &user.email)?),
            "username" => edit.username = Some(username("user.username", &user.username)?),
            "full_name" => edit.full_name = Some(input::text("user.full_name", &user.full_name, 200)?),
            "must_change_password" => edit.must_change_password = Some(user.must_change_password),
            _ if user.has_second_factor => {
                return Err(Fault::field(
                    "user.has_second_factor",
                    "can be changed to false only: users enrol themselves",
                ));
            }
            _ => edit.takes_second_factor = true,
        }
    }
    let mut change = service.directory.change_of_keys(call, "users.write").await?;
    change.validate_only(request.validate_only);
    let user = users::update(&mut change, id, version(&user.etag)?, edit).await?;
    change.answer(UpdateUserResponse { user: Some(write(user)) }).await
}

pub(super) async fn delete(service: &Service, call: &Call, request: DeleteUserRequest) -> Result<DeleteUserResponse> {
    let (id, version) = (input::uuid("user_id", &request.user_id)?, optional_version(&request.etag)?);
    let mut change = service.directory.change(call, "users.write").await?;
    let (sessions_revoked, made) = users::delete(&mut change, id, version, request.keep_credentials).await?;
    change.commit().await?;
    Ok(DeleteUserResponse { sessions_revoked, made: Some(made_to_proto(made)) })
}

pub(super) async fn lock(service: &Service, call: &Call, request: LockUserRequest) -> Result<LockUserResponse> {
    let id = input::uuid("user_id", &request.user_id)?;
    let duration = request.duration.map(|duration| read_duration(&duration)).transpose()?;
    let mut change = service.directory.change(call, "users.write").await?;
    let (user, sessions_revoked) = users::lock(&mut change, id, duration).await?;
    change.commit().await?;
    Ok(LockUserResponse { user: Some(write(user)), sessions_revoked })
}

fn read_duration(duration: &prost_types::Duration) -> Result<TimeDelta> {
    let longest = TimeDelta::days(3653);
    u32::try_from(duration.nanos)
        .ok()
        .and_then(|nanos| TimeDelta::new(duration.seconds, nanos))
        .filter(|duration| (TimeDelta::seconds(1)..=longest).contains(duration))
        .ok_or_else(|| Fault::field("duration", "must be from a second to 10 years"))
}

pub(super) async fn unlock(service: &Service, call: &Call, request: UnlockUserRequest) -> Result<UnlockUserResponse> {
    let id = input::uuid("user_id", &request.user_id)?;
    let mut change = service.directory.change(call, "users.write").await?;
    let user = users::unlock(&mut change, id).await?;
    change.commit().await?;
    Ok(UnlockUserResponse { user: Some(write(user)) })
}

pub(super) async fn disable(
    service: &Service,
    call: &Call,
    request: DisableUserRequest,
) -> Result<DisableUserResponse> {
    let (id, version) = (input::uuid("user_id", &request.user_id)?, optional_version(&request.etag)?);
    let mut change = service.directory.change(call, "users.write").await?;
    let (user, sessions_revoked) = users::disable(&mut change, id, version).await?;
    change.commit().await?;
    Ok(DisableUserResponse { user: Some(write(user)), sessions_revoked })
}

pub(super) async fn enable(service: &Service, call: &Call, request: EnableUserRequest) -> Result<EnableUserResponse> {
    let (id, version) = (input::uuid("user_id", &request.user_id)?, optional_version(&request.etag)?);
    let mut change = service.directory.change(call, "users.write").await?;
    let user = users::enable(&mut change, id, version, request.email_verified).await?;
    change.commit().await?;
    Ok(EnableUserResponse { user: Some(write(user)) })
}

pub(super) async fn link(
    service: &Service,
    call: &Call,
    request: LinkKanidmPersonRequest,
) -> Result<LinkKanidmPersonResponse> {
    let (id, person) =
        (input::uuid("user_id", &request.user_id)?, input::uuid("kanidm_user_id", &request.kanidm_user_id)?);
    let version = version(&request.etag)?;
    let candidate = service.directory.candidate(call, person).await;
    let mut change = service.directory.change(call, "users.write").await?;
    let asked = ChangeRequest::new(LINK, &request.request_id, request.validate_only, &request);
    if let Some(first) = change.repeated(&asked).await? {
        return Ok(first);
    }
    let user = kanidm::link(&mut change, id, version, candidate).await?;
    change.answer(LinkKanidmPersonResponse { user: Some(write(user)) }).await
}

fn read_status(status: proto::UserStatus) -> Option<UserStatus> {
    match status {
        proto::UserStatus::Unspecified => None,
        proto::UserStatus::Active => Some(UserStatus::Active),
        proto::UserStatus::PendingVerification => Some(UserStatus::PendingVerification),
        proto::UserStatus::Disabled => Some(UserStatus::Disabled),
    }
}

fn read_method(method: proto::AuthMethod) -> Option<AuthMethod> {
    match method {
        proto::AuthMethod::Unspecified => None,
        proto::AuthMethod::Password => Some(AuthMethod::Password),
        proto::AuthMethod::Kanidm => Some(AuthMethod::Kanidm),
        proto::AuthMethod::Dual => Some(AuthMethod::Dual),
    }
}

answers_without_secrets!(CreateUserResponse, UpdateUserResponse, LinkKanidmPersonResponse);

fn write_status(status: UserStatus) -> proto::UserStatus {
    match status {
        UserStatus::Active => proto::UserStatus::Active,
        UserStatus::PendingVerification => proto::UserStatus::PendingVerification,
        UserStatus::Disabled => proto::UserStatus::Disabled,
    }
}

fn write_method(method: AuthMethod) -> proto::AuthMethod {
    match method {
        AuthMethod::Password => proto::AuthMethod::Password,
        AuthMethod::Kanidm => proto::AuthMethod::Kanidm,
        AuthMethod::Dual => proto::AuthMethod::Dual,
    }
}

fn write_lock_reason(reason: Option<LockReason>) -> proto::LockReason {
    match reason {
        None => proto::LockReason::Unspecified,
        Some(LockReason::TooManyFailures) => proto::LockReason::TooManyFailures,
        Some(LockReason::Administrator) => proto::LockReason::Administrator,
    }
}

fn write(user: users::User) -> User {
    User {
        user_id: user.user_id.to_string(),
        tenant_id: user.tenant_id.to_string(),
        email: user.email,
        username: user.username.unwrap_or_default(),
        full_name: user.full_name,
        status: write_status(user.status).into(),
        auth_method: write_method(user.auth_method).into(),
        has_password: user.has_password,
        has_second_factor: user.has_second_factor,
        must_change_password: user.must_change_password,
        failed_login_attempts: user.failed_login_attempts,
        lock_ends_at: time(user.locked_until),
        lock_reason: write_lock_reason(user.lock_reason).into(),
        verified_at: time(user.verified_at),
        last_login_at: time(user.last_login_at),
        kanidm_user_id: user.kanidm_user_id.map(|id| id.to_string()).unwrap_or_default(),
        kanidm_name: user.kanidm_name.unwrap_or_default(),
        kanidm_synced_at: time(user.kanidm_synced_at),
        migration_invited_at: time(user.migration_invited_at),
        migration_completed_at: time(user.migration_completed_at),
        legacy_id: user.legacy_id.unwrap_or_default(),
        is_master_admin: user.is_master_admin,
        created_at: time(Some(user.created_at)),
        updated_at: time(Some(user.updated_at)),
        deleted_at: time(user.deleted_at),
        etag: etag::encode(user.version),
    }
}
