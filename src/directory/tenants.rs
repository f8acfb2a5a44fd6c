//! Tenants.

use serde_json::{Value, json};
use uuid::Uuid;

pub(super) use super::store::tenants::Tenant;
use super::store::{self, ActiveStatus};
use super::tenant_settings::{self, domains, lets_in_more};
use super::{Change, admins, change};
use crate::access::etag;
use crate::audit::{Event, EventType};
use crate::db::Scope;
use crate::fault::{Fault, Reason, Result};

const CREATE: &str = "sidle.v1.DirectoryService/CreateTenant";
const UPDATE: &str = "sidle.v1.DirectoryService/UpdateTenant";

/// What is said about a new tenant.
pub(super) struct NewTenant {
    pub slug: String,
    pub external_id: Option<String>,
    pub name: String,
    pub brand: Option<String>,
    pub settings: Value,
}

/// What is changed about a tenant; none leaves it as it is.
#[derive(Default)]
pub(super) struct Edit {
    pub external_id: Option<Option<String>>,
    pub name: Option<String>,
    pub brand: Option<Option<String>>,
    pub settings: Option<Value>,
    pub status: Option<ActiveStatus>,
}

/// Creates a tenant.
pub(super) async fn create(change: &mut Change<'_>, new: NewTenant) -> Result<Tenant> {
    change.platform_only()?;
    tenant_settings::check("settings", &new.settings)?;
    if lets_in_more(&Value::Null, &new.settings) {
        change.step_up_of_people(CREATE, None).await?;
    }
    let tenant = Tenant {
        tenant_id: change.context().new_id(),
        slug: new.slug,
        external_id: new.external_id,
        name: new.name,
        brand: new.brand,
        settings: new.settings,
        status: ActiveStatus::Active,
        version: 1,
        created_at: change.now,
        updated_at: change.now,
        deleted_at: None,
    };
    store::tenants::insert(&mut change.tx, &tenant).await?;
    let event = about(change, EventType::TenantCreated, &tenant).old_new(Value::Null, editable(&tenant));
    change.record(event).await?;
    Ok(tenant)
}

/// Changes a tenant. Disabling it revokes every token for it immediately.
pub(super) async fn update(change: &mut Change<'_>, id: Uuid, version: i64, edit: Edit) -> Result<Tenant> {
    if edit.status.is_some() || edit.external_id.is_some() {
        change.platform_only()?;
    }
    if let Some(settings) = &edit.settings {
        tenant_settings::check("tenant.settings", settings)?;
    }
    let guard = admins::guard(change).await?;
    let before = for_change(change, id, Some(version)).await?;
    let after = Tenant {
        external_id: edit.external_id.unwrap_or_else(|| before.external_id.clone()),
        name: edit.name.unwrap_or_else(|| before.name.clone()),
        brand: edit.brand.unwrap_or_else(|| before.brand.clone()),
        settings: edit.settings.unwrap_or_else(|| before.settings.clone()),
        status: edit.status.unwrap_or(before.status),
        ..before.clone()
    };
    if domains(&before.settings) != domains(&after.settings) {
        // They are what confines a tenant's administrators.
        change.platform_only()?;
    }
    let switched_on = before.status != after.status && after.status == ActiveStatus::Active;
    if switched_on || lets_in_more(&before.settings, &after.settings) {
        change.step_up_of_people(UPDATE, Some(id)).await?;
    }
    store::tenants::update(&mut change.tx, &after).await?;
    guard.still_has_one(change).await?;
    let event = about(change, EventType::TenantUpdated, &after)
        .detail("status", after.status.as_str())
        .old_new(editable(&before), editable(&after));
    change.record(event).await?;
    if before.status == ActiveStatus::Active && after.status == ActiveStatus::Disabled {
        end_all_tokens(change, &after).await?;
    }
    store::tenants::by_id(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("tenant"))
}

/// Deletes a tenant that is no user's home tenant.
pub(super) async fn delete(change: &mut Change<'_>, id: Uuid, version: Option<i64>) -> Result<()> {
    change.platform_only()?;
    // Creating a user locks the tenant's row, so no user is added between this check and the deletion.
    let tenant = for_change(change, id, version).await?;
    if store::tenants::has_users(&mut change.tx, id).await? {
        let fault = Fault::new(Reason::InUse, "There are still users that call the tenant home.");
        return Err(fault.with("by", "users"));
    }
    let now = change.now;
    store::tenants::delete(&mut change.tx, id, now).await?;
    let event = about(change, EventType::TenantDeleted, &tenant);
    change.record(event).await?;
    end_all_tokens(change, &tenant).await
}

/// Refuses the tokens of every member and every service account of the tenant. The log names them a few hundred at a
/// time.
async fn end_all_tokens(change: &mut Change<'_>, tenant: &Tenant) -> Result<()> {
    let accounts = store::service_accounts::lock_of_tenant(&mut change.tx, tenant.tenant_id).await?;
    for accounts in accounts.chunks(change::CHUNK as usize) {
        let event = about(change, EventType::TenantUpdated, tenant);
        let event = change.end_account_tokens(accounts, event).await?;
        change.record(event).await?;
    }
    let mut after = Uuid::nil();
    loop {
        let users = store::tokens::members_of_tenant(&mut change.tx, tenant.tenant_id, after, change::CHUNK).await?;
        let Some(last) = users.last() else { return Ok(()) };
        after = *last;
        let event = about(change, EventType::TenantUpdated, tenant);
        let event = change.end_tokens_of(&users, event).await?;
        change.record(event).await?;
    }
}

async fn for_change(change: &mut Change<'_>, id: Uuid, version: Option<i64>) -> Result<Tenant> {
    let tenant = store::tenants::lock(&mut change.tx, id).await?.ok_or_else(|| Fault::not_found("tenant"))?;
    if version.is_some_and(|version| version != tenant.version) {
        return Err(etag::mismatch("tenant"));
    }
    Ok(tenant)
}

fn editable(tenant: &Tenant) -> Value {
    json!({
        "slug": tenant.slug,
        "external_id": tenant.external_id,
        "name": tenant.name,
        "brand": tenant.brand,
        "settings": tenant.settings,
        "status": tenant.status.as_str(),
    })
}

/// An event about a tenant. What people typed into it lies beside the log, under a key of the tenant's own.
fn about(change: &Change<'_>, event: EventType, tenant: &Tenant) -> Event {
    Event::new(event, change.call).tenant(tenant.tenant_id).target("tenant", tenant.tenant_id).subject(tenant.tenant_id)
}

/// The tenant that a list is to be confined to: the one named, and for a caller within one tenant always that.
pub(super) fn reach(scope: Scope, named: Option<Uuid>) -> Option<Uuid> {
    match scope {
        Scope::Platform => named,
        // Another tenant's name finds nothing, as row-level security would have it.
        Scope::Tenant(own) => Some(named.unwrap_or(own)),
    }
}
