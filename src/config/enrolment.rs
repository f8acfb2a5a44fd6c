//! `[enrolment]`

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolmentConfig {
    /// Whether a login invites users who have no credential in Kanidm yet.
    pub hints: bool,
    /// Whether a login carries the password of such users over.
    pub carry_over: bool,
    /// Slugs of the tenants whose users this is for; none for every tenant.
    pub tenants: Vec<String>,
    /// How long an invitation can be redeemed.
    #[serde(with = "humantime_serde")]
    pub invitation_lifetime: Duration,
    /// How often at most an invitation is mailed after a login from an unknown device.
    #[serde(with = "humantime_serde")]
    pub mail_every: Duration,
    /// Longest time for which a password is held to be carried over.
    #[serde(with = "humantime_serde")]
    pub carry_over_timeout: Duration,
    /// Passwords that one replica carries over concurrently.
    pub carry_over_at_once: usize,
    /// When a password that Kanidm refused is offered again.
    #[serde(with = "humantime_serde")]
    pub carry_over_again_after: Duration,
}

impl EnrolmentConfig {
    /// What is out of bounds.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        if !(1..=30).contains(&self.carry_over_timeout.as_secs()) {
            found.add("enrolment.carry_over_timeout", "must be from 1s to 30s");
        }
        if self.carry_over_at_once == 0 {
            found.add("enrolment.carry_over_at_once", "must be at least 1");
        }
        found.or_fine()
    }
}
