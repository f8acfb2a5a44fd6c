//! SQL of new tokens for a session that lives on.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use crate::db::Connection;
use crate::fault::{Fault, Result};
use crate::session::opening::Rights;

/// What is kept of new tokens.
pub(in crate::session) struct NewTokens<'a> {
    pub refresh_token_id: Uuid,
    pub refresh_token_hash: &'a [u8; 32],
    pub access_jti: Uuid,
    pub access_until: DateTime<Utc>,
    /// How long the session goes on without being refreshed.
    pub idle: Duration,
    /// The same for one that is to be remembered.
    pub persistent_idle: Duration,
}

/// A session that goes on.
pub(in crate::session) struct Renewed {
    /// Whose it is.
    pub user_id: Uuid,
    pub session_id: Uuid,
    /// Audience of its tokens.
    pub audience: String,
    /// What the user may do in it; the latest revocation is the caller's to say.
    pub rights: Rights,
    /// When it ends however much it is used.
    pub expires_at: DateTime<Utc>,
    /// When its new refresh token ends.
    pub refresh_expires_at: DateTime<Utc>,
}

/// Replaces all tokens of a session by new ones; none when it has ended. For a transaction that has locked the user.
pub(in crate::session) async fn renew(
    tx: &mut Connection,
    user: Uuid,
    session: Uuid,
    tokens: &NewTokens<'_>,
    now: DateTime<Utc>,
) -> Result<Option<Renewed>> {
    let row = sqlx::query!(
        r#"SELECT renewed AS "renewed!", tenant_id, audience, roles, permissions, platform_permissions, expires_at,
               refresh_expires_at
           FROM session_renew($1, $2, $3, $4, $5, $6, $7, make_interval(secs => $8), make_interval(secs => $9))"#,
        user,
        session,
        tokens.refresh_token_id,
        tokens.refresh_token_hash,
        tokens.access_jti,
        tokens.access_until,
        now,
        tokens.idle.as_secs_f64(),
        tokens.persistent_idle.as_secs_f64(),
    )
    .fetch_one(tx)
    .await?;
    if !row.renewed {
        return Ok(None);
    }
    let missing = || Fault::internal("session_renew left out what a session that goes on has");
    Ok(Some(Renewed {
        user_id: user,
        session_id: session,
        audience: row.audience.ok_or_else(missing)?,
        rights: Rights {
            tenant_id: row.tenant_id,
            roles: row.roles.unwrap_or_default(),
            permissions: row.permissions.unwrap_or_default(),
            platform_permissions: row.platform_permissions.unwrap_or_default(),
            epoch: Epoch::FIRST,
            must_change_password: false,
        },
        expires_at: row.expires_at.ok_or_else(missing)?,
        refresh_expires_at: row.refresh_expires_at.ok_or_else(missing)?,
    }))
}
