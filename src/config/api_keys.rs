//! `[api_keys]`

use std::time::Duration;

use chrono::TimeDelta;
use serde::Deserialize;

use super::error::ConfigError;

/// Longer than this no key is meant to work.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApiKeyConfig {
    /// How long a key or client secret works at most, and where nothing shorter is asked for.
    #[serde(with = "humantime_serde")]
    pub max_lifetime: Duration,
}

impl ApiKeyConfig {
    /// How long a key works at most.
    pub fn longest(&self) -> TimeDelta {
        TimeDelta::from_std(self.max_lifetime).unwrap_or_default()
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        if !(Duration::from_secs(60)..=LONGEST).contains(&self.max_lifetime) {
            found.add("api_keys.max_lifetime", "must be from 1m to 10y");
        }
        found.or_fine()
    }
}
