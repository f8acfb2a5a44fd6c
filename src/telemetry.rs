//! What the service reports about itself while it runs: the log, with stable event names and the correlation id of the call in
//! each line; traces and metrics over OTLP where an endpoint for them is configured.

mod otlp;

use std::io::IsTerminal as _;
use std::time::Duration;

use tracing_subscriber::filter::{FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, fmt};

use self::otlp::Exporters;
pub(crate) use self::otlp::{code_name, http_ended, instruments, pass_trace_on, rpc_begun, rpc_ended};
use crate::config::{ConfigError, LogConfig, LogFormat, TelemetryConfig};

/// Target of the spans that are exported only, and not for the log: those of statements and requests.
const EXPORTED: &str = "sidle::otel";

/// Exporting, for as long as the service runs.
#[must_use = "what is exported last is lost without `finish`"]
pub struct Telemetry {
    exporters: Option<Exporters>,
    limit: Duration,
}

/// Starts the log on standard error, and exporting where it is configured. Within a runtime. The first call wins; later ones
/// change nothing.
///
/// # Errors
/// Names the setting that cannot be used.
pub fn start(log: &LogConfig, config: &TelemetryConfig) -> Result<Telemetry, ConfigError> {
    let exporters = (!config.otlp_endpoint.is_empty()).then(|| Exporters::start(config)).transpose()?;
    let mut layers = vec![log_layer(log)?];
    if let Some(exporters) = &exporters {
        // Spans only: their events are the log's lines. Of other crates' spans there would be far too many.
        let spans = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("sidle"));
        let traces = tracing_opentelemetry::layer().with_tracer(exporters.tracer());
        let traces = traces.with_location(false).with_threads(false).with_filter(spans);
        layers.push(traces.boxed());
    }
    if tracing_subscriber::registry().with(layers).try_init().is_err() {
        tracing::debug!(event = "log_already_started", "the log was started before");
    }
    Ok(Telemetry { exporters, limit: config.otlp_timeout })
}

/// Whether exporting could be started.
///
/// # Errors
/// Names the setting that cannot be used.
pub fn check(config: &TelemetryConfig) -> Result<(), ConfigError> {
    if config.otlp_endpoint.is_empty() { Ok(()) } else { otlp::check(config) }
}

impl Telemetry {
    /// Sends what was not exported yet.
    pub async fn finish(self) {
        let Some(exporters) = self.exporters else { return };
        let limit = self.limit;
        // It blocks, and its exports need the runtime meanwhile.
        let _ = tokio::task::spawn_blocking(move || exporters.finish(limit)).await;
    }
}

fn log_layer(config: &LogConfig) -> Result<Box<dyn Layer<Registry> + Send + Sync>, ConfigError> {
    let filter = config.filter()?;
    // Colours are for a terminal; in a file they would only hinder searching.
    let colours_wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let layer = fmt::layer().with_ansi(colours_wanted && std::io::stderr().is_terminal()).with_writer(std::io::stderr);
    let filter = filter.and(filter_fn(|metadata| metadata.target() != EXPORTED));
    Ok(match config.format {
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(true).with_span_list(false).with_filter(filter).boxed()
        }
        LogFormat::Text => layer.with_target(false).with_filter(filter).boxed(),
    })
}
