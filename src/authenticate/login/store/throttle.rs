//! SQL of what client addresses ask for, and of removing what has lapsed.

use std::time::Duration;

use crate::db::Db;
use chrono::{DateTime, Utc};

use crate::config::RateLimit;
use crate::credential::charge::RateLimitBucket;
use crate::fault::Result;

/// Takes one call out of what an address may ask for; gives how long to wait when there is none left.
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

/// Removes what has lapsed.
pub(in crate::authenticate) async fn purge_expired(db: &Db, now: DateTime<Utc>) -> Result<()> {
    sqlx::query!("SELECT purge_login_attempts($1)", now).fetch_one(db).await?;
    Ok(())
}

/// Seconds as the database tells them.
pub(super) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
