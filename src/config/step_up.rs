//! `[step_up]`

use std::time::Duration;

use serde::Deserialize;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepUpConfig {
    /// How long a proof waits for the call that it is for.
    #[serde(with = "humantime_serde")]
    pub lifetime: Duration,
}
