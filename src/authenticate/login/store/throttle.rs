//! SQL of rate limits of client addresses, and of purging what has lapsed.

use std::time::Duration;

use crate::db::{Db, Scope};
use chrono::{DateTime, Utc};

use crate::config::RateLimit;
use crate::credential::charge::RateLimitBucket;
use crate::fault::Result;

/// Takes one call out of the rate limit of an address; returns how long to wait when there is none left.
pub(in crate::authenticate) async fn take(
    db: &Db,
    lane: RateLimitBucket,
    network: &str,
    now: DateTime<Utc>,
    limit: RateLimit,
) -> Result<Option<Duration>> {
    let wait = sqlx::query_scalar!(
        "SELECT extract(epoch FROM rate_limit_acquire($1, $2, $3, make_interval(secs => $4), make_interval(secs => $5)))
             ::double precision",
        lane.as_str(),
        network,
        now,
        limit.spacing.as_secs_f64(),
        limit.burst.as_secs_f64(),
    )
    .fetch_one(db)
    .await?;
    Ok(wait.map(seconds))
}

/// Purges what has lapsed of counts of addresses and of known devices, at most 10,000 of each.
pub(in crate::authenticate) async fn purge_expired(db: &Db, now: DateTime<Utc>) -> Result<()> {
    let mut tx = db.begin(Scope::Platform).await?;
    sqlx::query!(
        "DELETE FROM address_attempts a WHERE (a.network, a.lane) IN (
             SELECT x.network, x.lane FROM address_attempts x WHERE x.free_at <= $1 LIMIT 10000 FOR UPDATE SKIP LOCKED)",
        now,
    )
    .execute(&mut *tx)
    .await?;
    sqlx::query!(
        "DELETE FROM known_devices d WHERE d.known_device_id IN (
             SELECT x.known_device_id FROM known_devices x WHERE x.expires_at <= $1 LIMIT 10000)",
        now,
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Seconds as the database returns them.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
