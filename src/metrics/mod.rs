//! What operators watch. Labels come from short fixed lists: nothing that a caller chooses becomes a time series.

mod families;
mod outcome;

use std::sync::Arc;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tonic::Code;

use self::families::{
    CallLabels, CallMetrics, ClassLabels, DatabaseMetrics, KanidmMetrics, LoginLabels, LoginMetrics, MailMetrics,
    MethodLabels, OutcomeLabels, ReasonLabels, StateLabels, StatusLabels, WhyLabels, metric,
};
pub use self::outcome::{CarriedOver, Circuit, LoginMethod, LoginOutcome};
use crate::db::PoolFigures;
use crate::fault::{Reason, answer};
use crate::telemetry::code_name;

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

struct Inner {
    registry: Registry,
    calls: CallMetrics,
    logins: LoginMetrics,
    database: DatabaseMetrics,
    mail: MailMetrics,
    kanidm: KanidmMetrics,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A fresh set.
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("sidle");
        let all = &mut registry;
        let calls = CallMetrics::register(all);
        let logins = LoginMetrics::register(all);
        let database = DatabaseMetrics::register(all);
        let mail = MailMetrics::register(all);
        let kanidm = KanidmMetrics::register(all);
        Self {
            panics: metric(all, "panics", "Calls that panicked"),
            hash_units: metric(all, "hash_units", "Hash work done, in units of 2^cost"),
            strength_checks: metric(all, "strength_checks", "New passwords whose strength was estimated"),
            audit_personal_lost: metric(all, "audit_personal_lost", "Personal parts of events that could not be kept"),
            audit_forks: metric(all, "audit_forks", "Times that the audit log was found to be another one than before"),
            audit_listening: metric(all, "audit_listening", "1 while new audit events are announced here"),
            audit_listener_replaced: metric(
                all,
                "audit_listener_replaced",
                "Connections for listening that were replaced because nothing was announced on them",
            ),
            users_migrated: metric(all, "users_migrated", "Users linked to a Kanidm person"),
            users_not_migrated: metric(all, "users_not_migrated", "Migration items that failed"),
            kanidm_failures: metric(all, "kanidm_failures", "Calls to Kanidm that did not get a sensible answer"),
            hash_queue: metric(all, "hash_queue", "Hashes that wait for a thread"),
            sessions_active: metric(all, "user_sessions_active", "Sessions that can be refreshed"),
            audit_unsequenced: metric(all, "audit_unsequenced", "Committed events without a position yet"),
            mail_waiting: metric(all, "mail_waiting", "Messages that wait in the outbox"),
            mail_sent: metric(all, "mail_sent", "Messages that the mail server has taken"),
            inner: Arc::new(Inner { registry, calls, logins, database, mail, kanidm }),
        }
    }

    /// A call began.
    pub fn call_begun(&self, method: &'static str) {
        self.inner.calls.active.get_or_create(&MethodLabels { method }).inc();
    }

    /// A call ended: it was answered to its last byte, or its client disconnected.
    pub fn call_ended(&self, method: &'static str, code: Code, took: Duration) {
        self.inner.calls.active.get_or_create(&MethodLabels { method }).dec();
        self.inner.calls.ended.get_or_create(&CallLabels { method, code: code_name(code) }).inc();
        self.inner.calls.seconds.get_or_create(&MethodLabels { method }).observe(took.as_secs_f64());
    }

    /// A connection was not taken, or was closed for what it did.
    pub fn connection_refused(&self, why: &'static str) {
        self.inner.calls.connections_refused.get_or_create(&WhyLabels { why }).inc();
    }

    /// A request was no gRPC.
    pub fn not_grpc(&self, status: u16) {
        self.inner.calls.not_grpc.get_or_create(&StatusLabels { status }).inc();
    }

    /// A call was refused at the edge.
    pub fn denied(&self, reason: Reason) {
        self.inner.calls.denied.get_or_create(&ReasonLabels { reason: answer(reason).name }).inc();
    }

    /// A login ended.
    pub fn login(&self, method: LoginMethod, outcome: LoginOutcome) {
        self.inner
            .logins
            .attempts
            .get_or_create(&LoginLabels { method: method.as_str(), outcome: outcome.as_str() })
            .inc();
    }

    /// Carrying a password over ended.
    pub fn carried_over(&self, outcome: CarriedOver) {
        self.inner.logins.carried_over.get_or_create(&OutcomeLabels { outcome: outcome.as_str() }).inc();
    }

    /// The pool was looked at.
    pub fn database(&self, figures: PoolFigures) {
        let states =
            [("checked_in", figures.checked_in), ("checked_out", figures.checked_out), ("limit", figures.limit)];
        for (state, count) in states {
            self.inner.database.connections.get_or_create(&StateLabels { state }).set(i64::from(count));
        }
    }

    /// The snapshot of revocations was looked at.
    pub fn revocation_age(&self, age: Option<Duration>) {
        self.inner.database.revocation_age.set(age.map_or(f64::INFINITY, |age| age.as_secs_f64()));
    }

    /// The outbox was looked at.
    pub fn mail_oldest(&self, seconds: f64) {
        self.inner.mail.oldest.set(seconds);
    }

    /// A message could not be sent, or the mail server not be used.
    pub fn mail_failed(&self, class: &'static str) {
        self.inner.mail.failures.get_or_create(&ClassLabels { class }).inc();
    }

    /// The sessions that depend on Kanidm were looked at.
    pub fn kanidm_oldest_check(&self, seconds: f64) {
        self.inner.kanidm.oldest_check.set(seconds);
    }

    /// The circuit breaker before Kanidm was looked at.
    pub fn kanidm_circuit(&self, is: Circuit) {
        for circuit in [Circuit::Closed, Circuit::HalfOpen, Circuit::Open] {
            let state = circuit.as_str();
            self.inner.kanidm.circuit.get_or_create(&StateLabels { state }).set(i64::from(circuit == is));
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
