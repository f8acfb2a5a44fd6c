//! SQL of password logins: before the hash, after it, and instead of a session.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::audit::{Event, Prepared, Recorder};
use crate::authenticate::UserView;
use crate::authenticate::hashing::StoredHash;
use crate::db::{Db, Scope};
use crate::fault::Result;
use crate::session::Rights;

/// A login that was begun: the user and the hash to compare with, or why there is none.
pub(in crate::authenticate) struct Begun {
    pub user_id: Option<Uuid>,
    pub tenant_id: Option<Uuid>,
    pub password_hash: Option<String>,
    /// Number of the attempt since the last success.
    pub attempt: Option<u32>,
    pub refusal: Option<&'static str>,
    /// The highest cost of any user's hash.
    pub highest_cost: u32,
}

/// How a login ended once somebody was found to be who they say.
pub(in crate::authenticate) enum Finished {
    SignedIn { rights: Rights, user: UserView },
    Refused,
    NoTenant,
    TenantRequired(Vec<Uuid>),
}

/// Finds the user and reserves the attempt.
pub(in crate::authenticate) async fn login_begin(
    pool: &PgPool,
    key: &str,
    now: DateTime<Utc>,
    max_attempts: u32,
    lock: Duration,
) -> Result<Begun> {
    let row = sqlx::query!(
        "SELECT user_id, tenant_id, password_hash, attempt, refusal, highest_cost
         FROM login_begin($1, $2, $3, make_interval(secs => $4))",
        key,
        now,
        i32::try_from(max_attempts).unwrap_or(i32::MAX),
        lock.as_secs_f64(),
    )
    .fetch_one(pool)
    .await?;
    let refusal = row.refusal.as_deref().map(|reason| match reason {
        "unknown" => "unknown",
        "locked" => "locked",
        "disabled" => "disabled",
        "unverified" => "unverified",
        "kanidm_only" => "kanidm_only",
        _ => "no_password",
    });
    Ok(Begun {
        user_id: row.user_id,
        tenant_id: row.tenant_id,
        password_hash: row.password_hash,
        attempt: row.attempt.and_then(|attempt| u32::try_from(attempt).ok()),
        refusal,
        highest_cost: row.highest_cost.and_then(|cost| u32::try_from(cost).ok()).unwrap_or_default(),
    })
}

/// Records a refused login, and the lock that it led to.
pub(in crate::authenticate) async fn login_refuse(
    pool: &PgPool,
    event: &Prepared,
    lock: Option<&Prepared>,
) -> Result<()> {
    sqlx::query!(
        "SELECT login_refuse($1, $2, $3)",
        event.event,
        event.personal.as_deref(),
        lock.map(|lock| &lock.event),
    )
    .fetch_one(pool)
    .await?;
    Ok(())
}

/// After the right password: begins the session.
#[expect(clippy::too_many_arguments, reason = "the arguments of one database function")]
pub(in crate::authenticate) async fn login_finish(
    pool: &PgPool,
    user: Uuid,
    password_hash: &str,
    tenant: Option<Uuid>,
    now: DateTime<Utc>,
    session: &Value,
    event: &Prepared,
    refused: &Prepared,
) -> Result<Finished> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!", tenant_id, choices, roles, permissions, platform_permissions,
               tokens_valid_from, must_change_password, email, username, full_name, auth_method
           FROM login_finish($1, $2, $3, $4, $5, $6, $7, $8, $9)"#,
        user,
        password_hash,
        tenant,
        now,
        session,
        event.event,
        event.personal.as_deref(),
        refused.event,
        refused.personal.as_deref(),
    )
    .fetch_one(pool)
    .await?;
    Ok(match row.outcome.as_str() {
        "signed_in" => Finished::SignedIn {
            rights: Rights {
                tenant_id: row.tenant_id,
                roles: row.roles.unwrap_or_default(),
                permissions: row.permissions.unwrap_or_default(),
                platform_permissions: row.platform_permissions.unwrap_or_default(),
                tokens_valid_from: row.tokens_valid_from,
                must_change_password: row.must_change_password.unwrap_or(true),
            },
            user: UserView {
                user_id: user,
                email: row.email.unwrap_or_default(),
                username: row.username,
                full_name: row.full_name.unwrap_or_default(),
                auth_method: row.auth_method.unwrap_or_default(),
            },
        },
        "no_tenant" => Finished::NoTenant,
        "tenant_required" => Finished::TenantRequired(row.choices.unwrap_or_default()),
        _ => Finished::Refused,
    })
}

/// Puts a new hash of the same password in the place of the old one, if that is still there.
pub(in crate::authenticate) async fn replace_hash(
    db: &Db,
    recorder: &Recorder,
    user: Uuid,
    old: &str,
    new: &StoredHash,
    event: Event,
) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    let done = sqlx::query!(
        "UPDATE users SET password_hash = $3, password_cost = $4, password_pepper_id = $5
         WHERE user_id = $1 AND password_hash = $2",
        user,
        old,
        new.hash,
        new.cost,
        new.pepper_id,
    )
    .execute(&mut *tx)
    .await?;
    if done.rows_affected() == 1 {
        recorder.record(&mut tx, event).await?;
        tx.commit().await?;
    }
    Ok(())
}
