//! One statement, as traces and exported metrics show it.

use std::sync::{Arc, OnceLock};

use opentelemetry::KeyValue;
use tracing::Span;

use crate::context::{Clock, Stopwatch};
use crate::telemetry;

/// A statement that is under way; nothing unless traces and metrics are exported.
#[derive(Clone)]
pub(super) struct Operation {
    running: Option<Arc<Running>>,
}

struct Running {
    span: Span,
    begun: Stopwatch,
    name: OnceLock<String>,
}

impl Operation {
    pub(super) fn begin() -> Self {
        let begin = |_| {
            let span = tracing::debug_span!(
                target: "sidle::otel",
                "statement",
                otel.kind = "client",
                otel.name = tracing::field::Empty,
                otel.status_code = tracing::field::Empty,
                db.system.name = "postgresql",
                db.operation.name = tracing::field::Empty,
                db.query.text = tracing::field::Empty,
                db.response.status_code = tracing::field::Empty,
                error.r#type = tracing::field::Empty,
            );
            Arc::new(Running { span, begun: Clock::system().stopwatch(), name: OnceLock::new() })
        };
        Self { running: telemetry::instruments().map(begin) }
    }

    /// Notes the statement's text, which never holds a value: values are bound.
    pub(super) fn is_of(&self, sql: &str) {
        let Some(running) = &self.running else { return };
        let (name, summary) = summary(sql);
        running.span.record("otel.name", summary);
        running.span.record("db.operation.name", name.as_str());
        running.span.record("db.query.text", sql);
        let _ = running.name.set(name);
    }

    /// Notes how it ended, once.
    pub(super) fn end(&mut self, error: Option<&sqlx::Error>) {
        let Some(running) = self.running.take() else { return };
        let (span, name) = (&running.span, running.name.get().cloned().unwrap_or_default());
        let mut attributes =
            vec![KeyValue::new("db.system.name", "postgresql"), KeyValue::new("db.operation.name", name)];
        if let Some(error) = error {
            let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
            let kind = code.clone().unwrap_or_else(|| "connection".to_owned());
            span.record("otel.status_code", "ERROR");
            span.record("error.type", kind.as_str());
            attributes.push(KeyValue::new("error.type", kind));
            if let Some(code) = code {
                span.record("db.response.status_code", code.as_str());
                attributes.push(KeyValue::new("db.response.status_code", code));
            }
        }
        if let Some(instruments) = telemetry::instruments() {
            instruments.database.record(running.begun.elapsed().as_secs_f64(), &attributes);
        }
    }
}

/// The kind of a statement, such as `SELECT`, and with it what it is about, such as `SELECT users`.
fn summary(sql: &str) -> (String, String) {
    let mut words = sql.split_whitespace();
    let kind = words.next().unwrap_or_default().to_ascii_uppercase();
    let about =
        words.skip_while(|word| !["FROM", "INTO", "UPDATE"].contains(&word.to_ascii_uppercase().as_str())).nth(1);
    let about = match kind.as_str() {
        "UPDATE" => sql.split_whitespace().nth(1),
        _ => about,
    };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    let about = about.map(|word| word.chars().take_while(|c| is_name(*c)).collect::<String>()).unwrap_or_default();
    let summary = if about.is_empty() { kind.clone() } else { format!("{kind} {about}") };
    (kind, summary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_named_by_what_they_do_to_what() {
        for (sql, expected) in [
            ("SELECT a, b\n FROM login_begin($1, $2) AS t", "SELECT login_begin"),
            ("select 1", "SELECT"),
            ("INSERT INTO users (user_id) VALUES ($1)", "INSERT users"),
            ("UPDATE sessions SET a = $1 FROM x", "UPDATE sessions"),
            ("DELETE FROM mail_outbox WHERE true", "DELETE mail_outbox"),
            ("WITH a AS (SELECT 1) SELECT * FROM (SELECT 2) b", "WITH"),
            ("COMMIT", "COMMIT"),
            ("", ""),
        ] {
            assert_eq!(summary(sql).1, expected, "{sql}");
        }
    }
}
