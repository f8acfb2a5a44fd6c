//! The first connection of a start: why it could not be made, in words for whoever set the database up.

use std::time::Duration;

use sqlx::PgConnection;
use tokio::time::{sleep, timeout};

use super::Target;
use super::errors::{is_starting, safe_message};
use crate::network::{Cause, Peer};
use crate::startup::{Result, StartFailure};

/// How often a server that is starting is asked again.
const PAUSE: Duration = Duration::from_millis(100);

/// Connects to the database that the setting `key` names. One that is starting, or has no connection to spare, is waited
/// for as long as `limit`.
///
/// # Errors
/// Where the database was looked for, what is wrong and what to do.
pub(crate) async fn reach(key: &'static str, target: &Target, limit: Duration) -> Result<PgConnection> {
    let mut last = sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    let connecting = async {
        loop {
            match target.connect().await {
                Ok((connection, _)) => return Ok(connection),
                Err(error) if is_starting(&error) => last = error,
                Err(error) => return Err(error),
            }
            sleep(PAUSE).await;
        }
    };
    let connected = timeout(limit, connecting).await;
    connected.unwrap_or(Err(last)).map_err(|error| refused(key, target, &error))
}

/// What an error of a first connection means.
pub(super) fn refused(key: &'static str, target: &Target, error: &sqlx::Error) -> StartFailure {
    let address = target.address();
    if let Some(error) = error.as_database_error() {
        let code = error.code().unwrap_or_default();
        let said =
            Said { key, code: &code, message: error.message(), user: target.user(), database: target.database() };
        let (cause, remedy) = said.meaning();
        let failure = StartFailure::new(format!("connect to Postgres at {address}"), cause);
        let failure = failure.setting(key).remedy(remedy);
        return if matches!(&*code, "53300" | "57P03") { failure.may_pass() } else { failure };
    }
    let peer = Peer {
        what: "Postgres",
        address,
        setting: key,
        authority: "sslrootcert=FILE in the URL",
        encryption: "sslmode in the URL",
    };
    StartFailure::of_connection(&peer, &cause(error))
}

/// What the driver makes of an answer that is none of Postgres, or of none: it reads a zero where the connection has ended.
fn cause(error: &sqlx::Error) -> Cause {
    match error {
        sqlx::Error::Protocol(text) if text.contains("0x00") => Cause::Closed,
        sqlx::Error::Protocol(_) => Cause::WrongProtocol,
        other => Cause::of(other),
    }
}

/// What Postgres said to a connection.
struct Said<'a> {
    key: &'static str,
    code: &'a str,
    message: &'a str,
    user: &'a str,
    database: &'a str,
}

impl Said<'_> {
    /// What keeps the role out, whatever its password.
    fn not_let_in(&self) -> (String, String) {
        let Self { key, message, user, database, .. } = self;
        // The name of the file stands in the message in every language.
        if message.contains("pg_hba.conf") {
            return (
                format!("pg_hba.conf keeps the role {user} out of the database {database} from here, or without TLS"),
                format!("Add a line for {user} to pg_hba.conf, or ask for TLS with sslmode=require in {key}."),
            );
        }
        (
            format!("there is no role {user}, or it may not log in"),
            format!(
                "Make it (CREATE ROLE {user} LOGIN PASSWORD '...') or let it in (ALTER ROLE {user} LOGIN PASSWORD '...'), \
                 or correct the name in {key}; docs/database.md says which roles there are."
            ),
        )
    }

    /// The cause, and what to do.
    fn meaning(&self) -> (String, String) {
        let Self { key, code, message, user, database } = self;
        match *code {
            "28P01" => (
                format!("the password of the role {user} is wrong, or there is no such role"),
                format!(
                    "Correct the password in {key} (special characters as %XX), or set it: ALTER ROLE {user} PASSWORD '...'."
                ),
            ),
            "28000" => self.not_let_in(),
            "3D000" => (
                format!("there is no database {database}"),
                format!("Make it (CREATE DATABASE {database} OWNER sidle_owner), or correct the name in {key}."),
            ),
            "42501" => (
                format!("the role {user} may not connect to the database {database}"),
                format!("GRANT CONNECT ON DATABASE {database} TO {user}, or correct {key}."),
            ),
            "53300" => (
                "the server has no connection to spare".to_owned(),
                "Raise max_connections of the server, or lower database.pool_size of each replica.".to_owned(),
            ),
            "57P03" => (
                "the server is starting or stopping".to_owned(),
                "Wait until it takes connections; its log says what it does.".to_owned(),
            ),
            code => (
                format!("Postgres refused with {code}{}", safe_message(message)),
                format!("See the log of Postgres, and correct {key}."),
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_postgres_is_told_from_the_others() {
        let said = |code, message| {
            let said = Said { key: "database.url", code, message, user: "sidle_app", database: "sidle" };
            said.meaning().0
        };
        let all = [
            said("28P01", ""),
            said("28000", "no pg_hba.conf entry for host"),
            said("28000", "role \"sidle_app\" does not exist"),
            said("3D000", ""),
            said("42501", ""),
            said("53300", ""),
            said("57P03", ""),
            said("XX000", ""),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other != one), "{one}");
        }
    }
}
