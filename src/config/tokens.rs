//! `[tokens]`

use std::time::Duration;

use serde::Deserialize;

/// `[tokens]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// `iss` of every token.
    pub issuer: String,
    /// Audience of tokens when the caller asks for none; Sidle's own RPCs accept only this one.
    pub audience: String,
    /// Further audiences that may be asked for at login.
    pub audiences: Vec<String>,
    /// Life of an access token.
    #[serde(with = "humantime_serde")]
    pub access_lifetime: Duration,
    /// Life of a refresh token.
    #[serde(with = "humantime_serde")]
    pub refresh_lifetime: Duration,
    /// Difference between clocks that is tolerated.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// Verified tokens that are remembered.
    pub cache_size: usize,
    /// Age of the revocation picture beyond which nothing is vouched for.
    #[serde(with = "humantime_serde")]
    pub max_revocation_age: Duration,
}
