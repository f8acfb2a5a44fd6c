//! Configuration: a file, then the environment over it. Unknown keys are refused, every key stands with its default
//! and a comment in `defaults.toml`.

mod load;
mod secret;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

pub use self::load::{ConfigError, DEFAULTS};
pub use self::secret::Secret;

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the service listens and how.
    pub server: ServerConfig,
    /// Where the state is.
    pub database: DatabaseConfig,
    /// The keys that seal secrets in the database.
    pub seal: SealConfig,
    /// Access and refresh tokens.
    pub tokens: TokenConfig,
    /// How long sessions live.
    pub sessions: SessionConfig,
    /// Hashing and guessing.
    pub passwords: PasswordConfig,
    /// The Kanidm to move to.
    pub kanidm: KanidmConfig,
    /// The migration engine.
    pub migration: MigrationConfig,
    /// The log.
    pub log: LogConfig,
}

/// `[server]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// Address of the gRPC port.
    pub grpc_address: SocketAddr,
    /// Address of the HTTP port for metrics, health and keys.
    pub ops_address: SocketAddr,
    /// Whether to serve without TLS.
    pub plaintext: bool,
    /// PEM file with the certificate chain.
    #[serde(deserialize_with = "load::optional")]
    pub tls_certificate: Option<PathBuf>,
    /// PEM file with the private key.
    #[serde(deserialize_with = "load::optional")]
    pub tls_key: Option<PathBuf>,
    /// PEM file with the authorities whose client certificates are asked for and checked.
    #[serde(deserialize_with = "load::optional")]
    pub tls_client_ca: Option<PathBuf>,
    /// Largest message that is read, in bytes.
    pub max_message_bytes: usize,
    /// Streams that one connection may have open at once.
    pub max_streams_per_connection: u32,
    /// Calls that may be in work at once; more are shed.
    pub max_concurrent_calls: usize,
    /// Longest time a call that is not a stream may take.
    #[serde(with = "humantime_serde")]
    pub call_timeout: Duration,
    /// How long calls in hand are waited for on shutdown.
    #[serde(with = "humantime_serde")]
    pub shutdown_grace: Duration,
    /// Whether reflection answers callers that have not signed in.
    pub open_reflection: bool,
    /// Proxies whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<std::net::IpAddr>,
}

/// `[database]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// URL with which the service connects, as the application role.
    pub url: Secret,
    /// URL past a transaction pooler, where one stands in front of `url`.
    #[serde(deserialize_with = "load::optional")]
    pub direct_url: Option<Secret>,
    /// URL of the owner role, for schema migrations only.
    #[serde(deserialize_with = "load::optional")]
    pub owner_url: Option<Secret>,
    /// Whether `serve` applies pending schema migrations first.
    pub migrate_on_start: bool,
    /// Connections in the pool.
    pub pool_size: u32,
    /// How long to wait for a connection.
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
    /// When an idle connection is closed.
    #[serde(with = "humantime_serde")]
    pub idle_timeout: Duration,
    /// When a connection is replaced, used or not.
    #[serde(with = "humantime_serde")]
    pub recycle_after: Duration,
}

/// `[seal]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealConfig {
    /// Keys as `ID:BASE64`, separated by commas, the current one first.
    pub keys: Secret,
    /// File with one such key a line; used when `keys` is empty.
    #[serde(deserialize_with = "load::optional")]
    pub key_file: Option<PathBuf>,
}

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

/// `[passwords]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordConfig {
    /// bcrypt cost of new hashes.
    pub cost: u32,
    /// Hashing threads; 0 for one a core.
    pub threads: usize,
    /// Hashes that may wait for a thread.
    pub queue: usize,
    /// Longest time a hash may have to wait by estimate before the call is shed.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Failures after which an account is locked.
    pub max_attempts: u32,
    /// How long it stays locked.
    #[serde(with = "humantime_serde")]
    pub lock_duration: Duration,
    /// Refusals are answered at multiples of this.
    #[serde(with = "humantime_serde")]
    pub refusal_grid: Duration,
}

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

/// `[migration]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationConfig {
    /// Persons created in one call to Kanidm.
    pub batch_size: usize,
    /// How long a replica keeps a job without a sign of life.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// How often a replica without a job looks for one.
    #[serde(with = "humantime_serde")]
    pub poll: Duration,
}

/// `[log]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogConfig {
    /// Which events are written, in the syntax of `RUST_LOG`.
    pub level: String,
    /// `json` or `text`.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}
