//! Traces and metrics over OTLP (gRPC), named after OpenTelemetry's semantic conventions. Nothing here runs unless
//! `telemetry.otlp_endpoint` is set. Spans and metrics hold what the log holds: ids, names of RPCs, texts of queries without
//! their values; no secrets and no personal data.

use std::sync::OnceLock;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator as _};
use opentelemetry::trace::{Status, TracerProvider as _};
use opentelemetry::{InstrumentationScope, KeyValue, metrics::MeterProvider as _};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::{PeriodicReader, SdkMeterProvider};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracer, SdkTracerProvider};
use tonic::Code;
use tonic::metadata::{MetadataKey, MetadataMap};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use crate::config::{ConfigError, TelemetryConfig};
use crate::context::Context;

/// Bounds of the histograms of durations, in seconds: those of the semantic conventions.
const SECONDS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// Set once, when exporting begins.
static INSTRUMENTS: OnceLock<Instruments> = OnceLock::new();

/// What is measured besides the metrics that are scraped.
pub(crate) struct Instruments {
    /// `rpc.server.call.duration`
    pub(crate) rpc: Histogram<f64>,
    /// `db.client.operation.duration`
    pub(crate) database: Histogram<f64>,
    /// `http.client.request.duration`
    pub(crate) http: Histogram<f64>,
}

impl Instruments {
    fn of(meter: &Meter) -> Self {
        let seconds = |name: &'static str, text: &'static str| {
            meter.f64_histogram(name).with_unit("s").with_description(text).with_boundaries(SECONDS.to_vec()).build()
        };
        Self {
            rpc: seconds("rpc.server.call.duration", "Duration of calls and streams, to their last byte"),
            database: seconds("db.client.operation.duration", "Duration of statements"),
            http: seconds("http.client.request.duration", "Duration of requests to Kanidm"),
        }
    }
}

/// The instruments; none while nothing is exported.
pub(crate) fn instruments() -> Option<&'static Instruments> {
    INSTRUMENTS.get()
}

/// How the collector is reached.
struct Collector {
    channel: Channel,
    metadata: MetadataMap,
}

/// Whether the collector's settings can be used. Within a runtime; connects to nothing.
pub(super) fn check(config: &TelemetryConfig) -> Result<(), ConfigError> {
    Collector::new(config).map(drop)
}

impl Collector {
    fn new(config: &TelemetryConfig) -> Result<Self, ConfigError> {
        Ok(Self { channel: channel(config)?, metadata: metadata(config)? })
    }

    fn traces(&self, config: &TelemetryConfig, resource: Resource) -> Result<SdkTracerProvider, ConfigError> {
        let spans = SpanExporter::builder()
            .with_tonic()
            .with_channel(self.channel.clone())
            .with_metadata(self.metadata.clone())
            .with_timeout(config.otlp_timeout)
            .build()
            .map_err(unusable_endpoint)?;
        let traces = SdkTracerProvider::builder()
            .with_resource(resource)
            // Whoever called decides whether their trace is kept; of traces that begin here, the configured part is.
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.trace_ratio))))
            .with_batch_exporter(spans);
        Ok(traces.build())
    }

    fn metrics(&self, config: &TelemetryConfig, resource: Resource) -> Result<SdkMeterProvider, ConfigError> {
        let metrics = MetricExporter::builder()
            .with_tonic()
            .with_channel(self.channel.clone())
            .with_metadata(self.metadata.clone())
            .with_timeout(config.otlp_timeout)
            .build()
            .map_err(unusable_endpoint)?;
        let reader = PeriodicReader::builder(metrics).with_interval(config.metrics_interval).build();
        Ok(SdkMeterProvider::builder().with_resource(resource).with_reader(reader).build())
    }
}

fn unusable_endpoint(e: impl std::fmt::Display) -> ConfigError {
    ConfigError::new("telemetry.otlp_endpoint", format!("cannot be used: {e}"))
}

/// The exporters, until the service ends.
pub(super) struct Exporters {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

impl Exporters {
    /// Begins to export. Connecting is left to the first export: a collector that is down stops no service.
    ///
    /// # Errors
    /// Names the setting that cannot be used.
    pub(super) fn start(config: &TelemetryConfig) -> Result<Self, ConfigError> {
        let collector = Collector::new(config)?;
        let resource = Resource::builder()
            .with_service_name("sidle")
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
            .with_attribute(KeyValue::new("service.instance.id", Context::system().new_id().to_string()))
            .build();
        let traces = collector.traces(config, resource.clone())?;
        let metrics = collector.metrics(config, resource)?;
        // Only the first exporters of a process measure; there is one service in it but for tests.
        let _ = INSTRUMENTS.set(Instruments::of(&metrics.meter_with_scope(scope())));
        Ok(Self { traces, metrics })
    }

    pub(super) fn tracer(&self) -> SdkTracer {
        self.traces.tracer_with_scope(scope())
    }

    /// Sends what is left. Blocks for as long as one export may take.
    pub(super) fn finish(self, limit: Duration) {
        let ended = [self.traces.shutdown_with_timeout(limit), self.metrics.shutdown_with_timeout(limit)];
        for error in ended.into_iter().filter_map(Result::err) {
            tracing::warn!(event = "telemetry_not_exported", %error, "the last traces and metrics are lost");
        }
    }
}

fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("sidle").with_version(env!("CARGO_PKG_VERSION")).build()
}

fn channel(config: &TelemetryConfig) -> Result<Channel, ConfigError> {
    let unusable = |key: &str, text: String| ConfigError::new(format!("telemetry.{key}"), text);
    let endpoint = Endpoint::from_shared(config.otlp_endpoint.clone())
        .map_err(|e| unusable("otlp_endpoint", format!("must be an address such as https://collector:4317: {e}")))?;
    let endpoint = match (endpoint.uri().scheme_str(), &config.otlp_ca_file) {
        (Some("http"), None) => endpoint,
        (Some("http"), Some(_)) => {
            return Err(unusable("otlp_ca_file", "is of no use for an http:// otlp_endpoint".to_owned()));
        }
        (Some("https"), None) => endpoint
            .tls_config(ClientTlsConfig::new().with_native_roots())
            .map_err(|e| unusable("otlp_endpoint", format!("cannot be used with TLS: {e}")))?,
        (Some("https"), Some(path)) => {
            let pem = std::fs::read(path)
                .map_err(|e| unusable("otlp_ca_file", format!("{} cannot be read: {e}", path.display())))?;
            endpoint
                .tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
                .map_err(|e| unusable("otlp_ca_file", format!("{} cannot be used: {e}", path.display())))?
        }
        _ => return Err(unusable("otlp_endpoint", "must begin with https:// or http://".to_owned())),
    };
    Ok(endpoint.connect_lazy())
}

/// `telemetry.otlp_headers`, such as `authorization=Bearer abc,x-team=identity`.
fn metadata(config: &TelemetryConfig) -> Result<MetadataMap, ConfigError> {
    let mut metadata = MetadataMap::new();
    for pair in config.otlp_headers.expose().split(',').filter(|pair| !pair.trim().is_empty()) {
        // Not the pair itself: it may hold a secret.
        let unusable =
            || ConfigError::new("telemetry.otlp_headers", "must be name=value pairs with commas between them");
        let (name, value) = pair.split_once('=').ok_or_else(unusable)?;
        let name = MetadataKey::from_bytes(name.trim().to_ascii_lowercase().as_bytes()).map_err(|_| unusable())?;
        let mut value: tonic::metadata::MetadataValue<_> = value.trim().parse().map_err(|_| unusable())?;
        value.set_sensitive(true);
        metadata.insert(name, value);
    }
    Ok(metadata)
}

struct Incoming<'a>(&'a HeaderMap);

impl Extractor for Incoming<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

struct Outgoing<'a>(&'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

/// Makes `span` that of a call: part of the caller's trace, where the headers carry one (`traceparent`, `tracestate`). `method`
/// is the RPC's path, or `other`. It has the empty fields `otel.kind` and `otel.name`, which stay so while nothing is exported.
pub(crate) fn rpc_begun(span: &Span, method: &'static str, headers: &HeaderMap) {
    if instruments().is_none() {
        return;
    }
    // What is no trace context is none: the span begins a trace of its own then.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&Incoming(headers)));
    span.record("otel.kind", "server");
    span.record("otel.name", method.strip_prefix('/').unwrap_or("_OTHER"));
}

/// Adds the trace of `span` to the headers of a request.
pub(crate) fn pass_trace_on(span: &Span, headers: &mut HeaderMap) {
    if instruments().is_some() {
        TraceContextPropagator::new().inject_context(&span.context(), &mut Outgoing(headers));
    }
}

/// Codes of calls that the service is to blame for; all others are answers that a caller asked for.
fn is_failure(code: Code) -> bool {
    matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    )
}

/// Notes how a call of ours ended. `method` is its path, or `other`.
pub(crate) fn rpc_ended(span: &Span, method: &'static str, code: Code, took: Duration) {
    let Some(instruments) = instruments() else { return };
    let method = method.strip_prefix('/').unwrap_or("_OTHER");
    let code_name = code_name(code);
    let mut attributes = vec![
        KeyValue::new("rpc.system.name", "grpc"),
        KeyValue::new("rpc.method", method),
        KeyValue::new("rpc.response.status_code", code_name),
    ];
    if is_failure(code) {
        attributes.push(KeyValue::new("error.type", code_name));
        span.set_status(Status::error(""));
    }
    for attribute in &attributes {
        span.set_attribute(attribute.key.clone(), attribute.value.clone());
    }
    instruments.rpc.record(took.as_secs_f64(), &attributes);
}

/// Notes how a request to Kanidm ended: with a status, or with the kind of error that kept it from one.
pub(crate) fn http_ended(span: &Span, method: &str, host: &str, port: u16, ended: Result<u16, &str>, took: Duration) {
    let Some(instruments) = instruments() else { return };
    let mut attributes = vec![
        KeyValue::new("http.request.method", method.to_owned()),
        KeyValue::new("server.address", host.to_owned()),
        KeyValue::new("server.port", i64::from(port)),
    ];
    let error = match ended {
        Ok(status) => {
            attributes.push(KeyValue::new("http.response.status_code", i64::from(status)));
            (status >= 400).then(|| status.to_string())
        }
        Err(kind) => Some(kind.to_owned()),
    };
    if let Some(error) = error {
        attributes.push(KeyValue::new("error.type", error));
        span.set_status(Status::error(""));
    }
    for attribute in &attributes {
        span.set_attribute(attribute.key.clone(), attribute.value.clone());
    }
    instruments.http.record(took.as_secs_f64(), &attributes);
}

/// A code's name as gRPC writes it, such as `NOT_FOUND`.
pub(crate) fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
