//! `[sessions]`

use std::time::Duration;

use serde::Deserialize;

/// `[sessions]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// When a session ends however much it is used.
    #[serde(with = "humantime_serde")]
    pub absolute_lifetime: Duration,
    /// When a session ends that is not refreshed.
    #[serde(with = "humantime_serde")]
    pub idle_lifetime: Duration,
}
