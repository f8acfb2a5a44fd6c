//! Service accounts on the wire.

use super::super::service_accounts::{self, Edit, NewServiceAccount};
use super::super::store::{self, ActiveStatus};
use super::super::{names, tenants};
use super::convert::{choice, fields, optional_version, resource, time, version};
use super::{BEGINNING, Service, page};
use crate::access::replay::{ChangeRequest, answers_without_secrets};
use crate::access::{Call, etag, input, paging};
use crate::fault::{Fault, Result};
use crate::proto::get_service_account_request::Identifier;
use crate::proto::*;

const LIST: &str = "sidle.v1.DirectoryService/ListServiceAccounts";
const CREATE: &str = "sidle.v1.DirectoryService/CreateServiceAccount";

pub(super) async fn get(
    service: &Service,
    call: &Call,
    request: GetServiceAccountRequest,
) -> Result<GetServiceAccountResponse> {
    let (_, mut tx) = service.directory.read(call, "service_accounts.read").await?;
    let found = match request.identifier {
        Some(Identifier::ServiceAccountId(id)) => {
            store::service_accounts::by_id(&mut tx, input::uuid("service_account_id", &id)?).await?
        }
        Some(Identifier::Name(name)) => {
            store::service_accounts::by_name(&mut tx, &input::required("name", &name, 64)?).await?
        }
        None => return Err(Fault::field("identifier", "must be one of service_account_id, name")),
    };
    let account = found.ok_or_else(|| Fault::not_found("service account"))?;
    Ok(GetServiceAccountResponse { service_account: Some(write(account)) })
}

pub(super) async fn list(
    service: &Service,
    call: &Call,
    request: ListServiceAccountsRequest,
) -> Result<ListServiceAccountsResponse> {
    let size = paging::page_size(request.page_size)?;
    let named = input::optional_uuid("tenant_id", &request.tenant_id)?;
    let after = service.paging.decode(call, LIST, &named, &request.page_token)?.unwrap_or(BEGINNING);
    let (scope, mut tx) = service.directory.read(call, "service_accounts.read").await?;
    let found = store::service_accounts::list(&mut tx, tenants::reach(scope, named), after, size + 1).await?;
    let (found, next) = page(found, size, |account| account.service_account_id);
    let next_page_token = next.map(|id| service.paging.encode(call, LIST, &named, &id)).unwrap_or_default();
    Ok(ListServiceAccountsResponse { service_accounts: found.into_iter().map(write).collect(), next_page_token })
}

pub(super) async fn create(
    service: &Service,
    call: &Call,
    request: CreateServiceAccountRequest,
) -> Result<CreateServiceAccountResponse> {
    let new = NewServiceAccount {
        tenant_id: input::optional_uuid("tenant_id", &request.tenant_id)?,
        name: names::service_account("name", &request.name)?,
        description: names::description("description", &request.description)?,
        permissions: names::permissions("permissions", &request.permissions)?,
        certificates: read_certificates("certificates", &request.certificates)?,
    };
    let mut change = service.directory.change(call, "service_accounts.write").await?;
    let asked = ChangeRequest::new(CREATE, &request.request_id, request.validate_only, &request);
    if let Some(first) = change.repeated(&asked).await? {
        return Ok(first);
    }
    let account = service_accounts::create(&mut change, new).await?;
    change.answer(CreateServiceAccountResponse { service_account: Some(write(account)) }).await
}

pub(super) async fn update(
    service: &Service,
    call: &Call,
    request: UpdateServiceAccountRequest,
) -> Result<UpdateServiceAccountResponse> {
    let account = resource("service_account", request.service_account)?;
    let id = input::uuid("service_account.service_account_id", &account.service_account_id)?;
    let mut edit = Edit::default();
    for field in fields(request.update_mask, &["description", "permissions", "certificates", "status"])? {
        match field {
            "description" => {
                edit.description = Some(names::description("service_account.description", &account.description)?);
            }
            "permissions" => {
                edit.permissions = Some(names::permissions("service_account.permissions", &account.permissions)?);
            }
            "certificates" => {
                let field = "service_account.certificates";
                edit.certificates = Some(read_certificates(field, &account.certificates)?);
            }
            _ => {
                let status = choice("service_account.status", account.status, read_status)?;
                let missing = || Fault::field("service_account.status", "must be active or disabled");
                edit.status = Some(status.ok_or_else(missing)?);
            }
        }
    }
    let mut change = service.directory.change(call, "service_accounts.write").await?;
    change.validate_only(request.validate_only);
    let account = service_accounts::update(&mut change, id, version(&account.etag)?, edit).await?;
    change.answer(UpdateServiceAccountResponse { service_account: Some(write(account)) }).await
}

pub(super) async fn delete(
    service: &Service,
    call: &Call,
    request: DeleteServiceAccountRequest,
) -> Result<DeleteServiceAccountResponse> {
    let id = input::uuid("service_account_id", &request.service_account_id)?;
    let version = optional_version(&request.etag)?;
    let mut change = service.directory.change(call, "service_accounts.write").await?;
    let api_keys_revoked = service_accounts::delete(&mut change, id, version).await?;
    change.commit().await?;
    Ok(DeleteServiceAccountResponse { api_keys_revoked })
}

fn read_status(status: ServiceAccountStatus) -> Option<ActiveStatus> {
    match status {
        ServiceAccountStatus::Unspecified => None,
        ServiceAccountStatus::Active => Some(ActiveStatus::Active),
        ServiceAccountStatus::Disabled => Some(ActiveStatus::Disabled),
    }
}

fn read_certificates(field: &'static str, certificates: &[ClientCertificate]) -> Result<Vec<String>> {
    names::certificates(field, certificates.iter().map(|known| (known.authority.as_str(), known.uri.as_str())))
}

answers_without_secrets!(CreateServiceAccountResponse, UpdateServiceAccountResponse);

fn write(account: service_accounts::ServiceAccount) -> ServiceAccount {
    let status = match account.status {
        ActiveStatus::Active => ServiceAccountStatus::Active,
        ActiveStatus::Disabled => ServiceAccountStatus::Disabled,
    };
    ServiceAccount {
        service_account_id: account.service_account_id.to_string(),
        tenant_id: account.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
        name: account.name,
        description: account.description,
        permissions: account.permissions,
        certificates: account.certificates.iter().filter_map(|known| known.split_once(' ')).map(certificate).collect(),
        status: status.into(),
        created_by: account.created_by.map(|id| id.to_string()).unwrap_or_default(),
        created_at: time(Some(account.created_at)),
        updated_at: time(Some(account.updated_at)),
        etag: etag::encode(account.version),
    }
}

fn certificate((authority, uri): (&str, &str)) -> ClientCertificate {
    ClientCertificate { authority: authority.to_owned(), uri: uri.to_owned() }
}
