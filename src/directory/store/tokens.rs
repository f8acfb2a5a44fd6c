//! Ending access: tokens and sessions; and the rule that the platform always has an administrator.

use crate::db::Connection;
use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use crate::access::delegation::Aimed;
use crate::fault::Result;

/// The number of the lock under which platform administrators are removed, one transaction at a time.
const ADMINS_LOCK: i64 = 0x5349_444c_4500_0001;

/// Waits until no other transaction removes platform administrators.
pub async fn lock_admins(tx: &mut Connection) -> Result<()> {
    sqlx::query!("SELECT pg_advisory_xact_lock($1)", ADMINS_LOCK).execute(tx).await?;
    Ok(())
}

/// Whether any user with all permissions on the platform can sign in.
pub async fn has_platform_admin(tx: &mut Connection, now: DateTime<Utc>) -> Result<bool> {
    let found =
        sqlx::query_scalar!(r#"SELECT directory_has_platform_admin($1) AS "found!""#, now).fetch_one(tx).await?;
    Ok(found)
}

/// Keeps logins and refreshes of these users waiting until the transaction ends.
pub async fn lock_users(tx: &mut Connection, users: &[Uuid]) -> Result<()> {
    sqlx::query!("SELECT directory_lock_users($1)", users).execute(tx).await?;
    Ok(())
}

/// Revokes the access tokens of these users, and returns the revocation.
pub async fn end_users(tx: &mut Connection, users: &[Uuid]) -> Result<Epoch> {
    let at = sqlx::query_scalar!(r#"SELECT directory_revoke_tokens($1) AS "at!""#, users).fetch_one(tx).await?;
    Ok(Epoch::of(Some(at)))
}

/// Revokes the access tokens of these service accounts, and returns the revocation.
pub async fn end_accounts(tx: &mut Connection, accounts: &[Uuid]) -> Result<Epoch> {
    let at = sqlx::query_scalar!(r#"SELECT tokens_revoke(NULL, $1) AS "at!""#, accounts).fetch_one(tx).await?;
    Ok(Epoch::of(Some(at)))
}

/// Ends every session of a user and returns their ids.
pub async fn end_sessions(tx: &mut Connection, aimed: &Aimed, reason: &str, now: DateTime<Utc>) -> Result<Vec<Uuid>> {
    let user = aimed.everywhere()?;
    let ended = sqlx::query_scalar!(r#"SELECT session_end_all($1, NULL, $2, $3) AS "sessions!""#, user, reason, now)
        .fetch_one(tx)
        .await?;
    Ok(ended)
}

/// Users who have a tenant's or a shared role, after `after` by id.
pub async fn holders_of_role(tx: &mut Connection, role: Uuid, after: Uuid, limit: i64) -> Result<Vec<Uuid>> {
    let users = sqlx::query_scalar!(
        "SELECT DISTINCT user_id FROM memberships WHERE role_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3",
        role,
        after,
        limit
    )
    .fetch_all(tx)
    .await?;
    Ok(users)
}

/// Users who have a platform role, after `after` by id.
pub async fn holders_of_platform_role(tx: &mut Connection, role: Uuid, after: Uuid, limit: i64) -> Result<Vec<Uuid>> {
    let users = sqlx::query_scalar!(
        "SELECT user_id FROM platform_grants WHERE role_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3",
        role,
        after,
        limit
    )
    .fetch_all(tx)
    .await?;
    Ok(users)
}

/// Users who are members of a tenant, after `after` by id.
pub async fn members_of_tenant(tx: &mut Connection, tenant: Uuid, after: Uuid, limit: i64) -> Result<Vec<Uuid>> {
    let users = sqlx::query_scalar!(
        "SELECT DISTINCT user_id FROM memberships WHERE tenant_id = $1 AND user_id > $2 ORDER BY user_id LIMIT $3",
        tenant,
        after,
        limit
    )
    .fetch_all(tx)
    .await?;
    Ok(users)
}
