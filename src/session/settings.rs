//! The sections of the configuration that sessions go by.

use crate::config::{Config, KanidmConfig, SessionConfig, ThrottleConfig, TokenConfig};

/// What is configured of sessions.
#[derive(Clone, Debug)]
pub struct Settings {
    pub(super) sessions: SessionConfig,
    pub(super) tokens: TokenConfig,
    pub(super) throttle: ThrottleConfig,
    pub(super) kanidm: KanidmConfig,
}

impl From<&Config> for Settings {
    fn from(config: &Config) -> Self {
        Self {
            sessions: config.sessions.clone(),
            tokens: config.tokens.clone(),
            throttle: config.throttle.clone(),
            kanidm: config.kanidm.clone(),
        }
    }
}
