//! Memberships in tenants and grants on the platform, shown as one thing.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{GrantSource, Unique, taken};
use crate::access::delegation::Aimed;
use crate::fault::{Fault, Result};

const IN_TENANT: Unique = Unique {
    constraint: "memberships_grant_key",
    field: "role_id",
    taken: "The user has this role in the tenant already.",
};
const ON_PLATFORM: Unique = Unique {
    constraint: "platform_grants_pkey",
    field: "role_id",
    taken: "The user has this role on the platform already.",
};

/// A role that a user has in a tenant or, without one, on the platform.
#[derive(Clone, Debug)]
pub struct Membership {
    pub membership_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub user_id: Uuid,
    pub user_email: String,
    pub role_id: Uuid,
    pub role_name: String,
    pub permissions: Vec<String>,
    pub is_master_admin: bool,
    pub source: GrantSource,
    pub created_at: DateTime<Utc>,
}

macro_rules! in_tenants {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Membership,
            r#"SELECT m.membership_id, m.tenant_id AS "tenant_id?", m.user_id, u.email AS user_email, m.role_id,
                r.name AS role_name, r.permissions, u.is_master_admin, m.source AS "source: GrantSource", m.created_at
               FROM memberships m JOIN roles r ON r.role_id = m.role_id JOIN users u ON u.user_id = m.user_id "# + $tail
            $(, $argument)*
        )
    };
}

macro_rules! on_platform {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            Membership,
            r#"SELECT g.membership_id, NULL::uuid AS tenant_id, g.user_id, u.email AS user_email, g.role_id,
                r.name AS role_name, r.permissions, u.is_master_admin, 'local' AS "source!: GrantSource", g.created_at
               FROM platform_grants g JOIN roles r ON r.role_id = g.role_id JOIN users u ON u.user_id = g.user_id "#
                + $tail
            $(, $argument)*
        )
    };
}

/// The membership of this id, in a tenant or on the platform.
pub async fn by_id(tx: &mut Connection, id: Uuid) -> Result<Option<Membership>> {
    let found = in_tenants!("WHERE m.membership_id = $1", id).fetch_optional(&mut *tx).await?;
    if found.is_some() {
        return Ok(found);
    }
    Ok(on_platform!("WHERE g.membership_id = $1", id).fetch_optional(tx).await?)
}

/// Where a page begins: after this user and membership.
pub type Position = (Uuid, Uuid);

/// Members of a tenant.
pub async fn of_tenant(
    tx: &mut Connection,
    tenant: Uuid,
    user: Option<Uuid>,
    role: Option<Uuid>,
    after: Position,
    limit: i64,
) -> Result<Vec<Membership>> {
    let found = in_tenants!(
        "WHERE m.tenant_id = $1 AND (m.user_id, m.membership_id) > ($2, $3)
            AND ($4::uuid IS NULL OR m.user_id = $4) AND ($5::uuid IS NULL OR m.role_id = $5)
         ORDER BY m.user_id, m.membership_id LIMIT $6",
        tenant,
        after.0,
        after.1,
        user,
        role,
        limit,
    );
    Ok(found.fetch_all(tx).await?)
}

/// Memberships of a user in every tenant.
pub async fn of_user(
    tx: &mut Connection,
    user: Uuid,
    role: Option<Uuid>,
    after: Position,
    limit: i64,
) -> Result<Vec<Membership>> {
    let found = in_tenants!(
        "WHERE m.user_id = $1 AND (m.user_id, m.membership_id) > ($2, $3) AND ($4::uuid IS NULL OR m.role_id = $4)
         ORDER BY m.membership_id LIMIT $5",
        user,
        after.0,
        after.1,
        role,
        limit,
    );
    Ok(found.fetch_all(tx).await?)
}

/// Grants on the platform.
pub async fn of_platform(
    tx: &mut Connection,
    user: Option<Uuid>,
    role: Option<Uuid>,
    after: Position,
    limit: i64,
) -> Result<Vec<Membership>> {
    let found = on_platform!(
        "WHERE (g.user_id, g.membership_id) > ($1, $2)
            AND ($3::uuid IS NULL OR g.user_id = $3) AND ($4::uuid IS NULL OR g.role_id = $4)
         ORDER BY g.user_id, g.membership_id LIMIT $5",
        after.0,
        after.1,
        user,
        role,
        limit,
    );
    Ok(found.fetch_all(tx).await?)
}

pub async fn insert(
    tx: &mut Connection,
    id: Uuid,
    tenant: Uuid,
    aimed: &Aimed,
    role: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    insert_for_new_user(tx, id, tenant, aimed.everywhere()?, role, now).await
}

/// Gives a user who was made in the same transaction a role in a tenant.
pub async fn insert_for_new_user(
    tx: &mut Connection,
    id: Uuid,
    tenant: Uuid,
    user: Uuid,
    role: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source, created_at)
         VALUES ($1, $2, $3, $4, 'local', $5)",
        id,
        tenant,
        user,
        role,
        now,
    )
    .execute(tx)
    .await
    .map_err(|error| taken(error, &[IN_TENANT]))?;
    Ok(())
}

pub async fn insert_on_platform(
    tx: &mut Connection,
    id: Uuid,
    aimed: &Aimed,
    role: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    insert_for_first_admin(tx, id, aimed.everywhere()?, role, now).await
}

/// Gives the first administrator, for whom there is no caller to authorise, a role on the platform.
pub async fn insert_for_first_admin(
    tx: &mut Connection,
    id: Uuid,
    user: Uuid,
    role: Uuid,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO platform_grants (membership_id, user_id, role_id, created_at) VALUES ($1, $2, $3, $4)",
        id,
        user,
        role,
        now,
    )
    .execute(tx)
    .await
    .map_err(|error| taken(error, &[ON_PLATFORM]))?;
    Ok(())
}

/// Whether a user has a role in a tenant or, without one, on the platform.
pub async fn has_role(tx: &mut Connection, user: Uuid, place: Option<Uuid>, role: Uuid) -> Result<bool> {
    let found = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM memberships WHERE user_id = $1 AND tenant_id = $2 AND role_id = $3)
            OR $2::uuid IS NULL AND EXISTS (SELECT FROM platform_grants WHERE user_id = $1 AND role_id = $3) AS "found!""#,
        user,
        place,
        role,
    )
    .fetch_one(tx)
    .await?;
    Ok(found)
}

/// Removes a membership of the user; false when another transaction was faster.
pub async fn delete(tx: &mut Connection, aimed: &Aimed, membership: &Membership) -> Result<bool> {
    if aimed.user() != membership.user_id {
        return Err(Fault::internal("a membership of another user than the one aimed at was to be deleted"));
    }
    let done = match membership.tenant_id {
        Some(_) => {
            sqlx::query!("DELETE FROM memberships WHERE membership_id = $1", membership.membership_id).execute(tx).await
        }
        None => {
            sqlx::query!("DELETE FROM platform_grants WHERE membership_id = $1", membership.membership_id)
                .execute(tx)
                .await
        }
    };
    Ok(done?.rows_affected() == 1)
}
