//! SQL of passwords of those who are known: showing one once more, and setting one.

use crate::db::{Connection, Db};
use chrono::{DateTime, Utc};
use serde_json::json;
use sidle_token::Epoch;
use uuid::Uuid;

use super::login::{Reserved, refusal};
use crate::audit::Prepared;
use crate::authenticate::login::attempt::ToItsEnd;
use crate::config::PasswordConfig;
use crate::credential::hashing::StoredHash;
use crate::fault::{Fault, Result};
use crate::session::{Renewal, Renewed, Rights};

/// Reserves an attempt of somebody known to show their password once more.
pub(in crate::authenticate) async fn proof_begin(
    db: &Db,
    _: &ToItsEnd,
    user: Uuid,
    now: DateTime<Utc>,
    passwords: &PasswordConfig,
    device: Option<&[u8; 32]>,
) -> Result<Reserved> {
    let row = sqlx::query!(
        "SELECT tenant_id, password_hash, password_version, password_pepper_id, set_here, attempt, known_device, refusal, highest_cost
         FROM password_proof_begin($1, $2, $3, make_interval(secs => $4), $5)",
        user,
        now,
        i32::try_from(passwords.max_attempts).unwrap_or(i32::MAX),
        passwords.lock_duration.as_secs_f64(),
        device.map(|device| &device[..]) as Option<&[u8]>,
    )
    .fetch_one(db)
    .await?;
    let refusal = row.refusal.as_deref().map(refusal).transpose()?;
    Ok(Reserved {
        // Somebody who is not there is nobody, whatever id was asked for.
        user_id: Some(user).filter(|_| refusal != Some("unknown")),
        tenant_id: row.tenant_id,
        password_hash: row.password_hash,
        password_version: row.password_version,
        pepper_id: row.password_pepper_id,
        set_here: row.set_here.unwrap_or_default(),
        attempt: row.attempt.and_then(|attempt| u32::try_from(attempt).ok()),
        known_device: row.known_device.unwrap_or_default(),
        refusal,
        highest_cost: row.highest_cost.and_then(|cost| u32::try_from(cost).ok()).unwrap_or_default(),
    })
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

/// Locks a user, and tells the version of the password that is kept then.
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

/// What the function `password_change` takes.
pub(in crate::authenticate) struct Change<'a> {
    pub user: Uuid,
    pub session: Uuid,
    pub hash: &'a StoredHash,
    pub renewal: &'a Renewal,
    pub now: DateTime<Utc>,
    pub event: Prepared,
}

/// Sets a password from within a session, and tells how that goes on and which others ended; none when it has ended
/// itself. For a transaction that has locked the user.
pub(in crate::authenticate) async fn change(
    connection: &mut Connection,
    change: &Change<'_>,
) -> Result<Option<(Renewed, Vec<Uuid>)>> {
    let hash = change.hash;
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!", tenant_id, audience, roles, permissions, platform_permissions, expires_at,
               refresh_expires_at, ended_sessions, tokens_valid_from
           FROM password_change($1, $2, $3, $4, $5, make_interval(secs => $6), make_interval(secs => $7), $8, $9)"#,
        change.user,
        change.session,
        json!({ "hash": hash.hash, "cost": hash.cost, "pepper_id": hash.pepper_id }),
        change.renewal.record,
        change.now,
        change.renewal.idle.as_seconds_f64(),
        change.renewal.persistent_idle.as_seconds_f64(),
        change.event.event,
        change.event.personal.as_deref(),
    )
    .fetch_one(connection)
    .await?;
    if row.outcome != "changed" {
        return Ok(None);
    }
    let missing = || Fault::internal("password_change left out what its outcome needs");
    let renewed = Renewed {
        user_id: change.user,
        session_id: change.session,
        audience: row.audience.ok_or_else(missing)?,
        rights: Rights {
            tenant_id: row.tenant_id,
            roles: row.roles.unwrap_or_default(),
            permissions: row.permissions.unwrap_or_default(),
            platform_permissions: row.platform_permissions.unwrap_or_default(),
            epoch: Epoch::of(Some(row.tokens_valid_from.ok_or_else(missing)?)),
            must_change_password: false,
        },
        expires_at: row.expires_at.ok_or_else(missing)?,
        refresh_expires_at: row.refresh_expires_at.ok_or_else(missing)?,
    };
    Ok(Some((renewed, row.ended_sessions.unwrap_or_default())))
}

/// Gives a user a new password, which they need not change again, and takes the failures at the old one away with an
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
