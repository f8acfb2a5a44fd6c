//! Configuration: a file, then the environment over it. Unknown keys are refused, every key stands with its default
//! and a comment in `defaults.toml`.

mod api_keys;
mod database;
mod enrolment;
mod error;
pub(crate) mod files;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod kanidm;
mod load;
mod log;
mod mail;
mod mfa;
mod migration;
mod passwords;
mod seal;
mod secret;
mod server;
mod sessions;
mod step_up;
mod telemetry;
mod throttle;
mod tokens;
mod value;

use serde::Deserialize;

pub use self::api_keys::ApiKeyConfig;
pub use self::database::{DatabaseConfig, Pooler};
pub use self::enrolment::EnrolmentConfig;
pub use self::error::{ConfigError, Problem};
pub use self::files::FilesConfig;
pub use self::kanidm::KanidmConfig;
pub use self::load::DEFAULTS;
pub use self::log::{LogConfig, LogFormat};
pub use self::mail::{MailConfig, MailTls};
pub use self::mfa::MfaConfig;
pub use self::migration::MigrationConfig;
pub use self::passwords::PasswordConfig;
pub use self::seal::SealConfig;
pub use self::secret::Secret;
pub use self::server::{Network, ServerConfig};
pub use self::sessions::SessionConfig;
pub use self::step_up::StepUpConfig;
pub use self::telemetry::TelemetryConfig;
pub use self::throttle::{RateLimit, ThrottleConfig};
pub use self::tokens::TokenConfig;

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
    /// Second factors.
    pub mfa: MfaConfig,
    /// Keys and client secrets of service accounts.
    pub api_keys: ApiKeyConfig,
    /// Proofs for sensitive calls.
    pub step_up: StepUpConfig,
    /// How much a client address may ask for.
    pub throttle: ThrottleConfig,
    /// The Kanidm to move to.
    pub kanidm: KanidmConfig,
    /// How users get their first credential in Kanidm.
    pub enrolment: EnrolmentConfig,
    /// The mail server and the messages.
    pub mail: MailConfig,
    /// The migration engine.
    pub migration: MigrationConfig,
    /// Files that settings name.
    pub files: FilesConfig,
    pub log: LogConfig,
    /// Traces and metrics that are exported.
    pub telemetry: TelemetryConfig,
}
