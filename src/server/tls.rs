//! TLS of the gRPC port, from the files in the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::config::ServerConfig;
use crate::fault::{Fault, Result};

/// Takes handshakes as the configuration says; none where it says plaintext.
///
/// # Errors
/// Names the setting and the file that is not usable.
pub(super) async fn acceptor(config: &ServerConfig) -> Result<Option<TlsAcceptor>> {
    if config.plaintext {
        return Ok(None);
    }
    let (Some(certificate), Some(key)) = (&config.tls_certificate, &config.tls_key) else {
        return Err(Fault::internal("neither a certificate nor plaintext is configured"));
    };
    let chain = certificates("server.tls_certificate", certificate).await?;
    let pem = read("server.tls_key", key).await?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| unusable("server.tls_key", key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().map_err(Fault::internal)?;
    let builder = match authorities(config).await? {
        None => builder.with_no_client_auth(),
        Some(roots) => builder.with_client_cert_verifier(client_verifier(config, roots, provider)?),
    };
    let mut tls = builder
        .with_single_cert(chain, key)
        .map_err(|error| Fault::internal(format!("server.tls_certificate and server.tls_key do not fit: {error}")))?;
    tls.alpn_protocols.push(b"h2".to_vec());
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}

/// Whose certificates are asked for; none when no authority is configured.
async fn authorities(config: &ServerConfig) -> Result<Option<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    files.extend(config.tls_client_ca.clone().map(|path| ("server.tls_client_ca", path)));
    let named = config.client_authorities().map_err(Fault::internal)?;
    files.extend(named.into_iter().map(|(_, path)| ("server.client_cas", path)));
    if files.is_empty() {
        return Ok(None);
    }
    for (setting, path) in files {
        for certificate in certificates(setting, &path).await? {
            roots.add(certificate).map_err(|error| unusable(setting, &path, &error))?;
        }
    }
    Ok(Some(roots))
}

fn client_verifier(
    config: &ServerConfig,
    roots: RootCertStore,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn rustls::server::danger::ClientCertVerifier>> {
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    // A named authority identifies the caller; the other setting requires a certificate of every caller.
    let builder = if config.tls_client_ca.is_some() { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| Fault::internal(format!("server.tls_client_ca or server.client_cas: {error}")))
}

async fn certificates(setting: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(setting, path).await?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|error| unusable(setting, path, &error))?;
    if certificates.is_empty() {
        return Err(unusable(setting, path, &"it holds no certificate"));
    }
    Ok(certificates)
}

async fn read(setting: &str, path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|error| unusable(setting, path, &error))
}

fn unusable(setting: &str, path: &Path, why: &dyn std::fmt::Display) -> Fault {
    Fault::internal(format!("{setting}, {}: {why}", path.display()))
}
