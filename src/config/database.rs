//! `[database]`

use std::time::Duration;

use serde::Deserialize;

use super::Secret;
use super::load;

/// `[database]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// URL with which the service connects, as the application role.
    pub url: Secret,
    /// URL past a transaction pooler, where one stands in front of `url`.
    #[serde(deserialize_with = "load::optional")]
    pub direct_url: Option<Secret>,
    /// URL of the owner role, for schema migrations only.
    #[serde(deserialize_with = "load::optional")]
    pub owner_url: Option<Secret>,
    /// Whether `serve` applies pending schema migrations first.
    pub migrate_on_start: bool,
    /// Connections in the pool.
    pub pool_size: u32,
    /// How long to wait for a connection.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// When an idle connection is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// When a connection is replaced, used or not.
    #[serde(with = "humantime_serde")]
    pub recycle_after: Duration,
}
