//! The metrics with labels or units, by what they are about, and how each is registered.

use std::sync::atomic::AtomicU64;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Metric, Registry, Unit};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OutcomeLabels {
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct CallLabels {
    pub method: &'static str,
    pub code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct MethodLabels {
    pub method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct LoginLabels {
    pub method: &'static str,
    pub outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ReasonLabels {
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct WhyLabels {
    pub why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StatusLabels {
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct StateLabels {
    pub state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct ClassLabels {
    pub class: &'static str,
}

/// Calls, and the connections that they come over.
pub(super) struct CallMetrics {
    pub ended: Family<CallLabels, Counter>,
    pub active: Family<MethodLabels, Gauge>,
    pub seconds: Family<MethodLabels, Histogram>,
    pub denied: Family<ReasonLabels, Counter>,
    pub connections_refused: Family<WhyLabels, Counter>,
    pub not_grpc: Family<StatusLabels, Counter>,
}

impl CallMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let ended = metric(registry, "calls", "Calls that ended, by RPC and status code");
        let active = metric(registry, "calls_active", "Calls and streams that go on, by RPC");
        let seconds: Family<MethodLabels, Histogram> =
            Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 15)));
        let help = "Time until a call or stream ended";
        registry.register_with_unit("call_duration", help, Unit::Seconds, seconds.clone());
        let denied = metric(registry, "calls_denied", "Calls turned away at the edge, by reason");
        let help = "Connections that were not taken or were closed for what they did, by cause";
        let connections_refused = metric(registry, "connections_refused", help);
        let not_grpc = metric(registry, "requests_not_grpc", "Requests that were no gRPC, by HTTP status");
        Self { ended, active, seconds, denied, connections_refused, not_grpc }
    }
}

/// Logins, and what they carry over to Kanidm.
pub(super) struct LoginMetrics {
    pub attempts: Family<LoginLabels, Counter>,
    pub carried_over: Family<OutcomeLabels, Counter>,
}

impl LoginMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let help = "Login attempts, by authentication method and outcome";
        let attempts = metric(registry, "user_login_attempts", help);
        let help = "Passwords that were to be carried over to Kanidm, by outcome";
        let carried_over = metric(registry, "passwords_carried_over", help);
        Self { attempts, carried_over }
    }
}

/// The connection pool, and the age of the revocation snapshot that is read through it.
pub(super) struct DatabaseMetrics {
    pub connections: Family<StateLabels, Gauge>,
    pub revocation_age: Gauge<f64, AtomicU64>,
}

impl DatabaseMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let connections = metric(registry, "database_connections", "Connections of the pool, by state");
        let revocation_age = age(registry, "revocation_age", "Age of the snapshot of revocations");
        Self { connections, revocation_age }
    }
}

/// The outbox.
pub(super) struct MailMetrics {
    pub oldest: Gauge<f64, AtomicU64>,
    pub failures: Family<ClassLabels, Counter>,
}

impl MailMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let oldest = age(registry, "mail_oldest_age", "Age of the oldest message that waits in the outbox");
        let failures = metric(registry, "mail_failures", "Messages that could not be sent, by class");
        Self { oldest, failures }
    }
}

/// The circuit breaker before Kanidm, and the sessions that depend on it.
pub(super) struct KanidmMetrics {
    pub circuit: Family<StateLabels, Gauge>,
    pub oldest_check: Gauge<f64, AtomicU64>,
}

impl KanidmMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let circuit = metric(registry, "kanidm_circuit", "1 for the state of the circuit breaker before Kanidm");
        let help = "How long ago Kanidm last confirmed the session that it was not asked about for longest";
        let oldest_check = age(registry, "kanidm_oldest_check_age", help);
        Self { circuit, oldest_check }
    }
}

/// A metric that begins at its default.
pub(super) fn metric<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

/// A gauge of seconds.
fn age(registry: &mut Registry, name: &str, help: &str) -> Gauge<f64, AtomicU64> {
    let gauge = Gauge::default();
    registry.register_with_unit(name, help, Unit::Seconds, gauge.clone());
    gauge
}
