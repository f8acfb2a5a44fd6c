//! SQL of tenants' groups.

use crate::db::Connection;
use uuid::Uuid;

use crate::fault::{Fault, Result};

/// What members of a group are in the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupRole {
    Member,
    /// Administrators.
    Admin,
}

impl GroupRole {
    /// The role's name in `kanidm_tenant_groups`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Member => "member",
            Self::Admin => "admin",
        }
    }

    /// Name of the group for the tenant with this slug.
    pub fn group_name(self, slug: &str) -> String {
        match self {
            Self::Member => format!("tenant_{slug}_users"),
            Self::Admin => format!("tenant_{slug}_admins"),
        }
    }
}

/// How things stand with a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It was made, or would be.
    Created,
    /// It is there under the recorded uuid.
    Confirmed,
    /// Its name is that of a group which is not ours.
    NotOurs,
    /// Its uuid is taken and cannot be seen: the group was deleted in Kanidm, where it can be restored.
    Deleted,
}

impl Standing {
    /// Whether the group is there, and ours.
    pub fn is_usable(self) -> bool {
        matches!(self, Self::Created | Self::Confirmed)
    }
}

#[derive(Clone, Debug)]
pub struct TenantGroup {
    pub tenant_id: Uuid,
    pub slug: String,
    /// What members of the group are.
    pub role: GroupRole,
    /// uuid; none when it would only be chosen now.
    pub uuid: Option<Uuid>,
    /// Name, for people.
    pub name: String,
    /// How things stand.
    pub standing: Standing,
}

pub(super) struct TenantRow {
    pub tenant_id: Uuid,
    pub slug: String,
}

/// These tenants, or every active one when none is named, ordered by slug.
pub(super) async fn tenants(tx: &mut Connection, ids: &[Uuid]) -> Result<Vec<TenantRow>> {
    let tenants = sqlx::query_as!(
        TenantRow,
        "SELECT tenant_id, slug FROM tenants
         WHERE status = 'active' AND deleted_at IS NULL AND (cardinality($1::uuid[]) = 0 OR tenant_id = ANY ($1))
         ORDER BY slug",
        ids,
    )
    .fetch_all(tx)
    .await?;
    if ids.iter().any(|id| !tenants.iter().any(|tenant| tenant.tenant_id == *id)) {
        return Err(Fault::not_found("active tenant"));
    }
    Ok(tenants)
}

/// Records uuids for groups that have none yet.
pub(super) async fn choose(tx: &mut Connection, wanted: &[(Uuid, GroupRole, Uuid, String)]) -> Result<()> {
    let tenant_ids: Vec<Uuid> = wanted.iter().map(|(tenant_id, ..)| *tenant_id).collect();
    let roles: Vec<&str> = wanted.iter().map(|(_, role, ..)| role.as_str()).collect();
    let uuids: Vec<Uuid> = wanted.iter().map(|(_, _, uuid, _)| *uuid).collect();
    let names: Vec<&str> = wanted.iter().map(|(.., name)| name.as_str()).collect();
    sqlx::query!(
        "INSERT INTO kanidm_tenant_groups (tenant_id, role, kanidm_group_uuid, kanidm_group_name, role_id)
         SELECT given.tenant_id, given.role, given.uuid, given.name, roles.role_id
         FROM unnest($1::uuid[], $2::text[], $3::uuid[], $4::text[]) AS given (tenant_id, role, uuid, name)
         JOIN roles ON roles.tenant_id IS NULL AND roles.name = CASE given.role WHEN 'admin' THEN 'admin' ELSE 'user' END
         ON CONFLICT (tenant_id, role) DO NOTHING",
        &tenant_ids,
        &roles as &[&str],
        &uuids,
        &names as &[&str],
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// The groups that are recorded for these tenants, ordered by slug, those of members first.
pub(super) async fn recorded(tx: &mut Connection, tenants: &[TenantRow]) -> Result<Vec<TenantGroup>> {
    let ids: Vec<Uuid> = tenants.iter().map(|tenant| tenant.tenant_id).collect();
    let rows = sqlx::query!(
        "SELECT g.tenant_id, t.slug, g.role, g.kanidm_group_uuid, g.kanidm_group_name
         FROM kanidm_tenant_groups g JOIN tenants t USING (tenant_id)
         WHERE g.tenant_id = ANY ($1) ORDER BY t.slug, g.role DESC",
        &ids,
    )
    .fetch_all(tx)
    .await?;
    let groups = rows.into_iter().map(|row| TenantGroup {
        tenant_id: row.tenant_id,
        slug: row.slug,
        role: if row.role == "admin" { GroupRole::Admin } else { GroupRole::Member },
        uuid: Some(row.kanidm_group_uuid),
        name: row.kanidm_group_name,
        standing: Standing::Created,
    });
    Ok(groups.collect())
}

/// Notes that groups were seen; returns tenant and uuid of those for which that is new.
pub(super) async fn confirm(tx: &mut Connection, uuids: &[Uuid]) -> Result<Vec<(Uuid, Uuid)>> {
    let rows = sqlx::query!(
        "UPDATE kanidm_tenant_groups SET confirmed_at = now()
         WHERE kanidm_group_uuid = ANY ($1) AND confirmed_at IS NULL RETURNING tenant_id, kanidm_group_uuid",
        uuids,
    )
    .fetch_all(tx)
    .await?;
    Ok(rows.into_iter().map(|row| (row.tenant_id, row.kanidm_group_uuid)).collect())
}
