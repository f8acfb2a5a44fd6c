//! Tenants.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use serde_json::Value;
use uuid::Uuid;

use super::{ActiveStatus, Unique, taken};
use crate::fault::Result;

/// Whose users are kept apart from one another.
#[derive(Clone, Debug)]
pub struct Tenant {
    pub tenant_id: Uuid,
    pub slug: String,
    pub external_id: Option<String>,
    pub name: String,
    pub brand: Option<String>,
    pub settings: Value,
    pub status: ActiveStatus,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub deleted_at: Option<DateTime<Utc>>,
}

macro_rules! tenants {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Tenant,
            r#"SELECT tenant_id, slug, external_id, name, brand, settings, status AS "status: ActiveStatus", version,
                created_at, updated_at, deleted_at
               FROM tenants "# + $tail
            $(, $argument)*
        )
    };
}

/// The living tenant of this id.
pub async fn by_id(tx: &mut Connection, id: Uuid) -> Result<Option<Tenant>> {
    Ok(tenants!("WHERE tenant_id = $1 AND deleted_at IS NULL", id).fetch_optional(tx).await?)
}

/// The living tenant with this slug.
pub async fn by_slug(tx: &mut Connection, slug: &str) -> Result<Option<Tenant>> {
    Ok(tenants!("WHERE slug = $1 AND deleted_at IS NULL", slug).fetch_optional(tx).await?)
}

/// The living tenant with this external id.
pub async fn by_external_id(tx: &mut Connection, id: &str) -> Result<Option<Tenant>> {
    Ok(tenants!("WHERE external_id = $1 AND deleted_at IS NULL", id).fetch_optional(tx).await?)
}

/// The living tenant of this id, locked until the transaction ends.
pub async fn lock(tx: &mut Connection, id: Uuid) -> Result<Option<Tenant>> {
    Ok(tenants!("WHERE tenant_id = $1 AND deleted_at IS NULL FOR UPDATE", id).fetch_optional(tx).await?)
}

/// The living tenant of this id, locked against changes until the transaction ends.
pub async fn hold(tx: &mut Connection, id: Uuid) -> Result<Option<Tenant>> {
    Ok(tenants!("WHERE tenant_id = $1 AND deleted_at IS NULL FOR SHARE", id).fetch_optional(tx).await?)
}

/// Tenants after `after` by id.
pub async fn list(
    tx: &mut Connection,
    status: Option<ActiveStatus>,
    include_deleted: bool,
    after: Uuid,
    limit: i64,
) -> Result<Vec<Tenant>> {
    let status = status.map(ActiveStatus::as_str);
    let found = tenants!(
        "WHERE tenant_id > $1 AND ($2 OR deleted_at IS NULL) AND ($3::text IS NULL OR status = $3)
         ORDER BY tenant_id LIMIT $4",
        after,
        include_deleted,
        status,
        limit,
    );
    Ok(found.fetch_all(tx).await?)
}

const UNIQUE: &[Unique] = &[
    Unique {
        constraint: "tenants_slug_key",
        field: "slug",
        taken: "Another tenant has this slug already, or had it before it was deleted.",
    },
    Unique {
        constraint: "tenants_external_id_key",
        field: "external_id",
        taken: "Another tenant has this external id already.",
    },
];

pub async fn insert(tx: &mut Connection, tenant: &Tenant) -> Result<()> {
    sqlx::query!(
        "INSERT INTO tenants (tenant_id, slug, external_id, name, brand, settings, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)",
        tenant.tenant_id,
        tenant.slug,
        tenant.external_id,
        tenant.name,
        tenant.brand,
        tenant.settings,
        tenant.created_at,
    )
    .execute(tx)
    .await
    .map_err(|error| taken(error, UNIQUE))?;
    Ok(())
}

/// Writes what can be changed.
pub async fn update(tx: &mut Connection, tenant: &Tenant) -> Result<()> {
    sqlx::query!(
        "UPDATE tenants SET external_id = $2, name = $3, brand = $4, settings = $5, status = $6 WHERE tenant_id = $1",
        tenant.tenant_id,
        tenant.external_id,
        tenant.name,
        tenant.brand,
        tenant.settings,
        tenant.status.as_str(),
    )
    .execute(tx)
    .await
    .map_err(|error| taken(error, UNIQUE))?;
    Ok(())
}

/// Marks a tenant as deleted.
pub async fn delete(tx: &mut Connection, id: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("UPDATE tenants SET deleted_at = $2, external_id = NULL WHERE tenant_id = $1", id, now)
        .execute(tx)
        .await?;
    Ok(())
}

/// Whether a living user has the tenant as home tenant.
pub async fn has_users(tx: &mut Connection, id: Uuid) -> Result<bool> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM users WHERE tenant_id = $1 AND deleted_at IS NULL) AS "found!""#,
        id
    )
    .fetch_one(tx)
    .await?;
    Ok(found)
}
