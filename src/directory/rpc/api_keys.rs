//! API keys on the wire.

use super::super::api_keys::{self, KeyKind, NewKey};
use super::super::{names, store};
use super::convert::{choice, time};
use super::{BEGINNING, Service, page};
use crate::access::replay::{Answer, ChangeRequest};
use crate::access::{Call, input, paging};
use crate::fault::{Fault, Result};
use crate::proto::*;

const LIST: &str = "sidle.v1.DirectoryService/ListApiKeys";
const CREATE: &str = "sidle.v1.DirectoryService/CreateApiKey";

pub(super) async fn get(service: &Service, call: &Call, request: GetApiKeyRequest) -> Result<GetApiKeyResponse> {
    let id = input::uuid("api_key_id", &request.api_key_id)?;
    let (_, mut tx) = service.directory.read(call, "service_accounts.read").await?;
    let key = store::api_keys::by_id(&mut tx, id).await?.ok_or_else(|| Fault::not_found("API key"))?;
    Ok(GetApiKeyResponse { api_key: Some(write(key)) })
}

pub(super) async fn list(service: &Service, call: &Call, request: ListApiKeysRequest) -> Result<ListApiKeysResponse> {
    let size = paging::page_size(request.page_size)?;
    let account = input::optional_uuid("service_account_id", &request.service_account_id)?;
    let asked = (account, request.include_revoked);
    let after = service.paging.decode(call, LIST, &asked, &request.page_token)?.unwrap_or(BEGINNING);
    let (_, mut tx) = service.directory.read(call, "service_accounts.read").await?;
    let found = store::api_keys::list(&mut tx, account, request.include_revoked, after, size + 1).await?;
    let (found, next) = page(found, size, |key| key.api_key_id);
    let next_page_token = next.map(|id| service.paging.encode(call, LIST, &asked, &id)).unwrap_or_default();
    Ok(ListApiKeysResponse { api_keys: found.into_iter().map(write).collect(), next_page_token })
}

pub(super) async fn create(
    service: &Service,
    call: &Call,
    request: CreateApiKeyRequest,
) -> Result<CreateApiKeyResponse> {
    let new = NewKey {
        service_account_id: input::uuid("service_account_id", &request.service_account_id)?,
        kind: choice("kind", request.kind, read_kind)?.unwrap_or(KeyKind::ApiKey),
        description: names::description("description", &request.description)?,
        scopes: names::permissions("scopes", &request.scopes)?,
        expires_at: request.expires_at.as_ref().map(|at| input::from_proto("expires_at", at)).transpose()?,
    };
    let mut change = service.directory.change(call, "service_accounts.write").await?;
    let asked = ChangeRequest::new(CREATE, &request.request_id, request.validate_only, &request);
    if let Some(first) = change.repeated(&asked).await? {
        return Ok(first);
    }
    let (key, secret) = api_keys::create(&mut change, new).await?;
    let secret = secret.to_string();
    change.answer(CreateApiKeyResponse { api_key: Some(write(key)), secret, is_repeat: false }).await
}

impl Answer for CreateApiKeyResponse {
    fn for_repeats(&self) -> Self {
        Self { api_key: self.api_key.clone(), secret: String::new(), is_repeat: true }
    }

    fn of_validation(self) -> Self {
        Self { secret: String::new(), ..self }
    }
}

pub(super) async fn delete(
    service: &Service,
    call: &Call,
    request: DeleteApiKeyRequest,
) -> Result<DeleteApiKeyResponse> {
    let id = input::uuid("api_key_id", &request.api_key_id)?;
    let mut change = service.directory.change(call, "service_accounts.write").await?;
    api_keys::revoke(&mut change, id).await?;
    change.commit().await?;
    Ok(DeleteApiKeyResponse {})
}

fn read_kind(kind: ApiKeyKind) -> Option<KeyKind> {
    match kind {
        ApiKeyKind::Unspecified => None,
        ApiKeyKind::ApiKey => Some(KeyKind::ApiKey),
        ApiKeyKind::ClientSecret => Some(KeyKind::ClientSecret),
    }
}

fn write(key: api_keys::ApiKey) -> ApiKey {
    let kind = match key.kind {
        KeyKind::ApiKey => ApiKeyKind::ApiKey,
        KeyKind::ClientSecret => ApiKeyKind::ClientSecret,
    };
    ApiKey {
        kind: kind.into(),
        api_key_id: key.api_key_id.to_string(),
        service_account_id: key.service_account_id.to_string(),
        tenant_id: key.tenant_id.map(|id| id.to_string()).unwrap_or_default(),
        display_prefix: key.display_prefix,
        description: key.description,
        scopes: key.scopes,
        expires_at: time(key.expires_at),
        last_used_at: time(key.last_used_at),
        revoked_at: time(key.revoked_at),
        created_at: time(Some(key.created_at)),
        created_by: key.created_by.map(|id| id.to_string()).unwrap_or_default(),
    }
}
