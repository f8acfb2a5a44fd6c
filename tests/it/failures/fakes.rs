//! Peers that are not what was expected: they say nothing, hang up, speak something else, or show a certificate that is not
//! to be trusted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use crate::support::within;

/// A peer. Stopped when this value is dropped.
pub(super) struct Fake {
    pub port: u16,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Fake {
    async fn start<F: Future<Output = ()> + Send + 'static>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let serving = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream));
            }
        });
        Self { port, serving }
    }

    /// Says nothing, and stays.
    pub async fn silent() -> Self {
        Self::start(|stream| async move {
            std::future::pending::<()>().await;
            drop(stream);
        })
        .await
    }

    /// Hangs up once something was said to it.
    pub async fn closing() -> Self {
        Self::start(|mut stream| async move {
            let _ = stream.read(&mut [0; 16]).await;
        })
        .await
    }

    /// Says this to everybody, reads on, and says no more.
    pub async fn saying(text: &'static str) -> Self {
        Self::start(move |mut stream| async move {
            let _ = stream.write_all(text.as_bytes()).await;
            let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
        })
        .await
    }

    /// Speaks TLS with this certificate, as a Postgres does after it was asked to where it `is_postgres`.
    pub async fn tls(certificate: &Certificate, is_postgres: bool) -> Self {
        let acceptor = certificate.acceptor();
        Self::start(move |mut stream| {
            let acceptor = acceptor.clone();
            async move {
                if is_postgres {
                    // The request for TLS: eight bytes, answered with one.
                    if stream.read_exact(&mut [0; 8]).await.is_err() || stream.write_all(b"S").await.is_err() {
                        return;
                    }
                }
                let mut nowhere = tokio::io::sink();
                let _ = match within("a handshake", acceptor.accept(stream).into_fallible()).await {
                    Ok(mut stream) => tokio::io::copy(&mut stream, &mut nowhere).await,
                    // Hung up on while it still sends, a client may not see the alert that says why.
                    Err((_, mut stream)) => tokio::io::copy(&mut stream, &mut nowhere).await,
                };
            }
        })
        .await
    }
}

/// A certificate of a server that has issued it itself.
pub(super) struct Certificate {
    pub pem: String,
    pub key: String,
}

impl Certificate {
    pub fn new(name: &str) -> Self {
        Self::valid(name, 1)
    }

    /// Valid until so many days from now.
    pub fn valid(name: &str, days: i64) -> Self {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        let day = Duration::from_secs(86_400);
        params.not_before = (SystemTime::now() - 30 * day).into();
        params.not_after = match days {
            // A day of its own, so that it stands in the snapshot.
            ..0 => (SystemTime::UNIX_EPOCH + 20_000 * day).into(),
            _ => (SystemTime::now() + day).into(),
        };
        if days < 0 {
            params.not_before = (SystemTime::UNIX_EPOCH + 19_000 * day).into();
        }
        let key = KeyPair::generate().unwrap();
        Self { pem: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }

    fn acceptor(&self) -> TlsAcceptor {
        let chain = vec![CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        TlsAcceptor::from(Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).unwrap()))
    }
}

/// A port at which nothing listens.
pub(super) fn closed_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
