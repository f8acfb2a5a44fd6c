//! `[passwords]`

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::secret::Secret;
use super::value;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PasswordConfig {
    /// bcrypt cost of new hashes.
    pub cost: u32,
    /// Hashing threads; 0 for one a core.
    pub threads: usize,
    /// Hashes that may wait for a thread.
    pub queue: usize,
    /// How many of them one client address, or one caller who has signed in, may have.
    pub queue_share: usize,
    /// Longest time a hash may have to wait by estimate before the call is shed.
    #[serde(with = "humantime_serde")]
    pub max_wait: Duration,
    /// Fewest characters of a new password.
    pub min_length: usize,
    /// Least strength of a new password as zxcvbn judges it, 0 to 4.
    pub min_strength: u8,
    /// File with breached passwords.
    #[serde(deserialize_with = "value::optional")]
    pub breached_file: Option<PathBuf>,
    /// Peppers as `ID:BASE64`, separated by commas, the current one first.
    pub peppers: Secret,
    /// Whether new hashes get a pepper.
    pub pepper_new_hashes: bool,
    /// File with one pepper a line; used when `peppers` is empty.
    #[serde(deserialize_with = "value::optional")]
    pub pepper_file: Option<PathBuf>,
    /// Failures after which an account is locked.
    pub max_attempts: u32,
    /// How long it stays locked.
    #[serde(with = "humantime_serde")]
    pub lock_duration: Duration,
    /// How long a device stays known after the last login from it.
    #[serde(with = "humantime_serde")]
    pub known_device_lifetime: Duration,
    /// Known devices of one user.
    pub known_devices: u32,
    /// Refusals are answered at multiples of this.
    #[serde(with = "humantime_serde")]
    pub failure_latency_quantum: Duration,
}

impl PasswordConfig {
    /// What is out of bounds.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        if !(4..=14).contains(&self.cost) {
            found.add("passwords.cost", "must be from 4 to 14");
        }
        if self.queue_share == 0 {
            found.add("passwords.queue_share", "must be at least 1");
        }
        if self.max_attempts == 0 {
            found.add("passwords.max_attempts", "must be at least 1");
        }
        if self.min_strength > 4 {
            found.add("passwords.min_strength", "must be from 0 to 4");
        }
        if self.min_length > 72 {
            found.add("passwords.min_length", "must be at most 72");
        }
        if self.known_devices == 0 {
            found.add("passwords.known_devices", "must be at least 1");
        }
        found.or_fine()
    }
}
