//! The way to the mail server: one connection, one message after the other. Certificates are always checked; with
//! STARTTLS nothing but the greeting is said before the server has switched to TLS.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use lettre::transport::smtp::{Error as SmtpError, response::Response};

use crate::config::{ConfigError, MailConfig, MailTls};

/// Why a message was not taken, for metrics, the log and the outbox: a fixed word, never what the server said, since that
/// tends to quote addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server cannot be reached, hung up, or did not answer in time.
    Connection,
    /// No TLS, or a certificate that is not the server's.
    Tls,
    /// Name or password were refused, or may not be sent.
    Login,
    /// The server does not take messages from this sender.
    Sender,
    /// The server put it off (4xx).
    Deferred,
    /// The server refuses the recipient or the message for good (5xx).
    Refused,
    /// The message could not be made: its template or its address is broken.
    Unusable,
}

impl Failure {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Tls => "tls",
            Self::Login => "login",
            Self::Sender => "sender",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::Unusable => "unusable",
        }
    }

    /// Whether another attempt with the same message makes no sense.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Refused | Self::Unusable)
    }

    /// Whether it says something about the server rather than about the message.
    pub fn is_the_servers(self) -> bool {
        matches!(self, Self::Connection | Self::Tls | Self::Login | Self::Sender)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "the mail server cannot be reached, hung up or did not answer in time",
            Self::Tls => "the mail server offers no TLS, or its certificate is not to be trusted",
            Self::Login => "the mail server does not accept the name and password",
            Self::Sender => "the mail server does not take messages from the configured sender",
            Self::Deferred => "the mail server put the message off",
            Self::Refused => "the mail server refused the recipient or the message",
            Self::Unusable => "the message could not be made",
        })
    }
}

impl std::error::Error for Failure {}

/// Where messages are taken to.
pub struct Smtp {
    host: String,
    port: u16,
    tls: MailTls,
    parameters: Option<TlsParameters>,
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
    /// The way to the configured server.
    ///
    /// # Errors
    /// Names the setting that is not usable.
    pub fn new(config: &MailConfig) -> Result<Self, ConfigError> {
        let parameters = match config.tls {
            MailTls::None => None,
            MailTls::Starttls | MailTls::Tls => Some(parameters(config)?),
        };
        let is_local = config.host == "localhost" || config.host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if parameters.is_none() && !is_local && !config.allow_plaintext {
            return Err(ConfigError::new(
                "mail.tls is none, and mail.host is not this machine: use starttls or tls, or set mail.allow_plaintext \
                 where something else protects the connection",
            ));
        }
        let password = config.password()?;
        let credentials = (!config.username.is_empty())
            .then(|| Credentials::new(config.username.clone(), password.expose().to_owned()));
        if credentials.is_some() && parameters.is_none() {
            return Err(ConfigError::new("mail.username is set, but without TLS the password would go in the clear"));
        }
        let hello = match config.origin.split_once("://") {
            Some((_, host)) => ClientId::Domain(host.split([':', '/']).next().unwrap_or(host).to_owned()),
            None => ClientId::default(),
        };
        let (host, port, tls, timeout) = (config.host.clone(), config.port, config.tls, config.timeout);
        Ok(Self { host, port, tls, parameters, credentials, hello, timeout })
    }

    /// Connects and signs in.
    ///
    /// # Errors
    /// What is wrong with the server, or with what it thinks of us.
    pub async fn connect(&self) -> Result<Connection, Failure> {
        let wrapped = self.parameters.clone().filter(|_| self.tls == MailTls::Tls);
        let server = (self.host.as_str(), self.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(server, Some(self.timeout), &self.hello, wrapped, None);
        let mut connection = self.answer(connecting).await?.map_err(|error| network(&error))?;
        if self.tls == MailTls::Starttls {
            // An attacker on the way can take the offer out of the server's greeting; then nothing is sent at all.
            let Some(parameters) = self.parameters.clone().filter(|_| connection.can_starttls()) else {
                connection.abort().await;
                return Err(Failure::Tls);
            };
            let switched = self.answer(connection.starttls(parameters, &self.hello)).await?;
            switched.map_err(|error| {
                if network(&error) == Failure::Connection { Failure::Connection } else { Failure::Tls }
            })?;
        }
        if let Some(credentials) = &self.credentials {
            let mechanisms = [Mechanism::Plain, Mechanism::Login];
            let signed_in = self.answer(connection.auth(&mechanisms, credentials)).await?;
            signed_in.map_err(|error| match &error {
                // The client's own complaint is that the server offers no way to sign in that we know.
                error if error.is_permanent() || error.is_client() => Failure::Login,
                error if error.is_transient() => Failure::Deferred,
                error => network(error),
            })?;
        }
        Ok(Connection { connection, timeout: self.timeout })
    }

    async fn answer<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::time::timeout(self.timeout, work).await.map_err(|_| Failure::Connection)
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
fn network(error: &SmtpError) -> Failure {
    // The TLS library's complaints come as errors of the connection, with its own error inside.
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let wrapped = inner.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if inner.is::<rustls::Error>() || wrapped.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return Failure::Tls;
        }
        cause = inner.source();
    }
    if error.is_tls() { Failure::Tls } else { Failure::Connection }
}

fn parameters(config: &MailConfig) -> Result<TlsParameters, ConfigError> {
    let mut builder = TlsParameters::builder(config.host.clone());
    if let Some(path) = &config.ca_file {
        let unusable = |cause: String| ConfigError::new(format!("mail.ca_file {}: {cause}", path.display()));
        let pem = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
        let certificate = Certificate::from_pem(&pem).map_err(|error| unusable(error.to_string()))?;
        builder = builder.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    builder.build().map_err(|error| ConfigError::new(format!("mail.host and mail.ca_file do not make TLS: {error}")))
}
