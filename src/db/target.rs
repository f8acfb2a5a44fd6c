//! Where the database is: reading its URL, finding the server that can be written to among several, and connecting.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, Row as _};
use tokio::time::{sleep, timeout};

use crate::fault::{Fault, Result};

/// Parameters of a URL that the driver understands.
const PARAMETERS: [&str; 19] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
    "target_session_attrs",
    "connect_timeout",
];

/// How long a server is waited for alone before the next one is tried beside it.
const HEAD_START: Duration = Duration::from_millis(500);

/// One or several servers, of which one can be written to.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    servers: Arc<[PgConnectOptions]>,
    /// Which of them could be written to last, and is tried first.
    last: Arc<AtomicUsize>,
}

/// Why a server was not taken.
#[derive(Debug)]
struct ReadOnly(String);

impl std::fmt::Display for ReadOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} is read-only: a standby, or a server with default_transaction_read_only", self.0)
    }
}

impl std::error::Error for ReadOnly {}

impl Target {
    /// Reads `url`, the value of the setting `key`.
    ///
    /// # Errors
    /// When it is no Postgres URL, asks for something that is not done, or would send data in the clear over a network
    /// although `allow_plaintext` is off.
    pub fn read(key: &'static str, url: &str, allow_plaintext: bool) -> Result<Self> {
        let mut servers = Vec::new();
        for url in split(key, url)? {
            let options: PgConnectOptions = url.parse().map_err(|e: sqlx::Error| {
                Fault::field(key, "must be a Postgres URL such as postgres://user@host:5432/name").because(e)
            })?;
            if !allow_plaintext && is_remote(&options) && !demands_tls(&options) {
                return Err(Fault::field(
                    key,
                    format!(
                        "reaches {} over a network, where without TLS everybody on the way can read and change what is \
                         sent: add ?sslmode=verify-full&sslrootcert=FILE (or at least sslmode=require), or set \
                         database.allow_plaintext = true where something else protects the connection",
                        options.get_host()
                    ),
                ));
            }
            // Statements are logged nowhere: their parameters are people's data. And the driver's wish for more
            // digits in texts, which nothing here needs, is refused by some poolers.
            servers.push(options.application_name("sidle").extra_float_digits(None).disable_statement_logging());
        }
        Ok(Self { servers: servers.into(), last: Arc::default() })
    }

    /// With another name for the server's list of sessions.
    pub fn named(&self, name: &str) -> Self {
        let servers = self.servers.iter().map(|options| options.clone().application_name(name)).collect();
        Self { servers, last: Arc::clone(&self.last) }
    }

    /// Host and port of each server.
    pub(super) fn address(&self) -> String {
        let place = |server: &PgConnectOptions| match server.get_socket() {
            Some(socket) => format!("{}, port {}", socket.display(), server.get_port()),
            None => format!("{}:{}", server.get_host(), server.get_port()),
        };
        self.servers.iter().map(place).collect::<Vec<_>>().join(" or ")
    }

    /// Who connects.
    pub(super) fn user(&self) -> &str {
        self.servers.first().map_or("", PgConnectOptions::get_username)
    }

    /// To which database: by default the one that is named as the role.
    pub(super) fn database(&self) -> &str {
        self.servers.first().and_then(PgConnectOptions::get_database).unwrap_or(self.user())
    }

    /// Connects to a server that can be written to: the one that could be last, or whichever of the others says so first.
    /// One that does not answer, or no more, keeps the others from being tried for half a second only. How long is waited
    /// for any of them is for the caller to bound.
    ///
    /// # Errors
    /// That of the last server that was tried.
    pub async fn connect(&self) -> sqlx::Result<(PgConnection, PgConnectOptions)> {
        let (count, first) = (self.servers.len(), self.last.load(Ordering::Relaxed));
        let mut left = (0..count).map(|n| (first + n) % count.max(1));
        let (mut tried, mut error) = (FuturesUnordered::new(), sqlx::Error::PoolClosed);
        loop {
            let next = left.next();
            if let Some(place) = next {
                let server = &self.servers[place];
                tried.push(async move { (place, primary(server).await) });
            } else if tried.is_empty() {
                return Err(error);
            }
            tokio::select! {
                Some((place, answer)) = tried.next() => match answer {
                    Ok(connection) => {
                        self.last.store(place, Ordering::Relaxed);
                        return Ok((connection, self.servers[place].clone()));
                    }
                    Err(failed) => error = failed,
                },
                () = sleep(HEAD_START), if left.len() > 0 => {}
            }
        }
    }

    /// Connects as [`Target::connect`] does, unless it takes longer than `limit`.
    ///
    /// # Errors
    /// As [`Target::connect`].
    pub async fn connect_within(&self, limit: Duration) -> sqlx::Result<PgConnection> {
        let late = |_| Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()));
        Ok(timeout(limit, self.connect()).await.unwrap_or_else(late)?.0)
    }
}

async fn primary(options: &PgConnectOptions) -> sqlx::Result<PgConnection> {
    let mut connection = options.connect().await?;
    // As one message without parameters: nothing is prepared, which a pooler might not bear.
    let asked = sqlx::raw_sql(AssertSqlSafe("SELECT current_setting('transaction_read_only')".to_owned()));
    let row = asked.fetch_one(&mut connection).await?;
    if row.try_get::<String, _>(0)? == "on" {
        let name = format!("{}:{}", options.get_host(), options.get_port());
        return Err(sqlx::Error::Io(std::io::Error::other(ReadOnly(name))));
    }
    Ok(connection)
}

/// One URL for each server in `url`, which names them separated by commas as libpq has it.
fn split(key: &'static str, url: &str) -> Result<Vec<String>> {
    let malformed = || Fault::field(key, "must be a Postgres URL such as postgres://user@host:5432/name");
    let (scheme, rest) = url.split_once("://").ok_or_else(malformed)?;
    if !["postgres", "postgresql"].contains(&scheme) {
        return Err(malformed());
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, servers) = match authority.rsplit_once('@') {
        Some((user, servers)) => (format!("{user}@"), servers),
        None => (String::new(), authority),
    };
    let (path, query) = tail.split_once('?').unwrap_or((tail, ""));
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match name {
            // Only a server that can be written to is of any use, whether it is asked for or not.
            "target_session_attrs" if ["any", "read-write", "primary"].contains(&value) => {}
            "target_session_attrs" => {
                return Err(Fault::field(
                    key,
                    "must ask for target_session_attrs=read-write, or leave it out: the service writes",
                ));
            }
            // Bounded by database.acquire_timeout.
            "connect_timeout" => {}
            "host" | "hostaddr" | "port" if value.contains(',') || value.contains("%2C") => {
                return Err(Fault::field(
                    key,
                    "must name several servers before the path, as in postgres://user@one:5432,two:5432/name",
                ));
            }
            _ if PARAMETERS.contains(&name) || name.starts_with("options[") => kept.push(pair),
            _ => return Err(Fault::field(key, format!("has the parameter {name}, which is not supported: remove it"))),
        }
    }
    let query = if kept.is_empty() { String::new() } else { format!("?{}", kept.join("&")) };
    Ok(servers.split(',').map(|server| format!("{scheme}://{user}{server}{path}{query}")).collect())
}

/// Whether what is sent leaves this machine.
fn is_remote(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let is_local = options.get_socket().is_some()
        || host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    !is_local
}

/// Whether the driver gives up rather than going on without TLS.
fn demands_tls(options: &PgConnectOptions) -> bool {
    matches!(options.get_ssl_mode(), PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(url: &str) -> Vec<String> {
        split("database.url", url).unwrap()
    }

    fn refusal(url: &str, allow_plaintext: bool) -> Option<String> {
        let fault = Target::read("database.url", url, allow_plaintext).err()?;
        Some(format!("{:?}", fault.fields()))
    }

    #[test]
    fn several_servers_are_read_as_libpq_writes_them() {
        assert_eq!(
            urls("postgres://me:p%40ss@one:5432,two:5433/db?sslmode=require&target_session_attrs=read-write"),
            ["postgres://me:p%40ss@one:5432/db?sslmode=require", "postgres://me:p%40ss@two:5433/db?sslmode=require"]
        );
        assert_eq!(urls("postgresql://one,two"), ["postgresql://one", "postgresql://two"]);
        assert_eq!(urls("postgres:///db?host=/run/postgresql"), ["postgres:///db?host=/run/postgresql"]);
    }

    #[test]
    fn what_would_be_ignored_is_refused_by_name() {
        for (url, part) in [
            ("mysql://a@localhost/b", "must be a Postgres URL"),
            ("localhost:5432", "must be a Postgres URL"),
            ("postgres://a@localhost/b?target_session_attrs=standby", "target_session_attrs"),
            ("postgres://a@localhost/b?load_balance_hosts=random", "load_balance_hosts"),
            ("postgres://a@/b?host=one,two", "before the path"),
        ] {
            let refusal = refusal(url, false).unwrap();
            assert!(refusal.contains(part) && refusal.contains("database.url"), "{url}: {refusal}");
        }
    }

    #[test]
    fn plaintext_over_a_network_is_refused_unless_it_is_asked_for() {
        for url in
            ["postgres://a@db.example/b", "postgres://a@10.0.0.1/b?sslmode=prefer", "postgres://a@localhost,db/b"]
        {
            assert!(refusal(url, false).unwrap().contains("allow_plaintext"), "{url}");
            assert_eq!(refusal(url, true), None, "{url}");
        }
        for url in [
            "postgres://a@db.example/b?sslmode=require",
            "postgres://a@db.example/b?sslmode=verify-full",
            "postgres://a@127.0.0.1:1/b",
            "postgres://a@[::1]/b",
            "postgres://a@LOCALHOST/b?sslmode=disable",
            "postgres:///b?host=/run/postgresql&user=a",
        ] {
            assert_eq!(refusal(url, false), None, "{url}");
        }
    }
}
