//! Protects a service with Sidle: verifies the bearer token of a request and provides its [`Caller`].
//!
//! ```no_run
//! use sidle_client::{Protect, Settings, Verifier};
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let verifier = Verifier::start(Settings {
//!     replicas: vec!["https://sidle.example.com:50051".parse()?],
//!     issuer: "https://sidle.example.com".into(),
//!     audience: "orders".into(),
//!     api_key: std::fs::read_to_string("/run/secrets/sidle")?.trim().to_owned().into(),
//!     ..Settings::default()
//! })?;
//! verifier.ready().await;
//! let layer = Protect::new(verifier); // for tonic's `Server::builder().layer(..)` and axum's `Router::layer(..)`
//! # Ok(()) }
//! ```
//!
//! **How tokens are checked.** [`Mode::Local`] checks signatures with Sidle's published keys, and revocations with a
//! snapshot that Sidle pushes (`WatchRevocations`); a request costs no call. The snapshot has a known age: when it is older
//! than the bound that Sidle publishes, for example because the network is cut, tokens are refused as *unavailable*, or,
//! if you choose [`Stale::AcceptFor`], accepted for that much longer. [`Mode::Remote`] asks Sidle about every token.
//!
//! **What it needs.** A service account of the platform with the permission `tokens.verify`, and one of its API keys.

mod caller;
mod clock;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod keys;
mod layer;
mod link;
mod revocations;
mod verifier;
mod wire;

use std::time::Duration;

use tonic::transport::Endpoint;
use zeroize::Zeroizing;

pub use self::caller::{Caller, Denied};
pub use self::clock::Clock;
pub use self::layer::{Protect, Protected, Require, Required};
pub use self::verifier::{Refused, Verifier};
pub use sidle_token::{Kind, Permissions};

/// The messages and clients of the part of Sidle's contract that is used here.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    reason = "documented in the proto files; generated"
)]
pub mod proto {
    tonic::include_proto!("sidle.v1");
}

/// How tokens are verified.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Locally, with Sidle's keys and its revocation snapshot.
    #[default]
    Local,
    /// By Sidle, for every token.
    Remote,
}

/// What happens to valid tokens when the revocation snapshot is too old, because Sidle cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stale {
    /// They are refused as unavailable.
    #[default]
    Refuse,
    /// They are accepted for this long after the bound, and refused then. A revoked token may pass meanwhile. Before the
    /// first snapshot has arrived, and with [`Mode::Remote`], this does not help.
    AcceptFor(Duration),
}

/// Settings of a [`Verifier`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses of Sidle, with TLS as you set it up. When one fails the next is asked.
    pub replicas: Vec<Endpoint>,
    /// `tokens.issuer` of Sidle.
    pub issuer: String,
    /// The audience of this service: tokens for any other are refused.
    pub audience: String,
    /// API key of the service account that this service calls Sidle as.
    pub api_key: Secret,
    /// How tokens are verified.
    pub mode: Mode,
    /// What happens when the revocation snapshot is too old.
    pub stale: Stale,
    /// A bound on the age of the revocation snapshot that is stricter than the one Sidle publishes.
    pub bound: Option<Duration>,
    /// Difference between clocks that is tolerated in `exp` and `nbf`.
    pub leeway: Duration,
    /// Verified tokens that are cached; about 1 kB each.
    pub cache_size: usize,
    /// Source of the time. Only tests set it, to move it.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: Vec::new(),
            issuer: String::new(),
            audience: String::new(),
            api_key: Secret::default(),
            mode: Mode::default(),
            stale: Stale::default(),
            bound: None,
            leeway: Duration::from_secs(5),
            cache_size: 20_000,
            clock: Clock::default(),
        }
    }
}

/// A text that is never printed.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(Zeroizing::new(text))
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Why a [`Verifier`] cannot be created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(&'static str);

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for SettingsError {}

impl Settings {
    fn check(&self) -> Result<(), SettingsError> {
        match self {
            Self { replicas, .. } if replicas.is_empty() => Err(SettingsError("there must be at least one replica")),
            Self { issuer, audience, .. } if issuer.is_empty() || audience.is_empty() => {
                Err(SettingsError("issuer and audience must be set"))
            }
            Self { api_key, .. } if api_key.0.is_empty() => Err(SettingsError("the API key must be set")),
            _ => Ok(()),
        }
    }
}
