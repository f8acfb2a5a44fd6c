//! What an error of the driver means to a caller: nothing, but that the database is not there or that we failed.

use std::time::Duration;

use crate::fault::{Fault, Reason};
use crate::network::Cause;

/// The constraint or unique index that a statement ran into, to be turned into a domain's own refusal.
pub fn constraint(error: &sqlx::Error) -> Option<&str> {
    error.as_database_error().and_then(|error| error.constraint())
}

/// Whether a statement gave up waiting for what another transaction holds, or was made to: see `Db::upkeep`.
pub fn gave_up_waiting(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03" || code == "57014")
}

/// Whether the connection, not the statement, is what failed.
pub(super) fn is_broken_connection(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed | sqlx::Error::BeginFailed => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| ends_session(&code)),
        _ => false,
    }
}

/// Whether the server ends the session with this error: it is told to stop, or the transaction was idle for too long.
fn ends_session(code: &str) -> bool {
    code.starts_with("57P") || code == "25P03"
}

/// Whether the server takes no writes: a standby, or a primary that was told so.
pub(super) fn is_read_only(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "25006")
}

/// The refusal while the server takes no writes.
pub(super) fn read_only() -> Fault {
    Fault::new(Reason::DatabaseUnavailable, "The database takes no writes at the moment.")
        .retry_after(Duration::from_secs(1))
}

/// Whether the server is not there yet, or has no connection to spare: worth another try within the time there is.
pub(super) fn is_starting(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => error.kind() == std::io::ErrorKind::ConnectionRefused,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code == "57P03" || code == "53300"),
        _ => false,
    }
}

/// Whether the server does not know, or knows already, what was prepared: another session is behind the connection.
fn is_mixed_up(code: &str) -> bool {
    matches!(code, "26000" | "42P05")
}

/// SQLSTATE classes that pass by themselves: connection trouble, shutdown, too many connections, out of resources,
/// serialisation failures and deadlocks, lock and statement timeouts.
fn passes(code: &str) -> bool {
    matches!(code, "40001" | "40P01" | "55P03" | "57014" | "25006")
        || ends_session(code)
        || ["08", "53"].iter().any(|c| code.starts_with(c))
}

impl From<sqlx::Error> for Fault {
    fn from(error: sqlx::Error) -> Self {
        let code = error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned());
        if code.as_deref().is_some_and(is_mixed_up) {
            return Fault::internal(format!(
                "a pooler in front of the database does not keep prepared statements apart: set database.pooler = \
                 \"transaction\" and database.prepared_statements = false ({})",
                Masked::from(error)
            ));
        }
        let message = match code.as_deref() {
            Some("25006") => "The database takes no writes at the moment.",
            Some("55P03" | "57014") => "The data is held by somebody else, or the database was too slow.",
            _ => "The database did not answer.",
        };
        let unavailable = match &error {
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed => true,
            sqlx::Error::Database(error) => error.code().is_some_and(|code| passes(&code)),
            _ => false,
        };
        if unavailable {
            Fault::new(Reason::DatabaseUnavailable, message)
                .retry_after(Duration::from_secs(1))
                .because(Masked::from(error))
        } else {
            Fault::internal(Masked::from(error))
        }
    }
}

/// A driver error without what Postgres adds in DETAIL, where it repeats the values of rows: they are people's data
/// and belong in no log.
#[derive(Debug)]
struct Masked(String);

impl From<sqlx::Error> for Masked {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(error) => Self(
                format!(
                    "database error {} on {}{}",
                    error.code().unwrap_or_default(),
                    error.table().unwrap_or("no particular table"),
                    error.constraint().map(|name| format!(", constraint {name}")).unwrap_or_default(),
                ) + &safe_message(error.message()),
            ),
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) => {
                Self(format!("no connection to the database: {}", Cause::of(&error)))
            }
            other => Self(other.to_string()),
        }
    }
}

/// Messages name objects and rules, but quote values after certain words; those are cut off.
pub(super) fn safe_message(message: &str) -> String {
    let quotes_a_value = message.contains("invalid input") || message.contains("value");
    if quotes_a_value { String::new() } else { format!(": {message}") }
}

impl std::fmt::Display for Masked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Masked {}
