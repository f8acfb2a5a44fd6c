//! The directory's RPCs: read the request, call the rules, write the response.

mod api_keys;
mod convert;
#[cfg(any(test, fuzzing))]
pub(in crate::directory) mod fuzzing;
mod memberships;
mod roles;
mod service_accounts;
mod settings;
mod signing_keys;
mod tenants;
mod users;

use prost::Message;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::{Change, Directory};
use crate::access::paging::Paging;
use crate::access::replay::Replay;
use crate::access::{Call, input};
use crate::fault::{Fault, Result};
use crate::proto::directory_service_server::DirectoryService;
use crate::proto::*;

/// `sidle.v1.DirectoryService`.
#[derive(Clone)]
pub struct Service {
    directory: Directory,
    paging: Paging,
}

impl Service {
    /// The service over a directory.
    pub fn new(directory: Directory, paging: Paging) -> Self {
        Self { directory, paging }
    }
}

/// Begins a call that creates something: the handle to finish it with, and the first answer if it was made before. A
/// call that only validates is never a repeat, so that the real one may follow with the same id.
async fn repeated<A: Message + Default>(
    change: &mut Change<'_>,
    method: &'static str,
    request_id: &str,
    validate_only: bool,
    body: &impl Message,
) -> Result<(Option<Replay>, Option<A>)> {
    input::optional_uuid("request_id", request_id)?;
    if validate_only {
        return Ok((None, None));
    }
    Replay::begin(&mut change.tx, change.call, method, request_id, body).await
}

/// Commits a change with its answer. One that was only to be validated is dropped instead: it has met every rule and
/// every constraint that the real one would.
async fn finish(
    mut change: Change<'_>,
    replay: Option<Replay>,
    validate_only: bool,
    answer: &impl Message,
) -> Result<()> {
    if validate_only {
        return Ok(());
    }
    Replay::finish(replay, &mut change.tx, answer).await?;
    change.commit().await
}

/// Cuts what was read with one entry too many to a page, and says where the next one begins.
fn page<T, P>(mut found: Vec<T>, size: i64, position: impl Fn(&T) -> P) -> (Vec<T>, Option<P>) {
    let size = usize::try_from(size).unwrap_or(usize::MAX);
    let more = found.len() > size;
    found.truncate(size);
    let next = found.last().filter(|_| more).map(position);
    (found, next)
}

/// The first id that a list can begin after.
const BEGINNING: Uuid = Uuid::nil();

macro_rules! rpcs {
    (
        now { $($name:ident($request:ident) -> $response:ident = $handler:path;)+ }
        later { $($later:ident($later_request:ident) -> $later_response:ident = $rpc:literal;)+ }
    ) => {
        #[tonic::async_trait]
        impl DirectoryService for Service {
            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                let call = Call::of(&request)?;
                Ok(Response::new($handler(self, &call, request.into_inner()).await?))
            })+
            $(async fn $later(&self, _: Request<$later_request>) -> Result<Response<$later_response>, Status> {
                Err(Fault::not_implemented($rpc).into())
            })+
        }
    };
}

rpcs! {
    now {
        get_user(GetUserRequest) -> GetUserResponse = users::get;
        list_users(ListUsersRequest) -> ListUsersResponse = users::list;
        create_user(CreateUserRequest) -> CreateUserResponse = users::create;
        update_user(UpdateUserRequest) -> UpdateUserResponse = users::update;
        delete_user(DeleteUserRequest) -> DeleteUserResponse = users::delete;
        lock_user(LockUserRequest) -> LockUserResponse = users::lock;
        unlock_user(UnlockUserRequest) -> UnlockUserResponse = users::unlock;
        disable_user(DisableUserRequest) -> DisableUserResponse = users::disable;
        enable_user(EnableUserRequest) -> EnableUserResponse = users::enable;
        link_kanidm_person(LinkKanidmPersonRequest) -> LinkKanidmPersonResponse = users::link;
        get_tenant(GetTenantRequest) -> GetTenantResponse = tenants::get;
        list_tenants(ListTenantsRequest) -> ListTenantsResponse = tenants::list;
        create_tenant(CreateTenantRequest) -> CreateTenantResponse = tenants::create;
        update_tenant(UpdateTenantRequest) -> UpdateTenantResponse = tenants::update;
        delete_tenant(DeleteTenantRequest) -> DeleteTenantResponse = tenants::delete;
        get_membership(GetMembershipRequest) -> GetMembershipResponse = memberships::get;
        list_memberships(ListMembershipsRequest) -> ListMembershipsResponse = memberships::list;
        create_membership(CreateMembershipRequest) -> CreateMembershipResponse = memberships::create;
        delete_membership(DeleteMembershipRequest) -> DeleteMembershipResponse = memberships::delete;
        get_role(GetRoleRequest) -> GetRoleResponse = roles::get;
        list_roles(ListRolesRequest) -> ListRolesResponse = roles::list;
        create_role(CreateRoleRequest) -> CreateRoleResponse = roles::create;
        update_role(UpdateRoleRequest) -> UpdateRoleResponse = roles::update;
        delete_role(DeleteRoleRequest) -> DeleteRoleResponse = roles::delete;
        get_service_account(GetServiceAccountRequest) -> GetServiceAccountResponse = service_accounts::get;
        list_service_accounts(ListServiceAccountsRequest) -> ListServiceAccountsResponse = service_accounts::list;
        create_service_account(CreateServiceAccountRequest) -> CreateServiceAccountResponse = service_accounts::create;
        update_service_account(UpdateServiceAccountRequest) -> UpdateServiceAccountResponse = service_accounts::update;
        delete_service_account(DeleteServiceAccountRequest) -> DeleteServiceAccountResponse = service_accounts::delete;
        get_api_key(GetApiKeyRequest) -> GetApiKeyResponse = api_keys::get;
        list_api_keys(ListApiKeysRequest) -> ListApiKeysResponse = api_keys::list;
        create_api_key(CreateApiKeyRequest) -> CreateApiKeyResponse = api_keys::create;
        delete_api_key(DeleteApiKeyRequest) -> DeleteApiKeyResponse = api_keys::delete;
        list_signing_keys(ListSigningKeysRequest) -> ListSigningKeysResponse = signing_keys::list;
        rotate_signing_keys(RotateSigningKeysRequest) -> RotateSigningKeysResponse = signing_keys::rotate;
    }
    later {
        restore_user(RestoreUserRequest) -> RestoreUserResponse = "RestoreUser";
    }
}
