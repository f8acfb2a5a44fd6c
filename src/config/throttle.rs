//! `[throttle]`

use serde::Deserialize;

/// `[throttle]`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ThrottleConfig {
    /// Attempts at one way in that a client address is good for in a minute; 0 for any number.
    pub per_minute: u32,
    /// Attempts that it may make at once after a rest.
    pub burst: u32,
    /// The same for calls that send mail to somebody.
    pub mail_per_minute: u32,
    /// Calls that send mail which it may make at once after a rest.
    pub mail_burst: u32,
}
