//! Roles on the wire.

use super::super::roles::{self, Edit, NewRole};
use super::super::{names, store, tenants};
use super::convert::{fields, optional_version, resource, time, version};
use super::{BEGINNING, Service, page};
use crate::access::replay::{ChangeRequest, answers_without_secrets};
use crate::access::{Call, etag, input, paging};
use crate::fault::{Fault, Result};
use crate::proto::*;

const LIST: &str = "sidle.v1.DirectoryService/ListRoles";
const CREATE: &str = "sidle.v1.DirectoryService/CreateRole";

pub(super) async fn get(service: &Service, call: &Call, request: GetRoleRequest) -> Result<GetRoleResponse> {
    let id = input::uuid("role_id", &request.role_id)?;
    let (_, mut tx) = service.directory.read(call, "roles.read").await?;
    let role = store::roles::by_id(&mut tx, id).await?.ok_or_else(|| Fault::not_found("role"))?;
    Ok(GetRoleResponse { role: Some(write(role)) })
}

pub(super) async fn list(service: &Service, call: &Call, request: ListRolesRequest) -> Result<ListRolesResponse> {
    let size = paging::page_size(request.page_size)?;
    let named = input::optional_uuid("tenant_id", &request.tenant_id)?;
    let after = service.paging.decode(call, LIST, &named, &request.page_token)?.unwrap_or(BEGINNING);
    let (scope, mut tx) = service.directory.read(call, "roles.read").await?;
    let found = store::roles::list(&mut tx, tenants::reach(scope, named), after, size + 1).await?;
    let (found, next) = page(found, size, |role| role.role_id);
    let next_page_token = next.map(|id| service.paging.encode(call, LIST, &named, &id)).unwrap_or_default();
    Ok(ListRolesResponse { roles: found.into_iter().map(write).collect(), next_page_token })
}

pub(super) async fn create(service: &Service, call: &Call, request: CreateRoleRequest) -> Result<CreateRoleResponse> {
    let new = NewRole {
        tenant_id: input::optional_uuid("tenant_id", &request.tenant_id)?,
        name: names::role("name", &request.name)?,
        description: names::description("description", &request.description)?,
        permissions: names::permissions("permissions", &request.permissions)?,
        is_platform: request.is_platform,
        is_admin: request.is_admin,
    };
    let mut change = service.directory.change(call, "roles.write").await?;
    let asked = ChangeRequest::new(CREATE, &request.request_id, request.validate_only, &request);
    if let Some(first) = change.repeated(&asked).await? {
        return Ok(first);
    }
    let role = roles::create(&mut change, new).await?;
    change.answer(CreateRoleResponse { role: Some(write(role)) }).await
}

pub(super) async fn update(service: &Service, call: &Call, request: UpdateRoleRequest) -> Result<UpdateRoleResponse> {
    let role = resource("role", request.role)?;
    let id = input::uuid("role.role_id", &role.role_id)?;
    let mut edit = Edit::default();
    for field in fields(request.update_mask, &["name", "description", "permissions", "is_admin"])? {
        match field {
            "name" => edit.name = Some(names::role("role.name", &role.name)?),
            "description" => edit.description = Some(names::description("role.description", &role.description)?),
            "permissions" => edit.permissions = Some(names::permissions("role.permissions", &role.permissions)?),
            _ => edit.is_admin = Some(role.is_admin),
        }
    }
    let mut change = service.directory.change(call, "roles.write").await?;
    change.validate_only(request.validate_only);
    let role = roles::update(&mut change, id, version(&role.etag)?, edit).await?;
    change.answer(UpdateRoleResponse { role: Some(write(role)) }).await
}

pub(super) async fn delete(service: &Service, call: &Call, request: DeleteRoleRequest) -> Result<DeleteRoleResponse> {
    let (id, version) = (input::uuid("role_id", &request.role_id)?, optional_version(&request.etag)?);
    let mut change = service.directory.change(call, "roles.write").await?;
    roles::delete(&mut change, id, version).await?;
    change.commit().await?;
    Ok(DeleteRoleResponse {})
}

answers_without_secrets!(CreateRoleResponse, UpdateRoleResponse);

fn write(role: roles::Role) -> Role {
    Role {
        role_id: role.role_id.to_string(),
        tenant_id: role.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
        name: role.name,
        description: role.description,
        permissions: role.permissions,
        is_platform: role.is_platform,
        is_admin: role.is_admin,
        is_built_in: role.is_built_in,
        created_at: time(Some(role.created_at)),
        updated_at: time(Some(role.updated_at)),
        etag: etag::encode(role.version),
    }
}
