//! Why there is no connection to a peer: one classification for every client (Postgres, Kanidm, SMTP, the command line),
//! in words that tell apart what is mended in different places. Pure; knows no protocol.

use std::error::Error as StdError;
use std::fmt;
use std::io::ErrorKind;

use chrono::{DateTime, SecondsFormat, Utc};
use rustls::pki_types::UnixTime;
use rustls::{CertificateError, InvalidMessage};

/// Causes within causes that are looked at: a chain that goes on for longer is no help to anybody.
const DEPTH: usize = 16;

/// What is connected to, for whom it matters how the connection is set up.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What it is, such as "Kanidm".
    pub what: &'static str,
    /// Host and port.
    pub address: String,
    /// The setting with the address.
    pub setting: &'static str,
    /// What names the authority of its certificate.
    pub authority: &'static str,
    /// What says whether and how the connection is encrypted.
    pub encryption: &'static str,
}

/// Why a connection could not be made, or broke.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Nothing listens there.
    Refused,
    /// The host's name leads to no address.
    Unresolvable,
    /// There is no way to the host.
    Unreachable,
    /// There was no answer in time.
    TimedOut,
    /// The peer, or something in between, closed the connection.
    Closed,
    /// The peer's certificate is not to be trusted.
    Untrusted(Distrust),
    /// The peer rejected the handshake, such as for want of a client certificate.
    Rejected,
    /// The peer speaks another protocol: no TLS where TLS was begun, or the other way round.
    WrongProtocol,
    /// The peer has no TLS, and TLS is demanded.
    NoTls,
    /// This process may not make the connection.
    Forbidden,
    /// Anything else, in the words of whoever noticed it.
    Other(String),
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Distrust {
    /// No authority that is known here has issued it.
    UnknownIssuer,
    /// It ran out, then.
    Expired(Option<DateTime<Utc>>),
    /// It does not count yet, until then.
    NotYetValid(Option<DateTime<Utc>>),
    /// It is for other names, these.
    WrongName(Vec<String>),
    /// It was revoked.
    Revoked,
    /// Anything else.
    Other(String),
}

impl Cause {
    /// Reads the cause from an error of any client, through the causes within it.
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut next = Some(error);
        let mut last = String::new();
        let mut closed = false;
        for _ in 0..DEPTH {
            let Some(error) = next else { break };
            if let Some(cause) = known(error) {
                // A connection that was closed may have been closed for a reason that stands deeper.
                if cause != Self::Closed {
                    return cause;
                }
                closed = true;
            }
            last = error.to_string();
            next = within(error);
        }
        match last {
            _ if closed => Self::Closed,
            // As the HTTP library has it, with nothing within.
            last if last.starts_with("connection closed") => Self::Closed,
            // A record of TLS, read as a frame of HTTP/2.
            last if last.contains("frame with invalid size") => Self::WrongProtocol,
            last if last.contains("does not support TLS") => Self::NoTls,
            last => Self::Other(last),
        }
    }

    /// One word for metrics and programs.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unresolvable => "unresolvable",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
            Self::Untrusted(_) => "untrusted",
            Self::Rejected => "rejected",
            Self::WrongProtocol => "wrong_protocol",
            Self::NoTls => "no_tls",
            Self::Forbidden => "forbidden",
            Self::Other(_) => "other",
        }
    }

    /// Whether it may pass without anybody changing a setting.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Refused | Self::Unresolvable | Self::Unreachable | Self::TimedOut | Self::Closed)
    }

    /// What to do about it, for whoever set up the connection to this peer.
    pub fn remedy(&self, peer: &Peer) -> String {
        let Peer { what, address, setting, encryption, .. } = peer;
        match self {
            Self::Refused => format!("See that {what} runs and listens on {address}, and that {setting} is right."),
            Self::Unresolvable => {
                format!("Correct the name of the host in {setting}, or see to the DNS of this machine.")
            }
            Self::Unreachable => {
                format!("See to the network between this machine and {address}, or correct {setting}.")
            }
            Self::TimedOut => {
                format!(
                    "See that no firewall drops packets to {address}, that {what} is not overloaded, and that {setting} is right."
                )
            }
            Self::Closed => {
                format!("See the log of {what}, and of what stands in front of it at {address}, for why it hangs up.")
            }
            Self::Untrusted(distrust) => distrust.remedy(peer),
            Self::Rejected => {
                format!("See the log of {what}: it may ask for a client certificate, or for other versions of TLS.")
            }
            Self::WrongProtocol => {
                format!("See that the port is right, and that {encryption} says what is spoken there.")
            }
            Self::NoTls => format!("Switch TLS on at {what}, or do not ask for it: {encryption}."),
            Self::Forbidden => format!("Let this process connect to {address}."),
            Self::Other(_) => format!("See that {setting} is right, and see the log of {what}."),
        }
    }
}

impl Distrust {
    fn remedy(&self, peer: &Peer) -> String {
        let Peer { what, setting, authority, .. } = peer;
        match self {
            Self::UnknownIssuer => format!("Give the authority that issued the certificate of {what}: {authority}."),
            Self::Expired(_) => format!("Renew the certificate of {what}."),
            Self::NotYetValid(_) => format!("See that the clocks of this machine and of {what} are right."),
            Self::WrongName(_) => format!(
                "Use one of the names in the certificate in {setting}, or have a certificate issued for this one."
            ),
            Self::Revoked | Self::Other(_) => format!("Have a usable certificate issued for {what}."),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "the connection is refused, nothing listens there",
            Self::Unresolvable => "the name of the host cannot be resolved",
            Self::Unreachable => "the network has no way to the host",
            Self::TimedOut => "there was no answer in time",
            Self::Closed => "the connection was closed at the other end",
            Self::Untrusted(distrust) => return write!(f, "its certificate is not trusted: {distrust}"),
            Self::Rejected => "the TLS handshake was rejected at the other end",
            Self::WrongProtocol => {
                "another protocol is spoken there (TLS where none was expected, or none where TLS was)"
            }
            Self::NoTls => "TLS is demanded, and the server offers none",
            Self::Forbidden => "this process may not make the connection",
            Self::Other(text) => text,
        })
    }
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let day = |at: &DateTime<Utc>| at.to_rfc3339_opts(SecondsFormat::Secs, true);
        match self {
            Self::UnknownIssuer => f.write_str("no authority that is known here has issued it"),
            Self::Expired(Some(at)) => write!(f, "it expired at {}", day(at)),
            Self::Expired(None) => f.write_str("it has expired"),
            Self::NotYetValid(Some(at)) => write!(f, "it is valid only from {}", day(at)),
            Self::NotYetValid(None) => f.write_str("it is not valid yet"),
            Self::WrongName(names) if names.is_empty() => f.write_str("it is for another name"),
            Self::WrongName(names) => write!(f, "it is for another name ({})", names.join(", ")),
            Self::Revoked => f.write_str("it was revoked"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// The next cause. An I/O error that carries another error has that as its text, and names as its source only what lies
/// below that one.
fn within<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e (dyn StdError + 'static)> {
    let carried = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    carried.map(|carried| carried as &(dyn StdError + 'static)).or_else(|| error.source())
}

/// What one error of the chain says by itself.
fn known(error: &(dyn StdError + 'static)) -> Option<Cause> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(of_tls(tls));
    }
    let io = error.downcast_ref::<std::io::Error>()?;
    // The standard library has no kind for it, and puts this before what the resolver said.
    if io.to_string().contains("failed to lookup address information") {
        return Some(Cause::Unresolvable);
    }
    match io.kind() {
        ErrorKind::ConnectionRefused => Some(Cause::Refused),
        // Of a Unix socket, or of a certificate or key that the address names.
        ErrorKind::NotFound => Some(Cause::Other(
            "there is no such file: the server's socket, or a certificate or key that the address names".to_owned(),
        )),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::NetworkDown => Some(Cause::Unreachable),
        ErrorKind::TimedOut => Some(Cause::TimedOut),
        ErrorKind::PermissionDenied => Some(Cause::Forbidden),
        ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::BrokenPipe
        | ErrorKind::NotConnected
        | ErrorKind::UnexpectedEof => Some(Cause::Closed),
        _ => None,
    }
}

fn of_tls(error: &rustls::Error) -> Cause {
    match error {
        rustls::Error::InvalidCertificate(problem) => Cause::Untrusted(distrust(problem)),
        rustls::Error::NoCertificatesPresented => Cause::Untrusted(Distrust::Other("there is none".to_owned())),
        // What is no TLS record at all.
        rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge,
        ) => Cause::WrongProtocol,
        rustls::Error::AlertReceived(_) | rustls::Error::PeerIncompatible(_) => Cause::Rejected,
        other => Cause::Other(other.to_string()),
    }
}

fn distrust(problem: &CertificateError) -> Distrust {
    match problem {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Distrust::UnknownIssuer,
        CertificateError::Expired => Distrust::Expired(None),
        CertificateError::ExpiredContext { not_after, .. } => Distrust::Expired(time(*not_after)),
        CertificateError::NotValidYet => Distrust::NotYetValid(None),
        CertificateError::NotValidYetContext { not_before, .. } => Distrust::NotYetValid(time(*not_before)),
        CertificateError::NotValidForName => Distrust::WrongName(Vec::new()),
        CertificateError::NotValidForNameContext { presented, .. } => {
            // As the library has them: DnsName("one.example").
            let name = |text: &String| text.split('"').nth(1).unwrap_or(text).to_owned();
            Distrust::WrongName(presented.iter().map(name).take(8).collect())
        }
        CertificateError::Revoked => Distrust::Revoked,
        other => Distrust::Other(other.to_string()),
    }
}

pub(crate) fn time(at: UnixTime) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(i64::try_from(at.as_secs()).ok()?, 0)
}

#[cfg(test)]
mod tests {
    use std::io::Error as IoError;

    use super::*;

    fn io(inner: impl Into<Box<dyn StdError + Send + Sync>>) -> Cause {
        Cause::of(&IoError::other(inner))
    }

    /// What every client wraps its causes in.
    #[derive(Debug)]
    struct Wrapped(IoError);

    impl fmt::Display for Wrapped {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("error trying to connect")
        }
    }

    impl StdError for Wrapped {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn each_cause_is_read_from_within_whatever_wraps_it() {
        for (kind, cause) in [
            (ErrorKind::ConnectionRefused, Cause::Refused),
            (ErrorKind::TimedOut, Cause::TimedOut),
            (ErrorKind::HostUnreachable, Cause::Unreachable),
            (ErrorKind::ConnectionReset, Cause::Closed),
            (ErrorKind::UnexpectedEof, Cause::Closed),
            (ErrorKind::PermissionDenied, Cause::Forbidden),
        ] {
            assert_eq!(Cause::of(&IoError::from(kind)), cause);
            assert_eq!(Cause::of(&Wrapped(kind.into())), cause);
            assert_eq!(Cause::of(&Wrapped(IoError::other(Wrapped(kind.into())))), cause);
        }
        let dns = IoError::other("failed to lookup address information: Name or service not known");
        assert_eq!(Cause::of(&Wrapped(dns)), Cause::Unresolvable);
        assert_eq!(io("server does not support TLS"), Cause::NoTls);
        assert_eq!(io("connection error detected: frame with invalid size"), Cause::WrongProtocol);
        assert_eq!(io("something new"), Cause::Other("something new".to_owned()));
    }

    #[test]
    fn what_tls_says_is_found_where_the_io_error_hides_it() {
        let certificate = |problem| io(rustls::Error::InvalidCertificate(problem));
        assert_eq!(certificate(CertificateError::UnknownIssuer), Cause::Untrusted(Distrust::UnknownIssuer));
        let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(0));
        let expired = certificate(CertificateError::ExpiredContext { time: at, not_after: at });
        assert_eq!(expired.to_string(), "its certificate is not trusted: it expired at 1970-01-01T00:00:00Z");
        let name = CertificateError::NotValidForNameContext {
            expected: "a.example".try_into().unwrap(),
            presented: vec!["DnsName(\"b.example\")".to_owned()],
        };
        assert_eq!(certificate(name), Cause::Untrusted(Distrust::WrongName(vec!["b.example".to_owned()])));
        let plain = rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType);
        assert_eq!(io(plain), Cause::WrongProtocol);
    }

    #[test]
    fn no_two_causes_share_a_word_or_a_sentence() {
        let causes = [
            Cause::Refused,
            Cause::Unresolvable,
            Cause::Unreachable,
            Cause::TimedOut,
            Cause::Closed,
            Cause::Untrusted(Distrust::UnknownIssuer),
            Cause::Rejected,
            Cause::WrongProtocol,
            Cause::NoTls,
            Cause::Forbidden,
        ];
        let peer = Peer {
            what: "Kanidm",
            address: "idm:443".to_owned(),
            setting: "kanidm.url",
            authority: "kanidm.ca_file",
            encryption: "its scheme",
        };
        for (at, one) in causes.iter().enumerate() {
            for other in &causes[..at] {
                assert_ne!(one.word(), other.word());
                assert_ne!(one.to_string(), other.to_string());
                assert_ne!(one.remedy(&peer), other.remedy(&peer));
            }
        }
    }

    #[test]
    fn a_chain_that_never_ends_is_left() {
        #[derive(Debug)]
        struct Endless;
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("endless")
            }
        }
        impl StdError for Endless {
            fn source(&self) -> Option<&(dyn StdError + 'static)> {
                Some(&Self)
            }
        }
        assert_eq!(Cause::of(&Endless), Cause::Other("endless".to_owned()));
    }
}
