//! `[migration]`

use std::time::Duration;

use serde::Deserialize;

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
