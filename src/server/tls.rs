//! TLS of the gRPC port, from the files in the configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use tokio_rustls::TlsAcceptor;

use crate::config::{ServerConfig, files};
use crate::network;
use crate::startup::{Result, StartFailure};

const CERTIFICATE: &str = "server.tls_certificate";
const KEY: &str = "server.tls_key";

/// Takes handshakes as the configuration says; none where it says plaintext.
///
/// # Errors
/// Names the setting and the file that is not usable.
pub(super) async fn acceptor(config: &ServerConfig) -> Result<Option<TlsAcceptor>> {
    if config.plaintext {
        return Ok(None);
    }
    let (Some(certificate), Some(key_file)) = (&config.tls_certificate, &config.tls_key) else {
        return Err(StartFailure::of_setting(
            CERTIFICATE,
            "and server.tls_key are not set, and server.plaintext is off",
        ));
    };
    let chain = certificates(CERTIFICATE, certificate).await?;
    let pem = read(KEY, key_file).await?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        unusable(KEY, key_file, "it holds no private key in PEM (PKCS#8, PKCS#1 or SEC1, without a passphrase)")
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider));
    let builder =
        builder.with_safe_default_protocol_versions().map_err(|error| StartFailure::new("set up TLS", error))?;
    let builder = match authorities(config).await? {
        None => builder.with_no_client_auth(),
        Some(roots) => builder.with_client_cert_verifier(client_verifier(config, roots, provider)?),
    };
    let mut tls = builder.with_single_cert(chain, key).map_err(|error| unfit(certificate, key_file, &error))?;
    tls.alpn_protocols.push(b"h2".to_vec());
    Ok(Some(TlsAcceptor::from(Arc::new(tls))))
}

/// Whether the files can be used, and what is wrong with the time of the certificate.
///
/// # Errors
/// As at the start: names the setting and the file that is not usable.
pub async fn check(config: &ServerConfig, now: DateTime<Utc>) -> Result<Option<String>> {
    acceptor(config).await?;
    expiry(config, now).await
}

/// Why a certificate and a key, each fine by itself, cannot be used together.
fn unfit(certificate: &Path, key: &Path, error: &rustls::Error) -> StartFailure {
    let pair = format!("use {} with the key {}", certificate.display(), key.display());
    match error {
        rustls::Error::InconsistentKeys(_) => StartFailure::new(
            pair,
            "the key is not that of the first certificate in the file",
        )
        .setting(KEY)
        .remedy(
            "Name the key that the certificate was issued for, and put the server's own certificate first in the file.",
        ),
        other => StartFailure::new(pair, other).setting(CERTIFICATE),
    }
}

/// What is wrong with the time of the server's certificate at `now`; it is served all the same, since some clients do not
/// look, and a service that is down helps nobody.
///
/// # Errors
/// Names the file that is not usable.
pub(super) async fn expiry(config: &ServerConfig, now: DateTime<Utc>) -> Result<Option<String>> {
    let Some(path) = config.tls_certificate.as_ref().filter(|_| !config.plaintext) else { return Ok(None) };
    let chain = certificates(CERTIFICATE, path).await?;
    let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
    let Some(Ok(leaf)) = chain.first().map(webpki::EndEntityCert::try_from) else { return Ok(None) };
    // There is no authority that could have issued it: but its times are looked at first.
    let looked = leaf.verify_for_usage(
        &[],
        &[],
        &[],
        UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
        webpki::KeyUsage::server_auth(),
        None,
        None,
    );
    let at = |time: UnixTime| {
        network::time(time).map(|at| at.to_rfc3339_opts(SecondsFormat::Secs, true)).unwrap_or_default()
    };
    Ok(match looked {
        Err(webpki::Error::CertExpired { not_after, .. }) => Some(format!("it expired at {}", at(not_after))),
        Err(webpki::Error::CertNotValidYet { not_before, .. }) => {
            Some(format!("it is valid only from {}", at(not_before)))
        }
        _ => None,
    })
}

/// Whose certificates are asked for; none when no authority is configured.
async fn authorities(config: &ServerConfig) -> Result<Option<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    let mut files: Vec<(&str, PathBuf)> = Vec::new();
    files.extend(config.tls_client_ca.clone().map(|path| ("server.tls_client_ca", path)));
    files.extend(config.client_authorities()?.into_iter().map(|(_, path)| ("server.client_cas", path)));
    if files.is_empty() {
        return Ok(None);
    }
    for (setting, path) in files {
        for certificate in certificates(setting, &path).await? {
            roots.add(certificate).map_err(|error| unusable(setting, &path, &error.to_string()))?;
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
    let (builder, setting) = match config.tls_client_ca.is_some() {
        true => (builder, "server.tls_client_ca"),
        false => (builder.allow_unauthenticated(), "server.client_cas"),
    };
    builder.build().map_err(|error| StartFailure::new("check client certificates", error).setting(setting))
}

async fn certificates(setting: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let pem = read(setting, path).await?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<std::result::Result<_, _>>()
        .map_err(|_| unusable(setting, path, "it is no PEM file, or broken"))?;
    if certificates.is_empty() {
        return Err(unusable(setting, path, "it holds no certificate in PEM"));
    }
    Ok(certificates)
}

pub(super) async fn read(setting: &'static str, path: &Path) -> Result<Vec<u8>> {
    tokio::fs::read(path).await.map_err(|error| unusable(setting, path, &files::unreadable(&error)))
}

pub(super) fn unusable(setting: &'static str, path: &Path, why: &str) -> StartFailure {
    let failure = StartFailure::new(format!("use {}", path.display()), why).setting(setting);
    failure.remedy(format!("Correct {setting}, or the file and who may read it."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[tokio::test]
    async fn a_certificate_that_has_expired_is_found_before_clients_find_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tls.crt");
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2025, 1, 1), rcgen::date_time_ymd(2025, 2, 1));
        let key = rcgen::KeyPair::generate().unwrap();
        std::fs::write(&path, params.self_signed(&key).unwrap().pem()).unwrap();
        let mut config = Config::load(None, []).unwrap().server;
        config.tls_certificate = Some(path);
        let at = async |day: &str| {
            let now = format!("{day}T00:00:00Z").parse().unwrap();
            expiry(&config, now).await.unwrap()
        };
        assert_eq!(at("2025-01-15").await, None);
        assert_eq!(at("2025-03-01").await.unwrap(), "it expired at 2025-02-01T00:00:00Z");
        assert_eq!(at("2024-03-01").await.unwrap(), "it is valid only from 2025-01-01T00:00:00Z");
    }
}
