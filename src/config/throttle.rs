//! `[throttle]`

use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThrottleConfig {
    /// Attempts at one authentication method that a client address may make in a minute; 0 for any number.
    pub per_minute: u32,
    /// Attempts that it may make immediately after a rest.
    pub burst: u32,
    /// The same for calls that send mail.
    pub mail_per_minute: u32,
    /// Calls that send mail which it may make immediately after a rest.
    pub mail_burst: u32,
    /// Refresh tokens that a client address may exchange in a minute at one replica; 0 for any number.
    pub refresh_per_minute: u32,
    /// Refresh tokens that it may exchange immediately after a rest.
    pub refresh_burst: u32,
    /// Exchanges of one session's refresh tokens in a minute; 0 for any number.
    pub session_refresh_per_minute: u32,
    /// Exchanges of them that may be made immediately after a rest.
    pub session_refresh_burst: u32,
}

/// A rate limit: a call each `spacing`, and as many immediately as fit into `burst`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Time from one call to the next.
    pub spacing: Duration,
    /// How far ahead of that one may be.
    pub burst: Duration,
}

impl RateLimit {
    /// So many a minute, with a burst after a rest; none for 0 a minute, which is no limit.
    pub fn per_minute(count: u32, burst: u32) -> Option<Self> {
        let spacing = Duration::from_secs(60).checked_div(count)?;
        Some(Self { spacing, burst: spacing.saturating_mul(burst.max(1)) })
    }
}

impl ThrottleConfig {
    /// How often one session may be refreshed.
    pub fn session_refresh(&self) -> Option<RateLimit> {
        RateLimit::per_minute(self.session_refresh_per_minute, self.session_refresh_burst)
    }
}
