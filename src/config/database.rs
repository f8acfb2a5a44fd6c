//! `[database]`

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::secret::Secret;
use super::value;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// URL with which the service connects, as the application role.
    pub url: Secret,
    /// URL past a transaction pooler, where one stands in front of `url`.
    #[serde(deserialize_with = "value::optional")]
    pub direct_url: Option<Secret>,
    /// URL of the owner role, for schema migrations only.
    #[serde(deserialize_with = "value::optional")]
    pub owner_url: Option<Secret>,
    /// Whether data may cross a network without TLS.
    pub allow_plaintext: bool,
    /// What stands between the service and `url`.
    pub pooler: Pooler,
    /// Whether statements are prepared once and kept.
    pub prepared_statements: bool,
    /// Longest time of a statement.
    #[serde(with = "humantime_serde")]
    pub statement_timeout: Duration,
    /// Longest wait for a lock.
    #[serde(with = "humantime_serde")]
    pub lock_timeout: Duration,
    /// Longest pause within a transaction.
    #[serde(with = "humantime_serde")]
    pub idle_in_transaction_timeout: Duration,
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

/// What stands between the service and Postgres.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooler {
    /// Nothing, or a pooler that gives each connection a session of its own.
    None,
    /// A pooler that gives each transaction any session, such as PgBouncer with `pool_mode = transaction`.
    Transaction,
}

impl Pooler {
    /// Whether a session is one's own for no longer than a transaction.
    pub fn is_transaction(self) -> bool {
        self == Self::Transaction
    }
}

impl DatabaseConfig {
    /// Refuses settings that contradict each other.
    ///
    /// # Errors
    /// Names the setting.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        let least = Duration::from_millis(1);
        for (key, value) in [
            ("statement_timeout", self.statement_timeout),
            ("lock_timeout", self.lock_timeout),
            ("idle_in_transaction_timeout", self.idle_in_transaction_timeout),
        ] {
            if value < least || value.as_millis() > i32::MAX.unsigned_abs().into() {
                found.add(format!("database.{key}"), "must be from 1ms to 24d");
            }
        }
        if !self.prepared_statements && !self.pooler.is_transaction() {
            found.add(
                "database.prepared_statements",
                "= false needs database.pooler = \"transaction\": without a pooler, statements are prepared within the \
                 session",
            );
        }
        found.or_fine()
    }
}
