//! Why mail is not taken.

use std::fmt;

use crate::network::{Cause, Peer};
use crate::startup::StartFailure;

/// Why a message was not taken, for metrics, the log and the outbox: a fixed name, never what the server said, since that
/// tends to quote addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The server cannot be reached, hung up, or did not answer in time.
    Connection,
    /// No TLS, or a certificate that is not the server's.
    Tls,
    /// Something came in the clear that would have been taken for an answer inside TLS.
    Injection,
    /// Name or password were refused, or may not be sent.
    Login,
    /// The server does not take messages from this sender.
    Sender,
    /// The server deferred it (4xx).
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
            Self::Injection => "injection",
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
        matches!(self, Self::Connection | Self::Tls | Self::Injection | Self::Login | Self::Sender)
    }
}

/// Why there is no connection to the mail server that takes messages.
#[derive(Debug)]
pub struct Unconnected {
    /// What it counts as.
    pub class: Failure,
    /// What kept the connection from being made, where the network or TLS did.
    pub cause: Option<Cause>,
    /// The mail server.
    pub peer: Peer,
}

impl Unconnected {
    /// What to do about it.
    pub fn remedy(&self) -> String {
        match (&self.cause, self.class) {
            (Some(cause), _) => cause.remedy(&self.peer),
            (None, Failure::Login) => "Correct mail.username and mail.password or mail.password_file.".to_owned(),
            (None, Failure::Injection) => {
                "See who can change what is sent between this machine and the mail server.".to_owned()
            }
            (None, Failure::Tls) => "Set mail.tls to what the server speaks on this port: tls, or starttls.".to_owned(),
            (None, _) => "See the log of the mail server.".to_owned(),
        }
    }
}

impl fmt::Display for Unconnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = &self.peer.address;
        match &self.cause {
            Some(cause) => write!(f, "cannot connect to the mail server at {address}: {cause}"),
            None => write!(f, "{} ({address})", self.class),
        }
    }
}

impl std::error::Error for Unconnected {}

impl From<Unconnected> for StartFailure {
    fn from(unconnected: Unconnected) -> Self {
        match &unconnected.cause {
            Some(cause) => Self::of_connection(&unconnected.peer, cause),
            None => {
                let setting =
                    if unconnected.class == Failure::Login { "mail.password" } else { unconnected.peer.setting };
                let doing = format!("use the mail server at {}", unconnected.peer.address);
                Self::new(doing, unconnected.class).setting(setting).remedy(unconnected.remedy())
            }
        }
    }
}

/// What went wrong on the way to a connection, before it is known with whom.
#[derive(Debug)]
pub(super) struct Broken {
    pub class: Failure,
    pub cause: Option<Cause>,
}

impl From<Failure> for Broken {
    fn from(class: Failure) -> Self {
        Self { class, cause: None }
    }
}

impl From<Cause> for Broken {
    fn from(cause: Cause) -> Self {
        let is_tls = matches!(cause, Cause::Untrusted(_) | Cause::Rejected | Cause::WrongProtocol | Cause::NoTls);
        Self { class: if is_tls { Failure::Tls } else { Failure::Connection }, cause: Some(cause) }
    }
}

impl From<std::io::Error> for Broken {
    fn from(error: std::io::Error) -> Self {
        Cause::of(&error).into()
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "the mail server cannot be reached, hung up or did not answer in time",
            Self::Tls => "the mail server offers no TLS, or its certificate is not to be trusted",
            Self::Injection => {
                "the mail server, or somebody on the way to it, sent more than it was asked for before TLS: nothing was sent"
            }
            Self::Login => "the mail server does not accept the name and password",
            Self::Sender => "the mail server does not take messages from the configured sender",
            Self::Deferred => "the mail server put the message off",
            Self::Refused => "the mail server refused the recipient or the message",
            Self::Unusable => "the message could not be made",
        })
    }
}

impl std::error::Error for Failure {}
