//! Roles.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{Unique, in_use, taken};
use crate::fault::Result;

/// A named list of permissions.
#[derive(Clone, Debug)]
pub struct Role {
    pub role_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub name: String,
    pub description: String,
    pub permissions: Vec<String>,
    pub is_platform: bool,
    pub is_admin: bool,
    pub is_built_in: bool,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

macro_rules! roles {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Role,
            "SELECT role_id, tenant_id, name, description, permissions, is_platform, is_admin, is_built_in, version,
                created_at, updated_at
             FROM roles " + $tail
            $(, $argument)*
        )
    };
}

/// The role of this id.
pub async fn by_id(tx: &mut Connection, id: Uuid) -> Result<Option<Role>> {
    Ok(roles!("WHERE role_id = $1", id).fetch_optional(tx).await?)
}

/// The shared or platform role of this name.
pub async fn shared(tx: &mut Connection, name: &str) -> Result<Option<Role>> {
    Ok(roles!("WHERE tenant_id IS NULL AND name = $1", name).fetch_optional(tx).await?)
}

/// A role that is no tenant's own.
pub struct ForAll {
    pub role_id: Uuid,
    pub name: String,
}

/// Every role that is no tenant's own: shared ones and those on the platform.
pub async fn names_for_all(tx: &mut Connection) -> Result<Vec<ForAll>> {
    let found =
        sqlx::query_as!(ForAll, "SELECT role_id, name FROM roles WHERE tenant_id IS NULL").fetch_all(tx).await?;
    Ok(found)
}

/// The role of this id, locked until the transaction ends. A tenant cannot lock a shared role.
pub async fn lock(tx: &mut Connection, id: Uuid) -> Result<Option<Role>> {
    Ok(roles!("WHERE role_id = $1 FOR UPDATE", id).fetch_optional(tx).await?)
}

/// Roles after `after` by id: with a tenant, its own and the shared ones.
pub async fn list(tx: &mut Connection, tenant: Option<Uuid>, after: Uuid, limit: i64) -> Result<Vec<Role>> {
    let found = roles!(
        "WHERE role_id > $1 AND ($2::uuid IS NULL OR tenant_id = $2 OR tenant_id IS NULL AND NOT is_platform)
         ORDER BY role_id LIMIT $3",
        after,
        tenant,
        limit,
    );
    Ok(found.fetch_all(tx).await?)
}

const UNIQUE: &[Unique] = &[
    Unique { constraint: "roles_name_key", field: "name", taken: "Another shared role has this name already." },
    Unique {
        constraint: "roles_tenant_name_key",
        field: "name",
        taken: "Another role of the tenant has this name already.",
    },
];

pub async fn insert(tx: &mut Connection, role: &Role) -> Result<()> {
    sqlx::query!(
        "INSERT INTO roles (role_id, tenant_id, name, description, permissions, is_platform, is_admin, created_at,
            updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $8)",
        role.role_id,
        role.tenant_id,
        role.name,
        role.description,
        &role.permissions,
        role.is_platform,
        role.is_admin,
        role.created_at,
    )
    .execute(tx)
    .await
    .map_err(|error| taken(error, UNIQUE))?;
    Ok(())
}

/// Writes what can be changed.
pub async fn update(tx: &mut Connection, role: &Role) -> Result<()> {
    sqlx::query!(
        "UPDATE roles SET name = $2, description = $3, permissions = $4, is_admin = $5 WHERE role_id = $1",
        role.role_id,
        role.name,
        role.description,
        &role.permissions,
        role.is_admin,
    )
    .execute(tx)
    .await
    .map_err(|error| taken(error, UNIQUE))?;
    Ok(())
}

/// Deletes a role that nothing depends on.
pub async fn delete(tx: &mut Connection, id: Uuid) -> Result<()> {
    sqlx::query!("DELETE FROM roles WHERE role_id = $1", id).execute(tx).await.map_err(|error| {
        let memberships = ["memberships_role_id_fkey", "platform_grants_role_id_fkey"];
        if crate::db::constraint(&error) == Some("kanidm_tenant_groups_role_id_fkey") {
            return in_use(error, &["kanidm_tenant_groups_role_id_fkey"], "Kanidm groups");
        }
        in_use(error, &memberships, "memberships")
    })?;
    Ok(())
}
