//! The directory's RPCs: read the request, call the rules, write the response.

mod api_keys;
mod convert;
#[cfg(any(test, fuzzing))]
pub(in crate::directory) mod fuzzing;
mod memberships;
mod roles;
mod service;
mod service_accounts;
mod settings;
mod signing_keys;
mod tenants;
mod users;

pub use self::service::Service;
pub(in crate::directory) use self::service::{BEGINNING, page};
use crate::access::rpcs::rpcs;
use crate::proto::directory_service_server::DirectoryService;
use crate::proto::*;

rpcs! { DirectoryService for Service {
    unary {
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
    unimplemented {
        restore_user(RestoreUserRequest) -> RestoreUserResponse = "RestoreUser";
    }
}}
