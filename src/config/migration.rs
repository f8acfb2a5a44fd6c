//! `[migration]`

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::kanidm::KanidmConfig;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationConfig {
    /// Persons created in one call to Kanidm.
    pub batch_size: usize,
    /// How long a replica keeps a job without a heartbeat.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Longest time that a call of the engine to Kanidm may take, however slow Kanidm is.
    #[serde(with = "humantime_serde")]
    pub longest_call: Duration,
    /// Tries in a row whose answers cannot be understood, after which a migration stops.
    pub unclear_tries: i32,
    /// Shortest time for which they go on before that.
    #[serde(with = "humantime_serde")]
    pub unclear_time: Duration,
    /// How often a replica without a job looks for one.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}

impl MigrationConfig {
    /// What is out of bounds, or does not go with the section on Kanidm.
    pub(super) fn check(&self, kanidm: &KanidmConfig) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        if !(1..=1000).contains(&self.batch_size) {
            found.add("migration.batch_size", "must be from 1 to 1000");
        }
        if self.unclear_tries < 1 {
            found.add("migration.unclear_tries", "must be at least 1");
        }
        if self.longest_call < kanidm.timeout {
            found.add("migration.longest_call", "must be at least kanidm.timeout");
        }
        found.or_fine()
    }
}
