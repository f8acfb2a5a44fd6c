//! Users.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{AuthMethod, LockReason, Unique, UserStatus, taken};
use crate::access::delegation::Aimed;
use crate::credential::StoredHash;
use crate::db;
use crate::fault::{Fault, Result};

/// A person who signs in.
#[derive(Clone, Debug)]
pub struct User {
    pub user_id: Uuid,
    pub tenant_id: Uuid,
    pub email: String,
    pub username: Option<String>,
    pub full_name: String,
    pub status: UserStatus,
    pub auth_method: AuthMethod,
    pub has_password: bool,
    pub has_second_factor: bool,
    pub must_change_password: bool,
    pub failed_login_attempts: i32,
    pub locked_until: Option<DateTime<Utc>>,
    pub lock_reason: Option<LockReason>,
    pub verified_at: Option<DateTime<Utc>>,
    /// Whether only the tenant's own administrators say that the address is the user's.
    pub verified_by_tenant: bool,
    pub last_login_at: Option<DateTime<Utc>>,
    pub kanidm_user_id: Option<Uuid>,
    pub kanidm_name: Option<String>,
    pub kanidm_synced_at: Option<DateTime<Utc>>,
    pub migration_invited_at: Option<DateTime<Utc>>,
    pub migration_completed_at: Option<DateTime<Utc>>,
    pub legacy_id: Option<String>,
    pub is_master_admin: bool,
    pub version: i64,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub deleted_at: Option<DateTime<Utc>>,
}

/// A user to insert.
pub struct Insert<'a> {
    pub user_id: Uuid,
    pub tenant_id: Uuid,
    pub email: &'a str,
    pub email_key: &'a str,
    pub username: Option<&'a str>,
    pub username_key: Option<&'a str>,
    pub full_name: &'a str,
    pub status: UserStatus,
    pub password: Option<&'a StoredHash>,
    pub must_change_password: bool,
    pub verified_at: Option<DateTime<Utc>>,
    pub verified_by_tenant: bool,
    pub is_master_admin: bool,
    pub now: DateTime<Utc>,
}

/// Which users to list.
#[derive(Clone, Copy, Debug)]
pub struct Filter {
    pub tenant_id: Option<Uuid>,
    pub status: Option<UserStatus>,
    pub auth_method: Option<AuthMethod>,
    pub locked_at: Option<DateTime<Utc>>,
    pub include_deleted: bool,
}

macro_rules! users {
    ($tail:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            User,
            r#"SELECT user_id, tenant_id, email, username, full_name, status AS "status: UserStatus",
                auth_method AS "auth_method: AuthMethod", password_hash IS NOT NULL AS "has_password!",
                directory_has_second_factor(user_id) AS "has_second_factor!", must_change_password, failed_login_attempts, locked_until, lock_reason AS "lock_reason: LockReason",
                verified_at, verified_by_tenant, last_login_at, kanidm_user_id, kanidm_name, kanidm_synced_at, migration_invited_at,
                migration_completed_at, legacy_id, is_master_admin, version, created_at, updated_at, deleted_at
               FROM users "# + $tail
            $(, $argument)*
        )
    };
}

/// The user of this id.
pub async fn by_id(tx: &mut Connection, id: Uuid, include_deleted: bool) -> Result<Option<User>> {
    Ok(users!("WHERE user_id = $1 AND ($2 OR deleted_at IS NULL)", id, include_deleted).fetch_optional(tx).await?)
}

/// The living user with this e-mail address, by its comparable form.
pub async fn by_email(tx: &mut Connection, key: &str) -> Result<Option<User>> {
    Ok(users!("WHERE email_key = $1 AND deleted_at IS NULL", key).fetch_optional(tx).await?)
}

/// The living user with this username, by its comparable form.
pub async fn by_username(tx: &mut Connection, key: &str) -> Result<Option<User>> {
    Ok(users!("WHERE username_key = $1 AND deleted_at IS NULL", key).fetch_optional(tx).await?)
}

/// The living user of this id, locked until the transaction ends.
pub async fn lock(tx: &mut Connection, id: Uuid) -> Result<Option<User>> {
    Ok(users!("WHERE user_id = $1 AND deleted_at IS NULL FOR UPDATE", id).fetch_optional(tx).await?)
}

/// Users after `after` by id. Two statements: each has one index to walk.
pub async fn list(tx: &mut Connection, filter: Filter, after: Uuid, limit: i64) -> Result<Vec<User>> {
    let status = filter.status.map(UserStatus::as_str);
    let method = filter.auth_method.map(AuthMethod::as_str);
    let found = match filter.tenant_id {
        Some(tenant) => {
            users!(
                "WHERE tenant_id = $1 AND user_id > $2 AND ($3 OR deleted_at IS NULL)
                    AND ($4::text IS NULL OR status = $4) AND ($5::text IS NULL OR auth_method = $5)
                    AND ($6::timestamptz IS NULL OR locked_until > $6)
                 ORDER BY tenant_id, user_id LIMIT $7",
                tenant,
                after,
                filter.include_deleted,
                status,
                method,
                filter.locked_at,
                limit,
            )
            .fetch_all(tx)
            .await
        }
        None => {
            users!(
                "WHERE user_id > $1 AND ($2 OR deleted_at IS NULL)
                    AND ($3::text IS NULL OR status = $3) AND ($4::text IS NULL OR auth_method = $4)
                    AND ($5::timestamptz IS NULL OR locked_until > $5)
                 ORDER BY user_id LIMIT $6",
                after,
                filter.include_deleted,
                status,
                method,
                filter.locked_at,
                limit,
            )
            .fetch_all(tx)
            .await
        }
    };
    Ok(found?)
}

/// The refusal for an address of a domain that the tenant is not for; otherwise as for every field.
fn refused(error: sqlx::Error) -> Fault {
    match db::constraint(&error) {
        Some("users_email_domain_check") => {
            Fault::field("email", "must be of one of the domains that the tenant is for")
        }
        _ => taken(error, UNIQUE),
    }
}

const UNIQUE: &[Unique] = &[
    Unique {
        constraint: "users_email_key_key",
        field: "email",
        taken: "Another user has this e-mail address already.",
    },
    Unique {
        constraint: "users_username_key_key",
        field: "username",
        taken: "Another user has this username already.",
    },
];

pub async fn insert(tx: &mut Connection, user: Insert<'_>) -> Result<()> {
    sqlx::query!(
        "INSERT INTO users (user_id, tenant_id, email, email_key, username, username_key, full_name, status,
            password_hash, password_cost, password_pepper_id, password_changed_at, must_change_password, verified_at,
            verified_by_tenant, is_master_admin, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11,
            CASE WHEN $9::text IS NULL THEN NULL ELSE $16::timestamptz END, $12, $13, $14, $15, $16, $16)",
        user.user_id,
        user.tenant_id,
        user.email,
        user.email_key,
        user.username,
        user.username_key,
        user.full_name,
        user.status.as_str(),
        user.password.map(|password| password.hash.as_str()),
        user.password.map(|password| password.cost),
        user.password.and_then(|password| password.pepper_id),
        user.must_change_password,
        user.verified_at,
        user.verified_by_tenant,
        user.is_master_admin,
        user.now,
    )
    .execute(tx)
    .await
    .map_err(refused)?;
    Ok(())
}

/// Writes what an administrator may edit.
pub async fn update(
    tx: &mut Connection,
    aimed: &Aimed,
    user: &User,
    email_key: &str,
    username_key: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE users SET email = $2, email_key = $3, username = $4, username_key = $5, full_name = $6,
            must_change_password = $7, verified_at = $8, verified_by_tenant = $9
         WHERE user_id = $1",
        aimed.user(),
        user.email,
        email_key,
        user.username,
        username_key,
        user.full_name,
        user.must_change_password,
        user.verified_at,
        user.verified_by_tenant,
    )
    .execute(tx)
    .await
    .map_err(refused)?;
    Ok(())
}

/// Sets the status and, with it, when the address was verified and whether only by the tenant.
pub async fn set_status(
    tx: &mut Connection,
    aimed: &Aimed,
    status: UserStatus,
    (verified_at, verified_by_tenant): (Option<DateTime<Utc>>, bool),
) -> Result<()> {
    let id = aimed.everywhere()?;
    sqlx::query!(
        "UPDATE users SET status = $2, verified_at = $3, verified_by_tenant = $4 WHERE user_id = $1",
        id,
        status.as_str(),
        verified_at,
        verified_by_tenant
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes the password that an import has brought to a user who has not verified the address yet. False where there is
/// none.
pub async fn drop_imported_password(tx: &mut Connection, aimed: &Aimed) -> Result<bool> {
    let id = aimed.everywhere()?;
    let dropped = sqlx::query!(
        "UPDATE users SET password_hash = NULL, password_cost = NULL, password_pepper_id = NULL,
             password_changed_at = NULL, must_change_password = false
         WHERE user_id = $1 AND status = 'pending_verification' AND import_id IS NOT NULL AND password_hash IS NOT NULL",
        id
    );
    Ok(dropped.execute(tx).await?.rows_affected() > 0)
}

/// Marks a user as deleted.
pub async fn delete(tx: &mut Connection, aimed: &Aimed, now: DateTime<Utc>) -> Result<()> {
    let id = aimed.everywhere()?;
    sqlx::query!("UPDATE users SET deleted_at = $2 WHERE user_id = $1", id, now).execute(tx).await?;
    Ok(())
}

/// Locks a user in an administrator's name.
pub async fn set_lock(tx: &mut Connection, aimed: &Aimed, until: DateTime<Utc>) -> Result<()> {
    let id = aimed.everywhere()?;
    sqlx::query!("UPDATE users SET locked_until = $2, lock_reason = 'administrator' WHERE user_id = $1", id, until)
        .execute(tx)
        .await?;
    Ok(())
}

/// Removes any lock and forgets failed attempts.
pub async fn clear_lock(tx: &mut Connection, aimed: &Aimed) -> Result<()> {
    let id = aimed.everywhere()?;
    sqlx::query!(
        "UPDATE users SET locked_until = NULL, lock_reason = NULL, failed_login_attempts = 0, second_factor_failures = 0
         WHERE user_id = $1",
        id
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!("SELECT known_devices_unlock($1)", id).fetch_one(tx).await?;
    Ok(())
}

/// Whether there is a master administrator.
pub async fn has_master_admin(tx: &mut Connection) -> Result<bool> {
    let found = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM users WHERE is_master_admin) AS "found!""#)
        .fetch_one(tx)
        .await?;
    Ok(found)
}

/// Removes a user's authenticator application, with everything that is worth something through it only.
pub async fn remove_second_factor(tx: &mut Connection, id: Uuid) -> Result<()> {
    sqlx::query!("SELECT directory_remove_second_factor($1)", id).fetch_one(tx).await?;
    Ok(())
}
