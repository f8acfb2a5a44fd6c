//! What Kanidm publishes about itself as an OpenID provider, kept in memory: read at the start, again in the background
//! before it is old, and once more when a token names a key that is not known yet. Never for every login.

use std::fmt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::{Method, Url};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::client::{Body, Credential, Kanidm};
use super::error::{KanidmError, Result};
use super::id_token::KeySet;
use super::version::Version;
use crate::context::Context;
use crate::metrics::Circuit;

/// Keys are not fetched again more often than this, whatever key ids are presented.
const PAUSE: Duration = Duration::from_secs(5);
/// Pause before the retry of what failed in the background.
const RETRY: Duration = Duration::from_secs(5);
/// Keys that could not be confirmed for so many refreshes verify no token that callers present.
const TRUSTED: u32 = 6;

const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// Kanidm's discovery document and keys for our client.
pub(super) struct Provider {
    kanidm: Kanidm,
    context: Context,
    client_id: String,
    refresh: Duration,
    cached: Mutex<Cached>,
    /// Held while keys are read, so that many who miss a key wait for one reading.
    reading: tokio::sync::Mutex<()>,
    /// Whether ID tokens say when the person authenticated, as far as was seen.
    auth_time: AtomicU8,
}

#[derive(Default)]
struct Cached {
    keys: Arc<KeySet>,
    endpoint: Option<Url>,
    announces_auth_time: bool,
    read_at: Option<Instant>,
    /// When a key was asked for that a presented token named.
    asked_at: Option<Instant>,
}

#[derive(Deserialize)]
pub(super) struct Discovery {
    issuer: String,
    authorization_endpoint: String,
    #[serde(default)]
    claims_supported: Vec<String>,
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({:?}, {})", self.kanidm, self.client_id)
    }
}

impl Provider {
    pub fn new(kanidm: Kanidm, context: Context, client_id: String, refresh: Duration) -> Self {
        let (cached, reading, auth_time) = (Mutex::default(), tokio::sync::Mutex::default(), AtomicU8::new(UNKNOWN));
        Self { kanidm, context, client_id, refresh, cached, reading, auth_time }
    }

    pub fn kanidm(&self) -> &Kanidm {
        &self.kanidm
    }

    pub fn client_id(&self) -> &str {
        &self.client_id
    }

    /// `iss` of its tokens.
    pub fn issuer(&self) -> String {
        format!("{}/oauth2/openid/{}", self.kanidm.origin(), self.client_id)
    }

    /// The page to send a browser to.
    pub async fn authorization_endpoint(&self) -> Result<Url> {
        // No browser is sent to a page that will not answer.
        if let (Circuit::Open, delay) = self.kanidm.circuit() {
            return Err(KanidmError::Resting(delay));
        }
        if let Some(endpoint) = self.endpoint() {
            return Ok(endpoint);
        }
        let _one_at_a_time = self.reading.lock().await;
        if self.endpoint().is_none() {
            self.read().await?;
        }
        self.endpoint().ok_or_else(|| KanidmError::Nonsense("discovery names no page".to_owned()))
    }

    fn endpoint(&self) -> Option<Url> {
        self.cached().endpoint.clone()
    }

    /// The keys, with the one of this id among them where Kanidm has it. For a token that Kanidm itself just gave: each
    /// cost a call to Kanidm already.
    pub async fn keys_with(&self, kid: &str) -> Result<Arc<KeySet>> {
        let before = self.keys();
        if before.has(kid) {
            return Ok(before);
        }
        let _one_at_a_time = self.reading.lock().await;
        // The task that held the lock may have read them.
        if Arc::ptr_eq(&before, &self.keys()) {
            self.read().await?;
        }
        Ok(self.keys())
    }

    /// The same for a token that a caller presents, whose key id may be made up.
    pub async fn keys_for_presented(&self, kid: &str) -> Result<Arc<KeySet>> {
        if self.keys().has(kid) {
            return Ok(self.keys());
        }
        let _one_at_a_time = self.reading.lock().await;
        if !self.keys().has(kid) && self.since(|cached| cached.asked_at).is_none_or(|since| since >= PAUSE) {
            self.cached().asked_at = Some(self.context.clock.instant());
            self.read().await?;
        }
        Ok(self.keys())
    }

    /// Whether the key of this id is there, without asking Kanidm.
    pub fn has_key(&self, kid: &str) -> bool {
        self.keys().has(kid)
    }

    /// Whether the keys were confirmed recently enough to verify what callers present.
    pub fn is_current(&self) -> bool {
        self.since(|cached| cached.read_at).is_some_and(|since| since <= self.refresh * TRUSTED)
    }

    /// Whether ID tokens say when the person authenticated: as one that was seen did, else as Kanidm announces.
    pub fn tells_auth_time(&self) -> bool {
        match self.auth_time.load(Ordering::Relaxed) {
            UNKNOWN => self.cached().announces_auth_time,
            seen => seen == YES,
        }
    }

    /// An ID token did or did not say when the person authenticated.
    pub fn saw_auth_time(&self, told: bool) {
        self.auth_time.store(if told { YES } else { NO }, Ordering::Relaxed);
    }

    /// Keeps everything current until `stop`.
    pub async fn keep(&self, stop: CancellationToken) {
        loop {
            let done = {
                let _one_at_a_time = self.reading.lock().await;
                let fresh = self.since(|cached| cached.read_at).is_some_and(|since| since < self.refresh / 2);
                if fresh { Ok(()) } else { self.read().await }
            };
            let pause = match done {
                Ok(()) => self.refresh,
                Err(error) => {
                    tracing::warn!(event = "kanidm_metadata_not_read", cause = %error, "Kanidm's discovery or keys could not be read");
                    RETRY.min(self.refresh)
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(self.context.entropy.jitter(pause)) => {}
            }
        }
    }

    /// Reads discovery and keys from Kanidm's own origin, whatever discovery says about where keys are.
    async fn read(&self) -> Result<()> {
        let kanidm = &self.kanidm;
        let get = |path: &[&str]| {
            let url = kanidm.url(path);
            async move { kanidm.send(Method::GET, url, Credential::None, Body::None).await }
        };
        let base = ["oauth2", "openid", self.client_id.as_str()];
        let answer = get(&[base.as_slice(), &[".well-known", "openid-configuration"]].concat()).await?;
        let discovery: Discovery = answer.json()?;
        if discovery.issuer != self.issuer() {
            return Err(KanidmError::Nonsense("discovery names another issuer".to_owned()));
        }
        let endpoint = Url::parse(&discovery.authorization_endpoint)
            .ok()
            .filter(|url| url.origin().ascii_serialization() == kanidm.origin())
            .ok_or_else(|| KanidmError::Nonsense("discovery points to another origin".to_owned()))?;
        let keys = KeySet::new(get(&[base.as_slice(), &["public_key.jwk"]].concat()).await?.json()?);
        let announced = discovery.claims_supported.iter().any(|claim| claim == "auth_time");
        let mut cached = self.cached();
        cached.keys = Arc::new(keys);
        cached.endpoint = Some(endpoint);
        cached.announces_auth_time =
            announced || answer.version.as_deref().and_then(Version::read).is_some_and(Version::has_auth_time);
        cached.read_at = Some(self.context.clock.instant());
        Ok(())
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.cached().keys)
    }

    fn since(&self, at: impl FnOnce(&Cached) -> Option<Instant>) -> Option<Duration> {
        let now = self.context.clock.instant();
        at(&self.cached()).map(|at| now.saturating_duration_since(at))
    }

    fn cached(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
