//! Tenants on the wire.

use super::super::names;
use super::super::store::{self, ActiveStatus};
use super::super::tenants::{self, Edit, NewTenant};
use super::convert::{choice, fields, optional_text, optional_version, resource, time, version};
use super::{BEGINNING, Service, page, settings};
use crate::access::replay::{ChangeRequest, answers_without_secrets};
use crate::access::{Call, etag, input, paging};
use crate::fault::{Fault, Result};
use crate::proto::get_tenant_request::Identifier;
use crate::proto::*;

const LIST: &str = "sidle.v1.DirectoryService/ListTenants";
const CREATE: &str = "sidle.v1.DirectoryService/CreateTenant";

pub(super) async fn get(service: &Service, call: &Call, request: GetTenantRequest) -> Result<GetTenantResponse> {
    let (_, mut tx) = service.directory.read(call, "tenants.read").await?;
    let found = match request.identifier {
        Some(Identifier::TenantId(id)) => store::tenants::by_id(&mut tx, input::uuid("tenant_id", &id)?).await?,
        Some(Identifier::Slug(slug)) => store::tenants::by_slug(&mut tx, &input::required("slug", &slug, 48)?).await?,
        Some(Identifier::ExternalId(id)) => {
            store::tenants::by_external_id(&mut tx, &input::required("external_id", &id, 128)?).await?
        }
        None => return Err(Fault::field("identifier", "must be one of tenant_id, slug, external_id")),
    };
    let tenant = found.ok_or_else(|| Fault::not_found("tenant"))?;
    Ok(GetTenantResponse { tenant: Some(write(tenant)) })
}

pub(super) async fn list(service: &Service, call: &Call, request: ListTenantsRequest) -> Result<ListTenantsResponse> {
    let size = paging::page_size(request.page_size)?;
    let status = choice("status", request.status, read_status)?;
    let asked = (request.status, request.include_deleted);
    let after = service.paging.decode(call, LIST, &asked, &request.page_token)?.unwrap_or(BEGINNING);
    let (_, mut tx) = service.directory.read(call, "tenants.read").await?;
    let found = store::tenants::list(&mut tx, status, request.include_deleted, after, size + 1).await?;
    let (found, next) = page(found, size, |tenant| tenant.tenant_id);
    let next_page_token = next.map(|id| service.paging.encode(call, LIST, &asked, &id)).unwrap_or_default();
    Ok(ListTenantsResponse { tenants: found.into_iter().map(write).collect(), next_page_token })
}

pub(super) async fn create(
    service: &Service,
    call: &Call,
    request: CreateTenantRequest,
) -> Result<CreateTenantResponse> {
    let new = NewTenant {
        slug: names::slug("slug", &request.slug)?,
        external_id: optional_text("external_id", &request.external_id, 128)?,
        name: input::required("name", &request.name, 200)?,
        brand: optional_text("brand", &request.brand, 200)?,
        settings: settings::read("settings", request.settings.clone())?,
    };
    let mut change = service.directory.change(call, "tenants.write").await?;
    let asked = ChangeRequest::new(CREATE, &request.request_id, request.validate_only, &request);
    if let Some(first) = change.repeated(&asked).await? {
        return Ok(first);
    }
    let tenant = tenants::create(&mut change, new).await?;
    change.answer(CreateTenantResponse { tenant: Some(write(tenant)) }).await
}

pub(super) async fn update(
    service: &Service,
    call: &Call,
    request: UpdateTenantRequest,
) -> Result<UpdateTenantResponse> {
    let tenant = resource("tenant", request.tenant)?;
    let id = input::uuid("tenant.tenant_id", &tenant.tenant_id)?;
    let mut edit = Edit::default();
    for field in fields(request.update_mask, &["name", "brand", "external_id", "settings", "status"])? {
        match field {
            "name" => edit.name = Some(input::required("tenant.name", &tenant.name, 200)?),
            "brand" => edit.brand = Some(optional_text("tenant.brand", &tenant.brand, 200)?),
            "external_id" => edit.external_id = Some(optional_text("tenant.external_id", &tenant.external_id, 128)?),
            "settings" => edit.settings = Some(settings::read("tenant.settings", tenant.settings.clone())?),
            _ => {
                let status = choice("tenant.status", tenant.status, read_status)?;
                edit.status = Some(status.ok_or_else(|| Fault::field("tenant.status", "must be active or disabled"))?);
            }
        }
    }
    let mut change = service.directory.change(call, "tenants.write").await?;
    change.validate_only(request.validate_only);
    let tenant = tenants::update(&mut change, id, version(&tenant.etag)?, edit).await?;
    change.answer(UpdateTenantResponse { tenant: Some(write(tenant)) }).await
}

pub(super) async fn delete(
    service: &Service,
    call: &Call,
    request: DeleteTenantRequest,
) -> Result<DeleteTenantResponse> {
    let (id, version) = (input::uuid("tenant_id", &request.tenant_id)?, optional_version(&request.etag)?);
    let mut change = service.directory.change(call, "tenants.write").await?;
    tenants::delete(&mut change, id, version).await?;
    change.commit().await?;
    Ok(DeleteTenantResponse {})
}

fn read_status(status: TenantStatus) -> Option<ActiveStatus> {
    match status {
        TenantStatus::Unspecified => None,
        TenantStatus::Active => Some(ActiveStatus::Active),
        TenantStatus::Disabled => Some(ActiveStatus::Disabled),
    }
}

answers_without_secrets!(CreateTenantResponse, UpdateTenantResponse);

fn write(tenant: tenants::Tenant) -> Tenant {
    let status = match tenant.status {
        ActiveStatus::Active => TenantStatus::Active,
        ActiveStatus::Disabled => TenantStatus::Disabled,
    };
    Tenant {
        tenant_id: tenant.tenant_id.to_string(),
        slug: tenant.slug,
        external_id: tenant.external_id.unwrap_or_default(),
        name: tenant.name,
        brand: tenant.brand.unwrap_or_default(),
        settings: Some(settings::write(tenant.settings)),
        status: status.into(),
        created_at: time(Some(tenant.created_at)),
        updated_at: time(Some(tenant.updated_at)),
        deleted_at: time(tenant.deleted_at),
        etag: etag::encode(tenant.version),
    }
}
