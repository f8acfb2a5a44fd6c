//! SQL of passwords of known users: showing one once more, and setting one.

use crate::db::{Connection, Db};
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::login::Reserved;
use super::types::{AttemptRefusal, PasswordAttempt, password_attempt};
use crate::authenticate::login::attempt::ToItsEnd;
use crate::config::PasswordConfig;
use crate::credential::hashing::StoredHash;
use crate::fault::Result;

/// Reserves an attempt of a known user to show their password once more.
pub(in crate::authenticate) async fn proof_begin(
    db: &Db,
    _: &ToItsEnd,
    user: Uuid,
    now: DateTime<Utc>,
    passwords: &PasswordConfig,
    device: Option<&[u8; 32]>,
) -> Result<Reserved> {
    let row = password_attempt!(
        "password_proof_begin($1, $2, $3, make_interval(secs => $4), $5)",
        user,
        now,
        i32::try_from(passwords.max_attempts).unwrap_or(i32::MAX),
        passwords.lock_duration.as_secs_f64(),
        device.map(|device| &device[..]) as Option<&[u8]>,
    )
    .fetch_one(db)
    .await?;
    Ok(row.into())
}

/// Gives a reserved attempt back: the secret was right.
pub(in crate::authenticate) async fn refund(
    db: &Db,
    user: Uuid,
    device: Option<&[u8; 32]>,
    now: DateTime<Utc>,
) -> Result<()> {
    let device = device.map(|device| &device[..]) as Option<&[u8]>;
    sqlx::query!("SELECT attempt_refund($1, $2, $3, false)", user, device, now).fetch_one(db).await?;
    Ok(())
}

/// Locks a user, and returns the version of the password that is kept then.
pub(in crate::authenticate) async fn lock(connection: &mut Connection, user: Uuid) -> Result<Option<i64>> {
    let version = sqlx::query_scalar!(
        "SELECT password_version FROM users
         WHERE user_id = $1 AND deleted_at IS NULL AND status = 'active' AND auth_method <> 'kanidm'
             AND password_hash IS NOT NULL FOR NO KEY UPDATE",
        user,
    )
    .fetch_optional(connection)
    .await?;
    Ok(version)
}

/// Replaces a password that was shown, so that it need not be changed again. For a transaction of the platform that has
/// locked the user.
pub(in crate::authenticate) async fn change(
    connection: &mut Connection,
    user: Uuid,
    password: &StoredHash,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE users SET password_hash = $2, password_cost = $3, password_pepper_id = $4, password_changed_at = $5,
             must_change_password = false
         WHERE user_id = $1",
        user,
        password.hash,
        password.cost,
        password.pepper_id,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives a user a new password, which they need not change again, and removes the failures at the old one with an
/// automatic lock. Known devices are forgotten with it; sessions are for the caller to end. For a transaction of the
/// platform that has locked the user.
pub(in crate::authenticate) async fn set(
    connection: &mut Connection,
    user: Uuid,
    password: &StoredHash,
    now: DateTime<Utc>,
) -> Result<()> {
    sqlx::query!(
        "UPDATE users SET password_hash = $2, password_cost = $3, password_pepper_id = $4, password_changed_at = $5,
             must_change_password = false,
             failed_login_attempts = CASE WHEN lock_reason = 'administrator' THEN failed_login_attempts ELSE 0 END,
             locked_until = CASE WHEN lock_reason = 'administrator' THEN locked_until END,
             lock_reason = CASE WHEN lock_reason = 'administrator' THEN lock_reason END
         WHERE user_id = $1",
        user,
        password.hash,
        password.cost,
        password.pepper_id,
        now,
    )
    .execute(connection)
    .await?;
    Ok(())
}
