//! `[mfa]`

use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MfaConfig {
    /// The name under which authenticator applications show the account.
    pub issuer: String,
    /// How long a login waits for its second factor.
    #[serde(with = "humantime_serde")]
    pub challenge_lifetime: Duration,
    /// How long an enrolment waits for its first code.
    #[serde(with = "humantime_serde")]
    pub enrolment_lifetime: Duration,
    /// Longest lock that guesses at second factors lead to.
    #[serde(with = "humantime_serde")]
    pub longest_lock: Duration,
    /// How long after a message about such guesses a user is notified again, once they have signed in meanwhile.
    #[serde(with = "humantime_serde")]
    pub tell_again_after: Duration,
}

impl MfaConfig {
    /// What cannot stand in an enrolment's QR code: a colon ends the issuer there.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        if self.issuer.is_empty() || self.issuer.contains(':') {
            found.add("mfa.issuer", "must not be empty and must not contain a colon");
        }
        found.or_fine()
    }
}
