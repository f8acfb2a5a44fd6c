//! `[kanidm]`

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::secret::Secret;
use super::value;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KanidmConfig {
    /// Base URL; empty for no Kanidm.
    pub url: String,
    /// PEM file with the authority of its certificate, where the system does not know it.
    #[serde(deserialize_with = "value::optional")]
    pub ca_file: Option<PathBuf>,
    /// API token of the service account.
    pub token: Secret,
    /// File with the token; used when `token` is empty.
    #[serde(deserialize_with = "value::optional")]
    pub token_file: Option<PathBuf>,
    /// Name of the OAuth2 client.
    pub client_id: String,
    /// Secret of the OAuth2 client.
    pub client_secret: Secret,
    /// File with the secret; used when `client_secret` is empty.
    #[serde(deserialize_with = "value::optional")]
    pub client_secret_file: Option<PathBuf>,
    /// Addresses that a login may return to, compared exactly.
    pub redirect_uris: Vec<String>,
    /// Longest time a call to Kanidm may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a started login may take.
    #[serde(with = "humantime_serde")]
    pub login_lifetime: Duration,
    /// Difference between Kanidm's clock and ours that is tolerated, either way.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// How often discovery and keys are read again.
    #[serde(with = "humantime_serde")]
    pub metadata_refresh: Duration,
    /// How often Kanidm is asked in the background whether a session is still valid there; never for 0.
    #[serde(with = "humantime_serde")]
    pub recheck_interval: Duration,
    /// Sessions that one replica asks about concurrently.
    pub recheck_at_once: usize,
    /// Failures in a row after which Kanidm is not asked for a while; 0 for never.
    pub breaker_failures: u32,
    /// How long it is not asked then, before one call is tried.
    #[serde(with = "humantime_serde")]
    pub breaker_pause: Duration,
    /// Audiences, besides the client's own name, for which `VerifyToken` accepts Kanidm's own access tokens.
    pub token_audiences: Vec<String>,
}
