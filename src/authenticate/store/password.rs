//! SQL of passwords of those who are known: showing one once more, and setting one.

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::login::{Reserved, refusal};
use crate::authenticate::hashing::StoredHash;
use crate::config::PasswordConfig;
use crate::fault::Result;

/// Reserves an attempt of somebody known to show their password once more.
pub(in crate::authenticate) async fn proof_begin(
    pool: &PgPool,
    user: Uuid,
    now: DateTime<Utc>,
    passwords: &PasswordConfig,
) -> Result<Reserved> {
    let row = sqlx::query!(
        "SELECT tenant_id, password_hash, password_pepper_id, set_here, attempt, refusal, highest_cost
         FROM password_proof_begin($1, $2, $3, make_interval(secs => $4))",
        user,
        now,
        i32::try_from(passwords.max_attempts).unwrap_or(i32::MAX),
        passwords.lock_duration.as_secs_f64(),
    )
    .fetch_one(pool)
    .await?;
    Ok(Reserved {
        user_id: Some(user),
        tenant_id: row.tenant_id,
        password_hash: row.password_hash,
        pepper_id: row.password_pepper_id,
        set_here: row.set_here.unwrap_or_default(),
        attempt: row.attempt.and_then(|attempt| u32::try_from(attempt).ok()),
        known_device: false,
        refusal: row.refusal.as_deref().map(refusal),
        highest_cost: row.highest_cost.and_then(|cost| u32::try_from(cost).ok()).unwrap_or_default(),
    })
}

/// Gives a reserved attempt back: the secret was right.
pub(in crate::authenticate) async fn refund(pool: &PgPool, user: Uuid) -> Result<()> {
    sqlx::query!("SELECT attempt_refund($1, NULL)", user).fetch_one(pool).await?;
    Ok(())
}

/// Gives a user a new password, which they need not change again, and takes the failures at the old one away with an
/// automatic lock. Known devices are forgotten with it; sessions are for the caller to end. For a transaction of the
/// platform that has locked the user.
pub(in crate::authenticate) async fn set(
    connection: &mut PgConnection,
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
