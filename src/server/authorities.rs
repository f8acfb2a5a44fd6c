//! Named authorities of client certificates: which one verifies a certificate, and the one URI that stands in it. The
//! handshake has shown that the client holds the key; under which authority, and whether still, is looked at here.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use quick_cache::sync::Cache;
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use sha2::{Digest as _, Sha256};

use super::certificates::{CertificateIdentity, refused};
use super::{tls, validity};
use crate::config::ServerConfig;
use crate::fault::Result;
use crate::startup;

/// A certificate is looked at anew after so long, since a connection may outlive it.
const RECHECK_AFTER: TimeDelta = TimeDelta::seconds(30);
/// Certificates that are remembered meanwhile.
const REMEMBERED: usize = 4096;

/// The authorities. Clones share what they remember.
#[derive(Clone)]
pub struct Authorities {
    inner: Arc<Inner>,
}

struct Inner {
    authorities: Vec<Authority>,
    seen: Cache<[u8; 32], (DateTime<Utc>, Said)>,
}

struct Authority {
    name: Arc<str>,
    verifier: Arc<dyn ClientCertVerifier>,
}

/// What a certificate says.
#[derive(Clone)]
enum Said {
    /// Nothing: no named authority verifies it.
    Nothing,
    /// Who holds it.
    Holder(CertificateIdentity),
    /// Not clearly one thing.
    Unclear,
}

impl Default for Authorities {
    /// None: certificates say nothing.
    fn default() -> Self {
        Self { inner: Arc::new(Inner { authorities: Vec::new(), seen: Cache::new(1) }) }
    }
}

impl Authorities {
    /// The authorities of the configuration, with their certificates from files.
    ///
    /// # Errors
    /// When a name is unusable or a file holds no certificate.
    pub async fn load(config: &ServerConfig) -> startup::Result<Self> {
        let mut authorities = Vec::new();
        for (name, path) in config.client_authorities()? {
            let pem = tls::read("server.client_cas", &path).await?;
            let authority = Authority::new(&name, &pem);
            authorities.push(authority.map_err(|why| tls::unusable("server.client_cas", &path, &why))?);
        }
        Ok(Self::of(authorities))
    }

    fn of(authorities: Vec<Authority>) -> Self {
        Self { inner: Arc::new(Inner { authorities, seen: Cache::new(REMEMBERED) }) }
    }

    /// What the certificates of a connection say now; nothing when no named authority verifies them.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` when they are not clearly one holder's: no URI, several, or several authorities.
    pub fn holder(&self, chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Result<Option<CertificateIdentity>> {
        if self.inner.authorities.is_empty() || chain.is_empty() {
            return Ok(None);
        }
        let mut digest = Sha256::new();
        for certificate in chain {
            digest.update((certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
        }
        let digest: [u8; 32] = digest.finalize().into();
        let said = match self.inner.seen.get(&digest) {
            Some((at, said)) if now - at < RECHECK_AFTER && at <= now => said,
            _ => {
                let said = self.read(chain, now);
                self.inner.seen.insert(digest, (now, said.clone()));
                said
            }
        };
        match said {
            Said::Nothing => Ok(None),
            Said::Holder(holder) => Ok(Some(holder)),
            Said::Unclear => Err(refused()),
        }
    }

    fn read(&self, chain: &[CertificateDer<'_>], now: DateTime<Utc>) -> Said {
        let Some((leaf, intermediates)) = chain.split_first() else { return Said::Nothing };
        let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let verifies = |authority: &&Authority| authority.verifier.verify_client_cert(leaf, intermediates, now).is_ok();
        let mut verifying = self.inner.authorities.iter().filter(verifies);
        let Some(authority) = verifying.next() else { return Said::Nothing };
        let Ok(certificate) = webpki::EndEntityCert::try_from(leaf) else { return Said::Unclear };
        let mut uris = certificate.valid_uri_names();
        match (uris.next(), uris.next(), verifying.next()) {
            (Some(uri), None, None) => {
                // The holder's own: which of the others vouch for it, the library does not say, and whatever else the client
                // sends must change nothing.
                let expires_at = validity::not_after(leaf);
                Said::Holder(CertificateIdentity {
                    authority: Arc::clone(&authority.name),
                    uri: uri.into(),
                    expires_at,
                })
            }
            _ => Said::Unclear,
        }
    }
}

impl Authority {
    /// The authority whose certificates stand in a file.
    fn new(name: &str, pem: &[u8]) -> Result<Self, String> {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            roots.add(certificate.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        }
        if roots.is_empty() {
            return Err("it holds no certificate in PEM".to_owned());
        }
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().map_err(|e| e.to_string())?;
        Ok(Self { name: name.into(), verifier })
    }
}

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing {
    use super::*;

    /// Authorities by their names and what stands in their files.
    pub(in crate::server) fn authorities(files: &[(&str, &[u8])]) -> Result<Authorities, String> {
        let authorities = files.iter().map(|(name, pem)| Authority::new(name, pem)).collect::<Result<_, String>>()?;
        Ok(Authorities::of(authorities))
    }
}
