//! `[tokens]`

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use sidle_token::Algorithm;
use zeroize::Zeroizing;

use super::error::ConfigError;
use super::{files, value};

/// Shortest key of an old client, in bytes: as long as what HMAC-SHA-256 makes of it.
const SHORTEST_SECRET: usize = 32;

/// An old client: its audience, and its key.
pub type OldClient = (String, Zeroizing<Vec<u8>>);

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenConfig {
    /// `iss` of every token.
    pub issuer: String,
    /// Audience of tokens when the caller asks for none; Sidle's own RPCs accept only this one.
    pub audience: String,
    /// Further audiences that may be asked for at login.
    pub audiences: Vec<String>,
    /// Life of an access token.
    #[serde(with = "humantime_serde")]
    pub access_lifetime: Duration,
    /// Life of a refresh token.
    #[serde(with = "humantime_serde")]
    pub refresh_lifetime: Duration,
    /// Difference between clocks that is tolerated.
    #[serde(with = "humantime_serde")]
    pub leeway: Duration,
    /// How long after a refresh token was exchanged another exchange of it counts as the client's own.
    #[serde(with = "humantime_serde")]
    pub refresh_leeway: Duration,
    /// Verified tokens that are remembered.
    pub cache_size: usize,
    /// Age of the revocation snapshot beyond which no token is accepted.
    #[serde(with = "humantime_serde")]
    pub max_revocation_age: Duration,
    /// Longest silence of `WatchRevocations`.
    #[serde(with = "humantime_serde")]
    pub revocation_heartbeat: Duration,
    /// Algorithm of new signing keys.
    #[serde(deserialize_with = "algorithm")]
    pub algorithm: Algorithm,
    /// Size of new RSA keys.
    pub rsa_bits: u32,
    /// Age at which a signing key is replaced; none: only on demand.
    #[serde(deserialize_with = "optional_duration")]
    pub rotate_after: Option<Duration>,
    /// How long a new key is published before it signs.
    #[serde(with = "humantime_serde")]
    pub rotation_lead: Duration,
    /// Old clients that check HS256 only, each as `AUDIENCE=FILE`.
    pub hs256_clients: Vec<String>,
}

fn algorithm<'de, D: Deserializer<'de>>(value: D) -> Result<Algorithm, D::Error> {
    let name = String::deserialize(value)?;
    let known = Algorithm::parse(&name).filter(|algorithm| *algorithm != Algorithm::Hs256);
    known.ok_or_else(|| serde::de::Error::custom("must be EdDSA, ES256 or RS256"))
}

fn optional_duration<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(value)?;
    if text.is_empty() {
        return Ok(None);
    }
    value::duration(&text).map(Some).ok_or_else(|| serde::de::Error::custom(value::no_duration(&text)))
}

impl TokenConfig {
    /// What cannot work together.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let mut found = ConfigError::default();
        for (key, value) in [("tokens.issuer", &self.issuer), ("tokens.audience", &self.audience)] {
            if value.is_empty() {
                found.add(key, "must not be empty");
            }
        }
        if ![2048, 3072, 4096].contains(&self.rsa_bits) {
            found.add("tokens.rsa_bits", "must be 2048, 3072 or 4096");
        }
        if self.rotation_lead > Duration::from_secs(7 * 24 * 3600) {
            found.add("tokens.rotation_lead", "must be at most 7d");
        }
        if self.rotate_after.is_some_and(|age| age < Duration::from_secs(3600) || age <= self.rotation_lead) {
            found.add("tokens.rotate_after", "must be at least 1h, and longer than tokens.rotation_lead");
        }
        if self.refresh_leeway > Duration::from_secs(60) {
            found.add("tokens.refresh_leeway", "must be at most 60s");
        }
        if self.revocation_heartbeat < Duration::from_millis(100)
            || self.revocation_heartbeat >= self.max_revocation_age
        {
            let text = "must be at least 100ms, and shorter than tokens.max_revocation_age";
            found.add("tokens.revocation_heartbeat", text);
        }
        found.take(self.check_old_clients());
        found.or_fine()
    }

    /// Refuses an old client whose audience is not its own.
    fn check_old_clients(&self) -> Result<(), ConfigError> {
        let mut seen = Vec::new();
        for (audience, _) in self.old_client_files()? {
            // S12: the key of an old client signs for no other audience, least of all for Sidle itself.
            if audience == self.audience
                || self.audiences.iter().any(|other| other == audience)
                || seen.contains(&audience)
            {
                return Err(old_clients(format!(
                    "has the audience {audience:?}, which must be its own: it is named a second time, in tokens.audience, \
                     tokens.audiences or tokens.hs256_clients"
                )));
            }
            seen.push(audience);
        }
        Ok(())
    }

    /// Audience and file of every old client.
    ///
    /// # Errors
    /// When an entry names no audience or no file.
    pub(super) fn old_client_files(&self) -> Result<Vec<(&str, &Path)>, ConfigError> {
        let entries = self.hs256_clients.iter().map(|entry| {
            let (audience, file) = entry.split_once('=').unwrap_or_default();
            if audience.is_empty() || file.is_empty() {
                return Err(old_clients("has an entry that is not AUDIENCE=FILE"));
            }
            Ok((audience, Path::new(file)))
        });
        entries.collect()
    }

    /// Audience and key of every old client.
    ///
    /// # Errors
    /// When a file cannot be read, or holds less than 256 bits in base64.
    pub fn old_clients(&self) -> Result<Vec<OldClient>, ConfigError> {
        let mut clients = Vec::new();
        for (audience, file) in self.old_client_files()? {
            let text = files::read_text("tokens.hs256_clients", file).map(Zeroizing::new)?;
            let secret = secret(&text).ok_or_else(|| {
                old_clients(format!(
                    "names {}, which does not hold a key of at least {SHORTEST_SECRET} bytes in base64; make one with \
                     `openssl rand -base64 32`",
                    file.display()
                ))
            })?;
            clients.push((audience.to_owned(), secret));
        }
        // Two audiences with one key would be one client that can forge for the other.
        if clients.iter().enumerate().any(|(at, (_, key))| clients[..at].iter().any(|(_, other)| other == key)) {
            return Err(old_clients("has two entries with the same key: give each client its own"));
        }
        Ok(clients)
    }
}

fn old_clients(text: impl Into<String>) -> ConfigError {
    ConfigError::new("tokens.hs256_clients", text)
}

/// The key that stands in the file of an old client; none when it is none or too short.
pub(super) fn secret(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let secret = STANDARD.decode(text.trim()).ok().map(Zeroizing::new);
    secret.filter(|secret| secret.len() >= SHORTEST_SECRET)
}
