//! `[kanidm]`

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::Secret;
use super::load;

/// `[kanidm]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KanidmConfig {
    /// Base URL; empty for no Kanidm.
    pub url: String,
    /// PEM file with the authority of its certificate, where the system does not know it.
    #[serde(deserialize_with = "load::optional")]
    pub ca_file: Option<PathBuf>,
    /// API token of the service account.
    pub token: Secret,
    /// File with the token; used when `token` is empty.
    #[serde(deserialize_with = "load::optional")]
    pub token_file: Option<PathBuf>,
    /// Name of the OAuth2 client.
    pub client_id: String,
    /// Secret of the OAuth2 client.
    pub client_secret: Secret,
    /// File with the secret; used when `client_secret` is empty.
    #[serde(deserialize_with = "load::optional")]
    pub client_secret_file: Option<PathBuf>,
    /// Addresses that a login may return to, compared exactly.
    pub redirect_uris: Vec<String>,
    /// Longest time a call to Kanidm may take.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a started login may take.
    #[serde(with = "humantime_serde")]
    pub login_lifetime: Duration,
}
