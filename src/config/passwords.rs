//! `[passwords]`

use std::time::Duration;

use serde::Deserialize;

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
