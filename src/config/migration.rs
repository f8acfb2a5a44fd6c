//! `[migration]`

use std::time::Duration;

use serde::Deserialize;

/// `[migration]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationConfig {
    /// Persons created in one call to Kanidm.
    pub batch_size: usize,
    /// How long a replica keeps a job without a sign of life.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How often a replica without a job looks for one.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}
