//! Service accounts.

use serde_json::json;
use uuid::Uuid;

pub(super) use super::store::service_accounts::ServiceAccount;
use super::store::{self, ActiveStatus};
use super::{Change, made};
use crate::access::{PrincipalKind, delegation, etag};
use crate::audit::{Event, EventType};
use crate::fault::{Fault, Result};

const CREATE: &str = "sidle.v1.DirectoryService/CreateServiceAccount";
const UPDATE: &str = "sidle.v1.DirectoryService/UpdateServiceAccount";

/// What is said about a new service account.
pub(super) struct NewServiceAccount {
    pub tenant_id: Option<Uuid>,
    pub name: String,
    pub description: String,
    pub permissions: Vec<String>,
    pub certificates: Vec<String>,
}

/// What is changed about a service account; none leaves it as it is.
#[derive(Default)]
pub(super) struct Edit {
    pub description: Option<String>,
    pub permissions: Option<Vec<String>>,
    pub certificates: Option<Vec<String>>,
    pub status: Option<ActiveStatus>,
}

/// Creates a service account: confined to a tenant or, without one, for the platform.
pub(super) async fn create(change: &mut Change<'_>, new: NewServiceAccount) -> Result<ServiceAccount> {
    change.hold_caller(None).await?;
    match new.tenant_id {
        Some(tenant) => {
            change.tenant(Some(tenant))?;
            store::tenants::hold(&mut change.tx, tenant).await?.ok_or_else(|| Fault::not_found("tenant"))?;
        }
        None => change.platform_only()?,
    }
    if !new.certificates.is_empty() {
        change.platform_only()?;
    }
    let principal = change.principal()?;
    delegation::covers(principal, new.tenant_id, &new.permissions)?;
    change.step_up_of_people(CREATE, None).await?;
    let account = ServiceAccount {
        service_account_id: change.context().new_id(),
        tenant_id: new.tenant_id,
        name: new.name,
        description: new.description,
        permissions: new.permissions,
        certificates: new.certificates,
        status: ActiveStatus::Active,
        created_by: (principal.kind == PrincipalKind::User).then_some(principal.id),
        version: 1,
        created_at: change.now,
        updated_at: change.now,
    };
    store::service_accounts::insert(&mut change.tx, &account).await?;
    store::service_accounts::set_certificates(&mut change.tx, &account, principal.id, account.created_at).await?;
    let event = about(change, EventType::ServiceAccountCreated, &account).detail("new", facts(&account));
    change.record(event).await?;
    Ok(account)
}

/// Changes a service account. With permissions, certificates or status its tokens end.
pub(super) async fn update(change: &mut Change<'_>, id: Uuid, version: i64, edit: Edit) -> Result<ServiceAccount> {
    change.hold_caller(Some(id)).await?;
    let before = for_change(change, id, Some(version)).await?;
    let after = ServiceAccount {
        description: edit.description.unwrap_or_else(|| before.description.clone()),
        permissions: edit.permissions.unwrap_or_else(|| before.permissions.clone()),
        certificates: edit.certificates.unwrap_or_else(|| before.certificates.clone()),
        status: edit.status.unwrap_or(before.status),
        ..before.clone()
    };
    delegation::covers(change.principal()?, after.tenant_id, &after.permissions)?;
    let certificates_changed = before.certificates != after.certificates;
    let permissions_changed = before.permissions != after.permissions;
    let switched_on = before.status != after.status && after.status == ActiveStatus::Active;
    if certificates_changed {
        // One tenant's administrator must not claim a name that another tenant's program has.
        change.platform_only()?;
    }
    if certificates_changed || permissions_changed || switched_on {
        change.step_up_of_people(UPDATE, Some(id)).await?;
    }
    if certificates_changed {
        let (caller, now) = (change.principal()?.id, change.now);
        store::service_accounts::set_certificates(&mut change.tx, &after, caller, now).await?;
    }
    let rights_changed = certificates_changed || permissions_changed || before.status != after.status;
    store::service_accounts::update(&mut change.tx, &after).await?;
    let mut event = about(change, EventType::ServiceAccountUpdated, &after)
        .detail("old", facts(&before))
        .detail("new", facts(&after));
    if rights_changed {
        event = change.end_account_tokens(&[id], event).await?;
    }
    change.record(event).await?;
    store::service_accounts::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("service account"))
}

/// Deletes a service account with its keys, and those that it made; says how many it had.
pub(super) async fn delete(change: &mut Change<'_>, id: Uuid, version: Option<i64>) -> Result<i32> {
    let account = for_change(change, id, version).await?;
    let now = change.context().now();
    let keys = store::api_keys::revoke_all(&mut change.tx, id, now).await?;
    store::service_accounts::delete(&mut change.tx, id, now).await?;
    let event = about(change, EventType::ServiceAccountDeleted, &account).detail("api_keys_revoked", keys);
    let event = change.end_account_tokens(&[id], event).await?;
    change.record(event).await?;
    made::end_made_by_program(change, id).await?;
    Ok(i32::try_from(keys).unwrap_or(i32::MAX))
}

/// The service account as the caller may change it, locked.
pub(super) async fn for_change(change: &mut Change<'_>, id: Uuid, version: Option<i64>) -> Result<ServiceAccount> {
    let account =
        store::service_accounts::lock(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("service account"))?;
    delegation::covers(change.principal()?, account.tenant_id, &account.permissions)?;
    if version.is_some_and(|version| version != account.version) {
        return Err(etag::mismatch("service account"));
    }
    Ok(account)
}

fn facts(account: &ServiceAccount) -> serde_json::Value {
    json!({
        "name": account.name,
        "permissions": account.permissions,
        "certificates": account.certificates,
        "status": account.status.as_str(),
    })
}

fn about(change: &Change<'_>, event: EventType, account: &ServiceAccount) -> Event {
    Event::new(event, change.call).tenant(account.tenant_id).target("service_account", account.service_account_id)
}
