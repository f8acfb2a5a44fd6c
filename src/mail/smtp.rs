//! The client of the mail server: one connection, one message after the other.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, AsyncTokioStream};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{Error as SmtpError, response::Response};

use super::failure::{Broken, Failure, Unconnected};
use super::transport::{self, Tls};
use crate::config::{ConfigError, MailConfig, MailTls};
use crate::network::{Cause, Peer};

/// How the connection is protected.
enum Security {
    None,
    Starttls(Tls),
    Tls(Tls),
}

/// Where messages are taken to.
pub struct Smtp {
    host: String,
    port: u16,
    security: Security,
    credentials: Option<Credentials>,
    hello: ClientId,
    timeout: Duration,
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Smtp({}:{})", self.host, self.port)
    }
}

impl Smtp {
    /// The client of the configured server.
    ///
    /// # Errors
    /// Names the setting that is not usable.
    pub fn new(config: &MailConfig) -> Result<Self, ConfigError> {
        let security = match config.tls {
            MailTls::None => Security::None,
            MailTls::Starttls => Security::Starttls(Tls::new(config)?),
            MailTls::Tls => Security::Tls(Tls::new(config)?),
        };
        let is_plain = matches!(security, Security::None);
        let is_local = config.host == "localhost" || config.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if is_plain && !is_local && !config.allow_plaintext {
            return Err(ConfigError::new(
                "mail.tls",
                "is none, and mail.host is not this machine: use starttls or tls, or set mail.allow_plaintext \
                 where something else protects the connection",
            ));
        }
        let password = config.password()?;
        let credentials = (!config.username.is_empty())
            .then(|| Credentials::new(config.username.clone(), password.expose().to_owned()));
        if credentials.is_some() && is_plain {
            return Err(ConfigError::new(
                "mail.username",
                "is set, but without TLS the password would go in the clear",
            ));
        }
        let hello = match config.origin.split_once("://") {
            Some((_, host)) => ClientId::Domain(host.split([':', '/']).next().unwrap_or(host).to_owned()),
            None => ClientId::default(),
        };
        let (host, port, timeout) = (config.host.clone(), config.port, config.timeout);
        Ok(Self { host, port, security, credentials, hello, timeout })
    }

    /// Connects and signs in.
    ///
    /// # Errors
    /// What is wrong with the server, or why it refuses us.
    pub async fn connect(&self) -> Result<Connection, Unconnected> {
        self.try_connect().await.map_err(|Broken { class, cause }| Unconnected { class, cause, peer: self.peer() })
    }

    /// The server.
    pub fn peer(&self) -> Peer {
        let address = format!("{}:{}", self.host, self.port);
        Peer {
            what: "the mail server",
            address,
            setting: "mail.host",
            authority: "mail.ca_file",
            encryption: "mail.tls",
        }
    }

    async fn try_connect(&self) -> Result<Connection, Broken> {
        let stream = self.within(self.stream()).await??;
        let greeting = AsyncSmtpConnection::connect_with_transport(stream, &self.hello);
        let mut connection = self.within(greeting).await?.map_err(|error| network(&error))?;
        if let Some(credentials) = &self.credentials {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            let signed_in = self.within(connection.auth(&mechanisms, credentials)).await?;
            signed_in.map_err(|error| match &error {
                // The client's own complaint is that the server offers no way to sign in that we know.
                error if error.is_permanent() || error.is_client() => Failure::Login.into(),
                error if error.is_transient() => Failure::Deferred.into(),
                error => network(error),
            })?;
        }
        Ok(Connection { connection, timeout: self.timeout })
    }

    /// One step of connecting, for no longer than the configured time.
    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, Broken> {
        tokio::time::timeout(self.timeout, work).await.map_err(|_| Cause::TimedOut.into())
    }

    async fn stream(&self) -> Result<Box<dyn AsyncTokioStream>, Broken> {
        let server = (self.host.as_str(), self.port);
        match &self.security {
            Security::None => transport::plain(server).await,
            Security::Starttls(tls) => transport::starttls(server, tls, &self.hello).await,
            Security::Tls(tls) => transport::tls(server, tls).await,
        }
    }
}

/// A connection that takes messages.
pub struct Connection {
    connection: AsyncSmtpConnection,
    timeout: Duration,
}

impl Connection {
    /// Hands a message over. After `Ok` the server is answerable for it; after an error it may have it all the same,
    /// when its answer got lost.
    ///
    /// # Errors
    /// Why it was not taken.
    pub async fn send(&mut self, from: &Address, to: &Address, message: &[u8]) -> Result<(), Failure> {
        let mail = Mail::new(Some(from.clone()), Vec::new());
        let said = self.connection.command(mail);
        answer(self.timeout, said).await.map_err(|failure| match failure {
            Failure::Refused => Failure::Sender,
            other => other,
        })?;
        answer(self.timeout, self.connection.command(Rcpt::new(to.clone(), Vec::new()))).await?;
        answer(self.timeout, self.connection.command(Data)).await?;
        answer(self.timeout, self.connection.message(message)).await
    }

    /// Takes the last message back as far as the server knows of it, so that another can follow.
    pub async fn reset(&mut self) -> Result<(), Failure> {
        answer(self.timeout, self.connection.command("RSET\r\n")).await
    }

    /// Says goodbye.
    pub async fn quit(mut self) {
        // Nothing depends on it.
        let _ = tokio::time::timeout(self.timeout, self.connection.quit()).await;
    }
}

async fn answer(timeout: Duration, said: impl Future<Output = Result<Response, SmtpError>>) -> Result<(), Failure> {
    match tokio::time::timeout(timeout, said).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) if error.is_permanent() => Err(Failure::Refused),
        // 421 is the server's goodbye.
        Ok(Err(error)) if error.is_transient() && error.status().is_none_or(|code| code.to_string() != "421") => {
            Err(Failure::Deferred)
        }
        Ok(Err(_)) | Err(_) => Err(Failure::Connection),
    }
}

/// Trouble before anything was said about a message.
fn network(error: &SmtpError) -> Broken {
    match Cause::of(error) {
        // What the library could not read, or the server's own refusal, whose text tends to quote addresses.
        Cause::Other(_) if error.is_response() => Cause::WrongProtocol.into(),
        Cause::Other(_) => Failure::Connection.into(),
        cause => cause.into(),
    }
}
