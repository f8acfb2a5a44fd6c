//! `[telemetry]`

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::error::ConfigError;
use super::secret::Secret;
use super::value;

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// Address of an OTLP receiver that speaks gRPC; empty for none.
    pub otlp_endpoint: String,
    /// PEM file with the authority of its certificate, where the system does not know it.
    #[serde(deserialize_with = "value::optional")]
    pub otlp_ca_file: Option<PathBuf>,
    /// Headers of each export, `name=value` with commas between them.
    pub otlp_headers: Secret,
    /// Longest time that an export may take.
    #[serde(with = "humantime_serde")]
    pub otlp_timeout: Duration,
    /// Part of the traces that are kept, from 0 to 1, of those that begin here.
    pub trace_ratio: f64,
    /// How often metrics are exported.
    #[serde(with = "humantime_serde")]
    pub metrics_interval: Duration,
}

impl TelemetryConfig {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            found.add("telemetry.trace_ratio", "must be from 0.0 to 1.0");
        }
        if self.metrics_interval < Duration::from_secs(1) {
            found.add("telemetry.metrics_interval", "must be at least 1s");
        }
        found.or_fine()
    }
}
