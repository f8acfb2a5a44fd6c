//! SQL of refreshing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sidle_token::Epoch;
use uuid::Uuid;

use super::types::{RefreshExchange, RefreshOutcome, UserRights};
use crate::audit::Prepared;
use crate::config::RateLimit;
use crate::db::{Db, Scope, interval};
use crate::fault::{Fault, Result};
use crate::session::opening::Rights;

/// What the function `session_refresh` takes.
pub(in crate::session) struct Exchange {
    pub token_hash: [u8; 32],
    pub request_hash: [u8; 32],
    pub successor_id: Uuid,
    pub successor_hash: [u8; 32],
    pub access_jti: Uuid,
    pub tenant_id: Option<Uuid>,
    pub audience: Option<String>,
    pub now: DateTime<Utc>,
    pub repeat: Duration,
    pub leeway: Duration,
    pub access_until: DateTime<Utc>,
    pub idle: Duration,
    pub persistent_idle: Duration,
    pub lease: Uuid,
    pub lease_time: Duration,
    /// What the session is charged for this; none when it has been.
    pub charge: Option<RateLimit>,
    pub refreshed: Prepared,
    pub reused: Prepared,
}

/// What it answers.
pub(in crate::session) enum Outcome {
    Refreshed(Done),
    Reused(Uuid),
    NoTenant,
    RequestIdReused,
    Raced,
    OtherAudience,
    KanidmBusy,
    KanidmRequired(Lease),
    Invalid,
    Throttled(Duration),
}

pub(in crate::session) struct Done {
    pub session_id: Uuid,
    pub user_id: Uuid,
    pub audience: String,
    pub rights: Rights,
    pub expires_at: DateTime<Utc>,
    pub refresh_expires_at: DateTime<Utc>,
}

/// A session on which this call has the lease while it asks Kanidm.
pub(in crate::session) struct Lease {
    pub session_id: Uuid,
    pub kanidm_user_id: Uuid,
    pub refresh_token: Option<Vec<u8>>,
}

/// Exchanges a refresh token.
pub(in crate::session) async fn exchange(db: &Db, exchange: &Exchange) -> Result<Outcome> {
    let row = sqlx::query!(
        r#"SELECT outcome AS "outcome!: RefreshOutcome", session_id, user_id, audience, rights AS "rights: UserRights",
               expires_at, refresh_expires_at, kanidm_user_id, kanidm_refresh_token,
               extract(epoch FROM retry_after)::float8 AS retry_after
           FROM session_refresh($1, $2, $3)"#,
        exchange.parameters() as RefreshExchange,
        &exchange.refreshed as &Prepared,
        &exchange.reused as &Prepared,
    )
    .fetch_one(db)
    .await?;
    let missing = || Fault::internal("session_refresh left out what its outcome needs");
    Ok(match row.outcome {
        RefreshOutcome::Refreshed | RefreshOutcome::Repeated => Outcome::Refreshed(Done {
            session_id: row.session_id.ok_or_else(missing)?,
            user_id: row.user_id.ok_or_else(missing)?,
            audience: row.audience.ok_or_else(missing)?,
            rights: row.rights.ok_or_else(missing)?.into(),
            expires_at: row.expires_at.ok_or_else(missing)?,
            refresh_expires_at: row.refresh_expires_at.ok_or_else(missing)?,
        }),
        RefreshOutcome::Reused => Outcome::Reused(row.session_id.ok_or_else(missing)?),
        RefreshOutcome::NoTenant => Outcome::NoTenant,
        RefreshOutcome::RequestIdReused => Outcome::RequestIdReused,
        RefreshOutcome::Raced => Outcome::Raced,
        RefreshOutcome::OtherAudience => Outcome::OtherAudience,
        RefreshOutcome::Invalid => Outcome::Invalid,
        RefreshOutcome::Throttled => Outcome::Throttled(
            Duration::try_from_secs_f64(row.retry_after.ok_or_else(missing)?).map_err(Fault::internal)?,
        ),
        RefreshOutcome::KanidmBusy => Outcome::KanidmBusy,
        RefreshOutcome::KanidmRequired => Outcome::KanidmRequired(Lease {
            session_id: row.session_id.ok_or_else(missing)?,
            kanidm_user_id: row.kanidm_user_id.ok_or_else(missing)?,
            refresh_token: row.kanidm_refresh_token,
        }),
    })
}

impl Exchange {
    fn parameters(&self) -> RefreshExchange {
        RefreshExchange {
            token_hash: self.token_hash.to_vec(),
            request_hash: self.request_hash.to_vec(),
            successor_id: self.successor_id,
            successor_hash: self.successor_hash.to_vec(),
            access_token_jti: self.access_jti,
            access_until: self.access_until,
            tenant_id: self.tenant_id,
            audience: self.audience.clone(),
            exchanged_at: self.now,
            repeat_within: interval(self.repeat),
            leeway: interval(self.leeway),
            idle: interval(self.idle),
            persistent_idle: interval(self.persistent_idle),
            lease_id: self.lease,
            lease_time: interval(self.lease_time),
            spacing: self.charge.map(|limit| interval(limit.spacing)),
            burst: self.charge.map(|limit| interval(limit.burst)),
        }
    }
}

/// Keeps what renewing a session at Kanidm gave; says whose access tokens that revoked, and by which revocation.
pub(in crate::session) async fn renewed(
    db: &Db,
    session: Uuid,
    lease: Uuid,
    refresh_token: &[u8],
    groups: &[Uuid],
    now: DateTime<Utc>,
    event: &Prepared,
) -> Result<Option<(Uuid, Epoch)>> {
    let row = sqlx::query!(
        "SELECT ended, tokens_valid_from FROM session_kanidm_renewed($1, $2, $3, $4, $5, $6)",
        session,
        lease,
        refresh_token,
        groups,
        now,
        event as &Prepared,
    )
    .fetch_one(db)
    .await?;
    Ok(row.ended.map(|user| (user, Epoch::of(row.tokens_valid_from))))
}

/// Gives the lease back.
pub(in crate::session) async fn release(db: &Db, session: Uuid, lease: Uuid) -> Result<()> {
    sqlx::query!("SELECT session_kanidm_released($1, $2)", session, lease).fetch_one(db).await?;
    Ok(())
}

/// Leases sessions that Kanidm was not asked about for `older_than`, the longest first.
pub(in crate::session) async fn due(
    db: &Db,
    older_than: Duration,
    limit: i32,
    lease: Uuid,
    lease_time: Duration,
) -> Result<Vec<Lease>> {
    Ok(sqlx::query_as!(
        Lease,
        r#"SELECT session_id AS "session_id!", kanidm_user_id AS "kanidm_user_id!", kanidm_refresh_token AS refresh_token
           FROM session_kanidm_due(make_interval(secs => $1), $2, $3, make_interval(secs => $4))"#,
        older_than.as_secs_f64(),
        limit,
        lease,
        lease_time.as_secs_f64(),
    )
    .fetch_all(db)
    .await?)
}

/// For how many seconds Kanidm was not asked about the living session for which that is longest; 0 when there is none.
pub(in crate::session) async fn oldest_check(db: &Db) -> Result<f64> {
    let mut tx = db.begin(Scope::Platform).await?;
    let seconds = sqlx::query_scalar!(
        r#"SELECT coalesce(extract(epoch FROM clock_timestamp() - min(kanidm_checked_at)), 0)::float8 AS "seconds!"
           FROM sessions WHERE status = 'active' AND kanidm_refresh_token IS NOT NULL"#
    )
    .fetch_one(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(seconds)
}
