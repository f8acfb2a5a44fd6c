//! SQL of users as their own account changes: whose an address is, and what ends with what they had.

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

pub(in crate::authenticate) use crate::access::words::{AuthMethod, UserStatus};
use crate::credential::StoredHash;
use crate::db::Connection;
use crate::fault::Result;

/// A living user, as those need to know who go by mail.
pub(in crate::authenticate) struct User {
    pub user_id: Uuid,
    pub tenant_id: Uuid,
    pub email: String,
    pub email_key: String,
    pub username: Option<String>,
    pub full_name: String,
    pub status: UserStatus,
    pub auth_method: AuthMethod,
    pub has_password: bool,
    pub password_changed_at: Option<DateTime<Utc>>,
    pub verified_at: Option<DateTime<Utc>>,
}

macro_rules! users {
    ($tail:tt, $argument:expr) => {
        sqlx::query_as!(
            User,
            r#"SELECT user_id, tenant_id, email, email_key, username, full_name, status AS "status: UserStatus",
                auth_method AS "auth_method: AuthMethod", password_hash IS NOT NULL AS "has_password!",
                password_changed_at, verified_at
               FROM users "#
                + $tail,
            $argument
        )
    };
}

/// Locks the user of this id against every other call that changes or reads them to change something of theirs.
pub(in crate::authenticate) async fn lock(tx: &mut Connection, user: Uuid) -> Result<Option<User>> {
    Ok(users!("WHERE user_id = $1 AND deleted_at IS NULL FOR UPDATE", user).fetch_optional(tx).await?)
}

/// Locks the user who has this address.
pub(in crate::authenticate) async fn lock_by_email(tx: &mut Connection, key: &str) -> Result<Option<User>> {
    Ok(users!("WHERE email_key = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", key).fetch_optional(tx).await?)
}

/// Locks the user who has this username.
pub(in crate::authenticate) async fn lock_by_username(tx: &mut Connection, key: &str) -> Result<Option<User>> {
    Ok(users!("WHERE username_key = $1 AND deleted_at IS NULL FOR NO KEY UPDATE", key).fetch_optional(tx).await?)
}

/// Whether a user has a role with every permission on the platform.
pub(in crate::authenticate) async fn administers_platform(tx: &mut Connection, user: Uuid) -> Result<bool> {
    let administers = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM platform_grants g JOIN roles r ON r.role_id = g.role_id
               WHERE g.user_id = $1 AND r.is_platform AND '*' = ANY (r.permissions)) AS "administers!""#,
        user,
    )
    .fetch_one(tx)
    .await?;
    Ok(administers)
}

/// Removes any lock of a user, and the failures that were counted.
pub(in crate::authenticate) async fn unlock(tx: &mut Connection, user: Uuid) -> Result<()> {
    sqlx::query!(
        "UPDATE users SET locked_until = NULL, lock_reason = NULL, failed_login_attempts = 0, second_factor_failures = 0
         WHERE user_id = $1",
        user,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Whether a living user has this username.
pub(in crate::authenticate) async fn has_username(tx: &mut Connection, key: &str) -> Result<bool> {
    let taken = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM users WHERE username_key = $1 AND deleted_at IS NULL) AS "taken!""#,
        key,
    )
    .fetch_one(tx)
    .await?;
    Ok(taken)
}

/// A user to make of a registration.
pub(in crate::authenticate) struct NewUser<'a> {
    pub user_id: Uuid,
    pub tenant_id: Uuid,
    pub email: &'a str,
    pub email_key: &'a str,
    pub username: Option<&'a str>,
    pub username_key: Option<&'a str>,
    pub full_name: &'a str,
    pub password: Option<&'a StoredHash>,
    pub now: DateTime<Utc>,
}

/// Inserts a user whose address is confirmed; false when another user has the address by now, or the name, also if they
/// got it a moment ago: that is waited for.
pub(in crate::authenticate) async fn insert(tx: &mut Connection, user: &NewUser<'_>) -> Result<bool> {
    let done = sqlx::query!(
        "INSERT INTO users (user_id, tenant_id, email, email_key, username, username_key, full_name, status,
            password_hash, password_cost, password_pepper_id, password_changed_at, verified_at, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, 'active', $8, $9, $10,
            CASE WHEN $8::text IS NULL THEN NULL ELSE $11::timestamptz END, $11, $11, $11)
         ON CONFLICT DO NOTHING",
        user.user_id,
        user.tenant_id,
        user.email,
        user.email_key,
        user.username,
        user.username_key,
        user.full_name,
        user.password.map(|password| password.hash.as_str()),
        user.password.map(|password| password.cost),
        user.password.and_then(|password| password.pepper_id),
        user.now,
    )
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Makes a user a member of a tenant without administrative rights.
pub(in crate::authenticate) async fn join(
    tx: &mut Connection,
    membership: Uuid,
    (user, tenant): (Uuid, Uuid),
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "INSERT INTO memberships (membership_id, tenant_id, user_id, role_id, source, created_at)
         VALUES ($1, $2, $3, '00000000-0000-7000-8000-000000000004', 'local', $4)",
        membership,
        tenant,
        user,
        now,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Notes that a user's address was shown to be theirs, and lets them sign in.
pub(in crate::authenticate) async fn verify(tx: &mut Connection, user: Uuid, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("UPDATE users SET verified_at = $2, status = 'active' WHERE user_id = $1", user, now)
        .execute(tx)
        .await?;
    Ok(())
}

/// Notes that it is not only the tenant that says that the address is the user's.
pub(in crate::authenticate) async fn verify_beyond_tenant(tx: &mut Connection, user: Uuid) -> Result<()> {
    sqlx::query!("UPDATE users SET verified_by_tenant = false WHERE user_id = $1 AND verified_by_tenant", user)
        .execute(tx)
        .await?;
    Ok(())
}

/// Removes a user's password.
pub(in crate::authenticate) async fn remove_password(tx: &mut Connection, user: Uuid) -> Result<()> {
    sqlx::query!(
        "UPDATE users SET password_hash = NULL, password_cost = NULL, password_pepper_id = NULL,
             password_changed_at = NULL, must_change_password = false
         WHERE user_id = $1",
        user,
    )
    .execute(tx)
    .await?;
    Ok(())
}

/// Revokes the access tokens of a user, and returns the revocation. For transactions of the platform.
pub(in crate::authenticate) async fn revoke_tokens(tx: &mut Connection, user: Uuid) -> Result<Epoch> {
    let at = sqlx::query_scalar!(r#"SELECT tokens_revoke(ARRAY[$1::uuid], NULL) AS "at!""#, user).fetch_one(tx).await?;
    Ok(Epoch::of(Some(at)))
}

/// Ends the sessions of a user whose credentials have changed, except one, voids what waits to become one, and returns
/// which sessions ended.
pub(in crate::authenticate) async fn end_sessions(
    tx: &mut Connection,
    user: Uuid,
    except: Option<Uuid>,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>> {
    let ended = sqlx::query_scalar!(
        r#"SELECT session_end_all($1, $2, 'credential_changed', $3) AS "ended!""#,
        user,
        except,
        now
    )
    .fetch_one(tx)
    .await?;
    Ok(ended)
}
