//! What operators watch. Labels come from short fixed lists: nothing that a caller chooses becomes a time series.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};
use tonic::Code;

use crate::db::PoolFigures;
use crate::fault::{Reason, answer};
use crate::telemetry::code_name;

/// How a login ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginOutcome {
    /// Signed in.
    Success,
    /// Refused.
    Refused,
    /// Shed: too much waits already.
    Shed,
    /// Refused by the rate limit of its address.
    Throttled,
    /// The password was right, and a second factor is asked for.
    SecondFactor,
    /// Something did not answer.
    Failed,
}

impl LoginOutcome {
    fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Shed => "shed",
            Self::Throttled => "throttled",
            Self::SecondFactor => "second_factor",
            Self::Failed => "failed",
        }
    }
}

/// Authentication method.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginMethod {
    /// Legacy password.
    Password,
    /// Kanidm.
    Kanidm,
    /// Second factor after the legacy password.
    SecondFactor,
    /// API key.
    ApiKey,
}

impl LoginMethod {
    fn as_str(self) -> &'static str {
        match self {
            Self::Password => "password",
            Self::Kanidm => "kanidm",
            Self::SecondFactor => "second_factor",
            Self::ApiKey => "api_key",
        }
    }
}

/// How carrying a password over to Kanidm ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CarriedOver {
    /// It is set there.
    Done,
    /// The person has a credential already.
    Credential,
    /// Kanidm asks for a second factor.
    SecondFactor,
    /// Kanidm finds the password too weak.
    Weak,
    /// Kanidm refused for another reason.
    Refused,
    /// Kanidm did not answer.
    Unavailable,
    /// It took too long, or the user changed meanwhile.
    Dropped,
    /// Too many others were under way.
    Shed,
}

impl CarriedOver {
    /// Its name in the database and in events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Credential => "credential",
            Self::SecondFactor => "second_factor",
            Self::Weak => "weak",
            Self::Refused => "refused",
            Self::Unavailable => "unavailable",
            Self::Dropped => "dropped",
            Self::Shed => "shed",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CarriedOverLabels {
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CallLabels {
    method: &'static str,
    code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MethodLabels {
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LoginLabels {
    method: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WhyLabels {
    why: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

/// Every metric of the service.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
    /// Calls that panicked and were answered all the same.
    pub panics: Counter,
    /// Hashes computed, in units of 2^cost, so that work can be compared between populations.
    pub hash_units: Counter,
    /// New passwords whose strength was estimated.
    pub strength_checks: Counter,
    /// Hashes that wait for a thread.
    pub hash_queue: Gauge,
    /// Sessions that can be refreshed, as counted last.
    pub sessions_active: Gauge,
    /// Events that are committed but not yet numbered, as seen last.
    pub audit_unsequenced: Gauge,
    /// Personal parts of events that could not be kept.
    pub audit_personal_lost: Counter,
    /// Times that the log was found to be another one than was read here before.
    pub audit_forks: Counter,
    /// 1 while events are announced to this replica, 0 once they were found not to be.
    pub audit_listening: Gauge,
    /// Connections for listening that were replaced because events were not announced on them.
    pub audit_listener_replaced: Counter,
    /// Users linked to a Kanidm person by the engine.
    pub users_migrated: Counter,
    /// Migration items that failed.
    pub users_not_migrated: Counter,
    /// Calls to Kanidm that found it down, slow or answering nonsense.
    pub kanidm_failures: Counter,
    /// Messages that wait in the outbox, as seen last.
    pub mail_waiting: Gauge,
    /// Messages that the mail server has taken.
    pub mail_sent: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    class: &'static str,
}

struct Inner {
    registry: Registry,
    calls: Family<CallLabels, Counter>,
    call_seconds: Family<MethodLabels, Histogram>,
    calls_active: Family<MethodLabels, Gauge>,
    denied: Family<ReasonLabels, Counter>,
    connections_refused: Family<WhyLabels, Counter>,
    not_grpc: Family<StatusLabels, Counter>,
    logins: Family<LoginLabels, Counter>,
    carried_over: Family<CarriedOverLabels, Counter>,
    connections: Family<StateLabels, Gauge>,
    revocation_age: Gauge<f64, AtomicU64>,
    mail_oldest: Gauge<f64, AtomicU64>,
    mail_failures: Family<ClassLabels, Counter>,
    kanidm_circuit: Family<StateLabels, Gauge>,
    kanidm_oldest_check: Gauge<f64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// What the circuit breaker before Kanidm does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// Calls go through.
    Closed,
    /// One call is let through to find out.
    HalfOpen,
    /// Calls are refused immediately.
    Open,
}

impl Circuit {
    /// Its label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

impl Metrics {
    /// A fresh set.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sidle");
        let calls = Family::default();
        registry.register("calls", "Calls that ended, by RPC and status code", calls.clone());
        let calls_active = Family::default();
        registry.register("calls_active", "Calls and streams that go on, by RPC", calls_active.clone());
        let call_seconds = Family::new_with_constructor(
            (|| Histogram::new(exponential_buckets(0.0005, 2.0, 15))) as fn() -> Histogram,
        );
        registry.register_with_unit(
            "call_duration",
            "Time until a call or stream ended",
            Unit::Seconds,
            call_seconds.clone(),
        );
        let denied = Family::default();
        registry.register("calls_denied", "Calls turned away at the edge, by reason", denied.clone());
        let connections_refused = Family::default();
        registry.register(
            "connections_refused",
            "Connections that were not taken or were closed for what they did, by cause",
            connections_refused.clone(),
        );
        let not_grpc = Family::default();
        registry.register("requests_not_grpc", "Requests that were no gRPC, by HTTP status", not_grpc.clone());
        let logins = Family::default();
        registry.register("user_login_attempts", "Login attempts, by way in and outcome", logins.clone());
        let carried_over = Family::default();
        registry.register(
            "passwords_carried_over",
            "Passwords that were to be carried over to Kanidm, by outcome",
            carried_over.clone(),
        );
        let connections = Family::default();
        registry.register("database_connections", "Connections of the pool, by state", connections.clone());
        let revocation_age = Gauge::default();
        registry.register_with_unit(
            "revocation_age",
            "Age of the snapshot of revocations",
            Unit::Seconds,
            revocation_age.clone(),
        );
        let mail_oldest = Gauge::default();
        registry.register_with_unit(
            "mail_oldest_age",
            "Age of the oldest message that waits in the outbox",
            Unit::Seconds,
            mail_oldest.clone(),
        );
        let mail_failures = Family::default();
        registry.register("mail_failures", "Messages that could not be sent, by class", mail_failures.clone());

        let kanidm_circuit = Family::default();
        registry.register("kanidm_circuit", "1 for what the circuit to Kanidm is", kanidm_circuit.clone());

        let kanidm_oldest_check = Gauge::default();
        registry.register_with_unit(
            "kanidm_oldest_check_age",
            "How long ago Kanidm last vouched for the session that it was not asked about for longest",
            Unit::Seconds,
            kanidm_oldest_check.clone(),
        );

        let panics = counter(&mut registry, "panics", "Calls that panicked");
        let hash_units = counter(&mut registry, "hash_units", "Hash work done, in units of 2^cost");
        let strength_checks = counter(&mut registry, "strength_checks", "New passwords whose strength was estimated");
        let audit_personal_lost =
            counter(&mut registry, "audit_personal_lost", "Personal parts of events that could not be kept");
        let audit_forks =
            counter(&mut registry, "audit_forks", "Times that the audit log was found to be another one than before");
        let audit_listening = gauge(&mut registry, "audit_listening", "1 while new audit events are announced here");
        let audit_listener_replaced = counter(
            &mut registry,
            "audit_listener_replaced",
            "Connections for listening that were replaced because nothing was announced on them",
        );
        let users_migrated = counter(&mut registry, "users_migrated", "Users linked to a Kanidm person");
        let users_not_migrated = counter(&mut registry, "users_not_migrated", "Migration items that failed");
        let kanidm_failures =
            counter(&mut registry, "kanidm_failures", "Calls to Kanidm that did not get a sensible answer");
        let hash_queue = gauge(&mut registry, "hash_queue", "Hashes that wait for a thread");
        let sessions_active = gauge(&mut registry, "user_sessions_active", "Sessions that can be refreshed");
        let audit_unsequenced = gauge(&mut registry, "audit_unsequenced", "Committed events without a position yet");
        let mail_waiting = gauge(&mut registry, "mail_waiting", "Messages that wait in the outbox");
        let mail_sent = counter(&mut registry, "mail_sent", "Messages that the mail server has taken");
        let inner = Inner {
            registry,
            calls,
            call_seconds,
            calls_active,
            denied,
            connections_refused,
            not_grpc,
            logins,
            carried_over,
            connections,
            revocation_age,
            kanidm_circuit,
            kanidm_oldest_check,
            mail_oldest,
            mail_failures,
        };
        Self {
            inner: Arc::new(inner),
            panics,
            hash_units,
            strength_checks,
            hash_queue,
            sessions_active,
            audit_unsequenced,
            audit_personal_lost,
            audit_forks,
            audit_listening,
            audit_listener_replaced,
            users_migrated,
            users_not_migrated,
            kanidm_failures,
            mail_waiting,
            mail_sent,
        }
    }

    /// A call began.
    pub fn call_begun(&self, method: &'static str) {
        self.inner.calls_active.get_or_create(&MethodLabels { method }).inc();
    }

    /// A call ended: it was answered to its last byte, or its client disconnected.
    pub fn call_ended(&self, method: &'static str, code: Code, took: Duration) {
        self.inner.calls_active.get_or_create(&MethodLabels { method }).dec();
        self.inner.calls.get_or_create(&CallLabels { method, code: code_name(code) }).inc();
        self.inner.call_seconds.get_or_create(&MethodLabels { method }).observe(took.as_secs_f64());
    }

    /// A connection was not taken, or was closed for what it did.
    pub fn connection_refused(&self, why: &'static str) {
        self.inner.connections_refused.get_or_create(&WhyLabels { why }).inc();
    }

    /// A request was no gRPC.
    pub fn not_grpc(&self, status: u16) {
        self.inner.not_grpc.get_or_create(&StatusLabels { status }).inc();
    }

    /// A call was refused at the edge.
    pub fn denied(&self, reason: Reason) {
        self.inner.denied.get_or_create(&ReasonLabels { reason: answer(reason).name }).inc();
    }

    /// A login ended.
    pub fn login(&self, method: LoginMethod, outcome: LoginOutcome) {
        self.inner.logins.get_or_create(&LoginLabels { method: method.as_str(), outcome: outcome.as_str() }).inc();
    }

    /// Carrying a password over ended.
    pub fn carried_over(&self, outcome: CarriedOver) {
        self.inner.carried_over.get_or_create(&CarriedOverLabels { outcome: outcome.as_str() }).inc();
    }

    /// The pool was looked at.
    pub fn database(&self, figures: PoolFigures) {
        let states =
            [("checked_in", figures.checked_in), ("checked_out", figures.checked_out), ("limit", figures.limit)];
        for (state, count) in states {
            self.inner.connections.get_or_create(&StateLabels { state }).set(i64::from(count));
        }
    }

    /// The snapshot of revocations was looked at.
    pub fn revocation_age(&self, age: Option<Duration>) {
        self.inner.revocation_age.set(age.map_or(f64::INFINITY, |age| age.as_secs_f64()));
    }

    /// The outbox was looked at.
    pub fn mail_oldest(&self, seconds: f64) {
        self.inner.mail_oldest.set(seconds);
    }

    /// A message could not be sent, or the mail server not be used.
    pub fn mail_failed(&self, class: &'static str) {
        self.inner.mail_failures.get_or_create(&ClassLabels { class }).inc();
    }

    /// The sessions that depend on Kanidm were looked at.
    pub fn kanidm_oldest_check(&self, seconds: f64) {
        self.inner.kanidm_oldest_check.set(seconds);
    }

    /// The circuit to Kanidm was looked at.
    pub fn kanidm_circuit(&self, is: Circuit) {
        for circuit in [Circuit::Closed, Circuit::HalfOpen, Circuit::Open] {
            let state = circuit.as_str();
            self.inner.kanidm_circuit.get_or_create(&StateLabels { state }).set(i64::from(circuit == is));
        }
    }

    /// Everything in the OpenMetrics text format.
    ///
    /// # Errors
    /// When a metric cannot be written, which no metric here does.
    pub fn render(&self) -> Result<String, std::fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.inner.registry)?;
        Ok(page)
    }
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge: Gauge<i64, AtomicI64> = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_names_that_operators_query() {
        let metrics = Metrics::new();
        metrics.login(LoginMethod::Password, LoginOutcome::Refused);
        metrics.call_begun("/sidle.v1.SessionService/GetSession");
        metrics.call_ended("/sidle.v1.SessionService/GetSession", Code::Ok, Duration::from_millis(3));
        metrics.database(PoolFigures { size: 3, checked_in: 1, checked_out: 2, overflow: 0, limit: 10 });
        let page = metrics.render().unwrap();
        for line in [
            "sidle_user_login_attempts_total{method=\"password\",outcome=\"refused\"} 1",
            "sidle_database_connections{state=\"checked_out\"} 2",
            "sidle_user_sessions_active 0",
            "sidle_call_duration_seconds_count{method=\"/sidle.v1.SessionService/GetSession\"} 1",
        ] {
            assert!(page.contains(line), "{line} is missing in\n{page}");
        }
    }
}
