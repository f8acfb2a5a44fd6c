//! SQL of sessions.

use std::time::Duration;

use crate::db::{Connection, Db, Scope};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::access::delegation::Aimed;
use crate::audit::Prepared;
use crate::fault::Result;

/// Whether a session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// It lives.
    Active,
    /// It was ended before its time.
    Revoked,
    /// It lapsed.
    Expired,
}

impl Status {
    /// Its name in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Revoked => "revoked",
            Self::Expired => "expired",
        }
    }
}

/// A session as it is shown; enumerated columns as the database spells them.
#[derive(Clone, Debug)]
pub struct SessionView {
    pub session_id: Uuid,
    pub user_id: Uuid,
    pub tenant_id: Option<Uuid>,
    pub auth_method: String,
    pub status: String,
    pub audience: String,
    pub persistent: bool,
    pub device_id: Option<String>,
    pub device_type: Option<String>,
    pub device_platform: Option<String>,
    pub device_location: Option<String>,
    pub device_fingerprint: Option<String>,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub created_at: DateTime<Utc>,
    pub last_activity_at: DateTime<Utc>,
    pub idle_expires_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub revoke_reason: Option<String>,
    pub kanidm_session_id: Option<Uuid>,
}

/// Which sessions a list shows, newest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::session) struct Wanted {
    /// Whose; all users' when none.
    pub user_id: Option<Uuid>,
    /// In these states.
    pub statuses: Vec<Status>,
}

/// One session, as far as the transaction's scope reaches.
pub(in crate::session) async fn get(
    tx: &mut Connection,
    session: Uuid,
    now: DateTime<Utc>,
) -> Result<Option<SessionView>> {
    let row = sqlx::query_as!(
        SessionView,
        r#"SELECT session_id, user_id, tenant_id, auth_method,
               CASE WHEN status = 'active' AND least(expires_at, idle_expires_at) <= $2 THEN 'expired' ELSE status END
                   AS "status!", audience, persistent, device_id, device_type, device_platform, device_location,
               device_fingerprint, host(ip_address) AS ip_address, user_agent, created_at, last_activity_at, idle_expires_at, expires_at,
               revoked_at, revoke_reason, kanidm_session_id
           FROM sessions WHERE session_id = $1"#,
        session,
        now,
    )
    .fetch_optional(tx)
    .await?;
    Ok(row)
}

/// Sessions older than `before`, newest first, as far as the transaction's scope reaches.
pub(in crate::session) async fn list(
    tx: &mut Connection,
    wanted: &Wanted,
    before: Option<Uuid>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<SessionView>> {
    let statuses: Vec<String> = wanted.statuses.iter().map(|status| status.as_str().to_owned()).collect();
    let rows = match wanted.user_id {
        Some(user) => {
            sqlx::query_as!(
                SessionView,
                r#"SELECT session_id, user_id, tenant_id, auth_method,
                       CASE WHEN status = 'active' AND least(expires_at, idle_expires_at) <= $5 THEN 'expired'
                           ELSE status END AS "status!", audience, persistent, device_id, device_type,
                       device_platform, device_location, device_fingerprint, host(ip_address) AS ip_address, user_agent, created_at,
                       last_activity_at, idle_expires_at, expires_at, revoked_at, revoke_reason, kanidm_session_id
                   FROM sessions
                   WHERE user_id = $1 AND ($2::uuid IS NULL OR session_id < $2)
                       AND CASE WHEN status = 'active' AND least(expires_at, idle_expires_at) <= $5 THEN 'expired'
                           ELSE status END = ANY ($3)
                   ORDER BY session_id DESC LIMIT $4"#,
                user,
                before,
                &statuses,
                limit,
                now,
            )
            .fetch_all(tx)
            .await?
        }
        None => {
            sqlx::query_as!(
                SessionView,
                r#"SELECT session_id, user_id, tenant_id, auth_method,
                       CASE WHEN status = 'active' AND least(expires_at, idle_expires_at) <= $4 THEN 'expired'
                           ELSE status END AS "status!", audience, persistent, device_id, device_type,
                       device_platform, device_location, device_fingerprint, host(ip_address) AS ip_address, user_agent, created_at,
                       last_activity_at, idle_expires_at, expires_at, revoked_at, revoke_reason, kanidm_session_id
                   FROM sessions
                   WHERE ($1::uuid IS NULL OR session_id < $1)
                       AND CASE WHEN status = 'active' AND least(expires_at, idle_expires_at) <= $4 THEN 'expired'
                           ELSE status END = ANY ($2)
                   ORDER BY session_id DESC LIMIT $3"#,
                before,
                &statuses,
                limit,
                now,
            )
            .fetch_all(tx)
            .await?
        }
    };
    Ok(rows)
}

/// Ends a session in the transaction's scope and records it; says whether it still lived.
pub(in crate::session) async fn end(
    tx: &mut Connection,
    session: Uuid,
    reason: &str,
    now: DateTime<Utc>,
    event: &Prepared,
) -> Result<bool> {
    let ended = sqlx::query_scalar!(
        r#"SELECT session_end($1, $2, $3, $4) AS "ended!""#,
        session,
        reason,
        now,
        event as &Prepared,
    )
    .fetch_one(tx)
    .await?;
    Ok(ended)
}

/// Ends the sessions of a user, as far as the transaction's scope reaches.
pub(in crate::session) async fn end_all(
    tx: &mut Connection,
    aimed: &Aimed,
    except: Option<Uuid>,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<Vec<Uuid>> {
    let user = aimed.user();
    let ended = sqlx::query_scalar!(r#"SELECT session_end_all($1, $2, $3, $4) AS "ended!""#, user, except, reason, now)
        .fetch_one(tx)
        .await?;
    Ok(ended)
}

/// The tenant of this slug, also one that has been closed.
pub(in crate::session) async fn tenant_of_slug(db: &Db, slug: &str) -> Result<Option<Uuid>> {
    let mut tx = db.begin(Scope::Platform).await?;
    let tenant =
        sqlx::query_scalar!("SELECT tenant_id FROM tenants WHERE slug = $1", slug).fetch_optional(&mut *tx).await?;
    tx.commit().await?;
    Ok(tenant)
}

/// Whether there is such a user, as far as the transaction's scope reaches.
pub(in crate::session) async fn knows_user(tx: &mut Connection, user: Uuid) -> Result<bool> {
    let known = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM users WHERE user_id = $1) AS "known!""#, user)
        .fetch_one(tx)
        .await?;
    Ok(known)
}

/// Marks what has lapsed and purges what no caller can use or see any more; says how many sessions it marked.
pub(in crate::session) async fn expire(db: &Db, now: DateTime<Utc>, keep: Duration) -> Result<i64> {
    let expired = sqlx::query_scalar!(
        r#"SELECT expire_old_sessions($1, make_interval(secs => $2)) AS "expired!""#,
        now,
        keep.as_secs_f64()
    );
    Ok(expired.fetch_one(db).await?)
}

/// How many sessions live: counted up to 100,000, beyond that as the planner estimates them, so that asking every
/// minute costs the same however many there are.
pub(in crate::session) async fn count_active(tx: &mut Connection) -> Result<i64> {
    let count = sqlx::query_scalar!(
        r#"SELECT CASE WHEN counted.count <= 100000 THEN counted.count
               ELSE greatest(counted.count, (SELECT reltuples::bigint FROM pg_class
                   WHERE oid = 'idx_sessions_expires_at'::regclass)) END AS "count!"
           FROM (SELECT count(*) FROM (SELECT FROM sessions WHERE status = 'active' LIMIT 100001) living) counted"#
    )
    .fetch_one(tx)
    .await?;
    Ok(count)
}
