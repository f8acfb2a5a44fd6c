//! Composite types of the database functions that begin and renew sessions. A shipped type is never changed, since
//! replicas of two releases share a database: another shape takes another name.

use chrono::{DateTime, Utc};
use sqlx::postgres::types::PgInterval;
use uuid::Uuid;

use crate::audit::Prepared;

/// A session that is about to begin, with its first refresh token.
#[derive(Clone, sqlx::Type)]
#[sqlx(type_name = "new_session")]
pub struct NewSession {
    pub session_id: Uuid,
    pub audience: String,
    pub persistent: bool,
    pub access_token_jti: Uuid,
    pub access_until: DateTime<Utc>,
    pub refresh_token_id: Uuid,
    pub refresh_token_hash: Vec<u8>,
    pub device_id: Option<String>,
    pub device_type: Option<String>,
    pub device_platform: Option<String>,
    pub device_location: Option<String>,
    pub device_fingerprint: String,
    pub ip_address: Option<String>,
    pub user_agent: Option<String>,
    pub kanidm_session_id: Option<Uuid>,
    /// Sealed.
    pub kanidm_refresh_token: Option<Vec<u8>>,
    pub idle_expires_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    /// How many a user may have; 0 for any number.
    pub session_limit: i32,
    /// The event of the sessions that end for that.
    pub limit_event: Prepared,
}

/// What a user is and may do, as the database returns it.
#[derive(Debug, sqlx::Type)]
#[sqlx(type_name = "user_rights")]
pub struct UserRights {
    pub(in crate::session) tenant_id: Option<Uuid>,
    pub(in crate::session) roles: Vec<String>,
    pub(in crate::session) permissions: Vec<String>,
    pub(in crate::session) platform_permissions: Vec<String>,
    pub(in crate::session) tokens_valid_from: Option<DateTime<Utc>>,
    pub(in crate::session) must_change_password: bool,
}

/// The first argument of `session_refresh`.
#[derive(sqlx::Type)]
#[sqlx(type_name = "refresh_exchange")]
pub(in crate::session) struct RefreshExchange {
    pub token_hash: Vec<u8>,
    pub request_hash: Vec<u8>,
    pub successor_id: Uuid,
    pub successor_hash: Vec<u8>,
    pub access_token_jti: Uuid,
    pub access_until: DateTime<Utc>,
    pub tenant_id: Option<Uuid>,
    pub audience: Option<String>,
    pub exchanged_at: DateTime<Utc>,
    pub repeat_within: PgInterval,
    pub leeway: PgInterval,
    pub idle: PgInterval,
    pub persistent_idle: PgInterval,
    pub lease_id: Uuid,
    pub lease_time: PgInterval,
    pub spacing: Option<PgInterval>,
    pub burst: Option<PgInterval>,
}

/// What became of an exchange.
#[derive(Clone, Copy, Debug, sqlx::Type)]
#[sqlx(type_name = "refresh_outcome", rename_all = "snake_case")]
pub(in crate::session) enum RefreshOutcome {
    Refreshed,
    Repeated,
    Raced,
    Reused,
    Invalid,
    NoTenant,
    OtherAudience,
    RequestIdReused,
    Throttled,
    KanidmBusy,
    KanidmRequired,
}
