//! `[mfa]`

use std::time::Duration;

use serde::Deserialize;

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
