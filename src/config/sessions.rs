//! `[sessions]`

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionConfig {
    /// When a session ends however much it is used.
    #[serde(with = "humantime_serde")]
    pub absolute_lifetime: Duration,
    /// When a session ends that is not refreshed.
    #[serde(with = "humantime_serde")]
    pub idle_lifetime: Duration,
    /// The same as `absolute_lifetime` for a session whose user asked to be remembered.
    #[serde(with = "humantime_serde")]
    pub remembered_absolute_lifetime: Duration,
    /// The same as `idle_lifetime` for a session whose user asked to be remembered.
    #[serde(with = "humantime_serde")]
    pub remembered_idle_lifetime: Duration,
    /// Living sessions that a user may have; 0 for any number.
    pub per_user: u32,
    /// How long sessions are shown after their end.
    #[serde(with = "humantime_serde")]
    pub keep_ended: Duration,
}

impl SessionConfig {
    /// What is out of bounds.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        if self.keep_ended < Duration::from_secs(24 * 3600) {
            found.add("sessions.keep_ended", "must be at least 1d");
        }
        found.or_fine()
    }
}
