//! The stream to the mail server up to where the SMTP library takes over: TCP, STARTTLS and TLS. STARTTLS is spoken here
//! because nothing that was read in the clear may be taken for an answer inside TLS (RFC 3207, section 6): the library
//! keeps what it has read ahead, and an attacker in between could have it send the password where it should not.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use lettre::transport::smtp::extension::ClientId;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::failure::{Broken, Failure};
use crate::config::{ConfigError, MailConfig, files};
use crate::network::Cause;

/// Longest answer in the clear that is read, as other clients bound it.
const LONGEST_ANSWER: usize = 64 * 1024;

/// Begins TLS, with the server's certificate always checked.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// TLS with the configured server, checked against `mail.ca_file` alone or against the system's authorities.
    pub(super) fn new(config: &MailConfig) -> Result<Self, ConfigError> {
        let mut roots = RootCertStore::empty();
        if let Some(path) = &config.ca_file {
            let unusable =
                |cause: String| ConfigError::new("mail.ca_file", format!("{} cannot be used: {cause}", path.display()));
            let pem = std::fs::read(path).map_err(|error| unusable(files::unreadable(&error)))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| unusable(error.to_string()))?;
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
            if roots.is_empty() {
                return Err(unusable("holds no certificate".to_owned()));
            }
        } else {
            // Without any, no certificate is to be trusted, and every connection fails and says so.
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        let name = ServerName::try_from(config.host.clone());
        let name =
            name.map_err(|_| ConfigError::new("mail.host", "is neither a name nor an address that TLS could check"))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.map_err(|error| ConfigError::new("mail.tls", format!("cannot be used: {error}")))?;
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        Ok(Self { connector: TlsConnector::from(Arc::new(config)), name })
    }

    async fn begin(&self, stream: TcpStream, greeting: &'static [u8]) -> Result<Box<dyn AsyncTokioStream>, Broken> {
        let stream =
            self.connector.connect(self.name.clone(), stream).await.map_err(|error| failed_handshake(&error))?;
        Ok(Box::new(Encrypted { stream, greeting }))
    }
}

/// Whatever TLS itself complains of is a failure of TLS, also where it has no word of its own.
fn failed_handshake(error: &io::Error) -> Broken {
    let is_tls = error.get_ref().is_some_and(|inner| inner.is::<rustls::Error>());
    let cause = Cause::of(error);
    if is_tls { Broken { class: Failure::Tls, cause: Some(cause) } } else { cause.into() }
}

/// Connects in the clear.
pub(super) async fn plain(server: (&str, u16)) -> Result<Box<dyn AsyncTokioStream>, Broken> {
    Ok(Box::new(tcp(server).await?))
}

/// Connects with TLS from the first byte.
pub(super) async fn tls(server: (&str, u16), tls: &Tls) -> Result<Box<dyn AsyncTokioStream>, Broken> {
    tls.begin(tcp(server).await?, b"").await
}

/// Connects in the clear and switches to TLS; all that is said before is the name of this client.
pub(super) async fn starttls(
    server: (&str, u16),
    tls: &Tls,
    hello: &ClientId,
) -> Result<Box<dyn AsyncTokioStream>, Broken> {
    let mut clear = Clear { stream: tcp(server).await? };
    clear.answer(220, Cause::WrongProtocol.into()).await?;
    clear.say(&format!("EHLO {hello}\r\n")).await?;
    let offers = clear.answer(250, Failure::Connection.into()).await?;
    // An attacker in between can remove the offer from the answer; then nothing more is said.
    if !offers.iter().skip(1).any(|offer| offer.trim().eq_ignore_ascii_case("STARTTLS")) {
        return Err(Cause::NoTls.into());
    }
    clear.say("STARTTLS\r\n").await?;
    clear.answer(220, Failure::Tls.into()).await?;
    // The library begins by reading a greeting, and after STARTTLS the server sends none.
    tls.begin(clear.silent()?, b"220 TLS\r\n").await
}

async fn tcp(server: (&str, u16)) -> Result<TcpStream, Broken> {
    Ok(TcpStream::connect(server).await?)
}

/// A conversation in the clear. One answer to one command: whatever comes besides is an attack.
struct Clear {
    stream: TcpStream,
}

impl Clear {
    async fn say(&mut self, command: &str) -> Result<(), Broken> {
        Ok(self.stream.write_all(command.as_bytes()).await?)
    }

    /// Reads one answer and nothing else, and gives its lines without their codes; `otherwise` for another code.
    async fn answer(&mut self, code: u16, otherwise: Broken) -> Result<Vec<String>, Broken> {
        let mut read = Vec::new();
        loop {
            match self.stream.read_buf(&mut read).await? {
                0 => return Err(Cause::Closed.into()),
                1.. if read.len() <= LONGEST_ANSWER => {}
                _ => return Err(Cause::WrongProtocol.into()),
            }
            match parse(&read) {
                Parsed::Incomplete => {}
                Parsed::Answer(answered, lines) if answered == code => return Ok(lines),
                Parsed::Answer(..) => return Err(otherwise),
                Parsed::NoAnswer => return Err(Cause::WrongProtocol.into()),
                Parsed::Surplus => return Err(Failure::Injection.into()),
            }
        }
    }

    /// The stream, with nothing waiting on it: in TLS the client speaks first. What comes later goes to the handshake,
    /// which fails on everything that is not TLS.
    fn silent(self) -> Result<TcpStream, Broken> {
        match self.stream.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(self.stream),
            Ok(1..) => Err(Failure::Injection.into()),
            Ok(_) => Err(Cause::Closed.into()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What has been read so far.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// The beginning of an answer.
    Incomplete,
    /// One answer: its code and its lines.
    Answer(u16, Vec<String>),
    /// An answer with something behind it.
    Surplus,
    /// Not SMTP.
    NoAnswer,
}

fn parse(read: &[u8]) -> Parsed {
    let mut lines = Vec::new();
    let mut rest = read;
    while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
        let (line, behind) = rest.split_at(end + 1);
        let line = line.trim_ascii_end();
        rest = behind;
        let Some((code, text)) = line.split_at_checked(3) else { return Parsed::NoAnswer };
        let code = std::str::from_utf8(code).ok().filter(|code| code.bytes().all(|digit| digit.is_ascii_digit()));
        let Some(code) = code.and_then(|code| code.parse().ok()) else { return Parsed::NoAnswer };
        lines.push(String::from_utf8_lossy(text.get(1..).unwrap_or_default()).into_owned());
        match text.first() {
            Some(b'-') => {}
            None | Some(b' ') if rest.is_empty() => return Parsed::Answer(code, lines),
            None | Some(b' ') => return Parsed::Surplus,
            Some(_) => return Parsed::NoAnswer,
        }
    }
    Parsed::Incomplete
}

/// TLS, with a greeting before what the server says, where the server's own came in the clear.
struct Encrypted {
    stream: TlsStream<TcpStream>,
    greeting: &'static [u8],
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encrypted")
    }
}

impl AsyncTokioStream for Encrypted {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.get_ref().0.peer_addr()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.greeting.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let (now, later) = self.greeting.split_at(self.greeting.len().min(buf.remaining()));
        buf.put_slice(now);
        self.greeting = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_whole_or_not_and_nothing_comes_behind_it() {
        let answer = |code, lines: &[&str]| Parsed::Answer(code, lines.iter().map(|line| (*line).to_owned()).collect());
        assert_eq!(parse(b"220 go\r\n"), answer(220, &["go"]));
        assert_eq!(parse(b"220\r\n"), answer(220, &[""]));
        assert_eq!(parse(b"250-mx\r\n250-SIZE\r\n250 STARTTLS\r\n"), answer(250, &["mx", "SIZE", "STARTTLS"]));
        for beginning in [&b""[..], b"2", b"220", b"220 go", b"220 go\r", b"220-mx\r\n", b"220-mx\r\n220 go"] {
            assert_eq!(parse(beginning), Parsed::Incomplete, "{beginning:?}");
        }
        for surplus in
            [&b"220 go\r\n250 AUTH PLAIN\r\n"[..], b"220 go\r\n2", b"220 go\r\n\n", b"220-mx\r\n220 go\r\n\x16"]
        {
            assert_eq!(parse(surplus), Parsed::Surplus, "{surplus:?}");
        }
        for other in [&b"\r\n"[..], b"HTTP/1.1 400\r\n", b"+20 go\r\n", b"220+go\r\n", b"22\r\n", b"\xff\xff\xff x\r\n"]
        {
            assert_eq!(parse(other), Parsed::NoAnswer, "{other:?}");
        }
    }
}
